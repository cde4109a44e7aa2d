/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl topup status, suspend, open, limit, waitlist, auto. */
#include "ctl/ctl.h"

#include "expertd/topups.pb-c.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define TOPUPS "/expertd.v1.Topups/"

typedef Expertd__V1__GateStatusReply status_message;

const struct ctl_opt ctl_opts_gate[] = {
	{"reason", "TEXT", "why, needed: customers read it"},
	{"until", "TIME", "when the figures count again, local: 18:00 or 2026-11-25T18:00 (default: with topup auto)"},
	{NULL, NULL, NULL},
};

/* "14:02:11", with the day when that is not today's. */
static const char *clock_text(int64_t s, char out[static 32])
{
	time_t t = (time_t)s, now = time(NULL);
	struct tm then, today;
	localtime_r(&t, &then);
	localtime_r(&now, &today);
	bool same = then.tm_yday == today.tm_yday && then.tm_year == today.tm_year;
	strftime(out, 32, same ? "%H:%M:%S" : "%Y-%m-%d %H:%M:%S", &then);
	return out;
}

static void print_figures(const status_message *r)
{
	printf("figures ");
	for (size_t i = 0; i < r->n_figures; i++)
		if (isnan(r->figures[i]->value))
			printf("%s %s not known", i ? ";" : "", r->figures[i]->name);
		else
			printf("%s %s %.3g", i ? ";" : "", r->figures[i]->name, r->figures[i]->value);
	printf("\ncover   ");
	if (isnan(r->capacity_tokens_s))
		printf("what the fleet can serve is not known yet");
	else
		printf("%.4g tokens/s for %.0f s, by %.0f %% of %.4g tokens that balances could buy; %.4g tokens/s are "
		       "used up",
			r->capacity_tokens_s, r->horizon_s, 100 * r->draw, r->sold_tokens, r->burn_tokens_s);
	printf("\n");
}

static int print_status(struct ctl *c, const status_message *r)
{
	char text[32];
	(void)c;
	printf("gate    ");
	for (const char *s = r->state; *s; s++)
		putchar(*s >= 'a' && *s <= 'z' ? *s - 'a' + 'A' : *s);
	if (r->since)
		printf(" since %s (%s): %s", clock_text(r->since, text), r->by, r->reason);
	if (r->until)
		printf("; until %s", clock_text(r->until, text));
	printf("\n");
	print_figures(r);
	if (r->reopens > 0)
		printf("opens   expected at %s\n", clock_text(r->reopens, text));
	else if (r->reopens < 0)
		printf("opens   %s\n", r->pinned ? "when the operator says so" : "nobody can say: nothing is used up");
	for (size_t i = r->n_history; i-- > 0 && r->n_history - i <= 5;) {
		const Expertd__V1__GateChange *h = r->history[i];
		printf("%s %s  %s -> %s  %s: %s\n", i + 1 == r->n_history ? "history" : "       ",
			clock_text(h->at, text), h->from, h->to, h->by, h->reason);
	}
	return CTL_OK;
}

static int ask(struct ctl *c, const char *path, const ProtobufCMessage *q)
{
	status_message *r;
	int rc = ctl_ask(c, path, q, &expertd__v1__gate_status_reply__descriptor, &r);
	if (rc || !r)
		return rc;
	rc = print_status(c, r);
	expertd__v1__gate_status_reply__free_unpacked(r, NULL);
	return rc;
}

int ctl_cmd_topup_status(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__GateStatusRequest q = EXPERTD__V1__GATE_STATUS_REQUEST__INIT;
	(void)argc, (void)argv;
	return ask(c, TOPUPS "GateStatus", &q.base);
}

/* "18:00", the next one, or a whole instant. False: neither. */
static bool read_time(const char *s, int64_t *ret)
{
	time_t now = time(NULL);
	struct tm tm;
	localtime_r(&now, &tm);
	tm.tm_sec = 0;
	tm.tm_isdst = -1;
	const char *end = strptime(s, "%Y-%m-%dT%H:%M", &tm);
	bool whole = end && !*end;
	if (!whole) {
		localtime_r(&now, &tm);
		tm.tm_sec = 0;
		tm.tm_isdst = -1;
		end = strptime(s, "%H:%M", &tm);
		if (!end || *end)
			return false;
	}
	time_t t = mktime(&tm);
	if (!whole && t <= now) {
		tm.tm_mday++;
		tm.tm_isdst = -1;
		t = mktime(&tm);
	}
	*ret = t;
	return t != (time_t)-1;
}

static int pin(struct ctl *c, const char *state)
{
	Expertd__V1__PinGateRequest q = EXPERTD__V1__PIN_GATE_REQUEST__INIT;
	const char *until = ctl_str(c, "until", NULL);
	q.state = (char *)state;
	q.reason = (char *)ctl_str(c, "reason", "");
	if (!*q.reason)
		return ctl_fail(CTL_USAGE, "--reason is needed: customers read it, and it stays in the trail");
	if (until && !read_time(until, &q.until))
		return ctl_fail(CTL_USAGE, "--until=%s: expected a time, as in 18:00 or 2026-11-25T18:00", until);
	return ask(c, TOPUPS "PinGate", &q.base);
}

int ctl_cmd_topup_suspend(struct ctl *c, int argc, char **argv)
{
	(void)argc, (void)argv;
	return pin(c, "suspended");
}

int ctl_cmd_topup_open(struct ctl *c, int argc, char **argv)
{
	(void)argc, (void)argv;
	return pin(c, "open");
}

int ctl_cmd_topup_limit(struct ctl *c, int argc, char **argv)
{
	(void)argc, (void)argv;
	return pin(c, "limited");
}

int ctl_cmd_topup_waitlist(struct ctl *c, int argc, char **argv)
{
	(void)argc, (void)argv;
	return pin(c, "waitlist");
}

int ctl_cmd_topup_auto(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__UnpinGateRequest q = EXPERTD__V1__UNPIN_GATE_REQUEST__INIT;
	(void)argc, (void)argv;
	return ask(c, TOPUPS "UnpinGate", &q.base);
}
