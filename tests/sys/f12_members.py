# SPDX-License-Identifier: Apache-2.0
"""The list of expert hosts changes under load, by a reload: hosts that are put in serve, hosts that are taken out are not missed."""

import json
import signal

from fleet import expect_equal, wait_until
from streams import Streams, size, states

LONG_WITH_SANITIZER = True


def set_peers(r1, peers):
    """Writes another list into the router's configuration."""
    with open(r1.config_path, encoding="utf-8") as c:
        lines = [line for line in c.read().splitlines() if not line.startswith("peers")]
    at = lines.index("[router]") + 1
    r1.write_config("\n".join(lines[:at] + [f"peers = {' '.join(p.address for p in peers)}"] + lines[at:]) + "\n")


def test_peers_reloaded(case):
    with case.fleet() as f:
        h1, h2, h3 = (f.expert(f"h{i}", "auto", start=False).start(wait=False) for i in (1, 2, 3))
        for h in (h1, h2, h3):
            h.wait_ready()
        r1 = f.router("r1", [h1, h2])
        with Streams(r1, *size(case)) as s:
            s.run(0.3)
            for peers in ([h1, h2, h3], [h3], [h1, h3], [h2]):
                set_peers(r1, peers)
                r1.signal(signal.SIGHUP)
                wanted = {p.name: "ready" for p in peers}
                wait_until(f"the hosts are {wanted}", lambda w=wanted: states(r1) == w)
                s.run(0.3)
            s.stop("another list of hosts, four times")
        reload = r1.ctl_json("reload")
        expect_equal(reload["needs_restart"], [], "what a reload of the same file leaves")
        names = [json.loads(e)["name"] for e in r1.ctl("--json", "events").stdout.splitlines()]
        expect_equal(names.count("CONFIG_RELOADED"), 5, "CONFIG_RELOADED")


def test_peers_named_while_waiting(case):
    """A router that waits for hosts that never come is told of others, and becomes ready."""
    with case.fleet() as f:
        h1 = f.expert("h1", "auto")
        h2 = f.expert("h2", "auto", start=False)
        r1 = f.router("r1", [h2], start=False).start(wait=False)
        wait_until("the admin socket answers", lambda: r1.ctl("status", check=False).returncode == 0)
        set_peers(r1, [h1])
        r1.signal(signal.SIGHUP)
        r1.wait_ready()
