# SPDX-License-Identifier: Apache-2.0
"""tiny-r1's tokenizer: a byte-level BPE with DeepSeek's special tokens and manner of splitting, digits one by one."""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import tiny_r1_data as data

# DeepSeek-V3's three splits, but \p{N}{1}: a digit is a token, which is what makes column arithmetic easy.
SPLITS = [
    r"\p{N}{1}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
]
FIRST_TOKENS = [data.BOS, data.EOS, data.PAD]                                  # ids 0, 1, 2, special
LAST_TOKENS = [data.USER, data.ASSISTANT, data.THINK, data.END_THINK]          # the highest ids, not special

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}"
    "{{ '<｜Assistant｜>' + m['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)


def train(vocab_size, seed, n_texts=40000):
    sampler = data.Sampler(seed)
    marks = FIRST_TOKENS + LAST_TOKENS
    texts = []
    for _ in range(n_texts):
        text = "".join(sampler.example(system=sampler.rng.random() < 0.1))
        for mark in marks:
            text = text.replace(mark, "\0")
        texts += [piece for piece in text.split("\0") if piece]

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(split), "isolated") for split in SPLITS]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size - len(LAST_TOKENS), special_tokens=FIRST_TOKENS, min_frequency=2, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    tokenizer.add_tokens([AddedToken(mark, normalized=True, special=False) for mark in LAST_TOKENS])
    return tokenizer


def save(tokenizer, out, max_length):
    out = Path(out)
    tokenizer.save(str(out / "tokenizer.json"))
    mark = lambda content: {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": True,
                            "rstrip": False, "single_word": False}
    config = {
        "add_bos_token": False, "add_eos_token": False,
        "bos_token": mark(data.BOS), "eos_token": mark(data.EOS), "pad_token": mark(data.PAD),
        "unk_token": None, "clean_up_tokenization_spaces": False, "model_max_length": max_length,
        "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT_TEMPLATE,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n")
