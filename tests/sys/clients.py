# SPDX-License-Identifier: Apache-2.0
"""A third-party gRPC client (grpcio) for tests, with messages compiled from the project's own proto files."""

import importlib
import os
import sys

from fleet import TOP, Skip


def grpc_modules(case, name="router"):
    """(grpc, messages, stubs) of proto/expertd/NAME.proto; skips the test where grpcio is not installed."""
    try:
        import grpc
        from grpc_tools import protoc
    except ImportError as e:
        raise Skip(f"{e.name} is not installed (tests/requirements.txt)") from None
    out = os.path.join(case.dir, "proto")
    os.makedirs(out, exist_ok=True)
    protos = os.path.join(TOP, "proto")
    argv = ["protoc", f"-I{protos}", f"--python_out={out}", f"--grpc_python_out={out}"]
    if protoc.main([*argv, f"expertd/{name}.proto", "expertd/experts.proto"]) != 0:
        raise RuntimeError("protoc failed")
    if out not in sys.path:
        sys.path.insert(0, out)
    for module in [m for m in sys.modules if m == "expertd" or m.startswith("expertd.")]:
        del sys.modules[module]
    return grpc, importlib.import_module(f"expertd.{name}_pb2"), importlib.import_module(f"expertd.{name}_pb2_grpc")
