/* SPDX-License-Identifier: Apache-2.0 */
/* Changes of shards: the swapper's reports as a stream of messages. Layer L4. */
#ifndef EX_ADMIN_SHARDS_H
#define EX_ADMIN_SHARDS_H

#include "expert/swap.h"
#include "net/server.h"

/* Takes glob into q and holds q to its limits. -EINVAL. */
int ex_shards_check(struct ex_swap_request *q, const char *glob, struct ex_err *err);
/* Hands q to the swapper; what comes of it goes to rpc, which is finished at the end. On an error it is not. [cq] */
int ex_shards_change(struct ex_swapper *s, const struct ex_swap_request *q, struct ex_rpc *rpc, struct ex_err *err);

#endif
