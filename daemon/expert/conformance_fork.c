/* SPDX-License-Identifier: Apache-2.0 */
/* The conformance suite in a child process, so that a plugin's crash is a result and not the end. Layer L2. */
#include "expert/conformance.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define HANG_S 120

/* The last message of a child that came to the end: a plugin may call exit(0), too. */
static const struct ex_check END = {.result = EX_CHECK_BEGINS};

static void send_check(void *ctx, const struct ex_check *c)
{
	const int *fd = ctx;
	/* one write: shorter than PIPE_BUF, so whole or not at all; a parent that is gone gets nothing more */
	if (write(*fd, c, sizeof *c) != (ssize_t)sizeof *c)
		_exit(1);
}
static_assert(
	sizeof(struct ex_check) <= 512, "a check goes through a pipe in one piece (POSIX: PIPE_BUF is at least 512)");

static _Noreturn void be_child(const struct ex_conformance_opts *o, int fd)
{
	struct ex_conformance_opts own = *o;
	static const int deadly[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
	for (size_t i = 0; i < EX_ARRAY_LEN(deadly); i++) /* the parent's handlers mean the parent */
		signal(deadly[i], SIG_DFL);
	own.report = send_check;
	own.ctx = &fd;
	setpgid(0, 0); /* what a plugin forks is ended with it */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ex_conformance_run(&own);
	send_check(&fd, &END);
	_exit(0);
}

/* The next message of the child; 0: it has ended, -ETIMEDOUT. */
static int receive(int fd, unsigned hang_s, struct ex_check *ret)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	int n = poll(&p, 1, (int)hang_s * 1000);
	if (n == 0)
		return -ETIMEDOUT;
	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	ssize_t k = read(fd, ret, sizeof *ret);
	ret->name[sizeof ret->name - 1] = ret->detail[sizeof ret->detail - 1] = '\0';
	return k == (ssize_t)sizeof *ret ? 1 : 0;
}

/* The check under way failed with the process: says how it ended. */
static void report_end(const struct ex_conformance_opts *o, struct ex_check *now, bool hung, int status)
{
	now->result = EX_CHECK_FAIL;
	if (hung)
		snprintf(now->detail, sizeof now->detail, "no result within %u s: killed",
			o->hang_s ? o->hang_s : HANG_S);
	else if (WIFSIGNALED(status))
		snprintf(now->detail, sizeof now->detail, "crashed: SIG%s (%s)", sigabbrev_np(WTERMSIG(status)),
			strsignal(WTERMSIG(status)));
	else
		snprintf(now->detail, sizeof now->detail, "the plugin ended the process, with status %d",
			WEXITSTATUS(status));
	o->report(o->ctx, now);
}

/* Ends the child, if it hangs, and all that it forked; its status. Nothing is reaped before the group is killed: its id is not reused. */
static int end_child(pid_t pid, bool timed_out, bool *ret_hung)
{
	siginfo_t si = {0};
	int status = 0;
	/* what it forked may keep the pipe open when it has long ended */
	*ret_hung = timed_out && (waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT | WNOHANG) < 0 || !si.si_pid);
	while (!*ret_hung && waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT) < 0 && errno == EINTR)
		;
	kill(-pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

int ex_conformance_run_forked(const struct ex_conformance_opts *o, struct ex_err *err)
{
	int fd[2], rc;
	if (pipe2(fd, O_CLOEXEC) < 0)
		return ex_err_errno(err, -errno, "cannot check '%s'", o->path);
	fflush(NULL); /* what is buffered is written once, by the parent */
	pid_t pid = fork();
	if (pid < 0) {
		rc = -errno;
		close(fd[0]);
		close(fd[1]);
		return ex_err_errno(err, rc, "cannot check '%s'", o->path);
	}
	if (pid == 0)
		be_child(o, fd[1]);
	setpgid(pid, pid); /* whoever comes first */
	close(fd[1]);
	int n_failed = 0;
	bool ended = false, hung;
	struct ex_check now = {.result = EX_CHECK_BEGINS, .name = "start"}, next;
	while ((rc = receive(fd[0], o->hang_s ? o->hang_s : HANG_S, &next)) == 1 || rc == -EAGAIN) {
		if (rc == -EAGAIN)
			continue;
		if ((ended = !next.name[0]))
			break;
		now = next;
		n_failed += now.result == EX_CHECK_FAIL;
		o->report(o->ctx, &now);
	}
	close(fd[0]);
	int status = end_child(pid, rc == -ETIMEDOUT, &hung);
	if (!ended || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		report_end(o, &now, hung, status);
		n_failed++;
	}
	return n_failed;
}
