/* SPDX-License-Identifier: Apache-2.0 */
/* The parent's side of a trial. Layer L2. */
#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "expert/trial_int.h"
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define SLICE_MS 200 /* between looks whether somebody still waits for the answer */

struct ex_trial {
	pid_t pid; /* 0: it is gone */
	int fd;
	unsigned deadline_s;
	bool (*alive)(void *ctx);
	void *ctx;
	char stage[TRIAL_TEXT_MAX]; /* what it was about to do */
};

int trial_send(int fd, const void *data, size_t n)
{
	const char *at = data;
	while (n) {
		ssize_t k = send(fd, at, n, MSG_NOSIGNAL);
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return errno == EAGAIN ? -ETIMEDOUT : -ECHILD;
		at += k;
		n -= (size_t)k;
	}
	return 0;
}

int trial_receive(int fd, void *data, size_t n)
{
	char *at = data;
	while (n) {
		ssize_t k = recv(fd, at, n, 0);
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return k < 0 && errno == EAGAIN ? -ETIMEDOUT : -ECHILD;
		at += k;
		n -= (size_t)k;
	}
	return 0;
}

/* --- the child's life ------------------------------------------------------------------------------------ */

/* Descriptors of the daemon are all close-on-exec; signals are as a fresh program has them. */
static int spawn(const char *exe, int fd, pid_t *ret)
{
	char *const argv[] = {"expertd", EX_TRIAL_OPTION, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, all;
	sigemptyset(&none);
	sigfillset(&all);
	int rc = posix_spawn_file_actions_init(&actions);
	if (rc)
		return -rc;
	rc = posix_spawnattr_init(&attributes);
	if (rc) {
		posix_spawn_file_actions_destroy(&actions);
		return -rc;
	}
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &all);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	rc = posix_spawn_file_actions_adddup2(&actions, fd, EX_TRIAL_FD);
	if (!rc)
		rc = posix_spawn(ret, exe, &actions, &attributes, argv, environ);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	return -rc;
}

static int send_setup(const struct ex_trial *t, const struct ex_trial_opts *o)
{
	struct ex_str text = EX_STR_INIT;
	const char *const first[] = {o->plugin, o->model, o->which};
	for (size_t i = 0; i < EX_ARRAY_LEN(first); i++)
		ex_str_addn(&text, first[i], strlen(first[i]) + 1);
	for (size_t i = 0; i < o->n_options; i++)
		ex_str_addn(&text, o->options[i], strlen(o->options[i]) + 1);
	const struct trial_head h = {TRIAL_SETUP, (uint32_t)(EX_ARRAY_LEN(first) + o->n_options), text.n};
	int rc = text.oom ? -ENOMEM : trial_send(t->fd, &h, sizeof h);
	if (rc == 0)
		rc = trial_send(t->fd, text.s, text.n);
	ex_str_done(&text);
	return rc;
}

int ex_trial_start(const struct ex_trial_opts *o, struct ex_err *err, struct ex_trial **ret)
{
	EX_CLEANUP(ex_trial_endp) struct ex_trial *t = ex_calloc(1, sizeof *t);
	int fd[2];
	const struct timeval deadline = {.tv_sec = o->deadline_s};
	if (!t)
		return ex_err_errno(err, -ENOMEM, "cannot start a trial");
	t->fd = -1;
	t->deadline_s = o->deadline_s;
	t->alive = o->alive;
	t->ctx = o->ctx;
	snprintf(t->stage, sizeof t->stage, "starting");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) < 0)
		return ex_err_errno(err, -errno, "cannot start a trial");
	t->fd = fd[0];
	int rc = setsockopt(fd[0], SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof deadline) < 0 ||
				 setsockopt(fd[0], SOL_SOCKET, SO_SNDTIMEO, &deadline, sizeof deadline) < 0
			 ? -errno
			 : spawn(o->exe ? o->exe : "/proc/self/exe", fd[1], &t->pid);
	close(fd[1]);
	if (rc == 0)
		rc = send_setup(t, o);
	if (rc < 0)
		return ex_err_errno(err, rc, "cannot start a trial");
	*ret = EX_TAKE(t);
	return 0;
}

/* Ends the child; returns how it ended, as wait() says it. */
static int bury(struct ex_trial *t, bool kill_it)
{
	int status = 0;
	if (t->pid > 0) {
		if (kill_it)
			kill(t->pid, SIGKILL);
		while (waitpid(t->pid, &status, 0) < 0 && errno == EINTR)
			;
	}
	t->pid = 0;
	ex_closep(&t->fd);
	return status;
}

struct ex_trial *ex_trial_end(struct ex_trial *t)
{
	if (t) {
		bury(t, true);
		free(t);
	}
	return NULL;
}

bool ex_trial_alive(const struct ex_trial *t)
{
	return t->pid > 0;
}

