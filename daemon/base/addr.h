/* SPDX-License-Identifier: Apache-2.0 */
/* TCP addresses as people write them: "127.0.0.1:7101", "h1.example:7101", "[::1]:7101". Layer L0. */
#ifndef EX_BASE_ADDR_H
#define EX_BASE_ADDR_H

#include "base/err.h"
#include <stdbool.h>

#define EX_HOST_TEXT_MAX 254                    /* 253 bytes of a DNS name, RFC 1035, and NUL */
#define EX_ADDR_MAX      (EX_HOST_TEXT_MAX + 8) /* with brackets, a colon and a port */

struct ex_addr {
	char host[EX_HOST_TEXT_MAX]; /* without brackets */
	uint16_t port;
};

/* -EINVAL says what is wrong with text. Port 0 is let through. Nothing is resolved. [any] */
int ex_addr_parse(const char *text, struct ex_err *err, struct ex_addr *ret);

enum ex_scheme { EX_SCHEME_NONE, EX_SCHEME_HTTP, EX_SCHEME_HTTPS };
/* Which of "http://" and "https://" text begins with; *ret_rest: what follows, within text. [any] */
enum ex_scheme ex_addr_scheme(const char *text, const char **ret_rest);

/* "localhost", 127.0.0.0/8 or ::1. [any] */
bool ex_addr_is_loopback(const struct ex_addr *a);

/* True when sockets could not be bound to both: one port (not 0), and one host, or either is a wildcard address. [any] */
bool ex_addr_clash(const struct ex_addr *a, const struct ex_addr *b);

#endif
