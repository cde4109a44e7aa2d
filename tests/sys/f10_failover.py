# SPDX-License-Identifier: Apache-2.0
"""With two replicas of every shard no fault of a single host fails a request or changes a token: kill -9, SIGSTOP, orderly restarts, a
host that is too slow. Without a replica requests are held until the host is back."""

import json
import random
import signal
import time

from fleet import expect, expect_equal, wait_until
from streams import Streams, all_ready, size, states, three_hosts

SEED = 20261124

LONG_WITH_SANITIZER = True
ALONE = True  # it takes all processors, and prints pauses


def kill(s, r1, hosts):
    """kill -9 of a random host every 2 s, started again each time."""
    rng = random.Random(SEED)
    for _ in range(5):
        s.run(1)
        victim = rng.choice(hosts)
        victim.kill()
        s.run(1)
        victim.start()
        all_ready(r1)


def freeze(s, r1, hosts):
    """SIGSTOP: nothing breaks, nothing answers."""
    for victim in hosts[:2]:
        victim.signal(signal.SIGSTOP)
        wait_until("it is down", lambda name=victim.name: states(r1)[name] == "down", timeout=30)
        s.run(1)
        victim.signal(signal.SIGCONT)
        all_ready(r1)
        s.run(0.5)


def restart(s, r1, hosts):
    """Every host is stopped in order with SIGTERM, and started again."""
    for host in hosts:
        host.stop()
        host.start()
        all_ready(r1)
        s.run(0.5)
    names = [e["name"] for e in map(json.loads, r1.ctl("--json", "events").stdout.splitlines())]
    expect(names.count("HOST_DRAINING") >= 3, f"hosts went away without saying so: {names}")


def test_one_host_at_a_time(case):
    with case.fleet() as f:
        r1, hosts = three_hosts(f)
        with Streams(r1, *size(case)) as s:
            kill(s, r1, hosts)
            s.over("kill -9 of five hosts, one at a time")
            freeze(s, r1, hosts)
            s.over("SIGSTOP of two hosts, one at a time")
            restart(s, r1, hosts)
            s.stop("rolling restart of three hosts")
        expect_equal(r1.ctl_json("status")["router"]["kv_pages_used"], 0, "KV pages in use when idle")


def test_slow(case):
    """A host that gets a tenth of a processor."""
    with case.fleet() as f:
        r1, hosts = three_hosts(f, hedge="p99", hedge_budget_percent=20)
        with Streams(r1, *size(case)) as s:
            end = time.monotonic() + 3
            while time.monotonic() < end and not s.trouble:
                hosts[0].signal(signal.SIGSTOP)
                time.sleep(0.09)
                hosts[0].signal(signal.SIGCONT)
                time.sleep(0.01)
            s.stop("a slow host, hedged")


def test_held(case):
    """No replica: requests wait for the host, as long as hold_ms says."""
    with case.fleet() as f:
        r1, _, h2 = f.two_hosts(hold_ms=60000)
        with Streams(r1, 4, 60 if case.sanitized else 150) as s:
            s.run(0.3)
            h2.kill()
            s.run(1)
            h2.start()
            s.run(1)
            s.stop("the only holder killed and started again")


def test_drained_by_hand(case):
    """host drain: the host is not asked any more, and can be killed without anybody noticing; the last replica is refused."""
    with case.fleet() as f:
        r1, hosts = three_hosts(f)
        with Streams(r1, *size(case)) as s:
            s.run(0.5)
            out = r1.ctl("host", "drain", "h2", "--wait").stdout
            expect("safe to stop" in out, f"what drain says: {out}")
            expect_equal(states(r1)["h2"], "draining", "h2's state")
            refused = r1.ctl("host", "drain", "h1", check=False)
            expect(refused.returncode == 1 and "have no other replica: L1/" in refused.stderr, f"a last replica: {refused}")
            hosts[1].kill()
            s.run(0.5)
            hosts[1].start()
            wait_until("h2 is back", lambda: states(r1)["h2"] == "draining", timeout=30)
            r1.ctl("host", "resume", "h2")
            all_ready(r1)
            forced = r1.ctl("host", "drain", "h1", "--force").stdout
            expect("is drained" in forced, f"what a forced drain says: {forced}")
            r1.ctl("host", "resume", "h1")
            s.stop("a host drained by hand, killed, and resumed")
        expect_equal(r1.ctl("host", "drain", "nobody", check=False).returncode, 1, "an unknown host")


def test_two_of_one_name(case):
    """The second host that says it is h1 is refused, by name; the first one serves on."""
    with case.fleet() as f:
        h1 = f.expert("h1", "auto")
        twin = f.expert("twin", "auto", start=False)
        with open(twin.config_path, encoding="utf-8") as c:
            text = c.read().replace("name = twin", "name = h1")
        twin.write_config(text)
        twin.start()
        r1 = f.router("r1", [h1, twin])
        wait_until("one is refused", lambda: any("own" in h["error"] for h in r1.ctl_json("host", "list")["hosts"]))
        expect_equal(r1.generate("12+30=").text.strip(), "42", "the answer")
