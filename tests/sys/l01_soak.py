# SPDX-License-Identifier: Apache-2.0
"""Random faults for EX_SOAK_SECONDS (600), from EX_SOAK_SEED, which is printed: the same seed does the same things again in the same
order. Four hosts with two replicas a shard; one host at a time is killed, frozen, restarted, drained, cut off, starved or made to lose
packets. No request fails, no token changes."""

import os
import random
import signal
import time

from fleet import Skip, wait_until
from hosts import Hosts
from streams import Streams, all_ready, states

HOSTS = ["h1", "h2", "h3", "h4"]


def placements(f):
    """Every shard on two of the four hosts, each pair of neighbours sharing a quarter."""
    ranges = f.ranges()
    quarters = [ranges[i::4] for i in range(4)]
    return [" ".join(f"*/{r}" for r in quarters[i] + quarters[(i + 1) % 4]) for i in range(4)]


def stays_up(r1, name):
    wait_until(f"{name} is ready", lambda: states(r1)[name] == "ready", timeout=60)


class Faults:
    """Each method does one thing to a host and undoes it."""

    def __init__(self, rng, r1, net):
        self.rng, self.r1, self.net = rng, r1, net

    def kill(self, host):
        host.kill()
        time.sleep(self.rng.uniform(0, 2))
        host.start()

    def freeze(self, host):
        host.signal(signal.SIGSTOP)
        time.sleep(self.rng.uniform(0.1, 3))
        host.signal(signal.SIGCONT)

    def restart(self, host):
        host.stop(timeout=60)
        host.start()

    def drain(self, host):
        self.r1.ctl("host", "drain", host.name, "--wait")
        time.sleep(self.rng.uniform(0, 1))
        self.r1.ctl("host", "resume", host.name)

    def starve(self, host):
        for _ in range(self.rng.randrange(10, 40)):
            host.signal(signal.SIGSTOP)
            time.sleep(0.05)
            host.signal(signal.SIGCONT)
            time.sleep(0.01)

    def flap(self, host):
        for _ in range(3):
            host.kill()
            host.start()
            time.sleep(0.3)

    def cable(self, host):
        self.net.link(host.name, False)
        time.sleep(self.rng.uniform(0.1, 3))
        self.net.link(host.name, True)

    def one_way(self, host):
        self.net.filter(f'{self.rng.choice(["iifname", "oifname"])} "p-{host.name}" drop')
        time.sleep(self.rng.uniform(0.1, 3))
        self.net.filter()

    def loss(self, host):
        self.net.filter(f'iifname "p-{host.name}" numgen random mod 100 < {self.rng.randrange(5, 40)} drop')
        time.sleep(self.rng.uniform(1, 4))
        self.net.filter()

    def reset(self, host):
        self.net.reset(host.name, True)
        time.sleep(self.rng.uniform(0, 1))
        self.net.reset(host.name, False)


def soak(case, net, seconds, seed):
    rng = random.Random(seed)
    kinds = ["kill", "freeze", "restart", "drain", "starve", "flap"] + (["cable", "one_way", "loss", "reset"] if net else [])
    with case.fleet() as f:
        hosts = [f.expert(n, g, start=False, hosts=net).start(wait=False) for n, g in zip(HOSTS, placements(f))]
        r1 = f.router("r1", hosts, start=False, hosts=net, verify_percent=2, hedge="p99").start(wait=False)
        for node in (*hosts, r1):
            node.wait_ready()
        all_ready(r1)
        faults = Faults(rng, r1, net)
        with Streams(r1, 4 if case.sanitized else 16) as s:
            end, n = time.monotonic() + seconds, 0
            while time.monotonic() < end and not s.trouble:
                kind, host = rng.choice(kinds), rng.choice(hosts)
                getattr(faults, kind)(host)
                stays_up(r1, host.name)
                s.run(rng.uniform(0, 1))
                n += 1
            s.stop(f"{n} faults in {seconds} s, seed {seed}, last {kind} of {host.name}")


def test_soak(case):
    seconds = int(os.environ.get("EX_SOAK_SECONDS", "600"))
    seed = int(os.environ.get("EX_SOAK_SEED", str(random.SystemRandom().randrange(1 << 32))))
    print(f"    EX_SOAK_SEED={seed}", flush=True)
    try:
        with Hosts([*HOSTS, "r1"]) as net:
            soak(case, net, seconds, seed)
    except Skip as e:
        print(f"    without network faults: {e}", flush=True)
        soak(case, None, seconds, seed)
