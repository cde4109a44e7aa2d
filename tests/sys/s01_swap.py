# SPDX-License-Identifier: Apache-2.0
"""Shards are swapped while they serve: a good plugin goes live and a bad one is refused at the step that is there for it; no request fails
and no token changes, whatever the plugin does and whenever the host is killed."""

import json
import os
import random
import time

from fleet import expect, expect_equal, wait_until
from streams import Streams, all_ready, size
from swaps import MISTAKES, Plugins, change, generations, plugin_dir, sha256, swap_bad, swap_good, three_hosts

SEED = 20261124

LONG_WITH_SANITIZER = True


def deadline(case, hangs=False):
    """Of a call into a plugin under trial. A sanitizer's suite takes its time, and a busy machine's; what hangs takes all of it."""
    return 120 if case.sanitized else 10 if hangs else 60


def mistakes(case):
    """A plugin that hangs costs the whole deadline; under a sanitizer that is left to the unit test."""
    return [m for m in MISTAKES if not (case.sanitized and m == "hangs_at_load")]


def bad_swap(rng, host, plugins, mistake):
    """leaks: a sanitizer keeps freed memory, so its suite cannot see a leak; the plugin takes no bf16, and is refused for that."""
    glob = rng.choice(["*", "L1/*", "L2/*"]) if mistake != "hangs_at_load" else "L1/*"
    swap_bad(host, glob, plugins[mistake], "trial")


def warm_up(hosts, good):
    """Every host has had each plugin, on all of its shards."""
    for host in hosts * 2:
        for plugin in good:
            swap_good(host, "*", plugin)


