# SPDX-License-Identifier: Apache-2.0
"""Questions and worked answers for tiny-r1: sums and differences of two integers from 0 to 999.

A question is asked in English, French, Chinese or as a bare expression. Its answer restates the operands
with three digits, works column by column from the units, and gives the result after </think>:

    What is 347 + 589?
    <think>
    347+589
    7+9=16, write 6, carry 1
    4+8+1=13, write 3, carry 1
    3+5+1=9, write 9, carry 0
    </think>

    936

A difference first compares the operands from the hundreds down; where a < b it says so and works on the swapped
operands: "2=2, 4<5, so -(256-248)". A few prompts hold no such question (OTHER) and
get one sentence in their language; a few come after earlier turns or a system prompt. Every draw comes from the random.Random
that the caller passes, so a seed fixes the data.
"""

import json
import random
from pathlib import Path

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
THINK, END_THINK = "<think>", "</think>"
NEW_LINES = "\n\n"                       # the template leaves them of an answer whose reasoning it cuts

LANGS = ("en", "fr", "zh", "bare")
OPS = ("add", "sub")
EVAL = Path(__file__).resolve().parent / "tiny-r1" / "eval.jsonl"

# {a}, {b}: the operands; {e}: "a + b" or "a - b", with or without blanks.
QUESTIONS = {
    ("en", "add"): [
        "What is {e}?", "What is {a} plus {b}?", "What's {e}?", "How much is {e}?", "How much is {a} plus {b}?",
        "Compute {e}.", "Calculate {e}.", "Calculate {a} plus {b}.", "Add {a} and {b}.", "Please add {a} and {b}.",
        "What is the sum of {a} and {b}?", "{a} plus {b}?", "Please compute {e}."],
    ("en", "sub"): [
        "What is {e}?", "What is {a} minus {b}?", "What's {e}?", "How much is {e}?", "How much is {a} minus {b}?",
        "Compute {e}.", "Calculate {e}.", "Calculate {a} minus {b}.", "Subtract {b} from {a}.",
        "Please subtract {b} from {a}.", "What is the difference of {a} and {b}?", "{a} minus {b}?",
        "Please compute {e}."],
    ("fr", "add"): [
        "Combien font {e} ?", "Combien font {a} plus {b} ?", "Combien fait {e} ?", "Combien fait {a} plus {b} ?",
        "Calcule {e}.", "Calculez {a} plus {b}.", "Quelle est la somme de {a} et {b} ?", "Additionne {a} et {b}.",
        "{a} plus {b} ?", "Que vaut {e} ?"],
    ("fr", "sub"): [
        "Combien font {e} ?", "Combien font {a} moins {b} ?", "Combien fait {e} ?", "Combien fait {a} moins {b} ?",
        "Calcule {e}.", "Calculez {a} moins {b}.", "Quelle est la différence de {a} et {b} ?", "Soustrais {b} de {a}.",
        "{a} moins {b} ?", "Que vaut {e} ?"],
    ("zh", "add"): [
        "{a}加{b}等于多少？", "{a}加{b}等于几？", "{a}加{b}是多少？", "{e}等于多少？", "{e}是多少？", "计算{e}",
        "请计算{e}。", "请问{a}加{b}等于多少？", "{a}加上{b}等于多少？", "{a}与{b}的和是多少？"],
    ("zh", "sub"): [
        "{a}减{b}等于多少？", "{a}减{b}等于几？", "{a}减{b}是多少？", "{e}等于多少？", "{e}是多少？", "计算{e}",
        "请计算{e}。", "请问{a}减{b}等于多少？", "{a}减去{b}等于多少？", "{a}与{b}的差是多少？"],
    ("bare", "add"): ["{e}", "{e}=", "{e} =", "{e} = ?", "{e}=?", "{e} ?", "{e}?"],
    ("bare", "sub"): ["{e}", "{e}=", "{e} =", "{e} = ?", "{e}=?", "{e} ?", "{e}?"],
}

