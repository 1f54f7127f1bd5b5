"""Corpora: every source, mixtures, and the generator of simple programs."""

import ast
import contextlib
import io
import re

import pytest

from sparse_circuits import CSPTokenizer
from sparse_circuits.corpora.idioms import IDIOMS, program, programs
from sparse_circuits.corpora.mixture import load_corpus, mix
from tiny import ROOT

TOKENIZER = CSPTokenizer.from_pretrained(ROOT)


def test_every_idiom_program_compiles_and_a_thousand_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = list(programs(4000))
    assert len({text for _, text in written}) == 4000
    for name, text in written:
        ast.parse(text, name)
    for name, text in written[:1000]:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(text, name, "exec"), {"__name__": "program"})


CONSTRUCTS = {
    "single_double_quote": [r"\('[^'\n]*'\)", r'\("[^"\n]*"\)'],
    "final_kwarg": [r"def \w+\([^)]*=None\):", r"def \w+\(\w+, [^)=]*\):"],
    "set_or_string": [r"= set\(\)", r"\.add\(", r"= (''|\"\")", r" \+= "],
    "set_or_string_fixedvarname": [r"\bcurrent = set\(\)|\bcurrent = (''|\"\")"],
    "class_init": [r"def __init__\(self, ", r"self\.(\w+) = \1\n"],
    "with_as": [r"with open\([^)]*\) as ", r"= open\("],
    "bracket_brace": [r"= \[", r"= \{", r"= \[['\"][^'\"\n]+['\"], \d+, ['\"]"],
    "with_open": [r", ['\"]r['\"]\)", r", ['\"]w['\"]\)"],
    "bracket_counting": [r"\]\n", r"\]\]\n"],
    "for_while": [r"for \w+ in ", r"while [^\n]+:"],
    "else_elif": [r"\nelse:", r"\nelif "],
    "fstring_brace": [r"print\(f['\"][^'\"\n]*\{", r"print\(['\"]\w+: "],
    "if_ternary": [r"= [^\n=]+ if [^\n]+ else ", r"\n *if [^\n]+:"],
    "var_swap": [r"(\w), (\w) = \2, \1"],
    "indent_for": [r"for [^\n]+:\n +"],
    "lambda_func": [r"lambda \w+: ", r"def \w+\("],
    "if_equals": [r"if \w+ == \w+:", r"\n\w+ = \w+\n"],
    "enumerate_range": [r"for \w+, \w+ in enumerate", r"for \w+ in range"],
    "var_if": [
        r"if \w+ == True:",
        r"if \w+ is True:",
        r"\w+ = True\n",
        r"\w+ = \w+ == (True|False)\n",
        r"\w+ = \w+ is (True|False)\n",
    ],
    "while_return_true": [r"while True:", r"return True\n"],
}


def test_the_constructs_of_all_20_tasks_occur_in_100_programs():
    assert len(CONSTRUCTS) == 20
    for seed in range(3):
        text = "\n".join(text for _, text in programs(100, seed))
        for task, patterns in CONSTRUCTS.items():
            for pattern in patterns:
                assert re.search(pattern, text), (seed, task, pattern)


def test_programs_depend_on_the_seed_alone():
    assert program(3, 5) == program(3, 5) != program(4, 5)
    assert [text for _, text in programs(20, 1)] == [text for _, text in programs(20, 1)]
    assert len(IDIOMS) == 20


@pytest.fixture
def folder(tmp_path):
    for i, (_, text) in enumerate(programs(200, 7)):
        (tmp_path / f"{i}.py").write_text(text * 3)
    (tmp_path / "copy.py").write_text((tmp_path / "0.py").read_text())
    (tmp_path / "latin.py").write_bytes(b"name = '\xe9'\n")
    (tmp_path / "huge.py").write_text("x = 1\n" * 400_000)
    return tmp_path


def test_folders_globs_and_single_files(folder):
    whole, some = load_corpus(str(folder)), load_corpus(str(folder / "1*.py"))
    assert len(whole.texts) == 200
    assert whole.left_out == {"copy.py": "a copy of another file", "latin.py": "not UTF-8", "huge.py": "over 1 MB"}
    assert 0 < len(some.texts) < 200
    assert len(load_corpus(str(folder / "5.py")).texts) == 1
    assert len(load_corpus("idioms:30").texts) == 30


def test_local_datasets(folder):
    rows = [{"content": text, "n": i} for i, text in enumerate(load_corpus(str(folder)).texts.values())]
    import json

    data = folder / "data"
    data.mkdir()
    (data / "train.jsonl").write_text("\n".join(json.dumps(row) for row in [*rows, rows[0], {"content": " ", "n": -1}]))
    found = load_corpus(f"hf:{data}#content")
    assert list(found.texts.values()) == [row["content"] for row in rows]
    assert sorted(found.left_out.values()) == ["a copy of another document", "empty"]
    assert len(load_corpus(f"hf:{data}#content@10").texts) == 10  # streamed
    with pytest.raises(ValueError, match="has no column 'text'; it has content, n"):
        load_corpus(f"hf:{data}")


def test_mixtures_have_the_proportions_asked_and_repeat_nothing(folder):
    mixture = mix({str(folder): 3.0, "idioms:400": 1.0}, TOKENIZER, 64, seed=0)
    again = mix({str(folder): 3.0, "idioms:400": 1.0}, TOKENIZER, 64, seed=0)
    assert (mixture.train == again.train).all()
    first = mix({str(folder): 1.0}, TOKENIZER, 64, seed=0).train
    of_first = {tuple(row.tolist()) for row in first}
    share = sum(tuple(row.tolist()) in of_first for row in mixture.train) / len(mixture.train)
    assert 0.72 < share < 0.78
    assert len(mixture.said) == 3


@pytest.mark.parametrize(
    ("source", "message"),
    [("idioms:many", "write idioms, or"), ("hf:", "is no corpus; write hf:"), ("/no/where", "is no folder"), ("/no/*.py", "matches no readable file"), ("hf:/no/such", "cannot be loaded")],
)  # fmt: skip
def test_sources_that_are_not_there_are_named(source, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_corpus(source)


@pytest.mark.parametrize("weights", [{}, {"idioms:30": 0.0}, {"idioms:30": "much"}])
def test_impossible_mixtures_are_named(weights):
    with pytest.raises(ValueError, match=r"no corpus|must be a positive number"):
        mix(weights, TOKENIZER, 64, seed=0)
