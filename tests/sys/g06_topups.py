# SPDX-License-Identifier: Apache-2.0
"""The gate on top-ups: closed by its figures and by operators, public, written down, and there after kill -9."""

import json
import urllib.error
import urllib.request

from fleet import expect, expect_equal, free_ports, wait_until


def with_gate(f, **topup):
    """A gateway with accounts and a gate; one account, and a tariff."""
    port = free_ports(1)[0]
    node = f.router("r1", shards="auto", extra={"ledger": {}, "gateway": {"listen": f"127.0.0.1:{port}", "accounts": "yes"}, "topup": topup})
    node.http = port
    node.ctl("tariff", "set", "1", "1", "1")
    node.ctl("account", "create", "acme")
    return node


def public(node):
    with urllib.request.urlopen(f"http://127.0.0.1:{node.http}/v1/topups/status", timeout=30) as r:
        return json.load(r)


def events(node):
    return [e for e in map(json.loads, node.ctl("--json", "events").stdout.splitlines()) if e["name"].startswith("TOPUP_")]


def test_operators(case):
    """A pin wins, is told to everybody with its reason, and holds over kill -9, until its end or topup auto."""
    with case.fleet() as f:
        node = with_gate(f)
        expect_equal((public(node)["state"], public(node)["by_operator"]), ("open", False), "at first")
        expect("OPEN" in node.ctl("topup", "status").stdout, "topup status")
        node.ctl("topup", "suspend", "--reason=GPU outage in zone a")
        p = public(node)
        expect_equal((p["state"], p["by_operator"], p["reason"], p["until"]), ("suspended", True, "GPU outage in zone a", None), "public")
        expect_equal([(e["name"], "GPU outage" in e["text"]) for e in events(node)], [("TOPUP_RESTRICTED", True)], "events")
        node.kill()
        node.start()
        expect_equal((public(node)["state"], public(node)["since"]), ("suspended", p["since"]), "after kill -9")
        node.ctl("topup", "open", "--reason=mended")
        node.ctl("topup", "auto")
        s = node.ctl_json("topup", "status")
        expect_equal([(h["from"], h["to"]) for h in s["history"]], [("open", "suspended"), ("suspended", "open"), ("open", "open")], "history")
        p = node.ctl("topup", "auto", check=False)
        expect(p.returncode == 1 and "no operator holds" in p.stderr, f"topup auto twice: exit {p.returncode}: {p.stderr}")
        for words in (("suspend",), ("suspend", "--reason=x", "--until=soon")):
            expect_equal(node.ctl("topup", *words, check=False).returncode, 2, f"exit of {words}")


def test_figures(case):
    """More is sold than the fleet can serve: the gate closes by itself, once, with the figures in event and trail, and opens when less is owed."""
    with case.fleet() as f:
        node = with_gate(f, capacity_tokens_s=1000, horizon_s=60, draw_percent_min=100, enter_dwell_s=1, leave_dwell_s=2, lost_shards_enter="",
                         lost_shards_leave="")
        node.ctl("topup", "credit", "acme", "0.05", "--key=a")
        node.ctl("topup", "credit", "acme", "10", "--key=b")  # ten million tokens; 60,000 can be served
        wait_until("the gate closes", lambda: public(node)["state"] == "suspended", 60)
        p = public(node)
        expect(0 < p["figures"]["cover"] < 0.4 and "liability cover 0.01 < 0.40" in p["reason"], p)
        e = events(node)[-1]
        expect("liability cover 0.01 < 0.40" in e["text"], e)
        s = node.ctl_json("topup", "status")
        expect_equal((s["capacity_tokens_s"], s["draw"], s["by"]), (1000.0, 1.0, "auto"), "what the cover is made of")
        node.ctl("tariff", "set", "1000", "1000", "1000")  # the same money buys a thousandth
        wait_until("the gate opens", lambda: public(node)["state"] == "open", 60)
        expect_equal(len(node.ctl_json("topup", "status")["history"]), 2, "changes")
        wait_until("the metric says so", lambda: "\nexpertd_topup_state 0\n" in node.ctl("metrics").stdout, 20)


def test_without_gate(case):
    """A gateway without [topup] has no such path, and its expertctl says so."""
    with case.fleet() as f:
        port = free_ports(1)[0]
        node = f.router("r1", shards="auto", extra={"gateway": {"listen": f"127.0.0.1:{port}"}})
        node.http = port
        try:
            public(node)
            raise AssertionError("it has a status")
        except urllib.error.HTTPError as e:
            expect_equal(e.code, 404, "status")
        p = node.ctl("topup", "status", check=False)
        expect(p.returncode in (1, 3) and p.stderr, f"exit {p.returncode}: {p.stderr}")
