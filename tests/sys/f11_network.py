# SPDX-License-Identifier: Apache-2.0
"""Three hosts with addresses of their own, two replicas a shard: cables pulled, packets lost in one direction, some lost, connections
reset. No request fails and no token changes."""

from fleet import expect, wait_until
from hosts import Hosts
from streams import Streams, all_ready, size, states, three_hosts

LONG_WITH_SANITIZER = True
ALONE = True  # it takes all processors, and prints pauses


LOSS = [f'{way} "p-h1" numgen random mod 100 < 30 drop' for way in ("iifname", "oifname")]

# what is done to h1, how, how it is undone, and the state in which h1 is to be seen meanwhile
FAULTS = [
    ("h1's cable pulled", lambda n: n.link("h1", False), lambda n: n.link("h1", True), "down"),
    ("packets from h1 dropped", lambda n: n.filter('iifname "p-h1" drop'), lambda n: n.filter(), "down"),
    ("packets to h1 dropped", lambda n: n.filter('oifname "p-h1" drop'), lambda n: n.filter(), "down"),
    ("30 % of h1's packets lost", lambda n: n.filter(*LOSS), lambda n: n.filter(), None),
    ("h1's connections reset", lambda n: n.reset("h1", True), lambda n: n.reset("h1", False), "down"),
]


def faults(case, seconds):
    """Each for so many seconds from when it is seen, loss for 3 s more."""
    with Hosts(["h1", "h2", "h3", "r1"]) as net, case.fleet() as f:
        r1, _ = three_hosts(f, net)
        with Streams(r1, *size(case)) as s:
            for what, fault, heal, state in FAULTS:
                s.run(0.5)
                fault(net)
                if state:
                    wait_until(f"h1 is {state}", lambda w=state: states(r1)["h1"] == w or s.trouble, timeout=30)
                s.run(seconds if state else seconds + 3)
                heal(net)
                all_ready(r1)
                s.over(what)
            s.stop("after them")


def test_faults(case):
    faults(case, 1)


def test_delay(case):
    """A host 50 ms away: it is there, but seldom worth asking."""
    with Hosts(["h1", "h2", "h3", "r1"], {"h1": 25}) as net, case.fleet() as f:
        r1, _ = three_hosts(f, net)
        with Streams(r1, *size(case)) as s:
            s.run(2)
            s.stop("h1 50 ms away")
            rtt = {h["name"]: h["rtt_p50_seconds"] for h in r1.ctl_json("host", "list")["hosts"]}
            expect(rtt["h1"] >= 0.05, f"h1 is not as far as it should be: {rtt}")
