# SPDX-License-Identifier: Apache-2.0
"""Each fault of one host for as long as it takes to be sure, under sixteen streams over three hosts, two replicas a shard: kill -9 every
2 s for a minute (EX_KILL_SECONDS), SIGSTOP for 5 s, cables cut, packets lost, connections reset, a tenth of a processor. No request
fails, no token changes."""

import os
import random
import signal
import time

from f11_network import faults
from fleet import expect
from quota import Quota
from streams import Streams, all_ready, size, three_hosts

SEED = 20261125


def test_killed(case):
    """The next host is chosen when all are there: two holders of a shard that are dead are another test."""
    seconds, rng, n = int(os.environ.get("EX_KILL_SECONDS", "60")), random.Random(SEED), 0
    with case.fleet() as f:
        r1, hosts = three_hosts(f)
        with Streams(r1, *size(case)) as s:
            end = time.monotonic() + seconds
            while time.monotonic() < end and not s.trouble:
                next_kill = time.monotonic() + 2
                victim = rng.choice(hosts)
                victim.kill()
                victim.start()
                all_ready(r1)
                n += 1
                s.run(next_kill - time.monotonic())
            s.stop(f"kill -9 of a random host {n} times in {seconds} s")
        events = r1.ctl("--json", "events").stdout
        expect("HOST_DOWN" in events, "the router never saw a host go")


def test_frozen(case):
    with case.fleet() as f:
        r1, hosts = three_hosts(f)
        with Streams(r1, *size(case)) as s:
            for victim in hosts:
                victim.signal(signal.SIGSTOP)
                s.run(5)
                victim.signal(signal.SIGCONT)
                all_ready(r1)
                s.over(f"SIGSTOP of {victim.name} for 5 s")
            s.stop("after them")


def test_network(case):
    faults(case, 5)


def test_quota(case):
    """A host that gets a tenth of a processor, without hedging and with it."""
    for keys in ({}, {"hedge": "p99", "hedge_budget_percent": 20}):
        with case.fleet("-".join(["fleet", *keys])) as f, Quota(10) as quota:
            r1, hosts = three_hosts(f, **keys)
            with Streams(r1, *size(case)) as s:
                quota.put(hosts[0].process.pid)
                s.run(10)
                s.stop(f"h1 has a tenth of a processor, {'hedged' if keys else 'not hedged'}")
            expect(int(quota.throttled()) > 0, "h1 never came to its quota: the test saw nothing")
