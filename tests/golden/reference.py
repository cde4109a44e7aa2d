# SPDX-License-Identifier: Apache-2.0
"""DeepSeek V2 and V3 by their own rules, in float64 and with the latent (absorbed) form of attention: a second opinion on
transformers, sharing none of its code. generate.py wants both to agree before it writes a golden vector.

Rules read from deepseek-ai's inference/model.py (V3) and the modeling_deepseek.py published beside the V2 weights.
"""
import glob
import json
import math
import os

import torch
from safetensors.torch import load_file

BLOCK = 128       # fp8 scale blocks
EPS_LATENT = 1e-6  # the norms of q and kv latents take their class's default, not rms_norm_eps


def dequantize(w, scale_inv):
    """w [r, c] float8_e4m3fn, scale_inv [ceil(r/128), ceil(c/128)] -> f32: every 128 x 128 block times its scale; the last
    blocks of a row or column may be partial. Exact: 4 significant bits times f32 rounds once, as in the daemon."""
    full = scale_inv.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    return w.float() * full[: w.shape[0], : w.shape[1]]


def load_tensors(model_dir):
    """All tensors of a checkpoint as f32, fp8 ones dequantised; names as on disk."""
    raw = {}
    for path in sorted(glob.glob(os.path.join(model_dir, "*.safetensors"))):
        raw.update(load_file(path))
    out = {}
    for name, t in raw.items():
        if name.endswith("_scale_inv"):
            continue
        scale = raw.get(name + "_scale_inv")
        out[name] = t.float() if scale is None else dequantize(t, scale)
    return out


def mscale(factor, m):
    return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0


