/* SPDX-License-Identifier: Apache-2.0 */
/* The Accounts service: operators' view of accounts and money. Every method runs on the desk's thread. Layer L4. */
#ifndef EX_GATEWAY_SERVICE_H
#define EX_GATEWAY_SERVICE_H

#include "gateway/desk.h"
#include "net/server.h"

struct ex_accounts_service_opts {
	struct ex_desk *desk;   /* borrowed; its jobs end before the service does */
	const char *store;      /* for handles of verifications; copied */
	const char *model_name; /* copied */
};

struct ex_accounts_service;
int ex_accounts_service_new(const struct ex_accounts_service_opts *o, struct ex_accounts_service **ret);
struct ex_accounts_service *ex_accounts_service_free(struct ex_accounts_service *s);
/* path-NULL-terminated; live as long as the service. */
const struct ex_method *ex_accounts_service_methods(struct ex_accounts_service *s, int loop_i);
/* Their paths, NULL-terminated. */
extern const char *const ex_accounts_service_paths[];

#endif
