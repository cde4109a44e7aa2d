# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that cannot be served: each is refused with the file and the tensor or key named."""

import json
import os
import shutil
import struct

import fleet
from fleet import Failure, expect, expect_equal, wait_until


def copy_model(f, name="model"):
    """A writable copy of the small model; (directory, path of its safetensors file)."""
    to = os.path.join(f.dir, name)
    os.mkdir(to)
    for entry in os.scandir(f.model):
        if entry.is_file():
            shutil.copy(entry.path, to)
    return to, os.path.join(to, "model.safetensors")


def read_header(path):
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        return n, json.loads(f.read(n))


def write_header(path, edit):
    """Rewrites the header by edit(header), data unchanged."""
    n, header = read_header(path)
    with open(path, "rb") as f:
        f.seek(8 + n)
        data = f.read()
    edit(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def refuse(f, model, *wanted, role="expert"):
    """A host on this model does not start, and says all of `wanted`."""
    f.model = model
    node = f.expert(f"h{len(f.nodes)}", "auto", start=False) if role == "expert" else f.router(f"r{len(f.nodes)}", start=False, shards="auto")
    node.start(wait=False)
    rc = node.process.wait(60)
    node.process = None
    expect(rc != 0, f"{model} was accepted")
    for w in wanted:
        expect(w in node.log(), f"{w!r} is not said:\n{node.log_tail()}")


def test_truncated_weights(case):
    with case.fleet() as f:
        model, path = copy_model(f)
        os.truncate(path, os.path.getsize(path) - 1000)
        refuse(f, model, "model.safetensors")


def test_missing_tensor(case):
    name = "model.layers.2.mlp.experts.5.up_proj.weight"
    with case.fleet() as f:
        model, path = copy_model(f)
        write_header(path, lambda h: h.update({name + "s": h.pop(name)}))
        refuse(f, model, "model.layers.2.mlp.experts.5.up_proj")


def test_wrong_shape(case):
    name = "model.layers.1.mlp.experts.0.gate_proj.weight"
    with case.fleet() as f:
        model, path = copy_model(f)

        def transpose(h):
            h[name]["shape"].reverse()

        write_header(path, transpose)
        refuse(f, model, name)


def test_unknown_key_that_changes_the_math(case):
    with case.fleet() as f:
        model, _ = copy_model(f)
        path = os.path.join(model, "config.json")
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        config["hidden_act"] = "gelu"
        with open(path, "w", encoding="utf-8") as file:
            json.dump(config, file)
        refuse(f, model, "config.json", "hidden_act", "gelu")


def test_unknown_architecture(case):
    with case.fleet() as f:
        model, _ = copy_model(f)
        path = os.path.join(model, "config.json")
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        config["model_type"] = "mystery"
        with open(path, "w", encoding="utf-8") as file:
            json.dump(config, file)
        refuse(f, model, "mystery")


def poke_nan(path, tensor):
    n, header = read_header(path)
    with open(path, "r+b") as f:
        f.seek(8 + n + header[tensor]["data_offsets"][0] + 20)
        f.write(b"\xc0\x7f")  # a bf16 NaN


def test_nan_in_an_expert(case):
    """That shard is refused with the tensor named; the process lives and serves its other shards."""
    name = "model.layers.2.mlp.experts.5.up_proj.weight"
    with case.fleet() as f:
        f.model, path = copy_model(f)
        poke_nan(path, name)
        h1 = f.expert("h1", "auto", start=False).start(wait=False)
        wait_until("the shards are listed", lambda: h1.ctl("shard", "list", check=False).returncode == 0)
        h1.wait_ready()
        failed = [s["info"] for s in h1.ctl_json("shard", "list")["shards"] if s["info"]["state"] == "failed"]
        expect_equal(len(failed), 1, "failed shards")
        expect(name in failed[0]["error"], f"the tensor is not named: {failed[0]['error']}")
        expect_equal(failed[0]["layer"], 2, "its layer")


def test_nan_in_the_trunk(case):
    name = "model.layers.0.self_attn.o_proj.weight"
    with case.fleet() as f:
        model, path = copy_model(f)
        poke_nan(path, name)
        refuse(f, model, name, role="router")


def test_peer_of_another_model(case):
    """Refused at the handshake by digest; the router does not use the host and says why."""
    with case.fleet() as f:
        low, high = f.halves()
        h1 = f.expert("h1", low)
        f.model, path = copy_model(f)
        n, header = read_header(path)
        first = min((h["data_offsets"][0], k) for k, h in header.items() if k != "__metadata__")[1]
        with open(path, "r+b") as file:
            file.seek(8 + n + header[first]["data_offsets"][0])
            file.write(b"\x00\x3f")
        h2 = f.expert("h2", high)
        f.model = fleet.TINY
        r1 = f.router("r1", [h1, h2], start=False).start(wait=False)

        def said():
            hosts = r1.ctl("--json", "host", "list", check=False)
            return hosts.returncode == 0 and any("this host holds model" in h["error"] for h in json.loads(hosts.stdout)["hosts"])

        wait_until("the host is refused by digest", said)
        try:
            r1.wait_ready(timeout=3)
        except Failure:
            pass
        else:
            raise Failure("the router became ready with a host of another model")


def test_control_characters(case):
    """What a file holds does not steer the terminal that its refusal is shown on."""
    with case.fleet() as f:
        model, _ = copy_model(f)
        path = os.path.join(model, "config.json")
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"\n\x1b[31mevil": 1, **config}, file)
        refuse(f, model, "\\x0a\\x1b[31mevil")
