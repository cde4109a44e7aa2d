/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a file of hosts or as a trace, picked by the first byte: refused with a message, or what the planner may take as it is. */
#include "fuzz.h"

#include "fleet/hostfile.h"
#include "fleet/trace.h"
#include <string.h>

#define N_GROUPS 5

static void as_hosts(const char *text, size_t n)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_hosts h;
	if (ex_hostfile_parse("hosts.ini", text, n, &err, &h) < 0) {
		assert(strncmp(err.text, "hosts.ini:", 10) == 0 || strstr(err.text, "describes no host"));
		return;
	}
	assert(h.n > 0 && h.n <= EX_PLANNER_HOSTS_MAX);
	for (size_t i = 0; i < h.n; i++) {
		assert(*h.v[i].name && h.v[i].zone && h.v[i].state == EX_PLANNER_READY);
		assert(h.v[i].memory_bytes > 0 && h.v[i].memory_bytes <= EX_PLANNER_BYTES_MAX);
		assert(h.v[i].speed >= EX_PLANNER_SPEED_MIN && h.v[i].speed <= EX_PLANNER_SPEED_MAX);
	}
	ex_hosts_done(&h);
}

static void as_trace(const char *text, size_t n)
{
	static const struct ex_model_config model = {
		.n_layers = 7, .first_k_dense = 1, .moe_layer_freq = 2, .n_experts = 12, .n_experts_per_tok = 2};
	struct ex_err err = EX_ERR_INIT;
	double load[3 * N_GROUPS]; /* of layers 2, 4 and 6 */
	if (ex_trace_parse("trace", text, n, &model, N_GROUPS, &err, load) < 0) {
		assert(strncmp(err.text, "trace:", 6) == 0 || strstr(err.text, "has no sample"));
		return;
	}
	for (size_t i = 0; i < EX_ARRAY_LEN(load); i++)
		assert(load[i] >= 0 && load[i] <= (double)n * (double)EX_TRACE_ROWS_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size)
		(data[0] == 'h' ? as_hosts : as_trace)((const char *)data + 1, size - 1);
	return 0;
}
