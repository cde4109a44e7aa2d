# SPDX-License-Identifier: Apache-2.0
"""Mutual TLS between hosts: the same bits as without, strangers refused by name on both sides, certificates replaced under running
streams, rows in plain text beside a control connection that is not."""

import json
import os
import signal
import socket
import subprocess
from concurrent import futures

import certs
import grpc
from fleet import expect, expect_equal, free_ports, wait_until
from streams import Streams, all_ready, pairs, size, states

QUESTION = "What is 347 + 589?"
NAMES = {"h1": "DNS:h1", "h2": "DNS:h2", "h3": "DNS:h3", "r1": "URI:spiffe://fleet/router/r1"}
PEERS = "h* spiffe://fleet/router/*"

LONG_WITH_SANITIZER = True


def authority(case, name="ca"):
    return certs.Authority(os.path.join(case.dir, "pki"), name)


def expert(f, name, shards, tls):
    """An expert host with a [tls] section, started but not waited for."""
    node = f.expert(name, shards, start=False)
    with open(node.config_path, "a", encoding="utf-8") as out:
        out.write("[tls]\n" + "".join(f"{k} = {v}\n" for k, v in tls.items()))
    node.data_port = int(tls["listen_data"].split(":")[-1]) if "listen_data" in tls else None
    return node.start(wait=False)


def peer_ports(node):
    """Remote ports of the process's TCP connections."""
    fds = f"/proc/{node.process.pid}/fd"
    mine = {os.readlink(os.path.join(fds, fd)) for fd in os.listdir(fds)}
    rows = []
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{node.process.pid}/net/{table}", encoding="ascii") as f:
            rows += [line.split() for line in f.readlines()[1:]]
    return {int(row[2].split(":")[1], 16) for row in rows if row[3] == "01" and f"socket:[{row[9]}]" in mine}


def fleet_of(f, ca, hosts=2, mode="all", router=None, **router_keys):
    """r1 over h1.. with every shard twice when there are three hosts, all with certificates of ca."""
    globs = pairs(f) if hosts == 3 else f.split(hosts)
    experts = []
    for i in range(hosts):
        tls = {**ca.sign(f"h{i + 1}", NAMES[f"h{i + 1}"]), "peers": PEERS, "mode": mode}
        if mode == "control":
            tls["listen_data"] = f"127.0.0.1:{free_ports(1)[0]}"
        experts.append(expert(f, f"h{i + 1}", globs[i], tls))
    tls = {**ca.sign("r1", NAMES["r1"]), "peers": PEERS, "mode": mode, **(router or {})}
    r1 = f.router("r1", experts, start=False, extra={"tls": tls}, **router_keys).start(wait=False)
    return r1, experts


def ready_fleet(f, ca, **keys):
    r1, experts = fleet_of(f, ca, **keys)
    for node in (*experts, r1):
        node.wait_ready()
    all_ready(r1)
    return r1, experts


def why_not(r1, host_index=0, wanted=()):
    """Waits until the router says all of `wanted` of a host that does not become ready."""
    def look():
        hosts = r1.ctl_json("host", "list")["hosts"]
        return len(hosts) > host_index and all(w in hosts[host_index].get("error", "") for w in wanted)
    try:
        wait_until(f"the router says {wanted}", look, timeout=30)
    except Exception:
        print(r1.ctl("--json", "host", "list").stdout, flush=True)
        raise
    expect(r1.alive(), r1.log_tail())


def events(node):
    return [e["name"] for e in map(json.loads, node.ctl("--json", "events").stdout.splitlines())]


def test_same_bits(case):
    ca = authority(case)
    with case.fleet() as f:
        ask = (QUESTION, "--seed=3", "--temperature=0.8", "--logprobs=2", "--max-tokens=40", "--ignore-eos")
        local = f.router("r0", shards="auto").generate(*ask)
        for mode in ("all", "control"):
            r1, experts = ready_fleet(f, ca, mode=mode)
            got = r1.generate(*ask)
            expect_equal((got.ids, got.logprobs), (local.ids, local.logprobs), f"tokens with mode = {mode}")
            ports = {p for h in experts for p in (h.port, h.data_port) if p and p in peer_ports(r1)}
            expect_equal(ports, {p for h in experts for p in (h.port, h.data_port) if p}, f"ports r1 is connected to, mode = {mode}")
            expect(29 * 86400 < left(r1) <= 30 * 86400, f"seconds left: {left(r1)}")
            for node in (r1, *experts):
                node.stop()
                f.nodes.remove(node)


