#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A third-party client (grpcio from PyPI) against net/: every kind of call, its ends and limits, health and reflection.

The messages are not compiled in: they are taken from the server's reflection, so that what it describes must be what it speaks.
Usage: grpcio_net.py [RPC_SERVER]. Skipped (77) where grpcio, grpcio-health-checking or grpcio-reflection is not installed.
"""
import os
import subprocess
import sys
import tempfile
import threading
import time

try:
    import grpc
    from google.protobuf import descriptor_pool, message_factory
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
except ImportError as e:
    print(f"skipped: {e} (pip install grpcio grpcio-health-checking grpcio-reflection)")
    sys.exit(77)

SERVICES = {
    "expertd.v1.Experts",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}
EXPERTS = "/expertd.v1.Experts/"
HEALTH = health_pb2.HealthCheckResponse
WAIT_S = 30  # for what must happen; a test that needs it all has failed


class Server:
    """The server process; its address, and the stubs that reflection gives."""

    def __init__(self, program, listen="127.0.0.1:0"):
        self.process = subprocess.Popen([program, listen], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        port = self.process.stdout.readline().strip()
        assert port, "the server did not start"
        self.target = listen if listen.startswith("unix:") else f"127.0.0.1:{port}"
        self.channel = grpc.insecure_channel(self.target)
        self.pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))

    def message(self, name):
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))

    def flip_health(self):
        self.process.stdin.write("x\n")
        self.process.stdin.flush()

    def stop(self):
        self.channel.close()
        self.process.stdin.close()
        assert self.process.wait(WAIT_S) == 0, f"the server ended with {self.process.returncode}"


def hello(s, path="Hello"):
    request, reply = s.message("expertd.v1.HelloRequest"), s.message("expertd.v1.HelloReply")
    stub = s.channel.unary_unary(EXPERTS + path, request.SerializeToString, reply.FromString)
    return request, stub


def dispatch(s):
    request, reply = s.message("expertd.v1.DispatchRequest"), s.message("expertd.v1.DispatchReply")
    stub = s.channel.stream_stream(EXPERTS + "Dispatch", request.SerializeToString, reply.FromString)
    return request, stub


def failure(call):
    """The status of a call that must fail."""
    try:
        call()
    except grpc.RpcError as e:
        return e.code(), e.details()
    raise AssertionError("the call succeeded")


def n_cancelled(s):
    request, stub = hello(s)
    return stub(request(), timeout=WAIT_S).epoch


def wait_until(what):
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_unary(s):
    request, stub = hello(s)
    for i in range(50):
        reply = stub(request(node=f"n{i}", version="é"), timeout=WAIT_S)
        assert (reply.node, reply.version) == (f"n{i}", "é")


def test_stream(s):
    request, stub = dispatch(s)
    replies = list(stub(iter([request(id=i) for i in range(1, 301)]), timeout=WAIT_S))
    assert [r.id for r in replies] == list(range(1, 301))


def test_many_answers_to_one_request(s):
    request, stub = dispatch(s)
    replies = list(stub(iter([request(id=7, layer=20000)]), timeout=WAIT_S))
    assert [r.queued for r in replies] == list(range(20000))


def test_stream_answers_before_half_close(s):
    request, stub = dispatch(s)
    go = threading.Event()

    def requests():
        yield request(id=1)
        go.wait(WAIT_S)
        yield request(id=2)

    call = stub(requests(), timeout=WAIT_S)
    assert next(call).id == 1
    go.set()
    assert next(call).id == 2
    assert list(call) == [] and call.code() == grpc.StatusCode.OK


def test_half_close_without_a_message(s):
    request, stub = dispatch(s)
    assert list(stub(iter([]), timeout=WAIT_S)) == []


def test_deadline(s):
    request, stub = hello(s)
    before, deadline = n_cancelled(s), 0.1
    while n_cancelled(s) == before:  # on a slow machine it may pass before the server has heard of the call
        code, _ = failure(lambda: stub(request(node="slow"), timeout=deadline))
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED, code
        deadline *= 2
        time.sleep(0.02)


def test_cancel(s):
    request, stub = hello(s)
    before = n_cancelled(s)
    call = stub.future(request(node="slow"))
    n_cancelled(s)  # a whole other call: the slow one has most likely arrived, too
    call.cancel()
    assert call.cancelled()
    wait_until(lambda: n_cancelled(s) == before + 1)


def test_cancel_stream(s):
    request, stub = dispatch(s)
    before = n_cancelled(s)
    go = threading.Event()

    def requests():
        yield request(id=1)
        go.wait(WAIT_S)

    call = stub(requests())
    assert next(call).id == 1
    call.cancel()
    wait_until(lambda: n_cancelled(s) == before + 1)
    go.set()


def test_unknown_method(s):
    request, stub = hello(s, "Nope")
    assert failure(lambda: stub(request(), timeout=WAIT_S)) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "unknown method /expertd.v1.Experts/Nope",
    )


def test_message_too_large(s):
    request, stub = hello(s)
    # above the method's limit, 1 MiB, and above the server's, 4 MiB: gRPC itself refuses the second
    code, text = failure(lambda: stub(request(version="v" * (2 << 20)), timeout=WAIT_S))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED and "takes at most 1048576" in text, (code, text)
    code, text = failure(lambda: stub(request(version="v" * (5 << 20)), timeout=WAIT_S))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED, (code, text)
    assert stub(request(node="after"), timeout=WAIT_S).node == "after"


def test_malformed_message(s):
    call = s.channel.unary_unary(EXPERTS + "Hello")
    code, text = failure(lambda: call(b"\x0a\xff", timeout=WAIT_S))
    assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT, "malformed HelloRequest")


def test_compressed_request(s):
    request, stub = hello(s)
    reply = stub(request(node="z" * 10000), timeout=WAIT_S, compression=grpc.Compression.Gzip)
    assert reply.node == "z" * 10000


def test_health(s):
    stub = health_pb2_grpc.HealthStub(s.channel)
    for name in ["", *SERVICES]:
        assert stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=WAIT_S).status == HEALTH.SERVING
    code, _ = failure(lambda: stub.Check(health_pb2.HealthCheckRequest(service="no.Such"), timeout=WAIT_S))
    assert code == grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="expertd.v1.Experts"), timeout=WAIT_S)
    assert next(watch).status == HEALTH.SERVING
    s.flip_health()
    assert next(watch).status == HEALTH.NOT_SERVING
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S).status == HEALTH.NOT_SERVING
    s.flip_health()
    assert next(watch).status == HEALTH.SERVING
    watch.cancel()
    unknown = stub.Watch(health_pb2.HealthCheckRequest(service="no.Such"), timeout=WAIT_S)
    assert next(unknown).status == HEALTH.SERVICE_UNKNOWN
    unknown.cancel()


def test_reflection(s):
    assert set(ProtoReflectionDescriptorDatabase(s.channel).get_services()) == SERVICES
    service = s.pool.FindServiceByName("expertd.v1.Experts")
    assert [m.name for m in service.methods] == ["Dispatch", "Hello", "Move", "PrepareModel", "CommitModel", "DropModel"]
    assert service.methods_by_name["Dispatch"].input_type.full_name == "expertd.v1.DispatchRequest"
    fields = s.pool.FindMessageTypeByName("expertd.v1.ShardRows").fields_by_name
    assert (fields["weight"].number, fields["weight"].is_packed) == (6, True)
    for name in SERVICES:
        assert s.pool.FindServiceByName(name).full_name == name


def test_reflection_v1(s):
    """v1 is v1alpha's messages under another name; newer clients ask for it first."""
    q = reflection_pb2.ServerReflectionRequest
    call = s.channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        q.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    symbols = ["expertd.v1.Experts.Hello", "expertd.v1.ShardInfo", "expertd.v1", "no.Such"]
    requests = [q(list_services="*"), q(file_by_filename="expertd/experts.proto"), q(file_by_filename="none.proto")]
    requests += [q(file_containing_symbol=x) for x in symbols]
    r = list(call(iter(requests), timeout=WAIT_S))
    assert {x.name for x in r[0].list_services_response.service} == SERVICES
    assert b"DispatchRequest" in r[1].file_descriptor_response.file_descriptor_proto[0]
    assert r[3].file_descriptor_response == r[1].file_descriptor_response == r[4].file_descriptor_response
    for i in (2, 5, 6):
        assert r[i].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0], r[i]
    assert r[6].original_request.file_containing_symbol == "no.Such"
    alpha = reflection_pb2_grpc.ServerReflectionStub(s.channel)
    assert list(alpha.ServerReflectionInfo(iter(requests[:1]), timeout=WAIT_S))[0] == r[0]


