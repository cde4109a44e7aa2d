#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the golden vectors: what transformers computes in float32 for small models of every shape that expertd knows.

generate.py --synth PROGRAM            writes <name>.golden for every row of MODELS below
generate.py --synth PROGRAM --check    recomputes the committed ones from their token ids and compares (exit 1: they differ)
  --only NAME ...                      some of them; --out DIR: where .golden files are (default: beside this file)

Weights are not kept: PROGRAM CONFIG DTYPE SEED DIR (tests/golden/synth of the build) makes them again, bit for bit.
Before a vector is written, three things are asked of it: an independent forward pass (reference.py, float64) agrees; no choice of the
gate and no greedy token is so near a tie that rounding could flip it; and without the routed experts the logits would be far off.

gate.vectors holds the gate alone, of the published shapes and with biases far below zero, which no random model here has: see gate_vectors().

A .golden file, little-endian: 8 bytes "EXGOLD1\\n"; u32 dtype (enum expertd_dtype; 0: weights as they lie), seed, n_ids, n_greedy, vocab;
u32 ids[n_ids]; u32 greedy[n_greedy], what follows them; f32 logits[n_ids][vocab], row i after ids[0..i].
"""
import argparse
import os
import random
import struct
import subprocess
import sys
import tempfile
import types

import numpy as np
import torch
import transformers
from transformers.models.deepseek_v2 import modeling_deepseek_v2 as v2
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as v3

import reference

HERE = os.path.dirname(os.path.abspath(__file__))
DTYPES = {"f32": 1, "bf16": 2, "f16": 3, "f8e4m3": 4}
# name (configs/<name>.json), dtype of the matrices, seed
MODELS = [
    ("v2-lite", "f32", 1),
    ("v2-group", "bf16", 2),
    ("v2-yarn", "f16", 3),
    ("v2-freq", "f32", 4),
    ("v2-norm", "f32", 5),
    ("v3", "f32", 6),
    ("v3-yarn", "bf16", 7),
    ("v3-fp8", "f8e4m3", 8),
    ("v3-dense2", "f32", 9),
]
# the gate alone: V3?, experts, top k, groups, top groups, norm_topk_prob, routed_scaling_factor
GATES = [
    (False, 64, 6, 1, 1, False, 1.0),
    (False, 160, 6, 8, 3, False, 16.0),
    (False, 24, 4, 4, 2, True, 16.0),
    (True, 256, 8, 8, 4, True, 2.5),
    (True, 16, 8, 4, 2, True, 2.5),  # all experts of the groups kept: those with a negative biased score too
    (True, 20, 5, 1, 1, False, 1.25),
]
GATE_ROWS = 24
TRAINED = ["tiny-r1"]  # tests/models/<name>: weights as they lie
N_IDS, N_GREEDY = 80, 32
GATE_MARGIN_MIN = 2e-5     # of scores in 0..1; f32 rounding moves a score by about 1e-6
GREEDY_MARGIN_MIN = 1e-3   # of max |logit|; five times the tolerance of the comparison
REFERENCE_DIFF_MAX = 1e-5  # of max |logit|: transformers in f32 against float64
ROUTED_EFFECT_MIN = 1e-2   # of max |logit|
CHECK_DIFF_MAX = 1e-5      # of max |logit|: another processor's f32 sums in another order
ATTEMPTS_MAX = 200
TRAINED_TURNS = (("Combien font 805 - 264 ?", "541"), ("123加456等于多少?", "579"), ("88-9", "79"),
                 ("Please add 358 and 174.", "532"), ("731减542等于多少?", "189"))
TRAINED_QUESTION = "What is %d + 589?"


def ratio(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


# --- transformers --------------------------------------------------------------------------------------------------------
class NormedV2Router(v2.DeepseekV2TopkRouter):
    """transformers 5.23 always scales by routed_scaling_factor and never reads norm_topk_prob. The published V2 code normalises
    when norm_topk_prob and top_k > 1, and scales only otherwise."""

    def forward(self, hidden_states):
        logits, weights, ids = super().forward(hidden_states)
        weights = weights / self.routed_scaling_factor
        return logits, weights / (weights.sum(-1, keepdim=True) + 1e-20), ids


def fuse_experts(tensors, config):
    """transformers 5 keeps the experts of a layer in one tensor, gate above up; checkpoints keep them apart."""
    out = {n: t for n, t in tensors.items() if ".mlp.experts." not in n}
    for layer in range(config["num_hidden_layers"]):
        p = "model.layers.%d.mlp.experts." % layer
        if p + "0.gate_proj.weight" not in tensors:
            continue
        get = lambda e, which: tensors["%s%d.%s_proj.weight" % (p, e, which)]  # noqa: E731
        n = range(config["n_routed_experts"])
        out[p + "gate_up_proj"] = torch.stack([torch.cat((get(e, "gate"), get(e, "up"))) for e in n])
        out[p + "down_proj"] = torch.stack([get(e, "down") for e in n])
    return out


def build_model(config, tensors):
    """The model of transformers in float32, eager attention and experts, every tensor loaded by its exact name."""
    lib, prefix = (v2, "DeepseekV2") if config["model_type"] == "deepseek_v2" else (v3, "DeepseekV3")
    keys = {k: x for k, x in config.items() if k not in ("quantization_config", "torch_dtype", "dtype", "architectures")}
    hf = getattr(transformers, prefix + "Config")(**keys)
    hf._attn_implementation = hf._experts_implementation = "eager"
    model = getattr(lib, prefix + "ForCausalLM")(hf).float().eval()
    for i, layer in enumerate(model.model.layers):
        if not reference.is_moe(config, i) and i >= config["first_k_dense_replace"]:
            # transformers does not read moe_layer_freq: it would make every layer after the dense ones a MoE layer
            layer.mlp = getattr(lib, prefix + "MLP")(hf).float().eval()
        elif lib is v2 and reference.is_moe(config, i) and config["norm_topk_prob"] and config["num_experts_per_tok"] > 1:
            layer.mlp.gate.__class__ = NormedV2Router
    state = fuse_experts(tensors, config)
    if config["tie_word_embeddings"]:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    return model


@torch.no_grad()
def run_model(model, ids, n_greedy):
    """logits [n, vocab] of the prompt, the greedy continuation, and its least margin over max |logit|."""
    out = model(torch.tensor([ids]), use_cache=True)
    logits, greedy, margin = out.logits[0], [], 1.0
    last, cache = logits[-1], out.past_key_values
    for _ in range(n_greedy):
        top = last.topk(2)
        margin = min(margin, ((top.values[0] - top.values[1]) / last.abs().max()).item())
        greedy.append(top.indices[0].item())
        out = model(torch.tensor([greedy[-1:]]), past_key_values=cache, use_cache=True)
        last = out.logits[0, -1]
    return logits, greedy, margin


# --- the gate alone ------------------------------------------------------------------------------------------------------
def gate_case(is_v3, n_experts, k, n_group, topk_group, norm, scale):
    """One row of GATES through transformers' router, its weight the identity so that rows are logits; choices not near a tie."""
    method = "noaux_tc" if is_v3 else "group_limited_greedy" if n_group > 1 else "greedy"
    c = types.SimpleNamespace(num_experts_per_tok=k, num_experts=n_experts, num_local_experts=n_experts, hidden_size=n_experts,
                              n_group=n_group, topk_group=topk_group, topk_method=method, norm_topk_prob=norm, routed_scaling_factor=scale)
    router = v3.DeepseekV3TopkRouter(c) if is_v3 else NormedV2Router(c) if norm else v2.DeepseekV2TopkRouter(c)
    rules = dict(vars(c), model_type="deepseek_v3" if is_v3 else "deepseek_v2")
    draw = torch.Generator().manual_seed(n_experts)
    bias = torch.randn(n_experts, generator=draw) * 0.5
    margin = 0
    while margin < GATE_MARGIN_MIN:
        logits = torch.randn(GATE_ROWS, n_experts, generator=draw) * 2
        want_ids, want, margin = reference.moe_gate(rules, logits.double(), bias.double())
    router.weight.data = torch.eye(n_experts)
    if is_v3:
        router.e_score_correction_bias.data = bias
    _, weights, ids = router(logits)
    ids, order = ids.sort(-1)
    weights = weights.detach().gather(1, order)
    want_ids, order = want_ids.sort(-1)
    if not torch.equal(ids, want_ids) or ratio(weights.double(), want.gather(1, order)) > REFERENCE_DIFF_MAX:
        raise SystemExit("transformers and reference.py disagree on gate %s" % (c,))
    methods = {"greedy": 1, "group_limited_greedy": 2, "noaux_tc": 3}
    return struct.pack("<8If", GATE_ROWS, n_experts, k, n_group, topk_group, methods[method], 2 if is_v3 else 1, norm, scale) + b"".join(
        t.numpy().astype(d).tobytes() for t, d in ((logits, "<f4"), (bias, "<f4"), (ids, "<u4"), (weights, "<f4")))


