/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl usage. */
#include "ctl/ctl.h"

#include "expertd/accounts.pb-c.h"
#include <time.h>

const struct ctl_opt ctl_opts_usage[] = {
	{"since", "DAY", "the first day, UTC, as in 2026-11-01 (default: all)"},
	{NULL, NULL, NULL},
};

static void print_row(struct ctl_table *t, const Expertd__V1__UsageRow *u)
{
	char text[32];
	ctl_table_cell(t, "%s", u->day);
	ctl_table_cell(t, "%s%s", u->key ? "sk-.." : "-", u->key_tail);
	ctl_table_cell(t, "%lld", (long long)u->tariff);
	ctl_table_cell(t, "%s", ctl_count_text((uint64_t)u->requests, text));
	ctl_table_cell(t, "%s", ctl_count_text((uint64_t)u->prompt_hit, text));
	ctl_table_cell(t, "%s", ctl_count_text((uint64_t)u->prompt_miss, text));
	ctl_table_cell(t, "%s", ctl_count_text((uint64_t)u->completion, text));
	ctl_table_cell(t, "%s", ctl_count_text((uint64_t)u->reasoning, text));
	ctl_table_cell(t, "%s", u->cost);
	ctl_table_cell(t, "%s", u->saved);
	ctl_table_cell(t, "%s", u->currency);
}

int ctl_cmd_usage(struct ctl *c, int argc, char **argv)
{
	static const char *const heads[] = {"DAY", "KEY", "TARIFF", "REQUESTS", "CACHED", "PROMPT", "COMPLETION",
		"REASONING", "COST", "SAVED", "CURRENCY"};
	Expertd__V1__UsageRequest q = EXPERTD__V1__USAGE_REQUEST__INIT;
	Expertd__V1__UsageReply *r;
	struct ctl_table t;
	struct tm tm = {.tm_isdst = 0};
	const char *since = ctl_str(c, "since", NULL), *end = since ? strptime(since, "%Y-%m-%d", &tm) : NULL;
	(void)argc;
	if (since && (!end || *end))
		return ctl_fail(CTL_USAGE, "--since=%s: expected a day, as in 2026-11-01", since);
	q.account = argv[0];
	q.since_us = since ? (int64_t)timegm(&tm) * 1000000 : 0;
	int rc = ctl_ask(c, CTL_ACCOUNTS "Usage", &q.base, &expertd__v1__usage_reply__descriptor, &r);
	if (rc || !r)
		return rc;
	ctl_table_init(&t, EX_ARRAY_LEN(heads), heads);
	for (size_t i = 0; i < r->n_rows; i++)
		print_row(&t, r->rows[i]);
	ctl_table_print(&t);
	expertd__v1__usage_reply__free_unpacked(r, NULL);
	return CTL_OK;
}
