"""Tasks from files: no prompt is in two splits, a pair counts once, both forms of columns are read, what is wrong is named."""

import csv
import dataclasses
import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparse_circuits import CSPTokenizer
from sparse_circuits.circuits import (
    PruneConfig,
    load_task,
    make_task,
    mean_activations,
    prune,
    verify,
)
from sparse_circuits.circuits.candidates import Search
from sparse_circuits.circuits.examination import Examination
from sparse_circuits.circuits.masks import deciding_pairs, pool_size, training_pairs
from sparse_circuits.circuits.python_tasks import SPLITS
from sparse_circuits.circuits.task_files import COLUMNS, PUBLISHED_COLUMNS
from tiny import ROOT
from toy import ToyTokenizer, toy_blocks, toy_model

TOKENIZER = CSPTokenizer.from_folder(ROOT)
QUICK = PruneConfig(steps=40, pairs=4, eval_pairs=8)


def written(path, rows, columns=COLUMNS):
    if path.suffix == ".csv":
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
    else:
        path.write_text("\n".join(json.dumps(dict(zip(columns, row))) for row in rows), encoding="utf-8")
    return path


def by_split(task, count=400):
    """Split -> its pairs as sets of prompts; splits without any are left out."""
    found = {}
    for split in SPLITS:
        try:
            texts = task.pairs(count, split, fewer=True).texts
        except ValueError:
            continue
        found[split] = [frozenset(texts[j : j + 2]) for j in range(0, len(texts), 2)]
    return found


def split_of(found):
    """Prompt -> its split; fails if there are two."""
    where = {}
    for split, pairs in found.items():
        for prompt in frozenset().union(*pairs):
            assert where.setdefault(prompt, split) == split, prompt
    return where


def row(a, b):
    return (f"x{a} = (", "1", f"x{b} = (", " None")


ends = st.integers(0, 40)
graphs = st.lists(st.tuples(ends, ends), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graphs, st.booleans(), st.randoms(use_true_random=False))
def test_no_prompt_is_in_two_splits(tmp_path, edges, as_csv, chance):
    rows = [row(a, b) for a, b in edges] + [row(b, a) for a, b in edges if chance.random() < 0.5]
    path = tmp_path / ("g.csv" if as_csv else "g.jsonl")
    found = by_split(load_task(written(path, rows), TOKENIZER))
    where = split_of(found)
    # A pair in both orders is one pair.
    for pairs in found.values():
        assert len(set(pairs)) == len(pairs)
    # Every pair of different prompts is somewhere.
    assert sum(map(len, found.values())) == len({frozenset(edge) for edge in edges if edge[0] != edge[1]})
    # Neither the order of rows nor that of prompts within one matters.
    chance.shuffle(rows)
    turned = [(*r[2:], *r[:2]) if chance.random() < 0.5 else r for r in rows]
    assert split_of(by_split(load_task(written(path, turned), TOKENIZER))) == where


def test_about_60_20_20_percent_of_groups(tmp_path):
    found = by_split(load_task(written(tmp_path / "g.jsonl", [row(2 * i, 2 * i + 1) for i in range(300)]), TOKENIZER))
    assert [round(len(found[split]) / 300, 1) for split in SPLITS] == [0.6, 0.2, 0.2]


def test_prompts_that_are_the_same_to_the_model_are_one(tmp_path):
    """Line ends of other systems, and texts that the tokenizer makes the same tokens of."""
    rows = [(f"x = {i}\nif x", " ==", f"x = {i}\nx", " =") for i in range(60)]
    dos = [tuple(cell.replace("\n", end) for cell in r) for r, end in zip(rows, ["\r\n", "\r"] * 30)]
    for name in ("d.csv", "d.jsonl"):
        both = load_task(written(tmp_path / name, [r for pair in zip(rows, dos) for r in pair]), TOKENIZER)
        found = by_split(both)
        split_of(found)
        assert sum(map(len, found.values())) == 60
        assert not any("\r" in text for text in both.pairs(9).texts)
    words = [(f"(' w{i} w{j}", " ')", f'(" w{j} w{i}', ' ")') for i in range(8) for j in range(i)]
    spaced = [tuple(cell.replace(" ", "  ") for cell in r) for r in words]
    task = load_task(written(tmp_path / "s.jsonl", words + spaced), ToyTokenizer())
    ids = [set(task.pairs(99, split, fewer=True).prompts()) for split in SPLITS]
    assert sum(map(len, ids)) == len(set().union(*ids)) == 2 * len(words)


