/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's life. The main thread waits for signals and feeds the watchdog; a loader thread builds the house, which
 * may take minutes, so that a stop is heeded meanwhile. Layer L5. */
#include "core/lifecycle.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "core/exit.h"
#include "core/house.h"
#include "net/loop.h"
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define TICK_MS        500
#define DRAIN_SLICE_MS 100
#define UNLOAD_MS      30000              /* for taking the house apart after the drain */
#define STALLED_NS     (10 * EX_NS_PER_S) /* a thread still for that long is told about */

struct watched {
	uint64_t n_turns, since_ns;
	bool told;
};

struct life {
	struct ex_lock reloading; /* one reload at a time, the later one sees the later files; before `lock` */
	struct ex_lock lock;      /* of params: main and the admin loop read and reload them */
	struct ex_params *params; /* guarded by lock once the house is there */
	const char *const *files;
	size_t n_files;
	struct ex_house *house;
	int signal_fd, loaded_fd;
	bool net; /* ex_net_init was called */
	pthread_t loader;
	int load_rc; /* set by the loader before it writes to loaded_fd */
	struct ex_err load_err;
	bool ready;
	unsigned n_stops; /* SIGTERM and SIGINT so far */
	struct watched watched[EX_HOUSE_THREADS_MAX];
	uint64_t watchdog_ns; /* how often to feed it; 0: there is none */
	uint64_t fed_ns;
};

/* --- configuration, live --------------------------------------------------------------------------------- */

static void dump_config(void *ctx, struct ex_str *out)
{
	struct life *l = ctx;
	ex_lock_take(&l->lock);
	ex_params_dump(l->params, out);
	ex_lock_give(&l->lock);
}

struct changes {
	struct ex_str taken, left;
	void (*changed)(void *fn_ctx, const char *name, bool taken);
	void *fn_ctx;
};

static void note_change(void *ctx, const char *name, bool taken)
{
	struct changes *c = ctx;
	struct ex_str *list = taken ? &c->taken : &c->left;
	ex_str_addf(list, "%s%s", list->n ? ", " : "", name);
	if (c->changed)
		c->changed(c->fn_ctx, name, taken);
}

static int refuse_reload(struct ex_config_errors *errors, struct ex_err *err)
{
	char *rest = errors->text.s;
	struct ex_str told = EX_STR_INIT; /* an error's text is one line */
	for (char *line; rest && (line = strsep(&rest, "\n"));)
		if (*line) {
			ex_log(LOG_ERR, "%s", line);
			ex_str_addf(&told, "%s%s", told.n ? "; " : "", line);
		}
	ex_err_set(err, -EINVAL, "%s", told.n ? told.s : "out of memory");
	ex_str_done(&told);
	ex_event(EX_EV_CONFIG_REFUSED, NULL, "the configuration has %u error%s; the old one stays in force", errors->n,
		errors->n == 1 ? "" : "s");
	ex_config_errors_done(errors);
	return -EINVAL;
}

/* Reads the files again. What may change while running is taken over; the rest is named. [main, admin loop] */
static int reload(
	void *ctx, struct ex_err *err, void (*changed)(void *fn_ctx, const char *name, bool taken), void *fn_ctx)
{
	struct life *l = ctx;
	struct ex_config_errors errors = {0};
	struct changes c = {.changed = changed, .fn_ctx = fn_ctx};
	struct ex_params fresh;
	int rc;
	ex_lock_take(&l->reloading); /* the INI library's settings are the process's */
	rc = ex_config_load(l->files, l->n_files, &fresh, &errors);
	if (rc == 0) {
		rc = ex_config_check_model(&fresh, &errors); /* else the restart that a change needs would be refused */
		if (rc == 0) {
			ex_lock_take(&l->lock);
			ex_params_reload(l->params, &fresh, note_change, &c);
			ex_log_level(ex_config_log_level(l->params));
			ex_house_reload(l->house);
			ex_house_reload_tls(l->house, l->params);
			ex_lock_give(&l->lock);
		}
		ex_params_done(&fresh);
	}
	ex_lock_give(&l->reloading);
	if (rc < 0)
		return refuse_reload(&errors, err);
	ex_event(EX_EV_CONFIG_RELOADED, NULL, "configuration read again; changed: %s; needs a restart: %s",
		c.taken.n ? c.taken.s : "nothing", c.left.n ? c.left.s : "nothing");
	ex_str_done(&c.taken);
	ex_str_done(&c.left);
	ex_config_errors_done(&errors);
	return 0;
}

