/* SPDX-License-Identifier: Apache-2.0 */
/* Byte-pair merging: of all adjacent pairs the one of lowest rank is merged first, the leftmost among equals. Layer L1.
 *
 * Pairs wait in a binary heap, so a piece of n bytes costs O(n log n): a megabyte without a break is no weapon.
 */
#include "model/tokenizer_impl.h"

#include "base/mem.h"
#include <string.h>

static uint32_t hash_pair(uint32_t left, uint32_t right)
{
	uint64_t h = ((uint64_t)left << 32 | right) * UINT64_C(0x9e3779b97f4a7c15);
	return (uint32_t)((h ^ h >> 29) >> 16);
}

int ex_bpe_init(struct bpe *b, size_t n_merges)
{
	size_t n_slots = 16;
	while (n_slots < 2 * n_merges)
		n_slots *= 2;
	b->slot = ex_calloc(n_slots, sizeof *b->slot);
	if (!b->slot)
		return -ENOMEM;
	for (size_t i = 0; i < n_slots; i++)
		b->slot[i].left = EX_TOKEN_NONE;
	b->slot_mask = (uint32_t)(n_slots - 1);
	return 0;
}

void ex_bpe_done(struct bpe *b)
{
	free(b->slot);
	*b = (struct bpe){0};
}

/* The slot of the pair, or the empty one where it would be. */
static struct merge *pair_slot(const struct bpe *b, uint32_t left, uint32_t right)
{
	uint32_t i = hash_pair(left, right) & b->slot_mask;
	while (b->slot[i].left != EX_TOKEN_NONE && (b->slot[i].left != left || b->slot[i].right != right))
		i = (i + 1) & b->slot_mask;
	return &b->slot[i];
}

int ex_bpe_add(struct bpe *b, const struct merge *m)
{
	struct merge *slot = pair_slot(b, m->left, m->right);
	if (slot->left != EX_TOKEN_NONE)
		return -EEXIST;
	*slot = *m;
	return 0;
}

/* Heap entries are rank << 32 | position of the left symbol: their order is the order of merging. */
static void sift_up(uint64_t *heap, size_t i)
{
	uint64_t key = heap[i];
	while (i > 0 && heap[(i - 1) / 2] > key) {
		heap[i] = heap[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	heap[i] = key;
}

static uint64_t pop_least(uint64_t *heap, size_t *n)
{
	uint64_t least = heap[0], key = heap[--*n];
	size_t i = 0;
	for (;;) {
		size_t child = 2 * i + 1;
		if (child >= *n)
			break;
		if (child + 1 < *n && heap[child + 1] < heap[child])
			child++;
		if (heap[child] >= key)
			break;
		heap[i] = heap[child];
		i = child;
	}
	heap[i] = key;
	return least;
}

/* Queues the pair that begins at symbol `left`, if it has a rank. There is room: see ex_bpe_encode. */
static void queue_pair(struct encode_work *w, uint32_t left)
{
	const struct bpe_symbol *s = &w->symbol[left];
	if (s->next == EX_TOKEN_NONE)
		return;
	const struct merge *m = pair_slot(&w->t->bpe, s->id, w->symbol[s->next].id);
	if (m->left == EX_TOKEN_NONE)
		return;
	w->heap[w->heap_n] = (uint64_t)m->rank << 32 | left;
	sift_up(w->heap, w->heap_n++);
}

/* Merges w->symbol[0..n) until no pair has a rank. */
static void merge_symbols(struct encode_work *w, size_t n)
{
	struct bpe_symbol *symbol = w->symbol;
	w->heap_n = 0;
	for (uint32_t i = 0; i + 1 < n; i++)
		queue_pair(w, i);
	while (w->heap_n) {
		uint64_t key = pop_least(w->heap, &w->heap_n);
		struct bpe_symbol *s = &symbol[(uint32_t)key];
		if (s->id == EX_TOKEN_NONE || s->next == EX_TOKEN_NONE)
			continue;
		/* a merge since this entry was queued may have changed either side */
		struct bpe_symbol *right = &symbol[s->next];
		const struct merge *m = pair_slot(&w->t->bpe, s->id, right->id);
		if (m->left == EX_TOKEN_NONE || m->rank != key >> 32)
			continue;
		s->id = m->id;
		s->next = right->next;
		right->id = EX_TOKEN_NONE;
		if (s->next != EX_TOKEN_NONE)
			symbol[s->next].prev = (uint32_t)key;
		if (s->prev != EX_TOKEN_NONE)
			queue_pair(w, s->prev);
		queue_pair(w, (uint32_t)key);
	}
}

static int merge_piece(struct encode_work *w, const char *piece, size_t n)
{
	/* n - 1 pairs at first; each of at most n - 1 merges takes one entry out and puts two in */
	int r = ex_grow(&w->symbol, &w->symbol_cap, n, sizeof *w->symbol);
	if (r == 0)
		r = ex_grow(&w->heap, &w->heap_cap, 2 * n, sizeof *w->heap);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++)
		w->symbol[i] = (struct bpe_symbol){
			.id = w->t->bpe.byte_id[(uint8_t)piece[i]],
			.prev = i > 0 ? (uint32_t)i - 1 : EX_TOKEN_NONE,
			.next = i + 1 < n ? (uint32_t)i + 1 : EX_TOKEN_NONE,
		};
	merge_symbols(w, n);
	return 0;
}

int ex_bpe_encode(struct encode_work *w, const char *piece, size_t n)
{
	if (n == 0)
		return 0;
	int r = ex_grow(&w->ids, &w->ids_cap, w->n_ids + n, sizeof *w->ids);
	if (r < 0)
		return r;
	uint32_t id = n <= EX_TOKENIZER_TOKEN_BYTES_MAX ? ex_vocab_find(&w->t->vocab, piece, n, false) : EX_TOKEN_NONE;
	if (id != EX_TOKEN_NONE && (w->t->vocab.token[id].flags & TOKEN_WHOLE)) {
		w->ids[w->n_ids++] = id;
		return 0;
	}
	r = merge_piece(w, piece, n);
	if (r < 0)
		return r;
	for (uint32_t i = 0; i != EX_TOKEN_NONE; i = w->symbol[i].next)
		w->ids[w->n_ids++] = w->symbol[i].id;
	return 0;
}

int ex_bpe_mark_whole(struct ex_tokenizer *t)
{
	struct encode_work w = {.t = t};
	int r = 0;
	for (uint32_t id = 0; id < t->vocab.n_ids && r == 0; id++) {
		struct token *k = &t->vocab.token[id];
		if (!(k->flags & TOKEN_THERE) || (k->flags & (TOKEN_LITERAL | TOKEN_ADDED)) || k->n == 0)
			continue;
		if (!t->bpe.ignore_merges) {
			r = merge_piece(&w, t->vocab.blob + k->off, k->n);
			if (r < 0 || w.symbol[0].next != EX_TOKEN_NONE || w.symbol[0].id != id)
				continue;
		}
		k->flags |= TOKEN_WHOLE;
	}
	free(w.symbol);
	free(w.heap);
	return r;
}
