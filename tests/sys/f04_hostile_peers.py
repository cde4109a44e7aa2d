# SPDX-License-Identifier: Apache-2.0
"""Peers that speak gRPC and lie: a client that sends an expert host wrong frames, and an expert host that answers a router wrongly.

The lying host is a proxy in front of a real one, so that its handshake is right and its answers can be bent at will."""

import importlib
import json
import math
import os
import signal
import struct
import threading
import time
from concurrent import futures

from clients import grpc_modules
from fleet import expect, expect_equal, free_ports, wait_until

QUESTION = "What is 347 + 589?"


def experts_modules(case):
    grpc, _, _ = grpc_modules(case)
    return grpc, importlib.import_module("expertd.experts_pb2"), importlib.import_module("expertd.experts_pb2_grpc")


# --- a client that lies to a host ----------------------------------------------------------------------------------------------------


class Frames:
    """Good frames for a host of this model, to be spoilt."""

    def __init__(self, case, fleet, host):
        self.grpc, self.messages, stubs = experts_modules(case)
        self.channel = self.grpc.insecure_channel(host.address)
        self.stub = stubs.ExpertsStub(self.channel)
        shard = host.ctl_json("shard", "list")["shards"][0]["info"]
        self.layer, self.first, self.n = shard["layer"], shard["first_expert"], shard["n_experts"]
        with open(os.path.join(fleet.model, "config.json"), encoding="utf-8") as f:
            self.d_model = json.load(f)["hidden_size"]
        hello = self.messages.HelloRequest(node="test", wire=1, expert_groups=fleet.groups, model_digest=host.ctl_json("status")["model_digest"])
        self.epoch = self.stub.Hello(hello, timeout=20).epoch

    def good(self, rows=2, frame_id=1):
        offset = [0] + [rows] * self.n
        shard = self.messages.ShardRows(first_expert=self.first, n_experts=self.n, rows=range(rows), offset=offset,
                                        token=range(rows), weight=[1.0] * rows)
        return self.messages.DispatchRequest(id=frame_id, epoch=self.epoch, layer=self.layer, dtype=1, n_rows=rows, d_model=self.d_model, shards=[shard],
                                             x=bytes(4 * rows * self.d_model))

    def ask(self, *frames):
        """The replies, and the status that ended the stream."""
        call = self.stub.Dispatch(iter(frames), timeout=20)
        replies = []
        try:
            replies.extend(call)
            return replies, self.grpc.StatusCode.OK
        except self.grpc.RpcError as e:
            return replies, e.code()


def spoilt(frames):
    """(name, frame) of every lie."""
    def frame(**fields):
        f = frames.good()
        for k, v in fields.items():
            setattr(f, k, v)
        return f

    def shard(**fields):
        f = frames.good()
        for k, v in fields.items():
            if isinstance(v, list):
                del getattr(f.shards[0], k)[:]
                getattr(f.shards[0], k).extend(v)
            else:
                setattr(f.shards[0], k, v)
        return f

    twice = frames.good()
    twice.shards.append(twice.shards[0])
    return [
        ("another width", frame(d_model=frames.d_model + 1)),
        ("2^32-1 rows", frame(n_rows=2**32 - 1)),
        ("no rows", frame(n_rows=0)),
        ("too little x", frame(x=b"1234")),
        ("no such dtype", frame(dtype=7)),
        ("a heartbeat with rows", frame(id=0)),
        ("rows that descend", shard(rows=[1, 0])),
        ("a row beyond x", shard(rows=[0, 2])),
        ("a token beyond the rows", shard(token=[0, 9])),
        ("offsets beyond the tokens", shard(offset=[0] + [2**32 - 1] * frames.n)),
        ("too few offsets", shard(offset=[0, 2])),
        ("fewer weights than tokens", shard(weight=[1.0])),
        ("a weight that is not a number", shard(weight=[1.0, math.nan])),
        ("2^32-1 experts", shard(n_experts=2**32 - 1)),
        ("an expert beyond the model", shard(first_expert=2**32 - 1)),
        ("a shard twice", twice),
    ]