def test_names(case):
    """Certificates of the CA by other names: a host that the router does not want, a router that the host does not want."""
    ca = authority(case)
    with case.fleet() as f:
        low, high = f.halves()
        h1 = expert(f, "h1", low, {**ca.sign("h1", "DNS:x1"), "peers": PEERS})
        h2 = expert(f, "h2", high, {**ca.sign("h2"), "peers": "h* spiffe://other/*"})
        for node in (h1, h2):
            node.wait_ready()
        r1 = f.router("r1", [h1, h2], start=False, extra={"tls": {**ca.sign("r1", NAMES["r1"]), "peers": PEERS}})
        r1.start(wait=False)
        wait_until("r1 can be asked", lambda: r1.ctl("status", check=False).returncode == 0)
        wait_until("r1 lists its hosts", lambda: r1.ctl("host", "list", check=False).returncode == 0)
        why_not(r1, 0, [f"SAN 'x1' of {h1.address} is not among [tls] peers"])
        why_not(r1, 1, [f"SAN '{NAMES['r1'][4:]}' of the caller is not among [tls] peers"])
        wait_until("h2 tells of r1", lambda: "PEER_REFUSED" in events(h2))
        expect(NAMES["r1"][4:] in h2.log(), h2.log_tail())
        expect("expertd_tls_refused_total" in h2.ctl("metrics").stdout, "no metric of it")
        expect("HOST_READY" not in events(r1), "a stranger became a host")


def test_authorities(case):
    """Certificates of another CA; a host that speaks no TLS; a router that does not."""
    ca, other = authority(case), authority(case, "other")
    with case.fleet() as f:
        parts = f.split(3)
        h1 = expert(f, "h1", parts[0], {**other.sign("h1"), "peers": PEERS})
        h2 = f.expert("h2", parts[1], start=False).start(wait=False)
        h3 = expert(f, "h3", parts[2], {**ca.sign("h3"), "peers": PEERS})
        for node in (h1, h2, h3):
            node.wait_ready()
        r1 = f.router("r1", [h1, h2, h3], start=False, extra={"tls": {**ca.sign("r1"), "peers": PEERS + " r1"}}).start(wait=False)
        r2 = f.router("r2", [h3], start=False).start(wait=False)
        for r in (r1, r2):
            wait_until("it lists its hosts", lambda r=r: r.ctl("host", "list", check=False).returncode == 0)
        why_not(r1, 0, [f"the certificate of {h1.address} (SAN 'h1') is not signed by [tls] ca", "CN = other"])
        why_not(r1, 1, ["handshake: ", "failed"])
        why_not(r1, 2, [f"SAN 'r1' of the caller is not among [tls] peers"])
        wait_until("r2 says that it is not let in", lambda: r2.ctl_json("host", "list")["hosts"][0]["error"])
        expect_equal(r2.ctl_json("host", "list")["hosts"][0]["state"], "joining", "a router without TLS")


def hup(node, ca, name, **keys):
    """New certificate files at the same paths, and SIGHUP; returns when it is in force."""
    ca.sign(name, keys.pop("san", NAMES[name]), **keys)
    before = events(node).count("TLS_LOADED")
    node.signal(signal.SIGHUP)
    wait_until(f"{name} has its new certificate", lambda: events(node).count("TLS_LOADED") > before)


def test_rotation(case):
    """Every certificate is replaced while streams run; then a broken one is refused and the old one stays."""
    ca = authority(case)
    with case.fleet() as f:
        r1, experts = ready_fleet(f, ca, hosts=3, heartbeat_ms=5000)  # only what breaks counts, not who is slow
        with Streams(r1, *size(case)) as s:
            for node in (*experts, r1):
                s.run(0.3)
                hup(node, ca, node.name)
            s.run(0.5)
            experts[0].kill()  # what connects again shows the new certificates
            experts[0].start()
            all_ready(r1)
            s.run(0.5)
            with open(os.path.join(ca.dir, "h2.crt"), "w", encoding="utf-8") as out:
                out.write("rubbish\n")
            experts[1].signal(signal.SIGHUP)
            wait_until("h2 refuses rubbish", lambda: "CONFIG_REFUSED" in events(experts[1]))
            expect("[tls] cert = " in experts[1].log() and "there is no PEM certificate" in experts[1].log(), experts[1].log_tail())
            s.run(0.5)
            s.stop("four certificates replaced, one host killed, one certificate refused")
        expect("HOST_DOWN" in events(r1), "the killed host was not missed")
        expect_equal(events(r1).count("HOST_DOWN"), 1, "hosts that went down")


