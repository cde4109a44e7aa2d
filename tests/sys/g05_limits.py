# SPDX-License-Identifier: Apache-2.0
"""Limits of the HTTP API: rates with Retry-After that is true, over restarts; one account's thousand requests beside another's one."""

import asyncio
import signal

import g01_http as g
from fleet import expect, expect_equal, free_ports, wait_until


def with_limits(f, limits, **keys):
    """A gateway with a [limits] section. Without accounts the bearer token tells clients apart."""
    port = free_ports(1)[0]
    node = f.router("r1", shards="auto", extra={"gateway": {"listen": f"127.0.0.1:{port}"}, "limits": limits}, **keys)
    node.http = port
    return node


def refused(c, **keys):
    """The SDK's exception for a question that is refused with 429."""
    try:
        c.chat.completions.create(**g.ask(**{"max_tokens": 1, **keys}))
    except g.sdk().RateLimitError as e:
        return e
    raise AssertionError("the question was answered")


def test_rates(case):
    """Beyond its requests a minute a key is refused with 429, and who waits as told is answered; others are not touched."""
    with case.fleet() as f:
        node = with_limits(f, {"requests_per_min": "default=30", "tokens_per_min": "default=2000"})
        c = g.client(node)
        first = c.chat.completions.with_raw_response.create(**g.ask(max_tokens=1)).headers
        expect_equal((first["x-ratelimit-limit-requests"], first["x-ratelimit-remaining-requests"]), ("30", "29"), "requests left")
        expect_equal(first["x-ratelimit-limit-tokens"], "2000", "tokens a minute")
        e = None
        for _ in range(300):
            try:
                c.chat.completions.create(**g.ask(max_tokens=1))
            except g.sdk().RateLimitError as refusal:
                e = refusal
                break
        expect(e, "300 requests at once were answered, of 30 a minute")
        expect_equal((e.code, e.type), ("rate_limit_exceeded", "rate_limit_error"), "the error")
        expect(1 <= int(e.response.headers["retry-after"]) <= 2, f"Retry-After: {e.response.headers['retry-after']}")
        # the SDK waits as it is told, once, and is answered
        c.with_options(max_retries=1).chat.completions.create(**g.ask(max_tokens=1))
        other = g.sdk().OpenAI(base_url=f"http://127.0.0.1:{node.http}/v1", api_key="sk-another", max_retries=0)
        other.chat.completions.create(**g.ask(max_tokens=1))
        e = refused(c, n=8, max_tokens=400)
        expect_equal((e.code, e.response.headers.get("retry-after")), ("request_too_large", None), "more than a minute's tokens at once")


def test_restart(case):
    """A restart is no way to a new burst."""
    with case.fleet() as f:
        node = with_limits(f, {"requests_per_min": "default=1"})
        c = g.client(node)
        c.chat.completions.create(**g.ask(max_tokens=1))
        refused(c)
        node.stop()
        node.start()
        e = refused(g.client(node))
        expect(1 <= int(e.response.headers["retry-after"]) <= 60, f"Retry-After: {e.response.headers['retry-after']}")


def test_tiers(case):
    """With accounts a key has its account's tier; refused requests are not charged, and no money stays held."""
    with case.fleet() as f:
        port = free_ports(1)[0]
        node = f.router("r1", shards="auto", extra={
            "ledger": {}, "gateway": {"listen": f"127.0.0.1:{port}", "accounts": "yes"},
            "limits": {"requests_per_min": "standard=2 gold=1000", "weight": "gold=4"}})
        node.http = port
        node.ctl("tariff", "set", "1", "1", "1")
        keys = {}
        for name, tier in (("acme", "standard"), ("rich", "gold")):
            node.ctl("account", "create", name, f"--tier={tier}")
            node.ctl("topup", "credit", name, "1", f"--key={name}")
            keys[name] = node.ctl("key", "create", name).stdout.strip()
        acme, rich = (g.sdk().OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=keys[n], max_retries=0) for n in keys)
        for _ in range(2):
            acme.chat.completions.create(**g.ask(max_tokens=1))
        expect_equal(refused(acme).response.headers["x-ratelimit-limit-requests"], "2", "requests a minute of the tier standard")
        for _ in range(5):
            rich.chat.completions.create(**g.ask(max_tokens=1))
        try:
            g.client(node).chat.completions.create(**g.ask(max_tokens=1))
            raise AssertionError("a key that nobody has was good")
        except g.sdk().AuthenticationError:
            pass

        def used():
            return {a: sum(int(r["requests"]) for r in node.ctl_json("usage", a, "--since=2026-01-01")["rows"]) for a in keys}

        wait_until("what was used is charged", lambda: used() == {"acme": 2, "rich": 5}, 20)
        for a in keys:
            expect_equal(node.ctl_json("account", "show", a)["accounts"][0]["balances"][0]["held"], "0.00", "held")


def test_fair(case):
    """One client has 100 requests in a batch of 4; another one's single request is not behind them. (What is answered in between was begun before it.)"""
    answered = []

    async def one(port, name, token):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(g.post(g.ask(f"What is {name} + 1?", max_tokens=60), f"Authorization: Bearer {token}", "Connection: close"))
        answer = await reader.read()
        writer.close()
        expect(answer.startswith(b"HTTP/1.1 200"), answer[:100])
        answered.append(name)

    async def all_of_them(port):
        tasks = [asyncio.create_task(one(port, 100 + i, "many")) for i in range(100)]
        while len(answered) < 4:
            await asyncio.sleep(0.001)
        before = len(answered)
        await one(port, 1, "one")
        after = answered.index(1) - before
        await asyncio.gather(*tasks)
        return after

    with case.fleet() as f:
        node = with_limits(f, {"weight": "default=1", "queue_wait_ms": "300000"}, max_batch=4)
        between = asyncio.run(all_of_them(node.http))
        expect_equal(len(answered), 101, "answers")
        expect(between <= 45, f"{between} of the first client's requests were answered before the second one's")


def test_stop(case):
    """Who waits for a place when the server stops is told so at once; who has one gets its answer."""
    openai = g.sdk()

    async def one(c, i):
        try:
            r = await c.chat.completions.create(**g.ask(f"What is {i} + 1?", max_tokens=300))
            return r.choices[0].finish_reason
        except openai.InternalServerError as e:
            return e.code

    async def all_of_them(node):
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{node.http}/v1", api_key="sk-x", max_retries=0, timeout=60) as c:
            tasks = [asyncio.create_task(one(c, 100 + i)) for i in range(30)]
            await asyncio.sleep(0.3)
            node.signal(signal.SIGTERM)
            return await asyncio.gather(*tasks)

    with case.fleet() as f:
        node = with_limits(f, {"weight": "default=1"}, max_batch=2)
        ends = asyncio.run(all_of_them(node))
        expect(set(ends) <= {"stop", "length", "stopping"} and "stopping" in ends, f"ends: {sorted(set(ends))}")
        wait_until("the end of the process", lambda: not node.alive(), 30)
