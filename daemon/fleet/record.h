/* SPDX-License-Identifier: Apache-2.0 */
/* A member as its value in etcd: a JSON object. JSON, because operators read these values with etcdctl and put them right by
 * hand, there are few of them, and a newer release may add keys that an older one passes over. Layer L2. */
#ifndef EX_FLEET_RECORD_H
#define EX_FLEET_RECORD_H

#include "base/str.h"
#include "fleet/members.h"

#define EX_RECORD_BYTES_MAX 32768

/* The value of m, appended to out. m's texts are printable ASCII. */
void ex_record_print(const struct ex_member *m, struct ex_str *out);

/* Reads the value of the key that ends in `name`. Untrusted: every text is checked for length and form, every number for
 * its range; keys that are not known are passed over. ret->shards: free it. -EINVAL, -EFBIG: err says what is wrong. [any] */
int ex_record_parse(const char *name, const void *value, size_t n, struct ex_err *err, struct ex_member *ret);

#endif