def test_control_rotation(case):
    """The same with rows in plain text: their streams, too, go on."""
    ca = authority(case)
    with case.fleet() as f:
        r1, experts = ready_fleet(f, ca, hosts=3, mode="control")
        with Streams(r1, *size(case)) as s:
            for node in (*experts, r1):
                s.run(0.3)
                hup(node, ca, node.name)
            experts[0].kill()
            experts[0].start()
            all_ready(r1)
            s.run(0.3)
            s.stop("mode = control, four certificates replaced, one host killed")


def test_peers_reloaded(case):
    """A list of peers that changes holds for the next call."""
    ca = authority(case)
    with case.fleet() as f:
        r1, (h1, h2) = ready_fleet(f, ca)
        with open(h1.config_path, encoding="utf-8") as file:
            text = file.read()
        h1.write_config(text.replace(PEERS, "other"))
        expect("[tls] peers" in h1.ctl_json("reload")["changed"], "peers is not taken up")
        h2.kill()  # not h1: its stream goes on
        wait_until("h2 is missed", lambda: states(r1)["h2"] == "down")
        expect_equal(states(r1)["h1"], "ready", "h1 with a stream from before")
        h2.start()
        all_ready(r1)
        h1.kill()
        h1.start()
        why_not(r1, 0, ["of the caller is not among [tls] peers"])
        h1.write_config(text)
        h1.ctl("reload")
        all_ready(r1)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def left(node):
    """Seconds until the end of its certificate, as it says."""
    rows = [x for x in node.ctl("metrics").stdout.splitlines() if x.startswith("expertd_tls_certificate_expiry_seconds ")]
    return float(rows[0].split()[1])


def test_expired(case):
    """A host whose certificate has ended, played by another program: the router says so. A certificate that ends soon: a warning."""
    ca = authority(case)
    old, soon = ca.sign("h1", days=-1), {**ca.sign("r1", NAMES["r1"], days=3), "peers": PEERS}
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(
        [(read(old["key"]), read(old["cert"]))], read(ca.crt), require_client_auth=True))
    server.start()
    try:
        with case.fleet() as f:
            section = {"peers": f"127.0.0.1:{port}", "listen": f"127.0.0.1:{free_ports(1)[0]}"}
            r1 = f.router("r1", start=False, extra={"tls": soon, "router": section}).start(wait=False)
            wait_until("it lists its hosts", lambda: r1.ctl("host", "list", check=False).returncode == 0)
            why_not(r1, 0, [f"the certificate of 127.0.0.1:{port} (SAN 'h1') expired on 20"])
            low = f.router("r2", shards="auto", extra={"tls": {**soon, "warn_days": 2}})
            high = f.router("r3", shards="auto", extra={"tls": {**soon, "warn_days": 4}})
            wait_until("it warns", lambda: "TLS_EXPIRES" in events(high))
            expect("' expires in " in high.log(), high.log_tail())
            expect("TLS_EXPIRES" not in events(low), "warned too early")
            hup(high, ca, "r1")
            wait_until("the metric is new", lambda: left(high) > 20 * 86400)
    finally:
        server.stop(None)


def test_router_port(case):
    """Clients of a router with [tls] need a certificate, unless the port is plain by choice."""
    ca = authority(case)
    with case.fleet() as f:
        tls = {**ca.sign("r1", "DNS:localhost,IP:127.0.0.1"), "clients": "c*"}
        r1 = f.router("r1", shards="auto", extra={"tls": tls})
        good, bad = ca.sign("c1"), ca.sign("x1")
        for keys, wanted in ((good, 0), (bad, 7), (None, 14)):
            expect_equal(rpc_status(r1, ca, keys), wanted, f"status for {keys}")
        r2 = f.router("r2", shards="auto", extra={"tls": {**tls, "client_port": "plain"}})
        expect_equal(rpc_status(r2, None, None), 0, "status on a plain port")


def rpc_status(node, ca, keys):
    """The gRPC status of a health check on the node's port; ca None: in plain text."""
    target = f"127.0.0.1:{node.port}"
    if ca is None:
        channel = grpc.insecure_channel(target)
    else:
        pair = (read(keys["key"]), read(keys["cert"])) if keys else (None, None)
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(read(ca.crt), *pair))
    with channel:
        try:
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20)
        except grpc.RpcError as e:
            return e.code().value[0]
    return 0


