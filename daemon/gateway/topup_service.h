/* SPDX-License-Identifier: Apache-2.0 */
/* The Topups service: operators and the top-up gate. Every method runs on the desk's thread. Layer L4. */
#ifndef EX_GATEWAY_TOPUP_SERVICE_H
#define EX_GATEWAY_TOPUP_SERVICE_H

#include "gateway/desk.h"
#include "gateway/topups.h"
#include "net/server.h"

struct ex_topup_service;
/* Both borrowed; the desk's jobs end before the service does. */
int ex_topup_service_new(struct ex_desk *desk, struct ex_topups *topups, struct ex_topup_service **ret);
struct ex_topup_service *ex_topup_service_free(struct ex_topup_service *s);
/* path-NULL-terminated; live as long as the service. */
const struct ex_method *ex_topup_service_methods(struct ex_topup_service *s, int loop_i);
/* Their paths, NULL-terminated. */
extern const char *const ex_topup_service_paths[];

#endif
