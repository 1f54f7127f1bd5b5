"""Attacks from circuits: found where a hand-written circuit has the weakness, and not where the model has another way."""

import pytest
import torch
from typer.testing import CliRunner

from sparse_circuits.circuits import make_task, mean_activations
from sparse_circuits.circuits.attack import attack, fillers, lengthened
from sparse_circuits.circuits.known import plant
from sparse_circuits.cli.app import app
from toy import ToyTokenizer, toy_blocks, toy_circuit, toy_model


@pytest.fixture(scope="module")
def brackets(tmp_path_factory):
    return plant("bracket_counting", tmp_path_factory.mktemp("brackets") / "model", seed=3)


def test_long_lists_dilute_an_average_and_the_model_fails_where_its_circuit_says(brackets):
    rows = attack(brackets.copies[0], brackets.model, brackets.tokenizer, brackets.task, counts=(2, 16), pairs=24)
    as_is, few, many = rows
    assert (as_is.circuit_wrong, as_is.model_wrong, as_is.where_predicted) == (0, 0, None)
    assert few.circuit_wrong < many.circuit_wrong == pytest.approx(0.5, abs=0.05)  # two brackets become one; one stays one
    assert many.where_predicted > 0.95
    assert many.elsewhere < 0.05  # as long, and right
    assert many.examples


def test_a_second_copy_saves_the_model(tmp_path):
    known = plant("two_copies", tmp_path / "model", seed=0)
    rows = attack(known.copies[0], known.model, known.tokenizer, known.task, counts=(32,), pairs=24)
    assert rows[-1].circuit_wrong > 0.3  # the copy in the first layer is diluted
    assert rows[-1].model_wrong < 0.2


def test_fillers_are_what_a_pair_has_in_common(brackets):
    pairs = brackets.task.pairs(32, "validation")
    found = set(fillers(pairs))
    for one, two in zip(pairs.prompts()[0::2], pairs.prompts()[1::2]):
        differ = {a for a, b in zip(one, two) if a != b} | {b for a, b in zip(one, two) if a != b}
        assert not {one[-1], *pairs.answers.flatten().tolist()} & found  # what asks, and what answers
        assert len(differ) == 2  # the second bracket, and the filler that stands there in the other prompt
    longer = lengthened(pairs, [min(found)] * len(pairs), 5, sorted(found), brackets.tokenizer, 0)
    assert torch.equal(longer.answers, pairs.answers)
    for before, after in zip(pairs.prompts(), longer.prompts()):
        kept = [token for token in after if token != min(found)]
        assert kept == [token for token in before if token != min(found)]
        assert len(after) == len(before) + 5
    for one, two in zip(longer.prompts()[0::2], longer.prompts()[1::2]):
        assert len(one) == len(two)


def test_the_block_is_not_exceeded_and_the_wrong_circuit_is_refused(brackets):
    rows = attack(brackets.copies[0], brackets.model, brackets.tokenizer, brackets.task, counts=(8, 1000), pairs=4)
    assert [row.count for row in rows] == [0, 8]
    other = toy_model()
    with pytest.raises(ValueError, match="belongs to a model of another shape"):
        attack(brackets.copies[0], other, brackets.tokenizer, brackets.task)


def test_a_task_without_fillers_is_refused():
    def bare(values, wording):
        word = values.random.choice(["w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8"])
        other = values.random.choice(["w9", "w10", "w11"])
        return (f"(' {word}", " ')"), (f'(" {other}', ' ")')

    model = toy_model()
    means = mean_activations(model, toy_blocks())
    task = make_task("bare", bare, ToyTokenizer())
    with pytest.raises(ValueError, match="there is no filler"):
        attack(toy_circuit(model, means, task="bare"), model, ToyTokenizer(), task, pairs=8)


def test_from_the_command_line(brackets, tmp_path):
    task = str(brackets.folder / "task.jsonl")
    done = CliRunner().invoke(app, ["attack", str(brackets.folder), "known", "--task", task, "--pairs", "8"])
    assert done.exit_code == 0, done.output
    assert "both fail, for example, after" in done.output
    done = CliRunner().invoke(app, ["plant", "quote_closing", str(tmp_path / "planted")])
    assert done.exit_code == 0, done.output
    assert "known (8 nodes, 4 edges)" in done.output
    assert CliRunner().invoke(app, ["plant", "quote_closing", str(tmp_path / "planted")]).exit_code == 2
    assert CliRunner().invoke(app, ["plant", "no_such", str(tmp_path / "other")]).exit_code == 2
