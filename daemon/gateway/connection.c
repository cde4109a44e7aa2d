/* SPDX-License-Identifier: Apache-2.0 */
/* Connections, and the time that their clients have. Layer L4. libmicrohttpd's own timeout is satisfied by a byte now and then; this one is not. */
#include "gateway/exchange.h"

#include "base/clock.h"
#include "base/mem.h"
#include <sys/socket.h>

void ex_conn_expect(struct ex_conn *conn, unsigned seconds)
{
	if (conn)
		atomic_store_explicit(&conn->deadline_ns, ex_now_ns() + seconds * EX_NS_PER_S, memory_order_relaxed);
}

void ex_conn_relax(struct ex_conn *conn)
{
	if (conn)
		atomic_store_explicit(&conn->deadline_ns, 0, memory_order_relaxed);
}

struct ex_conn *ex_conn_of(struct MHD_Connection *c)
{
	return MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

/* Without memory for it a connection has libmicrohttpd's timeout alone. */
static void add(struct ex_gateway *g, struct MHD_Connection *c, void **ret)
{
	struct ex_conn *conn = ex_calloc(1, sizeof *conn);
	*ret = conn;
	if (!conn)
		return;
	conn->fd = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
	ex_conn_expect(conn, g->o.header_timeout_s);
	ex_lock_take(&g->conns_lock);
	conn->next = g->conns;
	if (g->conns)
		g->conns->prev = conn;
	g->conns = conn;
	ex_lock_give(&g->conns_lock);
}

static void drop(struct ex_gateway *g, struct ex_conn *conn)
{
	ex_lock_take(&g->conns_lock);
	if (conn->next)
		conn->next->prev = conn->prev;
	if (conn->prev)
		conn->prev->next = conn->next;
	else
		g->conns = conn->next;
	ex_lock_give(&g->conns_lock);
	free(conn);
}

void ex_conn_notify(
	void *gateway, struct MHD_Connection *c, void **socket_context, enum MHD_ConnectionNotificationCode what)
{
	if (what == MHD_CONNECTION_NOTIFY_STARTED)
		add(gateway, c, socket_context);
	else if (*socket_context)
		drop(gateway, *socket_context);
}

/* The descriptor is open as long as the connection is listed. libmicrohttpd sees the end of it. */
void ex_conn_tick(struct ex_gateway *g, uint64_t now_ns)
{
	ex_lock_take(&g->conns_lock);
	for (struct ex_conn *conn = g->conns; conn; conn = conn->next) {
		uint64_t deadline = atomic_load_explicit(&conn->deadline_ns, memory_order_relaxed);
		if (deadline && now_ns >= deadline && shutdown(conn->fd, SHUT_RDWR) == 0)
			ex_conn_relax(conn);
	}
	ex_lock_give(&g->conns_lock);
}
