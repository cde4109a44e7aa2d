# SPDX-License-Identifier: Apache-2.0
"""The whole fleet goes over to another checkpoint while it serves: every stream is, to the token, one of the checkpoint that it was begun
with, or with --move goes on with the other one; what is refused or killed on the way leaves a fleet that serves."""

import json
import os
import shutil
import threading

from fleet import TINY, expect, expect_equal, wait_until
from streams import Stream, Streams, all_ready, size, three_hosts

LONG_WITH_SANITIZER = True


def other_model(f, name="other", seed=7, **config):
    """A checkpoint of random weights in the shape of the model under test, with its tokenizer. config: keys that differ."""
    path = os.path.join(f.dir, name)
    with open(os.path.join(TINY, "config.json"), encoding="utf-8") as file:
        keys = {**json.load(file), **config}
    source = os.path.join(f.dir, f"{name}.json")
    with open(source, "w", encoding="utf-8") as file:
        json.dump(keys, file)
    f.ctl("model", "synth", f"--config={source}", f"--out={path}", f"--seed={seed}")
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(os.path.join(TINY, file), path)
    return path


def digest(f, path):
    return json.loads(f.ctl("--json", "model", "show", path).stdout)["digest"]


def switch(router, path, *options, check=True):
    """expertctl model switch: exit status, and its steps."""
    p = router.ctl("--json", "model", "switch", path, *options, check=False, timeout=120)
    steps = [json.loads(line) for line in p.stdout.splitlines()]
    if check:
        expect(p.returncode == 0, f"model switch {path}: exit {p.returncode}: {steps} {p.stderr}\n{router.log_tail()}")
    return p.returncode, steps, p.stderr


def events(node):
    return [e["name"] for e in map(json.loads, node.ctl("--json", "events").stdout.splitlines())]


def answers(router, n, tokens):
    """What n streams get, undisturbed and at once."""
    streams = [Stream(router, seed, tokens) for seed in range(n)]
    threads = [threading.Thread(target=s.read) for s in streams]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for seed, s in enumerate(streams):
        expect(s.finished and s.finished["reason"] == "length", f"undisturbed stream {seed}: {s.finished}")
    return [s.ids for s in streams]


class Switched(Streams):
    """Streams of a fleet that goes over: an answer is wanted as one checkpoint gives it or as the other does. With moved, the beginning of
    one may go on in another way: such answers are counted."""

    def __init__(self, router, n, tokens, other, moved=False):
        super().__init__(router, n, tokens)
        self.other, self.may_move = other, moved
        self.old = self.new = self.moved = 0

    def judge(self, seed, ids):
        if ids == self.wanted[seed]:
            self.old += 1
        elif ids == self.other[seed]:
            self.new += 1
        elif self.may_move and ids[0] == self.wanted[seed][0]:
            self.moved += 1
        else:
            return False
        return True


def new_answers(case, path, n, tokens):
    """Of a fleet that serves nothing else."""
    with case.fleet("new", model=path) as f:
        return answers(f.router("r1", shards="auto"), n, tokens)


def settled(nodes, wanted):
    """All have gone over, and nothing is left of the model before."""
    def look():
        all_of = [n.ctl_json("status") for n in nodes]
        return all(s["model_digest"] == wanted and not s["model_next_digest"] and not s["model_before_digest"] for s in all_of)
    wait_until(f"all have gone over to {wanted[:12]}", look, timeout=30)


def go_over(case, option):
    n, tokens = size(case)
    with case.fleet() as f:
        path = other_model(f)
        other = new_answers(case, path, n, tokens)
        r1, hosts = three_hosts(f)
        with Switched(r1, n, tokens, other, option == "--move") as s:
            s.run(1)
            _, steps, _ = switch(r1, path, option, "--wait")
            expect_equal([x["step"] for x in steps if x["step"] in ("open", "switch", "retire")], ["open", "switch", "retire"], "steps")
            expect_equal({x["host"] for x in steps if x["step"] == "commit" and not x["failed"]}, {"h1", "h2", "h3"}, "hosts that committed")
            seen = s.done
            wait_until("every stream has begun with the new model and ended", lambda: s.trouble or s.done >= seen + 3 * n, timeout=120)
            s.stop(f"model switch {option}")
            print(f"    {s.old} answers of the old model, {s.new} of the new one, {s.moved} went over", flush=True)
            expect(s.new and (s.old or s.moved), "the test saw one model only")
            expect_equal(bool(s.moved), option == "--move", "answers that went over")
        settled([r1, *hosts], digest(f, path))
        expect_equal(answers(r1, n, tokens), other, "answers after the switch")
        expect({"MODEL_SWITCHED", "MODEL_RETIRED"} <= set(events(r1)), f"events of the router: {events(r1)}")
        expect({"MODEL_PREPARED", "MODEL_COMMITTED"} <= set(events(hosts[0])), f"events of a host: {events(hosts[0])}")
        for node in (*hosts, r1):  # the configuration still names the model before
            node.stop()
        for node in (*hosts, r1):
            node.start(wait=False)
        for node in (*hosts, r1):
            node.wait_ready()
        all_ready(r1)
        settled([r1, *hosts], digest(f, path))
        expect_equal(answers(r1, 2, 20), [x[:20] for x in other[:2]], "answers after a restart")


