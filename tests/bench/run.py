#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs every benchmark once and prints its table; docs/PERFORMANCE.md quotes them. With --json, one object on stdout."""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "sys"))


def cpu_name():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        for line in f:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--root", required=True)
    p.add_argument("--build", required=True)
    p.add_argument("--json", action="store_true")
    p.add_argument("--only", choices=("dispatch", "dispatch_tls", "ffn", "ledger", "fleet"), help="one part")
    a = p.parse_args()
    # the ledger's file lies in the build tree: /tmp may be memory, whose fsync costs nothing
    with tempfile.TemporaryDirectory(prefix="expertd-bench-") as pki, tempfile.TemporaryDirectory(dir=a.build) as disk:
        return run(a, pki, os.path.abspath(disk))


def run(a, pki, disk):
    dispatch = os.path.join(a.build, "tests/bench/bench_dispatch")
    programs = {
        "dispatch": [dispatch],
        "dispatch_tls": [dispatch, "--tls", pki],
        "ffn": [os.path.join(a.build, "tests/bench/bench_ffn")],
        "ledger": [os.path.join(a.build, "tests/bench/bench_ledger"), disk],
        "fleet": [sys.executable, os.path.join(HERE, "fleet_speed.py"), "--root", os.path.abspath(a.root)],
    }
    out = {"date": datetime.date.today().isoformat(), "cpu": cpu_name(), "cores": os.cpu_count()}
    if not a.json:
        print(f"{out['date']} · {out['cpu']} · {out['cores']} cores")
    for name, argv in programs.items():
        if a.only and name != a.only:
            continue
        if name == "dispatch_tls":
            import certs
            certs.Authority(pki).sign("bench", "IP:127.0.0.1")
        if a.json:
            out[name] = json.loads(subprocess.run([*argv, "--json"], check=True, stdout=subprocess.PIPE, cwd=a.build).stdout)
        else:
            print(f"\n== {name}", flush=True)
            subprocess.run(argv, check=True, cwd=a.build)
    if a.json:
        json.dump(out, sys.stdout, indent=1)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
