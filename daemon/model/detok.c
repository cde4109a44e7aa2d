/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens back into text, as they come: a UTF-8 character split between tokens is held back until it is whole. Layer L1.
 *
 * Ill-formed bytes become U+FFFD, one for each maximal part of a sequence (Unicode 15, section 3.9), as the libraries
 * of the field do.
 */
#include "model/tokenizer.h"

#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd"

/* Length of the sequence that a lead byte opens, 0 if it opens none. Source: Unicode 15, table 3-7. */
static unsigned sequence_len(uint8_t lead)
{
	return lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
}

/* Whether byte c may come second after the lead. Overlong forms, surrogates and values past U+10FFFF end here. */
static bool is_second(uint8_t lead, uint8_t c)
{
	uint8_t lo = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
	uint8_t hi = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
	return c >= lo && c <= hi;
}

static void push_byte(struct ex_detok *d, uint8_t c, struct ex_str *out)
{
	if (d->n_held) {
		bool goes_on = d->n_held == 1 ? is_second(d->held[0], c) : (c & 0xc0) == 0x80;
		if (goes_on) {
			d->held[d->n_held++] = c;
			if (d->n_held == sequence_len(d->held[0])) {
				ex_str_addn(out, d->held, d->n_held);
				d->n_held = 0;
			}
			return;
		}
		ex_detok_flush(d, out);
	}
	switch (sequence_len(c)) {
	case 0:
		ex_str_add(out, REPLACEMENT);
		break;
	case 1:
		ex_str_addn(out, &c, 1);
		break;
	default:
		d->held[0] = c;
		d->n_held = 1;
	}
}

void ex_detok_push(struct ex_detok *d, const struct ex_tokenizer *t, uint32_t id, bool keep_special, struct ex_str *out)
{
	size_t n;
	const char *bytes = ex_tokenizer_bytes(t, id, &n);
	if (n == 0 || (!keep_special && ex_tokenizer_is_special(t, id)))
		return;
	for (size_t i = 0; i < n; i++)
		push_byte(d, (uint8_t)bytes[i], out);
}

void ex_detok_flush(struct ex_detok *d, struct ex_str *out)
{
	if (d->n_held)
		ex_str_add(out, REPLACEMENT);
	d->n_held = 0;
}
