# SPDX-License-Identifier: Apache-2.0
"""A lost expert host without a replica, and hold_ms = 0: its requests end with a clean error within a second, the router lives, and serves again when the
host is back."""

import json
import signal
import time

from fleet import Generation, expect, expect_equal, wait_until

QUESTION = "What is 347 + 589?"
LONG = ["--max-tokens=400", "--ignore-eos"]

ALONE = True  # it asks how soon a fault was noticed


def start_streams(r1, n):
    """n generations that take a while, running."""
    clients = [r1.spawn("--json", "generate", QUESTION, *LONG, f"--seed={i}") for i in range(n)]
    wait_until("requests running", lambda: r1.ctl_json("status")["router"]["running"] >= 1)
    return clients


def collect(clients, since, limit):
    """Every client's Generation; the last must end within `limit` seconds of `since`."""
    out = []
    for c in clients:
        stdout, stderr = c.communicate(timeout=limit + 20)
        out.append(Generation(stdout, c.returncode, stderr))
    took = time.monotonic() - since
    expect(took < limit, f"requests ended {took:.2f} s after the fault, wanted under {limit} s")
    return out


def check_ended_cleanly(generations):
    lost = [g for g in generations if g.reason == "insufficient_system_resource"]
    for g in generations:
        expect(g.finished is not None, f"a stream ended without a last event: {g.stderr}")
        expect(g.reason in ("stop", "length", "insufficient_system_resource"), f"reason {g.reason}")
    for g in lost:
        expect("h2" in g.finished["error"] or "L" in g.finished["error"], f"the error names neither host nor shard: {g.finished}")
        expect_equal(g.returncode, 1, "expertctl's exit status for a lost request")
    return lost


def check_noticed(case, r1, fault):
    """The router knew within a second of the fault (time.time())."""
    def down():
        events = [json.loads(line) for line in r1.ctl("--json", "events").stdout.splitlines()]
        took = [int(e["realtime_us"]) / 1e6 - fault for e in events if e["name"] == "HOST_DOWN" and "h2" in e["text"]]
        return [t for t in took if t >= 0]
    took = wait_until("a HOST_DOWN event", down)[0]
    expect(took < (10 if case.sanitized else 1), f"the host was down {took:.2f} s after the fault, wanted under 1 s")


def check_serves_again(f, r1):
    wait_until("the host is ready again", lambda: all(h["state"] in ("ready", "local") for h in r1.ctl_json("host", "list")["hosts"]))
    g = r1.generate(QUESTION)
    expect_equal(g.text.strip(), "936", "the answer after the host is back")
    expect_equal(r1.ctl_json("status")["router"]["kv_pages_used"], 0, "KV pages in use when idle")


def test_killed(case):
    limit = 10 if case.sanitized else 3  # a second, and the clients' own start and end
    with case.fleet() as f:
        r1, _, h2 = f.two_hosts(hold_ms=0)
        clients = start_streams(r1, 4)
        fault, fault_real = time.monotonic(), time.time()
        h2.kill()
        lost = check_ended_cleanly(collect(clients, fault, limit))
        check_noticed(case, r1, fault_real)
        expect(lost or case.sanitized, "no request was running when the host died: the test saw nothing")
        expect(r1.alive(), "the router died with its host")
        g = r1.generate(QUESTION, check=False)
        expect(g.reason != "stop", "an answer without half of the experts")
        h2.start()
        check_serves_again(f, r1)


def test_frozen(case):
    """SIGSTOP: nothing breaks, nothing answers; heartbeats tell."""
    limit = 15 if case.sanitized else 4
    with case.fleet() as f:
        r1, _, h2 = f.two_hosts(hold_ms=0)
        clients = start_streams(r1, 4)
        fault, fault_real = time.monotonic(), time.time()
        h2.signal(signal.SIGSTOP)
        check_ended_cleanly(collect(clients, fault, limit))
        check_noticed(case, r1, fault_real)
        expect(r1.alive(), "the router died with its host")
        h2.signal(signal.SIGCONT)
        check_serves_again(f, r1)


def test_host_comes_late(case):
    """A router that starts before its hosts waits for them, says so, and becomes ready."""
    with case.fleet() as f:
        low, high = f.halves()
        h1 = f.expert("h1", low)
        h2 = f.expert("h2", high, start=False)
        r1 = f.router("r1", [h1, h2], start=False).start(wait=False)
        wait_until("the admin socket answers", lambda: r1.ctl("status", check=False).returncode == 0)
        status = r1.ctl_json("status")
        expect(status["state"] != "ready", "ready without half of the shards")
        h2.start()
        r1.wait_ready()
        expect_equal(r1.generate(QUESTION).text.strip(), "936", "the answer")