def test_one_group_that_takes_everything_is_explained(tmp_path):
    task = load_task(written(tmp_path / "chain.csv", [row(i, i + 1) for i in range(50)]), TOKENIZER)
    message = "has 50 pairs, which shared prompts bind into 1 groups, none of which falls into .*; give more pairs with prompts of their own"
    empty = [split for split in SPLITS if split not in by_split(task)]
    assert len(empty) == 2
    for split in empty:
        with pytest.raises(ValueError, match=message):
            task.pairs(2, split)


@pytest.mark.parametrize("name", ["q.csv", "q.jsonl"])
def test_published_columns(name, tmp_path):
    rows = [(f"print('w{i}", "')", f'print("w{i}', '")', "7") for i in range(40)]
    task = load_task(written(tmp_path / name, rows, (*PUBLISHED_COLUMNS, "difficulty")), TOKENIZER)
    pairs = task.pairs(8)
    for j in range(8):
        single, double = pairs.texts[2 * j : 2 * j + 2]
        assert single.startswith("print('")
        assert double == single.replace("'", '"')
        assert [TOKENIZER.decode([i]) for i in pairs.answers[2 * j].tolist()] == ["')", '")']
        assert [TOKENIZER.decode([i]) for i in pairs.answers[2 * j + 1].tolist()] == ['")', "')"]
    same = load_task(written(tmp_path / f"own_{name}", [r[:4] for r in rows]), TOKENIZER)
    assert same.pairs(8, seed=3).prompts() != []
    assert split_of(by_split(same)) == split_of(by_split(task))


OURS, THEIRS = ({c: f"{c}({i}" for i, c in enumerate(columns)} for columns in (COLUMNS, PUBLISHED_COLUMNS))
WRONG = [
    ([{"text": "a", "label": "b"}], r"Row 1 of .* has no columns of a pair \(it has text, label\)"),
    ([{"clean": "a", "corrupted": "b", "answer_a": "c", "answer_b": "d"}], "Row 1 of .* mixes two forms"),
    ([{**OURS, **THEIRS}], "Row 1 of .* mixes two forms"),
    ([OURS, THEIRS], "Row 2 of .* has other columns than the rows before"),
    ([THEIRS, OURS], "Row 2 of .* has other columns than the rows before"),
    ([THEIRS, {**THEIRS, "corrupted": ""}], "Row 2 of .* has no text in corrupted"),
    ([{"clean": "a"}], "Row 1 of .* has no text in correct_answer"),
    ([{**OURS, "answer_a": 3}], "Row 1 of .* has no text in answer_a"),
    ([{**OURS, "prompt_b": "\ud800"}], "Row 1 of .* has half of a character"),
    ([], "has no pairs"),
]


@pytest.mark.parametrize(("rows", "message"), WRONG)
def test_files_of_another_form_are_explained(rows, message, tmp_path):
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(
        ValueError, match=message + ".*prompt_a.*clean, correct_answer, corrupted, incorrect_answer|half"
    ) as error:
        load_task(tmp_path / "x.jsonl", TOKENIZER)
    assert len(str(error.value).splitlines()) == 1
    if rows and all(isinstance(cell, str) and cell.isascii() and cell for each in rows for cell in each.values()):
        columns = list(dict.fromkeys(c for each in rows for c in each))
        written(tmp_path / "x.csv", [[each.get(c, "") for c in columns] for each in rows], columns)
        with pytest.raises(ValueError, match=r"Row \d of .*prompt_a, .*clean, "):
            load_task(tmp_path / "x.csv", TOKENIZER)


def overlapping(values, wording):
    """Draws without heeding the split: few different pairs, the same in all splits."""
    words = " ".join(f"w{values.random.randrange(12)}" for _ in range(2)) + " w1" * 18
    return (f"(' {words}", " ')"), (f'(" {words}', ' ")')


