/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl account create, list, show, suspend, resume, tier. */
#include "ctl/ctl.h"

#include "expertd/accounts.pb-c.h"
#include <stdio.h>
#include <string.h>

const struct ctl_opt ctl_opts_account_create[] = {
	{"tier", "NAME", "what limits and priority it has (default: standard)"},
	{NULL, NULL, NULL},
};

int ctl_cmd_account_create(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__CreateAccountRequest q = EXPERTD__V1__CREATE_ACCOUNT_REQUEST__INIT;
	Expertd__V1__Account *r;
	(void)argc;
	q.name = argv[0];
	q.tier = (char *)ctl_str(c, "tier", "");
	int rc = ctl_ask(c, CTL_ACCOUNTS "CreateAccount", &q.base, &expertd__v1__account__descriptor, &r);
	if (rc || !r)
		return rc;
	printf("account %s, tier %s\n", r->name, r->tier);
	expertd__v1__account__free_unpacked(r, NULL);
	return CTL_OK;
}

static void print_rows(struct ctl_table *t, const Expertd__V1__Account *a)
{
	for (size_t i = 0; i < a->n_balances || i == 0; i++) {
		const Expertd__V1__Balance *b = i < a->n_balances ? a->balances[i] : NULL;
		ctl_table_cell(t, "%s", a->name);
		ctl_table_cell(t, "%s", a->tier);
		ctl_table_cell(t, "%s", a->suspended ? "suspended" : "good");
		ctl_table_cell(t, "%u", a->keys);
		ctl_table_cell(t, "%s", b ? b->granted : "0.00");
		ctl_table_cell(t, "%s", b ? b->topped_up : "0.00");
		ctl_table_cell(t, "%s", b ? b->held : "0.00");
		ctl_table_cell(t, "%s", b ? b->currency : "-");
	}
}

static int list(struct ctl *c, const char *name)
{
	static const char *const heads[] = {
		"ACCOUNT", "TIER", "STATE", "KEYS", "GRANTED", "TOPPED UP", "HELD", "CURRENCY"};
	Expertd__V1__ListAccountsRequest q = EXPERTD__V1__LIST_ACCOUNTS_REQUEST__INIT;
	Expertd__V1__ListAccountsReply *r;
	struct ctl_table t;
	q.name = (char *)name;
	int rc = ctl_ask(c, CTL_ACCOUNTS "ListAccounts", &q.base, &expertd__v1__list_accounts_reply__descriptor, &r);
	if (rc || !r)
		return rc;
	ctl_table_init(&t, EX_ARRAY_LEN(heads), heads);
	for (size_t i = 0; i < r->n_accounts; i++)
		print_rows(&t, r->accounts[i]);
	ctl_table_print(&t);
	expertd__v1__list_accounts_reply__free_unpacked(r, NULL);
	return CTL_OK;
}

int ctl_cmd_account_list(struct ctl *c, int argc, char **argv)
{
	(void)argc, (void)argv;
	return list(c, "");
}

int ctl_cmd_account_show(struct ctl *c, int argc, char **argv)
{
	(void)argc;
	return list(c, argv[0]);
}

static int change(struct ctl *c, Expertd__V1__ChangeAccountRequest *q)
{
	Expertd__V1__Account *r;
	int rc = ctl_ask(c, CTL_ACCOUNTS "ChangeAccount", &q->base, &expertd__v1__account__descriptor, &r);
	if (rc || !r)
		return rc;
	printf("account %s, tier %s%s\n", r->name, r->tier, r->suspended ? ", suspended" : "");
	expertd__v1__account__free_unpacked(r, NULL);
	return CTL_OK;
}

int ctl_cmd_account_suspend(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__ChangeAccountRequest q = EXPERTD__V1__CHANGE_ACCOUNT_REQUEST__INIT;
	(void)argc;
	q.name = argv[0];
	q.suspend = true;
	return change(c, &q);
}

int ctl_cmd_account_resume(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__ChangeAccountRequest q = EXPERTD__V1__CHANGE_ACCOUNT_REQUEST__INIT;
	(void)argc;
	q.name = argv[0];
	q.resume = true;
	return change(c, &q);
}

int ctl_cmd_account_tier(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__ChangeAccountRequest q = EXPERTD__V1__CHANGE_ACCOUNT_REQUEST__INIT;
	(void)argc;
	if (!*argv[1])
		return ctl_fail(CTL_USAGE, "a tier has a name");
	q.name = argv[0];
	q.tier = argv[1];
	return change(c, &q);
}