/* It did not answer: says why, and buries it. */
static int say_end(struct ex_trial *t, int rc, struct ex_err *err)
{
	int status = bury(t, rc != -ECHILD);
	if (rc == -ETIMEDOUT)
		return ex_err_set(err, rc, "the plugin hung in %s: no answer within %u s", t->stage, t->deadline_s);
	if (rc == -ECANCELED)
		return ex_err_set(err, rc, "a stop was asked for");
	if (rc != -ECHILD)
		return ex_err_errno(err, rc, "cannot talk to the trial in %s", t->stage);
	if (WIFSIGNALED(status))
		return ex_err_set(err, rc, "the plugin crashed in %s: SIG%s (%s)", t->stage,
			sigabbrev_np(WTERMSIG(status)), strsignal(WTERMSIG(status)));
	return ex_err_set(err, rc, "the plugin ended the process in %s, with status %d", t->stage, WEXITSTATUS(status));
}

/* --- asking ---------------------------------------------------------------------------------------------- */

static int receive_text(struct ex_trial *t, uint64_t bytes, char out[static TRIAL_TEXT_MAX])
{
	if (bytes >= TRIAL_TEXT_MAX)
		return -EPROTO;
	int rc = trial_receive(t->fd, out, bytes);
	out[rc == 0 ? bytes : 0] = '\0';
	return rc;
}

/* Returns when the child has said something, or is gone. */
static int wait_answer(const struct ex_trial *t)
{
	uint64_t deadline = ex_now_ns() + t->deadline_s * EX_NS_PER_S;
	struct pollfd p = {.fd = t->fd, .events = POLLIN};
	while (ex_now_ns() < deadline) {
		if (t->alive && !t->alive(t->ctx))
			return -ECANCELED;
		int n = poll(&p, 1, SLICE_MS);
		if (n != 0)
			return n < 0 && errno != EINTR ? -errno : 0;
	}
	return -ETIMEDOUT;
}

/* The next message that is not a stage. Text of a failure goes to err. 1: Y, 0: done. */
static int next_answer(struct ex_trial *t, struct trial_head *h, struct ex_err *err)
{
	char text[TRIAL_TEXT_MAX];
	int rc;
	while ((rc = wait_answer(t)) == 0 && (rc = trial_receive(t->fd, h, sizeof *h)) == 0 && h->kind == TRIAL_STAGE)
		if ((rc = receive_text(t, h->bytes, t->stage)) < 0)
			break;
	if (rc < 0)
		return say_end(t, rc, err);
	if (h->kind == TRIAL_DONE || h->kind == TRIAL_Y)
		return h->kind == TRIAL_Y;
	rc = h->kind == TRIAL_FAILED ? receive_text(t, h->bytes, text) : -EPROTO;
	if (rc < 0)
		return say_end(t, rc, err);
	int code = -(int)h->n;
	return ex_err_set(err, code < 0 ? code : -EPROTO, "%s", text);
}

int ex_trial_check(struct ex_trial *t, struct ex_err *err)
{
	struct trial_head h = {.kind = TRIAL_CHECK};
	if (!ex_trial_alive(t))
		return ex_err_set(err, -ECHILD, "the trial is over");
	int rc = trial_send(t->fd, &h, sizeof h);
	return rc < 0 ? say_end(t, rc, err) : next_answer(t, &h, err);
}

static int send_batch(const struct ex_trial *t, const struct ex_batch *c)
{
	const struct expertd_batch *b = &c->b;
	const struct trial_batch head = {b->n_tokens, b->n_experts, b->n_assignments, b->x_dtype};
	const struct {
		const void *data;
		size_t n;
	} part[] = {
		{&head, sizeof head},
		{b->x, c->x_bytes},
		{b->offset, ((size_t)b->n_experts + 1) * sizeof *b->offset},
		{b->token, b->n_assignments * sizeof *b->token},
		{b->weight, b->n_assignments * sizeof *b->weight},
	};
	struct trial_head h = {.kind = TRIAL_BATCH};
	for (size_t i = 0; i < EX_ARRAY_LEN(part); i++)
		h.bytes += part[i].n;
	int rc = trial_send(t->fd, &h, sizeof h);
	for (size_t i = 0; i < EX_ARRAY_LEN(part) && rc == 0; i++)
		rc = trial_send(t->fd, part[i].data, part[i].n);
	return rc;
}

int ex_trial_shard(struct ex_trial *t, const struct ex_shard_id *id, struct ex_batch *const *batches, size_t n,
	uint32_t d_model, float *const *y, struct ex_err *err)
{
	struct trial_head h = {TRIAL_SHARD, (uint32_t)n, sizeof(struct trial_shard)};
	const struct trial_shard head = {*id, d_model};
	if (!ex_trial_alive(t))
		return ex_err_set(err, -ECHILD, "the trial is over");
	int rc = trial_send(t->fd, &h, sizeof h);
	if (rc == 0)
		rc = trial_send(t->fd, &head, sizeof head);
	for (size_t i = 0; i < n && rc == 0; i++)
		rc = send_batch(t, batches[i]);
	if (rc < 0)
		return say_end(t, rc, err);
	size_t n_seen = 0;
	while ((rc = next_answer(t, &h, err)) == 1) {
		size_t bytes = n_seen < n ? (size_t)batches[n_seen]->b.n_tokens * d_model * sizeof(float) : 0;
		if (n_seen >= n || h.n != n_seen || h.bytes != bytes)
			return say_end(t, -EPROTO, err);
		rc = trial_receive(t->fd, y[n_seen++], bytes);
		if (rc < 0)
			return say_end(t, rc, err);
	}
	return rc == 0 && n_seen < n ? say_end(t, -EPROTO, err) : rc;
}
