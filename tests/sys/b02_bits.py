# SPDX-License-Identifier: Apache-2.0
"""Placement changes no bit: all experts local, two hosts, three hosts, other splits, other owners."""

from concurrent import futures

from fleet import expect_equal

QUESTIONS = ["What is 347 + 589?", "703-458", "Combien font 64 - 99 ?"]


def outputs(router):
    """Greedy ids with log-probabilities to the last bit that JSON prints, for every question."""
    out = []
    for q in QUESTIONS:
        g = router.generate(q, "--logprobs=5")
        out.append((g.ids, [(t["logprob"], [(x["id"], x["logprob"]) for x in t["top"]]) for t in g.logprobs]))
    return out


def test_routers_share_a_host(case):
    """Two routers at once on a host whose two workers may run frames of both together: each gets the bits that it gets alone."""
    with case.fleet() as f:
        h1 = f.expert("h1", "auto", workers=2)
        routers = [f.router(name, [h1]) for name in ("r1", "r2")]
        alone = outputs(routers[0])
        with futures.ThreadPoolExecutor(4) as pool:
            for got in pool.map(outputs, routers * 2):
                expect_equal(got, alone, "in company against alone")


def test_placements(case):
    with case.fleet("local") as f:
        local = outputs(f.router("r1", shards="auto"))
    with case.fleet("two") as f:
        r1, _, _ = f.two_hosts()
        expect_equal(outputs(r1), local, "two hosts against all local")
    with case.fleet("spans") as f:
        hosts = [f.expert("h1", "*/E0-7"), f.expert("h2", "*/E8-15")]
        expect_equal(outputs(f.router("r1", hosts)), local, "two hosts, by spans of experts, against all local")
    with case.fleet("three") as f:
        hosts = [f.expert(f"h{i + 1}", s) for i, s in enumerate(f.split(3))]
        expect_equal(outputs(f.router("r1", hosts)), local, "three hosts against all local")
    with case.fleet("mixed") as f:
        ranges = f.ranges()
        even, odd = (" ".join(f"*/{r}" for r in ranges[i::2]) for i in (0, 1))
        h1 = f.expert("h1", even)
        expect_equal(outputs(f.router("r1", [h1], shards=odd)), local, "half local, half remote against all local")
    with case.fleet("layers") as f:
        layers = [f.expert("h1", "L1-3/*"), f.expert("h2", "L4-99/*")]
        expect_equal(outputs(f.router("r1", layers)), local, "split by layers against all local")


test_placements.heavy = "thread"  # half a minute, and b01 takes the same ways
