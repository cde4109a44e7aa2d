# SPDX-License-Identifier: Apache-2.0
"""Real expertd processes for tests: configurations, start and stop, readiness by sd_notify, expertctl.

A Fleet lives in one directory and ends every process it started, by pid. Nothing but the standard library is used.
"""

import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TINY = os.environ.get("EX_TEST_MODEL", os.path.join(TOP, "tests", "models", "tiny-r1"))

# What a sanitizer writes when it found something.
SANITIZER = re.compile(rb"ERROR: AddressSanitizer|ERROR: LeakSanitizer|WARNING: ThreadSanitizer|runtime error:")


class Failure(Exception):
    """A test's finding, with the text that says what was seen."""


class Skip(Exception):
    """The machine lacks what the test needs; the text says what."""


def ephemeral_ports():
    """The range that connections get their own ports from."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as f:
            low, high = map(int, f.read().split())
            return low, high
    except OSError:
        return 32768, 60999


def free_ports(n):
    """n TCP ports of 127.0.0.1 that were free a moment ago, and that no connection takes by chance meanwhile, nor a test beside this
    one: EX_PORTS is "1/2" in the second of two workers."""
    low, high = ephemeral_ports()
    mine, workers = map(int, os.environ.get("EX_PORTS", "0/1").split("/"))
    outside = [p for p in range(10000, 65536) if not low <= p <= high][mine::workers]
    socks = []
    while len(socks) < n:
        s = socket.socket()
        try:
            s.bind(("127.0.0.1", random.choice(outside) if outside else 0))
            socks.append(s)
        except OSError:
            s.close()
    ports = [s.getsockname()[1] for s in socks]
    for s in socks:
        s.close()
    return ports


def ini(sections):
    """{"node": {"name": "h1"}} as INI text. A value of None leaves the key out."""
    out = []
    for name, keys in sections.items():
        out.append(f"[{name}]")
        out += [f"{k} = {v}" for k, v in keys.items() if v is not None]
    return "\n".join(out) + "\n"


class Notifications:
    """The service manager's end of sd_notify: read at once, as systemd does, for a full socket would hold the daemon up."""

    def __init__(self, path):
        self.path, self.lines, self.status = path, [], ""
        self.changed = threading.Condition()
        if os.path.exists(path):
            os.unlink(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        while True:
            lines = self.socket.recv(65536).decode().splitlines()
            with self.changed:
                if lines == ["CLOSE"]:
                    return
                self.lines += lines
                self.status = next((x[7:] for x in reversed(lines) if x.startswith("STATUS=")), self.status)
                self.changed.notify_all()

    def wait(self, wanted, timeout):
        """Waits up to timeout seconds for a line that starts with `wanted`; None when none came."""
        def find():
            return next((x for x in self.lines if x.startswith(wanted)), None)
        with self.changed:
            return self.changed.wait_for(find, timeout)

    def close(self):
        self.socket.connect(self.path)
        self.socket.send(b"CLOSE")
        self.thread.join()
        self.socket.close()


class Node:
    """One expertd process."""

    def __init__(self, fleet, name, config, port, host="127.0.0.1", prefix=()):
        self.fleet, self.name, self.port, self.host, self.prefix = fleet, name, port, host, list(prefix)
        self.dir = os.path.join(fleet.dir, name)
        os.makedirs(self.dir, exist_ok=True)
        self.admin = os.path.join(self.dir, "admin.sock")
        self.config_path = os.path.join(self.dir, "expertd.conf")
        self.log_path = os.path.join(self.dir, "log")
        self.process = self.notify = None
        self.write_config(config)

    @property
    def address(self):
        return f"{self.host}:{self.port}"

    def write_config(self, config):
        with open(self.config_path, "w", encoding="utf-8") as f:
            f.write(config if isinstance(config, str) else ini(config))

    def start(self, wait=True, timeout=60, prefix=()):
        """Starts expertd; with wait, returns when it has said READY=1."""
        if self.notify:
            self.notify.close()
        self.notify = Notifications(os.path.join(self.dir, "notify.sock"))
        env = {k: v for k, v in os.environ.items() if k not in ("JOURNAL_STREAM", "INVOCATION_ID")}
        env["NOTIFY_SOCKET"] = self.notify.path
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *prefix, self.fleet.expertd, "--config", self.config_path],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=self.dir)
        if wait:
            self.wait_ready(timeout)
        return self

    def wait_notify(self, wanted, timeout):
        """Waits for a notification that starts with `wanted`."""
        deadline = time.monotonic() + timeout
        while True:
            line = self.notify.wait(wanted, 0.2)
            if line:
                return line
            if self.process.poll() is not None:
                raise Failure(f"{self.name} exited with {self.process.returncode} before {wanted}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise Failure(f"{self.name}: no {wanted} within {timeout} s (status: {self.notify.status}):\n{self.log_tail()}")

    def wait_ready(self, timeout=60):
        self.wait_notify("READY=1", timeout)

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        """kill -9, and waits for the body."""
        if self.alive():
            self.process.kill()
        self.process.wait()

    def stop(self, timeout=30):
        """SIGTERM; the exit status must be 0. A process that does not end in time is killed, and that is a failure."""
        if not self.alive():
            return self.process.returncode if self.process else 0
        self.process.terminate()
        try:
            rc = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failure(f"{self.name} did not stop within {timeout} s of SIGTERM:\n{self.log_tail()}") from None
        if rc != 0:
            raise Failure(f"{self.name} ended with {rc} on SIGTERM:\n{self.log_tail()}")
        return rc

    def log(self):
        try:
            with open(self.log_path, "rb") as f:
                return f.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def log_tail(self, n=30):
        return "\n".join(self.log().splitlines()[-n:])

    # --- expertctl -----------------------------------------------------------------------------------------------------------

    def ctl(self, *args, check=True, timeout=60):
        """Runs expertctl on this node's socket; a CompletedProcess with text."""
        return self.fleet.ctl("--socket", self.admin, *args, check=check, timeout=timeout)

    def ctl_json(self, *args, timeout=60):
        return json.loads(self.ctl("--json", *args, timeout=timeout).stdout)

    def spawn(self, *args):
        """expertctl in the background: a Popen; collect() reads it."""
        p = subprocess.Popen([self.fleet.expertctl, "--socket", self.admin, *args], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.fleet.clients.append(p)
        return p

    def generate(self, prompt, *options, command="chat", check=True, timeout=120):
        """One generation, as a Generation."""
        p = self.ctl("--json", command, prompt, *options, check=check, timeout=timeout)
        return Generation(p.stdout, p.returncode, p.stderr)


class Generation:
    """The events of one `expertctl --json chat|generate`."""

    def __init__(self, stdout, returncode=0, stderr=""):
        self.returncode, self.stderr = returncode, stderr
        self.events = [json.loads(line) for line in stdout.splitlines()]
        deltas = [e["delta"] for e in self.events if "delta" in e]
        self.text = "".join(d["text"] for d in deltas)
        self.reasoning = "".join(d["reasoning"] for d in deltas)
        self.ids = [i for d in deltas for i in d["ids"]]
        self.logprobs = [x for d in deltas for x in d["logprobs"]]
        finished = [e["finished"] for e in self.events if "finished" in e]
        self.finished = finished[0] if finished else None

    @property
    def reason(self):
        return self.finished["reason"] if self.finished else None


class Fleet:
    """Processes of one test, in one directory."""

    def __init__(self, root, directory, model=TINY, groups=8):
        self.root, self.dir, self.model, self.groups = os.path.abspath(root), os.path.abspath(directory), model, groups
        self.expertd = os.path.join(self.root, "sbin", "expertd")
        self.expertctl = os.path.join(self.root, "bin", "expertctl")
        self.nodes, self.clients = [], []
        os.makedirs(directory, exist_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.close(clean=kind is None)

    def ctl(self, *args, check=True, timeout=60):
        p = subprocess.run([self.expertctl, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
        if check and p.returncode != 0:
            raise Failure(f"expertctl {' '.join(args)}: exit {p.returncode}\n{p.stdout[-2000:]}{p.stderr[-2000:]}")
        return p

    def _sections(self, name, extra):
        directory = os.path.join(self.dir, name)
        sections = {
            "node": {"name": name, "admin": os.path.join(directory, "admin.sock"), "state": os.path.join(directory, "state")},
            "model": {"path": self.model, "expert_groups": self.groups},
        }
        for section, keys in extra.items():
            sections.setdefault(section, {}).update(keys)
        return sections

    def expert(self, name, shards, start=True, port=None, hosts=None, **keys):
        """An expert host that holds `shards` (globs). hosts: a hosts.Hosts, in whose namespace `name` it lives."""
        port = port or (7101 if hosts else free_ports(1)[0])
        section = {"shards": shards, "plugin": "cpu", "threads": 1, **keys}
        host = hosts.address(name) if hosts else "127.0.0.1"
        node_keys = {"listen": f"{host}:{port}", **({"insecure": "yes"} if hosts else {})}
        node = Node(self, name, self._sections(name, {"node": node_keys, "expert": section}), port, host,
                    hosts.prefix(name) if hosts else ())
        self.nodes.append(node)
        return node.start() if start else node

    def router(self, name, peers=(), start=True, port=None, shards=None, extra=None, hosts=None, **keys):
        """A router over `peers` (Nodes); with shards it holds these in process as well. hosts: as for expert()."""
        port = port or free_ports(1)[0]
        section = {"listen": f"127.0.0.1:{port}", "max_batch": 32, "threads": 1, **keys}
        if peers:
            section["peers"] = " ".join(p.address for p in peers)
        sections = {"router": section, "node": {"insecure": "yes"} if hosts else {}}
        if shards:
            sections["expert"] = {"shards": shards, "plugin": "cpu", "threads": 1}
            sections["node"] = {"listen": f"127.0.0.1:{free_ports(1)[0]}"}
        for name_, keys_ in (extra or {}).items():
            sections.setdefault(name_, {}).update(keys_)
        node = Node(self, name, self._sections(name, sections), port, prefix=hosts.prefix(name) if hosts else ())
        self.nodes.append(node)
        return node.start() if start else node

    def two_hosts(self, **router_keys):
        """h1 and h2 with half the experts of every layer each, and r1 over them."""
        low, high = self.halves()
        h1 = self.expert("h1", low, start=False).start(wait=False)
        h2 = self.expert("h2", high, start=False).start(wait=False)
        r1 = self.router("r1", [h1, h2], start=False, **router_keys).start(wait=False)
        for node in (h1, h2, r1):
            node.wait_ready()
        return r1, h1, h2

    def ranges(self):
        """The fleet's expert ranges, as "E0-1", .. for this model."""
        with open(os.path.join(self.model, "config.json"), encoding="utf-8") as f:
            n = json.load(f)["n_routed_experts"]
        out, first = [], 0
        for g in range(self.groups):
            size = n // self.groups + (g < n % self.groups)
            out.append(f"E{first}-{first + size - 1}")
            first += size
        return out

    def split(self, n):
        """n globs lists that deal out every layer's ranges in order."""
        ranges = self.ranges()
        return [" ".join(f"*/{r}" for r in ranges[i * len(ranges) // n:(i + 1) * len(ranges) // n]) for i in range(n)]

    def halves(self):
        return self.split(2)

    def close(self, clean=True):
        """Ends everything. After a clean test every process must stop as asked, and no sanitizer may have spoken."""
        trouble = []
        for p in self.clients:
            if p.poll() is None:
                p.kill()
            p.communicate()
        for node in reversed(self.nodes):
            if node.process is None:
                continue
            if node.alive():
                node.signal(signal.SIGCONT)
            try:
                if clean:
                    node.stop()
                else:
                    node.kill()
            except Failure as e:
                trouble.append(str(e))
        for node in self.nodes:
            if node.notify:
                node.notify.close()
            log = node.log().encode()
            if SANITIZER.search(log):
                trouble.append(f"{node.name}: a sanitizer found something, see {node.log_path}:\n{node.log_tail(60)}")
        if trouble:
            raise Failure("\n".join(trouble))


def wait_until(what, fn, timeout=20, pause=0.05):
    """Calls fn until it is true; a Failure naming `what` after timeout seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = fn()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f"not within {timeout} s: {what}")
        time.sleep(pause)


def expect(condition, text):
    if not condition:
        raise Failure(text)


def expect_equal(got, wanted, what):
    if got != wanted:
        raise Failure(f"{what}: got {got!r}, wanted {wanted!r}")
