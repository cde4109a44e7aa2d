# SPDX-License-Identifier: Apache-2.0
"""A second checkpoint, the switch to it, and streams that know the answers of both."""

import json
import os
import shutil
import threading

from fleet import TINY, expect, expect_equal, wait_until
from streams import Stream, Streams, all_ready, three_hosts

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


def go_over(case, option, n, tokens):
    """A fleet of three goes over under n streams, and comes back from a restart with what it has gone over to."""
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
