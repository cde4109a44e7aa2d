/* SPDX-License-Identifier: Apache-2.0 */
/* Lines and events to journald or stderr, and the event ring. Layer L0. */
#define SD_JOURNAL_SUPPRESS_LOCATION 1 /* file and line would be this file's */
#include "base/log.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/str.h"
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

#define LINE_MAX_BYTES 2048 /* a longer line is cut */

struct event_row {
	const char *name, *message_id;
	int priority;
};
static const struct event_row event_row[EX_EVENT_N] = {
#define EX_EVENT(ident, message_id_, priority_, subject, explanation)                                                  \
	[EX_EV_##ident] = {.name = #ident, .message_id = message_id_, .priority = priority_},
#include "base/tbl/events.h"
#undef EX_EVENT
};

static _Atomic int level = LOG_INFO;

static struct {
	pthread_once_t once;
	struct ex_lock lock;
	pthread_cond_t added;
	uint64_t n_events;                                /* guarded by lock; the newest event's seq */
	struct ex_event_record record[EX_EVENT_RING_MAX]; /* guarded by lock; event seq is at (seq - 1) % MAX */
} ring = {.once = PTHREAD_ONCE_INIT};

static pthread_once_t target_once = PTHREAD_ONCE_INIT;
static bool to_journal, to_terminal, to_nobody; /* set once */

/* $JOURNAL_STREAM is "device:inode" of the stream that systemd made for us: if stderr is still that, journald is
 * listening. */
static void find_target(void)
{
	struct stat st;
	unsigned long long dev, ino;
	const char *stream = getenv("JOURNAL_STREAM");
	bool there = fstat(STDERR_FILENO, &st) == 0;
	to_journal =
		there && stream && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 && st.st_dev == dev && st.st_ino == ino;
	/* started without a stderr, a library may have got an eventfd of that number before main: they have no type */
	to_nobody = !there || !(st.st_mode & S_IFMT);
	to_terminal = isatty(STDERR_FILENO);
}

static void init_ring(void)
{
	ex_lock_init(&ring.lock, "events");
	ex_cond_init(&ring.added);
}

void ex_log_level(int priority)
{
	atomic_store_explicit(&level, priority, memory_order_relaxed);
}

static const char *priority_name(int priority)
{
	static const char *const name[] = {
		[LOG_EMERG] = "emerg",
		[LOG_ALERT] = "alert",
		[LOG_CRIT] = "crit",
		[LOG_ERR] = "error",
		[LOG_WARNING] = "warning",
		[LOG_NOTICE] = "notice",
		[LOG_INFO] = "info",
		[LOG_DEBUG] = "debug",
	};
	return name[LOG_PRI(priority)];
}

/* One write per line, so that lines of several threads do not mix. */
static void line_to_stderr(int priority, const char *text)
{
	char line[LINE_MAX_BYTES + 64];
	size_t n = 0;
	if (to_nobody)
		return;
	if (to_terminal) {
		struct timespec t;
		struct tm tm;
		clock_gettime(CLOCK_REALTIME, &t);
		localtime_r(&t.tv_sec, &tm);
		n = strftime(line, sizeof line, "%H:%M:%S", &tm);
		n += (size_t)snprintf(line + n, sizeof line - n, ".%03ld ", t.tv_nsec / 1000000);
	}
	n += (size_t)snprintf(line + n, sizeof line - n, "%s: %s", priority_name(priority), text);
	n = EX_MIN(n, sizeof line - 2);
	line[n++] = '\n';
	ssize_t k = write(STDERR_FILENO, line, n);
	(void)k; /* where would an error be reported? */
}

/* False when journald did not take it. */
static bool line_to_journal(int priority, const char *text, enum ex_event_id id, const struct ex_field *fields)
{
	char message[LINE_MAX_BYTES + 16], prio[16], event_id[64];
	struct iovec v[3 + EX_EVENT_FIELDS_MAX];
	char *copy[EX_EVENT_FIELDS_MAX];
	int n = 0, n_copies = 0;
	v[n++] = (struct iovec){message, (size_t)snprintf(message, sizeof message, "MESSAGE=%s", text)};
	v[n++] = (struct iovec){prio, (size_t)snprintf(prio, sizeof prio, "PRIORITY=%d", LOG_PRI(priority))};
	if (id != EX_EVENT_N)
		v[n++] = (struct iovec){event_id,
			(size_t)snprintf(event_id, sizeof event_id, "MESSAGE_ID=%s", event_row[id].message_id)};
	for (; fields && fields->name && n_copies < EX_EVENT_FIELDS_MAX; fields++) {
		int len = asprintf(&copy[n_copies], "%s=%s", fields->name, fields->value ? fields->value : "");
		if (len >= 0)
			v[n++] = (struct iovec){copy[n_copies++], (size_t)len};
	}
	int rc = sd_journal_sendv(v, n);
	while (n_copies)
		free(copy[--n_copies]);
	return rc == 0;
}

static void emit(int priority, const char *text, enum ex_event_id id, const struct ex_field *fields)
{
	if (LOG_PRI(priority) > atomic_load_explicit(&level, memory_order_relaxed))
		return;
	pthread_once(&target_once, find_target);
	if (!to_journal || !line_to_journal(priority, text, id, fields))
		line_to_stderr(priority, text);
}

/* Text may hold what a peer sent: control characters could fake further lines or steer a terminal. */
static void print_text(char text[static LINE_MAX_BYTES], const char *fmt, va_list ap)
{
	char raw[LINE_MAX_BYTES];
	vsnprintf(raw, sizeof raw, fmt, ap);
	ex_printable(raw, text, LINE_MAX_BYTES);
}

void ex_log(int priority, const char *fmt, ...)
{
	char text[LINE_MAX_BYTES];
	va_list ap;
	if (LOG_PRI(priority) > atomic_load_explicit(&level, memory_order_relaxed))
		return;
	va_start(ap, fmt);
	print_text(text, fmt, ap);
	va_end(ap);
	emit(priority, text, EX_EVENT_N, NULL);
}

static void keep_event(enum ex_event_id id, const char *text, const struct ex_field *fields)
{
	pthread_once(&ring.once, init_ring);
	ex_lock_take(&ring.lock);
	struct ex_event_record *r = &ring.record[ring.n_events % EX_EVENT_RING_MAX];
	memset(r, 0, sizeof *r);
	r->seq = ++ring.n_events;
	r->realtime_us = ex_realtime_us();
	r->id = id;
	memcpy(r->text, text, strnlen(text, sizeof r->text - 1)); /* the rest is zero */
	for (int i = 0; fields && fields[i].name && i < EX_EVENT_FIELDS_MAX; i++)
		snprintf(r->fields[i], sizeof r->fields[i], "%s=%s", fields[i].name,
			fields[i].value ? fields[i].value : "");
	pthread_cond_broadcast(&ring.added);
	ex_lock_give(&ring.lock);
}

void ex_event(enum ex_event_id id, const struct ex_field *fields, const char *fmt, ...)
{
	char text[LINE_MAX_BYTES];
	va_list ap;
	assert((unsigned)id < EX_EVENT_N);
	va_start(ap, fmt);
	print_text(text, fmt, ap);
	va_end(ap);
	keep_event(id, text, fields);
	emit(event_row[id].priority, text, id, fields);
}

size_t ex_event_read(uint64_t after, struct ex_event_record *out, size_t max)
{
	size_t n = 0;
	pthread_once(&ring.once, init_ring);
	ex_lock_take(&ring.lock);
	uint64_t oldest = ring.n_events > EX_EVENT_RING_MAX ? ring.n_events - EX_EVENT_RING_MAX : 0;
	for (uint64_t seq = EX_MAX(after, oldest); seq < ring.n_events && n < max; seq++)
		out[n++] = ring.record[seq % EX_EVENT_RING_MAX];
	ex_lock_give(&ring.lock);
	return n;
}

void ex_event_wait(uint64_t after, unsigned timeout_ms)
{
	uint64_t deadline = ex_now_ns() + timeout_ms * EX_NS_PER_MS;
	pthread_once(&ring.once, init_ring);
	ex_lock_take(&ring.lock);
	while (ring.n_events <= after && ex_cond_wait_until(&ring.added, &ring.lock, deadline))
		;
	ex_lock_give(&ring.lock);
}

const char *ex_event_name(enum ex_event_id id)
{
	return (unsigned)id < EX_EVENT_N ? event_row[id].name : "?";
}

const char *ex_event_message_id(enum ex_event_id id)
{
	return (unsigned)id < EX_EVENT_N ? event_row[id].message_id : "";
}
