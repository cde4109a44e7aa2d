# SPDX-License-Identifier: Apache-2.0
"""etcd over TLS: one that shows certificates of another CA, one that wants a certificate of its clients."""

import os

import certs
from etcds import Etcd, count, expert, follow, reload
from fleet import expect, expect_equal, wait_until

LONG_WITH_SANITIZER = True


def test_another_authority(case):
    """etcd has certificates of another CA: whose they are is told, nobody registers, and new files with a SIGHUP put it right."""
    old, new = certs.authority(case, "old"), certs.authority(case, "new")
    with case.fleet() as f, Etcd(os.path.join(case.dir, "etcd"), 1, certs.loopback(new)) as etcd:
        h1 = expert(f, etcd, "h1", "auto", tls=certs.renew(old, case, "h1")).start(wait=False)
        r1 = follow(f, etcd, "r1", certs.renew(old, case, "r1"))
        for node in (h1, r1):
            wait_until(f"{node.name} says who signed", lambda n=node: "is not signed by [etcd] ca: its issuer is 'CN = new'" in n.log())
            expect(etcd.members[0].address in node.log(), node.log_tail())
        h1.wait_ready()
        expect_equal(etcd.hosts(), {}, "who is registered")
        for node in (h1, r1):
            certs.renew(new, case, node.name)
            reload(node)
            expect_equal(count(node, "TLS_LOADED"), 2, f"TLS_LOADED of {node.name}")
        r1.wait_ready()
        expect_equal(count(r1, "ETCD_BACK"), 1, "ETCD_BACK")
        expect(any(x.startswith("expertd_etcd_certificate_expiry_seconds ") for x in r1.ctl("metrics").stdout.splitlines()), "no metric")
        expect_equal(r1.generate("What is 347 + 589?").text.strip(), "936", "the answer")


def test_no_certificate(case):
    """A host that shows none is not let in where etcd wants one, and is where it does not."""
    ca = certs.authority(case, "ca")
    with case.fleet() as f, Etcd(os.path.join(case.dir, "etcd"), 1, certs.loopback(ca)) as etcd:
        h1 = expert(f, etcd, "h1", "auto", tls={"ca": ca.crt}).start()
        wait_until("h1 is not let in", lambda: count(h1, "ETCD_UNREACHABLE") == 1)
        expect("it may not accept our certificate" in h1.log(), h1.log_tail())
        expect_equal(etcd.hosts(), {}, "who is registered")
        etcd.kill()
        etcd.client_auth = False
        etcd.start()
        wait_until("h1 is registered", lambda: "h1" in etcd.hosts())