def gate_vectors():
    """8 bytes "EXGATE1\\n", u32 number of cases; each: u32 n, E, k, n_group, topk_group, method, score (enums of model/config.h), norm; f32 scale;
    f32 logits[n][E], bias[E] (of no meaning where the method takes none); u32 ids[n][k] ascending; f32 weights[n][k]."""
    return b"EXGATE1\n" + struct.pack("<I", len(GATES)) + b"".join(gate_case(*g) for g in GATES)


def check_gates(path):
    with open(path, "rb") as f:
        was = np.frombuffer(f.read(), np.uint8)
    now = np.frombuffer(gate_vectors(), np.uint8)
    # Words differ by rounding at most: as integers, floats of one sign lie as close as their values
    same = len(was) == len(now) and (np.abs(was[8:].view("<i4").astype(np.int64) - now[8:].view("<i4")) <= 64).all()
    print("gate       %s" % ("within 64 units in the last place" if same else "FAILED: differs"))
    return bool(same)


# --- one vector --------------------------------------------------------------------------------------------------------------
def judge(config, tensors, ids, logits, greedy, margin):
    """Figures of one candidate, and why it is not fit (None: fit). A disagreement with the reference is an error, not a misfit."""
    ref = reference.Reference(config, tensors)
    whole = ref.forward(ids + greedy)
    diff, gate = ratio(logits.double(), whole[: len(ids)]), ref.margin
    ref.routed = False
    effect = ratio(ref.forward(ids), whole[: len(ids)])
    figures = "%d tokens, reference %.1e, gate margin %.1e, greedy margin %.1e, without routed experts %.1e" % (len(ids), diff, gate, margin, effect)
    if gate < GATE_MARGIN_MIN or margin < GREEDY_MARGIN_MIN:
        return figures, "too near a tie"
    if diff > REFERENCE_DIFF_MAX or effect < ROUTED_EFFECT_MIN:
        raise SystemExit("transformers and reference.py disagree, or the experts do not count: " + figures)
    return figures, None


