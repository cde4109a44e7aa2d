/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl ledger verify, show. */
#include "ctl/ctl.h"

#include "expertd/accounts.pb-c.h"
#include <stdio.h>
#include <time.h>

#define VERIFY_TIMEOUT_MS 600000u /* it reads everything */

int ctl_cmd_ledger_verify(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__VerifyLedgerRequest q = EXPERTD__V1__VERIFY_LEDGER_REQUEST__INIT;
	ProtobufCMessage *m;
	(void)argc, (void)argv;
	c->timeout_ms = EX_MAX(c->timeout_ms, VERIFY_TIMEOUT_MS);
	int rc = ctl_call(c, CTL_ACCOUNTS "VerifyLedger", &q.base, &expertd__v1__verify_ledger_reply__descriptor, &m);
	if (rc)
		return rc;
	const Expertd__V1__VerifyLedgerReply *r = (const Expertd__V1__VerifyLedgerReply *)m;
	if (c->json)
		ctl_print_json(ctl_json(m), false);
	else {
		for (size_t i = 0; i < r->n_finding; i++)
			printf("%s\n", r->finding[i]);
		if (r->findings)
			printf("%llu findings in %lld transactions\n", (unsigned long long)r->findings,
				(long long)r->transactions);
		else
			printf("clean: %lld transactions, %lld pending holds, last hash %s\n",
				(long long)r->transactions, (long long)r->holds, r->hash);
	}
	rc = r->findings ? CTL_FAILED : CTL_OK;
	protobuf_c_message_free_unpacked(m, NULL);
	return rc;
}

const struct ctl_opt ctl_opts_ledger_show[] = {
	{"max", "N", "how many (default: 100, at most 1000)"},
	{"after", "SEQ", "those after that number, not the last ones"},
	{NULL, NULL, NULL},
};

static void print_transaction(struct ctl_table *t, const Expertd__V1__Transaction *x)
{
	char at[32];
	time_t s = (time_t)(x->time_us / 1000000);
	struct tm tm;
	gmtime_r(&s, &tm);
	strftime(at, sizeof at, "%Y-%m-%d %H:%M:%S", &tm);
	ctl_table_cell(t, "%lld", (long long)x->seq);
	ctl_table_cell(t, "%s", at);
	ctl_table_cell(t, "%s", x->kind);
	ctl_table_cell(t, "%s", x->account);
	ctl_table_cell(t, "%s", x->amount);
	ctl_table_cell(t, "%s", x->currency);
	ctl_table_cell(t, "%s", x->key);
	if (x->ref)
		ctl_table_cell(t, "%lld", (long long)x->ref);
	else
		ctl_table_cell(t, "-");
	ctl_table_cell(t, "%s", *x->note ? x->note : "-");
}

int ctl_cmd_ledger_show(struct ctl *c, int argc, char **argv)
{
	static const char *const heads[] = {
		"SEQ", "TIME (UTC)", "KIND", "ACCOUNT", "AMOUNT", "CURRENCY", "KEY", "OF", "NOTE"};
	Expertd__V1__ListTransactionsRequest q = EXPERTD__V1__LIST_TRANSACTIONS_REQUEST__INIT;
	Expertd__V1__ListTransactionsReply *r;
	struct ctl_table t;
	uint64_t max, after;
	int rc = ctl_u64(c, "max", 1, 1000, 100, &max);
	if (!rc)
		rc = ctl_u64(c, "after", 0, INT64_MAX, 0, &after);
	if (rc)
		return rc;
	q.account = argc ? argv[0] : "";
	q.max = (uint32_t)max;
	q.after = (int64_t)after;
	q.last = !ctl_has(c, "after");
	rc = ctl_ask(
		c, CTL_ACCOUNTS "ListTransactions", &q.base, &expertd__v1__list_transactions_reply__descriptor, &r);
	if (rc || !r)
		return rc;
	ctl_table_init(&t, EX_ARRAY_LEN(heads), heads);
	for (size_t i = 0; i < r->n_transactions; i++)
		print_transaction(&t, r->transactions[i]);
	ctl_table_print(&t);
	expertd__v1__list_transactions_reply__free_unpacked(r, NULL);
	return CTL_OK;
}
