# SPDX-License-Identifier: Apache-2.0
"""HTTP clients while the fleet goes over to another checkpoint: no stream fails, every text and fingerprint is that of one checkpoint, objects
parse even when they go over in the middle; plans and switches keep out of each other's way."""

import http.client
import json
import threading

from fleet import expect, expect_equal, free_ports, wait_until
from streams import QUESTIONS, all_ready, pairs, states
from switching import digest, other_model, settled, switch

LONG_WITH_SANITIZER = True
TOKENS = 60


def movable(f, **router_keys):
    """r1, with a gateway, over h1, h2 and h3, which accept moves."""
    hosts = [f.expert(f"h{i + 1}", globs, start=False, accept_moves="yes").start(wait=False) for i, globs in enumerate(pairs(f))]
    port = free_ports(1)[0]
    r1 = f.router("r1", hosts, start=False, extra={"gateway": {"listen": f"127.0.0.1:{port}"}}, **router_keys).start(wait=False)
    for node in (*hosts, r1):
        node.wait_ready()
    all_ready(r1)
    r1.http = port
    return r1, hosts


def body(seed):
    """Greedy and sampled ones, and every fourth is held to JSON."""
    return {"model": "tiny-r1", "messages": [{"role": "user", "content": QUESTIONS[seed % len(QUESTIONS)]}], "stream": True,
            "max_tokens": TOKENS, "seed": seed, "temperature": 0.8 * (seed % 2), "logprobs": True,
            **({"response_format": {"type": "json_object"}} if seed % 4 == 3 else {})}


def read_stream(port, seed):
    """(reasoning, text, tokens of its log-probabilities), finish reason, fingerprints in their order."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    c.request("POST", "/v1/chat/completions", json.dumps(body(seed)), {"Content-Type": "application/json"})
    r = c.getresponse()
    reasoning = text = ""
    tokens, prints, reason, done = [], [], None, False
    expect_equal(r.status, 200, "status of a stream")
    for line in r:
        line = line.decode().strip()
        if not line.startswith("data: "):
            continue
        if line == "data: [DONE]":
            done = True
            continue
        chunk = json.loads(line[6:])
        expect("error" not in chunk, f"an error in a stream: {chunk}")
        if chunk["system_fingerprint"] not in prints[-1:]:
            prints.append(chunk["system_fingerprint"])
        for choice in chunk["choices"]:
            reasoning += choice["delta"].get("reasoning_content") or ""
            text += choice["delta"].get("content") or ""
            logs = choice["logprobs"] or {}
            tokens += [x["token"] for x in (logs.get("reasoning_content") or []) + (logs.get("content") or [])]
            reason = choice["finish_reason"] or reason
    c.close()
    expect(done and reason in ("stop", "length"), f"a stream that ended with {reason}, done: {done}")
    return (reasoning, text, tokens), reason, prints


class Clients:
    """n threads, each with one stream after the other of its seed."""

    def __init__(self, port, n):
        self.port, self.n, self.over, self.trouble = port, n, False, []
        self.got = []  # (seed, answer, fingerprints)
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(n)]

    def run(self, seed):
        while not self.over and not self.trouble:
            try:
                answer, _, prints = read_stream(self.port, seed)
                self.got.append((seed, answer, prints))
            except Exception as e:  # whatever it is, the test is to say it
                self.trouble.append(f"stream {seed}: {e!r}")

    def more(self, rounds):
        seen = len(self.got)
        wait_until("streams go on", lambda: self.trouble or len(self.got) >= seen + rounds * self.n, timeout=120)

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.over = True
        for t in self.threads:
            t.join()


def go_over(case, option):
    n = 4 if case.sanitized else 8
    with case.fleet() as f:
        path = other_model(f)
        r1, hosts = movable(f)
        prints = {f"fp_{digest(f, p)[:10]}": which for which, p in (("old", f.model), ("new", path))}
        wanted = {"old": [read_stream(r1.http, seed)[0] for seed in range(n)]}
        with Clients(r1.http, n) as c:
            c.more(1)
            switch(r1, path, option, "--wait")
            c.more(2)
        expect(not c.trouble, f"streams failed: {c.trouble}\n{r1.log_tail()}")
        settled([r1, *hosts], digest(f, path))
        wanted["new"] = [read_stream(r1.http, seed)[0] for seed in range(n)]
        counts = {"old": 0, "new": 0, "both": 0}
        for seed, answer, seen in c.got:
            names = [prints[p] for p in seen]
            expect(names in (["old"], ["new"], ["old", "new"]), f"fingerprints of stream {seed}: {seen}")
            counts["both" if len(names) == 2 else names[0]] += 1
            if seed % 4 == 3:
                json.loads(answer[1])
            if len(names) == 1:
                expect_equal(answer, wanted[names[0]][seed], f"stream {seed} of the {names[0]} model")
        print(f"    {len(c.got)} HTTP streams, none failed: {counts}", flush=True)
        expect(counts["new"] and counts["old"], "the test saw one model only")
        expect_equal(bool(counts["both"]), option == "--move", "streams that went over in the middle")


def test_pin(case):
    """A stream is that of the checkpoint that it began with, and says so."""
    go_over(case, "--pin")


def test_move(case):
    """Streams go over in the middle; those that are held to JSON stay JSON."""
    go_over(case, "--move")


def refused(router, text, *args):
    p = router.ctl(*args, check=False)
    expect(p.returncode == 1 and text in p.stdout + p.stderr, f"{args} should be refused ({text}): {p.returncode} {p.stdout} {p.stderr}")


def test_plans(case):
    """No plan during a switch, no switch during a plan; afterwards a plan is made for the model that serves."""
    with case.fleet() as f:
        path = other_model(f)
        r1, hosts = movable(f, move_bytes_per_s=1024)
        r1.ctl("host", "drain", "h3", "--force")
        r1.ctl("fleet", "apply", "--repair")
        wait_until("it has begun", lambda: r1.ctl_json("fleet", "status")["state"] != "idle")
        refused(r1, "is being carried out", "model", "switch", path)
        r1.ctl("fleet", "apply", "--stop")
        wait_until("it is over", lambda: r1.ctl_json("fleet", "status")["state"] == "idle", timeout=60)
        long = r1.spawn("--json", "generate", QUESTIONS[0], "--ignore-eos", "--max-tokens=4000")
        for _ in range(3):
            long.stdout.readline()
        switch(r1, path)  # returns while the long answer keeps the model before
        refused(r1, "a switch to another model is under way", "fleet", "apply", "--repair")
        long.terminate()
        long.wait()
        settled([r1, *hosts], digest(f, path))
        r1.ctl("host", "resume", "h3")
        all_ready(r1)

        def apply():
            return r1.ctl("fleet", "apply", "--repair", "--wait", check=False).returncode == 0
        wait_until("the fleet is as planned", apply, timeout=60)
        hosts[0].stop()
        wait_until("h1 is down", lambda: states(r1)["h1"] == "down", timeout=30)
        expect(read_stream(r1.http, 0)[2] == [f"fp_{digest(f, path)[:10]}"], "the model that answers in the end")
