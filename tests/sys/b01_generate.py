# SPDX-License-Identifier: Apache-2.0
"""A fleet answers: streams, sampling, stop strings, limits. One router and two expert hosts, real processes."""

from concurrent.futures import ThreadPoolExecutor

from fleet import expect, expect_equal

QUESTION = "What is 347 + 589?"


def test_chat(case):
    """The reasoning and the answer arrive apart, the figures are there, and rows went over the wire."""
    with case.fleet() as f:
        r1, _, _ = f.two_hosts()
        g = r1.generate(QUESTION)
        expect_equal(g.text.strip(), "936", "the answer")
        expect(g.reasoning.strip(), "no reasoning came")
        expect_equal(g.reason, "stop", "finish reason")
        expect_equal(g.finished["completion_tokens"], len(g.ids), "completion_tokens against ids seen")
        expect(g.finished["rows_dispatched"] > 0, "no row was dispatched over gRPC")
        expect(len([e for e in g.events if "delta" in e]) > 3, "the answer did not stream")


def test_same_text_alone_and_in_company(case):
    """Greedy and sampled texts do not depend on what else runs."""
    options = ["--temperature=1", "--seed=7", "--max-tokens=40"]
    questions = [f"What is {100 + 7 * i} + {900 - 13 * i}?" for i in range(8)]
    with case.fleet() as f:
        r1, _, _ = f.two_hosts()
        alone = [(r1.generate(q).ids, r1.generate(q, *options).ids) for q in questions]
        with ThreadPoolExecutor(16) as pool:
            greedy = [pool.submit(r1.generate, q) for q in questions]
            sampled = [pool.submit(r1.generate, q, *options) for q in questions]
            for q, a, g, s in zip(questions, alone, greedy, sampled):
                expect_equal(g.result().ids, a[0], f"greedy ids of {q!r} in company")
                expect_equal(s.result().ids, a[1], f"sampled ids of {q!r} in company")


def test_seeds(case):
    """Another seed is another text at a high temperature; the same seed is the same."""
    with case.fleet() as f:
        r1, _, _ = f.two_hosts()
        texts = {s: tuple(r1.generate(QUESTION, "--temperature=3", f"--seed={s}", "--max-tokens=24").ids) for s in range(4)}
        expect(len(set(texts.values())) > 1, "four seeds gave one text at temperature 3")
        again = tuple(r1.generate(QUESTION, "--temperature=3", "--seed=2", "--max-tokens=24").ids)
        expect_equal(again, texts[2], "the text of seed 2 on a second run")


def test_stop_and_max_tokens(case):
    with case.fleet() as f:
        r1, _, _ = f.two_hosts()
        whole = r1.generate(QUESTION)
        g = r1.generate(QUESTION, "--max-tokens=5")
        expect_equal((g.reason, len(g.ids)), ("length", 5), "reason and tokens of --max-tokens=5")
        expect_equal(g.ids, whole.ids[:5], "the first five tokens")
        g = r1.generate(QUESTION, "--stop=36")
        expect_equal((g.reason, g.text.strip()), ("stop", "9"), "reason and answer with --stop=36")
        expect_equal(g.reasoning, whole.reasoning, "the reasoning, in which stop texts are not looked for")
        g = r1.generate(QUESTION, "--stop=4", "--stop=6", "--stop=93")
        expect_equal(g.text.strip(), "", "the answer up to the first of three stop texts")


def test_logprobs(case):
    """The chosen token of a greedy step is the likeliest one, and probabilities are such."""
    with case.fleet() as f:
        r1, _, _ = f.two_hosts()
        g = r1.generate(QUESTION, "--logprobs=20", "--max-tokens=8")
        expect_equal(len(g.logprobs), 8, "log-probabilities")
        for t in g.logprobs:
            expect_equal(len(t["top"]), 20, "alternatives")
            expect_equal(t["top"][0]["id"], t["id"], "the likeliest token of a greedy step")
            expect(all(x["logprob"] <= 0 for x in t["top"]), f"a probability above 1: {t['top']}")
            expect(sorted((x["logprob"] for x in t["top"]), reverse=True) == [x["logprob"] for x in t["top"]], "order")


def test_multibyte_text_is_whole(case):
    """Chinese text streams in whole characters: every delta is valid text without replacement marks."""
    with case.fleet() as f:
        r1, _, _ = f.two_hosts()
        g = r1.generate("347加589等于多少？")
        expect_equal(g.text.strip(), "936", "the answer")
        expect("\ufffd" not in g.text + g.reasoning, "a character was split")


def test_prompt_too_long(case):
    """Refused with both numbers, and the router serves on."""
    with case.fleet() as f:
        r1, _, _ = f.two_hosts()
        context = r1.ctl_json("status")["router"]["context"]
        p = r1.ctl("chat", "1 " * (context + 10), check=False)
        expect_equal(p.returncode, 1, "exit status")
        expect(str(context) in p.stderr, f"the context's size {context} is not in: {p.stderr}")
        expect_equal(r1.generate(QUESTION).text.strip(), "936", "the next answer")
