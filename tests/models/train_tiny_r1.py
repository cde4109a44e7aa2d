# SPDX-License-Identifier: Apache-2.0
"""Trains tiny-r1 on a CPU and writes it as a Hugging Face checkpoint.

    python tests/models/train_tiny_r1.py --out DIR [--minutes 70] [--threads 2] [--seed 1] [--start DIR | --resume]

The learning rate warms up, then falls as a cosine to nothing over --minutes of wall time (or --steps).
Balance of the experts: the gate's bias moves by --bias-rate against the load of the last step, as in DeepSeek-V3
(arXiv:2412.19437), plus that paper's small per-sequence loss. DIR gets model.safetensors, config.json,
generation_config.json, tokenizer.json, tokenizer_config.json, eval.jsonl and loss.csv; DIR/state.pt, which
--resume reads, is rewritten with the rest every --save-minutes.
"""

import argparse
import ctypes
import json
import math
import os
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import tiny_r1_data as data
import tiny_r1_model as net
import tiny_r1_tokenizer as tok

IGNORED = -100


def batch_of(tokenizer, sampler, size, step):
    """ids and labels, both [batch, n]; labels are IGNORED in the prompt and the padding.
    One batch in 8 has up to two earlier turns, and one in 24 up to twenty, in fewer rows."""
    rng, most = sampler.rng, 0
    if step % 24 == 23:
        size, most = size // 4, 20
    elif step % 8 == 7:
        most = 2
    texts = [sampler.example(rng.randint(0, most), most > 0 and rng.random() < 0.3) for _ in range(size)]
    prompts = [e.ids for e in tokenizer.encode_batch([p for p, _ in texts])]
    answers = [e.ids for e in tokenizer.encode_batch([a for _, a in texts])]
    width = -(-max(len(p) + len(a) for p, a in zip(prompts, answers)) // 4) * 4
    assert width <= net.CONFIG["max_position_embeddings"]
    ids = torch.full((size, width), net.CONFIG["pad_token_id"])
    labels = torch.full((size, width), IGNORED)
    for row, (p, a) in enumerate(zip(prompts, answers)):
        ids[row, :len(p) + len(a)] = torch.tensor(p + a)
        labels[row, len(p) - 1:len(p) + len(a) - 1] = torch.tensor(a)
    return ids, labels


def balance_loss(routed, real):
    """DeepSeek-V3's sequence-wise balance loss, summed over layers. real: [batch, n], not padding."""
    batch, n = real.shape
    real = real[..., None].float()
    total = 0.0
    for chosen, scores in routed:
        experts = scores.shape[-1]
        used = torch.zeros_like(scores).scatter_(1, chosen, 1.0).view(batch, n, experts)
        share = (scores / scores.sum(-1, keepdim=True)).view(batch, n, experts)
        count = real.sum(1)
        frequency = (used * real).sum(1) / count * experts / net.CONFIG["num_experts_per_tok"]
        total = total + (frequency * (share * real).sum(1) / count).sum(-1).mean()
    return total


def move_biases(model, routed, real, rate):
    """Moves each gate's bias one step against this batch's load; returns the worst max/mean load of the layers."""
    worst = 0.0
    moes = [layer.mlp for layer in model.layers if layer.is_moe]
    for moe, (chosen, scores) in zip(moes, routed):
        load = torch.bincount(chosen[real.flatten()].flatten(), minlength=scores.shape[-1]).float()
        moe.gate.e_score_correction_bias += rate * torch.sign(load.mean() - load)
        worst = max(worst, (load.max() / load.mean()).item())
    return worst


def accuracy(model, tokenizer, rows):
    """Share of rows whose greedy answer is exact, and the kinds of the wrong ones."""
    wrong = []
    for start in range(0, len(rows), 250):
        part = rows[start:start + 250]
        prompts = [tokenizer.encode(data.prompt_of(q)).ids for *_, q in part]
        for (lang, op, a, b, _), ids in zip(part, net.greedy(model, prompts, net.CONFIG["eos_token_id"])):
            text = tokenizer.decode(ids, skip_special_tokens=False)
            if text.split(data.END_THINK)[-1].strip() != str(data.result(op, a, b)):
                wrong.append(data.kind(lang, op))
    return 1 - len(wrong) / len(rows), wrong


def keep_memory():
    """Tells glibc to keep freed memory: handing each step's buffers back to the system doubles the step's time."""
    libc = ctypes.CDLL(None)
    for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):     # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
        libc.mallopt(option, value)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=70, help="wall time that the schedule spans")
    parser.add_argument("--steps", type=int, default=0, help="a schedule in steps instead of minutes: repeatable")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=200, help="steps")
    parser.add_argument("--bias-rate", type=float, default=1e-3)
    parser.add_argument("--balance", type=float, default=1e-4, help="weight of the per-sequence balance loss")
    parser.add_argument("--save-minutes", type=float, default=5)
    parser.add_argument("--resume", action="store_true", help="go on with DIR/state.pt")
    parser.add_argument("--start", type=Path, help="begin with the weights and the tokenizer of this earlier DIR")
    return parser.parse_args()


