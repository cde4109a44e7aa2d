# SPDX-License-Identifier: Apache-2.0
"""etcd of three members, each in a network namespace of its own as the hosts are, while requests run: one member killed, all killed, the
router cut off from them, hosts frozen until their leases end, certificates of another CA. No request fails and no token changes."""

import os
import signal

import certs
from etcds import Etcd, count, expert, follow, reload
from fleet import expect, expect_equal, wait_until
from hosts import Hosts
from streams import Streams, size, states

EXPERTS = ("h1", "h2", "h3")


def cut(net, a, b):
    """A rule for each direction between two hosts."""
    return [f"iifname p-{x} oifname p-{y} drop" for x, y in ((a, b), (b, a))]


def start(f, net, etcd, ca, where):
    experts = []
    for name in EXPERTS:
        node = expert(f, etcd, name, "auto", tls=ca.sign(name, f"IP:{net.address(name)}", into=where), hosts=net)
        experts.append(node.start(wait=False))
    r1 = follow(f, etcd, "r1", ca.sign("r1", f"IP:{net.address('r1')}", into=where), hosts=net)
    r1.wait_ready()
    wait_until("all hosts are ready", lambda: states(r1) == {n: "ready" for n in EXPERTS})
    return r1, experts


def each(fault):
    """A test of `fault(net, etcd, r1, experts, streams)`."""
    def test(case):
        ca = certs.Authority(os.path.join(case.dir, "pki"))
        with Hosts(["r1", *EXPERTS, "etcd"]) as net, case.fleet() as f:
            where = os.path.join(case.dir, "pki")
            tls = ca.sign("etcd", f"IP:{net.address('etcd')}", into=where)
            with Etcd(os.path.join(case.dir, "etcd"), 3, tls, net.address("etcd"), net.prefix("etcd")) as etcd:
                r1, experts = start(f, net, etcd, ca, where)
                with Streams(r1, *size(case)) as s:
                    s.run(1)
                    fault(net, etcd, r1, experts, s)
                    s.run(1)
                    s.stop(fault.__doc__)
                wait_until("all hosts are ready", lambda: states(r1) == {n: "ready" for n in EXPERTS}, timeout=30)
    return test


def kill_each(net, etcd, r1, experts, s):
    """each of three etcd members killed in turn, the leader first"""
    del net, experts
    for m in [etcd.leader(), *etcd.members]:
        m.kill()
        s.run(3)  # longer than a lease
        etcd.start()
        expect_equal(states(r1), {n: "ready" for n in EXPERTS}, "hosts with two etcd members")
    expect_equal(count(r1, "HOST_DOWN"), 0, "HOST_DOWN")


def kill_all(net, etcd, r1, experts, s):
    """all etcd members killed, and one host with them"""
    del net
    etcd.kill()
    wait_until("that etcd is away is told", lambda: count(r1, "ETCD_UNREACHABLE") == 1)
    experts[0].kill()
    s.run(4)
    etcd.start()
    wait_until("that etcd is back is told", lambda: count(r1, "ETCD_BACK") == 1)
    experts[0].start(wait=False)


def partition(net, etcd, r1, experts, s):
    """the router cut off from etcd while a host leaves and comes back"""
    net.filter(*cut(net, "r1", "etcd"))
    wait_until("that etcd is away is told", lambda: count(r1, "ETCD_UNREACHABLE") == 1, timeout=30)
    experts[1].stop()
    s.run(3)
    expect_equal({n: states(r1)[n] for n in ("h1", "h3")}, {"h1": "ready", "h3": "ready"}, "hosts that stayed")
    experts[1].start()
    wait_until("h2 is ready again though etcd cannot be asked", lambda: states(r1).get("h2") == "ready", timeout=30)
    net.filter()
    wait_until("that etcd is back is told", lambda: count(r1, "ETCD_BACK") == 1, timeout=30)
    expect_equal(sorted(etcd.hosts()), list(EXPERTS), "who is registered")


def frozen(net, etcd, r1, experts, s):
    """one host frozen until its lease ends"""
    del net
    experts[2].signal(signal.SIGSTOP)
    wait_until("h3 is down or forgotten", lambda: states(r1).get("h3") in ("down", None))
    wait_until("its lease has ended", lambda: "h3" not in etcd.hosts())
    s.run(1)
    experts[2].signal(signal.SIGCONT)
    wait_until("it is registered again", lambda: "h3" in etcd.hosts())
    wait_until("it is used again", lambda: states(r1).get("h3") == "ready", timeout=30)
    expect_equal(count(experts[2], "HOST_UNREGISTERED"), 1, "HOST_UNREGISTERED")


test_kill_each = each(kill_each)
test_kill_all = each(kill_all)
test_partition = each(partition)
test_frozen = each(frozen)


def test_another_authority(case):
    """etcd gets certificates of another CA: whose they are is told, and new files with a SIGHUP bring it back."""
    old, new = certs.authority(case, "old"), certs.authority(case, "new")
    with case.fleet() as f, Etcd(os.path.join(case.dir, "etcd"), 1, certs.loopback(old)) as etcd:
        h1 = expert(f, etcd, "h1", "auto", tls=certs.renew(old, case, "h1")).start(wait=False)
        r1 = follow(f, etcd, "r1", certs.renew(old, case, "r1"))
        r1.wait_ready()
        with Streams(r1, *size(case)) as s:
            etcd.kill()
            etcd.tls = certs.loopback(new)
            etcd.start()
            for node in (h1, r1):
                wait_until(f"{node.name} says who signed", lambda n=node: "is not signed by [etcd] ca: its issuer is 'CN = new'" in n.log(), timeout=40)
                expect(etcd.members[0].address in node.log(), node.log_tail())
            wait_until("the lease of h1 has ended", lambda: etcd.hosts() == {})
            for node in (h1, r1):
                certs.renew(new, case, node.name)
                reload(node)
                expect_equal(count(node, "TLS_LOADED"), 2, f"TLS_LOADED of {node.name}")
            wait_until("h1 is registered", lambda: "h1" in etcd.hosts())
            wait_until("r1 follows again", lambda: count(r1, "ETCD_BACK") == 1)
            s.stop("etcd's certificates of another CA")
