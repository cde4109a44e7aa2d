/* SPDX-License-Identifier: Apache-2.0 */
/* The top-up gate of one process. Layer L4. */
#include "gateway/topups.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TAIL_BYTES (EX_TOPUPS_HISTORY_MAX * EX_TOPUPS_LINE_MAX)

struct ex_topups {
	struct ex_topups_opts o;
	char *path;
	int fd;
	struct ex_lock lock;
	/* guarded by lock */
	struct ex_topup_gate gate;
	struct ex_cover_meter meter;
	struct ex_cover_in cover;
	double draw;
	uint32_t n_history;
	struct ex_topup_change history[EX_TOPUPS_HISTORY_MAX];
};

/* --- the trail ---------------------------------------------------------------------------------------------------- */

static void remember(struct ex_topups *t, const struct ex_topup_change *c)
{
	if (t->n_history == EX_TOPUPS_HISTORY_MAX)
		memmove(&t->history[0], &t->history[1], --t->n_history * sizeof *c);
	t->history[t->n_history++] = *c;
}

static int append_line(struct ex_topups *t, const struct ex_topup_change *c, struct ex_err *err)
{
	struct ex_str line = EX_STR_INIT;
	off_t before = lseek(t->fd, 0, SEEK_END);
	ex_topups_line(c, &line);
	ex_str_add(&line, "\n");
	int rc = line.oom ? -ENOMEM : before < 0 ? -errno : ex_write_all(t->fd, line.s, line.n);
	if (rc == 0 && fdatasync(t->fd) < 0)
		rc = -errno;
	if (rc < 0 && before >= 0 && ftruncate(t->fd, before) < 0) /* half a line would hide the next one */
		rc = -errno;
	ex_str_done(&line);
	return rc < 0 ? ex_err_errno(err, rc, "cannot write the trail '%s'", t->path) : 0;
}

/* The last lines. What is cut off at the end was never acknowledged; it is removed. */
static int read_tail(struct ex_topups *t, struct ex_err *err)
{
	off_t size = lseek(t->fd, 0, SEEK_END), from = size > TAIL_BYTES ? size - TAIL_BYTES : 0;
	EX_CLEANUP(ex_freep) char *text = ex_calloc(1, TAIL_BYTES + 1);
	ssize_t got = text && size >= 0 ? pread(t->fd, text, TAIL_BYTES, from) : -1;
	if (got < 0)
		return ex_err_errno(err, text ? -errno : -ENOMEM, "cannot read the trail '%s'", t->path);
	size_t n = (size_t)got, i = 0;
	const char *first = from ? memchr(text, '\n', n) : NULL;
	if (first)
		i = (size_t)(first - text) + 1;
	for (const char *end; i < n && (end = memchr(text + i, '\n', n - i)); i = (size_t)(end - text) + 1) {
		struct ex_topup_change c;
		if (ex_topups_line_parse(text + i, (size_t)(end - text) - i, &c) < 0)
			return ex_err_set(err, -EINVAL, "a line at byte %lld of '%s' is no change of the top-up gate",
				(long long)from + (long long)i, t->path);
		remember(t, &c);
	}
	if (i < n && ftruncate(t->fd, from + (off_t)i) < 0)
		return ex_err_errno(err, -errno, "cannot mend the trail '%s'", t->path);
	return 0;
}

