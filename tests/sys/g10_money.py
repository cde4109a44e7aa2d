# SPDX-License-Identifier: Apache-2.0
"""Accounts, keys and money as operators see them, and what is left of them after kill -9."""

import json
import re

from fleet import expect, expect_equal, wait_until


def router_with_ledger(f, **ledger):
    """One process with all shards and a ledger."""
    return f.router("r1", shards="*", extra={"ledger": ledger})


def clean(node):
    """The ledger of a running node, verified."""
    p = node.ctl("--json", "ledger", "verify", check=False)
    expect(p.returncode == 0, f"ledger verify: exit {p.returncode}: {p.stdout}{p.stderr}")
    return json.loads(p.stdout)


def balances(node, account):
    return node.ctl_json("account", "show", account)["accounts"][0]["balances"]


def test_operators(case):
    """Every command once, by its words and by --json; what is wrong is refused with its reason; all of it is there after kill -9."""
    with case.fleet() as f:
        r1 = router_with_ledger(f)
        expect("acme" in r1.ctl("account", "create", "acme").stdout, "account create says nothing of acme")
        r1.ctl("account", "create", "zeta", "--tier=gold")
        secret = r1.ctl("key", "create", "acme", "--label=first").stdout.strip()
        expect(re.fullmatch(r"sk-[0-9a-f]{64}", secret), f"not a key: {secret}")
        expect(secret not in r1.ctl("--json", "key", "list").stdout, "a key is shown again")
        r1.ctl("tariff", "set", "0.07", "0.27", "1.10")
        expect(r1.ctl_json("tariff", "list")["tariffs"][0]["in_force"], "no tariff is in force")
        first = r1.ctl_json("topup", "credit", "acme", "12.50", "--key=pay-1", "--note=invoice 7")
        again = r1.ctl_json("topup", "credit", "acme", "12.50", "--key=pay-1")
        expect_equal((again["seq"], again["replayed"], again["available"]), (first["seq"], True, "12.50"), "the same credit again")
        r1.ctl("topup", "credit", "acme", "1", "--key=gift", "--grant")
        for words, why in ((("topup", "credit", "acme", "13", "--key=pay-1"), "used for something else"),
                           (("topup", "credit", "acme", "1.0000000001", "--key=x"), "no amount"),
                           (("topup", "credit", "nobody", "1", "--key=x"), "no account 'nobody'"),
                           (("account", "create", "acme"), "already"),
                           (("tariff", "set", "1", "0.0005", "1"), "no price"),
                           (("key", "revoke", "99"), "no key 99")):
            p = r1.ctl(*words, check=False)
            expect(p.returncode == 1 and why in p.stderr, f"{words}: exit {p.returncode}: {p.stderr}")
        expect_equal(r1.ctl("topup", "credit", "acme", "1", check=False).returncode, 2, "exit without --key")
        r1.ctl("account", "suspend", "zeta")
        r1.ctl("key", "revoke", "1")
        wanted = [{"currency": "USD", "granted": "1.00", "topped_up": "12.50", "held": "0.00"}]
        expect_equal(balances(r1, "acme"), wanted, "balances")
        before = clean(r1)
        expect_equal(before["transactions"], 2, "transactions")
        r1.kill()
        r1.start()
        expect_equal(balances(r1, "acme"), wanted, "balances after kill -9")
        expect_equal(clean(r1)["hash"], before["hash"], "the seal of the ledger")
        accounts = {a["name"]: a for a in r1.ctl_json("account", "list")["accounts"]}
        expect_equal((accounts["zeta"]["suspended"], accounts["zeta"]["tier"]), (True, "gold"), "zeta")
        expect_equal(accounts["acme"]["keys"], 0, "keys that are good")
        expect("revoked" in r1.ctl("key", "list", "acme").stdout, "the key is not shown as revoked")
        expect("invoice 7" in r1.ctl("ledger", "show", "acme").stdout, "the note is not shown")
        r1.ctl("usage", "acme", "--since=2026-01-01")
        wait_until("a metric says that the ledger is up", lambda: "expertd_ledger_up 1" in r1.ctl("metrics").stdout)
        names = [e["name"] for e in map(json.loads, r1.ctl("--json", "events").stdout.splitlines())]
        expect("LEDGER_DOWN" not in names, "the ledger was down")


def test_without_ledger(case):
    """A router without [ledger] says that it keeps none."""
    with case.fleet() as f:
        r1 = f.router("r1", shards="*")
        p = r1.ctl("account", "list", check=False)
        expect(p.returncode in (1, 3) and p.stderr, f"exit {p.returncode}: {p.stderr}")
