/* SPDX-License-Identifier: Apache-2.0 */
/* Recycled blocks of memory for frames, in sizes of powers of two. Layer L2.
 * A block that the transport still sends may outlive its pool's owner: the pool goes when the last block is back. */
#ifndef EX_EXPERT_POOL_H
#define EX_EXPERT_POOL_H

#include "base/macro.h"

#define EX_POOL_KEPT_BYTES_MAX ((size_t)256 << 20) /* of blocks that wait for reuse; more are freed */

struct ex_pool;

struct ex_pool *ex_pool_new(void); /* NULL when memory is out */
struct ex_pool *ex_pool_free(struct ex_pool *p);
/* At least n bytes, 64-byte aligned, not zeroed; NULL when memory is out. [any] */
void *ex_pool_get(struct ex_pool *p, size_t n);
/* Takes NULL. Calls nothing but free(): it may be used as a tensor's release. [any] */
void ex_pool_put(void *block);

#endif
