#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Money under fire: 200 accounts, top-ups, requests, cancels and refunds at full speed, killed with -9 at random instants, with a full disk, and with a
store that is stopped and started. After each of these the ledger is verified and compared with everything that was acknowledged.

money_fire.py [--long] [PROGRAM]: PROGRAM is tests/sys/money_fire of the build. --long: twenty kills, and PostgreSQL as well.
"""

import argparse
import glob
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time

NOBODY = 65534
WAIT_S = 120


class Fire:
    """The program under fire: run it, kill it, look."""

    def __init__(self, program, store, directory):
        self.program, self.store, self.dir, self.seed, self.process = program, store, directory, 0, None

    def start(self):
        self.seed += 1
        with open(os.path.join(self.dir, "log"), "w", encoding="utf-8") as log:
            self.process = subprocess.Popen([self.program, "run", self.store, self.dir, str(self.seed)],
                                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout.readline() == "running\n", f"run {self.seed} did not begin"

    def settled(self):
        with open(os.path.join(self.dir, "acks"), encoding="ascii") as f:
            return sum(line == "b\n" for line in f)

    def wait_settled(self):
        """Until it did some work, and settled it."""
        before, deadline = self.settled(), time.monotonic() + WAIT_S
        while self.settled() == before:
            assert self.process.poll() is None, f"it ended by itself: {self.process.returncode}"
            assert time.monotonic() < deadline, "it settles nothing"
            time.sleep(0.01)

    def expect_down_and_back(self):
        """The store failed under it, which it told, and took operations again."""
        with open(os.path.join(self.dir, "log"), encoding="utf-8") as f:
            log = f.read()
        assert re.search("the ledger is down: .*the ledger takes operations again", log, re.S), f"it was not down and back:\n{log}"

    def kill(self):
        assert self.process.poll() is None, f"it ended by itself: {self.process.returncode}"
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def check(self, what):
        p = subprocess.run([self.program, "check", self.store, self.dir], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                           timeout=WAIT_S)
        assert p.returncode == 0, f"{what}: exit {p.returncode}\n{p.stdout}{p.stderr}"
        assert int(re.search(r"(\d+) settled requests", p.stdout).group(1)) > 0, p.stdout
        print(f"ok {what}: {p.stdout.splitlines()[-1]}", flush=True)


def killed(fire, n, what):
    for i in range(n):
        fire.start()
        fire.wait_settled()
        time.sleep(random.random() / 2)
        fire.kill()
        fire.check(f"{what}, kill {i + 1}")


def disk_full(program, directory):
    """The store's disk, a small tmpfs, is full for a while."""
    disk, acks = os.path.join(directory, "disk"), os.path.join(directory, "full")
    os.makedirs(disk)
    os.makedirs(acks)
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", disk], check=False).returncode:
        print("skip full disk: no tmpfs can be mounted here", flush=True)
        return
    try:
        fire = Fire(program, f"sqlite:{disk}/ledger.db", acks)
        fire.start()
        fire.wait_settled()
        filler = os.path.join(disk, "filler")
        with open(filler, "wb", buffering=0) as f:
            try:
                while True:
                    f.write(b"x" * 4096)
            except OSError:
                pass
        time.sleep(1)
        os.unlink(filler)
        fire.wait_settled()  # by itself
        fire.expect_down_and_back()
        fire.kill()
        fire.check("full disk")
    finally:
        subprocess.run(["umount", disk], check=True)


class Postgres:
    """A server in a directory of its own; as nobody, since it refuses to be root."""

    def __init__(self, directory):
        self.bin = os.path.dirname(sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))[-1])
        self.dir, self.user = directory, NOBODY if os.getuid() == 0 else None
        os.makedirs(directory)
        if self.user:
            os.chown(directory, NOBODY, NOBODY)
        self.run("initdb", "-D", f"{directory}/data", "-U", "expertd", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self.process = None
        self.start()

    def run(self, name, *args, check=True):
        return subprocess.run([os.path.join(self.bin, name), *args], user=self.user, cwd=self.dir, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=check).returncode

    def start(self):
        self.process = subprocess.Popen([os.path.join(self.bin, "postgres"), "-D", f"{self.dir}/data", "-k", self.dir, "-c",
                                         "listen_addresses="], user=self.user, cwd=self.dir, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + WAIT_S
        while self.run("pg_isready", "-q", "-h", self.dir, "-U", "expertd", "-d", "postgres", check=False):
            assert self.process.poll() is None and time.monotonic() < deadline, "postgres does not start"
            time.sleep(0.05)

    def stop(self, how):
        self.process.send_signal(how)
        self.process.wait()


def postgres(program, directory, n):
    if not glob.glob("/usr/lib/postgresql/*/bin/initdb"):
        print("skip PostgreSQL: it is not installed", flush=True)
        return
    server = Postgres(os.path.join(directory, "pg"))
    try:
        acks = os.path.join(directory, "pg_acks")
        os.makedirs(acks)
        fire = Fire(program, f"postgres:host={server.dir} user=expertd dbname=postgres", acks)
        killed(fire, n, "PostgreSQL")
        for how in (signal.SIGINT, signal.SIGQUIT):
            fire.start()
            fire.wait_settled()
            server.stop(how)
            time.sleep(1)
            server.start()
            fire.wait_settled()
            fire.expect_down_and_back()
            fire.kill()
            fire.check(f"PostgreSQL stopped by {how.name} and started")
    finally:
        server.stop(signal.SIGINT)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--long", action="store_true")
    p.add_argument("program", nargs="?", default="tests/sys/money_fire")
    a = p.parse_args()
    # not below a directory that only root may enter: the server of PostgreSQL runs as somebody else
    directory = tempfile.mkdtemp(prefix="expertd-fire-", dir="/tmp")
    os.chmod(directory, 0o755)
    os.makedirs(os.path.join(directory, "acks"))
    program = os.path.abspath(a.program)
    killed(Fire(program, f"sqlite:{directory}/ledger.db", os.path.join(directory, "acks")), 20 if a.long else 2, "SQLite")
    disk_full(program, directory)
    if a.long:
        postgres(program, directory, 20)
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
