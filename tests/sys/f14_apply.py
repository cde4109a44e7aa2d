# SPDX-License-Identifier: Apache-2.0
"""fleet apply: shards move between hosts while streams run, and no request fails and no token differs; who may have them moved. What goes
wrong meanwhile, and placement = auto, is in l03_apply.py."""

import json

import certs
from fleet import expect, expect_equal, wait_until
from streams import Streams, all_ready, pairs, states

LONG_WITH_SANITIZER = True


def movable(f, globs=None, router=None, **host_keys):
    """r1 over h1, h2 and h3, which accept moves."""
    hosts = [f.expert(f"h{i + 1}", g, start=False, accept_moves="yes", **host_keys).start(wait=False)
             for i, g in enumerate(globs or pairs(f))]
    r1 = f.router("r1", hosts, start=False, **(router or {})).start(wait=False)
    for node in (*hosts, r1):
        node.wait_ready()
    all_ready(r1)
    return r1, hosts


def holders(r1):
    """How many hosts hold each shard, by what dispatch sees."""
    return {name(s): len(s["hosts"]) for s in r1.ctl_json("shard", "list")["shards"]}


def name(s):
    i = s["info"]
    return f"L{i['layer']}/E{i['first_expert']}-{i['first_expert'] + i['n_experts'] - 1}"


def shards_of(r1, host):
    return next(h["shards"] for h in r1.ctl_json("host", "list")["hosts"] if h["name"] == host)


def event_names(node):
    return [e["name"] for e in map(json.loads, node.ctl("--json", "events").stdout.splitlines())]


def test_drained(case):
    """What a drained host holds goes to others, and the host can be stopped; a restart keeps it empty."""
    with case.fleet() as f:
        r1, hosts = movable(f, router={"moves_at_once": 3})
        with Streams(r1, 8, 100) as s:
            r1.ctl("host", "drain", "h3", "--force")
            out = r1.ctl("fleet", "apply", "--repair", "--wait").stdout
            expect("unload" in out and " 0 failed" in out, f"what apply says: {out}")
            expect_equal(shards_of(r1, "h3"), 0, "shards on the drained host")
            expect(min(holders(r1).values()) >= 2, f"holders: {holders(r1)}")
            s.run(0.3)
            hosts[2].kill()
            s.run(0.3)
            s.stop("a host drained, emptied and killed")
        names = event_names(r1)
        expect(names.count("PLAN_BEGUN") == 1 and names.count("PLAN_FINISHED") == 1 and "MOVE_DONE" in names, f"events: {names}")
        again = r1.ctl("fleet", "apply", "--repair", "--wait").stdout
        expect("0 loaded" in again and "0 unloaded" in again, f"once more: {again}")
        hosts[2].start()
        wait_until("h3 is back", lambda: states(r1)["h3"] == "draining", timeout=30)
        expect_equal(shards_of(r1, "h3"), 0, "shards of the drained host after its restart")


def test_refusals(case):
    """Hosts that accept no moves, a second router, and a stop."""
    with case.fleet() as f:
        r1, hosts = movable(f, router={"move_bytes_per_s": 1 << 16})
        r2 = f.router("r2", hosts)
        r1.ctl("host", "drain", "h3", "--force")
        r2.ctl("host", "drain", "h3", "--force")
        r1.ctl("fleet", "plan", "--repair", "--apply")
        wait_until("it moves", lambda: any(m["state"] != "waiting" for m in r1.ctl_json("fleet", "status")["moves"]))
        busy = r1.ctl("fleet", "apply", check=False)
        expect(busy.returncode == 1 and "being carried out" in busy.stderr, f"a second plan: {busy}")
        other = r2.ctl("fleet", "apply", "--wait", check=False)
        expect(other.returncode == 1 and "router r1 moves shards here" in other.stderr, f"a second router: {other}")
        r1.ctl("fleet", "apply", "--stop")
        wait_until("it has stopped", lambda: r1.ctl_json("fleet", "status")["state"] == "idle", timeout=30)
        expect(min(holders(r1).values()) >= 2 and shards_of(r1, "h3") > 0, "the stop came too late to see it")
        expect_equal(r1.ctl("fleet", "apply", "--stop", check=False).returncode, 1, "a stop of nothing")
        expect_equal(r2.ctl("fleet", "apply", "--repair", "--wait").returncode, 0, "the second router, after the first")
        expect_equal(shards_of(r2, "h3"), 0, "shards on the drained host")
        expect_equal(r1.generate("12+30=").text.strip(), "42", "the answer")


def test_unwilling(case):
    """Without [tls] hosts accept no moves unless they say so."""
    with case.fleet() as f:
        r1, _, _ = f.two_hosts()
        expect(not any(h["accepts_moves"] for h in r1.ctl_json("host", "list")["hosts"]), "hosts that accept moves unasked")
        r1.ctl("fleet", "plan", "--min-replicas=1")
        refused = r1.ctl("fleet", "apply", "--wait", check=False)
        expect(refused.returncode == 1 and "accept_moves" in refused.stderr, f"unwilling hosts: {refused}")


def test_no_room(case):
    """More than fits is refused with both numbers, and nothing moves."""
    with case.fleet() as f:
        r1, _ = movable(f)
        before = holders(r1)
        refused = r1.ctl("fleet", "apply", "--wait", "--min-replicas=4", check=False)
        expect(refused.returncode == 1 and "4 replicas" in refused.stderr, f"too many replicas: {refused}")
        expect_equal(holders(r1), before, "holders")
        expect("PLAN_FAILED" in event_names(r1), "no event")


def test_tls(case):
    """With [tls] hosts accept moves without being told to, from peers by name."""
    with case.fleet() as f:
        ca = certs.Authority(case.dir + "/pki")
        tls = {n: {**ca.sign(n), "peers": "h* r*"} for n in ("h1", "h2", "h3", "r1")}
        hosts = []
        for i, globs in enumerate(pairs(f)):
            hosts.append(f.expert(f"h{i + 1}", globs, start=False))
            with open(hosts[-1].config_path, "a", encoding="utf-8") as out:
                out.write("[tls]\n" + "".join(f"{k} = {v}\n" for k, v in tls[f"h{i + 1}"].items()))
            hosts[-1].start(wait=False)
        r1 = f.router("r1", hosts, start=False, extra={"tls": tls["r1"]}).start(wait=False)
        for node in (*hosts, r1):
            node.wait_ready()
        all_ready(r1)
        expect(all(h["accepts_moves"] for h in r1.ctl_json("host", "list")["hosts"]), "hosts with [tls] that accept no moves")
        r1.ctl("host", "drain", "h3", "--force")
        lines = [json.loads(x) for x in r1.ctl("--json", "fleet", "apply", "--repair", "--wait").stdout.splitlines()]
        expect(all(m["state"] == "done" for m in lines[:-1]) and len(lines) > 1, f"moves: {lines}")
        expect_equal(shards_of(r1, "h3"), 0, "shards on the drained host")
