/* SPDX-License-Identifier: Apache-2.0 */
/* The router's ends of Experts.Move: a stream to each host, which is the claim on it, and one move on each at a time. Layer L3. */
#ifndef EX_ENGINE_PORTER_H
#define EX_ENGINE_PORTER_H

#include "engine/place.h"

struct ex_porter;

struct ex_porter_opts {
	struct ex_loop *loop;            /* of the streams; borrowed, as all */
	struct ex_tls *tls;              /* NULL: plain text */
	const char *node, *model_digest; /* who this router is */
	uint32_t n_groups;
	/* Something came. [cq] */
	void (*changed)(void *ctx);
	void *ctx;
};
int ex_porter_new(const struct ex_porter_opts *o, struct ex_porter **ret);
struct ex_porter *ex_porter_free(struct ex_porter *p);
/* What is claimed from now on is claimed for another model; borrowed. There are no claims. */
void ex_porter_set_model(struct ex_porter *p, const char *model_digest);

/* All of one thread, not a loop's. */

/* Claims the host, or looks how far that is. 0: it is claimed; -EAGAIN: not yet; another error: it was refused, or cannot be reached; the next
 * call tries again. */
int ex_porter_claim(struct ex_porter *p, const char *host, const char *address, struct ex_err *err);
/* Hands the move to its host, which is claimed and has none. -ENOTCONN: it is not claimed (any more). */
int ex_porter_send(struct ex_porter *p, const struct ex_place_move *m, struct ex_err *err);
/* What came of it: 0, -EINPROGRESS, -ENOTCONN, or why the host could not. */
int ex_porter_answer(struct ex_porter *p, const struct ex_place_move *m, struct ex_err *err);
/* Ends the claim on the host, or all claims. */
void ex_porter_drop(struct ex_porter *p, const char *host);
void ex_porter_release(struct ex_porter *p);

#endif