def trained_ids(model_dir, attempt):
    """A conversation of some 90 tokens in the model's own chat format; the attempt changes the last question."""
    from transformers import PreTrainedTokenizerFast

    turns = [m for q, a in TRAINED_TURNS for m in ({"role": "user", "content": q}, {"role": "assistant", "content": a})]
    turns.append({"role": "user", "content": TRAINED_QUESTION % (347 + attempt)})
    tok = PreTrainedTokenizerFast.from_pretrained(model_dir)
    text = tok.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return tok(text, add_special_tokens=False)["input_ids"]


def make(name, dtype, seed, model_dir):
    config, tensors = reference.load(model_dir)
    model = build_model(config, tensors)
    for attempt in range(ATTEMPTS_MAX):
        draw = random.Random("%s/%d" % (name, attempt))
        ids = trained_ids(model_dir, attempt) if dtype == 0 else [draw.randrange(config["vocab_size"]) for _ in range(N_IDS)]
        logits, greedy, margin = run_model(model, ids, N_GREEDY)
        figures, misfit = judge(config, tensors, ids, logits, greedy, margin)
        if not misfit:
            print("%-10s %s (attempt %d)" % (name, figures, attempt + 1))
            return struct.pack("<8s5I", b"EXGOLD1\n", dtype, seed, len(ids), len(greedy), config["vocab_size"]) + \
                np.array(ids + greedy, "<u4").tobytes() + logits.numpy().astype("<f4").tobytes()
    raise SystemExit("%s: no sequence of %d is far enough from ties (last: %s)" % (name, ATTEMPTS_MAX, figures))


