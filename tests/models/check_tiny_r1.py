# SPDX-License-Identifier: Apache-2.0
"""Checks a tiny-r1 folder in transformers: load, tokenizer round trips, chat template, held-out accuracy, routing.

    python tests/models/check_tiny_r1.py DIR [--limit N] [--threads 2] [--min 0.99]

The bf16 weights are run in f32. Answers are greedy, cached, in batches of prompts of equal length (no padding).
With DIR/state.pt, the training network's logits are compared too. Exit 1 below --min or on a difference.
"""

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import torch
from transformers import AutoTokenizer, DeepseekV3ForCausalLM

import tiny_r1_data as data
import tiny_r1_model as net


def compare_training_network(folder, model, tokenizer):
    """Largest difference of logits, and share of equal argmax, between the training network and transformers."""
    mine = net.TinyR1()
    mine.load_state_dict(torch.load(folder / "state.pt", weights_only=False)["model"])
    net.PRODUCT = torch.float32
    worst, equal, total = 0.0, 0, 0
    with torch.no_grad():
        for lang, op, a, b, q in data.held_out()[::25]:
            ids = tokenizer.encode(data.prompt_of(q) + data.answer(lang, op, a, b), return_tensors="pt")
            x, y = mine(ids)[0], model(ids).logits
            worst = max(worst, (x - y).abs().max().item())
            equal += (x.argmax(-1) == y.argmax(-1)).sum().item()
            total += ids.numel()
    print(f"training network and transformers: largest logit difference {worst:.2e}, argmax equal {equal} of {total}")
    return worst < 1e-3


def check_tokenizer(folder, tokenizer):
    """The chat template gives the prompts trained on, history loses its reasoning, and any text round-trips."""
    _, _, _, _, q = data.held_out()[0]
    one = [{"role": "user", "content": q}]
    render = lambda messages: tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert render(one) == data.prompt_of(q)
    more = one + [{"role": "assistant", "content": "work</think>\n\n12"}] + one
    assert render(more) == (f"{data.BOS}{data.USER}{q}{data.ASSISTANT}\n\n12{data.EOS}"
                            f"{data.USER}{q}{data.ASSISTANT}{data.THINK}\n")
    for text in ("naïve café 12+34\n", "你好，世界 😀", "a\u0301 \t\r\n\r\n  b", "<think>x</think>"):
        assert tokenizer.decode(tokenizer.encode(text), clean_up_tokenization_spaces=False) == text, text


def answers(model, tokenizer, questions, n_max=128):
    """Greedy completions as text, special tokens kept."""
    prompts = [tokenizer.encode(data.prompt_of(q)) for q in questions]
    by_length = defaultdict(list)
    for i, p in enumerate(prompts):
        by_length[len(p)].append(i)
    out, n_tokens = [None] * len(prompts), 0
    for length, rows in sorted(by_length.items()):
        ids = torch.tensor([prompts[i] for i in rows])
        new = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n_max)
        for i, row in zip(rows, new[:, length:].tolist()):
            row = row[:row.index(1) + 1] if 1 in row else row
            out[i] = tokenizer.decode(row)
            n_tokens += len(row)
    return out, n_tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--min", type=float, default=0.0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    check_tokenizer(args.folder, tokenizer)
    model, loading = DeepseekV3ForCausalLM.from_pretrained(args.folder, dtype=torch.float32, output_loading_info=True)
    model.eval()
    assert not loading["missing_keys"] and not loading["unexpected_keys"], loading
    same = not (args.folder / "state.pt").exists() or compare_training_network(args.folder, model, tokenizer)

    load = defaultdict(Counter)
    for index, layer in enumerate(model.model.layers):
        if hasattr(layer.mlp, "gate"):
            layer.mlp.gate.register_forward_hook(
                lambda _, __, out, index=index: load[index].update(out[2].flatten().tolist()))

    rows = [json.loads(line) for line in (args.folder / "eval.jsonl").read_text().splitlines()]
    rows = rows[::max(1, len(rows) // args.limit)][:args.limit] if args.limit else rows
    start = time.time()
    texts, n_tokens = answers(model, tokenizer, [row["question"] for row in rows])
    seconds = time.time() - start
    right, asked = Counter(), Counter()
    exact = 0
    for row, text in zip(rows, texts):
        asked[row["kind"]] += 1
        head, _, tail = text.partition(data.END_THINK)
        good = tail == f"\n\n{row['answer']}{data.EOS}"
        right[row["kind"]] += good
        if not good:
            print("wrong:", row, repr(text))
    for kind in sorted(asked):
        print(f"{kind}: {right[kind]} of {asked[kind]}")
    share = sum(right.values()) / len(rows)
    print(f"all: {share:.4f} of {len(rows)}; {n_tokens / len(rows):.1f} tokens an answer, {n_tokens / seconds:.0f} tokens/s")
    for index, counts in sorted(load.items()):
        mean = sum(counts.values()) / net.CONFIG["n_routed_experts"]
        loads = [counts[e] / mean for e in range(net.CONFIG["n_routed_experts"])]
        print(f"layer {index}: load over mean, least {min(loads):.2f}, most {max(loads):.2f}")
    sys.exit(0 if same and share >= args.min else 1)


if __name__ == "__main__":
    main()