def test_lying_frames(case):
    """Every lie ends its stream with a reason; a shard that is not there fails alone; the host serves on."""
    with case.fleet() as f:
        h1 = f.expert("h1", "auto")
        frames = Frames(case, f, h1)
        for name, frame in spoilt(frames):
            replies, code = frames.ask(frame)
            expect(not replies and code.name in ("INVALID_ARGUMENT", "DATA_LOSS", "INTERNAL"), f"{name}: {replies} {code}")
        absent = frames.good()
        absent.layer = 4_000_000_000
        replies, code = frames.ask(absent, frames.good(frame_id=2))
        expect_equal(code.name, "OK", "a shard that is not there")
        by_id = {r.id: r for r in replies}
        expect(by_id[1].shards[0].status < 0 and not by_id[1].y, f"an unknown layer: {by_id[1]}")
        expect(by_id[2].shards[0].status == 0 and len(by_id[2].y) == 8 * frames.d_model, "the good frame after it")
        expect(h1.alive(), "the host died")


def cpu_seconds(node):
    with open(f"/proc/{node.process.pid}/stat", encoding="ascii") as f:
        user, system = f.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def wait_idle(node):
    """Until the process used less than a tenth of a processor for half a second."""
    def idle():
        before = cpu_seconds(node)
        time.sleep(0.5)
        return cpu_seconds(node) - before < 0.05

    wait_until(f"{node.name} has nothing to do", idle)


def test_replies_not_read(case):
    """Heartbeats by the thousand from a peer that reads no answer: small as the answers are, its stream is ended."""
    with case.fleet() as f:
        h1 = f.expert("h1", "auto", reply_bytes_max="1M")
        frames = Frames(case, f, h1)
        small_window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536)]
        with frames.grpc.insecure_channel(h1.address, options=small_window) as channel:
            sent = threading.Event()

            def beats():
                for _ in range(12_000):
                    yield frames.messages.DispatchRequest(sent_ns=1)
                sent.set()

            call = type(frames.stub)(channel).Dispatch(beats(), timeout=60)
            sent.wait(20)
            wait_idle(h1)  # it has taken what was sent, however slow it is
            try:
                list(call)
                code = frames.grpc.StatusCode.OK
            except frames.grpc.RpcError as e:
                code = e.code()
        expect_equal(code.name, "RESOURCE_EXHAUSTED", "how the stream ended")
        replies, code = frames.ask(frames.good())
        expect(len(replies) == 1 and code.name == "OK", f"another peer afterwards: {code}")


def test_stopped_twice_at_work(case):
    """The second SIGTERM cuts streams whose frames are queued and running: the host ends as asked all the same."""
    with case.fleet() as f:
        h1 = f.expert("h1", "auto")
        frames = Frames(case, f, h1)
        over = threading.Event()

        def work():
            for i in range(1, 300):
                yield frames.good(rows=2000, frame_id=i)
            over.wait(20)

        replies = frames.stub.Dispatch(work(), timeout=30)
        next(replies)
        h1.signal(signal.SIGTERM)
        h1.wait_notify("STOPPING=1", 10)
        h1.signal(signal.SIGTERM)
        expect_equal(h1.process.wait(20), 0, f"exit status:\n{h1.log_tail()}")
        over.set()


# --- a host that lies to its router --------------------------------------------------------------------------------------------------


