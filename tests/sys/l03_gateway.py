# SPDX-License-Identifier: Apache-2.0
"""Ten thousand idle connections and a thousand open streams at one gateway, and what they take."""

import selectors
import socket

from fleet import expect, expect_equal, wait_until
from g01_http import ask, check_serves, gateway, post

IDLE, STREAMS = 10000, 1000
BYTES_MAX = 400 << 20


def resident(node):
    with open(f"/proc/{node.process.pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * 4096


def connect(node, n, request):
    """n connections, each with one request sent."""
    out = []
    for _ in range(n):
        s = socket.create_connection(("127.0.0.1", node.http), timeout=60)
        s.sendall(request)
        out.append(s)
    return out


def read_streams(sockets, timeout=500):
    """How many of the streams came to their end."""
    chosen = selectors.DefaultSelector()
    ends = {s: b"" for s in sockets}
    for s in sockets:
        chosen.register(s, selectors.EVENT_READ)
    done = 0
    while chosen.get_map():
        ready = chosen.select(timeout)
        if not ready:
            break
        for key, _ in ready:
            part = key.fileobj.recv(65536)
            ends[key.fileobj] = (ends[key.fileobj] + part)[-100:]
            if not part:
                chosen.unregister(key.fileobj)
                done += b"data: [DONE]" in ends[key.fileobj]
    return done


def test_many_connections(case):
    """All are served, within the memory that docs/OPERATIONS.md states, while others are answered as ever."""
    with case.fleet() as f:
        node = gateway(f, queue_max=2000, idle_timeout_s=3600, keep_alive_s=5)
        check_serves(node)
        before = resident(node)
        idle = connect(node, IDLE, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        for s in idle:
            expect(s.recv(4096).startswith(b"HTTP/1.1 200 "), "a connection was not answered")
        with_idle = resident(node)
        check_serves(node)
        streams = connect(node, STREAMS, post(ask(stream=True), "Connection: close"))
        wait_until("streams wait", lambda: node.ctl_json("status")["router"]["waiting"] > STREAMS // 2, 60)
        with_streams = resident(node)
        print(f"    resident: {before >> 20} MiB, with {IDLE} idle connections {with_idle >> 20} MiB, "
              f"with {STREAMS} streams as well {with_streams >> 20} MiB", flush=True)
        check = socket.create_connection(("127.0.0.1", node.http), timeout=60)
        check.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        expect(check.recv(4096).startswith(b"HTTP/1.1 200 "), "a newcomer was not answered")
        expect_equal(read_streams(streams), STREAMS, "streams that came to their end")
        for s in idle:
            s.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
            expect(s.recv(4096).startswith(b"HTTP/1.1 200 "), "an idle connection was lost")
        expect(with_streams - before < BYTES_MAX, f"{(with_streams - before) >> 20} MiB more")
