/* SPDX-License-Identifier: Apache-2.0 */
/* The metrics registry: rows of tbl/metrics.h, series made at start, updated with relaxed atomics, written as Prometheus text.
 * Layer L0. Label values are few and known at start (host, layer, reason): never per expert, never per request. */
#ifndef EX_BASE_METRICS_H
#define EX_BASE_METRICS_H

#include "base/str.h"

enum ex_metric_type { EX_COUNTER, EX_GAUGE, EX_HISTOGRAM };

enum ex_metric_id {
#define EX_METRIC(ident, name, type, label, help) EX_M_##ident,
#include "base/tbl/metrics.h"
#undef EX_METRIC
	EX_METRIC_N
};

#define EX_METRIC_SERIES_MAX 4096 /* in all; beyond it ex_metric returns the family's overflow series, label "_other" */

struct ex_metric; /* one series; lives as long as the process */

/* The series of family `id` with this label value (NULL when the family has no label), made if new. Never NULL. [any] */
struct ex_metric *ex_metric(enum ex_metric_id id, const char *label_value);

void ex_metric_add(struct ex_metric *m, uint64_t n);   /* counter, +n [any] */
void ex_metric_set(struct ex_metric *m, double value); /* gauge [any] */
void ex_metric_observe(struct ex_metric *m, double v); /* histogram; v in the unit of the name (seconds) [any] */
uint64_t ex_metric_count(const struct ex_metric *m);   /* a counter's value, a histogram's observations [any] */
/* Quantile q (0..1) of a histogram, interpolated in its buckets; NaN when empty. [any] */
double ex_metric_quantile(const struct ex_metric *m, double q);

/* All series in Prometheus text format 0.0.4, appended to out. [any] */
void ex_metrics_write(struct ex_str *out);

#endif
