"""Attacks from circuits: found where a hand-written circuit has the weakness, and not where the model has another way."""

import dataclasses

import pytest
import torch
from typer.testing import CliRunner

from sparse_circuits import CSPTokenizer
from sparse_circuits.circuits import load_task, make_task, mean_activations
from sparse_circuits.circuits.attack import attack, fillers, inserted, lengthened
from sparse_circuits.circuits.known import plant
from sparse_circuits.cli.app import app
from tiny import ROOT
from toy import ToyTokenizer, toy_blocks, toy_circuit, toy_model


@pytest.fixture(scope="module")
def brackets(tmp_path_factory):
    return plant("bracket_counting", tmp_path_factory.mktemp("brackets") / "model", seed=3)


def test_long_lists_dilute_an_average_and_the_model_fails_where_its_circuit_says(brackets):
    rows = attack(brackets.copies[0], brackets.model, brackets.tokenizer, brackets.task, counts=(1, 2, 16), pairs=48)
    as_is, one, two, many = rows
    assert (as_is.circuit_wrong, as_is.model_wrong, as_is.where_predicted) == (0, 0, None)
    assert (
        one.circuit_wrong < two.circuit_wrong < many.circuit_wrong == pytest.approx(0.5, abs=0.05)
    )  # two brackets become one; one stays one
    for row in (one, two):  # among prompts of the same right answer, lengthened as much
        assert row.where_predicted > 0.85
        assert row.elsewhere < 0.15
    assert many.where_predicted is None  # it fails on all of them: nothing is left to compare with
    assert many.examples


def test_a_constant_predicts_nothing(brackets):
    """A circuit of no nodes, whose means always say one bracket, is wrong on all prompts with two, and says nothing of which the model fails on."""
    circuit = brackets.copies[0]
    fills = {name: each.clone() for name, each in circuit.means.items()}
    (deep,) = circuit.nodes["final_resid"].tolist()
    fills["final_resid"][deep] = -fills["final_resid"].abs().max() * 10
    constant = dataclasses.replace(circuit, nodes={}, edges={}, means=fills)
    for row in attack(constant, brackets.model, brackets.tokenizer, brackets.task, counts=(2, 16), pairs=24):
        assert row.circuit_wrong == 0.5
        assert row.where_predicted is row.elsewhere is None


def test_a_second_copy_saves_the_model(tmp_path):
    known = plant("two_copies", tmp_path / "model", seed=0)
    rows = attack(known.copies[0], known.model, known.tokenizer, known.task, counts=(32,), pairs=24)
    assert rows[-1].circuit_wrong > 0.3  # the copy in the first layer is diluted
    assert rows[-1].model_wrong < 0.2


def test_fillers_are_what_a_pair_has_in_common(brackets):
    pairs = brackets.task.pairs(32, "validation")
    found = set(fillers(pairs, brackets.tokenizer))
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


def test_text_of_ones_own_goes_where_it_is_said(brackets):
    pairs = brackets.task.pairs(4, "test")
    place, word = pairs.texts[0][:3], brackets.tokenizer.decode([fillers(pairs, brackets.tokenizer)[0]])
    alike = pairs.at(j for j in range(len(pairs)) if all(place in text for text in pairs.texts[2 * j : 2 * j + 2]))
    for before, after in zip(alike.texts, inserted(alike, word, place, 3, brackets.tokenizer).texts):
        assert after == before.replace(place, place + 3 * word, 1)
    with pytest.raises(ValueError, match="to put the filler after"):
        attack(brackets.copies[0], brackets.model, brackets.tokenizer, brackets.task, filler=word, after="nowhere")
    with pytest.raises(ValueError, match="give both"):
        attack(brackets.copies[0], brackets.model, brackets.tokenizer, brackets.task, filler=word)
    with pytest.raises(ValueError, match="Not even 99 copies"):
        attack(brackets.copies[0], brackets.model, brackets.tokenizer, brackets.task, counts=(99,))


def test_prompts_whose_tokens_are_not_words_have_no_fillers_of_their_own():
    tokenizer = CSPTokenizer.from_pretrained(ROOT)
    for name in ("class_init", "set_or_string", "bracket_counting", "if_equals"):
        assert fillers(load_task(name, tokenizer).pairs(16, "validation"), tokenizer) == []


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
    with pytest.raises(ValueError, match="has no whole words that both prompts"):
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