static unsigned drain_ms(struct life *l)
{
	ex_lock_take(&l->lock);
	unsigned ms = l->params->node_drain_s * 1000;
	ex_lock_give(&l->lock);
	return ms;
}

/* --- start ----------------------------------------------------------------------------------------------- */

static void *load(void *arg)
{
	struct life *l = arg;
	pthread_setname_np(pthread_self(), "loader");
	l->load_rc = ex_house_build(l->house, &l->load_err);
	uint64_t one = 1;
	while (write(l->loaded_fd, &one, sizeof one) < 0 && errno == EINTR)
		;
	return NULL;
}

/* The state directory and those above it, as `mkdir -p -m 0700`. */
static int make_state_dir(const char *path, struct ex_err *err)
{
	struct stat st;
	EX_CLEANUP(ex_freep) char *part = strdup(path);
	if (!part)
		return ex_err_errno(err, -ENOMEM, "cannot make '%s'", path);
	for (char *s = part + 1; *s; s++)
		if (*s == '/') {
			*s = '\0';
			if (mkdir(part, 0700) < 0 && errno != EEXIST)
				return ex_err_errno(err, -errno, "cannot make state directory '%s'", part);
			*s = '/';
		}
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return ex_err_errno(err, -errno, "cannot make state directory '%s'", path);
	if (stat(path, &st) < 0)
		return ex_err_errno(err, -errno, "cannot use state directory '%s'", path);
	if (!S_ISDIR(st.st_mode))
		return ex_err_set(err, -ENOTDIR, "state '%s' is not a directory", path);
	if (access(path, W_OK | X_OK) < 0)
		return ex_err_errno(err, -errno, "cannot write to state directory '%s'", path);
	return 0;
}

/* Signals are taken from a descriptor by the main thread; every other thread inherits the mask. */
static int open_signals(struct ex_err *err)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? ex_err_errno(err, -errno, "cannot take signals") : fd;
}

static int start(struct life *l, struct ex_err *err)
{
	uint64_t watchdog_us = 0;
	const struct ex_house_opts o = {
		.params = l->params, .params_lock = &l->lock, .dump_config = dump_config, .reload = reload, .ctx = l};
	l->signal_fd = open_signals(err);
	if (l->signal_fd < 0)
		return l->signal_fd;
	l->loaded_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->loaded_fd < 0)
		return ex_err_errno(err, -errno, "cannot start");
	if (sd_watchdog_enabled(0, &watchdog_us) > 0)
		l->watchdog_ns = watchdog_us * 1000 / 4;
	int rc = make_state_dir(l->params->node_state, err);
	if (rc < 0)
		return rc;
	ex_net_init();
	l->net = true;
	rc = ex_house_new(&o, err, &l->house);
	if (rc < 0)
		return rc;
	rc = -pthread_create(&l->loader, NULL, load, l);
	return rc < 0 ? ex_err_errno(err, rc, "cannot start the loader thread") : 0;
}

/* --- while it runs --------------------------------------------------------------------------------------- */

static void on_reload_signal(struct life *l)
{
	struct ex_err err = EX_ERR_INIT;
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)(ex_now_ns() / 1000));
	(void)reload(l, &err, NULL, NULL); /* it logs what it refuses */
	if (l->ready)
		sd_notify(0, "READY=1");
}

static void take_signals(struct life *l)
{
	struct signalfd_siginfo s;
	while (read(l->signal_fd, &s, sizeof s) == (ssize_t)sizeof s)
		if (s.ssi_signo == SIGHUP)
			on_reload_signal(l);
		else if (l->n_stops++ == 0) {
			ex_log(LOG_NOTICE, "%s from process %u", s.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT",
				s.ssi_pid);
			if (!l->ready)
				ex_house_cancel(l->house);
		}
}

/* The loader is done: 0, or why the start failed. */
static int finish_start(struct life *l)
{
	uint64_t n;
	if (read(l->loaded_fd, &n, sizeof n) < 0)
		return 0;
	pthread_join(l->loader, NULL);
	l->loader = 0;
	if (l->load_rc < 0)
		return l->load_rc;
	l->ready = true;
	sd_notify(0, "READY=1");
	ex_event(EX_EV_DAEMON_READY, EX_FIELDS({"EX_NODE", l->params->node_name}), "%s is ready: %s%s%s, model %s",
		l->params->node_name, ex_config_is_expert(l->params) ? "expert" : "",
		ex_config_is_expert(l->params) && ex_config_is_router(l->params) ? " and " : "",
		ex_config_is_router(l->params) ? "router" : "", l->params->model_name);
	return 0;
}

