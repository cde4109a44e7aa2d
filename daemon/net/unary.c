/* SPDX-License-Identifier: Apache-2.0 */
/* Calls of one answer for threads that may wait. Layer L1. */
#include "net/client.h"
#include "net/tag.h"

#include <pthread.h>
#include <stdio.h>

struct unary {
	pthread_mutex_t lock;
	pthread_cond_t over;
	struct ex_msg *reply;
	bool closed;
	int status;
	char text[512];
};

static void unary_message(struct ex_stream *s, struct ex_msg *m, void *ctx)
{
	struct unary *u = ctx;
	(void)s;
	ex_msg_free(u->reply);
	u->reply = m;
}

static void unary_closed(struct ex_stream *s, int status, const char *text, void *ctx)
{
	struct unary *u = ctx;
	(void)s;
	pthread_mutex_lock(&u->lock);
	u->status = status;
	snprintf(u->text, sizeof u->text, "%s", text);
	u->closed = true;
	pthread_cond_signal(&u->over);
	pthread_mutex_unlock(&u->lock);
}

int ex_unary(struct ex_channel *c, const char *path, const ProtobufCMessage *request, unsigned deadline_ms,
	struct ex_err *err, struct ex_msg **ret)
{
	static const struct ex_stream_ops ops = {.message = unary_message, .closed = unary_closed};
	assert(!ex_loop_is_current(ex_channel_loop(c)));
	struct unary u = {.lock = PTHREAD_MUTEX_INITIALIZER, .over = PTHREAD_COND_INITIALIZER};
	struct ex_out *o = ex_out_pack(request);
	struct ex_stream *s;
	if (!o)
		return ex_err_errno(err, -ENOMEM, "failed to call %s", path);
	int rc = ex_stream_open(c, path, deadline_ms, false, &ops, &u, err, &s);
	if (rc) {
		ex_out_free(o);
		return rc;
	}
	ex_stream_send(s, o);
	ex_stream_close_send(s);
	pthread_mutex_lock(&u.lock);
	while (!u.closed)
		pthread_cond_wait(&u.over, &u.lock);
	pthread_mutex_unlock(&u.lock);
	ex_stream_drop(s);
	pthread_cond_destroy(&u.over);
	pthread_mutex_destroy(&u.lock);
	if (u.status == EX_STATUS_OK && !u.reply)
		return ex_err_set(err, -EBADMSG, "%s: the call ended without a reply", path);
	if (u.status != EX_STATUS_OK) {
		ex_msg_free(u.reply);
		return ex_err_set(err, ex_status_to_errno(u.status), "%s: %s", ex_status_name(u.status), u.text);
	}
	*ret = u.reply;
	return 0;
}
