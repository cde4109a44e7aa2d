# SPDX-License-Identifier: Apache-2.0
"""fleet plan on a running fleet: what a lost, drained or new host makes necessary, and nothing when nothing is."""

from fleet import expect, expect_equal, wait_until
from streams import all_ready, pairs, states


def plan(r1, *options):
    return r1.ctl_json("fleet", "plan", *options)


def test_plan(case):
    with case.fleet() as f:
        hosts = []
        for i, globs in enumerate(pairs(f)):
            hosts.append(f.expert(f"h{i + 1}", globs, start=False))
            text = open(hosts[-1].config_path, encoding="utf-8").read()
            hosts[-1].write_config(text.replace("[node]", f"[node]\nzone = {'aab'[i]}"))
            hosts[-1].start(wait=False)
        h4 = f.expert("h4", "L1/E0-1", start=False).start(wait=False)
        r1 = f.router("r1", [*hosts, h4], start=False).start(wait=False)
        for node in (*hosts, h4, r1):
            node.wait_ready()
        all_ready(r1)
        listed = {h["name"]: h for h in r1.ctl_json("host", "list")["hosts"]}
        expect_equal([listed[f"h{i}"]["zone"] for i in (1, 2, 3)], ["a", "a", "b"], "zones of the hosts")
        expect(listed["h1"]["memory_bytes"] > 1 << 20, f"memory of h1: {listed['h1']}")
        r1.generate("What is 347 + 589?")

        p = plan(r1, "--repair")
        expect(p["before"]["shards_few_zones"] > 0, f"h1 and h2 share a zone, and some shards are on both: {p['before']}")
        expect(all("zone" in m["why"] for m in p["moves"] if m["load"]), f"why shards move: {p['moves'][:3]}")
        expect_equal((p["after"]["shards_few_zones"], p["after"]["shards_under"]), (0, 0), "what the plan leaves")

        hosts[2].kill()
        wait_until("h3 is down", lambda: states(r1)["h3"] == "down")
        p = plan(r1, "--repair")
        loads = [m for m in p["moves"] if m["load"]]
        expect(p["before"]["shards_under"] > 0 and loads, f"a lost host is not missed: {p['before']}")
        expect(any("h3" in m["why"] for m in loads), f"the lost host is not named: {[m['why'] for m in loads][:5]}")
        expect(all(m["host"] != "h3" for m in loads), "a lost host gets shards")
        expect_equal(p["after"]["shards_under"], 0, "shards with too few replicas after the plan")

        text = r1.ctl("fleet", "plan").stdout
        expect("moves" in text and "load" in text, f"as text: {text[:300]}")
        refused = r1.ctl("fleet", "plan", "--min-replicas=9", check=False)
        expect_equal(refused.returncode, 1, "more replicas than hosts")
        expect_equal(hosts[0].ctl("fleet", "plan", check=False).returncode, 1, "a plan asked of an expert host")
