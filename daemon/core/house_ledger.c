/* SPDX-License-Identifier: Apache-2.0 */
/* Accounts and their money: the desk, admission by accounts, the Accounts service. Layer L5. */
#include "core/house_int.h"

#include "base/log.h"
#include "base/mem.h"
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define STORE_DEFAULT "ledger.db"
#define JOURNAL       "charges.journal"

static int name_store(struct ex_house *h, struct ex_err *err)
{
	const struct ex_params *p = h->p;
	int n = *p->ledger_store ? asprintf(&h->ledger_store, "%s", p->ledger_store)
				 : asprintf(&h->ledger_store, "sqlite:%s/" STORE_DEFAULT, p->node_state);
	if (n < 0) {
		h->ledger_store = NULL;
		return ex_err_errno(err, -ENOMEM, "cannot open the ledger");
	}
	if (mkdir(p->node_state, 0700) < 0 && errno != EEXIST)
		return ex_err_errno(err, -errno, "[node] state: cannot make '%s'", p->node_state);
	return 0;
}

static int open_desk(struct ex_house *h, struct ex_err *err)
{
	char journal[PATH_MAX];
	if (snprintf(journal, sizeof journal, "%s/" JOURNAL, h->p->node_state) >= (int)sizeof journal)
		return ex_err_errno(err, -ENAMETOOLONG, "[node] state: '%s'", h->p->node_state);
	const struct ex_desk_opts o = {.store = h->ledger_store,
		.owner = h->p->node_name,
		.journal = journal,
		.journal_ms = h->p->ledger_journal_ms};
	return ex_desk_open(&o, err, &h->desk);
}

int ex_house_build_ledger(struct ex_house *h, struct ex_err *err)
{
	int rc = name_store(h, err);
	if (rc == 0)
		rc = open_desk(h, err);
	if (rc < 0)
		return ex_err_prefix(err, "[ledger]");
	const struct ex_admit_accounts_opts admit = {
		.desk = h->desk, .model_name = h->p->model_name, .hold_s = h->p->ledger_hold_s};
	const struct ex_accounts_service_opts service = {
		.desk = h->desk, .store = h->ledger_store, .model_name = h->p->model_name};
	rc = ex_admit_accounts_new(&admit, &h->admit_accounts);
	if (rc == 0)
		rc = ex_accounts_service_new(&service, &h->accounts_service);
	if (rc < 0)
		return ex_err_errno(err, rc, "[ledger] cannot serve accounts");
	ex_gate_open(&h->gate_accounts, ex_accounts_service_methods(h->accounts_service, 0));
	const bool is_file = strncmp(h->ledger_store, "sqlite:", 7) == 0; /* conninfo may have a password */
	ex_log(LOG_INFO, "accounts are kept in %s", is_file ? h->ledger_store + 7 : "PostgreSQL");
	return 0;
}

void ex_house_free_ledger(struct ex_house *h)
{
	if (h->desk)
		ex_desk_stop(h->desk);
	ex_house_free_topups(h);
	if (h->accounts_service)
		h->accounts_service = ex_accounts_service_free(h->accounts_service);
	if (h->admit_accounts)
		h->admit_accounts = ex_admit_accounts_free(h->admit_accounts);
	if (h->desk)
		h->desk = ex_desk_close(h->desk);
	free(h->ledger_store);
	h->ledger_store = NULL;
}
