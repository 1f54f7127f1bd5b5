"""The 20 tasks: pairs that differ as the task says, one-token answers, splits that share no value, files, twins."""

import json
import re
from random import Random

import pytest
import torch

from sparse_circuits import CSPTokenizer
from sparse_circuits.circuits import CannotExpress, capability, load_task, make_task, tasks
from sparse_circuits.circuits.python_tasks import GENERATORS, SPLITS, Values
from sparse_circuits.circuits.scoring import answer_logits, losses, score
from sparse_circuits.corpora.words import LETTERS, NOUNS, VERBS, WORDS
from tiny import ROOT, tiny_model
from toy import ToyTokenizer, toy_model, toy_task


@pytest.fixture(scope="module")
def tokenizer():
    return CSPTokenizer.from_folder(ROOT)


def check(task):
    tokenizer = task.tokenizer
    for family in task.families:
        pairs = task.pairs(16, "test", family)
        assert pairs.input_ids.shape == pairs.attention_mask.shape
        for row, text in enumerate(pairs.texts):
            ids = pairs.input_ids[row][pairs.attention_mask[row].bool()].tolist()
            assert tokenizer.decode(ids) == text
            right, wrong = pairs.answers[row].tolist()
            assert right != wrong
            assert tokenizer.encode(text + tokenizer.decode([right]))[: len(ids)] == ids
        assert torch.equal(pairs.answers[0::2], pairs.answers[1::2].flip(1))
        assert all(a != b for a, b in zip(pairs.texts[0::2], pairs.texts[1::2]))


@pytest.mark.parametrize("name", GENERATORS)
def test_each_task_in_each_family(name, tokenizer):
    check(load_task(name, tokenizer))


@pytest.mark.parametrize("name", GENERATORS)
def test_each_task_under_the_released_tokenizer(name, reference):
    check(load_task(name, CSPTokenizer.from_folder(reference / "tokenizer")))


