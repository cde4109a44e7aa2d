/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as what a model wishes to write: of those that the automaton takes, and the shortest end after them, a JSON object comes out. */
#include "fuzz.h"

#include "base/str.h"
#include "gateway/json_guide.h"
#include <jansson.h>

static bool take(struct ex_json_state *s, unsigned char c, struct ex_str *out)
{
	struct ex_json_state next = *s;
	const char shown = c < 0x80 ? (char)c : '?'; /* the detokenizer makes it a character */
	if (!ex_json_state_step(&next, c))
		return false;
	*s = next;
	ex_str_addn(out, &shown, 1);
	return true;
}

/* One byte nearer to the end. */
static void end_by_one(struct ex_json_state *s, struct ex_str *out)
{
	for (unsigned c = 0x20; c < 0x7f; c++) {
		struct ex_json_state next = *s;
		if (!ex_json_state_step(&next, (unsigned char)c) || ex_json_state_left(&next) >= ex_json_state_left(s))
			continue;
		take(s, (unsigned char)c, out);
		return;
	}
	assert(!"no byte leads to the end");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ex_str out = EX_STR_INIT;
	struct ex_json_state s;
	ex_json_state_init(&s);
	for (size_t i = 0; i < size; i++)
		take(&s, data[i], &out);
	while (!ex_json_state_done(&s))
		end_by_one(&s, &out);
	json_t *v = json_loadb(out.s, out.n, 0, NULL);
	assert(json_is_object(v));
	json_decref(v);
	ex_str_done(&out);
	return 0;
}
