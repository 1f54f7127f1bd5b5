"""What tells a pair's prompts apart is what the task is about, and nothing else: simple classifiers must fail, or the table says why not.

Each classifier sees pairs of the train split and says, on pairs of the test split, which prompt of a pair has which answer. The table is
`DEPENDS` beside the generators; where it says that a feature tells, the feature must tell, so that the table stays true.
"""

import re
from collections import Counter

import pytest
import torch

from sparse_circuits import CSPTokenizer
from sparse_circuits.circuits import load_task, make_task
from sparse_circuits.circuits.python_tasks import DEPENDS, GENERATORS
from tiny import ROOT

TOKENIZERS = {"shipped": ROOT, "released": ROOT / "tests" / "reference" / "tokenizer"}
CHANCE, TOLD = 0.6, 0.95
OTHER_TOKEN = 0.75  # names that make pairs equally long differ in tokens: none of these may tell much


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return CSPTokenizer.from_folder(TOKENIZERS[request.param])


def drawn(task, count, split):
    """Prompts as token ids, [(one, two)], of all families."""
    found = []
    for family in task.families:
        prompts = task.pairs(count, split, family, fewer=True).prompts()
        found += list(zip(prompts[0::2], prompts[1::2]))
    return found


def accuracy(features, train, test):
    """Of a logistic regression on features (Counter) of two prompts: how often it tells which is which; undecided counts half."""
    names = sorted({name for pair in train for prompt in pair for name in features(prompt)}, key=repr)
    at = {name: i for i, name in enumerate(names)}

    def differences(pairs):
        rows = torch.zeros(len(pairs), len(names) + 1)
        for row, pair in zip(rows, pairs):
            for prompt, sign in zip(pair, (1, -1)):
                for name, count in features(prompt).items():
                    row[at.get(name, -1)] += sign * count
        rows[:, -1] = 0  # what training did not have
        return rows

    x, w = differences(train), torch.zeros(len(names) + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=50, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.softplus(-x @ w).mean() + 1e-3 * w.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    decided = (differences(test) @ w).detach()
    return float(((decided > 1e-6).float() + (decided.abs() <= 1e-6).float() / 2).mean())


def one_token(pairs, allowed):
    """Highest accuracy that the presence of one token reaches, those that are allowed left out."""
    found = Counter()
    for one, two in pairs:
        found.update(dict.fromkeys(set(one) - set(two), 1))
        found.subtract(dict.fromkeys(set(two) - set(one), 1))
    return max(
        ((0.5 + abs(n) / 2 / len(pairs), token) for token, n in found.items() if token not in allowed), default=(0.5, None)
    )


def classifiers(tokenizer):
    return {
        "bag": Counter,
        "last": lambda prompt: Counter(prompt[-1:]),
        "length": lambda prompt: Counter([len(prompt), "long"] + ["long"] * len(prompt)),
        "lines": lambda prompt: Counter({"lines": tokenizer.decode(prompt).count("\n")}),
    }


def told(task):
    train, test = drawn(task, 48, "train"), drawn(task, 32, "test")
    return {name: accuracy(f, train, test) for name, f in classifiers(task.tokenizer).items()}, train + test


@pytest.mark.parametrize("name", GENERATORS)
def test_only_what_the_task_is_about_tells_its_prompts_apart(name, tokenizer):
    about, (found, pairs) = DEPENDS[name], told(load_task(name, tokenizer))
    expected = {"bag": bool(about.cues), "last": about.last, "length": False, "lines": about.lines}
    for feature, tells in expected.items():
        assert found[feature] >= TOLD if tells else found[feature] <= CHANCE, (feature, found[feature], about.on)
    cues = {
        token
        for pair in pairs
        for prompt in pair
        for token in prompt
        if about.cues and re.search(about.cues, tokenizer.decode([token]))
    }
    best, token = one_token(pairs, cues)
    assert best <= (OTHER_TOKEN if about.cues else CHANCE), (tokenizer.decode([token]), best)
    others = lambda prompt: Counter(set(prompt) - cues)  # noqa: E731
    half = len(pairs) * 3 // 5  # the train pairs
    assert accuracy(others, pairs[:half], pairs[half:]) <= OTHER_TOKEN
    if about.cues:
        assert one_token(pairs, ())[0] >= OTHER_TOKEN, about.on


@pytest.mark.parametrize("name", GENERATORS)
def test_prompts_of_a_pair_are_equally_long(name, tokenizer):
    task = load_task(name, tokenizer)
    for split in ("train", "validation", "test"):
        assert all(len(one) == len(two) for one, two in drawn(task, 8, split))


def test_the_table_has_every_task():
    assert set(DEPENDS) == set(GENERATORS)


# A member of each kind of shortcut; the first is what var_if was.
SHORTCUTS = {
    "a token that the task is not about": (lambda v, x: ((f"if {x} == True", ":"), (f"{x} = True", "\n")), "token"),
    "the length": (
        lambda v, x: ((f"if {x} > {v.number()}", ":"), (f"y = {v.name()}\nwhile {x} > {v.number()}", ":\n")),
        "length",
    ),
    "the last token": (lambda v, x: ((f"if {x} == 1", ":"), (f"return {x} == 2", "\n")), "last"),
    "the number of lines": (lambda v, x: ((f"if {x} == {x}", ":"), (f"{v.letter()} = 2\n{x} == {x}", "\n")), "lines"),
}


@pytest.mark.parametrize("kind", SHORTCUTS)
def test_shortcuts_are_seen(kind, tokenizer):
    generator, feature = SHORTCUTS[kind]
    found, pairs = told(make_task("x", lambda v, wording: generator(v, v.name()), tokenizer))
    if feature == "token":
        allowed = {token for pair in pairs for prompt in pair for token in prompt if tokenizer.decode([token]).strip() == "if"}
        best, token = one_token(pairs, allowed)
        assert (tokenizer.decode([token]), best > OTHER_TOKEN) in ((" ==", True), (" =", True))
    else:
        assert found[feature] >= TOLD


@pytest.mark.parametrize("family", ["main", "reworded", "in_function", "after_code"])
def test_var_if_is_not_answered_from_comparisons(family, tokenizer):
    """What one that looks at `==` alone gets right."""
    pairs = load_task("var_if", tokenizer).pairs(64, "test", family)
    compared = [bool(re.search(r"(==|is) (True|False)$", text)) for text in pairs.texts]
    assert all(compared[0::2])
    assert sum(compared[1::2]) > 0.6 * len(pairs)
    assert not all(compared[1::2])
    assert 0.3 < sum("==" in text for text in pairs.texts[1::2]) / len(pairs) < 0.7