def test_pruning_decides_on_prompts_that_masks_were_not_trained_on():
    model, task = toy_model(), make_task("overlapping", overlapping, ToyTokenizer())
    means = mean_activations(model, toy_blocks())
    config = dataclasses.replace(QUICK, steps=10, eval_pairs=48)
    drawn = task.pairs(48, "validation", seed=config.seed).prompts()
    trained = {*training_pairs(task, config).prompts(), *task.pairs(48, "train").prompts()}  # of masks, and of attribution
    assert trained & set(drawn)
    search = Search(model, task, means, config)
    assert not trained & set(search.pairs.prompts())
    assert len(search.pairs) == 48  # others were drawn instead
    circuit = prune(model, ToyTokenizer(), task, means, config)
    look = Examination(circuit, model, task, 24, 1)
    assert not trained & set(look.sets["validation"].prompts())
    assert not {*trained, *search.pairs.prompts()} & set(look.sets["test"].prompts())


def test_that_nothing_is_left_to_decide_on_is_said():
    few = make_task(
        "few",
        lambda v, wording: overlapping(type("V", (), {"random": random.Random(v.random.randrange(9))}), 0),
        ToyTokenizer(),
    )
    assert pool_size(QUICK) > 9
    with pytest.raises(ValueError, match=r"few gives only 0 of 8 pairs in validation/main .* in another split too"):
        deciding_pairs(few, QUICK)
    model = toy_model()
    means = mean_activations(model, toy_blocks())
    with pytest.raises(ValueError, match="in another split too"):
        prune(model, ToyTokenizer(), few, means, QUICK)
    assert (
        prune(model, ToyTokenizer(), few, means, QUICK, force=True).metrics["held_out"] is False
    )  # for controls, and recorded


def test_built_in_tasks_lose_nothing():
    for name in ("single_double_quote", "class_init", "var_if"):
        task = load_task(name, TOKENIZER)
        config = PruneConfig(steps=20)
        assert deciding_pairs(task, config).texts == task.pairs(64, "validation").texts


def test_pairs_in_both_orders_are_one_whatever_makes_them():
    def either(values, wording):
        pair = overlapping(values, wording)
        return pair if values.random.random() < 0.5 else pair[::-1]

    pairs = make_task("either", either, ToyTokenizer()).pairs(144, fewer=True)
    assert len({frozenset(pairs.texts[j : j + 2]) for j in range(0, 2 * len(pairs), 2)}) == len(pairs) > 100
    same = make_task("same", lambda v, wording: (("(' w1", " ')"), ("(' w1", ' ")')), ToyTokenizer())
    with pytest.raises(ValueError, match="both prompts are"):
        same.pairs(1)


def test_circuits_that_were_found_on_other_splits_are_not_verified(tmp_path):
    rows = [(f"(' w{i} w{j}" + " w1" * 18, " ')", f'(" w{i} w{j}' + " w1" * 18, ' ")') for i in range(12) for j in range(12)]
    task = load_task(written(tmp_path / "quotes.jsonl", rows), ToyTokenizer())
    model = toy_model()
    circuit = prune(model, ToyTokenizer(), task, mean_activations(model, toy_blocks()), QUICK)
    assert verify(circuit, model, ToyTokenizer(), task, pairs=8, controls=False, seeds=1).found["scores"]["test"]
    older = {key: value for key, value in circuit.settings.items() if key != "splits"}
    with pytest.raises(ValueError, match=r"split row by row, .*; prune it again\.$"):
        verify(dataclasses.replace(circuit, settings=older), model, ToyTokenizer(), task, pairs=8, controls=False, seeds=1)


def test_csv_cells_keep_their_line_breaks(tmp_path):
    with open(tmp_path / "mine.csv", "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt_a", "answer_a", "prompt_b", "answer_b"])
        writer.writerows([[f"x = {i}\nif x", " ==", f"x = {i}\nx", " ="] for i in range(40)])
    texts = load_task(tmp_path / "mine.csv", CSPTokenizer.from_folder(ROOT)).pairs(3).texts
    assert all("\n" in text for text in texts)
    (tmp_path / "wide.csv").write_text("prompt_a,answer_a,prompt_b,answer_b\n" + "x" * 200_000 + ",a,b,c\n")
    with pytest.raises(ValueError, match="is no CSV"):
        load_task(tmp_path / "wide.csv", ToyTokenizer())
    (tmp_path / "my pairs.csv").write_text("prompt_a,answer_a,prompt_b,answer_b\na,b,c,d\n")
    with pytest.raises(ValueError, match="cannot name a task"):
        load_task(tmp_path / "my pairs.csv", ToyTokenizer())
