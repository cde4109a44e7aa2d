# SPDX-License-Identifier: Apache-2.0
"""Starts that a tired operator makes: files that are no text or never end, closed descriptors, signals at odd moments, taken paths,
output that goes nowhere."""

import os
import signal
import socket
import subprocess
import time

from fleet import Failure, expect, expect_equal, wait_until


def check(f, path):
    return subprocess.run([f.expertd, "--check-config", "--config", path], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace", timeout=5)


def test_files_that_are_no_configuration(case):
    """Each is refused at once, by name; a pipe or a device without end does not hold the start up."""
    with case.fleet() as f:
        node = f.expert("h1", "auto", start=False)
        with open(node.config_path, "rb") as file:
            good = file.read()
        odd = os.path.join(node.dir, "odd.conf")
        drop_ins = node.config_path + ".d"
        os.mkdir(drop_ins)
        os.mkfifo(os.path.join(drop_ins, "pipe.conf"))
        os.symlink("loop", os.path.join(node.dir, "loop"))
        for path, wanted in ((node.config_path, "pipe.conf: is not a file"), ("/dev/zero", "NUL byte"), (node.dir, "is not a file"),
                             (os.path.join(node.dir, "loop"), "symbolic links")):
            p = check(f, path)
            expect_equal(p.returncode, 78, f"exit status for {path}")
            expect(wanted in p.stderr, f"{wanted!r} is not said about {path}: {p.stderr}")
        for text, wanted in ((good + b"[node]\nname = a\0b\n", "NUL byte"), (good + b"#" * 1_000_000 + b"\n", "longer than"),
                             (good + b"# filler\n" * 600_000, "longer than"), (good + b"[router] listen = x\n", "behind the section"),
                             (os.urandom(4096), "odd.conf")):
            with open(odd, "wb") as file:
                file.write(text)
            p = check(f, odd)
            expect_equal(p.returncode, 78, f"exit status for {text[-20:]}")
            expect(wanted in p.stderr, f"{wanted!r} is not said about {text[-20:]}: {p.stderr[-500:]}")
        for text in (b"\xef\xbb\xbf" + good, good.replace(b"\n", b"\r\n"), good.replace(b"[node]", b"[node]  ; who")):
            with open(odd, "wb") as file:
                file.write(text)
            expect_equal(check(f, odd).returncode, 0, f"exit status for {text[:20]}")


def test_closed_descriptors(case):
    """Without 0, 1 and 2, the log is not written into whatever gets their numbers, before main or after."""
    with case.fleet() as f:
        for closed in ("0<&- 1>&- 2>&-", "2>&-"):
            node = f.expert("h1", "auto", start=False)
            p = subprocess.Popen(["bash", "-c", f'exec "$0" --config "$1" {closed}', f.expertd, node.config_path], stdout=subprocess.DEVNULL)
            try:
                wait_until("it answers", lambda: f.ctl("--socket", node.admin, "status", check=False).returncode == 0)
                for fd in range(3):
                    target = os.readlink(f"/proc/{p.pid}/fd/{fd}")
                    expect(target == "/dev/null" or "eventfd" in target, f"{closed}: descriptor {fd} is {target}")
                    if "eventfd" in target:
                        with open(f"/proc/{p.pid}/fdinfo/{fd}", encoding="ascii") as info:
                            count = next(line for line in info if line.startswith("eventfd-count")).split()[1]
                        expect(int(count, 16) < 2**32, f"{closed}: text was written into the eventfd that is descriptor {fd}")
            finally:
                p.terminate()
            expect_equal(p.wait(20), 0, f"exit status, {closed}")


def test_taken_paths(case):
    """The admin path is a file, a directory, a socket of the dead, a socket of the living."""
    with case.fleet() as f:
        node = f.expert("h1", "auto", start=False)

        def refused(wanted):
            try:
                node.start(timeout=20)
            except Failure as e:
                expect(wanted in str(e), f"{wanted!r} is not said: {e}")
                return
            raise Failure(f"it started: {wanted}")

        with open(node.admin, "w", encoding="utf-8"):
            refused("not a socket")
        os.unlink(node.admin)
        os.mkdir(node.admin)
        refused("not a socket")
        os.rmdir(node.admin)
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(node.admin)
            s.listen()
            refused("another process listens")
            expect(os.path.exists(node.admin), "the other process's socket is gone")
        node.start()


def test_signals_at_odd_moments(case):
    """SIGTERM once, twice, after SIGHUPs, at any moment from the first line of the log on: exit status 0."""
    storms = [(signal.SIGTERM,), (signal.SIGTERM, signal.SIGTERM), (signal.SIGHUP,) * 20 + (signal.SIGINT, signal.SIGTERM)]
    with case.fleet() as f:
        node = f.expert("h1", "auto", start=False)
        for i, storm in enumerate(storms * 3):
            size = os.path.getsize(node.log_path) if os.path.exists(node.log_path) else 0
            node.start(wait=False)
            wait_until("the log begins", lambda s=size: os.path.getsize(node.log_path) > s, pause=0.005)
            time.sleep(0.03 * i)
            for s in storm:
                if node.alive():
                    node.signal(s)
            expect_equal(node.process.wait(20), 0, f"exit status after {storm[-2:]}:\n{node.log_tail(5)}")


def test_output_that_cannot_be_written(case):
    """expertctl into a full device fails and says so, also where it would follow for ever; into a closed pipe it just ends."""
    with case.fleet() as f:
        h1 = f.expert("h1", "auto")
        for args in (["status"], ["metrics"], ["events"], ["events", "--follow"], ["--json", "events", "--follow"]):
            with open("/dev/full", "w", encoding="ascii") as full:
                p = subprocess.run([f.expertctl, "--socket", h1.admin, *args], stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE,
                                   text=True, timeout=10)
            expect_equal(p.returncode, 1, f"exit status of {args} into a full device")
            expect("cannot write the output" in p.stderr, f"{args}: {p.stderr}")
            p = subprocess.run(["bash", "-c", '"$@" | true', "sh", f.expertctl, "--socket", h1.admin, *args], timeout=10, capture_output=True)
            expect_equal(p.stderr, b"", f"{args} into a closed pipe")