/* Feeds the watchdog if every thread turned since it was last fed; tells about those that stand still. */
static void watch_threads(struct life *l)
{
	struct ex_house_thread t[EX_HOUSE_THREADS_MAX];
	size_t n = ex_house_threads(l->house, t);
	uint64_t now = ex_now_ns();
	bool all_turn = true;
	for (size_t i = 0; i < n; i++) {
		struct watched *w = &l->watched[i];
		if (t[i].n_turns != w->n_turns || !w->since_ns)
			*w = (struct watched){.n_turns = t[i].n_turns, .since_ns = now};
		else if (now - w->since_ns > STALLED_NS && !w->told) {
			ex_event(EX_EV_THREAD_STALLED, EX_FIELDS({"EX_THREAD", t[i].name}),
				"thread %s makes no progress", t[i].name);
			w->told = true;
		}
		all_turn &= w->since_ns >= l->fed_ns;
	}
	if (l->watchdog_ns && all_turn && now - l->fed_ns >= l->watchdog_ns) {
		sd_notify(0, "WATCHDOG=1");
		l->fed_ns = now;
	}
}

/* Until a stop is asked for (0) or the start failed (-errno). load_err is the loader's until it has ended. */
static int run(struct life *l, struct ex_err *err)
{
	struct pollfd fds[] = {{.fd = l->signal_fd, .events = POLLIN}, {.fd = l->loaded_fd, .events = POLLIN}};
	while (l->ready ? l->n_stops == 0 : l->n_stops <= 1) {
		if (poll(fds, EX_ARRAY_LEN(fds), TICK_MS) < 0 && errno != EINTR)
			return ex_err_errno(err, -errno, "cannot wait for signals");
		take_signals(l);
		if (!l->ready && (fds[1].revents & POLLIN)) {
			int rc = finish_start(l);
			if (rc < 0) {
				*err = l->load_err;
				return rc;
			}
		}
		if (l->ready) {
			ex_house_tick(l->house);
			watch_threads(l);
		}
	}
	return 0;
}

/* Waits for what is in flight, at most drain_s; a second signal ends the wait. */
static void drain(struct life *l)
{
	uint64_t deadline = ex_now_ns() + drain_ms(l) * EX_NS_PER_MS;
	/* the unit's TimeoutStopSec= knows nothing of a drain_s that is longer */
	sd_notifyf(0, "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=%llu", (drain_ms(l) + UNLOAD_MS) * 1000ull);
	ex_event(EX_EV_DAEMON_STOPPING, EX_FIELDS({"EX_NODE", l->params->node_name}), "%s is stopping",
		l->params->node_name);
	while (l->n_stops < 2 && !ex_house_drain(l->house, DRAIN_SLICE_MS)) {
		if (ex_now_ns() >= deadline) {
			ex_log(LOG_WARNING, "requests are still in flight after drain_s = %u: they are cut",
				drain_ms(l) / 1000);
			break;
		}
		take_signals(l);
		ex_house_tick(l->house);
		watch_threads(l);
	}
}

int ex_life(struct ex_params *params, const char *const *files, size_t n_files)
{
	struct life l = {.params = params, .files = files, .n_files = n_files, .signal_fd = -1, .loaded_fd = -1};
	struct ex_err err = EX_ERR_INIT;
	ex_lock_init(&l.reloading, "reload");
	ex_lock_init(&l.lock, "config");
	int rc = start(&l, &err);
	if (rc == 0)
		rc = run(&l, &err);
	if (rc == 0 && !l.ready &&
		l.loader) { /* two stops while loading: there is nothing to save, and loading may go on for minutes */
		ex_log(LOG_NOTICE, "stopped while loading");
		pthread_detach(l.loader);
		_exit(EX_EXIT_OK);
	}
	if (rc == 0)
		drain(&l);
	else if (rc == -ECANCELED)
		rc = 0;
	else
		ex_log(LOG_ERR, "cannot start: %s", ex_err_text(&err));
	if (l.loader) {
		ex_house_cancel(l.house);
		pthread_join(l.loader, NULL);
	}
	l.house = ex_house_free(l.house);
	if (l.net)
		ex_net_done();
	ex_closep(&l.signal_fd);
	ex_closep(&l.loaded_fd);
	ex_lock_done(&l.lock);
	ex_lock_done(&l.reloading);
	return rc < 0 ? EX_EXIT_FAILURE : EX_EXIT_OK;
}
