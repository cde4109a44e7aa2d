/* SPDX-License-Identifier: Apache-2.0 */
/* Replies of the Admin service, filled from the rooms. Layer L4. Everything they point to is in `keep`; the caller holds the rooms still. */
#ifndef EX_ADMIN_VIEWS_H
#define EX_ADMIN_VIEWS_H

#include "base/keep.h"
#include "admin/service.h"
#include "expertd/admin.pb-c.h"

void ex_view_status(
	const struct ex_admin_opts *o, const struct ex_admin_parts *p, struct ex_keep *k, Expertd__V1__StatusReply *r);
void ex_view_hosts(const struct ex_admin_opts *o, const struct ex_admin_parts *p, struct ex_keep *k,
	Expertd__V1__ListHostsReply *r);
/* glob: checked before. */
void ex_view_shards(const struct ex_admin_opts *o, const struct ex_admin_parts *p, const char *glob, struct ex_keep *k,
	Expertd__V1__ListShardsReply *r);
int ex_view_plan(const struct ex_admin_opts *o, const struct ex_admin_parts *p, const Expertd__V1__PlanFleetRequest *q,
	struct ex_keep *k, struct ex_err *err, Expertd__V1__PlanFleetReply *r);
/* What is asked for, with what is configured where nothing is said. */
void ex_view_planner_opts(
	const struct ex_admin_opts *o, const Expertd__V1__PlanFleetRequest *q, struct ex_planner_opts *ret);
void ex_view_moves(const struct ex_admin_parts *p, struct ex_keep *k, Expertd__V1__FleetStatusReply *r);
int ex_view_plugins(const struct ex_admin_opts *o, const struct ex_admin_parts *p, struct ex_keep *k,
	struct ex_err *err, Expertd__V1__ListPluginsReply *r);

#endif
