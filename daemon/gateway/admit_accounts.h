/* SPDX-License-Identifier: Apache-2.0 */
/* Admission by accounts: a key, a hold for the worst case, a charge for what was used. Layer L4. */
#ifndef EX_GATEWAY_ADMIT_ACCOUNTS_H
#define EX_GATEWAY_ADMIT_ACCOUNTS_H

#include "gateway/admit.h"
#include "gateway/desk.h"

struct ex_admit_accounts_opts {
	struct ex_desk *desk;   /* borrowed; outlives it */
	const char *model_name; /* whose tariff is charged; copied */
	uint32_t hold_s;        /* a hold that nobody ends is given back after that */
};

struct ex_admit_accounts;
int ex_admit_accounts_new(const struct ex_admit_accounts_opts *o, struct ex_admit_accounts **ret);
/* Every ticket was ended and every question answered. */
struct ex_admit_accounts *ex_admit_accounts_free(struct ex_admit_accounts *a);
const struct ex_admit *ex_admit_accounts_admit(const struct ex_admit_accounts *a);

#endif
