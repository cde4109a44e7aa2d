/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a line of the top-up gate's trail: refused, or a change that is written as a line that reads the same. */
#include "fuzz.h"

#include "gateway/topups.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ex_topup_change c = {.real_s = -1}, again = {.real_s = -1};
	struct ex_str line = EX_STR_INIT;
	if (ex_topups_line_parse((const char *)data, size, &c) < 0)
		return 0;
	assert(c.real_s >= 0 && c.until_s >= 0 && c.from < EX_TOPUP_STATE_N && c.to < EX_TOPUP_STATE_N);
	assert(memchr(c.by, '\0', sizeof c.by) && memchr(c.reason, '\0', sizeof c.reason));
	ex_topups_line(&c, &line);
	assert(!line.oom && !memchr(line.s, '\n', line.n));
	if (ex_topups_line_parse(line.s, line.n, &again) ==
		0) /* control bytes take four: it may have become too long */
		assert(again.to == c.to && again.real_s == c.real_s && again.pins == c.pins &&
			again.until_s == c.until_s);
	ex_str_done(&line);
	return 0;
}
