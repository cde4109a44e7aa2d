/* SPDX-License-Identifier: Apache-2.0 */
/* Limits in front of an admission. Layer L4. */
#include "gateway/limits_int.h"

#include "base/clock.h"
#include "base/mem.h"
#include <string.h>

#define LIMITS_MAGIC 0x4c494d54u
#define PLACE_MAGIC  0x504c4143u
#define SHED_NS      (250 * EX_NS_PER_MS)
#define MEASURE_NS   EX_NS_PER_S
#define SWEEP_NS     (60 * EX_NS_PER_S)
#define RATE_KEEP    0.8 /* of the rate measured before, for each second */

/* A request from its admission to its end. What the edge knows as its ticket. */
struct place {
	uint32_t magic;
	struct ex_limits *l;
	struct ex_fair_item item;
	struct ex_limits_account *account; /* NULL: nobody's */
	struct ex_limits_key *key;
	char *bearer, *request_id;
	uint32_t prompt_tokens, max_tokens, cost, tokens; /* tokens: taken from the key's */
	uint64_t likeness;
	void (*done)(void *done_ctx, const struct ex_admit_answer *r);
	void *done_ctx;
	struct ex_ticket *inner;  /* once it was admitted */
	_Atomic uint32_t counted; /* of what it used, in tokens_served */
	uint64_t began_ns;
	struct place *next;
	struct ex_admit_answer refusal; /* on a list of those to be refused */
};

static void free_place(struct place *p)
{
	free(p->bearer);
	free(p->request_id);
	p->magic = 0;
	free(p);
}

/* --- answers ------------------------------------------------------------------------------------------------------ */

static const struct ex_admit_answer no_headers = {.limit_requests = -1,
	.remaining_requests = -1,
	.reset_requests_ms = -1,
	.limit_tokens = -1,
	.remaining_tokens = -1,
	.reset_tokens_ms = -1};

static struct ex_admit_answer refusal(int status, const char *code, const char *message, uint64_t retry_s)
{
	struct ex_admit_answer r = no_headers;
	r.status = status;
	r.code = code;
	r.message = message;
	r.retry_after_s = (unsigned)EX_MIN(retry_s, (uint64_t)UINT32_MAX);
	return r;
}

/* Under the lock: what the key has left, for the headers. */
static void put_headers(
	const struct ex_limits *l, const struct ex_limits_key *k, uint64_t now_ns, struct ex_admit_answer *r)
{
	const struct tier_limits *t = &l->tiers[k->tier];
	struct ex_gcra_room room;
	if (t->requests.per_min) {
		ex_gcra_room(&t->requests, &k->requests, now_ns, &room);
		r->limit_requests = t->requests.per_min;
		r->remaining_requests = room.units;
		r->reset_requests_ms = (int64_t)EX_CEIL_DIV(room.reset_ns, EX_NS_PER_MS);
	}
	if (t->tokens.per_min) {
		ex_gcra_room(&t->tokens, &k->tokens, now_ns, &room);
		r->limit_tokens = t->tokens.per_min;
		r->remaining_tokens = room.units;
		r->reset_tokens_ms = (int64_t)EX_CEIL_DIV(room.reset_ns, EX_NS_PER_MS);
	}
}

/* --- places ------------------------------------------------------------------------------------------------------- */

/* Under the lock: p has a place no more, and used so many tokens of those it might have. */
static void leave(struct place *p, uint32_t used)
{
	struct ex_limits *l = p->l;
	const struct tier_limits *t = &l->tiers[p->key->tier];
	ex_fair_end(l->queue, &p->account->flow, p->cost > used ? p->cost - used : 0);
	if (t->tokens.per_min && p->tokens > used)
		ex_gcra_give(&t->tokens, &p->key->tokens, p->tokens - used);
	p->account->n_held--;
	p->key->n_held--;
	l->n_running--;
	pthread_cond_signal(&l->wake);
}

