# SPDX-License-Identifier: Apache-2.0
"""A real etcd on loopback for tests, of one member or more, in plain text or with TLS and client certificates; and daemons that use it."""

import json
import os
import shutil
import signal
import subprocess

from fleet import Skip, free_ports, wait_until

PREFIX = "/expertd/hosts/"


class Member:
    """One etcd process of a cluster."""

    def __init__(self, cluster, name, ports):
        self.cluster, self.name, self.process = cluster, name, None
        self.address, self.peer = (f"{cluster.host}:{p}" for p in ports)

    def start(self):
        c = self.cluster
        client, peer = f"{c.scheme}://{self.address}", f"http://{self.peer}"
        everyone = ",".join(f"{m.name}=http://{m.peer}" for m in c.members)
        tls = ["--cert-file", c.tls["cert"], "--key-file", c.tls["key"]] if c.tls else []
        tls += ["--trusted-ca-file", c.tls["ca"], "--client-cert-auth"] if c.tls and c.client_auth else []
        with open(os.path.join(c.dir, self.name + ".log"), "ab") as log:
            self.process = subprocess.Popen(
                [*c.prefix, "etcd", f"--name={self.name}", f"--data-dir={c.dir}/{self.name}", f"--listen-client-urls={client}",
                 f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
                 f"--initial-cluster={everyone}", "--heartbeat-interval=50", "--election-timeout=500", "--logger=zap",
                 "--log-level=warn", *tls], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


class Etcd:
    """`n` members. tls: the keys that certs.Authority.sign gives, for all of them and for etcdctl. host, prefix: the address and the
    network namespace where they live."""

    def __init__(self, directory, n=1, tls=None, host="127.0.0.1", prefix=()):
        if not shutil.which("etcd") or not shutil.which("etcdctl"):
            raise Skip("etcd and etcdctl are not installed (packages etcd-server, etcd-client)")
        self.dir, self.tls, self.host, self.prefix = directory, tls, host, list(prefix)
        self.scheme, self.client_auth = "https" if tls else "http", True
        ports = free_ports(2 * n)
        self.members = [Member(self, f"m{i}", ports[2 * i:2 * i + 2]) for i in range(n)]
        os.makedirs(directory, exist_ok=True)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()

    @property
    def addresses(self):
        return [m.address for m in self.members]

    def start(self):
        """All members that do not run; returns when there is a quorum."""
        for m in self.members:
            if not m.process:
                m.start()
        wait_until("etcd answers", lambda: self.ctl("get", "ready").returncode == 0)

    def kill(self):
        for m in self.members:
            m.kill()

    def ctl(self, *args, of=None):
        tls = ["--cert", self.tls["cert"], "--key", self.tls["key"], "--cacert", self.tls["ca"]] if self.tls else []
        ends = ",".join(f"{self.scheme}://{a}" for a in ([of.address] if of else self.addresses))
        return subprocess.run([*self.prefix, "etcdctl", "--endpoints", ends, "--command-timeout=2s", "--dial-timeout=1s", *tls, *args],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)

    def leader(self):
        """The member that leads."""
        def look():
            for m in self.members:
                p = self.ctl("--write-out=json", "endpoint", "status", of=m) if m.process else None
                status = json.loads(p.stdout)[0]["Status"] if p and p.returncode == 0 else None
                if status and status["leader"] == status["header"]["member_id"]:
                    return m
            return None
        return wait_until("etcd has a leader", look)

    def hosts(self):
        """{name: record} as registered; None while etcd does not answer."""
        p = self.ctl("get", "--prefix", "--print-value-only", PREFIX)
        return {r["name"]: r for r in map(json.loads, p.stdout.split("\n")[:-1]) if r} if p.returncode == 0 else None


def section(etcd, ttl=2, tls=None):
    """[etcd] of a daemon."""
    return {"endpoints": " ".join(f"{etcd.scheme}://{a}" for a in etcd.addresses), "lease_ttl_s": ttl, "timeout_ms": 1000, **(tls or {})}


def expert(f, etcd, name, shards, ttl=2, node=None, tls=None, **kw):
    """An expert host with [etcd]; not started. `node`: more of [node]. tls: of [etcd]."""
    host = f.expert(name, shards, start=False, **kw)
    os.makedirs(host.config_path + ".d", exist_ok=True)
    with open(host.config_path + ".d/10-etcd.conf", "w", encoding="utf-8") as c:
        c.write("[etcd]\n" + "".join(f"{k} = {v}\n" for k, v in section(etcd, ttl, tls).items()))
        c.write("[node]\n" + "".join(f"{k} = {v}\n" for k, v in (node or {}).items()))
    return host


def follow(f, etcd, name, tls=None, **keys):
    """A router that knows etcd only; started, not ready."""
    return f.router(name, start=False, extra={"etcd": section(etcd, tls=tls)}, **keys).start(wait=False)


def events(node):
    return [e["name"] for e in map(json.loads, node.ctl("--json", "events").stdout.splitlines())]


def count(node, event):
    return events(node).count(event)


def reload(node):
    """SIGHUP; returns when the configuration was read again."""
    before = count(node, "CONFIG_RELOADED")
    node.signal(signal.SIGHUP)
    wait_until(f"{node.name} has read its configuration again", lambda: count(node, "CONFIG_RELOADED") > before)
