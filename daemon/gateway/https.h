/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server's certificate, replaced while it serves. Layer L4. One in a process: libmicrohttpd's question for it carries no context. */
#ifndef EX_GATEWAY_HTTPS_H
#define EX_GATEWAY_HTTPS_H

#include "base/err.h"
#include <microhttpd.h>
#include <stdbool.h>

struct ex_https;

/* cert, key: paths of PEM, the chain with the server's certificate first, and its key without a passphrase. Errors name the file at fault. [main] */
int ex_https_new(const char *cert, const char *key, struct ex_err *err, struct ex_https **ret);
/* Reads the files again; on failure the old ones stay. One at a time. [any] */
int ex_https_reload(struct ex_https *h, const char *cert, const char *key, struct ex_err *err, bool *ret_changed);
/* After the server that uses it. [main] */
struct ex_https *ex_https_free(struct ex_https *h);
/* Reads the files and forgets them. [any] */
int ex_https_check(const char *cert, const char *key, struct ex_err *err);
/* The options of libmicrohttpd for h, ended with MHD_OPTION_END: the certificate, and TLS 1.2 and 1.3 alone. h: NULL, no options. */
#define EX_HTTPS_OPTIONS 3
void ex_https_options(const struct ex_https *h, struct MHD_OptionItem ret[static EX_HTTPS_OPTIONS]);

#endif