def test_reflection_is_bounded(s):
    """Questions by the thousand from a client that reads no answer: its call is ended, and the server keeps nothing."""
    q = reflection_pb2.ServerReflectionRequest(file_by_filename="expertd/admin.proto")
    with grpc.insecure_channel(s.target, options=[("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]) as channel:
        over = threading.Event()

        def questions():
            for _ in range(20_000):
                yield q
            over.wait(WAIT_S)

        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(questions(), timeout=WAIT_S)
        size = len(next(call).SerializeToString())
        time.sleep(2)
        n = 0
        try:
            for n, _ in enumerate(call, 2):
                pass
            raise AssertionError(f"all {n} answers of {size} bytes were kept for a client that did not read")
        except grpc.RpcError as e:
            assert e.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, (e.code(), e.details(), n)
        over.set()


def test_port_in_use(s):
    other = subprocess.run([s.process.args[0], s.target], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WAIT_S)
    assert other.returncode == 1 and s.target in other.stderr and "Address already in use" in other.stderr, other.stderr


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else "tests/sys/rpc_server"
    tests = [(n, f) for n, f in globals().items() if n.startswith("test_")]
    with tempfile.TemporaryDirectory() as d:
        for listen in ("127.0.0.1:0", f"unix:{os.path.join(d, 's')}"):
            s = Server(program, listen)
            for name, test in tests:
                if name == "test_port_in_use" and listen.startswith("unix:"):
                    continue
                test(s)
                print(f"ok {listen.split(':')[0]} {name}", flush=True)
            s.stop()


if __name__ == "__main__":
    main()
