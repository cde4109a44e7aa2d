#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the whole-system tests: files <letter>NN_<topic>.py beside this one (b basic, f failure, g gateway, s swap, o operations, l long).

Every function test_*(case) of a file is one test: `ok NAME`, `not ok NAME` or `skip NAME` on a line of its own. A failed test's
directory (configurations, logs) is kept under --work. Exit status 1 when one failed.
"""

import argparse
import glob
import importlib.util
import os
import shutil
import sys
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import fleet  # noqa: E402


class Case:
    """What a test gets: the installed tree, a directory of its own, and fleets in it."""

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


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--root", required=True, help="an installed tree (build/root)")
    p.add_argument("--work", required=True, help="directory for the tests' files")
    p.add_argument("--only", default="", help="only tests whose FILE.test_name starts with this")
    p.add_argument("--sanitized", action="store_true", help="the tree was built with a sanitizer: tests marked heavy are left out")
    p.add_argument("--long", action="store_true", help="also, with a sanitizer, the files that say LONG_WITH_SANITIZER")
    a = p.parse_args()
    counts = {"ok": 0, "not ok": 0, "skip": 0}
    for path in sorted(glob.glob(os.path.join(HERE, "[a-z][0-9][0-9]_*.py"))):
        stem = os.path.splitext(os.path.basename(path))[0]
        if stem.startswith("l") and not a.only.startswith("l"):
            continue
        module = load(path)
        if a.sanitized and not a.long and getattr(module, "LONG_WITH_SANITIZER", False):
            continue
        for fn_name in [n for n in vars(module) if n.startswith("test_")]:
            name, fn = f"{stem}.{fn_name}", getattr(module, fn_name)
            if not name.startswith(a.only) or (a.sanitized and getattr(fn, "heavy", False)):
                continue
            counts[run_one(name, fn, Case(a.root, os.path.join(os.path.abspath(a.work), name), a.sanitized))] += 1
    print(f"{counts['ok']} passed, {counts['not ok']} failed, {counts['skip']} skipped", flush=True)
    return 1 if counts["not ok"] or not sum(counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