ANSWERS = {  # docs/method.md#the-tasks, under the released tokenizer
    "single_double_quote": ("')\n", '")\n'), "final_kwarg": ("=None", "):\n"), "set_or_string": (".add", " +="), "for_while": (" in", ":\n"),
    "set_or_string_fixedvarname": (".add", " +="), "bracket_counting": ("]\n", "]]\n"), "if_equals": (" ==", " ="), "var_if": (":\n", "\n"),
    "while_return_true": (":\n", "\n"), "enumerate_range": (" enumerate", " range"), "with_open": ("r", "w"), "if_ternary": (":\n", " else"),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_the_papers_answers(name, reference):
    tokenizer = CSPTokenizer.from_folder(reference / "tokenizer")
    first, second = load_task(name, tokenizer).pairs(1).answers[0].tolist()
    assert (tokenizer.decode([first]), tokenizer.decode([second])) == ANSWERS[name]


def test_the_papers_twenty_are_there_each_with_a_description():
    assert set(ANSWERS) <= set(tasks())
    assert len(tasks()) >= 20
    assert all(len(text) > 20 for text in tasks().values())


# How a program that ends after the continuation may go on.
ENDS = [
    "",
    "    pass\n",
    "        pass\n",
    "None)\n",
    "1)\n",
    "1\n",
    "'x', 'y']\n",
    '"x"]\n',
    "'x'}\n",
    '"x"}\n',
    "1}\n",
    ") as f:\n    pass\n",
]


@pytest.mark.parametrize("name", GENERATORS)
def test_programs_of_tasks_are_python(name):
    for seed in range(10):
        for wording in (0, 1):
            for prompt, continuation in GENERATORS[name](Values("train", Random(seed)), wording):
                assert any(compiles(prompt + continuation + end) for end in ENDS), prompt + continuation


def compiles(text):
    try:
        compile(text, "task", "exec")
    except SyntaxError:
        return False
    return True


def test_splits_share_no_identifier_or_value(tokenizer):
    pool = {*LETTERS, *VERBS, *WORDS, *(n for n in NOUNS if "_" not in n)}
    fixed = {
        "f",
        "r",
        "w",
        "open",
        "read",
        "in",
        "print",
        "for",
        "while",
        "file",
        "split",
        "x",
        "format",
        "append",
        "current",
        "self",
        "source",
    }
    for name in GENERATORS:
        used = {split: set() for split in SPLITS}
        for split in SPLITS:
            for text in load_task(name, tokenizer).pairs(32, split).texts:
                words = set(re.findall(r"[A-Za-z]+", text.replace("_", " ")))
                used[split] |= {w for w in words if w in pool} - fixed
                used[split] |= {n for n in re.findall(r"\d+", text) if int(n) > 2}
        assert all(used.values())
        for one, two in (("train", "validation"), ("train", "test"), ("validation", "test")):
            assert not used[one] & used[two], (name, used[one] & used[two])


def test_pairs_are_the_same_for_the_same_seed_and_different_otherwise(tokenizer):
    task = load_task("if_equals", tokenizer)
    assert task.pairs(8).texts == task.pairs(8).texts
    assert task.pairs(8).texts == task.pairs(16).texts[:16]
    assert task.pairs(8, seed=1).texts != task.pairs(8).texts
    assert len(set(task.pairs(64).texts)) == 128


def test_twins_have_the_same_prompts_and_other_answers(tokenizer):
    task = load_task("bracket_brace", tokenizer)
    plain, nonsense, constant = (each.pairs(8) for each in (task, task.nonsense(), task.constant()))
    assert plain.texts == nonsense.texts == constant.texts
    assert torch.equal(nonsense.answers, plain.answers.flip(1))
    assert torch.equal(constant.answers[0::2], plain.answers[0::2])
    assert torch.equal(constant.answers[1::2], plain.answers[0::2])


def test_a_tokenizer_that_cannot_say_it_is_told_why():
    class Characters(ToyTokenizer):
        def encode(self, text, add_special_tokens=True):
            return [ord(c) for c in text]

        def decode(self, ids):
            return "".join(map(chr, ids))

    with pytest.raises(
        CannotExpress, match=r"bracket_counting gives only 0 of 4 pairs .* both answers begin with the token '\]'"
    ):
        load_task("bracket_counting", Characters()).pairs(4)
    assert "both answers begin" in capability(toy_model(), load_task("bracket_counting", Characters())).reason


def test_tasks_of_ones_own(tokenizer, tmp_path):
    def greater(v, wording):
        """A condition or an assignment."""
        x = v.name()
        return (f"if {x} >", " 0:\n"), (f"{x} =", " None\n")

    task = make_task("greater", greater, tokenizer)
    assert task.description == "A condition or an assignment."
    check(task)
    rows = [{"prompt_a": f"x{i} = (", "answer_a": "1", "prompt_b": f"x{i} =", "answer_b": " None"} for i in range(60)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = ["prompt_a,answer_a,prompt_b,answer_b", *(",".join(f'"{row[c]}"' for c in rows[0]) for row in rows)]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    for name in ("mine.jsonl", "mine.csv"):
        task = load_task(tmp_path / name, tokenizer)
        texts = [set(task.pairs(5, split).texts) for split in SPLITS]
        assert len(texts[0] | texts[1] | texts[2]) == sum(map(len, texts))
        with pytest.raises(ValueError, match="no family of mine"):
            task.pairs(5, family="reworded")
        with pytest.raises(ValueError, match="gives only"):
            task.pairs(100)
        assert 5 <= len(task.pairs(100, fewer=True)) < 60


WRONG_FILES = [
    ("x.jsonl", "{", "is no JSON"),
    ("x.jsonl", "[]", "is no object"),
    ("x.jsonl", '{"prompt_a": "x"}', "no text in answer_a"),
    ("x.csv", "prompt_a\nx", "no text in answer_a"),
]


@pytest.mark.parametrize(("name", "text", "message"), WRONG_FILES)
def test_files_that_are_wrong_are_named(name, text, message, tokenizer, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_task(tmp_path / name, tokenizer)


def test_what_does_not_exist_is_named(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="is no task; they are single_double_quote"):
        load_task("quotes", tokenizer)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_task(tmp_path / "no.csv", tokenizer)
    task = load_task("if_equals", tokenizer)
    for arguments, message in (((3, "all"), "no split"), ((3, "test", "other"), "no family"), ((0,), "at least 1")):
        with pytest.raises(ValueError, match=message):
            task.pairs(*arguments)


def test_loss_is_the_binary_cross_entropy_of_the_two_answers():
    model, pairs = toy_model(), toy_task().pairs(6, "test")
    with torch.no_grad():
        found = answer_logits(model, pairs, batch=2)
        for row in range(12):
            ids = pairs.input_ids[row][pairs.attention_mask[row].bool()]
            alone = model(ids[None]).logits[0, -1, pairs.answers[row]]
            assert torch.allclose(found[row], alone, atol=1e-5)  # padding and batches change nothing
            expected = torch.nn.functional.cross_entropy(alone[None], torch.tensor([0]))
            assert torch.allclose(losses(found)[row], expected, atol=1e-6)
    assert score(model, pairs).preference == 1.0
    assert score(model, toy_task().nonsense().pairs(6, "test")).preference == 0.0


def test_gates():
    assert capability(toy_model(), toy_task()).passes
    untrained = capability(tiny_model(vocab_size=16), toy_task())
    assert not untrained.passes
    assert "prefers" in untrained.reason
