# SPDX-License-Identifier: Apache-2.0
"""Under a real systemd and journald: the installed units start, the journal gets fields and MESSAGE_IDs, reload and stop work, and the
watchdog restarts a daemon that stands still."""

import json
import os
import subprocess

import fleet
from fleet import Failure, Skip, expect, expect_equal, wait_until

MACHINE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "machine.sh")
OPT = "/opt/expertd"  # where the machine sees the installed tree
READY = "DAEMON_READY"


class Machine:
    """A booted machine.sh; a context manager."""

    def __init__(self, directory, *binds):
        self.dir, self.binds = directory, binds

    def __enter__(self):
        p = subprocess.run([MACHINE, "up", self.dir, *self.binds], capture_output=True, text=True, timeout=120, check=False)
        if p.returncode == 77:
            raise Skip(f"no machine: {p.stderr.strip()[-200:]}")
        if p.returncode:
            raise Failure(f"machine.sh up: {p.stderr}")
        return self

    def __exit__(self, *_):
        subprocess.run([MACHINE, "down", self.dir], capture_output=True, timeout=120, check=True)

    def run(self, *argv, check=True):
        p = subprocess.run([MACHINE, "in", self.dir, *argv], capture_output=True, text=True, timeout=120, check=False)
        if check and p.returncode:
            journal = self.run("journalctl", "-n", "40", "--no-pager", check=False).stdout
            raise Failure(f"{' '.join(argv)}: exit {p.returncode}\n{p.stdout}{p.stderr}\n{journal}")
        return p

    def show(self, unit, what):
        return self.run("systemctl", "show", "-P", what, unit).stdout.strip()

    def ctl(self, socket, *args):
        return self.run(f"{OPT}/bin/expertctl", "--socket", socket, *args).stdout

    def entries(self, unit, event):
        """Journal entries of one event, by the MESSAGE_ID that expertctl says."""
        told = [json.loads(x) for x in self.ctl(f"/run/{unit}/admin.sock", "--json", "events").splitlines()]
        ids = {e["message_id"] for e in told if e["name"] == event}
        expect_equal(len(ids), 1, f"MESSAGE_IDs of {event}")
        out = self.run("journalctl", "-u", unit, "-o", "json", f"MESSAGE_ID={ids.pop()}").stdout
        return [json.loads(line) for line in out.splitlines()]


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def prepare(case):
    """The machine's /etc: units as installed, run from OPT; an expert host with all shards and a router over it."""
    extra = os.path.join(case.dir, "machine", "extra")
    units = os.path.join(case.root, "lib/systemd/system")
    common = {"model": {"path": "/opt/model"}}
    plugins = f"{OPT}/lib/expertd/plugins"
    configs = {
        "expertd": ("expertd.conf", {"node": {"name": "h1"}, **common,
                                     "expert": {"shards": "auto", "plugin": "cpu", "plugin_dir": plugins, "threads": 1}}),
        "expertd-router": ("router.conf", {"node": {"name": "r1", "admin": "/run/expertd-router/admin.sock",
                                                    "state": "/var/lib/expertd-router"}, **common,
                                           "router": {"peers": "127.0.0.1:7101", "plugin_dir": plugins, "threads": 1}}),
    }
    for unit, (conf, sections) in configs.items():
        with open(os.path.join(units, unit + ".service"), encoding="utf-8") as f:
            write(f"{extra}/etc/systemd/system/{unit}.service", f.read())
        write(f"{extra}/etc/systemd/system/{unit}.service.d/test.conf",
              f"[Service]\nExecStart=\nExecStart={OPT}/sbin/expertd --config /etc/expertd/{conf}\nExecReload=\n"
              f"ExecReload={OPT}/sbin/expertd --config /etc/expertd/{conf} --check-config\nExecReload=/bin/kill -HUP $MAINPID\n"
              "WatchdogSec=3\nMemoryMax=1G\n")
        write(f"{extra}/etc/expertd/{conf}", fleet.ini(sections))
    with open(os.path.join(case.root, "lib/sysusers.d/expertd.conf"), encoding="utf-8") as f:
        write(f"{extra}/etc/sysusers.d/expertd.conf", f.read())
    with open(os.path.join(case.root, "lib/systemd/catalog/expertd.catalog"), encoding="utf-8") as f:
        write(f"{extra}/usr/local/lib/systemd/catalog/expertd.catalog", f.read())
    return os.path.join(case.dir, "machine")


def ask(m):
    return m.run(f"{OPT}/bin/expertctl", "--socket", "/run/expertd-router/admin.sock", "chat", "What is 347 + 589?").stdout


def test_units(case):
    directory = prepare(case)
    with Machine(directory, f"{case.root}:{OPT}", f"{fleet.TINY}:/opt/model") as m:
        m.run("systemd-sysusers")
        m.run("journalctl", "--update-catalog")
        m.run("systemctl", "start", "expertd", "expertd-router")
        for unit in ("expertd", "expertd-router"):
            expect_equal(m.show(unit, "ActiveState"), "active", f"{unit} after start")
        expect("936" in ask(m), "no answer under systemd")

        ready = m.entries("expertd", READY)
        expect_equal(len(ready), 1, "DAEMON_READY in the journal")
        expect(len(ready[0]["MESSAGE_ID"]) == 32 and "MESSAGE" in ready[0], f"fields of the event: {ready[0]}")
        text = m.run("journalctl", "-x", "-u", "expertd", f"MESSAGE_ID={ready[0]['MESSAGE_ID']}").stdout
        expect("All listed roles" in text, f"no catalog text:\n{text}")

        if m.show("expertd", "MemoryCurrent").isdigit():  # the machine has the memory controller
            told = json.loads(m.ctl("/run/expertd/admin.sock", "--json", "status"))["available_bytes"]
            expect(told < 2**30, f"MemoryMax=1G, but {told} bytes are said to be available")

        m.run("systemctl", "reload", "expertd")
        expect_equal(m.show("expertd", "ActiveState"), "active", "after a reload")
        extra = "/etc/expertd/expertd.conf.d"
        m.run("sh", "-c", f"mkdir {extra} && printf '[expert]\\nshards = L99/*\\n' >{extra}/x.conf")
        expect(m.run("systemctl", "reload", "expertd", check=False).returncode != 0, "a reload of a wrong configuration succeeded")
        expect_equal(m.show("expertd", "ActiveState"), "active", "after a reload that was refused")
        m.run("rm", f"{extra}/x.conf")
        m.run("systemctl", "reload", "expertd")

        pid = m.show("expertd", "MainPID")
        m.run("kill", "-STOP", pid)
        wait_until("the watchdog restarted it", lambda: m.show("expertd", "MainPID") not in (pid, "0"), timeout=30)
        wait_until("it is active again", lambda: m.show("expertd", "ActiveState") == "active", timeout=30)
        wait_until("the router answers again", lambda: m.run(f"{OPT}/bin/expertctl", "--socket", "/run/expertd-router/admin.sock",
                                                             "chat", "1+1=", check=False).returncode == 0, timeout=30)

        m.run("systemctl", "stop", "expertd-router", "expertd")
        for unit in ("expertd", "expertd-router"):
            expect_equal((m.show(unit, "ActiveState"), m.show(unit, "Result")), ("inactive", "success"), f"{unit} after stop")


test_units.heavy = True  # the machine's units do not get a sanitizer's options