class Liar:
    """A proxy before `host` whose Dispatch replies go through bend(reply): a list of what is sent instead."""

    def __init__(self, case, host):
        self.grpc, self.messages, stubs = experts_modules(case)
        self.bend = lambda reply: [reply]
        self.node = ""  # what it calls itself; empty: the truth
        self.hello = None  # another host's stub, to answer Hello with
        self.port = free_ports(1)[0]
        self.address = f"127.0.0.1:{self.port}"
        self.server = self.grpc.server(futures.ThreadPoolExecutor(8))
        upstream = stubs.ExpertsStub(self.grpc.insecure_channel(host.address))
        liar = self

        class Service(stubs.ExpertsServicer):
            def Hello(self, request, context):
                reply = (liar.hello or upstream).Hello(request, timeout=5)
                reply.node = liar.node or reply.node
                return reply

            def Dispatch(self, request_iterator, context):
                call = upstream.Dispatch(request_iterator)
                context.add_callback(call.cancel)
                try:
                    for reply in call:
                        yield from liar.bend(reply) if reply.id else [reply]
                except liar.grpc.RpcError:
                    return

        stubs.add_ExpertsServicer_to_server(Service(), self.server)
        if not self.server.add_insecure_port(self.address):
            raise RuntimeError(f"cannot listen on {self.address}")
        self.server.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop(0).wait()


