/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl topup credit. */
#include "ctl/ctl.h"

#include "expertd/accounts.pb-c.h"
#include <stdio.h>

const struct ctl_opt ctl_opts_credit[] = {
	{"key", "TEXT", "idempotency key, needed: asked again with the same one, nothing is credited twice"},
	{"currency", "CODE", "of the amount (default: USD)"},
	{"grant", NULL, "a gift: granted balance, which is spent first"},
	{"note", "TEXT", "payment reference, kept with the transaction"},
	{NULL, NULL, NULL},
};

int ctl_cmd_topup_credit(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__CreditRequest q = EXPERTD__V1__CREDIT_REQUEST__INIT;
	Expertd__V1__Transaction *r;
	(void)argc;
	q.account = argv[0];
	q.amount = argv[1];
	q.currency = (char *)ctl_str(c, "currency", "");
	q.idempotency_key = (char *)ctl_str(c, "key", "");
	q.grant = ctl_has(c, "grant");
	q.note = (char *)ctl_str(c, "note", "");
	if (!*q.idempotency_key)
		return ctl_fail(CTL_USAGE,
			"--key is needed: a payment's reference, for example. With it the same credit can be asked for "
			"again when its answer was lost");
	int rc = ctl_ask(c, CTL_ACCOUNTS "Credit", &q.base, &expertd__v1__transaction__descriptor, &r);
	if (rc || !r)
		return rc;
	printf("%s %s %s to account %s as transaction %lld%s; available: %s %s\n", q.grant ? "granted" : "credited",
		r->amount, r->currency, r->account, (long long)r->seq, r->replayed ? ", some time ago" : "",
		r->available, r->currency);
	expertd__v1__transaction__free_unpacked(r, NULL);
	return CTL_OK;
}
