#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tokens per second of one model: all experts in the router's process against two expert hosts over gRPC, interleaved in one run."""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "sys"))
import fleet  # noqa: E402

QUESTION = "What is 347 + 589?"


def one(router, n):
    """Decoding speed of n concurrent sequences: (tokens/s in all, time to first token p50 in s)."""
    options = ["--temperature=1", "--max-tokens=200", "--ignore-eos"]
    start = time.monotonic()
    clients = [router.spawn("--json", "generate", QUESTION, *options, f"--seed={i}") for i in range(n)]
    done = [fleet.Generation(c.communicate(timeout=300)[0]) for c in clients]
    took = time.monotonic() - start
    tokens = sum(g.finished["completion_tokens"] for g in done)
    if n == 1:
        f = done[0].finished
        return (tokens - 1) / (f["total_seconds"] - f["first_token_seconds"]), f["first_token_seconds"]
    return tokens / took, statistics.median(g.finished["first_token_seconds"] for g in done)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--root", required=True)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    directory = tempfile.mkdtemp(prefix="expertd-bench-")
    rows = []
    try:
        with fleet.Fleet(a.root, os.path.join(directory, "local")) as f1, fleet.Fleet(a.root, os.path.join(directory, "two")) as f2:
            local, remote = f1.router("r0", shards="auto"), f2.two_hosts()[0]
            for n in (1, 8, 32):
                got = {"local": [], "2 hosts": []}
                for _ in range(a.rounds):
                    got["local"].append(one(local, n))
                    got["2 hosts"].append(one(remote, n))
                for where, values in got.items():
                    rows.append({"sequences": n, "experts": where,
                                 "tokens_per_second": statistics.median(v[0] for v in values),
                                 "tokens_per_second_min": min(v[0] for v in values),
                                 "tokens_per_second_max": max(v[0] for v in values),
                                 "first_token_seconds": statistics.median(v[1] for v in values)})
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if a.json:
        json.dump({"model": "tiny-r1", "rounds": a.rounds, "rows": rows}, sys.stdout)
        print()
        return 0
    print(f"tiny-r1, {a.rounds} rounds interleaved, median (least to most)")
    print(f"{'sequences':>9}  {'experts':8}  {'tokens/s':>9}  {'range':>15}  {'first token':>11}")
    for r in rows:
        print(f"{r['sequences']:9d}  {r['experts']:8}  {r['tokens_per_second']:9.0f}  "
              f"{r['tokens_per_second_min']:6.0f} to {r['tokens_per_second_max']:5.0f}  {r['first_token_seconds'] * 1e3:8.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
