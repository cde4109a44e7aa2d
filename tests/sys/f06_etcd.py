# SPDX-License-Identifier: Apache-2.0
"""Expert hosts that register in a real etcd: leases kept, renewed, left behind and taken away; etcd itself killed."""

import os
import signal

from etcds import PREFIX, Etcd, count, expert, follow
from fleet import expect, expect_equal, wait_until
from streams import Streams, size

LONG_WITH_SANITIZER = True


def test_register_and_leave(case):
    with case.fleet() as f, Etcd(os.path.join(case.dir, "etcd")) as etcd:
        low, high = f.halves()
        h1 = expert(f, etcd, "h1", low, node={"zone": "a"}).start()
        h2 = expert(f, etcd, "h2", high, node={"zone": "b", "advertise": "h2.example:7101"}).start()
        hosts = wait_until("both are registered", lambda: (lambda h: h if len(h or {}) == 2 else None)(etcd.hosts()))
        digest = h1.ctl_json("status")["model_digest"]
        expect_equal((hosts["h1"]["address"], hosts["h1"]["zone"]), (h1.address, "a"), "address and zone of h1")
        expect_equal((hosts["h2"]["address"], hosts["h2"]["zone"]), ("h2.example:7101", "b"), "address and zone of h2")
        for h, shards in ((hosts["h1"], low), (hosts["h2"], high)):
            expect_equal((h["model_digest"], h["expert_groups"], h["shards"]), (digest, f.groups, shards), f"model of {h['name']}")
            expect(h["memory_bytes"] > 1 << 20 and h["plugin"].startswith("cpu"), f"memory or plugin: {h}")
        expect_equal(count(h1, "HOST_REGISTERED"), 1, "HOST_REGISTERED of h1")
        for node in (h1, h2):
            (row,) = node.ctl_json("host", "list")["hosts"]
            expect_equal((row["identity"], len(row["identity"])), (hosts[node.name]["identity"], 16), f"identity of {node.name}")
            expect(row["identity"][:8] in node.ctl("host", "list").stdout, "IDENTITY in host list")
        expect_equal(hosts["h1"]["identity"], hosts["h2"]["identity"], "identities of one plugin")
        # a stop takes the key away at once; a kill leaves it until the lease ends, or until the same host is back
        h1.stop()
        expect_equal(sorted(etcd.hosts()), ["h2"], "hosts after h1 was stopped")
        h2.kill()
        h2.start()
        wait_until("h2 is registered again", lambda: count(h2, "HOST_REGISTERED") == 1)
        expect_equal(count(h2, "HOST_NAME_TAKEN"), 0, "HOST_NAME_TAKEN after a restart")
        h2.kill()
        wait_until("the lease of h2 has ended", lambda: etcd.hosts() == {})


def test_two_of_one_name(case):
    """Named at the second one, which serves on and gets the name when the first one leaves."""
    with case.fleet() as f, Etcd(os.path.join(case.dir, "etcd")) as etcd:
        low, high = f.halves()
        h1 = expert(f, etcd, "h1", low).start()
        wait_until("h1 is registered", lambda: count(h1, "HOST_REGISTERED") == 1)
        other = expert(f, etcd, "h2", high, node={"name": "h1"}).start()
        wait_until("the clash is told", lambda: count(other, "HOST_NAME_TAKEN") == 1)
        expect(h1.address in other.log(), "the one who has the name is not named")
        expect_equal(etcd.hosts()["h1"]["address"], h1.address, "who has the name")
        h1.stop()
        wait_until("the other has the name", lambda: count(other, "HOST_REGISTERED") == 1)
        expect_equal(etcd.hosts()["h1"]["address"], other.address, "who has the name then")


def test_frozen_until_the_lease_ends(case):
    with case.fleet() as f, Etcd(os.path.join(case.dir, "etcd")) as etcd:
        h1 = expert(f, etcd, "h1", f.halves()[0]).start()
        wait_until("h1 is registered", lambda: etcd.hosts())
        h1.signal(signal.SIGSTOP)
        wait_until("its lease has ended", lambda: etcd.hosts() == {})
        h1.signal(signal.SIGCONT)
        wait_until("it is registered again", lambda: etcd.hosts())
        wait_until("which is told", lambda: count(h1, "HOST_REREGISTERED") == 1)
        expect_equal(count(h1, "HOST_UNREGISTERED"), 1, "HOST_UNREGISTERED")


def test_etcd_away(case):
    """Hosts start, serve and stop without etcd, and register when it comes."""
    with case.fleet() as f, Etcd(os.path.join(case.dir, "etcd")) as etcd:
        low, high = f.halves()
        etcd.kill()
        h1 = expert(f, etcd, "h1", low).start(wait=False)
        h2 = expert(f, etcd, "h2", high).start(wait=False)
        r1 = f.router("r1", [h1, h2])
        wait_until("that etcd is away is told", lambda: count(h1, "ETCD_UNREACHABLE") == 1)
        expect_equal(r1.generate("What is 347 + 589?").text.strip(), "936", "the answer without etcd")
        etcd.start()
        wait_until("both are registered", lambda: len(etcd.hosts() or {}) == 2)
        expect_equal(count(h1, "ETCD_BACK"), 1, "ETCD_BACK")
        etcd.kill()
        wait_until("that etcd is away is told again", lambda: count(h1, "ETCD_UNREACHABLE") == 2)
        h2.stop()


def names(r1):
    return {h["name"]: h["state"] for h in r1.ctl_json("host", "list")["hosts"]}


def test_router_follows(case):
    """Hosts that come, go, die and are cut off from etcd, and etcd itself killed: no request fails, no token changes."""
    with case.fleet() as f, Etcd(os.path.join(case.dir, "etcd")) as etcd:
        h1, h2 = expert(f, etcd, "h1", "auto").start(wait=False), expert(f, etcd, "h2", "auto").start(wait=False)
        r1 = follow(f, etcd, "r1")
        r1.wait_ready()
        with Streams(r1, *size(case)) as s:
            h3 = expert(f, etcd, "h3", "auto").start()
            wait_until("h3 is taken up", lambda: names(r1).get("h3") == "ready")
            h1.stop()
            wait_until("h1 is gone", lambda: set(names(r1)) == {"h2", "h3"})
            etcd.kill()
            wait_until("that etcd is away is told", lambda: count(r1, "ETCD_UNREACHABLE") == 1)
            s.run(3)  # longer than a lease
            expect_equal(names(r1), {"h2": "ready", "h3": "ready"}, "hosts without etcd")
            h3.kill()
            wait_until("h3 is down", lambda: names(r1)["h3"] == "down")
            etcd.start()
            wait_until("that etcd is back is told", lambda: count(r1, "ETCD_BACK") == 1)
            h1.start()
            wait_until("h1 is back, and h3 is forgotten", lambda: names(r1) == {"h1": "ready", "h2": "ready"}, timeout=30)
            etcd.ctl("del", PREFIX + "h1")  # as when only etcd has lost sight of it
            s.run(1)
            expect_equal(names(r1)["h1"], "ready", "h1, which answers, though its key was deleted")
            s.stop("hosts that come and go in etcd")
