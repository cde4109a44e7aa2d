/* SPDX-License-Identifier: Apache-2.0 */
/* Who watches while connections are suspended: libmicrohttpd does not look at their sockets then. Layer L4. */
#include "gateway/exchange.h"

#include "base/clock.h"
#include "base/mem.h"
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define TICK_MS    250
#define EVENTS_MAX 64

struct ex_watch {
	struct ex_gateway *g;
	pthread_t thread;
	int epoll_fd, stop_fd;
	atomic_bool stopping;
	_Atomic uint64_t turns;
};

/* A hold on the exchange of this number, whose client left; NULL: it is gone already, and its descriptor perhaps another's. Under load libmicrohttpd may
 * miss the end of a connection that has sent half a body: shutting it down is news to it. The descriptor is open as long as the exchange is listed. */
static struct ex_exchange *find(struct ex_gateway *g, uint64_t serial)
{
	ex_lock_take(&g->lock);
	struct ex_exchange *x = g->first;
	while (x && x->serial != serial)
		x = x->next;
	if (x) {
		ex_exchange_ref(x);
		shutdown(x->fd, SHUT_RDWR);
	}
	ex_lock_give(&g->lock);
	return x;
}

static void take_events(struct ex_watch *w, const struct epoll_event *events, int n)
{
	for (int i = 0; i < n; i++) {
		struct ex_exchange *x = find(w->g, events[i].data.u64);
		if (!x)
			continue;
		ex_exchange_abandon(x);
		ex_exchange_unref(x);
	}
}

static void tick(struct ex_gateway *g)
{
	uint64_t now = ex_now_ns();
	ex_lock_take(&g->lock);
	for (struct ex_exchange *x = g->first; x; x = x->next)
		ex_exchange_tick(x, now);
	ex_lock_give(&g->lock);
	ex_conn_tick(g, now);
}

static void *run(void *arg)
{
	struct ex_watch *w = arg;
	struct epoll_event events[EVENTS_MAX];
	uint64_t ticked = 0;
	while (!atomic_load_explicit(&w->stopping, memory_order_relaxed)) {
		int n = epoll_wait(w->epoll_fd, events, EVENTS_MAX, TICK_MS);
		take_events(w, events, n);
		if (ex_now_ns() - ticked >= TICK_MS * EX_NS_PER_MS) {
			tick(w->g);
			ticked = ex_now_ns();
		}
		atomic_fetch_add_explicit(&w->turns, 1, memory_order_relaxed);
	}
	return NULL;
}

static void destroy(struct ex_watch *w)
{
	ex_closep(&w->epoll_fd);
	ex_closep(&w->stop_fd);
	free(w);
}

int ex_watch_new(struct ex_gateway *g, struct ex_err *err, struct ex_watch **ret)
{
	struct ex_watch *w = ex_calloc(1, sizeof *w);
	if (!w)
		return ex_err_errno(err, -ENOMEM, "cannot watch HTTP clients");
	w->g = g;
	w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	w->stop_fd = eventfd(0, EFD_CLOEXEC);
	struct epoll_event e = {.events = EPOLLIN, .data.u64 = 0};
	int rc =
		w->epoll_fd < 0 || w->stop_fd < 0 || epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, w->stop_fd, &e) ? -errno : 0;
	if (!rc)
		rc = -pthread_create(&w->thread, NULL, run, w);
	if (rc) {
		destroy(w);
		return ex_err_errno(err, rc, "cannot watch HTTP clients");
	}
	pthread_setname_np(w->thread, "http-watch");
	*ret = w;
	return 0;
}

struct ex_watch *ex_watch_free(struct ex_watch *w)
{
	if (!w)
		return NULL;
	atomic_store_explicit(&w->stopping, true, memory_order_relaxed);
	eventfd_write(w->stop_fd, 1);
	pthread_join(w->thread, NULL);
	destroy(w);
	return NULL;
}

/* A client that closes its side for writing is gone, as other servers see it, too: one told once is enough. */
void ex_watch_add(struct ex_watch *w, const struct ex_exchange *x)
{
	struct epoll_event e = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.u64 = x->serial};
	epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, x->fd, &e); /* without it the next write tells */
}

void ex_watch_remove(struct ex_watch *w, const struct ex_exchange *x)
{
	struct epoll_event e = {0};
	epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, x->fd, &e);
}

uint64_t ex_watch_turns(const struct ex_watch *w)
{
	return atomic_load_explicit(&w->turns, memory_order_relaxed);
}
