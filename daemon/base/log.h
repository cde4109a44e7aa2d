/* SPDX-License-Identifier: Apache-2.0 */
/* The journal: plain lines and operator events. Layer L0.
 *
 * Under systemd (JOURNAL_STREAM names our stderr) lines go to journald with structured fields; otherwise to stderr, prefixed with
 * the priority's name. Layers L0-L3 return errors instead of logging (LOG_DEBUG excepted); L4 and L5 log.
 * An event is a row of tbl/events.h: it carries a MESSAGE_ID, has a catalog entry, and is kept in a ring for `expertctl events`.
 */
#ifndef EX_BASE_LOG_H
#define EX_BASE_LOG_H

#include "base/macro.h"
#include <stdbool.h>
#include <syslog.h>

enum ex_event_id {
#define EX_EVENT(ident, message_id, priority, subject, explanation) EX_EV_##ident,
#include "base/tbl/events.h"
#undef EX_EVENT
	EX_EVENT_N
};

/* A journal field. name: [A-Z0-9_]+, e.g. "EX_SHARD", "EX_PEER", "EX_REQUEST". value: borrowed, any text. */
struct ex_field {
	const char *name, *value;
};
#define EX_FIELDS(...) ((const struct ex_field[]){__VA_ARGS__, {NULL, NULL}})

/* Lines above `priority` (LOG_ERR .. LOG_DEBUG) are dropped. Default LOG_INFO. [any] */
void ex_log_level(int priority);

/* One line. [any] */
void ex_log(int priority, const char *fmt, ...) EX_PRINTF(2, 3);

/* One event: journaled with MESSAGE_ID and fields (NULL-terminated list, or NULL), and put in the event ring. [any] */
void ex_event(enum ex_event_id id, const struct ex_field *fields, const char *fmt, ...) EX_PRINTF(3, 4);

/* The event ring: the newest EX_EVENT_RING_MAX events, numbered from 1. */
#define EX_EVENT_RING_MAX   1024
#define EX_EVENT_FIELDS_MAX 8
#define EX_EVENT_TEXT_MAX   512
struct ex_event_record {
	uint64_t seq, realtime_us;
	enum ex_event_id id;
	char text[EX_EVENT_TEXT_MAX];
	char fields[EX_EVENT_FIELDS_MAX][96]; /* "NAME=value", cut; empty when unused */
};
/* Copies events with seq > after into out[0..max), oldest first; returns how many. [any] */
size_t ex_event_read(uint64_t after, struct ex_event_record *out, size_t max);
/* Waits until an event with seq > after is there, or timeout_ms passed. [any] */
void ex_event_wait(uint64_t after, unsigned timeout_ms);
/* "SHARD_LOADED" and the 32 hex digits of its MESSAGE_ID. */
const char *ex_event_name(enum ex_event_id id);
const char *ex_event_message_id(enum ex_event_id id);

#endif
