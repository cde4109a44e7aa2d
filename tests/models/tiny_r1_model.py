# SPDX-License-Identifier: Apache-2.0
"""tiny-r1's network for training: DeepSeek-V3's block (MLA, sigmoid gate with groups, shared expert) in plain PyTorch.

The forward pass computes what transformers' DeepseekV3ForCausalLM computes from the saved checkpoint, in a form
that trains fast on a CPU: bf16 matrix products, batched over the experts. Master weights are f32;
every use rounds them to bf16, so what is trained is what is stored.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "torch_dtype": "bfloat16",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 7,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 64,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "n_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "rope_interleave": True,
    "max_position_embeddings": 512,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.06,
    "tie_word_embeddings": False,
    "use_cache": True,
    "num_nextn_predict_layers": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


PRODUCT = torch.bfloat16        # the type of matrix products; a comparison with f32 code sets torch.float32


def stored(p):
    """The value that p has once stored, rounded to bf16, as PRODUCT. Gradients pass straight to the f32 master."""
    return p.to(torch.bfloat16).to(PRODUCT)


def linear(x, weight):
    return F.linear(x.to(PRODUCT), stored(weight))


def rms_norm(x, weight, eps):
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * stored(weight).float()


def rotate(x, cos, sin):
    """RoPE on interleaved pairs (2i, 2i+1). x: [..., n, d]; cos, sin: [n, d/2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        heads, qk = c["num_attention_heads"], c["qk_nope_head_dim"] + c["qk_rope_head_dim"]
        new = lambda *shape: nn.Parameter(torch.empty(*shape))
        self.q_a_proj = new(c["q_lora_rank"], c["hidden_size"])
        self.q_a_layernorm = new(c["q_lora_rank"])
        self.q_b_proj = new(heads * qk, c["q_lora_rank"])
        self.kv_a_proj_with_mqa = new(c["kv_lora_rank"] + c["qk_rope_head_dim"], c["hidden_size"])
        self.kv_a_layernorm = new(c["kv_lora_rank"])
        self.kv_b_proj = new(heads * (c["qk_nope_head_dim"] + c["v_head_dim"]), c["kv_lora_rank"])
        self.o_proj = new(c["hidden_size"], heads * c["v_head_dim"])
        n_max = c["max_position_embeddings"]
        self.register_buffer("future", torch.full((n_max, n_max), float("-inf"), dtype=torch.bfloat16).triu(1),
                             persistent=False)

    def forward(self, x, cos, sin):
        c, (batch, n, _) = self.c, x.shape
        heads, nope, rope, v = (c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"],
                                c["v_head_dim"])
        q = rms_norm(linear(x, self.q_a_proj), self.q_a_layernorm, 1e-6)
        q = linear(q, self.q_b_proj).view(batch, n, heads, nope + rope).transpose(1, 2)
        q_nope, q_rope = q.split([nope, rope], -1)
        kv, k_rope = linear(x, self.kv_a_proj_with_mqa).split([c["kv_lora_rank"], rope], -1)
        kv = linear(rms_norm(kv, self.kv_a_layernorm, 1e-6), self.kv_b_proj)
        k_nope, value = kv.view(batch, n, heads, nope + v).transpose(1, 2).split([nope, v], -1)
        q_rope = rotate(q_rope.float(), cos, sin).to(q.dtype)
        k_rope = rotate(k_rope.float(), cos, sin).to(q.dtype)[:, None].expand(-1, heads, -1, -1)
        score = torch.cat((q_nope, q_rope), -1) @ torch.cat((k_nope, k_rope), -1).transpose(-1, -2)
        score = score * (nope + rope) ** -0.5 + self.future[:n, :n]
        return linear((score.softmax(-1) @ value).transpose(1, 2).reshape(batch, n, heads * v), self.o_proj)


class Mlp(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.gate_proj = nn.Parameter(torch.empty(inner, hidden))
        self.up_proj = nn.Parameter(torch.empty(inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(hidden, inner))

    def forward(self, x):
        return linear(F.silu(linear(x, self.gate_proj)) * linear(x, self.up_proj), self.down_proj)


class Gate(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.weight = nn.Parameter(torch.empty(c["n_routed_experts"], c["hidden_size"]))
        self.register_buffer("e_score_correction_bias", torch.zeros(c["n_routed_experts"]))

    def forward(self, x):
        """x: [t, hidden] f32 -> chosen experts [t, top_k], their weights [t, top_k], sigmoid scores [t, experts]."""
        c = self.c
        scores = F.linear(x, stored(self.weight).float()).sigmoid()
        with torch.no_grad():
            grouped = (scores + self.e_score_correction_bias).view(len(x), c["n_group"], -1)
            group_score = grouped.topk(2, -1)[0].sum(-1)
            kept = torch.zeros_like(group_score).scatter_(1, group_score.topk(c["topk_group"], -1)[1], 1.0)
            choice = grouped.masked_fill(kept[..., None] == 0, float("-inf")).flatten(1)
            chosen = choice.topk(c["num_experts_per_tok"], -1)[1]
        weights = scores.gather(1, chosen)
        if c["norm_topk_prob"]:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return chosen, weights * c["routed_scaling_factor"], scores


class Routed(torch.autograd.Function):
    """The chosen experts' weighted sum. Rows are laid out [expert, slot], each expert padded to the same number of
    slots, so that all experts are one batched product; a row of padding repeats token 0 and has weight 0."""

    @staticmethod
    def forward(ctx, x, chosen, weights, gate_up, down):
        """x: [t, h]; chosen, weights: [t, k]; gate_up: [e, 2i, h], down: [e, h, i] -> [t, h]. All but the second
        and third of type PRODUCT."""
        t, k = chosen.shape
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        load = torch.bincount(flat, minlength=len(down))
        room = -(-int(load.max()) // 128) * 128                    # few shapes: each new one costs a kernel set-up
        slot = torch.empty_like(order)
        slot[order] = torch.arange(t * k) + (torch.arange(len(down)) * room - (load.cumsum(0) - load))[flat[order]]
        token = torch.zeros(len(down) * room, dtype=torch.long)
        token[slot] = torch.arange(t * k) // k
        weight = x.new_zeros(len(down) * room, 1)
        weight[slot, 0] = weights.flatten().to(x.dtype)
        rows = x.index_select(0, token).view(len(down), room, -1)
        both = torch.bmm(rows, gate_up.transpose(1, 2))
        gate, up = both.chunk(2, -1)
        inner = F.silu(gate) * up
        outs = torch.bmm(inner, down.transpose(1, 2)).flatten(0, 1).index_select(0, slot).view(t, k, -1)
        ctx.save_for_backward(rows, both, inner, outs, weights, weight, gate_up, down, token, slot)
        return (outs * weights.to(outs.dtype)[..., None]).sum(1)

    @staticmethod
    def backward(ctx, grad):
        rows, both, inner, outs, weights, weight, gate_up, down, token, slot = ctx.saved_tensors
        t, k = weights.shape
        grad = grad.contiguous()
        d_weights = torch.bmm(outs, grad[..., None])[..., 0].float()
        d_outs = (grad.index_select(0, token) * weight).view(rows.shape)
        d_inner = torch.bmm(d_outs, down)
        d_down = torch.bmm(d_outs.transpose(1, 2), inner)
        gate, up = both.chunk(2, -1)
        d_both = torch.cat((torch.ops.aten.silu_backward(d_inner * up, gate), d_inner * F.silu(gate)), -1)
        d_gate_up = torch.bmm(d_both.transpose(1, 2), rows)
        d_x = torch.bmm(d_both, gate_up).flatten(0, 1).index_select(0, slot).view(t, k, -1).sum(1)
        return d_x, None, d_weights, d_gate_up, d_down


class Moe(nn.Module):
    def __init__(self, c):
        super().__init__()
        n, hidden, inner = c["n_routed_experts"], c["hidden_size"], c["moe_intermediate_size"]
        self.gate = Gate(c)
        self.gate_up = nn.Parameter(torch.empty(n, 2 * inner, hidden))      # rows: gate_proj, then up_proj
        self.down = nn.Parameter(torch.empty(n, hidden, inner))
        self.shared_experts = Mlp(hidden, inner * c["n_shared_experts"])

    def forward(self, x):
        """-> output, chosen [t, top_k], scores [t, experts]"""
        flat = x.reshape(-1, x.shape[-1])
        chosen, weights, scores = self.gate(flat)
        out = Routed.apply(flat.to(PRODUCT), chosen, weights, stored(self.gate_up), stored(self.down))
        return out.view(x.shape) + self.shared_experts(x), chosen, scores


class Layer(nn.Module):
    def __init__(self, c, index):
        super().__init__()
        self.eps = c["rms_norm_eps"]
        self.input_layernorm = nn.Parameter(torch.empty(c["hidden_size"]))
        self.self_attn = Attention(c)
        self.post_attention_layernorm = nn.Parameter(torch.empty(c["hidden_size"]))
        self.is_moe = index >= c["first_k_dense_replace"]
        self.mlp = Moe(c) if self.is_moe else Mlp(c["hidden_size"], c["intermediate_size"])

    def forward(self, x, cos, sin):
        x = x + self.self_attn(rms_norm(x, self.input_layernorm, self.eps), cos, sin)
        normed = rms_norm(x, self.post_attention_layernorm, self.eps)
        if self.is_moe:
            out, chosen, scores = self.mlp(normed)
            return x + out, chosen, scores
        return x + self.mlp(normed), None, None


class TinyR1(nn.Module):
    def __init__(self, c=CONFIG):
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Parameter(torch.empty(c["vocab_size"], c["hidden_size"]))
        self.layers = nn.ModuleList(Layer(c, i) for i in range(c["num_hidden_layers"]))
        self.norm = nn.Parameter(torch.empty(c["hidden_size"]))
        self.lm_head = nn.Parameter(torch.empty(c["vocab_size"], c["hidden_size"]))
        rope = c["qk_rope_head_dim"]
        angle = torch.outer(torch.arange(c["max_position_embeddings"]).float(),
                            1.0 / c["rope_theta"] ** (torch.arange(0, rope, 2).float() / rope))
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        self.reset()

    def reset(self):
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p.dim() == 1:
                    p.fill_(1.0)
                else:
                    out = name.endswith(("o_proj", "down_proj", ".down"))
                    std = self.c["initializer_range"]
                    p.normal_(0.0, std / (2 * len(self.layers)) ** 0.5 if out else std)

    def forward(self, ids, at=None):
        """ids: [batch, n] -> logits f32 and, for each MoE layer, (chosen, scores).
        at: None for logits [batch, n, vocab], or a mask [batch, n] for logits [at.sum(), vocab]."""
        x = F.embedding(ids, stored(self.embed_tokens)).float()
        cos, sin = self.cos[:ids.shape[1]], self.sin[:ids.shape[1]]
        routed = []
        for layer in self.layers:
            x, chosen, scores = layer(x, cos, sin)
            if layer.is_moe:
                routed.append((chosen, scores))
        x = rms_norm(x if at is None else x[at], self.norm, self.c["rms_norm_eps"])
        return linear(x, self.lm_head).float(), routed


@torch.no_grad()
def greedy(model, prompts, eos, n_max=112):
    """Completes each prompt (a list of ids) without a cache; returns the lists of new ids, eos not included."""
    lengths = torch.tensor([len(p) for p in prompts])
    ids = torch.full((len(prompts), int(lengths.max()) + n_max), eos)
    for row, p in enumerate(prompts):
        ids[row, :len(p)] = torch.tensor(p)
    rows, at, alive = torch.arange(len(prompts)), lengths.clone(), torch.ones(len(prompts), dtype=torch.bool)
    for _ in range(n_max):
        width = min(-(-int(at.max()) // 16) * 16, ids.shape[1])          # few shapes, as in Routed
        mask = torch.zeros(len(prompts), width, dtype=torch.bool)
        mask[rows, at - 1] = True
        token = model(ids[:, :width], mask)[0].argmax(-1)
        token[~alive] = eos
        ids[rows, at] = token
        alive &= token != eos
        at += alive.long()
        if not alive.any():
            break
    return [ids[r, lengths[r]:at[r]].tolist() for r in range(len(prompts))]


def checkpoint(model):
    """The state as Hugging Face names it on disk: one tensor for each expert's projection, bf16, gate bias f32."""
    out = {}
    for name, p in list(model.named_parameters()) + list(model.named_buffers()):
        p = p.detach()
        head = "" if name == "lm_head" else "model."
        if name.endswith(("cos", "sin", "future")):
            continue
        if name.endswith("e_score_correction_bias"):
            out[head + name] = p.float().clone()
        elif name.endswith((".gate_up", ".down")):
            prefix, which = name.rsplit(".", 1)
            for e, expert in enumerate(p.to(torch.bfloat16)):
                parts = zip(("gate_proj", "up_proj"), expert.chunk(2)) if which == "gate_up" else [("down_proj", expert)]
                for proj, part in parts:
                    out[f"model.{prefix}.experts.{e}.{proj}.weight"] = part.clone()
        else:
            out[head + name.removesuffix(".weight") + ".weight"] = p.to(torch.bfloat16).clone()
    return out


def save(model, out):
    out = Path(out)
    save_file(checkpoint(model), str(out / "model.safetensors"), metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    (out / "config.json").write_text(json.dumps(model.c, indent=2) + "\n")
    generation = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "do_sample": False, "max_new_tokens": 128}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
