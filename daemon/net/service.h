/* SPDX-License-Identifier: Apache-2.0 */
/* The services that every server brings. Private to net/. Layer L1. */
#ifndef EX_NET_SERVICE_H
#define EX_NET_SERVICE_H

#include "net/server.h"

#define EX_SERVICE_NAME_MAX 96

/* The services of a server: distinct "package.Service" of its methods' paths, in order. */
struct ex_service_list {
	size_t n;
	char name[EX_SERVER_METHODS_MAX][EX_SERVICE_NAME_MAX];
};
/* Adds the service of "/package.Service/Method". -EINVAL: not such a path, -ENOSPC. */
int ex_service_list_add(struct ex_service_list *l, const char *path);
bool ex_service_list_has(const struct ex_service_list *l, const char *name);

/* grpc.health.v1. */
#define EX_HEALTH_METHODS 2
struct ex_health;
int ex_health_new(const struct ex_service_list *services, struct ex_health **ret); /* services: borrowed */
struct ex_health *ex_health_free(struct ex_health *h);
void ex_health_methods(struct ex_health *h, int loop_i, struct ex_method ret[static EX_HEALTH_METHODS]);
void ex_health_set(struct ex_health *h, bool serving); /* [any] */
void ex_health_end(struct ex_health *h);               /* ends every Watch: the server stops. [any] */

/* grpc.reflection.v1 and v1alpha, from the descriptors of proto/. */
#define EX_REFLECTION_METHODS 2
struct ex_reflection;
int ex_reflection_new(const struct ex_service_list *services, struct ex_reflection **ret); /* services: borrowed */
struct ex_reflection *ex_reflection_free(struct ex_reflection *r);
void ex_reflection_methods(struct ex_reflection *r, int loop_i, struct ex_method ret[static EX_REFLECTION_METHODS]);

#endif