def main():
    args = arguments()
    keep_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = (Tokenizer.from_file(str(args.start / "tokenizer.json")) if args.start
                 else tok.train(net.CONFIG["vocab_size"], args.seed))
    tok.save(tokenizer, args.out, net.CONFIG["max_position_embeddings"])
    rows = data.held_out()
    (args.out / "eval.jsonl").write_text("".join(json.dumps(
        {"question": q, "answer": str(data.result(op, a, b)), "kind": data.kind(lang, op), "a": a, "b": b}, ensure_ascii=False) + "\n"
        for lang, op, a, b, q in rows))
    probe = random.Random(args.seed).sample(rows, 100)

    model = net.TinyR1()
    if args.start:
        model.load_state_dict(torch.load(args.start / "state.pt", weights_only=False)["model"])
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
                                  lr=args.rate, betas=(0.9, 0.98), eps=1e-9, fused=True)
    sampler, step, spent = data.Sampler(args.seed), 0, 0.0
    state_path, log_path = args.out / "state.pt", args.out / "loss.csv"
    if args.resume:
        state = torch.load(state_path, weights_only=False)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        sampler.rng.setstate(state["rng"])
        step, spent = state["step"], state["spent"]
        lines = log_path.read_text().splitlines(keepends=True)
        log_path.write_text("".join(lines[:1] + [line for line in lines[1:] if int(line.split(",")[0]) <= step]))
    else:
        log_path.write_text("step,minutes,examples,loss,token_accuracy,load_max_over_mean,learning_rate,probe\n")

    def keep():
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": sampler.rng.getstate(),
                    "step": step, "spent": spent + time.time() - start}, str(state_path) + ".new")
        os.replace(str(state_path) + ".new", state_path)
        net.save(model, args.out)

    start = saved = time.time()
    losses, hits, loads = [], [], []
    while True:
        done = step / args.steps if args.steps else (spent + time.time() - start) / (60 * args.minutes)
        if done >= 1:
            break
        rate = args.rate * min((step + 1) / args.warmup, 0.5 + 0.5 * math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids, labels = batch_of(tokenizer, sampler, args.batch, step)
        at, real = labels != IGNORED, ids != net.CONFIG["pad_token_id"]
        logits, routed = model(ids, at)
        loss = F.cross_entropy(logits, labels[at])
        optimizer.zero_grad(set_to_none=True)
        (loss + args.balance * balance_loss(routed, real)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            # fast at first, when one expert can take most of a batch; at rest in the last tenth, for a settled gate
            bias_rate = 0.0 if done >= 0.9 else args.bias_rate * (10 if step < 2 * args.warmup and not args.start else 1)
            loads.append(move_biases(model, routed, real, bias_rate))
            losses.append(loss.item())
            hits.append((logits.argmax(-1) == labels[at]).float().mean().item())
        step += 1
        due = time.time() - saved > 60 * args.save_minutes
        if step % 100 == 0:
            probed = ""
            if due:
                keep()
                saved = time.time()
                share, wrong = accuracy(model, tokenizer, probe)
                probed = f"{share:.3f}"
                print("probe", probed, sorted(wrong)[:20], flush=True)
            mean = lambda values: sum(values) / len(values)
            line = (f"{step},{(spent + time.time() - start) / 60:.1f},{step * args.batch},{mean(losses):.5f},"
                    f"{mean(hits):.5f},{mean(loads):.2f},{rate:.6f},{probed}")
            with log_path.open("a") as log:
                log.write(line + "\n")
            print(line, flush=True)
            losses, hits, loads = [], [], []

    keep()
    share, wrong = accuracy(model, tokenizer, rows)
    print(f"held out: {share:.4f} of {len(rows)}; wrong: {sorted(wrong)}")


if __name__ == "__main__":
    main()
