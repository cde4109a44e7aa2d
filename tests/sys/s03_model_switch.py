# SPDX-License-Identifier: Apache-2.0
"""The whole fleet goes over to another checkpoint while it serves: every stream is, to the token, one of the checkpoint that it was begun
with; what cannot be switched to is refused by name, and leaves the fleet as it was. More of it is in l03_model_switch.py."""

import os

from fleet import expect, expect_equal
from streams import Streams, three_hosts
from switching import answers, digest, events, go_over, new_answers, other_model, refused, settled, switch

LONG_WITH_SANITIZER = True


def test_pin(case):
    """Requests end with the checkpoint that they began with."""
    go_over(case, "--pin", 4, 60)


def test_one_process(case):
    """A router with shards of its own goes over, too, and comes back so."""
    with case.fleet() as f:
        path = other_model(f)
        other = new_answers(case, path, 2, 20)
        r1 = f.router("r1", shards="auto")
        switch(r1, path, "--wait")
        settled([r1], digest(f, path))
        expect_equal(answers(r1, 2, 20), other, "answers after the switch")
        r1.kill()
        r1.start()
        settled([r1], digest(f, path))
        expect_equal(answers(r1, 2, 20), other, "answers after a restart")


def test_refusals(case):
    """What cannot be switched to says why and where, and nothing is left of it."""
    with case.fleet() as f:
        path = other_model(f)
        odd = other_model(f, "odd", n_routed_experts=12)
        r1, hosts = three_hosts(f)
        with Streams(r1, 4, 60) as s:
            s.run(0.3)
            refused(r1, f.dir, "open", "config.json")
            refused(r1, f.model, "open", "is the model that is served")
            refused(r1, odd, "open", "n_routed_experts is 12")
            with open(os.path.join(path, "tokenizer.json"), "a", encoding="utf-8") as file:
                file.write(" ")
            refused(r1, path, "open", "--pin", "--move")
            expect_equal(r1.ctl("model", "switch", path, "--pin", "--move", check=False).returncode, 2, "--pin and --move")
            expect(hosts[0].ctl("model", "switch", path, check=False).returncode == 1, "a host that is no router")
            s.stop("refused switches")
        for h in hosts:
            expect_equal(h.ctl_json("status")["model_next_digest"], "", f"what is left on {h.name}")
        expect("MODEL_ABORTED" in events(r1), f"events: {events(r1)}")
