# SPDX-License-Identifier: Apache-2.0
"""Plugins to swap to: good ones that differ from the installed cpu.so by some bytes behind it, and bad ones, each with one mistake."""

import hashlib
import json
import os
import subprocess

from fleet import TOP, Failure, expect, expect_equal
from streams import all_ready, pairs

MISTAKES = ["crashes_at_load", "inexact", "hangs_at_load", "leaks"]


def plugin_dir(f):
    return os.path.join(f.root, "lib", "expertd", "plugins")


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


class Plugins:
    """Files in the fleet's directory, and the list that allows them."""

    def __init__(self, f):
        self.f, self.dir = f, os.path.join(f.dir, "plugins")
        self.allow = os.path.join(self.dir, "allowed")
        os.makedirs(self.dir, exist_ok=True)
        with open(self.allow, "w", encoding="utf-8") as file:
            file.write("# plugins under test\n")

    def _allowed(self, path):
        with open(self.allow, "a", encoding="utf-8") as file:
            file.write(f"{sha256(path)}  {path}\n")
        return path

    def good(self, n, allowed=True):
        """The installed cpu.so with n bytes behind it: the same bits by another digest."""
        path = os.path.join(self.dir, f"good-{n}.so")
        with open(os.path.join(plugin_dir(self.f), "cpu.so"), "rb") as file:
            data = file.read()
        with open(path, "wb") as file:
            file.write(data + b"x" * n)
        return self._allowed(path) if allowed else path

    def bad(self, mistake, trigger=""):
        """The example plugin with a mistake. trigger: the file of "aborts_on_file"."""
        path = os.path.join(self.dir, f"{mistake}.so")
        source = os.path.join(TOP, "tests", "unit", "plugins", "wrong.c")
        p = subprocess.run(["cc", "-std=gnu11", "-O1", "-D_GNU_SOURCE", "-shared", "-fPIC", "-fvisibility=hidden",
                            "-I", os.path.join(self.f.root, "include"), f'-DWRONG_MISTAKE="{mistake}"', f'-DWRONG_FILE="{trigger}"', source, "-o", path, "-lm"],
                           capture_output=True, text=True, check=False)
        if p.returncode != 0:
            raise Failure(f"cc {source}: {p.stderr}")
        return self._allowed(path)

    def other(self, name, content):
        path = os.path.join(self.dir, name)
        with open(path, "wb") as file:
            file.write(content)
        return self._allowed(path)


def three_hosts(f, plugins, linger_s=300, deadline_s=10, record_bytes="32M", **more):
    """r1 over h1, h2 and h3, each shard on two of them; all may be swapped to what `plugins` allows. more: of [expert]."""
    keys = {"allow_plugins": plugins.allow, "linger_s": linger_s, "swap_deadline_s": deadline_s, "record_bytes": record_bytes, **more}
    experts = [f.expert(f"h{i + 1}", globs, start=False, **keys).start(wait=False) for i, globs in enumerate(pairs(f))]
    r1 = f.router("r1", experts, start=False).start(wait=False)
    for node in (*experts, r1):
        node.wait_ready()
    all_ready(r1)
    return r1, experts


def change(host, *args):
    """expertctl shard ...: exit status, and its steps."""
    p = host.ctl("--json", "shard", *args, check=False, timeout=300)
    if p.returncode not in (0, 1):
        raise Failure(f"expertctl shard {' '.join(args)}: exit {p.returncode}: {p.stderr}")
    return p.returncode, [json.loads(line) for line in p.stdout.splitlines()]


def swap_good(host, glob, plugin, *options):
    """Every shard of the glob goes live, bit-exact; returns how many."""
    rc, steps = change(host, "swap", glob, "--plugin", plugin, *options)
    wrong = [s for s in steps if s["failed"] or not s["exact"]]
    expect(rc == 0 and steps and not wrong, f"{host.name}: swap of {glob} to {plugin}: exit {rc}, {wrong[:1] or steps}\n{host.log_tail(5)}")
    return len(steps)


def swap_bad(host, glob, plugin, step, text=""):
    """Refused at the step named, with the text; every generation serves on."""
    before = generations(host)
    rc, steps = change(host, "swap", glob, "--plugin", plugin)
    expect_equal(rc, 1, f"exit status of a swap to {plugin}")
    for s in steps:
        expect(s["failed"] and s["step"] == step and text in s["text"], f"a swap to {plugin} should fail at {step} ({text}): {s}")
    expect(steps, f"a swap to {plugin} told nothing")
    expect_equal(generations(host), before, f"generations after a refused swap to {plugin}")


def generations(host):
    """(generation, digest of the plugin, identity) of every shard that is here."""
    return {(s["info"]["layer"], s["info"]["first_expert"]): (s["info"]["generation"], s["plugin_sha256"], s["info"]["identity"])
            for s in host.ctl_json("shard", "list")["shards"]}
