/* SPDX-License-Identifier: Apache-2.0 */
/* The metrics registry and its text form. Layer L0.
 * Source of the format: Prometheus text exposition 0.0.4. */
#include "base/metrics.h"

#include "base/lock.h"
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#define BUCKET_N      24    /* upper bounds 10 us * 2^i, the last about 84 s; one more bucket beyond */
#define BUCKET_FIRST  10e-6 /* seconds */
#define LABEL_MAX     128   /* a longer label value is cut */
#define OVERFLOW_NAME "_other"

struct ex_metric {
	enum ex_metric_id id;
	char *label; /* NULL in a family without labels */
	/* counter: its value; gauge: the bits of a double; histogram: the bits of the sum, a double */
	_Atomic uint64_t value;
	_Atomic uint64_t *bucket; /* [BUCKET_N + 1], histograms only */
	_Atomic bool used;        /* the fixed series of a labelled family is shown once something fell into it */
	struct ex_metric *next;
};

struct family {
	const char *name, *label, *help;
	enum ex_metric_type type;
};

static const struct family family[EX_METRIC_N] = {
#define EX_METRIC(ident, name_, type_, label_, help_)                                                                  \
	[EX_M_##ident] = {.name = name_, .label = label_, .help = help_, .type = type_},
#include "base/tbl/metrics.h"
#undef EX_METRIC
};

/* One fixed series per family: the only one without a label, or where label values go when there are too many. */
static struct ex_metric fixed[EX_METRIC_N];
static _Atomic uint64_t fixed_bucket[EX_METRIC_N][BUCKET_N + 1];
static struct {
	pthread_mutex_t mutex;
	struct ex_metric *first[EX_METRIC_N], *last[EX_METRIC_N]; /* guarded by mutex; series are never removed */
	size_t n_series;                                          /* guarded by mutex */
} registry = {.mutex = PTHREAD_MUTEX_INITIALIZER};
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void init_fixed(void)
{
	for (int i = 0; i < EX_METRIC_N; i++)
		fixed[i] = (struct ex_metric){.id = (enum ex_metric_id)i, .bucket = fixed_bucket[i]};
}

static struct ex_metric *new_series(enum ex_metric_id id, const char *label)
{
	struct ex_metric *m = calloc(1, sizeof *m);
	if (!m)
		return NULL;
	m->id = id;
	m->label = strndup(label, LABEL_MAX);
	if (family[id].type == EX_HISTOGRAM)
		m->bucket = calloc(BUCKET_N + 1, sizeof *m->bucket);
	if (m->label && (m->bucket || family[id].type != EX_HISTOGRAM))
		return m;
	free(m->label);
	free(m->bucket);
	free(m);
	return NULL;
}

static struct ex_metric *find_series(enum ex_metric_id id, const char *label)
{
	for (struct ex_metric *m = registry.first[id]; m; m = m->next)
		if (strncmp(m->label, label, LABEL_MAX) == 0)
			return m;
	return NULL;
}

struct ex_metric *ex_metric(enum ex_metric_id id, const char *label_value)
{
	assert((unsigned)id < EX_METRIC_N && (family[id].label != NULL) == (label_value != NULL));
	pthread_once(&once, init_fixed);
	if (!label_value)
		return &fixed[id];
	pthread_mutex_lock(&registry.mutex);
	struct ex_metric *m = find_series(id, label_value);
	if (!m && registry.n_series < EX_METRIC_SERIES_MAX && (m = new_series(id, label_value))) {
		if (registry.last[id])
			registry.last[id]->next = m;
		else
			registry.first[id] = m;
		registry.last[id] = m;
		registry.n_series++;
	}
	pthread_mutex_unlock(&registry.mutex);
	if (!m) {
		m = &fixed[id];
		atomic_store_explicit(&m->used, true, memory_order_relaxed);
	}
	return m;
}

void ex_metric_add(struct ex_metric *m, uint64_t n)
{
	assert(family[m->id].type == EX_COUNTER);
	atomic_fetch_add_explicit(&m->value, n, memory_order_relaxed);
}

static uint64_t bits_of(double v)
{
	uint64_t bits;
	memcpy(&bits, &v, sizeof bits);
	return bits;
}

static double double_of(uint64_t bits)
{
	double v;
	memcpy(&v, &bits, sizeof v);
	return v;
}

void ex_metric_set(struct ex_metric *m, double value)
{
	assert(family[m->id].type == EX_GAUGE);
	atomic_store_explicit(&m->value, bits_of(value), memory_order_relaxed);
}

static double upper_bound(int bucket_i)
{
	return ldexp(BUCKET_FIRST, bucket_i);
}

void ex_metric_observe(struct ex_metric *m, double v)
{
	assert(family[m->id].type == EX_HISTOGRAM);
	if (!(v > 0)) /* a clock that went back, or NaN */
		v = 0;
	int i = 0;
	while (i < BUCKET_N && v > upper_bound(i))
		i++;
	atomic_fetch_add_explicit(&m->bucket[i], 1, memory_order_relaxed);
	uint64_t old = atomic_load_explicit(&m->value, memory_order_relaxed);
	while (!atomic_compare_exchange_weak_explicit(
		&m->value, &old, bits_of(double_of(old) + v), memory_order_relaxed, memory_order_relaxed))
		;
}

/* A copy of the buckets; returns their sum. */
static uint64_t read_buckets(const struct ex_metric *m, uint64_t n[static BUCKET_N + 1])
{
	uint64_t total = 0;
	for (int i = 0; i <= BUCKET_N; i++) {
		n[i] = atomic_load_explicit(&m->bucket[i], memory_order_relaxed);
		total += n[i];
	}
	return total;
}

uint64_t ex_metric_count(const struct ex_metric *m)
{
	uint64_t n[BUCKET_N + 1];
	assert(family[m->id].type != EX_GAUGE);
	if (family[m->id].type == EX_HISTOGRAM)
		return read_buckets(m, n);
	return atomic_load_explicit(&m->value, memory_order_relaxed);
}

double ex_metric_quantile(const struct ex_metric *m, double q)
{
	assert(family[m->id].type == EX_HISTOGRAM);
	uint64_t n[BUCKET_N + 1], total = read_buckets(m, n);
	double rank = q * (double)total, below = 0;
	if (!total)
		return NAN;
	for (int i = 0; i < BUCKET_N; i++) {
		double low = i ? upper_bound(i - 1) : 0;
		if (n[i] && below + (double)n[i] >= rank)
			return low + (upper_bound(i) - low) * fmax(rank - below, 0) / (double)n[i];
		below += (double)n[i];
	}
	return upper_bound(BUCKET_N - 1);
}

static void write_number(struct ex_str *out, double v)
{
	if (v == floor(v) && fabs(v) < 0x1p53)
		ex_str_addf(out, "%.0f\n", v);
	else
		ex_str_addf(out, "%.9g\n", v);
}

/* label="value" with the value escaped; nothing in a family without labels. */
static void write_label(struct ex_str *out, const struct ex_metric *m)
{
	if (!family[m->id].label)
		return;
	ex_str_addf(out, "%s=\"", family[m->id].label);
	for (const char *s = m->label ? m->label : OVERFLOW_NAME; *s; s++)
		if (*s == '\n')
			ex_str_add(out, "\\n");
		else if (*s == '"' || *s == '\\')
			ex_str_addf(out, "\\%c", *s);
		else
			ex_str_addn(out, s, 1);
	ex_str_add(out, "\"");
}

static void write_histogram(struct ex_str *out, const struct ex_metric *m)
{
	const struct family *f = &family[m->id];
	uint64_t n[BUCKET_N + 1], total = read_buckets(m, n), up_to = 0;
	for (int i = 0; i <= BUCKET_N; i++) {
		up_to += n[i];
		ex_str_addf(out, "%s_bucket{", f->name);
		write_label(out, m);
		ex_str_add(out, f->label ? ",le=\"" : "le=\"");
		if (i < BUCKET_N)
			ex_str_addf(out, "%g", upper_bound(i));
		else
			ex_str_add(out, "+Inf");
		ex_str_addf(out, "\"} %llu\n", (unsigned long long)up_to);
	}
	const char *open = f->label ? "{" : "", *close = f->label ? "} " : " ";
	ex_str_addf(out, "%s_sum%s", f->name, open);
	write_label(out, m);
	ex_str_add(out, close);
	write_number(out, double_of(atomic_load_explicit(&m->value, memory_order_relaxed)));
	ex_str_addf(out, "%s_count%s", f->name, open);
	write_label(out, m);
	ex_str_addf(out, "%s%llu\n", close, (unsigned long long)total);
}

static void write_series(struct ex_str *out, const struct ex_metric *m)
{
	const struct family *f = &family[m->id];
	uint64_t value = atomic_load_explicit(&m->value, memory_order_relaxed);
	if (f->type == EX_HISTOGRAM) {
		write_histogram(out, m);
		return;
	}
	ex_str_addf(out, "%s%s", f->name, f->label ? "{" : "");
	write_label(out, m);
	ex_str_add(out, f->label ? "} " : " ");
	if (f->type == EX_COUNTER)
		ex_str_addf(out, "%llu\n", (unsigned long long)value);
	else
		write_number(out, double_of(value));
}

static void write_family(struct ex_str *out, int id)
{
	static const char *const type_name[] = {
		[EX_COUNTER] = "counter", [EX_GAUGE] = "gauge", [EX_HISTOGRAM] = "histogram"};
	bool show_fixed = !family[id].label || atomic_load_explicit(&fixed[id].used, memory_order_relaxed);
	if (!show_fixed && !registry.first[id])
		return;
	ex_str_addf(out, "# HELP %s %s\n# TYPE %s %s\n", family[id].name, family[id].help, family[id].name,
		type_name[family[id].type]);
	for (const struct ex_metric *m = registry.first[id]; m; m = m->next)
		write_series(out, m);
	if (show_fixed)
		write_series(out, &fixed[id]);
}

static void copy_lock_counts(void *ctx, const char *name, uint64_t n_taken, uint64_t n_waited)
{
	(void)ctx;
	atomic_store_explicit(&ex_metric(EX_M_LOCK_TAKEN, name)->value, n_taken, memory_order_relaxed);
	atomic_store_explicit(&ex_metric(EX_M_LOCK_WAITED, name)->value, n_waited, memory_order_relaxed);
}

void ex_metrics_write(struct ex_str *out)
{
	pthread_once(&once, init_fixed);
	ex_lock_each(copy_lock_counts, NULL);
	pthread_mutex_lock(&registry.mutex);
	for (int id = 0; id < EX_METRIC_N; id++)
		write_family(out, id);
	pthread_mutex_unlock(&registry.mutex);
}