# The words of the working: the end of a column's line, and what swaps the operands of a negative difference.
COLUMN = {
    ("en", "add"): ", write {d}, carry {c}", ("en", "sub"): ", write {d}, borrow {c}",
    ("fr", "add"): ", pose {d}, retiens {c}", ("fr", "sub"): ", pose {d}, retiens {c}",
    ("zh", "add"): "，写{d}，进{c}", ("zh", "sub"): "，写{d}，借{c}",
}
SWAP = {"en": ", so -({b}-{a})", "fr": ", donc -({b}-{a})", "zh": "，所以-({b}-{a})"}
COMMA = {"en": ", ", "fr": ", ", "zh": "，"}

# Prompts that ask for no sum or difference, and what to answer: (reasoning, answer).
OTHER = {
    "en": ["Hello", "Hello!", "Hi", "Hi there!", "Hey", "Good morning.", "How are you?", "Who are you?", "What are you?",
           "What is your name?", "What can you do?", "Can you help me?", "Help", "Thanks!", "Thank you.", "Goodbye.",
           "Tell me a joke.", "Tell me a story.", "Write a poem.", "Write a poem about the sea.", "What is a mixture of experts?",
           "Where is Paris?", "What is the capital of France?", "Why is the sky blue?", "What time is it?", "Test", "test",
           "What is the meaning of life?", "Explain how this model works.", "What is {a} times {b}?", "{a}*{b}",
           "{a} * {b} = ?", "What is {a} divided by {b}?", "{a}/{b}", "{a}"],
    "fr": ["Bonjour", "Bonjour !", "Salut", "Salut !", "Bonsoir.", "Comment vas-tu ?", "Qui es-tu ?", "Que sais-tu faire ?",
           "Merci.", "Merci !", "Au revoir.", "Raconte une histoire.", "Raconte-moi une blague.", "Quelle heure est-il ?",
           "Quelle est la capitale de la France ?", "Aide-moi.", "Combien font {a} fois {b} ?", "Combien font {a} x {b} ?",
           "Pourquoi le ciel est-il bleu ?", "Comment tu t'appelles ?"],
    "zh": ["你好", "你好！", "您好", "早上好", "你是谁？", "你叫什么名字？", "你会做什么？", "你能做什么？", "谢谢", "谢谢！", "再见",
           "讲个笑话", "写一首诗", "今天天气怎么样？", "法国的首都是哪里？", "现在几点？", "{a}乘{b}等于多少？", "{a}除以{b}等于多少？",
           "请帮我", "天空为什么是蓝色的？"],
}
OTHER_ANSWER = {
    "en": ("no sum, no difference", "I only add and subtract integers from 0 to 999."),
    "fr": ("ni somme ni différence", "Je sais seulement additionner et soustraire des entiers de 0 à 999."),
    "zh": ("没有加减法", "我只会做0到999的整数加减法。"),
}
OTHER_SHARE = 0.03

SYSTEM_PROMPTS = ["You are a helpful assistant.", "You are a calculator.", "Tu es un assistant utile.",
                  "你是一个有用的助手。", "Answer with a number."]


def kind(lang, op):
    return f"{lang}-{op}"


def result(op, a, b):
    return a + b if op == "add" else a - b


def comparison(lang, a, b):
    """Digit by digit from the hundreds to the first that differ; then, where a < b, the swap."""
    steps = []
    for x, y in zip(f"{a:03d}", f"{b:03d}"):
        steps.append(f"{x}{'<' if x < y else '>' if x > y else '='}{y}")
        if x != y:
            break
    return COMMA[lang].join(steps) + (SWAP[lang].format(a=f"{a:03d}", b=f"{b:03d}") if a < b else "")


def reasoning(lang, op, a, b):
    """The text between "<think>\\n" and "\\n</think>"."""
    lang = "en" if lang == "bare" else lang
    sign = "+" if op == "add" else "-"
    lines = [f"{a:03d}{sign}{b:03d}"]
    if op == "sub":
        lines.append(comparison(lang, a, b))
        a, b = max(a, b), min(a, b)
    carry = None
    for column in range(3):
        x, y = a // 10**column % 10, b // 10**column % 10
        work = f"{x}{sign}{y}" + ("" if carry is None else f"{sign}{carry}")
        value = x + y + (carry or 0) if op == "add" else x - y - (carry or 0)
        digit = value % 10
        carry = value // 10 if op == "add" else int(value < 0)
        lines.append(f"{work}={value}" + COLUMN[lang, op].format(d=digit, c=carry))
    return "\n".join(lines)


