# SPDX-License-Identifier: Apache-2.0
"""Switches to another checkpoint under full load, and processes killed in the middle of them."""

import os
import resource

from fleet import Failure, Skip, expect, expect_equal, wait_until
from streams import all_ready, pairs, size, three_hosts
from switching import Switched, answers, digest, go_over, new_answers, other_model, refused, settled, switch


def test_pin(case):
    """Requests end with the checkpoint that they began with."""
    go_over(case, "--pin", *size(case))


def test_move(case):
    """Requests go over while they run; none fails."""
    go_over(case, "--move", *size(case))


def test_killed(case):
    """kill -9 of a host, and of the router, while a switch is under way: each comes back into the fleet, which serves one model in the end."""
    with case.fleet() as f:
        path = other_model(f)
        n, tokens = size(case)
        other = new_answers(case, path, n, tokens)
        wanted = digest(f, path)
        r1, hosts = three_hosts(f)
        with Switched(r1, n, tokens, other) as s:
            s.run(0.5)
            _, steps, _ = switch(r1, path)  # returns while requests of the model before go on
            expect_equal(steps[-1]["step"], "switch", "the last step without --wait")
            hosts[0].kill()  # before it was told to commit: it comes back with the model before
            hosts[0].start()
            wait_until("it is brought over", lambda: hosts[0].ctl_json("status")["model_digest"] == wanted, timeout=60)
            seen = s.done
            wait_until("streams go on", lambda: s.trouble or s.done >= seen + n, timeout=120)
            s.stop("a host killed during a switch")
        settled([r1, *hosts], wanted)
        all_ready(r1)
        expect_equal(answers(r1, n, tokens), other, "answers after the switch")
        client = r1.spawn("--json", "model", "switch", f.model)  # back again
        client.stdout.readline()
        r1.kill()
        r1.start()
        all_ready(r1)
        got = r1.ctl_json("status")["model_digest"]
        expect(got in (wanted, digest(f, f.model)), f"a model that nobody asked for: {got}")
        switch(r1, f.model if got == wanted else path, "--wait")
        settled([r1, *hosts], digest(f, f.model) if got == wanted else wanted)
        expect_equal(len(answers(r1, 2, 10)), 2, "answers in the end")


def seen_as(there, path):
    """What starts a host for which `path` is the directory `there`."""
    return ["unshare", "-m", "sh", "-c", f'mount --bind "{there}" "{path}" && exec "$@"', "sh"]


def test_refused_by_one_host(case):
    """One host has no checkpoint there, or another one, or no room for a second: the switch names it, and the others drop what they loaded."""
    with case.fleet() as f:
        path, strange = other_model(f), other_model(f, "strange", seed=8)
        empty = os.path.join(f.dir, "empty")
        os.mkdir(empty)
        hosts = [f.expert(f"h{i + 1}", globs, start=False) for i, globs in enumerate(pairs(f))]
        r1 = f.router("r1", hosts, start=False)
        r1.start(wait=False)
        hosts[0].start()
        hosts[2].start()
        with_all = None
        for there, text in ((empty, "config.json"), (strange, digest(f, strange))):
            try:
                hosts[1].start(prefix=seen_as(there, path))
            except Failure as e:
                raise Skip(f"no mounts of one's own here: {e}") from None
            r1.wait_ready()
            all_ready(r1)
            with_all = with_all or answers(r1, 2, 20)
            expect_equal(refused(r1, path, "prepare", text)["host"], "h2", "the host that is named")
            hosts[1].stop()
        hosts[1].start()
        all_ready(r1)
        if not case.sanitized:
            pid = hosts[1].process.pid
            with open(f"/proc/{pid}/statm", encoding="ascii") as file:
                size = int(file.read().split()[0]) * resource.getpagesize()
            before = resource.prlimit(pid, resource.RLIMIT_AS, (size + (129 << 20), resource.RLIM_INFINITY))
            expect_equal(refused(r1, path, "prepare", "are available")["host"], "h2", "the host without memory")
            resource.prlimit(pid, resource.RLIMIT_AS, before)
        for h in hosts:
            expect_equal(h.ctl_json("status")["model_next_digest"], "", f"what is left on {h.name}")
        expect_equal(answers(r1, 2, 20), with_all, "answers after the refusals")
        switch(r1, path, "--wait")
        settled([r1, *hosts], digest(f, path))
