/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl tariff set, list. */
#include "ctl/ctl.h"

#include "expertd/accounts.pb-c.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

const struct ctl_opt ctl_opts_tariff_set[] = {
	{"model", "NAME", "of which model (default: the one that is served)"},
	{"currency", "CODE", "of the prices (default: USD)"},
	{"from", "TIME", "when it begins, UTC: 2026-12-01 or 2026-12-01T18:00 (default: now)"},
	{NULL, NULL, NULL},
};

/* "2026-12-01" or "2026-12-01T18:00", UTC. */
static int take_time(const char *text, int64_t *ret_us)
{
	struct tm tm = {.tm_isdst = 0};
	const char *end = strptime(text, "%Y-%m-%d", &tm);
	if (end && *end)
		end = strptime(end, "T%H:%M", &tm);
	if (!end || *end)
		return ctl_fail(CTL_USAGE, "'%s' is no time: YYYY-MM-DD or YYYY-MM-DDTHH:MM, UTC", text);
	*ret_us = (int64_t)timegm(&tm) * 1000000;
	return CTL_OK;
}

static void print_tariff(struct ctl_table *t, const Expertd__V1__Tariff *f)
{
	char from[32];
	time_t at = (time_t)(f->from_us / 1000000);
	struct tm tm;
	gmtime_r(&at, &tm);
	strftime(from, sizeof from, "%Y-%m-%d %H:%M:%S", &tm);
	ctl_table_cell(t, "%lld", (long long)f->id);
	ctl_table_cell(t, "%s", f->model);
	ctl_table_cell(t, "%s", f->hit);
	ctl_table_cell(t, "%s", f->miss);
	ctl_table_cell(t, "%s", f->completion);
	ctl_table_cell(t, "%s", f->currency);
	ctl_table_cell(t, "%s", from);
	ctl_table_cell(t, "%s", f->in_force ? "yes" : "-");
}

static const char *const heads[] = {"ID", "MODEL", "HIT", "MISS", "COMPLETION", "CURRENCY", "FROM (UTC)", "IN FORCE"};

int ctl_cmd_tariff_set(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__SetTariffRequest q = EXPERTD__V1__SET_TARIFF_REQUEST__INIT;
	Expertd__V1__Tariff *r;
	struct ctl_table t;
	int rc = ctl_has(c, "from") ? take_time(ctl_str(c, "from", ""), &q.from_us) : CTL_OK;
	(void)argc;
	if (rc)
		return rc;
	q.model = (char *)ctl_str(c, "model", "");
	q.currency = (char *)ctl_str(c, "currency", "");
	q.hit = argv[0];
	q.miss = argv[1];
	q.completion = argv[2];
	rc = ctl_ask(c, CTL_ACCOUNTS "SetTariff", &q.base, &expertd__v1__tariff__descriptor, &r);
	if (rc || !r)
		return rc;
	ctl_table_init(&t, EX_ARRAY_LEN(heads), heads);
	print_tariff(&t, r);
	ctl_table_print(&t);
	expertd__v1__tariff__free_unpacked(r, NULL);
	return CTL_OK;
}

int ctl_cmd_tariff_list(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__ListTariffsRequest q = EXPERTD__V1__LIST_TARIFFS_REQUEST__INIT;
	Expertd__V1__ListTariffsReply *r;
	struct ctl_table t;
	(void)argc, (void)argv;
	int rc = ctl_ask(c, CTL_ACCOUNTS "ListTariffs", &q.base, &expertd__v1__list_tariffs_reply__descriptor, &r);
	if (rc || !r)
		return rc;
	ctl_table_init(&t, EX_ARRAY_LEN(heads), heads);
	for (size_t i = 0; i < r->n_tariffs; i++)
		print_tariff(&t, r->tariffs[i]);
	ctl_table_print(&t);
	expertd__v1__list_tariffs_reply__free_unpacked(r, NULL);
	return CTL_OK;
}
