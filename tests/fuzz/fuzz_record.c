/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a member's value: refused with a message, or a member that is printed and read back the same. */
#include "fuzz.h"

#include "fleet/record.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_member m, back;
	struct ex_str text = EX_STR_INIT;
	int rc = ex_record_parse("h1", data, size, &err, &m);
	assert(!rc == !err.text[0]);
	if (rc)
		return 0;
	ex_record_print(&m, &text);
	assert(!text.oom);
	rc = ex_record_parse("h1", text.s, text.n, &err, &back);
	assert(!rc && !strcmp(m.shards, back.shards) && !strcmp(m.address, back.address) && !strcmp(m.zone, back.zone));
	assert(m.memory_bytes == back.memory_bytes && m.expert_groups == back.expert_groups);
	free((char *)m.shards);
	free((char *)back.shards);
	ex_str_done(&text);
	return 0;
}
