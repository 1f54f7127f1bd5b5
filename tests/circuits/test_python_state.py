"""The reader of Python source against Python's own tokenizer, and that it never looks ahead."""

import io
import sysconfig
import tokenize
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_circuits.circuits.python_state import PREDICATES, SEEN, State, holding_at

STDLIB = Path(sysconfig.get_paths()["stdlib"])


@pytest.mark.parametrize(
    "name", ["textwrap.py", "argparse.py", "tokenize.py", "json/decoder.py", "shlex.py", "re/_parser.py", "csv.py"]
)
def test_strings_comments_and_brackets_are_where_python_says(name):
    source = (STDLIB / name).read_text(encoding="utf-8")
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    wanted = [""] * len(source)  # by character: what it is in
    depth, depths = 0, {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        begin, end = starts[token.start[0] - 1] + token.start[1], starts[token.end[0] - 1] + token.end[1]
        if token.type in (tokenize.STRING, tokenize.COMMENT):
            wanted[begin:end] = ["string" if token.type == tokenize.STRING else "comment"] * (end - begin)
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
            depths[end - 1] = depth
    state, strings = State(), 0
    for i, character in enumerate(source):
        before, state = state, state.then(character)
        if wanted[i] == "comment":
            assert state.comment, source[i - 40 : i + 1]
        elif wanted[i] == "":
            assert not state.comment, source[i - 40 : i + 1]
            assert not before.string or state.string == "", source[i - 40 : i + 1]
        elif state.string:
            strings += 1
        if i in depths:
            assert len(state.brackets) == depths[i], source[i - 40 : i + 1]
    inside = sum(each == "string" for each in wanted)
    assert strings > 0.7 * inside  # all but prefixes and the quotes that close
    assert not state.string
    assert not state.brackets


@pytest.mark.parametrize(
    ("text", "string"),
    [("'", "'"), ("''", ""), ("'''", "'''"), ("''''", "'''"), ("'''a'", "'''"), ("'''a''", "'''"), ("'''a'''", ""), ("'''''' ", ""), ('"a\\"', '"'), ('"\\\\"', ""),
     ("'a\n", ""), ("'''a\n", "'''"), ("# it's", ""), ("x = ''\ny = '", "'"), ("'' '", "'"), ("f'{x", "'"), ("'\\\n", "'")],
)  # fmt: skip
def test_which_quotes_are_open(text, string):
    assert State().then(text).string == string


@pytest.mark.parametrize(
    ("tokens", "predicate", "at"),
    [(["def", " f", "(", "a", "):", "\n"], "after def", [1]), (["x", " =", " '", "a", "'", "\n"], "in a string", [2, 3]),
     (["x", " =", " '", "a", "'"], "closes a string", [4]), (["print", "(", "x", ")"], "in (", [1, 2]), (["a", " =", " b", "\n", "b"], SEEN, [4]),
     (["if", " a", ":", "\n", "    ", "b"], "in an indented line", [4, 5]), (["if", " a", ":", "\n"], "in a line of if", [0, 1, 2, 3]),
     (["for", " i", " in", " x"], "after in", [3]), (["f", "(", "a", ",", " b"], "after ,", [4])],
)  # fmt: skip
def test_predicates(tokens, predicate, at):
    assert [i for i, holds in enumerate(holding_at(tokens)[predicate]) if holds] == at


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab_1 \n'\"\\#()[]{}=.,:", max_size=40), st.data())
def test_a_predicate_never_looks_ahead_and_tokens_do_not_matter_to_the_state(text, data):
    cut = data.draw(st.integers(0, len(text)))
    assert State().then(text) == State().then(text[:cut]).then(text[cut:])
    tokens = [text[:cut], text[cut:], "'x'"]
    whole, part = holding_at(tokens), holding_at(tokens[:2])
    assert all(whole[name][:2] == part[name] for name in (*PREDICATES, SEEN))
