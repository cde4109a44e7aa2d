# SPDX-License-Identifier: Apache-2.0
"""The clocks of hosts jump by an hour, forwards and backwards, while requests run: nothing that waits or measures follows them, and what
people read does. The clock of the machine is not touched: a library is preloaded."""

import json
import os
import signal
import struct
import subprocess
import time

import certs
from etcds import Etcd, count, expert
from fleet import TOP, Failure, Skip, expect, expect_equal, wait_until
from streams import Streams, all_ready, states

HOUR = 3600


class Clock:
    """A clock that processes started with `prefix` read."""

    def __init__(self, library, path):
        self.path, self.prefix = path, ["env", f"LD_PRELOAD={library}", f"EX_CLOCK_FILE={path}"]
        self.set(0)

    def set(self, seconds):
        with open(self.path, "r+b" if os.path.exists(self.path) else "wb") as f:
            f.write(struct.pack("=q", seconds))


def library(case):
    if case.sanitized:
        raise Skip("a sanitizer's library must be the first one")
    out = os.path.join(case.dir, "clock_shift.so")
    source = os.path.join(TOP, "tests", "sys", "clock_shift.c")
    p = subprocess.run(["cc", "-O1", "-shared", "-fPIC", source, "-o", out], capture_output=True, text=True, check=False)
    if p.returncode:
        raise Failure(f"cc {source}: {p.stderr}")
    return out


def last_event_s(node):
    """Seconds between now and the newest event of the node, by its own clock."""
    rows = [json.loads(x) for x in node.ctl("--json", "events").stdout.splitlines()]
    return int(rows[-1]["realtime_us"]) / 1e6 - time.time()


def left(node):
    """Seconds until the end of its certificate, as it says."""
    rows = [x for x in node.ctl("metrics").stdout.splitlines() if x.startswith("expertd_tls_certificate_expiry_seconds ")]
    return float(rows[0].split()[1])


def test_jumps(case):
    """One after the other the router, a host, and all of them jump; with etcd, leases of 2 s, TLS between them."""
    lib = library(case)
    ca = certs.Authority(os.path.join(case.dir, "pki"))
    with case.fleet() as f, Etcd(os.path.join(case.dir, "etcd")) as etcd:
        clocks = {n: Clock(lib, os.path.join(case.dir, n + ".clock")) for n in ("h1", "h2", "r1")}
        tls = {n: {**ca.sign(n, "IP:127.0.0.1", days=30), "warn_days": 1} for n in clocks}
        nodes = [expert(f, etcd, n, "auto") for n in ("h1", "h2")]
        for node in nodes:
            with open(node.config_path, "a", encoding="utf-8") as out:
                out.write("[tls]\n" + "".join(f"{k} = {v}\n" for k, v in tls[node.name].items()))
            node.start(wait=False, prefix=clocks[node.name].prefix)
        r1 = f.router("r1", start=False, extra={"etcd": {"endpoints": etcd.members[0].address, "lease_ttl_s": 2}, "tls": tls["r1"]})
        r1.start(wait=False, prefix=clocks["r1"].prefix)
        for node in (*nodes, r1):
            node.wait_ready()
        all_ready(r1)
        before = left(r1)
        with Streams(r1, 4, 60) as s:
            for who in (["r1"], ["h1"], ["h1", "h2", "r1"]):
                for seconds in (HOUR, -HOUR):
                    for n in who:
                        clocks[n].set(seconds)
                    s.run(1)
                    expect_equal(states(r1), {"h1": "ready", "h2": "ready"}, f"hosts after a jump of {who} to {seconds} s")
                    if "r1" in who:
                        wait_until("the certificate's end is counted anew", lambda t=seconds: abs(left(r1) - before + t) < 600)
            s.run(2.5)  # longer than a lease
            s.stop("clocks that jump by an hour, forwards and backwards")
        for node in (*nodes, r1):
            trouble = {"HOST_DOWN", "HOST_UNREGISTERED", "ETCD_UNREACHABLE", "THREAD_STALLED", "TLS_EXPIRES", "VERIFY_DIFFERS", "COVERAGE_LOST"}
            expect(not any(count(node, e) for e in trouble), f"{node.name}:\n{node.log_tail()}")
        expect_equal(sorted(etcd.hosts()), ["h1", "h2"], "who is registered")
        # an event, whose time is that of the clock: so is the certificate's beginning, which is an hour ahead
        expect("is not valid before" in nodes[0].ctl("reload", check=False).stderr, "a certificate of the future")
        expect(-HOUR - 60 < last_event_s(nodes[0]) < -HOUR + 60, f"the event's time: {last_event_s(nodes[0])} s from now")


def test_jump_while_starting(case):
    """Hosts an hour apart from each other and from the router: they are greeted, serve, and are missed and found again as any others."""
    lib = library(case)
    with case.fleet() as f:
        clocks = {n: Clock(lib, os.path.join(case.dir, n + ".clock")) for n in ("h1", "h2", "r1")}
        clocks["h1"].set(HOUR)
        clocks["h2"].set(-HOUR)
        nodes = [f.expert(n, "auto", start=False).start(wait=False, prefix=clocks[n].prefix) for n in ("h1", "h2")]
        r1 = f.router("r1", nodes, start=False).start(wait=False, prefix=clocks["r1"].prefix)
        for node in (*nodes, r1):
            node.wait_ready()
        all_ready(r1)
        with Streams(r1, 4, 60) as s:
            nodes[0].kill()
            clocks["r1"].set(HOUR)
            wait_until("h1 is missed", lambda: states(r1)["h1"] == "down")
            nodes[0].start(prefix=clocks["h1"].prefix)
            clocks["r1"].set(-HOUR)
            all_ready(r1)
            nodes[1].signal(signal.SIGSTOP)  # its connections are accepted, and Hello is not answered: the deadline must end
            wait_until("a handshake ends in time", lambda: any("eadline" in h["error"] for h in r1.ctl_json("host", "list")["hosts"]))
            nodes[1].signal(signal.SIGCONT)
            all_ready(r1)
            nodes[1].kill()
            s.run(1.5)
            nodes[1].start(prefix=clocks["h2"].prefix)
            all_ready(r1)
            s.stop("hosts an hour apart")
