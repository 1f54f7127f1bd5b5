"""Planted circuits are what they are said to be: they do the task alone, nothing of them can go, and nothing else in the model helps."""

import json
import random
import shutil

import pytest
import torch

from sparse_circuits import CSPConfig, CSPForCausalLM, CSPTokenizer
from sparse_circuits.circuits import Circuit, PruneConfig, capability, prune, score
from sparse_circuits.circuits.attribution import edge_attribution
from sparse_circuits.circuits.candidates import Search, chosen
from sparse_circuits.circuits.known import PROGRAMS, Known, made_up_words, plant
from sparse_circuits.circuits.masks import as_nodes
from sparse_circuits.circuits.scoring import task_loss
from sparse_circuits.circuits.sites import edge_maps
from tiny import ROOT

TARGET = PruneConfig.target_loss


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """program -> a planted model, made when it is first asked for."""
    made: dict[str, Known] = {}

    def of(program):
        if program not in made:
            made[program] = plant(program, tmp_path_factory.mktemp(program) / "known", seed=1)
        return made[program]

    return of


def places(edges):
    return [(name, int(s), int(t)) for name, each in edges.items() for s, t in zip(each.source, each.target)]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_known_circuit_does_the_task_and_needs_every_part(planted, program):
    known = planted(program)
    able = capability(known.model, known.task)
    assert able.passes
    assert able.score.first_guess > 0.95
    search = Search(known.model, known.task, known.means, PruneConfig())
    assert len(known.copies) == (2 if program == "two_copies" else 1)
    for circuit in known.copies:
        assert search.loss(circuit.nodes, circuit.edges) < 0.12
        for edge in places(circuit.edges):
            without = chosen(circuit.edges, [each for each in places(circuit.edges) if each != edge])
            assert search.loss(circuit.nodes, without) > TARGET, edge
        nodes = [(name, int(i)) for name, each in circuit.nodes.items() for i in each]
        for node in nodes:
            rest = as_nodes([each for each in nodes if each != node], search.sites)
            assert search.loss(rest) > TARGET, node


@pytest.mark.parametrize("program", PROGRAMS)
def test_without_its_circuits_the_model_is_at_chance(planted, program):
    """Channels, heads and neurons of the known circuits held at their means in the whole model: the host and its decoys do not do the task."""
    from sparse_circuits.circuits.ablation import ablated, holding

    known, changes = planted(program), {}
    for name, fill in known.copies[0].fills.items():
        open_ = torch.ones(len(fill), dtype=torch.bool)
        for circuit in known.copies:
            open_[circuit.nodes.get(name, [])] = False
        changes[name] = holding(open_, fill)
    with ablated(known.model, changes):
        assert score(known.model, known.task.pairs(64, "test")).preference < 0.75


def test_the_host_touches_nothing_that_was_planted(planted):
    """Brute force over the weights: what leads into or out of a planted node is an edge of the circuit, or there is none."""
    known = planted("bracket_counting")
    circuit = known.copies[0]
    own = set(places(circuit.edges))
    for name, part in edge_maps(known.model).items():
        source, target = name.split("->")
        sources, targets = (set(circuit.nodes.get(each, torch.tensor([])).tolist()) for each in (source, target))
        for t, s in part.weight().nonzero().tolist():
            if s in sources or t in targets:
                assert (name, s, t) in own


def test_pruning_that_must_survive_resampling_finds_exactly_it(planted):
    known = planted("quote_closing")
    circuit = prune(known.model, known.tokenizer, known.task, known.means, PruneConfig(steps=100, ablation="resample", draws=2))
    assert circuit.metrics["reached"]
    assert known.score(circuit) == dict.fromkeys(("node_recall", "node_precision", "edge_recall", "edge_precision"), 1.0)


def test_scores_can_fail(planted):
    known = planted("two_copies")
    one, two = known.copies
    assert set(known.score(one).values()) == set(known.score(two).values()) == {1.0}
    assert set(known.score_of({}, {}).values()) == {0.0}
    half = known.score_of({name: each for name, each in one.nodes.items() if "attn" in name}, {})
    assert half["node_precision"] == 1
    assert half["node_recall"] < 1
    assert half["edge_recall"] == 0
    both = {name: torch.cat([one.nodes.get(name, torch.tensor([], dtype=torch.long)), two.nodes.get(name, torch.tensor([], dtype=torch.long))])
            for name in {*one.nodes, *two.nodes}}  # fmt: skip
    assert known.score_of(both, {})["node_precision"] == 0.5


