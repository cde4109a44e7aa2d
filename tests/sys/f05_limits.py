# SPDX-License-Identifier: Apache-2.0
"""Requests beyond every limit are refused with a reason, at once, and leave nothing behind."""

import collections
import math
import os

from clients import grpc_modules
from fleet import expect, expect_equal, wait_until

QUESTION = "What is 347 + 589?"


def outcome(grpc, events):
    """(status, its text or the last event's reason) of one Generate."""
    try:
        last = collections.deque(events, maxlen=1).pop()
        return "OK", last.finished.reason
    except grpc.RpcError as e:
        return e.code().name, e.details()


def test_requests_beyond_limits(case):
    grpc, m, stubs = grpc_modules(case)
    with case.fleet() as f:
        r1, _, _ = f.two_hosts()
        with grpc.insecure_channel(r1.address, options=[("grpc.max_send_message_length", -1)]) as channel:
            stub = stubs.RouterStub(channel)
            wrong, full = "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"
            for fields, status, text in (
                    ({}, wrong, "no prompt"),
                    ({"tokens": m.TokenPrompt()}, wrong, "empty"),
                    ({"tokens": m.TokenPrompt(ids=[1, 2**32 - 1])}, wrong, "4294967295"),
                    ({"tokens": m.TokenPrompt(ids=[1] * 1_000_000)}, full, "1000000 tokens"),
                    ({"text": "a" * 4_000_000}, full, "tokens"),
                    ({"text": "a" * 5_000_000}, full, "larger than max"),
                    ({"chat": m.ChatPrompt()}, wrong, "0 messages"),
                    ({"chat": m.ChatPrompt(messages=[m.ChatMessage()] * 5000)}, wrong, "5000 messages"),
                    ({"chat": m.ChatPrompt(messages=[m.ChatMessage(role="root", content="x")])}, wrong, "root"),
                    ({"text": "x", "sampling": m.Sampling(temperature=math.nan)}, wrong, "temperature"),
                    ({"text": "x", "sampling": m.Sampling(temperature=math.inf)}, wrong, "temperature"),
                    ({"text": "x", "sampling": m.Sampling(top_p=-1)}, wrong, "top_p"),
                    ({"text": "x", "sampling": m.Sampling(top_p=1.0000001)}, wrong, "top_p is 1.0000001"),
                    ({"text": "x", "sampling": m.Sampling(top_p=math.nan)}, wrong, "top_p"),
                    ({"text": "x", "stop": ["a"] * 17}, wrong, "17 stop strings"),
                    ({"text": "x", "stop": [""]}, wrong, "stop string 0"),
                    ({"text": "x", "top_logprobs": 21, "logprobs": True}, wrong, "21"),
                    ({"text": "x", "model": "other"}, "NOT_FOUND", "other"),
                    ({"text": QUESTION, "max_tokens": 2**32 - 1}, "OK", "stop"),
                    ({"text": QUESTION, "max_tokens": 5, "sampling": m.Sampling(temperature=1e-45, top_k=2**32 - 1)}, "OK", "length")):
                got = outcome(grpc, stub.Generate(m.GenerateRequest(**fields), timeout=30))
                expect(got[0] == status and text in got[1], f"{str(fields)[:80]}: {got}")
            raw = channel.unary_stream("/expertd.v1.Router/Generate", request_serializer=bytes, response_deserializer=bytes)
            for data, text in ((b"\x12\x03a\x00b", "NUL"), (b"\x12\x01a\x3a\x03b\x00c", "NUL"),
                               (b"\x1a\x0b\x0a\x09\x0a\x04user\x12\x01\x00", "NUL")):
                got = outcome(grpc, raw(data, timeout=30))
                expect(got[0] == wrong and text in got[1], f"{data!r}: {got}")
            for data in (b"\x12\x03\xff\xfe\xc3", b"\x12\x7f", b"\x1a\x80\x80\x80\x80\x08", os.urandom(200) + b"\xff"):
                expect_equal(outcome(grpc, raw(data, timeout=30))[0], wrong, f"status for the bytes {data!r}")


def test_a_thousand_at_once(case):
    """What has room is served, the rest is told so; nobody waits for nothing, and nothing is left behind."""
    grpc, m, stubs = grpc_modules(case)
    with case.fleet() as f:
        r1, _, _ = f.two_hosts(queue_max=16, max_batch=16)
        with grpc.insecure_channel(r1.address) as channel:
            stub = stubs.RouterStub(channel)
            request = m.GenerateRequest(text=QUESTION, max_tokens=8, ignore_eos=True)
            ends = [outcome(grpc, call) for call in [stub.Generate(request, timeout=60) for _ in range(1000)]]
        refused = [text for status, text in ends if status == "UNAVAILABLE"]
        served = ends.count(("OK", "length"))
        expect(served >= 16 and served + len(refused) == 1000, f"ends: {collections.Counter(ends)}")
        expect(refused and all("the queue holds 16" in text for text in refused), f"the reason: {refused[:1]}")
        wait_until("nothing runs, all pages are free", lambda: r1.ctl_json("status")["router"]["kv_pages_used"] == 0)
        expect_equal(r1.generate(QUESTION).text.strip(), "936", "the next answer")
