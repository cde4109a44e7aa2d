# SPDX-License-Identifier: Apache-2.0
"""A processor quota for a process: a cgroup below the tests' own, of version 1 or 2."""

import os

from fleet import Skip

PERIOD_US = 20000


def own_cgroup():
    """The directory of our cgroup that has the cpu controller, and whether it is of version 2."""
    with open("/proc/self/cgroup", encoding="ascii") as f:
        mine = {c: path for _, controllers, path in (line.rstrip("\n").split(":", 2) for line in f) for c in controllers.split(",")}
    with open("/proc/mounts", encoding="utf-8") as f:
        for _, at, kind, options, *_ in map(str.split, f):
            if kind == "cgroup" and "cpu" in options.split(",") and "cpu" in mine:
                return at + mine["cpu"].rstrip("/"), False
            if kind == "cgroup2" and "" in mine and "cpu" not in mine:
                return at + mine[""].rstrip("/"), True
    raise Skip("no cgroups are mounted here")


class Quota:
    """percent of one processor for what is put into it, in slices of 20 ms. A context manager; after it all are back."""

    def __init__(self, percent):
        self.above, self.is_v2 = own_cgroup()
        self.dir, self.quota_us = f"{self.above}/expertd-quota-{os.getpid()}", PERIOD_US * percent // 100

    def _write(self, path, text):
        with open(path, "w", encoding="ascii") as f:
            f.write(text)

    def __enter__(self):
        try:
            os.mkdir(self.dir)
            if self.is_v2:
                self._write(f"{self.dir}/cpu.max", f"{self.quota_us} {PERIOD_US}")
            else:
                self._write(f"{self.dir}/cpu.cfs_period_us", str(PERIOD_US))
                self._write(f"{self.dir}/cpu.cfs_quota_us", str(self.quota_us))
        except OSError as e:
            self._remove()
            raise Skip(f"no processor quota here: {e}") from None
        return self

    def put(self, pid):
        self._write(f"{self.dir}/cgroup.procs", str(pid))

    def throttled(self):
        """How many slices ended before their time."""
        with open(f"{self.dir}/cpu.stat", encoding="ascii") as f:
            return dict(map(str.split, f))["nr_throttled"]

    def _remove(self):
        if os.path.isdir(self.dir):
            with open(f"{self.dir}/cgroup.procs", encoding="ascii") as f:
                for pid in f.read().split():
                    self._write(f"{self.above}/cgroup.procs", pid)
            os.rmdir(self.dir)

    def __exit__(self, *_):
        self._remove()