def test_the_folder_is_a_model_like_any_other(planted, tmp_path):
    known = planted("quote_closing")
    again = Known.from_pretrained(known.folder)
    assert again.program == "quote_closing"
    assert again.task.origin == known.task.origin
    assert torch.equal(again.means.values["final_resid"], known.means.values["final_resid"])
    circuit = Circuit.from_pretrained(known.folder, "known")
    assert circuit.find_task(known.tokenizer, known.folder / "task.jsonl").pairs(4, "test").texts
    assert json.loads((known.folder / "known.json").read_text())["copies"] == ["known"]
    other = plant("quote_closing", tmp_path / "same", seed=1)
    assert other.copies[0].model["weights"] == circuit.model["weights"]  # a seed says it all


def test_planted_in_a_trained_model(tmp_path):
    host, tokenizer = CSPForCausalLM.from_pretrained(ROOT), CSPTokenizer.from_pretrained(ROOT)
    before = host.lm_head.weight.clone()
    known = plant("quote_closing", tmp_path / "known", host, tokenizer)
    assert torch.equal(before, host.lm_head.weight)
    assert capability(known.model, known.task).passes


def test_edge_attribution_against_finite_differences(planted):
    """With one step the path is the prompt itself: for weights close to their means' effect, the slope of what taking an edge away costs."""
    known = planted("quote_closing")
    pairs = known.task.pairs(8, "train")
    fills = known.means.values
    scores = edge_attribution(known.model, fills, torch.zeros(known.model.config.d_model), pairs, steps=1)
    maps, small = edge_maps(known.model), 1e-3
    rng = random.Random(0)
    for edge in rng.sample(places(known.copies[0].edges), 3):
        name, s, t = edge
        part = maps[name]
        with torch.no_grad():
            weight, bias = part.module.weight, part.module.bias
            row, old = part.rows.start + t, part.module.weight[part.rows.start + t, s].clone()
            losses = []
            for sign in (1, -1):  # a share of the edge gives way to its source's mean
                weight[row, s] = old * (1 - sign * small)
                bias[row] += sign * small * old * fills[part.mean_name][s]
                losses.append(float(task_loss(known.model, pairs)))
                bias[row] -= sign * small * old * fills[part.mean_name][s]
            weight[row, s] = old
        assert float(scores[name][t, s]) == pytest.approx((losses[0] - losses[1]) / (2 * small), rel=0.1, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no_such",), "is no program; they are quote_closing"),
        (("quote_closing", {"size": "huge"}), "is no size of host; they are small"),
        (("quote_closing", {"host": {"bias": False}}), "bias=True; this host has another config"),
        (("quote_closing", {"host": {"tie_word_embeddings": True}}), "tie_word_embeddings=False"),
        (("two_copies", {"host": {"d_model": 6, "n_head": 2, "d_head": 3}}), "no channel left for this program"),
    ],
)
def test_what_cannot_be_planted_says_why(tmp_path, arguments, said):
    options = dict(arguments[1]) if len(arguments) > 1 else {}
    if "host" in options:
        config = {"vocab_size": 401, "block_size": 64, "n_layer": 2, "n_head": 4, "d_head": 4, "d_model": 16, "d_mlp": 16, "enable_bigram_table": True,
                  **options["host"]}  # fmt: skip
        options = {"host": CSPForCausalLM(CSPConfig(**config)), "tokenizer": made_up_words()}
    with pytest.raises(ValueError, match=said):
        plant(arguments[0], tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "document",
    ["[]", "{}", '{"program": "quote_closing", "copies": ["../../elsewhere"]}', '{"program": "x", "copies": ["known"]}', "{"],
)
def test_a_folder_that_plant_did_not_write_is_refused(planted, tmp_path, document):
    folder = tmp_path / "folder"
    shutil.copytree(planted("quote_closing").folder, folder)
    (folder / "known.json").write_text(document)
    with pytest.raises(ValueError, match="give a folder that plant wrote"):
        Known.from_pretrained(folder)


def test_a_program_that_does_not_work_is_refused(tmp_path, monkeypatch):
    right = PROGRAMS["quote_closing"]
    monkeypatch.setitem(PROGRAMS, "quote_closing", right._replace(answers=right.answers[::-1]))
    with pytest.raises(ValueError, match="quote_closing does not work in this host"):
        plant("quote_closing", tmp_path / "x")
    assert not (tmp_path / "x").exists()
