/* SPDX-License-Identifier: Apache-2.0 */
/* The pool of KV pages and each sequence's table of them. Layer L3. One thread: [step]. Page numbers only: the memory
 * is the trunk's. */
#ifndef EX_ENGINE_KV_H
#define EX_ENGINE_KV_H

#include "base/macro.h"
#include <stdbool.h>

struct ex_kv;

/* A sequence's pages: pages[i] holds positions i * page_tokens and on. */
struct ex_kv_table {
	uint32_t *pages; /* [cap] */
	uint32_t n, cap;
};

int ex_kv_new(uint32_t n_pages, uint32_t page_tokens, struct ex_kv **ret);
/* Every page was given back: else a sequence leaked. */
struct ex_kv *ex_kv_free(struct ex_kv *kv);
EX_DEFINE_CLEANUP(struct ex_kv, ex_kv_free)

/* Room for n_tokens positions at most. */
int ex_kv_table_init(const struct ex_kv *kv, uint32_t n_tokens, struct ex_kv_table *t);
void ex_kv_table_done(struct ex_kv_table *t);

/* Grows t to hold n_tokens positions. False, t unchanged, when the pool has not enough pages left. */
bool ex_kv_reserve(struct ex_kv *kv, struct ex_kv_table *t, uint32_t n_tokens);
/* Gives all of t's pages back. */
void ex_kv_release(struct ex_kv *kv, struct ex_kv_table *t);

uint32_t ex_kv_pages_for(const struct ex_kv *kv, uint32_t n_tokens);
uint32_t ex_kv_used(const struct ex_kv *kv);

#endif
