# SPDX-License-Identifier: Apache-2.0
"""A real fleet seen by a third-party client (grpcio, its health and reflection packages): health, reflection, Generate, deadlines, cancel."""

from clients import grpc_modules
from fleet import Skip, expect, expect_equal, wait_until

QUESTION = "What is 347 + 589?"


def question(messages, **more):
    chat = messages.ChatPrompt(messages=[messages.ChatMessage(role="user", content=QUESTION)])
    return messages.GenerateRequest(chat=chat, **more)


def test_generate(case):
    grpc, messages, stubs = grpc_modules(case)
    with case.fleet() as f:
        r1, _, _ = f.two_hosts()
        for target in (r1.address, f"unix:{r1.admin}"):
            with grpc.insecure_channel(target) as channel:
                stub = stubs.RouterStub(channel)
                events = list(stub.Generate(question(messages), timeout=60))
                kinds = [e.WhichOneof("event") for e in events]
                expect_equal((kinds[0], kinds[-1]), ("started", "finished"), f"first and last event over {target}")
                expect_equal("".join(e.delta.text for e in events).strip(), "936", f"the answer over {target}")
                n = len(stub.Tokenize(messages.TokenizeRequest(text="12 + 7"), timeout=10).ids)
                expect(n >= 4, f"{n} tokens in '12 + 7'")


def test_deadline_and_cancel_free_everything(case):
    grpc, messages, stubs = grpc_modules(case)
    with case.fleet() as f:
        r1, _, _ = f.two_hosts()

        def idle():
            s = r1.ctl_json("status")["router"]
            return s["running"] == 0 and s["kv_pages_used"] == 0

        with grpc.insecure_channel(r1.address) as channel:
            stub = stubs.RouterStub(channel)
            try:
                list(stub.Generate(question(messages, ignore_eos=True, want_logits=1), timeout=0.05))
                raise AssertionError("400 tokens within 50 ms")
            except grpc.RpcError as e:
                expect_equal(e.code(), grpc.StatusCode.DEADLINE_EXCEEDED, "status")
            stream = stub.Generate(question(messages, ignore_eos=True))
            next(stream)
            stream.cancel()
            wait_until("everything is free again", idle)


def test_health_and_reflection(case):
    grpc, _, _ = grpc_modules(case)
    try:
        from grpc_health.v1 import health_pb2, health_pb2_grpc
        from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
    except ImportError as e:
        raise Skip(f"{e.name} is not installed (tests/requirements.txt)") from None
    serving = health_pb2.HealthCheckResponse
    with case.fleet() as f:
        r1, h1, h2 = f.two_hosts()
        for node, service in ((h1, "expertd.v1.Experts"), (r1, "expertd.v1.Router")):
            with grpc.insecure_channel(node.address) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                for name in ("", service):
                    got = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status
                    expect_equal(got, serving.SERVING, f"health of {name!r} on {node.name}")
                listed = set(ProtoReflectionDescriptorDatabase(channel).get_services())
                expect(service in listed and "grpc.health.v1.Health" in listed, f"services of {node.name}: {listed}")
        with grpc.insecure_channel(r1.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""), timeout=60)
            expect_equal(next(watch).status, serving.SERVING, "watched health")
            h2.kill()
            expect_equal(next(watch).status, serving.NOT_SERVING, "health after a host is lost")
            h2.start()
            expect_equal(next(watch).status, serving.SERVING, "health after it is back")
            watch.cancel()