def test_pin(case):
    """Requests end with the checkpoint that they began with."""
    go_over(case, "--pin")


def test_move(case):
    """Requests go over while they run; none fails."""
    go_over(case, "--move")


def refused(router, path, step, text, *options):
    """Given up at the step named, with the text; the model before serves on."""
    before = router.ctl_json("status")["model_digest"]
    rc, steps, _ = switch(router, path, *options, check=False)
    expect_equal(rc, 1, f"exit status of a switch to {path}")
    expect(steps and steps[-1]["failed"] and steps[-1]["step"] == step and text in steps[-1]["text"],
           f"a switch to {path} should fail at {step} ({text}): {steps[-1:]}")
    status = router.ctl_json("status")
    expect_equal((status["model_digest"], status["model_next_digest"]), (before, ""), "the model after a refusal")
    return steps[-1]


def test_refusals(case):
    """What cannot be switched to says why and where, and nothing is left of it."""
    n, tokens = size(case)
    with case.fleet() as f:
        path = other_model(f)
        odd = other_model(f, "odd", n_routed_experts=12)
        # h2 sees other files than the others do: its own mount of the same path is not to be had without root, so it is given as a link
        mine = os.path.join(f.dir, "mine")
        os.symlink(path, mine)
        r1, hosts = three_hosts(f)
        with Streams(r1, min(n, 4), tokens) as s:
            s.run(0.3)
            refused(r1, f.dir, "open", "config.json")
            refused(r1, f.model, "open", "is the model that is served")
            refused(r1, odd, "open", "n_routed_experts is 12")
            with open(os.path.join(path, "tokenizer.json"), "a", encoding="utf-8") as file:
                file.write(" ")
            refused(r1, path, "open", "--pin", "--move")
            expect_equal(r1.ctl("model", "switch", path, "--pin", "--move", check=False).returncode, 2, "--pin and --move")
            expect(hosts[0].ctl("model", "switch", path, check=False).returncode == 1, "a host that is no router")
            s.stop("refused switches")
        for h in hosts:
            expect_equal(h.ctl_json("status")["model_next_digest"], "", f"what is left on {h.name}")
        expect("MODEL_ABORTED" in events(r1), f"events: {events(r1)}")


def test_killed(case):
    """kill -9 of a host, and of the router, while a switch is under way: each comes back into the fleet, which serves one model in the end."""
    with case.fleet() as f:
        path = other_model(f)
        n, tokens = size(case)
        other = new_answers(case, path, n, tokens)
        wanted = digest(f, path)
        r1, hosts = three_hosts(f)
        with Switched(r1, n, tokens, other) as s:
            s.run(0.5)
            _, steps, _ = switch(r1, path)  # returns while requests of the model before go on
            expect_equal(steps[-1]["step"], "switch", "the last step without --wait")
            hosts[0].kill()  # before it was told to commit: it comes back with the model before
            hosts[0].start()
            wait_until("it is brought over", lambda: hosts[0].ctl_json("status")["model_digest"] == wanted, timeout=60)
            seen = s.done
            wait_until("streams go on", lambda: s.trouble or s.done >= seen + n, timeout=120)
            s.stop("a host killed during a switch")
        settled([r1, *hosts], wanted)
        all_ready(r1)
        expect_equal(answers(r1, n, tokens), other, "answers after the switch")
        client = r1.spawn("--json", "model", "switch", f.model)  # back again
        client.stdout.readline()
        r1.kill()
        r1.start()
        all_ready(r1)
        got = r1.ctl_json("status")["model_digest"]
        expect(got in (wanted, digest(f, f.model)), f"a model that nobody asked for: {got}")
        switch(r1, f.model if got == wanted else path, "--wait")
        settled([r1, *hosts], digest(f, f.model) if got == wanted else wanted)
        expect_equal(len(answers(r1, 2, 10)), 2, "answers in the end")
