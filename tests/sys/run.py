#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the whole-system tests: files <letter>NN_<topic>.py beside this one (b basic, f failure, g gateway, s swap, o operations, l long).

Every function test_*(case) of a file is one test: `ok NAME`, `not ok NAME` or `skip NAME` on a line of its own. A failed test's
directory (configurations, logs) is kept under --work. Exit status 1 when one failed.

With --jobs several run at a time, each in a process that has ports of its own; files that say ALONE come last, one after the other.
What a test costs under a sanitizer decides where it runs: a function marked `heavy = True` never does, one marked with a sanitizer's
name not under that one, and a file that says LONG_WITH_SANITIZER only with --long, as the names do.
"""

import argparse
import glob
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import fleet  # noqa: E402

END = "--- "  # what a worker writes after a test, with its result


class Case:
    """What a test gets: the installed tree, a directory of its own, and fleets in it. sanitized: by what ("address", "thread"), or None."""

    def __init__(self, root, directory, sanitized):
        self.root, self.dir, self.sanitized = os.path.abspath(root), directory, sanitized
        self.build = os.environ.get("BUILD", "")

    def fleet(self, name="fleet", **kw):
        return fleet.Fleet(self.root, os.path.join(self.dir, name), **kw)


def load(path):
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wanted(a, module, fn):
    """Whether the test runs with the sanitizer that is asked for."""
    heavy = getattr(fn, "heavy", False)
    if not a.sanitized:
        return True
    if heavy is True:
        return False
    return a.long or (heavy != a.sanitized and not getattr(module, "LONG_WITH_SANITIZER", False))


def collect(a):
    """Names of the tests that run beside others, and of those that run alone."""
    together, alone = [], []
    prefixes = tuple(a.only.split(","))
    for path in sorted(glob.glob(os.path.join(HERE, "[a-z][0-9][0-9]_*.py"))):
        stem = os.path.splitext(os.path.basename(path))[0]
        if stem.startswith("l") and not any(p.startswith("l") for p in prefixes):
            continue
        module = load(path)
        for fn_name in [n for n in vars(module) if n.startswith("test_")]:
            if f"{stem}.{fn_name}".startswith(prefixes) and wanted(a, module, getattr(module, fn_name)):
                (alone if getattr(module, "ALONE", False) else together).append(f"{stem}.{fn_name}")
    return together, alone


def run_one(name, fn, case):
    """ok, not ok or skip, with the reason below it."""
    start = time.monotonic()
    shutil.rmtree(case.dir, ignore_errors=True)
    os.makedirs(case.dir)
    try:
        fn(case)
    except fleet.Skip as e:
        print(f"skip {name}: {e}", flush=True)
        return "skip"
    except Exception as e:  # a test may fail in any way; what it was is printed
        print(f"not ok {name} ({time.monotonic() - start:.1f} s), see {case.dir}", flush=True)
        text = str(e) if isinstance(e, fleet.Failure) else traceback.format_exc()
        print("\n".join("    " + line for line in text.splitlines()), flush=True)
        return "not ok"
    print(f"ok {name} ({time.monotonic() - start:.1f} s)", flush=True)
    shutil.rmtree(case.dir, ignore_errors=True)
    return "ok"


def work(a):
    """A worker: names come on standard input, which is no business of what the tests start."""
    modules = {}
    names = os.fdopen(os.dup(0), encoding="utf-8")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for line in names:
        name = line.strip()
        stem, fn_name = name.split(".")
        if stem not in modules:
            modules[stem] = load(os.path.join(HERE, stem + ".py"))
        case = Case(a.root, os.path.join(os.path.abspath(a.work), name), a.sanitized)
        print(f"{END}{run_one(name, getattr(modules[stem], fn_name), case)}", flush=True)


class Runner:
    """Workers, and what their tests came to."""

    def __init__(self, jobs):
        self.jobs, self.lock = jobs, threading.Lock()
        self.counts = {"ok": 0, "not ok": 0, "skip": 0}

    def _start(self, i):
        env = {**os.environ, "EX_PORTS": f"{i}/{self.jobs}"}
        return subprocess.Popen([sys.executable, *sys.argv, "--worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def _one(self, worker, name):
        """Has the worker run a test; its output is printed in one piece. False: the worker died."""
        worker.stdin.write(name + "\n")
        worker.stdin.flush()
        text, result = [], None
        for line in worker.stdout:
            if line.startswith(END):
                result = line[len(END):].strip()
                break
            text.append(line)
        if not result:
            text.append(f"not ok {name}: its process ended with {worker.wait()}\n")
        with self.lock:
            self.counts[result or "not ok"] += 1
            print("".join(text), end="", flush=True)
        return result is not None

    def _serve(self, i, names):
        worker = self._start(i)
        while True:
            with self.lock:
                name = names.pop(0) if names else None
            if not name:
                break
            if not self._one(worker, name):
                worker = self._start(i)
        worker.stdin.close()
        worker.wait()

    def run(self, names, jobs):
        threads = [threading.Thread(target=self._serve, args=(i, names)) for i in range(min(jobs, len(names)))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--root", required=True, help="an installed tree (build/root)")
    p.add_argument("--work", required=True, help="directory for the tests' files")
    p.add_argument("--only", default="", help="only tests whose FILE.test_name starts with this, or with one of several after commas")
    p.add_argument("--jobs", type=int, default=1, help="tests at a time")
    p.add_argument("--sanitized", choices=["address", "thread"], help="the tree was built with this sanitizer")
    p.add_argument("--long", action="store_true", help="also what takes long under a sanitizer")
    p.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.worker:
        return work(a)
    together, alone = collect(a)
    runner = Runner(a.jobs)
    runner.run(together, a.jobs)
    runner.run(alone, 1)
    counts = runner.counts
    print(f"{counts['ok']} passed, {counts['not ok']} failed, {counts['skip']} skipped", flush=True)
    return 1 if counts["not ok"] or not sum(counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