static void on_inner(void *ctx, const struct ex_admit_answer *r)
{
	struct place *p = ctx;
	struct ex_limits *l = p->l;
	struct ex_admit_answer answer = *r;
	void (*done)(void *done_ctx, const struct ex_admit_answer *r) = p->done;
	void *done_ctx = p->done_ctx;
	bool admitted = r->status == 200;
	p->inner = r->ticket;
	answer.ticket = admitted ? (struct ex_ticket *)p : NULL;
	if (p->key) {
		ex_lock_take(&l->lock);
		if (!admitted)
			leave(p, 0);
		put_headers(l, p->key, ex_now_ns(), &answer);
		ex_lock_give(&l->lock);
	}
	if (!admitted)
		free_place(p);
	done(done_ctx, &answer); /* which may end the ticket */
}

static void begin(struct place *p)
{
	const struct ex_admit *inner = p->l->inner;
	const struct ex_admit_ask a = {.key = p->bearer,
		.request_id = p->request_id,
		.prompt_tokens = p->prompt_tokens,
		.max_tokens = p->max_tokens,
		.likeness = p->likeness};
	inner->ops->ask(inner->ctx, &a, on_inner, p);
}

/* Under the lock: those who get a place now. */
static struct place *hand_out(struct ex_limits *l, uint64_t now_ns)
{
	struct place *first = NULL, **last = &first;
	struct ex_fair_item *item;
	while (l->n_running < l->places && (item = ex_fair_pop(l->queue, l->places - l->n_running))) {
		struct place *p = EX_CONTAINER_OF(item, struct place, item);
		p->began_ns = now_ns;
		l->waits[l->n_waits % EX_LIMITS_WAITS].at_ns = now_ns;
		l->waits[l->n_waits++ % EX_LIMITS_WAITS].wait_ns = now_ns - item->queued_ns;
		l->n_running++;
		*last = p;
		last = &p->next;
	}
	*last = NULL;
	return first;
}

static void begin_all(struct place *p)
{
	for (struct place *next; p; p = next) {
		next = p->next;
		begin(p);
	}
}

static void refuse_all(struct place *p)
{
	for (struct place *next; p; p = next) {
		next = p->next;
		p->done(p->done_ctx, &p->refusal);
		free_place(p);
	}
}

/* --- asking ------------------------------------------------------------------------------------------------------- */

/* Under the lock: the key's rates. 200: taken. */
static struct ex_admit_answer check_rates(struct ex_limits *l, struct place *p, uint64_t now_ns)
{
	struct ex_limits_key *k = p->key;
	const struct tier_limits *t = &l->tiers[k->tier];
	uint64_t wait_requests = 0, wait_tokens = 0;
	p->tokens = (uint32_t)EX_MIN((uint64_t)p->prompt_tokens + p->max_tokens, (uint64_t)UINT32_MAX);
	if (t->requests.per_min)
		wait_requests = ex_gcra_wait_ns(&t->requests, &k->requests, 1, now_ns);
	if (t->tokens.per_min)
		wait_tokens = ex_gcra_wait_ns(&t->tokens, &k->tokens, p->tokens, now_ns);
	if (wait_tokens == EX_GCRA_NEVER)
		return refusal(429, "request_too_large",
			"prompt and max_tokens together are more than this key may use in a minute", 0);
	if (wait_requests)
		wait_requests = ex_gcra_promise(&t->requests, &k->requests, 1, now_ns);
	if (wait_tokens)
		wait_tokens = ex_gcra_promise(&t->tokens, &k->tokens, p->tokens, now_ns);
	uint64_t wait = EX_MAX(wait_requests, wait_tokens);
	if (wait)
		return refusal(429, "rate_limit_exceeded",
			wait_tokens > wait_requests ? "this key has used its tokens a minute"
						    : "this key has used its requests a minute",
			EX_CEIL_DIV(wait, EX_NS_PER_S));
	if (t->requests.per_min)
		ex_gcra_take(&t->requests, &k->requests, 1, now_ns);
	if (t->tokens.per_min)
		ex_gcra_take(&t->tokens, &k->tokens, p->tokens, now_ns);
	return refusal(200, NULL, NULL, 0);
}

