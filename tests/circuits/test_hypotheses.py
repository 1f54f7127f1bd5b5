"""Explanations of nodes: scored against brute force, right where the truth is known, and silent where there is nothing to say."""

import dataclasses
import json

import pytest
import torch
from typer.testing import CliRunner

from sparse_circuits.circuits import Circuit
from sparse_circuits.circuits.ablation import ablated, recorded_scales
from sparse_circuits.circuits.edges import removed_edges
from sparse_circuits.circuits.hypotheses import Hypotheses, Stage, Stand, explain_circuit, explain_node, labels_of, rule_of
from sparse_circuits.circuits.known import plant
from sparse_circuits.circuits.masks import opened
from sparse_circuits.circuits.outcome import last_logits, losses
from sparse_circuits.cli.app import app


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return plant("quote_closing", tmp_path_factory.mktemp("known") / "model", seed=2)


@pytest.fixture(scope="module")
def words(known):
    """Name of a word of the program -> its text."""
    said = json.loads((known.folder / "known.json").read_text())["words"]
    return {name: known.tokenizer.decode([token]) for name, token in said.items()}


def node(known, location):
    """The known circuit's node at a site, where it has one."""
    (index,) = known.copies[0].nodes[location].tolist()
    return f"{location}:{index}"


def test_a_node_that_reads_one_token_is_explained_by_it(known, words):
    found = explain_node(
        known.model, known.tokenizer, node(known, "0.attn.q"), known.blocks, task=known.task, circuit=known.copies[0]
    )
    assert found["name"] == f"the token is {words['close']!r}"
    assert (found["precision"], found["recall"], found["says_something"]) == (1.0, 1.0, True)
    assert found["kept"] == pytest.approx(1, abs=0.05)
    assert found["chance"] < 0.1 and found["shuffled"] < 0.3  # noqa: PT018