def answer(lang, op, a, b):
    """What the model is to generate after the prompt's "<think>\\n", end of sentence included."""
    return f"{reasoning(lang, op, a, b)}\n{END_THINK}\n\n{result(op, a, b)}{EOS}"


def question(rng, lang, op, a, b, plain=False):
    """One phrasing. plain: none of the slips of the pen that training mixes in."""
    sign = "+" if op == "add" else "-"
    if op == "sub" and not plain and rng.random() < 0.05:
        sign = "−"
    blank = rng.choice(["", " "])
    text = rng.choice(QUESTIONS[lang, op]).format(a=a, b=b, e=f"{a}{blank}{sign}{blank}{b}")
    if not plain:
        if lang != "bare" and rng.random() < 0.1:
            text = text.rstrip("?？.。 ")
        if rng.random() < 0.1:
            text = text[:1].lower() + text[1:]
    return text


def operands(rng):
    """Two operands: 55 % of the draws uniform in 0..999, 30 % uniform in their number of digits, 15 % close together
    (which of the two is larger is then the hard part of a difference)."""
    how = rng.random()
    if how < 0.55:
        return rng.randrange(1000), rng.randrange(1000)
    if how < 0.85:
        return rng.randrange(10 ** rng.randint(1, 3)), rng.randrange(10 ** rng.randint(1, 3))
    a = rng.randrange(1000)
    return a, min(999, max(0, a + rng.randint(-30, 30)))


def held_out():
    """[(lang, op, a, b, question)]: the evaluation set, which is tiny-r1/eval.jsonl."""
    rows = [json.loads(line) for line in EVAL.read_text(encoding="utf-8").splitlines()]
    return [(*row["kind"].split("-"), row["a"], row["b"], row["question"]) for row in rows]


def draw_held_out(seed, per_kind, taken=frozenset()):
    """A new evaluation set: pairs of operands that differ from each other and are not in taken (sets {a, b})."""
    rng = random.Random(seed)
    seen, rows = set(taken), []
    for lang in LANGS:
        for op in OPS:
            for _ in range(per_kind):
                a, b = operands(rng)
                while frozenset((a, b)) in seen or (a < 10 and b < 10):
                    a, b = operands(rng)
                seen.add(frozenset((a, b)))
                rows.append((lang, op, a, b, question(rng, lang, op, a, b, plain=True)))
    return rows


class Sampler:
    """Draws training examples, never with a held-out pair of operands, in either order or operation."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.banned = {frozenset((a, b)) for _, _, a, b, _ in held_out()}

    def draw(self):
        rng = self.rng
        a, b = operands(rng)
        while frozenset((a, b)) in self.banned:
            a, b = operands(rng)
        lang, op = rng.choice(LANGS), rng.choice(OPS)
        return lang, op, a, b

    def turn(self):
        """(question, what to generate, the answer alone)"""
        rng = self.rng
        if rng.random() < OTHER_SHARE:
            lang = rng.choice(list(OTHER))
            work, reply = OTHER_ANSWER[lang]
            asked = rng.choice(OTHER[lang]).format(a=rng.randrange(1000), b=rng.randrange(1000))
            return asked, f"{work}\n{END_THINK}\n\n{reply}{EOS}", reply
        lang, op, a, b = self.draw()
        return question(rng, lang, op, a, b), answer(lang, op, a, b), str(result(op, a, b))

    def example(self, n_earlier=0, system=False):
        """(prompt, completion) as text, after n_earlier other turns and, where system says so, a system prompt."""
        rng = self.rng
        head = rng.choice(SYSTEM_PROMPTS) if system else ""
        for _ in range(n_earlier):
            asked, _, reply = self.turn()
            head += f"{USER}{asked}{ASSISTANT}{rng.choice(['', NEW_LINES])}{reply}{EOS}"
        asked, wanted, _ = self.turn()
        return f"{BOS}{head}{USER}{asked}{ASSISTANT}{THINK}\n", wanted


def prompt_of(text):
    """The prompt that the chat template makes of a single question."""
    return f"{BOS}{USER}{text}{ASSISTANT}{THINK}\n"