static void give_rates_back(const struct tier_limits *t, const struct place *p)
{
	if (t->requests.per_min)
		ex_gcra_give(&t->requests, &p->key->requests, 1);
	if (t->tokens.per_min)
		ex_gcra_give(&t->tokens, &p->key->tokens, p->tokens);
}

/* Under the lock: the fair queue. 200: it is in it. */
static struct ex_admit_answer queue_up(struct ex_limits *l, struct place *p, uint64_t now_ns)
{
	struct ex_fair_flow *f = &p->account->flow;
	struct ex_fair_told told;
	uint64_t cost = p->prompt_tokens + (uint64_t)EX_MIN((double)p->max_tokens, l->tokens_out);
	p->cost = (uint32_t)EX_MIN(EX_MAX(cost, UINT64_C(1)), (uint64_t)EX_FAIR_COST_MAX);
	int rc = ex_fair_push(l->queue, f, &p->item,
		&(struct ex_fair_ask){.cost = p->cost, .likeness = p->likeness, .now_ns = now_ns}, &told);
	if (rc == 0)
		return refusal(200, NULL, NULL, 0);
	give_rates_back(&l->tiers[p->key->tier], p);
	if (rc == -EAGAIN && f->n_queued)
		return refusal(429, "queue_share_exceeded",
			"as many requests of this account wait as can be served in time", told.retry_s);
	return refusal(503, "overloaded", "requests cannot be served in time", told.retry_s);
}

/* Under the lock: all limits of a request; 200: it is in the queue. */
static struct ex_admit_answer check(
	struct ex_limits *l, struct place *p, const struct ex_limits_who *who, uint64_t now_ns)
{
	uint32_t tier = EX_MIN(who->tier, l->n_tiers - 1);
	const struct tier_limits *t = &l->tiers[tier];
	if (l->closed)
		return refusal(503, "stopping", "the server stops and takes no new requests", 1);
	p->account = ex_limits_account_of(l, who->account);
	p->key = p->account ? ex_limits_key_of(l, who->key, tier) : NULL;
	if (!p->key)
		return refusal(503, "overloaded", "more keys are in use than are kept count of", 1);
	struct ex_fair_flow *f = &p->account->flow;
	f->weight = 1;
	ex_fair_move(f, tier);
	if (t->t.concurrency && f->n_queued + f->n_running >= t->t.concurrency)
		return refusal(429, "concurrency_exceeded", "this account has as many requests at once as it may have",
			(uint64_t)(1 + l->duration_s / t->t.concurrency));
	struct ex_admit_answer r = check_rates(l, p, now_ns);
	if (r.status == 200)
		r = queue_up(l, p, now_ns);
	if (r.status == 200) {
		p->account->n_held++;
		p->key->n_held++;
	}
	return r;
}

static struct place *make_place(struct ex_limits *l, const struct ex_admit_ask *a,
	void (*done)(void *done_ctx, const struct ex_admit_answer *r), void *done_ctx)
{
	struct place *p = ex_calloc(1, sizeof *p);
	if (!p)
		return NULL;
	*p = (struct place){.magic = PLACE_MAGIC,
		.l = l,
		.bearer = a->key ? strdup(a->key) : NULL,
		.request_id = a->request_id ? strdup(a->request_id) : NULL,
		.prompt_tokens = a->prompt_tokens,
		.max_tokens = a->max_tokens,
		.likeness = a->likeness,
		.done = done,
		.done_ctx = done_ctx,
		.began_ns = ex_now_ns()};
	if ((a->key && !p->bearer) || (a->request_id && !p->request_id)) {
		free_place(p);
		return NULL;
	}
	return p;
}