static int open_trail(struct ex_topups *t, struct ex_err *err)
{
	EX_CLEANUP(ex_freep) char *copy = strdup(t->path);
	t->fd = open(t->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (t->fd < 0 || !copy)
		return ex_err_errno(err, copy ? -errno : -ENOMEM, "cannot open the trail '%s'", t->path);
	int rc = ex_sync_dir(dirname(copy));
	return rc < 0 ? ex_err_errno(err, rc, "cannot make the trail '%s'", t->path) : read_tail(t, err);
}

/* --- life --------------------------------------------------------------------------------------------------------- */

int ex_topups_open(const struct ex_topups_opts *o, uint64_t now_ns, struct ex_err *err, struct ex_topups **ret)
{
	int rc = ex_topup_rules_check(&o->rules, err);
	if (rc < 0)
		return rc;
	EX_CLEANUP(ex_topups_freep) struct ex_topups *t = ex_calloc(1, sizeof *t);
	if (!t)
		return ex_err_errno(err, -ENOMEM, "cannot make the top-up gate");
	t->o = *o;
	t->fd = -1;
	ex_lock_init(&t->lock, "topups");
	t->path = strdup(o->trail);
	rc = t->path ? open_trail(t, err) : ex_err_errno(err, -ENOMEM, "cannot make the top-up gate");
	if (rc < 0)
		return rc;
	ex_topup_gate_init(&t->gate, &o->rules, t->n_history ? &t->history[t->n_history - 1] : NULL);
	ex_cover_meter_init(&t->meter, o->capacity_tokens_s, now_ns);
	t->cover = (struct ex_cover_in){.capacity_tokens_s = NAN, .horizon_s = o->horizon_s, .draw_min = o->draw_min};
	t->draw = NAN;
	*ret = EX_TAKE(t);
	return 0;
}

struct ex_topups *ex_topups_free(struct ex_topups *t)
{
	if (!t)
		return NULL;
	ex_closep(&t->fd);
	free(t->path);
	ex_lock_done(&t->lock);
	free(t);
	return NULL;
}

/* --- changes [desk] ----------------------------------------------------------------------------------------------- */

void ex_topups_look(struct ex_topups *t, const struct ex_topups_sample *s, uint64_t now_ns, int64_t real_s)
{
	struct ex_err err = EX_ERR_INIT;
	struct ex_topup_change c;
	ex_lock_take(&t->lock);
	ex_cover_meter_look(&t->meter, s->tokens, s->live, s->waiting, now_ns);
	t->cover.capacity_tokens_s = ex_cover_meter_capacity(&t->meter);
	t->cover.burn_tokens_s = ex_cover_meter_burn(&t->meter, now_ns);
	t->cover.sold_tokens = s->sold_tokens;
	const double figure[EX_TOPUP_FIGURE_N] = {
		[EX_TOPUP_COVER] = ex_cover(&t->cover, &t->draw),
		[EX_TOPUP_QUEUE_WAIT] = s->queue_wait_s,
		[EX_TOPUP_KV] = s->kv,
		[EX_TOPUP_THIN_SHARDS] = s->thin,
		[EX_TOPUP_LOST_SHARDS] = s->lost,
	};
	bool changed = ex_topup_gate_look(&t->gate, figure, now_ns, real_s);
	c = t->gate.last;
	if (changed)
		remember(t, &c);
	ex_lock_give(&t->lock);
	if (!changed)
		return;
	if (append_line(t, &c, &err) < 0)
		t->o.unwritten(t->o.ctx, &err);
	t->o.changed(t->o.ctx, &c);
}

/* What an operator did is in force once it is in the trail. */
static int apply(struct ex_topups *t, const struct ex_topup_gate *next, struct ex_err *err)
{
	int rc = append_line(t, &next->last, err);
	if (rc < 0)
		return rc;
	ex_lock_take(&t->lock);
	t->gate = *next;
	remember(t, &next->last);
	ex_lock_give(&t->lock);
	t->o.changed(t->o.ctx, &next->last);
	return 0;
}

int ex_topups_pin(struct ex_topups *t, enum ex_topup_state s, const char *by, const char *reason, int64_t until_s,
	int64_t real_s, struct ex_err *err)
{
	if (until_s && until_s <= real_s)
		return ex_err_set(err, -EINVAL, "the time until which it is to hold is over");
	struct ex_topup_gate next = t->gate; /* only [desk] changes it */
	ex_topup_gate_pin(&next, s, by, reason, until_s, real_s);
	return apply(t, &next, err);
}

int ex_topups_unpin(struct ex_topups *t, const char *by, int64_t real_s, struct ex_err *err)
{
	struct ex_topup_gate next = t->gate;
	if (!next.pinned)
		return ex_err_set(
			err, -EALREADY, "no operator holds the top-up gate: its state is that of the figures");
	ex_topup_gate_unpin(&next, by, real_s);
	return apply(t, &next, err);
}

/* --- views -------------------------------------------------------------------------------------------------------- */

/* Under the lock: when cover will be good enough for long enough, as balances are used up now. */
static int64_t reopens(const struct ex_topups *t, int64_t real_s)
{
	const struct ex_cover_in *in = &t->cover;
	double leave = t->gate.rules.at[EX_TOPUP_LIMITED][EX_TOPUP_COVER].leave;
	if (t->gate.state == EX_TOPUP_OPEN)
		return 0;
	if (t->gate.pinned)
		return t->gate.pin_until_s ? t->gate.pin_until_s : -1;
	double excess = isnan(leave) ? 0 : in->sold_tokens - in->capacity_tokens_s * in->horizon_s / (t->draw * leave);
	if (isnan(excess))
		return -1;
	double s = (double)t->gate.rules.leave_dwell_ns / (double)EX_NS_PER_S;
	if (excess > 0)
		s += excess / in->burn_tokens_s;
	return s <= 366 * 86400.0 ? real_s + (int64_t)s : -1; /* -1 also when nothing is used up */
}

void ex_topups_view(struct ex_topups *t, int64_t real_s, struct ex_topups_view *ret)
{
	ex_lock_take(&t->lock);
	*ret = (struct ex_topups_view){.state = t->gate.state,
		.pinned = t->gate.pinned,
		.until_s = t->gate.pinned ? t->gate.pin_until_s : 0,
		.last = t->gate.last,
		.capacity_tokens_s = t->cover.capacity_tokens_s,
		.sold_tokens = t->cover.sold_tokens,
		.burn_tokens_s = t->cover.burn_tokens_s,
		.horizon_s = t->cover.horizon_s,
		.draw = t->draw,
		.reopens_s = reopens(t, real_s),
		.n_history = t->n_history};
	memcpy(ret->figure, t->gate.figure, sizeof ret->figure);
	memcpy(ret->history, t->history, t->n_history * sizeof *ret->history);
	ex_lock_give(&t->lock);
}