def row_of_swaps(case, n, watch=None, **keys):
    """n swaps of live shards, every other one to a bad plugin, under streams. watch: told the hosts before and after, when all is warm."""
    rng = random.Random(SEED)
    with case.fleet() as f:
        p = Plugins(f)
        good = [p.good(i + 1) for i in range(3)]
        names = mistakes(case)
        bad = {m: p.bad(m) for m in names}
        r1, hosts = three_hosts(f, p, deadline_s=deadline(case, hangs=True), **keys)
        with Streams(r1, *size(case)) as s:
            s.run(1)
            n_live = 0
            if watch:
                warm_up(hosts, good)
                watch(hosts)
            for i in range(n):
                host = rng.choice(hosts)
                if i % 2:
                    bad_swap(rng, host, bad, names[i // 2 % len(names)])
                else:
                    n_live += swap_good(host, rng.choice(["*", "L1/*", "L2/*"]) if i else "*", good[i // 2 % len(good)])
                expect(not s.trouble, f"after swap {i + 1}: {s.trouble[:1]}")
            if watch:
                watch(hosts)
            s.stop(f"{n} swaps, half of them to bad plugins, {n_live} shards swapped")
        events = [e["name"] for h in hosts for e in map(json.loads, h.ctl("--json", "events").stdout.splitlines())]
        expect("SWAP_STARTED" in events and "SWAP_LIVE" in events and "SWAP_REFUSED" in events, f"events: {set(events)}")
        expect("IDENTITY_CHANGED" not in r1.log() and "another numeric identity" not in r1.log(), r1.log_tail())


def test_row(case):
    row_of_swaps(case, 6 if case.sanitized else 8)


def test_rollback(case):
    """The generation before comes back under streams, and goes again."""
    with case.fleet() as f:
        p = Plugins(f)
        new = p.good(1)
        r1, hosts = three_hosts(f, p, deadline_s=deadline(case))
        with Streams(r1, *size(case)) as s:
            s.run(1)
            swap_good(hosts[0], "*", new)
            for n in (1, 2):
                rc, steps = change(hosts[0], "rollback", "*")
                expect(rc == 0 and steps, f"rollback: {steps}")
                expect_equal({x["generation"] for x in steps}, {n}, "live after a rollback")
                s.run(0.5)
            s.stop("a swap rolled back and forth")
        rc, steps = change(hosts[1], "rollback", "*")
        expect(rc == 1 and all("no generation before it" in x["text"] for x in steps), f"nothing to roll back to: {steps[:1]}")


def test_refusals(case):
    """What is named in a refusal, and that nothing is left of it."""
    with case.fleet() as f:
        p = Plugins(f)
        _, hosts = three_hosts(f, p, deadline_s=deadline(case))
        h1 = hosts[0]
        with open(os.path.join(plugin_dir(f), "cpu.so"), "rb") as file:
            cpu = file.read()
        stranger = p.good(9, allowed=False)
        swap_bad(h1, "*", os.path.join(plugin_dir(f), "ref.so"), "trial", "differs in bits")
        swap_bad(h1, "*", stranger, "allow", sha256(stranger))
        swap_bad(h1, "*", p.other("text.so", b"not a plugin\n"), "abi", "text.so")
        swap_bad(h1, "*", p.other("half.so", cpu[:len(cpu) // 2]), "abi", "half.so")
        swap_bad(h1, "L99/*", p.good(1), "select", "no shard of 'L99/*' is here")
        missing = next(r for r in f.ranges() if r not in " ".join(h1_globs(f)))
        swap_bad(h1, f"*/{missing}", p.good(1), "select", "is here")
        expect_equal(h1.ctl("shard", "swap", "*", "--plugin", "/nonexistent.so", check=False).returncode, 1, "no such file")
        expect_equal(h1.ctl("shard", "swap", "*", check=False).returncode, 2, "no plugin named")
        expect_equal(h1.ctl("shard", "swap", "*", "--plugin", stranger, "--exact", "--tolerance=1", check=False).returncode, 2,
                     "--exact and --tolerance")
        state = os.path.join(h1.dir, "state")
        expect(not os.path.exists(os.path.join(state, "published")), "something was published")
        wait_until("no private copy is left", lambda: not os.listdir(os.path.join(state, "plugins")))


def h1_globs(f):
    ranges = f.ranges()
    return ranges[0::3] + ranges[1::3]


def test_unwritable_state(case):
    """The state directory cannot be written to: refused before anything changes."""
    with case.fleet() as f:
        p = Plugins(f)
        r1, hosts = three_hosts(f, p, deadline_s=deadline(case))
        state = os.path.join(hosts[0].dir, "state")
        os.mkdir(os.path.join(state, ".published"))
        swap_bad(hosts[0], "L1/*", p.good(1), "publish", "cannot write")
        os.rmdir(os.path.join(state, ".published"))
        swap_good(hosts[0], "L1/*", p.good(1))
        r1.generate("12+30=", "--max-tokens=8")


def trials_of(f):
    """Processes that try a plugin for this fleet."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if b"--trial" in file.read() and os.readlink(f"/proc/{pid}/exe") == os.path.realpath(f.expertd):
                    found.append(pid)
        except OSError:
            pass
    return found


def killed_under_way(case, n):
    """kill -9 while a swap is under way, n times: the host comes back with the set that was published last, and no child is left."""
    rng = random.Random(SEED)
    with case.fleet() as f:
        p = Plugins(f)
        r1, hosts = three_hosts(f, p, deadline_s=deadline(case), start_tries=0)  # the plugins are not to blame
        h1 = hosts[0]
        with Streams(r1, *size(case)) as s:
            s.run(0.5)
            for i in range(n):
                new = p.good(i + 1)
                before = generations(h1)
                client = h1.spawn("--json", "shard", "swap", "*", "--plugin", new)
                time.sleep(rng.uniform(0.2, 2.5))
                h1.kill()
                told = [json.loads(line) for line in client.communicate()[0].splitlines()]
                h1.start()
                all_ready(r1)
                after = generations(h1)
                expect_equal(set(after), set(before), "shards after the restart")
                live = {x["shard"] for x in told if x["step"] == "done"}
                for key, (_, digest, identity) in after.items():
                    name = next((x for x in live if x.startswith(f"L{key[0]}/E{key[1]}-")), None)
                    expect(digest in (sha256(new), before[key][1]), f"{key} has a plugin that was never asked for")
                    expect(not name or digest == sha256(new), f"{name} was told to be live, and is not after the restart")
                    expect_equal(identity, before[key][2], f"identity of {key}")
                expect("PUBLISHED_VOID" not in {e["name"] for e in map(json.loads, h1.ctl("--json", "events").stdout.splitlines())},
                       h1.log_tail())
            swap_good(h1, "*", p.good(n + 1))
            s.stop(f"a host killed while its shards are swapped, {n} times")
        expect_equal({v[1] for v in generations(h1).values()}, {sha256(p.good(n + 1))}, "plugins in the end")
        wait_until("no trial is left", lambda: not trials_of(f))


def test_killed(case):
    killed_under_way(case, 2)


def test_unload_and_load(case):
    """A shard that is taken away is computed by its other replica, stays away over a restart, and comes back."""
    with case.fleet() as f:
        p = Plugins(f)
        r1, hosts = three_hosts(f, p, deadline_s=deadline(case))
        h1 = hosts[0]
        n = len(generations(h1))
        with Streams(r1, *size(case)) as s:
            s.run(1)
            rc, steps = change(h1, "unload", "L1/*")
            expect(rc == 1 and all("--force" in x["text"] for x in steps), f"a shard in use was unloaded: {steps[:1]}")
            rc, steps = change(h1, "unload", "L1/*", "--force")
            expect(rc == 0 and steps, f"unload --force: {steps}")
            s.run(0.5)
            h1.stop()
            h1.start()
            all_ready(r1)
            expect_equal(len(generations(h1)), n - len(steps), "shards after unload and restart")
            expect_equal(change(h1, "load", "L1/*")[0], 0, "load")
            s.run(0.5)
            s.stop("shards unloaded and loaded again")
        expect(len(generations(h1)) > n, "load takes every shard of the glob, those of other hosts too")


def test_crashes_at_every_start(case):
    """A plugin that passed its trial and then aborts the daemon whenever it loads: it is set aside after three starts, told, shown, and
    tried again when an operator swaps to it once more."""
    with case.fleet() as f:
        model, trigger = os.path.join(f.dir, "f32"), os.path.join(f.dir, "trigger")
        f.ctl("model", "synth", f"--config={f.model}/config.json", "--dtype=f32", f"--out={model}")
        f.model = model
        p = Plugins(f)
        plugin = p.bad("aborts_on_file", trigger)
        h1 = f.expert("h1", "L1/*", allow_plugins=p.allow)
        before = generations(h1)
        rc, steps = change(h1, "swap", "*", "--plugin", plugin, "--tolerance", "0.01")
        expect(rc == 0 and len(steps) == len(before), f"swap: {steps[:1]}")
        swapped = generations(h1)
        with open(trigger, "w", encoding="utf-8"):
            pass
        h1.kill()
        for _ in range(3):
            h1.start(wait=False)
            expect_equal(h1.process.wait(60), -6, "the signal that ends a start")  # SIGABRT
        h1.start()
        expect_equal({v[1:] for v in generations(h1).values()}, {v[1:] for v in before.values()}, "plugins after three starts that did not last")
        told = [e for e in map(json.loads, h1.ctl("--json", "events").stdout.splitlines()) if e["name"] == "PLUGIN_ASIDE"]
        expect(len(told) == 1 and "3 starts in a row" in told[0]["text"], f"events: {told}")
        expect_equal(h1.ctl("shard", "list").stdout.count("is set aside: 3 starts"), len(before), "shards that say so")
        h1.stop()
        h1.start()  # it is not forgotten
        expect_equal({v[1:] for v in generations(h1).values()}, {v[1:] for v in before.values()}, "plugins after one more start")
        os.unlink(trigger)
        rc, steps = change(h1, "swap", "*", "--plugin", plugin, "--tolerance", "0.01")
        expect(rc == 0 and len(steps) == len(before), f"swap: {steps[:1]}")
        h1.kill()
        h1.start()
        expect_equal({v[1:] for v in generations(h1).values()}, {v[1:] for v in swapped.values()}, "plugins after another swap")