static void ask(void *ctx, const struct ex_admit_ask *a, void (*done)(void *done_ctx, const struct ex_admit_answer *r),
	void *done_ctx)
{
	struct ex_limits *l = ctx;
	struct ex_limits_who who;
	struct place *to_begin = NULL, *p = make_place(l, a, done, done_ctx);
	EX_CHECK_OBJ(l, LIMITS_MAGIC);
	if (!p) {
		struct ex_admit_answer r = refusal(503, "overloaded", "out of memory", 1);
		done(done_ctx, &r);
		return;
	}
	if (!l->who(l->who_ctx, a->key, &who)) {
		begin(p);
		return;
	}
	uint64_t now_ns = ex_now_ns();
	ex_lock_take(&l->lock);
	struct ex_admit_answer r = check(l, p, &who, now_ns);
	if (r.status == 200)
		to_begin = hand_out(l, now_ns);
	else if (p->key)
		put_headers(l, p->key, now_ns, &r);
	l->n_limited += r.status == 429;
	l->n_overloaded += r.status == 503;
	ex_lock_give(&l->lock);
	begin_all(to_begin);
	if (r.status == 200)
		return;
	free_place(p);
	done(done_ctx, &r);
}

static void progress(void *ctx, struct ex_ticket *t, const struct ex_usage_tokens *u)
{
	struct ex_limits *l = ctx;
	struct place *p = (struct place *)t;
	uint32_t used = u->prompt_hit + u->prompt_miss + u->completion;
	EX_CHECK_OBJ(p, PLACE_MAGIC);
	uint32_t before = atomic_exchange_explicit(&p->counted, used, memory_order_relaxed);
	if (used > before)
		atomic_fetch_add_explicit(&l->tokens_served, used - before, memory_order_relaxed);
	l->inner->ops->progress(l->inner->ctx, p->inner, u);
}

static void finish(void *ctx, struct ex_ticket *t, const struct ex_usage_tokens *u)
{
	struct ex_limits *l = ctx;
	struct place *p = (struct place *)t;
	EX_CHECK_OBJ(p, PLACE_MAGIC);
	l->inner->ops->finish(l->inner->ctx, p->inner, u);
	if (p->key) {
		ex_lock_take(&l->lock);
		double s = (double)(ex_now_ns() - p->began_ns) / (double)EX_NS_PER_S;
		l->tokens_out += (u->completion - l->tokens_out) / 16;
		l->duration_s += (s - l->duration_s) / 16;
		leave(p, u->prompt_hit + u->prompt_miss + u->completion);
		ex_lock_give(&l->lock);
	}
	free_place(p);
}

static void balance(
	void *ctx, const char *key, void (*done)(void *done_ctx, int status, const char *json), void *done_ctx)
{
	struct ex_limits *l = ctx;
	l->inner->ops->balance(l->inner->ctx, key, done, done_ctx);
}

static const struct ex_admit_ops ops = {.ask = ask, .progress = progress, .finish = finish, .balance = balance};

const struct ex_admit *ex_limits_admit(struct ex_limits *l)
{
	return &l->admit;
}

/* --- the thread --------------------------------------------------------------------------------------------------- */

/* Under the lock: who waited too long, or all when it is over. */
static struct place *shed(struct ex_limits *l, uint64_t now_ns)
{
	struct place *first = NULL;
	struct ex_fair_flow *f;
	struct ex_fair_item *item;
	uint32_t retry_s;
	while ((item = ex_fair_shed(l->queue, l->closed ? UINT64_MAX : now_ns, &f, &retry_s))) {
		struct place *p = EX_CONTAINER_OF(item, struct place, item);
		p->refusal = l->closed ? refusal(503, "stopping", "the server stops", 1)
				       : refusal(503, "overloaded", "it was not served in time", retry_s);
		give_rates_back(&l->tiers[p->key->tier], p);
		p->account->n_held--;
		p->key->n_held--;
		l->n_shed++;
		l->n_overloaded++;
		p->next = first;
		first = p;
	}
	return first;
}

