/* SPDX-License-Identifier: Apache-2.0 */
/* What a source of members and a registrar said, kept for a test that waits for it. */
#ifndef EX_TESTS_UNIT_MEMBERS_SEEN_H
#define EX_TESTS_UNIT_MEMBERS_SEEN_H

#include "unit.h"

#include "base/clock.h"
#include "base/lock.h"
#include "fleet/members.h"
#include "fleet/registrar.h"
#include <stdio.h>
#include <string.h>

struct seen {
	struct ex_lock lock;
	pthread_cond_t changed;
	/* guarded by lock */
	char names[512]; /* of the last list, "h1 h2" */
	struct ex_member first;
	unsigned n_lists, n_refused, n_state[EX_MEMBERS_STALE + 1];
	enum ex_members_state state;
	char why[EX_MEMBERS_WHY_MAX], refused[1024];
	unsigned n_events[EX_REGISTRAR_BACK + 1];
	char event[EX_REGISTRAR_BACK + 1][1024]; /* the last text of each */
};

static inline void seen_init(struct seen *s)
{
	memset(s, 0, sizeof *s);
	ex_lock_init(&s->lock, "seen");
	ex_cond_init(&s->changed);
}

static inline void seen_done(struct seen *s)
{
	pthread_cond_destroy(&s->changed);
	ex_lock_done(&s->lock);
}

static void seen_changed(void *ctx, const struct ex_member *m, size_t n)
{
	struct seen *s = ctx;
	ex_lock_take(&s->lock);
	s->names[0] = '\0';
	for (size_t i = 0; i < n; i++) {
		size_t len = strlen(s->names);
		snprintf(s->names + len, sizeof s->names - len, "%s%s", i ? " " : "", m[i].name);
	}
	if (n) {
		s->first = m[0];
		s->first.shards = NULL;
	}
	s->n_lists++;
	pthread_cond_broadcast(&s->changed);
	ex_lock_give(&s->lock);
}

static void seen_state(void *ctx, enum ex_members_state state, const char *why)
{
	struct seen *s = ctx;
	ex_lock_take(&s->lock);
	s->state = state;
	s->n_state[state]++;
	snprintf(s->why, sizeof s->why, "%s", why);
	pthread_cond_broadcast(&s->changed);
	ex_lock_give(&s->lock);
}

static void seen_refused(void *ctx, const char *key, const char *why)
{
	struct seen *s = ctx;
	ex_lock_take(&s->lock);
	s->n_refused++;
	snprintf(s->refused, sizeof s->refused, "%s: %s", key, why);
	pthread_cond_broadcast(&s->changed);
	ex_lock_give(&s->lock);
}

static const struct ex_members_ops EX_UNUSED seen_ops = {
	.changed = seen_changed, .state = seen_state, .refused = seen_refused};

static EX_UNUSED void seen_event(void *ctx, enum ex_registrar_event ev, const char *text)
{
	struct seen *s = ctx;
	ex_lock_take(&s->lock);
	s->n_events[ev]++;
	snprintf(s->event[ev], sizeof s->event[ev], "%s", text);
	pthread_cond_broadcast(&s->changed);
	ex_lock_give(&s->lock);
}

/* Waits until `condition`, over the struct seen *s, holds; fails after patience_s. */
#define SEEN_WITHIN(where, patience_s, condition)                                                                      \
	do {                                                                                                           \
		struct seen *s = (where);                                                                              \
		uint64_t until_ = ex_now_ns() + (patience_s)*EX_NS_PER_S;                                              \
		bool there_ = true;                                                                                    \
		char said_[1200];                                                                                      \
		ex_lock_take(&s->lock);                                                                                \
		while (!(condition) && there_)                                                                         \
			there_ = ex_cond_wait_until(&s->changed, &s->lock, until_);                                    \
		there_ = (condition);                                                                                  \
		snprintf(said_, sizeof said_, "names '%.200s', state %d '%.200s', refused '%.300s'", s->names,         \
			s->state, s->why, s->refused);                                                                 \
		ex_lock_give(&s->lock);                                                                                \
		if (!there_)                                                                                           \
			fail_msg("not so: %s; seen: %s", #condition, said_);                                           \
	} while (0)
#define SEEN_WAIT(where, condition)  SEEN_WITHIN(where, 30, condition)
#define SEEN_CHECK(where, condition) SEEN_WITHIN(where, 0, condition)

#define SEEN_NAMES(where, want)      SEEN_WAIT(where, strcmp(s->names, want) == 0)

#endif