def parse(data):
    """bytes of a .golden -> dtype, seed, ids, greedy, logits"""
    magic, dtype, seed, n_ids, n_greedy, vocab = struct.unpack_from("<8s5I", data)
    if magic != b"EXGOLD1\n" or len(data) != 28 + 4 * (n_ids + n_greedy + n_ids * vocab):
        raise SystemExit("not a golden file, or a truncated one")
    tokens = np.frombuffer(data, "<u4", n_ids + n_greedy, 28).tolist()
    logits = np.frombuffer(data, "<f4", n_ids * vocab, 28 + 4 * len(tokens)).reshape(n_ids, vocab)
    return dtype, seed, tokens[:n_ids], tokens[n_ids:], torch.from_numpy(logits.copy())


def check(name, dtype, seed, model_dir, path):
    """Recomputes a committed vector; returns whether it still holds."""
    with open(path, "rb") as f:
        was = parse(f.read())
    if was[:2] != (dtype, seed):
        print("%-10s FAILED: made with dtype %d, seed %d; the table says %d, %d" % (name, was[0], was[1], dtype, seed))
        return False
    logits, greedy, _ = run_model(build_model(*reference.load(model_dir)), was[2], len(was[3]))
    diff, same = ratio(logits, was[4]), greedy == was[3]
    print("%-10s max difference %.1e of max |logit|, greedy continuation %s" % (name, diff, "identical" if same else "DIFFERS"))
    return same and diff <= CHECK_DIFF_MAX


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--synth", required=True, help="the program that makes random weights")
    p.add_argument("--check", action="store_true")
    p.add_argument("--only", nargs="*", default=[])
    p.add_argument("--out", default=HERE)
    args = p.parse_args()
    torch.set_num_threads(1)
    print("transformers %s, torch %s, float32 on one CPU thread" % (transformers.__version__, torch.__version__))
    models = MODELS + [(n, None, 0) for n in TRAINED if os.path.exists(os.path.join(HERE, "../models", n, "config.json"))]
    held, gates = True, os.path.join(args.out, "gate.vectors")
    if args.check and not args.only:
        held = check_gates(gates)
    elif not args.only:
        with open(gates, "wb") as f:
            f.write(gate_vectors())
    for name, dtype, seed in models:
        if args.only and name not in args.only:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            model_dir = os.path.join(HERE, "../models", name)
            if dtype:
                model_dir = os.path.join(scratch, name)
                subprocess.run([args.synth, os.path.join(HERE, "configs", name + ".json"), dtype, str(seed), model_dir], check=True)
            path = os.path.join(args.out, name + ".golden")
            if args.check:
                held &= check(name, DTYPES.get(dtype, 0), seed, model_dir, path)
                continue
            data = make(name, DTYPES.get(dtype, 0), seed, model_dir)
            with open(path, "wb") as f:
                f.write(data)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
