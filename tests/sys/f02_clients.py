# SPDX-License-Identifier: Apache-2.0
"""Clients that go away, stop reading, or come in numbers: others are not held up, and everything is freed."""

import os
import signal
import threading
import time

from clients import grpc_modules
from fleet import Failure, expect, expect_equal, wait_until

QUESTION = "What is 347 + 589?"


def idle(r1):
    s = r1.ctl_json("status")["router"]
    return s["running"] == 0 and s["waiting"] == 0 and s["kv_pages_used"] == 0


def test_cancel_frees_everything(case):
    with case.fleet() as f:
        r1, _, _ = f.two_hosts()
        clients = [r1.spawn("--json", "generate", QUESTION, "--temperature=3", "--max-tokens=450", f"--seed={i}") for i in range(6)]
        for c in clients:  # before its request has begun, a client has no answer to an interrupt but its end
            expect("started" in c.stdout.readline(), "the request has not begun")
        for c in clients:
            c.send_signal(signal.SIGINT)
        for c in clients:
            c.communicate(timeout=30)
            expect(c.returncode in (0, 130), f"exit status {c.returncode} of an interrupted client")
        wait_until("nothing runs and all pages are free", lambda: idle(r1))
        expect_equal(r1.generate(QUESTION).text.strip(), "936", "the next answer")


def test_client_stops_reading(case):
    """A client that does not read is cut off when its buffer is full; others are served meanwhile."""
    grpc, messages, stubs = grpc_modules(case)
    with case.fleet() as f:
        r1, _, _ = f.two_hosts(reply_bytes_max=65536)
        small_window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536)]
        with grpc.insecure_channel(r1.address, options=small_window) as channel:
            request = messages.GenerateRequest(text=QUESTION, max_tokens=400, ignore_eos=True, want_logits=1)
            stream = stubs.RouterStub(channel).Generate(request)
            wait_until("it runs", lambda: r1.ctl_json("status")["router"]["running"] > 0 or not idle(r1))
            expect_equal(r1.generate(QUESTION).text.strip(), "936", "another client's answer meanwhile")
            wait_until("the request of the client that does not read is gone", lambda: idle(r1), timeout=60)
            try:
                reasons = [e.finished.reason for e in stream if e.WhichOneof("event") == "finished"]
            except grpc.RpcError as e:
                reasons = [e.code().name]
            expect(reasons in (["cancelled"], ["CANCELLED"], ["RESOURCE_EXHAUSTED"]), f"how it ended: {reasons}")


def test_long_prompts_hold_nobody_up(case):
    """While prompts of a megabyte or more are encoded, which takes seconds, another client's tokens keep coming."""
    grpc, messages, stubs = grpc_modules(case)
    with case.fleet() as f:
        r1, _, _ = f.two_hosts()
        times, over = [], threading.Event()

        def read_tokens():
            with grpc.insecure_channel(r1.address) as channel:
                while not over.is_set():
                    request = messages.GenerateRequest(text=QUESTION, max_tokens=300, ignore_eos=True)
                    times.extend(time.monotonic() for _ in stubs.RouterStub(channel).Generate(request))

        reader = threading.Thread(target=read_tokens)
        reader.start()
        try:
            with grpc.insecure_channel(r1.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                wait_until("tokens come", lambda: len(times) > 10)
                start = time.monotonic()
                request = messages.GenerateRequest(text="\u7b49\u4e8e\u591a\u5c11\u51cf" * (60_000 if case.sanitized else 260_000))
                calls = [stubs.RouterStub(channel).Generate(request) for _ in range(4)]
                for call in calls:
                    try:
                        list(call)
                        raise Failure("a prompt of hundreds of thousands of tokens was taken")
                    except grpc.RpcError as e:
                        expect(" tokens, the context " in e.details(), f"why it was refused: {e.details()}")
                took = time.monotonic() - start
        finally:
            over.set()
            reader.join()
        seen = [t for t in times if start <= t <= start + took]
        gap = max(b - a for a, b in zip([start, *seen], [*seen, start + took]))
        expect(gap < took / 4, f"no token came for {gap:.2f} s of the {took:.2f} s that 4 long prompts took")


def test_more_requests_than_places(case):
    """64 requests, 4 places: all are answered, in turn."""
    with case.fleet() as f:
        r1, _, _ = f.two_hosts(max_batch=4)
        n = 16 if case.sanitized else 64
        clients = [r1.spawn("--json", "chat", f"What is {i} + {i}?") for i in range(n)]
        for i, c in enumerate(clients):
            out, err = c.communicate(timeout=120)
            expect_equal(c.returncode, 0, f"client {i}: {err}")
        expect(idle(r1), "something is left running")


def test_terminate_cuts_in_order(case):
    """What still runs after drain_s ends as cancelled, and its client is told so and how far it came."""
    grpc, messages, stubs = grpc_modules(case)
    with case.fleet() as f:
        r1 = f.router("r1", shards="*", max_batch=1, extra={"node": {"drain_s": 1}})
        with grpc.insecure_channel(r1.address) as channel:
            request = messages.GenerateRequest(text=QUESTION, max_tokens=490, ignore_eos=True)
            calls = [stubs.RouterStub(channel).Generate(request) for _ in range(50)]
            wait_until("it runs", lambda: r1.ctl_json("status")["router"]["prompt_tokens"] > 0)
            r1.signal(signal.SIGTERM)
            reasons = []
            for call in calls:
                events = list(call)
                end = events[-1].finished
                expect(end.reason == "length" or (end.reason, end.error) == ("cancelled", "the server stops"), f"the end: {end}")
                expect_equal(end.completion_tokens, sum(len(e.delta.ids) for e in events), "completion_tokens against ids seen")
                reasons.append(end.reason)
        expect("cancelled" in reasons, "all 50 requests ended within drain_s: nothing was cut")
        expect_equal(r1.process.wait(30), 0, "the router's exit status")


def test_terminate_drains(case):
    """SIGTERM lets running requests end, and takes no new ones."""
    with case.fleet() as f:
        r1, _, _ = f.two_hosts()
        clients = [r1.spawn("--json", "chat", QUESTION) for _ in range(4)]
        wait_until("requests running or done", lambda: r1.ctl_json("status")["router"]["prompt_tokens"] > 0)
        r1.signal(signal.SIGTERM)
        r1.wait_notify("STOPPING=1", 10)
        for c in clients:
            out, err = c.communicate(timeout=60)
            expect(c.returncode == 0 or "drain" in err or "stopping" in err or "shut" in err.lower() or "not available" in err,
                   f"client ended with {c.returncode}: {err}")
        expect_equal(r1.process.wait(30), 0, "the router's exit status")
        expect(not os.path.exists(r1.admin), "the admin socket is left behind")
