# SPDX-License-Identifier: Apache-2.0
"""Strangers on the ports: garbage, half-open connections, silence. Nobody else notices."""

import os
import random
import socket

from fleet import expect, expect_equal

QUESTION = "What is 347 + 589?"
SEED = 20261121


def send(port, data):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
        try:
            s.sendall(data)
            s.settimeout(0.2)
            s.recv(4096)
        except OSError:
            pass  # being thrown out is one right answer


def test_garbage(case):
    rng = random.Random(SEED)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    with case.fleet() as f:
        r1, h1, _ = f.two_hosts()
        for node in (h1, r1):
            for n in (1, 100, 100_000):
                send(node.port, rng.randbytes(n))
                send(node.port, preface + rng.randbytes(n))
            send(node.port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(r1.admin)
            s.sendall(rng.randbytes(1000))
        expect(h1.alive() and r1.alive(), f"a process died (seed {SEED}):\n{h1.log_tail()}\n{r1.log_tail()}")
        expect_equal(r1.generate(QUESTION).text.strip(), "936", "the answer afterwards")


def test_idle_connections(case):
    """200 connections that say nothing hold nobody up."""
    with case.fleet() as f:
        r1, h1, _ = f.two_hosts()
        idle = [socket.create_connection(("127.0.0.1", node.port)) for node in (h1, r1) for _ in range(100)]
        try:
            expect_equal(r1.generate(QUESTION).text.strip(), "936", "the answer meanwhile")
        finally:
            for s in idle:
                s.close()


def test_socket_permissions(case):
    """The admin socket is not for everyone."""
    with case.fleet() as f:
        h1 = f.expert("h1", "auto")
        mode = os.stat(h1.admin).st_mode & 0o777
        expect(mode & 0o007 == 0, f"others may use the admin socket: {mode:o}")
