# SPDX-License-Identifier: Apache-2.0
"""Three hosts with addresses of their own, two replicas a shard: cables pulled, packets lost in one direction, some lost, connections
reset. No request fails and no token changes."""

from fleet import expect, wait_until
from hosts import Hosts
from streams import Streams, all_ready, size, states, three_hosts

LONG_WITH_SANITIZER = True


def under(case, what, fault, heal, seconds=2, until=None):
    """Streams over three hosts while fault(net) holds; until: h1's state that is waited for."""
    with Hosts(["h1", "h2", "h3", "r1"]) as net, case.fleet() as f:
        r1, _ = three_hosts(f, net)
        with Streams(r1, *size(case)) as s:
            s.run(1)
            fault(net)
            if until:
                wait_until(f"h1 is {until}", lambda: states(r1)["h1"] == until or s.trouble, timeout=30)
            s.run(seconds)
            heal(net)
            all_ready(r1)
            s.run(1)
            s.stop(what)


def test_cable(case):
    under(case, "h1's cable pulled", lambda n: n.link("h1", False), lambda n: n.link("h1", True), until="down")


def test_one_way(case):
    """The host hears, and is not heard."""
    under(case, "packets from h1 dropped", lambda n: n.filter('iifname "p-h1" drop'), lambda n: n.filter(), until="down")


def test_other_way(case):
    """The host is heard, and does not hear."""
    under(case, "packets to h1 dropped", lambda n: n.filter('oifname "p-h1" drop'), lambda n: n.filter(), until="down")


def test_loss(case):
    rules = [f'{way} "p-h1" numgen random mod 100 < 30 drop' for way in ("iifname", "oifname")]
    under(case, "30 % of h1's packets lost", lambda n: n.filter(*rules), lambda n: n.filter(), seconds=4)


def test_delay(case):
    """A host 50 ms away: it is there, but seldom worth asking."""
    with Hosts(["h1", "h2", "h3", "r1"], {"h1": 25}) as net, case.fleet() as f:
        r1, _ = three_hosts(f, net)
        with Streams(r1, *size(case)) as s:
            s.run(3)
            s.stop("h1 50 ms away")
            rtt = {h["name"]: h["rtt_p50_seconds"] for h in r1.ctl_json("host", "list")["hosts"]}
            expect(rtt["h1"] >= 0.05, f"h1 is not as far as it should be: {rtt}")


def test_reset(case):
    under(case, "h1's connections reset", lambda n: n.reset("h1", True), lambda n: n.reset("h1", False), until="down")
