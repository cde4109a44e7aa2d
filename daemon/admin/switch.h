/* SPDX-License-Identifier: Apache-2.0 */
/* Admin.SwitchModel: from the thread that switches to a client. Layer L4. */
#ifndef EX_ADMIN_SWITCH_H
#define EX_ADMIN_SWITCH_H

#include "base/err.h"
#include "net/server.h"
#include <limits.h>

struct ex_switch_report {
	const char *step; /* "open", "prepare", "cover", "switch", "retire", "commit" */
	char host[64];    /* "": the router itself, or the whole */
	bool failed;      /* the switch ends with it, unless it is "commit": then the host is asked again later */
	uint32_t done, total;
	char text[512];
};

/* Whoever asked. All on the thread that switches. */
struct ex_switch_client {
	void (*report)(void *ctx, const struct ex_switch_report *r);
	bool (*gone)(void *ctx);                /* until the switch: it is given up */
	void (*done)(void *ctx, bool switched); /* exactly once, last */
	void *ctx;
};

struct ex_switch_view {
	char path[PATH_MAX];                       /* of the live model */
	char next_path[PATH_MAX], next_digest[65]; /* of the one that is being prepared; "": none */
	char before_digest[65];                    /* of the one that requests still use; "": none */
};

/* start: takes the command, -errno and no callback when it does not. Ends rpc in any case. [cq] */
void ex_switch_call(struct ex_rpc *rpc,
	int (*start)(void *ctx, const char *dir, bool move, const struct ex_switch_client *c, struct ex_err *err),
	void *ctx, const char *dir, bool move);

#endif
