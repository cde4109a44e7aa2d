#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The same requests against fleets of every shape: ids and the bits of every logit must be the same.

Starts real processes on loopback: all experts in the router's process; two hosts, split two ways; three hosts; hosts by layer; a router
that holds some of the shards itself. Each answers a greedy and a sampled request, alone and among eight others. Fails when a sum depends on
which host computed what, when a row's bits depend on the rows beside it, or when the sampler depends on scheduling.

fleet_bits.py [MODEL_DIR]    EXPERTD, FLEET_CLIENT, EX_TEST_PLUGIN_DIR: programs and plugins (default: of the build tree in .)
"""
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "sys"))
from fleet import free_ports  # noqa: E402

EXPERTD = os.environ.get("EXPERTD", "./expertd")
CLIENT = os.environ.get("FLEET_CLIENT", "tests/golden/fleet_client")
PLUGINS = os.path.abspath(os.environ.get("EX_TEST_PLUGIN_DIR", ".libs"))
READY_S_MAX = 60.0
TOKENS = 24
COMPANY = 8
GROUPS = 4  # of 16 experts: E0-3, E4-7, E8-11, E12-15
# name -> {process: its shards}; the process "r" is the router
FLEETS = {
    "all local": {"r": "*"},
    "two hosts, halves": {"h1": "*/E0-3 */E4-7", "h2": "*/E8-11 */E12-15", "r": None},
    "two hosts, interleaved": {"h1": "*/E0-3 */E8-11", "h2": "*/E4-7 */E12-15", "r": None},
    "three hosts": {"h1": "*/E12-15", "h2": "*/E4-7 */E8-11", "h3": "*/E0-3", "r": None},
    "two hosts, by layer": {"h1": "L1-2/*", "h2": "L3-99/*", "r": None},
    "a router with shards": {"h1": "*/E4-7 */E8-11 */E12-15", "r": "*/E0-3"},
}
# all but the first fleet prefill in chunks, and have KV pages of another size
STEPS = ("step_tokens_max = 512\npage_tokens = 32", "step_tokens_max = 24\npage_tokens = 16")


class Process:
    """One expertd with a configuration of its own, started; its log stays for when something fails."""

    def __init__(self, folder, name, model, shards, ports, peers, step):
        self.name, self.log_path = name, os.path.join(folder, name + ".log")
        conf = os.path.join(folder, name + ".conf")
        state = os.path.join(folder, name + ".state")
        text = "[node]\nname = %s\nadmin = %s/%s.sock\nstate = %s\n" % (name, folder, name, state)
        router = name == "r"
        if shards:
            text += "listen = 127.0.0.1:%d\n" % ports[0]
        text += "[model]\npath = %s\nexpert_groups = %d\n" % (model, GROUPS)
        if shards:
            text += "[expert]\nshards = %s\nplugin = cpu\nplugin_dir = %s\nthreads = 1\n" % (shards, PLUGINS)
        if router:
            text += "[router]\nlisten = 127.0.0.1:%d\nplugin = cpu\nplugin_dir = %s\nthreads = 1\nmax_batch = 16\ncontext = 128\n%s\n" % (
                ports[1], PLUGINS, step)
            text += "heartbeat_ms = 3000\n"  # a busy machine is no lost host
            text += "peers = %s\n" % peers if peers else ""
        with open(conf, "w", encoding="utf-8") as f:
            f.write(text)
        notify = os.path.join(folder, name + ".notify")
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(notify)
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([EXPERTD, "--config", conf], stdout=log, stderr=log,
                                            env=dict(os.environ, NOTIFY_SOCKET=notify))

    def fail(self, what):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            raise SystemExit("fleet_bits: %s %s; its log:\n%s" % (self.name, what, f.read()[-4000:]))

    def wait_ready(self):
        end = time.monotonic() + READY_S_MAX
        self.notify.settimeout(0.2)
        while time.monotonic() < end:
            if self.process.poll() is not None:
                self.fail("ended with status %d" % self.process.returncode)
            try:
                if "READY=1" in self.notify.recv(4096).decode().split("\n"):
                    self.notify.close()  # read no more, it would fill up and block the sender
                    return
            except TimeoutError:
                pass
        self.fail("was not ready within %.0f s" % READY_S_MAX)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.notify.close()
        return self.process.returncode


def start_request(target, temperature, seed, n, ids):
    argv = [CLIENT, target, str(temperature), str(seed), str(n)] + [str(i) for i in ids]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, encoding="utf-8")


def finish_request(p, what):
    out = p.communicate()[0]
    if p.returncode != 0:
        raise SystemExit("fleet_bits: %s failed: %s" % (what, out[-500:]))
    return out


def requests(vocab):
    """The two requests that are compared, and their company: (temperature, seed, tokens, ids)."""
    draw = random.Random(1)
    ids = lambda n: [draw.randrange(3, vocab) for _ in range(n)]  # noqa: E731
    prompt = ids(37)
    return [(0.0, 0, TOKENS, prompt), (1.0, 7, TOKENS, prompt)], [(0.0 if i % 2 else 1.0, 100 + i, 2 * TOKENS, ids(5 + 9 * i)) for i in range(COMPANY)]


def ask(target, vocab, fleet):
    """{what: output} of the two requests, alone and in company."""
    ours, others = requests(vocab)
    got = {}
    for r in ours:
        got["greedy" if r[0] == 0 else "sampled"] = finish_request(start_request(target, *r), fleet)
    company = [start_request(target, *r) for r in others]
    both = [start_request(target, *r) for r in ours]
    for r, p in zip(ours, both):
        got[("greedy" if r[0] == 0 else "sampled") + " in company"] = finish_request(p, fleet + ", in company")
    for p in company:
        finish_request(p, fleet + ", the company")
    return got


def run_fleet(fleet, shards, model, vocab, folder, step):
    os.mkdir(folder)
    names = list(shards)
    free = free_ports(2 * len(names))
    ports = {n: free[2 * i: 2 * i + 2] for i, n in enumerate(names)}  # for experts, for clients
    peers = " ".join("127.0.0.1:%d" % ports[n][0] for n in names if n != "r")
    running = []
    try:
        for name in names:
            running.append(Process(folder, name, model, shards[name], ports[name], peers, step))
        for p in running:
            p.wait_ready()
        got = ask("127.0.0.1:%d" % ports["r"][1], vocab, fleet)
    finally:
        statuses = [p.stop() for p in reversed(running)]
    for p, status in zip(reversed(running), statuses):
        if status != 0:
            p.fail("(%s) had exit status %d after SIGTERM" % (fleet, status))
    return got


def first_difference(a, b):
    for i, (x, y) in enumerate(zip(a.split("\n"), b.split("\n"))):
        if x != y:
            return "token %d: %s, then %s" % (i, x, y)
    return "one is longer"


def compare(fleet, remote, first, got):
    """How many of the fleet's answers are not those of the first fleet, alone."""
    bad = 0
    for what, out in got.items():
        tokens, _, rows = out.rpartition("\nrows ")
        want = first[what.replace(" in company", "")].rpartition("\nrows ")[0]
        if tokens.count("\n") != TOKENS or (int(rows) > 0) != remote:
            raise SystemExit("fleet_bits: %s, %s: %d tokens of %d, %s rows sent" % (fleet, what, tokens.count("\n"), TOKENS, rows))
        if tokens != want:
            bad += 1
            print("%s, %s differs: %s" % (fleet, what, first_difference(want, tokens)))
    print("%-24s %s; %s rows sent" % (fleet, "DIFFERS" if bad else "bits equal", got["greedy"].rpartition("\nrows ")[2].strip()))
    return bad


def main():
    model = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "../models/tiny-r1"))
    if not os.path.exists(os.path.join(model, "config.json")):
        print("fleet_bits: no model at %s" % model)
        return 77
    with open(os.path.join(model, "config.json"), encoding="utf-8") as f:
        vocab = json.load(f)["vocab_size"]
    first, bad = None, 0
    with tempfile.TemporaryDirectory(prefix="exfleet") as scratch:
        for i, (fleet, shards) in enumerate(FLEETS.items()):
            got = run_fleet(fleet, shards, model, vocab, os.path.join(scratch, str(i)), STEPS[i > 0])
            first = first or got
            bad += compare(fleet, len(shards) > 1, first, got)
        if first["greedy"].split("rows")[0] == first["sampled"].split("rows")[0]:
            raise SystemExit("fleet_bits: the sampled and the greedy request gave the same: nothing was told apart")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