def rope_table(c, n):
    """cos, sin [n, rope/2] in float64, scaled by yarn's factor. Source: arXiv:2309.00071 as DeepSeek wrote it."""
    d, base, y = c["qk_rope_head_dim"], c["rope_theta"], c.get("rope_scaling")
    inv = base ** -(torch.arange(0, d, 2, dtype=torch.float64) / d)
    scale = 1.0
    if y:
        def turns_at(rotations):
            return d * math.log(y["original_max_position_embeddings"] / (rotations * 2 * math.pi)) / (2 * math.log(base))

        low = max(math.floor(turns_at(y["beta_fast"])), 0)
        high = min(math.ceil(turns_at(y["beta_slow"])), d - 1)
        ramp = ((torch.arange(d // 2, dtype=torch.float64) - low) / (high - low if high > low else 0.001)).clamp(0, 1)
        inv = inv / y["factor"] * ramp + inv * (1 - ramp)
        scale = mscale(y["factor"], y["mscale"]) / mscale(y["factor"], y["mscale_all_dim"])
    angle = torch.arange(n, dtype=torch.float64)[:, None] * inv
    return angle.cos() * scale, angle.sin() * scale


def rotate(x, cos, sin):
    """Pairs (2i, 2i+1) of the last axis, interleaved as checkpoints have them. x [n, heads, rope]."""
    a, b = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


def rmsnorm(x, w, eps):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * w


def swiglu(x, t, prefix):
    g = x @ t[prefix + "gate_proj.weight"].T
    return (g * torch.sigmoid(g) * (x @ t[prefix + "up_proj.weight"].T)) @ t[prefix + "down_proj.weight"].T


def moe_gate(c, logits, bias):
    """logits [n, E] float64 -> ids [n, k], weights [n, k], margin: the least distance of a choice (of group or expert) from
    the next best over the rows. The rules of modeling_deepseek.py and inference/model.py."""
    n, n_experts = logits.shape
    k, v3 = c["num_experts_per_tok"], c["model_type"] == "deepseek_v3"
    scores = torch.sigmoid(logits) if v3 else torch.softmax(logits, -1)
    choice = scores + bias if v3 else scores
    margin = math.inf
    if c["topk_method"] != "greedy" and c["topk_group"] < c["n_group"]:
        groups = choice.view(n, c["n_group"], -1)
        rank = groups.topk(2, -1).values.sum(-1) if v3 else groups.max(-1).values
        best = rank.sort(-1, descending=True)
        margin = (best.values[:, c["topk_group"] - 1] - best.values[:, c["topk_group"]]).min().item()
        keep = torch.zeros_like(rank).scatter(1, best.indices[:, : c["topk_group"]], 1).bool()
        keep = keep.repeat_interleave(n_experts // c["n_group"], 1)
        # V3 masks with -inf: with 0.0 an expert of a dropped group would win over a kept one whose biased score is negative
        choice = choice.masked_fill(~keep, -math.inf if v3 else 0.0)
    best = choice.sort(-1, descending=True)
    margin = min(margin, (best.values[:, k - 1] - best.values[:, k]).min().item())
    ids = best.indices[:, :k]
    weights = scores.gather(1, ids)
    if c["norm_topk_prob"] and k > 1:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        if v3:
            weights = weights * c["routed_scaling_factor"]
    else:
        weights = weights * c["routed_scaling_factor"]
    return ids, weights, margin


def is_moe(c, layer):
    return layer >= c["first_k_dense_replace"] and layer % c.get("moe_layer_freq", 1) == 0


class Reference:
    """One forward pass over a whole sequence; .margin is the least gate margin seen, .routed False leaves the routed experts out."""

    def __init__(self, config, tensors):
        self.c, self.t = config, {name: x.double() for name, x in tensors.items()}
        self.margin, self.routed = math.inf, True

    def attention(self, x, layer, cos, sin):
        c, p = self.c, "model.layers.%d.self_attn." % layer
        n, heads, nope, rope, rank = len(x), c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["kv_lora_rank"]
        if c["q_lora_rank"]:
            q = rmsnorm(x @ self.t[p + "q_a_proj.weight"].T, self.t[p + "q_a_layernorm.weight"], EPS_LATENT)
            q = q @ self.t[p + "q_b_proj.weight"].T
        else:
            q = x @ self.t[p + "q_proj.weight"].T
        q_nope, q_rope = q.view(n, heads, nope + rope).split([nope, rope], -1)
        latent, k_rope = (x @ self.t[p + "kv_a_proj_with_mqa.weight"].T).split([rank, rope], -1)
        latent = rmsnorm(latent, self.t[p + "kv_a_layernorm.weight"], EPS_LATENT)
        k_rope = rotate(k_rope[:, None], cos, sin)[:, 0]
        w_uk, w_uv = self.t[p + "kv_b_proj.weight"].view(heads, nope + c["v_head_dim"], rank).split([nope, c["v_head_dim"]], 1)
        q_latent = torch.einsum("nhd,hdr->nhr", q_nope, w_uk)
        score = torch.einsum("nhr,mr->hnm", q_latent, latent) + torch.einsum("nhd,md->hnm", rotate(q_rope, cos, sin), k_rope)
        scale = (nope + rope) ** -0.5
        if c.get("rope_scaling") and c["rope_scaling"]["mscale_all_dim"]:
            scale *= mscale(c["rope_scaling"]["factor"], c["rope_scaling"]["mscale_all_dim"]) ** 2
        causal = torch.full((n, n), -math.inf, dtype=torch.float64).triu(1)
        out = torch.einsum("hnm,mr->nhr", torch.softmax(score * scale + causal, -1), latent)
        return torch.einsum("nhr,hdr->nhd", out, w_uv).flatten(1) @ self.t[p + "o_proj.weight"].T

    def ffn(self, x, layer):
        c, p = self.c, "model.layers.%d.mlp." % layer
        if not is_moe(c, layer):
            return swiglu(x, self.t, p)
        ids, weights, margin = moe_gate(c, x @ self.t[p + "gate.weight"].T, self.t.get(p + "gate.e_score_correction_bias"))
        self.margin = min(self.margin, margin)
        y = swiglu(x, self.t, p + "shared_experts.") if c["n_shared_experts"] else torch.zeros_like(x)
        if self.routed:
            for e in range(c["n_routed_experts"]):
                row, slot = torch.where(ids == e)
                y[row] += weights[row, slot, None] * swiglu(x[row], self.t, p + "experts.%d." % e)
        return y

    def forward(self, ids):
        """ids [n] -> logits [n, vocab] float64."""
        c, t = self.c, self.t
        cos, sin = rope_table(c, len(ids))
        x = t["model.embed_tokens.weight"][torch.as_tensor(ids)]
        for i in range(c["num_hidden_layers"]):
            p = "model.layers.%d." % i
            x = x + self.attention(rmsnorm(x, t[p + "input_layernorm.weight"], c["rms_norm_eps"]), i, cos, sin)
            x = x + self.ffn(rmsnorm(x, t[p + "post_attention_layernorm.weight"], c["rms_norm_eps"]), i)
        x = rmsnorm(x, t["model.norm.weight"], c["rms_norm_eps"])
        return x @ t["model.embed_tokens.weight" if c["tie_word_embeddings"] else "lm_head.weight"].T


def load(model_dir):
    with open(os.path.join(model_dir, "config.json"), encoding="utf-8") as f:
        return json.load(f), load_tensors(model_dir)
