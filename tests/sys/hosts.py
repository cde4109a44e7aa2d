# SPDX-License-Identifier: Apache-2.0
"""Hosts with addresses of their own on this machine: network namespaces on one bridge, and what can go wrong between them.

Only root can make them; where that is not possible the test is skipped with the reason. Everything is gone after close().
"""

import os
import subprocess
import sys

from fleet import Failure, Skip

NET = "10.77.0"
RELAY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "relay.py")


def run(*argv, text=None):
    p = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=30, check=False)
    if p.returncode:
        raise Failure(f"{' '.join(argv)}: {p.stderr.strip()}")
    return p.stdout


class Hosts:
    """Namespaces for `names`, 10.77.0.1 and up in their order, and one for the bridge. A context manager. delay_ms: of the cables of
    the hosts that it names, for each direction."""

    def __init__(self, names, delay_ms=None):
        self.names, self.tag = list(names), f"ex{os.getpid()}"
        self.made, self.relays, self.delay_ms = [], [], delay_ms or {}

    def __enter__(self):
        if os.geteuid() != 0:
            raise Skip("network namespaces need root")
        try:
            self._add(self.switch)
        except (Failure, FileNotFoundError) as e:
            raise Skip(f"no network namespaces here: {e}") from None
        try:
            run("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge")
            run("ip", "-n", self.switch, "link", "set", "br0", "up")
            for name in self.names:
                self._plug(name)
        except (Failure, Skip):
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def switch(self):
        return f"{self.tag}sw"

    def namespace(self, name):
        return f"{self.tag}{name}"

    def address(self, name):
        return f"{NET}.{self.names.index(name) + 1}"

    def prefix(self, name):
        """What a command in the host's namespace starts with."""
        return ["ip", "netns", "exec", self.namespace(name)]

    def _add(self, namespace):
        run("ip", "netns", "add", namespace)
        self.made.append(namespace)

    def _plug(self, name):
        ns, port = self.namespace(name), f"p-{name}"
        self._add(ns)
        if name in self.delay_ms:
            self._relay(name, port)
        else:
            run("ip", "-n", self.switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", ns)
        run("ip", "-n", self.switch, "link", "set", port, "master", "br0", "up")
        run("ip", "-n", ns, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
        run("ip", "-n", ns, "link", "set", "eth0", "up")
        run("ip", "-n", ns, "link", "set", "lo", "up")

    def _relay(self, name, port):
        """A pair of taps with a relay between them, in place of the veth pair."""
        near, far = f"{self.tag[-8:]}a{len(self.relays)}", f"{self.tag[-8:]}b{len(self.relays)}"
        relay = subprocess.Popen([sys.executable, RELAY, near, far, str(self.delay_ms[name])],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.relays.append(relay)
        if relay.stdout.readline() != "ready\n":
            raise Skip(f"no taps here: {relay.communicate()[1][-200:]}")
        run("ip", "link", "set", near, "netns", self.namespace(name), "name", "eth0")
        run("ip", "link", "set", far, "netns", self.switch, "name", port)

    def link(self, name, up):
        """Pulls the host's cable, or puts it back."""
        run("ip", "-n", self.switch, "link", "set", f"p-{name}", "up" if up else "down")

    def filter(self, *rules):
        """Rules of the bridge's forwarding, all others gone: nftables text over iifname and oifname p-NAME."""
        text = "table bridge faults\ndelete table bridge faults\n"
        if rules:
            text += "table bridge faults { chain c { type filter hook forward priority 0;\n" + "\n".join(rules) + "\n}\n}\n"
        run("ip", "netns", "exec", self.switch, "nft", "-f", "-", text=text)

    def reset(self, name, on):
        """The host answers every TCP segment that comes in with a reset, or does so no more."""
        text = "table inet faults\ndelete table inet faults\n"
        if on:
            text += ("table inet faults { chain c { type filter hook input priority 0;\n"
                     "iifname eth0 meta l4proto tcp reject with tcp reset\n}\n}\n")
        run(*self.prefix(name), "nft", "-f", "-", text=text)

    def close(self):
        for relay in self.relays:
            relay.communicate()
        self.relays = []
        for namespace in reversed(self.made):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, timeout=30, check=False)
        self.made = []