/* Under the lock: what is served while somebody waits all the time is what can be served. */
static void measure(struct ex_limits *l, uint64_t now_ns)
{
	struct ex_fair_stat s;
	uint64_t tokens = atomic_load_explicit(&l->tokens_served, memory_order_relaxed);
	double rate = (double)(tokens - l->measured_tokens) * (double)EX_NS_PER_S / (double)(now_ns - l->measured_ns);
	ex_fair_stat(l->queue, &s);
	if (s.n_queued && l->waited_then) {
		l->tokens_per_s = l->tokens_per_s > 0 ? RATE_KEEP * l->tokens_per_s + (1 - RATE_KEEP) * rate : rate;
		ex_fair_set_rate(l->queue, l->tokens_per_s);
	}
	l->waited_then = s.n_queued;
	l->measured_ns = now_ns;
	l->measured_tokens = tokens;
}

static void *run(void *ctx)
{
	struct ex_limits *l = ctx;
	uint64_t shed_ns = 0, sweep_ns = ex_now_ns();
	ex_lock_take(&l->lock);
	while (!l->stopping) {
		uint64_t now_ns = ex_now_ns();
		struct place *refused = NULL, *begun = hand_out(l, now_ns);
		if (now_ns - shed_ns >= SHED_NS || l->closed) {
			refused = shed(l, now_ns);
			shed_ns = now_ns;
		}
		if (now_ns - l->measured_ns >= MEASURE_NS)
			measure(l, now_ns);
		if (now_ns - sweep_ns >= SWEEP_NS) {
			ex_limits_sweep(l, now_ns);
			sweep_ns = now_ns;
		}
		if (begun || refused) {
			ex_lock_give(&l->lock);
			begin_all(begun);
			refuse_all(refused);
			ex_lock_take(&l->lock);
		} else {
			ex_cond_wait_until(&l->wake, &l->lock, now_ns + SHED_NS);
		}
		atomic_fetch_add_explicit(&l->turns, 1, memory_order_relaxed);
	}
	ex_lock_give(&l->lock);
	return NULL;
}

/* --- life --------------------------------------------------------------------------------------------------------- */

static int copy_tiers(struct ex_limits *l, const struct ex_limits_opts *o, struct ex_err *err)
{
	l->tiers = ex_calloc(o->n_tiers, sizeof *l->tiers);
	if (!l->tiers)
		return ex_err_errno(err, -ENOMEM, "cannot keep limits");
	for (l->n_tiers = 0; l->n_tiers < o->n_tiers; l->n_tiers++) {
		struct tier_limits *t = &l->tiers[l->n_tiers];
		t->t = o->tiers[l->n_tiers];
		int rc = t->t.requests_per_min
				 ? ex_gcra_rate_init(t->t.requests_per_min, t->t.requests_per_min, err, &t->requests)
				 : 0;
		if (rc == 0 && t->t.tokens_per_min)
			rc = ex_gcra_rate_init(t->t.tokens_per_min, t->t.tokens_per_min, err, &t->tokens);
		if (rc < 0)
			return ex_err_prefix(err, "tier %s", t->t.name);
	}
	return 0;
}

static int make_queue(struct ex_limits *l, const struct ex_limits_opts *o, struct ex_err *err)
{
	uint32_t weights[EX_FAIR_TIERS_MAX];
	if (!o->n_tiers || o->n_tiers > EX_FAIR_TIERS_MAX || !o->places)
		return ex_err_set(err, -EINVAL, "1 to %d tiers and at least one place are needed", EX_FAIR_TIERS_MAX);
	for (uint32_t i = 0; i < o->n_tiers; i++)
		weights[i] = o->tiers[i].weight;
	const struct ex_fair_opts f = {.tier_weights = weights,
		.n_tiers = o->n_tiers,
		.items_max = o->queue_max,
		.reserve = o->places >= 4 ? EX_MAX(o->places / 16, 1u) : 0,
		.wait_max_ns = o->queue_wait_ms * EX_NS_PER_MS};
	return ex_fair_new(&f, err, &l->queue);
}

