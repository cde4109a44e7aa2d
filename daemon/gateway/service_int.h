/* SPDX-License-Identifier: Apache-2.0 */
/* The Accounts service from the inside. Layer L4. */
#ifndef EX_GATEWAY_SERVICE_INT_H
#define EX_GATEWAY_SERVICE_INT_H

#include "base/keep.h"
#include "expertd/accounts.pb-c.h"
#include "gateway/desk_call.h"
#include "gateway/service.h"

struct ex_accounts_service {
	struct ex_desk *desk;
	char *store;
	char model[EX_MODEL_NAME_MAX + 1];
	struct ex_jobs *slow; /* verifications: they read everything */
	struct ex_accounts_handler *handler;
	struct ex_method *method;
};

/* One method: answers a request with a reply in `keep`, packed; NULL: err. [desk] */
typedef struct ex_out *ex_accounts_fn(
	struct ex_accounts_service *s, const ProtobufCMessage *request, struct ex_keep *k, struct ex_err *err);

ex_accounts_fn ex_accounts_do_credit, ex_accounts_do_verify, ex_accounts_do_transactions, ex_accounts_do_usage;

/* Copies that a reply points to. */
char *ex_keep_money(struct ex_keep *k, int64_t nano);
char *ex_keep_price(struct ex_keep *k, int64_t nano);

#endif