def test_figures_by_brute_force(known, words):
    q = node(known, "0.attn.q")
    wrong = f"the token is {words[chr(39)]!r}"
    found = explain_node(known.model, known.tokenizer, q, known.blocks, wrong, task=known.task, circuit=known.copies[0])
    assert found["precision"] == found["recall"] == found["f1"] == 0
    assert found["kept"] < 0.3  # what is left is its average on prompts
    assert not found["says_something"]
    everywhere = explain_node(known.model, known.tokenizer, q, known.blocks, "a name")  # every made-up word is one
    half = known.blocks[len(known.blocks) // 2 :]
    share = (half == known.tokenizer.encode(words["close"], add_special_tokens=False)[0]).float().mean()
    assert everywhere["precision"] == pytest.approx(float(share), abs=0.02)  # "if" and the like are keywords
    assert everywhere["recall"] == 1


def test_what_is_kept_is_1_for_the_node_itself_and_0_for_its_mean(known, words):
    circuit, q = known.copies[0], node(known, "0.attn.q")
    site, index = q.split(":")
    mean = float(circuit.means[site][int(index)])
    stage = Stage(known.model, known.tokenizer, known.task.pairs(16, "test"), circuit)
    stand = Stand(stage, q, mean)
    assert stand.matters
    close = rule_of(f"the token is {words['close']!r}")
    level = float(known.means.high[site][int(index)])
    holds = stage.holds(close)
    assert stand.kept(holds, (0.0, level)) == pytest.approx(1, abs=0.05)
    assert stand.levels(close) == pytest.approx((0.0, level), rel=0.3)
    assert stand.kept(holds, (mean, mean)) == pytest.approx(0, abs=1e-6)
    assert stand.kept(holds, (0.0, -level)) < 0  # worse than nothing
    assert stand.by_chance(holds, (0.0, level)) < 0.5
    other = next(i for i in range(len(circuit.means[site])) if i != int(index))
    idle = Stand(Stage(known.model, known.tokenizer, known.task.pairs(8, "test"), circuit), f"{site}:{other}", 0.0)
    assert not idle.matters


@pytest.mark.parametrize("text", ["'", '"', "\n", "')", '("', "\\", " x", "\t", "'\"", "the token is"])
def test_the_name_of_a_token_says_which_it_is(text):
    assert list(rule_of(f"the token is {text!r}")([text, "other", text + "x"])) == [True, False, False]


def test_replacing_a_node_does_not_move_the_frozen_norms(known):
    """By hand: scales of the unpruned model, the circuit's other nodes as ever, this one at its mean."""
    circuit, v = known.copies[0], node(known, "0.attn.v")
    site, index = v.split(":")
    pairs = known.task.pairs(8, "test")
    stand = Stand(Stage(known.model, known.tokenizer, pairs, circuit), v, float(circuit.means[site][int(index)]))
    without = dataclasses.replace(
        circuit, nodes={name: each for name, each in circuit.nodes.items() if name != site}, edges=None
    )
    with recorded_scales(known.model) as scales, torch.no_grad():
        last_logits(known.model, pairs)
    removed = dict(removed_edges(known.model, circuit.nodes, circuit.edges).items())
    with (
        ablated(known.model, opened(without.nodes, without.fills), removed=removed, means=circuit.means, freeze_norms=scales),
        torch.no_grad(),
    ):
        by_hand = losses(last_logits(known.model, pairs).gather(1, pairs.answers)).mean()
    assert stand.without == pytest.approx(float(by_hand), rel=1e-5)


def test_a_dense_node_that_follows_a_predicate_is_told_from_one_that_does_not(known):
    hypotheses = Hypotheses(known.tokenizer, known.blocks)
    noise = 0.2 * torch.randn(known.blocks.shape, generator=torch.Generator().manual_seed(1))
    some = known.blocks % 7 == 0
    hypotheses.ready["by sevens"] = some
    found = hypotheses.best(noise + some)
    assert (found.name, found.says_something) == ("by sevens", True)
    assert not hypotheses.best(noise).says_something


def test_nothing_is_said_of_activations_in_no_order(known):
    hypotheses = Hypotheses(known.tokenizer, known.blocks)
    generator = torch.Generator().manual_seed(0)
    for share in (0.02, 0.25, 0.6):
        noise = torch.randn(known.blocks.shape, generator=generator) * (
            torch.rand(known.blocks.shape, generator=generator) < share
        )
        assert not hypotheses.best(noise).says_something
    assert not hypotheses.best(torch.zeros(known.blocks.shape)).says_something


def test_a_predicate_of_ones_own(known, words, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        f"def closes(texts):\n    return [text == {words['close']!r} for text in texts]\n\ndef short(texts):\n    return [True]\n"
        "def ahead(texts):\n    return [i + 1 < len(texts) for i in range(len(texts))]\n"
        "def fails(texts):\n    return 1 / 0\ndef none(texts):\n    return None\n"
    )
    found = explain_node(known.model, known.tokenizer, node(known, "0.attn.q"), known.blocks, f"{file}:closes")
    assert found["f1"] == 1
    for function, said in (
        ("short", "gave 1 values for"),
        ("ahead", "looks ahead"),
        ("fails", "ZeroDivisionError"),
        ("none", "TypeError"),
    ):
        with pytest.raises(ValueError, match=said):
            rule_of(f"{file}:{function}")
    (tmp_path / "bad.py").write_text("def f(:\n")
    with pytest.raises(ValueError, match="cannot be run"):
        rule_of(f"{tmp_path / 'bad.py'}:f")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("in a strin", "is no predicate; they are in a string"),
        ("no_such.py:f", "does not exist"),
        ("{here}/mine.py:g", "has no function g"),
    ],
)
def test_what_is_no_predicate_is_refused(tmp_path, given, said):
    (tmp_path / "mine.py").write_text("x = 1\n")
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        rule_of(given.format(here=tmp_path))


def test_labels_land_in_the_circuit_file_and_do_not_replace_a_persons(known, words):
    folder = known.folder / "circuits" / "known"
    circuit = Circuit.from_pretrained(folder)
    mine = node(known, "0.attn.k")
    circuit.labels = {mine: "a quote, I think"}
    circuit.save_pretrained(folder)
    found = explain_circuit(known.model, known.tokenizer, circuit, known.blocks, known.task)
    assert set(found) == {f"{site}:{int(i)}" for site, each in circuit.nodes.items() for i in each}
    done = CliRunner().invoke(app, ["explain", str(known.folder), str(folder), "--task", str(known.folder / "task.jsonl")])
    assert done.exit_code == 0, done.output
    labels = Circuit.from_pretrained(folder).labels
    assert labels[mine] == "a quote, I think"
    assert labels[node(known, "0.attn.q")].startswith(f"the token is {words['close']!r} (keeps 1")
    assert set(labels) == {mine, *labels_of(found)}


def test_from_the_command_line(known):
    q = node(known, "0.attn.q")
    done = CliRunner().invoke(app, ["node", str(known.folder), q, "--explains", "best"])
    assert done.exit_code == 0, done.output
    assert "F1 1.00" in done.output
    done = CliRunner().invoke(app, ["node", str(known.folder), q, "--explains", "nonsense"])
    assert done.exit_code == 2
    assert "is no predicate" in done.output
    assert CliRunner().invoke(app, ["node", str(known.folder), q, "--task", "x"]).exit_code == 2