def not_finite(reply):
    reply.y = struct.pack("<f", math.nan) * (len(reply.y) // 4)
    return [reply]


def one_row_less(reply):
    reply.shards[-1].n_rows += 1
    return [reply]


def other_shard(reply):
    reply.shards[-1].first_expert += 1
    return [reply]


def without_shards(reply):
    del reply.shards[:]
    reply.y = b""
    return [reply]


def whole_frame_fails(reply):
    return [type(reply)(id=reply.id, status=-2**31, error="\x1b[31mno\n" + "x" * 3000)]


LIES = [("partials that are not numbers", not_finite), ("partials of another length", one_row_less), ("another shard", other_shard),
        ("no shards", without_shards), ("a status of -2^31 and a long error", whole_frame_fails), ("no answer", lambda reply: [])]


def test_lying_host(case):
    """Each lie ends the request with the host's name; the router lives, and serves when the lies stop."""
    with case.fleet() as f:
        low, high = f.halves()
        h1, h2 = f.expert("h1", low), f.expert("h2", high)
        with Liar(case, h2) as liar:
            r1 = f.router("r1", [h1, liar], frame_timeout_ms=300, hold_ms=0)
            for name, bend in LIES:
                liar.bend = bend
                g = r1.generate(QUESTION, check=False)
                expect_equal(g.reason, "insufficient_system_resource", f"reason, with {name}")
                expect("h2" in g.finished["error"], f"the error does not name the host, with {name}: {g.finished['error']}")
                h1_view = next(h for h in r1.ctl_json("host", "list")["hosts"] if h["name"] == "h1")
                expect(h1_view["state"] == "ready" and int(h1_view["errors"]) == 0, f"the honest host is blamed, with {name}: {h1_view}")
                liar.bend = lambda reply: [reply]
                wait_until("the host is ready again", lambda: all(h["state"] == "ready" for h in r1.ctl_json("host", "list")["hosts"]))
            liar.bend = lambda reply: [reply, reply, type(reply)(id=reply.id + 1_000_000)]
            expect_equal(r1.generate(QUESTION).text.strip(), "936", "the answer, with every reply twice and replies nobody asked for")


def test_watchdog_while_a_host_is_silent(case):
    """A host that answers heartbeats and no frame is waited for, frame_timeout_ms long; the watchdog is fed meanwhile."""
    with case.fleet() as f:
        low, high = f.halves()
        h1, h2 = f.expert("h1", low), f.expert("h2", high)
        with Liar(case, h2) as liar:
            os.environ["WATCHDOG_USEC"] = "1000000"
            try:
                r1 = f.router("r1", [h1, liar], frame_timeout_ms=4000, hold_ms=0)
            finally:
                del os.environ["WATCHDOG_USEC"]
            asked = threading.Event()
            liar.bend = lambda reply: asked.set() or []
            client = r1.spawn("--json", "chat", QUESTION)
            expect(asked.wait(20), "no frame came")
            time.sleep(1)
            before = r1.notify.lines.count("WATCHDOG=1")
            time.sleep(2)
            fed = r1.notify.lines.count("WATCHDOG=1") - before
            expect(client.poll() is None, "the wait is over: the test saw nothing")
            expect(fed >= 2, f"the watchdog was fed {fed} times in 2 s")
            expect("insufficient_system_resource" in client.communicate(timeout=20)[0], "how the request ended")


def test_words_of_a_liar(case):
    """Names and errors that steer terminals or break in the middle of a character reach clients as plain text."""
    with case.fleet() as f:
        low, high = f.halves()
        h1, h2 = f.expert("h1", low), f.expert("h2", high)
        with Liar(case, h2) as liar:
            liar.node = "\x1b[2J\n" + "é" * 100
            r1 = f.router("r1", [h1, liar], hold_ms=0)
            liar.bend = lambda reply: [type(reply)(id=reply.id, status=-5, error="\x1b[31m\n" + "中" * 1000)]
            g = r1.generate(QUESTION, check=False)
            expect_equal(g.reason, "insufficient_system_resource", "reason")
            seen = [g.finished["error"], *(h["name"] + h["error"] for h in r1.ctl_json("host", "list")["hosts"]), r1.ctl("events").stdout,
                    r1.ctl("host", "list").stdout, r1.ctl("metrics").stdout]
            expect("?[31m" in seen[0] and not any(c in "".join(seen) for c in "\x1bé中\ufffd"), f"what is seen: {seen}")


def test_shards_that_are_gone(case):
    """A host that has other shards than it said, as after a quick restart, says so when it is asked; who does hold them serves, and
    nobody notices."""
    with case.fleet() as f:
        low, high = f.halves()
        h1, h2 = f.expert("h1", low), f.expert("h2", high)
        with Liar(case, h1) as liar:
            _, _, stubs = experts_modules(case)
            told = stubs.ExpertsStub(liar.grpc.insecure_channel(h2.address))

            class Renamed:
                """h2's own words, under another name."""

                @staticmethod
                def Hello(request, timeout=None):
                    reply = told.Hello(request, timeout=timeout)
                    reply.node = "liar"
                    return reply

            liar.hello = Renamed
            r1 = f.router("r1", [liar, h1, h2], hold_ms=0)
            wait_until("the liar is believed", lambda: "liar" in str(r1.ctl_json("host", "list")))
            liar.hello = None
            for _ in range(4):
                expect_equal(r1.generate(QUESTION).text.strip(), "936", "the answer, while the list is wrong")

            def errors():
                return next(h["errors"] for h in r1.ctl_json("host", "list")["hosts"] if h["name"] != "h1" and h["name"] != "h2")
            expect(errors() > 0, "the host that has not what it said was never asked: the test saw nothing")
            wait_until("the list is renewed", lambda: (lambda n: r1.generate(QUESTION) and errors() == n)(errors()), timeout=5)


def test_one_row_not_finite(case):
    """A row that is not a number ends its own request and no other of the batch."""
    with case.fleet() as f:
        low, high = f.halves()
        h1, h2 = f.expert("h1", low), f.expert("h2", high)
        with Liar(case, h2) as liar:
            r1 = f.router("r1", [h1, liar], hold_ms=0)
            spoil = threading.Event()

            def last_row(reply):
                if spoil.is_set() and len(reply.y) > 4 and reply.shards[-1].n_rows >= 2:
                    reply.y = reply.y[:-4] + struct.pack("<f", math.inf)
                    spoil.clear()
                return [reply]

            liar.bend = last_row
            n = 150 if case.sanitized else 450
            clients = [r1.spawn("--json", "generate", QUESTION, f"--max-tokens={n}", "--ignore-eos", f"--seed={i}") for i in range(4)]
            wait_until("several run", lambda: r1.ctl_json("status")["router"]["running"] >= 2)
            spoil.set()
            ended = [c.communicate(timeout=60)[0] for c in clients]
            lost = [out for out in ended if "insufficient_system_resource" in out]
            expect(not spoil.is_set(), "no frame had two rows for one shard: the test saw nothing")
            expect_equal(len(lost), 1, "requests that ended with the row")
            expect("h2" in lost[0].splitlines()[-1], f"the error does not name the host: {lost[0].splitlines()[-1]}")
