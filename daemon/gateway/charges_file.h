/* SPDX-License-Identifier: Apache-2.0 */
/* The journal of charges as a file: lines that are appended and synced, each with a checksum, the last word on a hold in force. Layer L4. Not
 * thread-safe. */
#ifndef EX_GATEWAY_CHARGES_FILE_H
#define EX_GATEWAY_CHARGES_FILE_H

#include "base/str.h"
#include "gateway/ledger.h"

#define EX_CHARGES_FILE_BYTES_MAX ((size_t)256 << 20) /* of a file that is read; a larger one is refused */

/* What was last known of a request. */
struct ex_charge {
	char name[EX_LEDGER_NAME_MAX + 1]; /* of its hold */
	struct ex_txn_tokens tokens;
	int64_t amount;
	bool done; /* settled: the line only says so */
};

/* Appends the line of c to out. */
void ex_charges_line(const struct ex_charge *c, struct ex_str *out);
/* The last word on each name in text[0..n) that is not done, in any order; free *ret. Reading ends where a line is damaged: *ret_rest bytes are
 * left then, a line that a crash cut short. -ENOMEM. */
int ex_charges_parse(const char *text, size_t n, struct ex_charge **ret, size_t *ret_n, size_t *ret_rest);

/* Reads the file at path, as above. err names it. */
int ex_charges_read(const char *path, struct ex_err *err, struct ex_charge **ret, size_t *ret_n, size_t *ret_rest);
/* Replaces the file with these lines, synced; *ret_fd is open for appending. */
int ex_charges_replace(const char *path, const struct ex_str *lines, struct ex_err *err, int *ret_fd);

#endif
