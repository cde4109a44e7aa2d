# SPDX-License-Identifier: Apache-2.0
"""Fifty swaps of live shards in a row, half of them to bad plugins; memory after is memory before, within 2 %. A host killed in the
middle of ten. A swap to other bits, of which no answer that is under way sees any."""

import os
import threading
import time

from fleet import expect, expect_equal, wait_until
from s01_swap import deadline, killed_under_way, row_of_swaps
from streams import Streams
from swaps import Plugins, change, plugin_dir, three_hosts


def test_fifty(case):
    resident = {}

    def watch(hosts):
        time.sleep(3)  # what lingers is unloaded after a second
        for h in hosts:
            resident.setdefault(h.name, []).append(h.ctl_json("status")["resident_bytes"])

    # few recorded batches: that memory fills up by the by, swaps or none
    row_of_swaps(case, 50, watch, linger_s=1, record_bytes="1M")
    for name, (before, after) in resident.items():
        print(f"    {name}: {before >> 10} KiB resident before 50 swaps, {after >> 10} KiB after", flush=True)
        if not case.sanitized:
            expect(after <= before * 1.02, f"{name} grew from {before} to {after} bytes")


def test_killed(case):
    killed_under_way(case, 10)


class Busy:
    """While it is entered something is being generated at every moment: one long answer after the other, each begun in the midst of the one
    before it. gaps: how often that did not succeed."""

    def __init__(self, router):
        self.router, self.stopping, self.gaps = router, threading.Event(), 0
        self.thread = threading.Thread(target=self._run)

    def _start(self):
        p = self.router.spawn("--json", "generate", "12+30=", "--ignore-eos", "--max-tokens=480")
        return self._read(p, 10)

    @staticmethod
    def _read(p, n):
        for _ in range(n):
            p.stdout.readline()
        return p

    def _run(self):
        now = self.first
        while not self.stopping.is_set():
            self._read(now, 200)
            then = self._start()
            self.gaps += now.poll() is not None
            now.communicate()
            now = then
        now.communicate()

    def __enter__(self):
        self.first = self._start()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()


def kinds(r1):
    """How each host computes: what the numeric identities of its shards begin with."""
    return {h["name"]: h["identity"] for h in r1.ctl_json("host", "list")["hosts"]}


def test_other_bits(case):
    """A host is swapped by tolerance to a plugin of other bits and back, while answers are being generated: not one bit of theirs changes,
    though the host computed for them until then."""
    ask = ("What is 347 + 589?", "--seed=3", "--temperature=0.8", "--logprobs=2", "--ignore-eos", "--max-tokens=60")
    with case.fleet() as f:
        r1, (h1, h2, h3) = three_hosts(f, Plugins(f), deadline_s=deadline(case))
        ref, cpu = (os.path.join(plugin_dir(f), name) for name in ("ref.so", "cpu.so"))
        wanted = r1.generate(*ask)
        first = kinds(r1)["h3"]
        expect_equal(kinds(r1), {h.name: first for h in (h1, h2, h3)}, "hosts of one plugin")
        with Busy(r1) as busy, Streams(r1, 4, 60) as s:
            for glob in ("L1/*", "*"):
                rc, steps = change(h1, "swap", glob, "--plugin", ref, "--tolerance", "0.01")
                expect(rc == 0 and any(x["worst"] > 0 for x in steps), f"swap of {glob} by tolerance: {steps[:1]}")
                got = r1.generate(*ask)
                expect_equal((got.ids, got.logprobs), (wanted.ids, wanted.logprobs), f"bits after {glob} of h1 was swapped")
                wait_until(f"{glob} of h1 is seen to be other",
                           lambda g=glob: (kinds(r1)["h1"] == "mixed") == (g != "*") and kinds(r1)["h1"] != first)
            expect_equal(kinds(r1)["h2"], first, "how h2 computes")
            change(h1, "rollback", "*")
            change(h1, "swap", "L1/*", "--plugin", cpu, "--verify", "0")
            wait_until("all hosts compute alike", lambda: kinds(r1)["h1"] == first)
            s.run(1)
            expect_equal(busy.gaps, 0, "moments without a generation")
            s.stop("a host swapped to other bits and back")
        expect("IDENTITY_CHANGED" not in r1.log(), r1.log_tail())
