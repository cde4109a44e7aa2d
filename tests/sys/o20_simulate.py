# SPDX-License-Identifier: Apache-2.0
"""expertctl fleet simulate: DeepSeek-V3 on 18 to 320 hosts of mixed kinds, and every wrong file named. No daemon runs."""

import json
import os
import subprocess

from fleet import expect, expect_equal

CONFIG = os.path.join(os.path.dirname(os.path.abspath(__file__)), "deepseek_v3.json")
EXPERT = 3 * (7168 * 2048 + 56 * 16 * 4)  # bytes: three matrices of fp8, one f32 scale for 128 x 128


def simulate(case, hosts, *options, trace="zipf:1:1", config=CONFIG, check=True):
    path = os.path.join(case.dir, "hosts.ini")
    with open(path, "w", encoding="utf-8") as f:
        f.write(hosts)
    p = subprocess.run(
        [os.path.join(case.root, "bin", "expertctl"), "fleet", "simulate", f"--config={config}", f"--hosts={path}",
         f"--trace={trace}", *options], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    expect(not check or p.returncode == 0, f"exit {p.returncode}: {p.stderr}")
    return p


def mixed(n, zones="a,b,c"):
    """n hosts in all: 80, 96 and 64 GB, a third of them each."""
    return "".join(f"[hosts m{m}]\ncount = {n // 3 + (i < n % 3)}\nmemory = {m}G\nzones = {zones}\n"
                   for i, m in enumerate((80, 96, 64)))


def check_run(r, n_hosts, n_zones, groups):
    """What holds for any fleet with room for two replicas and zones."""
    expect_equal((r["shards"], r["expert_bytes"], r["bytes"]), (58 * groups, EXPERT, 58 * 256 * EXPERT), "shards and sizes")
    expect_equal(len(r["hosts"]), n_hosts, "hosts")
    for h in r["hosts"]:
        expect(h["bytes"] <= h["memory_bytes"], f"{h['name']} holds more than its memory: {h}")
    p = r["planned"]
    expect(p["replicas_min"] >= 2 and p["shards_in_too_few_zones"] == 0, f"replicas or zones: {p}")
    expect_equal(sum(h["bytes"] for h in r["hosts"]), p["bytes"], "bytes")
    expect(1 <= p["imbalance"] < r["contiguous"]["imbalance"], f"the plan is no more even: {p}")
    expect(abs(max(h["load"] for h in r["hosts"]) - p["imbalance"]) < 1e-6, "the busiest host's load is the imbalance")
    expect_equal([x["kind"] for x in r["losses"]], ["host"] * n_hosts + ["zone"] * n_zones, "losses")
    for x in r["losses"]:
        expect_equal(x["shards_uncovered"], 0, f"shards without a replica after {x}")
        expect(x["replicas"] >= 1 and x["imbalance_after"] < 1.1, f"after {x}")


def test_few_hosts(case):
    """18 hosts hold two replicas with a tenth to spare: one host may be lost, a zone leaves one replica of each."""
    r = json.loads(simulate(case, mixed(18), "--json", "--expert-groups=32", "--placement").stdout)
    check_run(r, 18, 3, 32)
    expect(r["planned"]["imbalance"] < 1.05, f"imbalance {r['planned']}")
    for x in r["losses"]:
        expect_equal(x["replicas"], 2 if x["kind"] == "host" else 1, f"replicas after {x['name']}")
        expect(("why" in x) == (x["kind"] == "zone"), f"why after {x}")
    zone = {h["name"]: h["zone"] for h in r["hosts"]}
    expect_equal(len(r["placement"]), r["shards"], "shards placed")
    for shard, hosts in r["placement"].items():
        expect(len(set(hosts)) == len(hosts) and len({zone[h] for h in hosts}) >= 2, f"{shard} on {hosts}")


test_few_hosts.heavy = "thread"  # there are no threads in it


def test_many_hosts(case):
    """320 hosts and every expert its own shard; twice the same plan."""
    first, again = (json.loads(simulate(case, mixed(320), "--json", "--expert-groups=256").stdout) for _ in range(2))
    check_run(first, 320, 3, 256)
    expect(first["planned"]["imbalance"] < 1.05, f"imbalance {first['planned']}")
    for r in (first, again):
        del r["seconds"]
    expect(first == again, "two runs differ")
    slowest = max((x for x in first["losses"]), key=lambda x: x["recover_seconds"])
    expect_equal(first["slowest"]["recover_seconds"], slowest["recover_seconds"], "the slowest loss")


test_many_hosts.heavy = True  # minutes under a sanitizer


def test_trace_file_and_text(case):
    trace = os.path.join(case.dir, "trace.txt")
    with open(trace, "w", encoding="utf-8") as f:
        f.write("# layer expert rows\n" + "".join(f"{layer} {e} {1000 if e == 7 else 10}\n" for layer in range(3, 61) for e in range(256)))
    p = simulate(case, mixed(20), "--expert-groups=8", "--link-gbps=100", trace=trace)
    for wanted in ("zone a", "<- slowest to recover", "<- most uneven", "100 Gbit/s", "contiguous", "planned"):
        expect(wanted in p.stdout, f"{wanted!r} is not in\n{p.stdout}")
    expect_equal(p.stderr, "", "no progress where nobody looks")


def refuse(case, hosts, *wanted, code=1, options=(), **kw):
    p = simulate(case, hosts, *options, check=False, **kw)
    expect_equal(p.returncode, code, f"exit status ({p.stderr})")
    for w in wanted:
        expect(w in p.stderr, f"{w!r} is not in {p.stderr!r}")
    expect_equal(p.stdout, "", "output beside an error")


def test_mistakes(case):
    refuse(case, "[host h1]\nmemroy = 80G\n", "hosts.ini:2", "memroy", "memory")
    refuse(case, mixed(18), "zipf:x", trace="zipf:x")
    refuse(case, mixed(18), "/nonexistent/trace", trace="/nonexistent/trace")
    refuse(case, mixed(18), "/nonexistent/config", config="/nonexistent/config")
    refuse(case, mixed(3), "2 replicas of 464 shards need 1.2 TiB", "3 ready hosts can hold 240 GiB")
    refuse(case, mixed(18), "257", "256", options=["--expert-groups=257"])
    refuse(case, mixed(18), "--min-replicas", code=2, options=["--min-replicas=0"])
    refuse(case, mixed(18), "--max-replicas", code=2, options=["--min-replicas=3", "--max-replicas=2"])
    bad = os.path.join(case.dir, "bad.txt")
    with open(bad, "w", encoding="utf-8") as f:
        f.write("3 0 1\n2 0 1\n")
    refuse(case, mixed(18), "bad.txt:2", "layer 2", trace=bad)
    dense = os.path.join(case.dir, "dense.json")
    with open(CONFIG, encoding="utf-8") as f, open(dense, "w", encoding="utf-8") as out:
        config = json.load(f)
        del config["n_routed_experts"]
        json.dump(config, out)
    refuse(case, mixed(18), "dense.json", config=dense)
