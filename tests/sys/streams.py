# SPDX-License-Identifier: Apache-2.0
"""Streams that run while something breaks: none may fail, none may differ by a token from an undisturbed run, and the longest pause
that any of them saw is told."""

import json
import threading
import time

from fleet import Failure, expect, wait_until

QUESTIONS = ["What is 347 + 589?", "703-458", "Combien font 64 - 99 ?", "12+30="]
TOKENS = 150


def pairs(f):
    """Globs for three hosts, every shard on two of them."""
    ranges = f.ranges()
    thirds = [ranges[i::3] for i in range(3)]
    return [" ".join(f"*/{r}" for r in thirds[i] + thirds[(i + 1) % 3]) for i in range(3)]


def three_hosts(f, hosts=None, **router_keys):
    """r1 over h1, h2 and h3, all ready."""
    experts = [f.expert(f"h{i + 1}", globs, start=False, hosts=hosts).start(wait=False) for i, globs in enumerate(pairs(f))]
    r1 = f.router("r1", experts, start=False, hosts=hosts, **router_keys).start(wait=False)
    for node in (*experts, r1):
        node.wait_ready()
    all_ready(r1)
    return r1, experts


def states(r1):
    return {h["name"]: h["state"] for h in r1.ctl_json("host", "list")["hosts"]}


def all_ready(r1):
    wait_until("all hosts are ready", lambda: set(states(r1).values()) == {"ready"}, timeout=30)


def size(case):
    """How many streams, and tokens in each request."""
    return (4, 60) if case.sanitized else (16, TOKENS)


def options(seed):
    """Half of the streams are greedy, half are sampled: both must come out the same again."""
    sampled = [] if seed % 2 else ["--temperature=0.8"]
    return ["--json", "generate", QUESTIONS[seed % len(QUESTIONS)], f"--seed={seed}", "--ignore-eos", *sampled]


class Stream:
    """One expertctl that generates; read() follows it and keeps the longest time between two of its lines."""

    def __init__(self, router, seed, tokens):
        self.ids, self.finished, self.gap = [], None, 0.0
        self.process = router.spawn(*options(seed), f"--max-tokens={tokens}")

    def read(self):
        last = None
        for line in self.process.stdout:
            now = time.monotonic()
            event = json.loads(line)
            if "delta" in event:
                self.ids += event["delta"]["ids"]
                self.gap = max(self.gap, now - last if last else 0)
                last = now
            self.finished = event.get("finished", self.finished)
        self.process.wait()


class Streams:
    """`n` clients that ask again and again, each time from the first token, until stop(). On entry the undisturbed run is made,
    and they start."""

    def __init__(self, router, n, tokens=TOKENS):
        self.router, self.n, self.tokens = router, n, tokens
        self.wanted = {}
        self.lock = threading.Lock()
        self.trouble, self.done, self.tokens_seen, self.gap = [], 0, 0, 0.0
        self.stopping = threading.Event()
        self.threads, self.asking, self.n_done = [], {}, [0] * n

    def __enter__(self):
        self._learn()
        self.threads = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(self.n)]
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, kind, value, trace):
        self.stopping.set()
        for s in list(self.asking.values()) if kind else []:
            s.process.kill()
        for t in self.threads:
            t.join()

    def _learn(self):
        streams = [Stream(self.router, seed, self.tokens) for seed in range(self.n)]
        readers = [threading.Thread(target=s.read) for s in streams]
        for t in readers:
            t.start()
        for t in readers:
            t.join()
        for seed, s in enumerate(streams):
            expect(s.finished and s.finished["reason"] == "length", f"the undisturbed run: {s.finished}")
            self.wanted[seed] = s.ids

    def _ask(self, seed):
        while not self.stopping.is_set() and not self.trouble:
            s = self.asking[seed] = Stream(self.router, seed, self.tokens)
            s.read()
            if not s.finished or s.finished["reason"] != "length":
                self.trouble.append(f"stream {seed} failed after {len(s.ids)} tokens: {s.finished} {s.process.stderr.read()}")
            elif not self.judge(seed, s.ids):
                at = next(i for i, (a, b) in enumerate(zip(s.ids, self.wanted[seed])) if a != b)
                self.trouble.append(f"stream {seed} differs from the undisturbed run at token {at}")
            with self.lock:
                self.done += 1
                self.n_done[seed] += 1
                self.tokens_seen += len(s.ids)
                self.gap = max(self.gap, s.gap)

    def judge(self, seed, ids):
        """Whether the answer is the one that is wanted."""
        return ids == self.wanted[seed]

    def run(self, seconds):
        """Lets them go on for a while; ends early when one failed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.trouble:
            time.sleep(0.05)

    def _tell(self, what):
        if self.trouble:
            raise Failure(f"{what}: {self.trouble[0]} ({len(self.trouble)} in all, {self.done} requests)\n{self.router.log_tail(15)}")
        expect(self.done >= self.n, f"{what}: only {self.done} requests ended: the test saw nothing")
        print(f"    {what}: {self.done} requests, {self.tokens_seen} tokens, none failed, none differs; "
              f"longest pause between two tokens {self.gap * 1000:.0f} ms", flush=True)

    def over(self, what):
        """The end of one fault of several: lets every stream end a request that saw it, tells as stop() does, and counts anew."""
        seen = list(self.n_done)
        wait_until(f"every stream has ended a request after {what}",
                   lambda: self.trouble or all(now > then for now, then in zip(self.n_done, seen)), timeout=120)
        with self.lock:
            self._tell(what)
            self.done, self.tokens_seen, self.gap = 0, 0, 0.0

    def stop(self, what):
        """Waits for those that run; a Failure when one failed or differs. Prints what was seen."""
        self.stopping.set()
        for t in self.threads:
            t.join()
        self._tell(what)