def test_data_port(case):
    """The port for rows in plain text gives nothing to those without a word, and has no other services."""
    ca = authority(case)
    with case.fleet() as f:
        r1, (h1, _) = ready_fleet(f, ca, mode="control")
        with grpc.insecure_channel(f"127.0.0.1:{h1.data_port}") as channel:
            for path, metadata, wanted in (("/expertd.v1.Experts/Dispatch", (), 7),
                                           ("/expertd.v1.Experts/Dispatch", (("expertd-word", "0" * 64),), 7),
                                           ("/expertd.v1.Experts/Hello", (), 12), ("/grpc.health.v1.Health/Check", (), 12)):
                try:
                    channel.unary_unary(path)(b"", timeout=20, metadata=metadata)
                    status = 0
                except grpc.RpcError as e:
                    status = e.code().value[0]
                expect_equal(status, wanted, f"status of {path} {metadata}")
        expect_equal(r1.generate(QUESTION).text.strip(), "936", "the answer")


def test_configuration(case):
    """Every mistake with certificates is told at --check-config, with file, line and key."""
    ca, other = authority(case), authority(case, "other")
    with case.fleet() as f:
        good = {**ca.sign("h1"), "peers": PEERS}
        old, alien = ca.sign("old", days=-1), other.sign("alien")
        secret = ca.sign("secret")
        os.chmod(secret["key"], 0)
        rows = [
            ({"cert": "/nonexistent.crt"}, "cert", "No such file"),
            ({"cert": f.model + "/config.json"}, "cert", "no PEM certificate"),
            ({"key": old["key"]}, "key", "does not belong to the certificate"),
            ({"key": ca.crt}, "key", "no PEM private key"),
            ({"ca": other.crt}, "cert", "is not signed by [tls] ca"),
            ({"cert": old["cert"], "key": old["key"]}, "cert", "expired on"),
            ({"cert": alien["cert"], "key": alien["key"]}, "cert", "CN = other"),
            ({"key": "credential:h1.key"}, "key", "CREDENTIALS_DIRECTORY is not set"),
            ({"key": "credential:../h1.key"}, "key", "no name of a credential"),
            ({"mode": "control"}, "listen_data", "needs HOST:PORT"),
            ({"listen_data": "127.0.0.1:1"}, "listen_data", "mode = control only"),
            ({"mode": "some"}, "mode", "one of off, all, control"),
        ]
        if os.geteuid() != 0:
            rows.append(({"cert": secret["cert"], "key": secret["key"]}, "key", "Permission denied"))
        for change, key, wanted in rows:
            h1 = f.expert("h1", "auto", start=False)
            f.nodes.remove(h1)
            with open(h1.config_path, "a", encoding="utf-8") as out:
                out.write("[tls]\n" + "".join(f"{k} = {v}\n" for k, v in {**good, **change}.items()))
            p = check(f, h1)
            expect_equal(p.returncode, 78, f"exit status with {change}: {p.stderr}")
            expect(f"[tls] {key}" in p.stderr and wanted in p.stderr, f"with {change}: {p.stderr}")
            if key in {**good, **change}:
                expect(f"{h1.config_path}:" in p.stderr, f"no file and line with {change}: {p.stderr}")


def check(f, node, **env):
    return subprocess.run([f.expertd, "--check-config", "--config", node.config_path], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **env})


def test_credentials(case):
    """The service manager's credentials; and off loopback TLS takes the place of insecure = yes."""
    ca = authority(case)
    with case.fleet() as f:
        ca.sign("h1")
        h1 = f.expert("h1", "auto", start=False)
        f.nodes.remove(h1)
        with open(h1.config_path, encoding="utf-8") as file:
            text = file.read().replace("listen = 127.0.0.1:", "listen = 0.0.0.0:")
        h1.write_config(text)
        expect_equal(check(f, h1).returncode, 78, "plain text off loopback")
        h1.write_config(text + "[tls]\ncert = credential:h1.crt\nkey = credential:h1.key\nca = credential:ca.crt\n")
        p = check(f, h1, CREDENTIALS_DIRECTORY=ca.dir)
        expect_equal(p.returncode, 0, f"--check-config with credentials: {p.stderr}")


def test_garbage(case):
    """Bytes that are no TLS, and connections that say nothing, hold nobody up."""
    ca = authority(case)
    with case.fleet() as f:
        r1, experts = ready_fleet(f, ca)
        idle = [socket.create_connection(("127.0.0.1", node.port)) for node in (*experts, r1) for _ in range(20)]
        try:
            for node in (*experts, r1):
                with socket.create_connection(("127.0.0.1", node.port), timeout=5) as s:
                    s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x16\x03\x01" + b"x" * 5000)
            expect_equal(r1.generate(QUESTION).text.strip(), "936", "the answer meanwhile")
        finally:
            for s in idle:
                s.close()
