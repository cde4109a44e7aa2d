# SPDX-License-Identifier: Apache-2.0
"""fleet apply and placement = auto when hosts, targets and routers die in the middle: no request fails, no token differs, and the fleet
comes to what was planned."""

import resource
import signal
import time

from f14_apply import event_names, holders, movable, name, shards_of
from fleet import expect, expect_equal, wait_until
from streams import Streams, all_ready, size


def test_lost_with_auto(case):
    """kill -9 with placement = auto: the others get what it had; its return changes nothing."""
    with case.fleet() as f:
        r1, hosts = movable(f, router={"placement": "auto", "auto_repair_s": 1, "moves_at_once": 3})
        with Streams(r1, *size(case)) as s:
            s.run(0.3)
            hosts[1].kill()
            wait_until("every shard has two holders again", lambda: min(holders(r1).values()) >= 2, timeout=60)
            s.stop("a killed host's replicas restored by themselves")
        hosts[1].start()
        all_ready(r1)
        before = holders(r1)
        wait_until("the plan is over", lambda: r1.ctl_json("fleet", "status")["state"] == "idle")
        time.sleep(1)
        expect_equal(holders(r1), before, "holders after the host came back")
        expect_equal(r1.ctl_json("fleet", "status")["placement"], "auto", "placement")


def target_fails(case, fault, mend, what):
    """A host that shards are moved to fails in the middle: the rest is planned anew, and the fleet is whole."""
    with case.fleet() as f:
        ranges = f.ranges()
        globs = ["auto", "auto", "L1/" + ranges[0], "L1/" + ranges[0]]
        r1, hosts = movable(f, globs, router={"moves_at_once": 2, "move_bytes_per_s": 1 << 20})
        with Streams(r1, *size(case)) as s:
            r1.ctl("host", "drain", "h1", "--force")
            waiting = r1.spawn("fleet", "apply", "--repair", "--wait")
            wait_until("a shard came to h3", lambda: shards_of(r1, "h3") > 1, timeout=30)
            fault(hosts[2])
            out, err = waiting.communicate(timeout=120)
            expect_equal(waiting.returncode, 0, f"apply: {out} {err}")
            expect_equal(shards_of(r1, "h1"), 0, "shards on the drained host")
            live = {n: [h for h in hs if h != "h3"] for n, hs in
                    ((name(x), x["hosts"]) for x in r1.ctl_json("shard", "list")["shards"])}
            expect(min(len(h) for h in live.values()) >= 2, f"holders: {live}")
            mend(hosts[2])
            s.stop(what)
        expect(r1.ctl_json("fleet", "status")["plans"] >= 2, "nothing was planned anew")


def test_target_dies(case):
    """kill -9."""
    target_fails(case, lambda h: h.kill(), lambda h: h.start(), "the host that shards went to killed")


def test_target_freezes(case):
    """SIGSTOP: its connections stand, and nothing comes."""
    target_fails(case, lambda h: h.signal(signal.SIGSTOP), lambda h: h.signal(signal.SIGCONT), "the host that shards went to frozen")


def test_router_killed(case):
    """kill -9 of the router in the middle: its successor serves, and finishes what is left."""
    with case.fleet() as f:
        r1, _ = movable(f, router={"move_bytes_per_s": 1 << 18})
        r1.ctl("host", "drain", "h3", "--force")
        r1.ctl("fleet", "apply", "--repair")
        wait_until("some have moved", lambda: r1.ctl_json("fleet", "status")["loaded"] >= 2, timeout=30)
        r1.process.send_signal(signal.SIGKILL)
        r1.process.wait()
        r1.start()
        all_ready(r1)
        expect_equal(r1.generate("12+30=").text.strip(), "42", "the answer")
        r1.ctl("host", "drain", "h3", "--force")
        r1.ctl("fleet", "apply", "--repair", "--wait", timeout=120)
        expect_equal(shards_of(r1, "h3"), 0, "shards on the drained host")
        expect(min(holders(r1).values()) >= 2, f"holders: {holders(r1)}")


def test_evened_out(case):
    """placement = auto gives an idle host work, and then leaves well alone."""
    with case.fleet() as f:
        keys = {"placement": "auto", "auto_interval_s": 1, "auto_repair_s": 600, "min_replicas": 1, "max_replicas": 2,
                "moves_at_once": 4}
        r1, _ = movable(f, ["auto", "L1/" + f.ranges()[0]], router=keys)
        with Streams(r1, 4, 100) as s:
            wait_until("h2 has work", lambda: shards_of(r1, "h2") > 4, timeout=60)
            wait_until("it rests", lambda: r1.ctl_json("fleet", "status")["state"] == "idle", timeout=60)
            go, held = r1.ctl_json("fleet", "status")["go"], holders(r1)
            s.run(4)
            later = r1.ctl_json("fleet", "status")["go"]
            expect(later - go <= 2, f"it moves again and again: {go} times, then {later}")
            s.stop("load evened out")
        expect(min(held.values()) >= 1 and max(held.values()) <= 2, f"holders: {held}")
        text = open(r1.config_path, encoding="utf-8").read()
        r1.write_config(text.replace("placement = auto", "placement = manual"))
        r1.ctl("reload")
        expect_equal(r1.ctl_json("fleet", "status")["placement"], "manual", "placement after a reload")
        expect_equal(event_names(r1).count("PLACEMENT_AUTO"), 2, "events of auto on and off")


def test_no_memory(case):
    """A host that has less memory than it said refuses, and another one takes what it was to have."""
    with case.fleet() as f:
        one = "L1/" + f.ranges()[0]
        r1, hosts = movable(f, ["auto", "auto", one, one])
        with open(f"/proc/{hosts[3].process.pid}/statm", encoding="ascii") as statm:
            room = int(statm.read().split()[0]) * resource.getpagesize() + (100 << 20)  # less than shards must leave free
        resource.prlimit(hosts[3].process.pid, resource.RLIMIT_AS, (room, room))
        r1.ctl("host", "drain", "h1", "--force")
        out = r1.ctl("fleet", "apply", "--repair", "--wait").stdout
        expect("h4           failed: memory: " in out and "1 failed" in out, f"what apply says: {out}")
        expect_equal((shards_of(r1, "h1"), shards_of(r1, "h4")), (0, 1), "shards on h1, h4")
        expect(min(holders(r1).values()) >= 2, f"holders: {holders(r1)}")


test_no_memory.heavy = True  # sanitizers take all addresses
