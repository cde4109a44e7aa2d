#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Asks a running expertd the held-out questions of tiny-r1 and prints accuracy by kind and tokens a second.

    python tests/models/eval.py --socket PATH | --address HOST:PORT [--limit N] [--concurrency 8] [--min 0.99]

Needs grpcio and grpcio-tools; compiles proto/expertd/router.proto into a temporary folder.
Exit: 0; 1 below --min, or when a request failed.
"""

import argparse
import importlib
import json
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_tools import protoc

HERE = Path(__file__).resolve().parent


def load_proto(root):
    """The generated modules (messages, stubs) of expertd/router.proto under root."""
    out = tempfile.mkdtemp(prefix="expertd-eval-")
    if protoc.main(["protoc", f"-I{root}", f"--python_out={out}", f"--grpc_python_out={out}",
                    "expertd/router.proto"]) != 0:
        raise SystemExit(f"eval: cannot compile {root}/expertd/router.proto")
    sys.path.insert(0, out)
    return importlib.import_module("expertd.router_pb2"), importlib.import_module("expertd.router_pb2_grpc")


def ask(messages, stub, question, args):
    """(answer text, completion tokens, what went wrong or "")"""
    request = messages.GenerateRequest(
        model=args.model, max_tokens=args.max_tokens,
        chat=messages.ChatPrompt(messages=[messages.ChatMessage(role="user", content=question)]))
    text, n_tokens, why = "", 0, "no finish"
    try:
        for reply in stub.Generate(request, timeout=args.timeout):
            event = reply.WhichOneof("event")
            if event == "delta":
                text += reply.delta.text
            elif event == "finished":
                n_tokens = reply.finished.completion_tokens
                why = "" if reply.finished.reason == "stop" else f"{reply.finished.reason} {reply.finished.error}".strip()
    except grpc.RpcError as error:
        why = f"{error.code().name}: {error.details()}"
    return text.strip(), n_tokens, why


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket", help="path of a Unix socket")
    where.add_argument("--address", help="host:port")
    parser.add_argument("--questions", type=Path, default=HERE / "tiny-r1" / "eval.jsonl")
    parser.add_argument("--proto", type=Path, default=HERE.parent.parent / "proto")
    parser.add_argument("--limit", type=int, default=0, help="ask only N questions, spread over the kinds")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--timeout", type=float, default=60, help="seconds for one request")
    parser.add_argument("--model", default="")
    parser.add_argument("--min", type=float, default=0.0, help="least share of right answers")
    parser.add_argument("--verbose", action="store_true", help="print each wrong answer")
    args = parser.parse_args()

    messages, stubs = load_proto(args.proto)
    rows = [json.loads(line) for line in args.questions.read_text(encoding="utf-8").splitlines()]
    if 0 < args.limit < len(rows):
        rows = [rows[i * len(rows) // args.limit] for i in range(args.limit)]
    target = f"unix:{args.socket}" if args.socket else args.address
    with grpc.insecure_channel(target) as channel, ThreadPoolExecutor(args.concurrency) as pool:
        stub = stubs.RouterStub(channel)
        start = time.monotonic()
        replies = list(pool.map(lambda row: ask(messages, stub, row["question"], args), rows))
        seconds = time.monotonic() - start

    asked, right, n_failed = Counter(), Counter(), 0
    for row, (text, _, why) in zip(rows, replies):
        asked[row["kind"]] += 1
        right[row["kind"]] += text == row["answer"] and not why
        n_failed += bool(why) and not why.startswith("length")
        if args.verbose and (why or text != row["answer"]):
            print(f"wrong: {row['question']!r}: {text!r}, not {row['answer']!r} {why}".rstrip())
    for kind in sorted(asked):
        print(f"{kind}: {right[kind]} of {asked[kind]}")
    share = sum(right.values()) / len(rows)
    n_tokens = sum(n for _, n, _ in replies)
    print(f"all: {share:.4f} of {len(rows)}; {n_failed} failed; {n_tokens} tokens in {seconds:.1f} s, "
          f"{n_tokens / seconds:.1f} tokens/s at concurrency {args.concurrency}")
    if n_failed:
        print("first failure:", next(why for _, _, why in replies if why and not why.startswith("length")))
    sys.exit(1 if n_failed or share < args.min else 0)


if __name__ == "__main__":
    main()