int ex_limits_new(const struct ex_limits_opts *o, struct ex_err *err, struct ex_limits **ret)
{
	EX_CLEANUP(ex_limits_freep) struct ex_limits *l = ex_calloc(1, sizeof *l);
	if (!l)
		return ex_err_errno(err, -ENOMEM, "cannot keep limits");
	l->magic = LIMITS_MAGIC;
	l->inner = o->inner;
	l->admit = (struct ex_admit){.ops = &ops, .ctx = l};
	l->who = o->who;
	l->who_ctx = o->ctx;
	l->places = o->places;
	l->tokens_out = EX_LIMITS_TOKENS_OUT;
	l->measured_ns = ex_now_ns();
	ex_lock_init(&l->lock, "limits");
	ex_cond_init(&l->wake);
	int rc = make_queue(l, o, err);
	if (rc == 0)
		rc = copy_tiers(l, o, err);
	if (rc < 0)
		return rc;
	rc = -pthread_create(&l->thread, NULL, run, l);
	if (rc < 0)
		return ex_err_errno(err, rc, "cannot keep limits");
	l->has_thread = true;
	*ret = EX_TAKE(l);
	return 0;
}

void ex_limits_close(struct ex_limits *l)
{
	ex_lock_take(&l->lock);
	l->closed = true;
	pthread_cond_signal(&l->wake);
	ex_lock_give(&l->lock);
}

struct ex_limits *ex_limits_free(struct ex_limits *l)
{
	if (!l)
		return NULL;
	EX_CHECK_OBJ(l, LIMITS_MAGIC);
	if (l->has_thread) {
		ex_lock_take(&l->lock);
		assert(l->n_running == 0);
		l->stopping = true;
		pthread_cond_signal(&l->wake);
		ex_lock_give(&l->lock);
		pthread_join(l->thread, NULL);
	}
	if (l->queue)
		ex_limits_drop_tables(l);
	l->queue = ex_fair_free(l->queue);
	free(l->tiers);
	pthread_cond_destroy(&l->wake);
	ex_lock_done(&l->lock);
	l->magic = 0;
	free(l);
	return NULL;
}

static int compare_waits(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

void ex_limits_stat(struct ex_limits *l, struct ex_limits_stat *ret)
{
	uint64_t now_ns = ex_now_ns(), waits[EX_LIMITS_WAITS];
	size_t n = 0;
	struct ex_fair_stat s;
	ex_lock_take(&l->lock);
	ex_fair_stat(l->queue, &s);
	*ret = (struct ex_limits_stat){.n_running = l->n_running,
		.n_waiting = s.n_queued,
		.n_accounts_waiting = s.n_flows,
		.n_shed = l->n_shed,
		.n_limited = l->n_limited,
		.n_overloaded = l->n_overloaded,
		.tokens_per_s = l->tokens_per_s};
	for (size_t i = 0; i < EX_MIN(l->n_waits, (uint64_t)EX_LIMITS_WAITS); i++)
		if (now_ns - l->waits[i].at_ns <= 60 * EX_NS_PER_S)
			waits[n++] = l->waits[i].wait_ns;
	uint64_t oldest_ns = ex_fair_oldest_ns(l->queue);
	ex_lock_give(&l->lock);
	qsort(waits, n, sizeof *waits, compare_waits);
	uint64_t p95 = n ? waits[(n * 95 - 1) / 100] : 0;
	if (oldest_ns && now_ns > oldest_ns)
		p95 = EX_MAX(p95, now_ns - oldest_ns);
	ret->wait_p95_s = (double)p95 / (double)EX_NS_PER_S;
}

uint64_t ex_limits_turns(const struct ex_limits *l)
{
	return atomic_load_explicit(&l->turns, memory_order_relaxed);
}
