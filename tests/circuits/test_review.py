"""Faults that a hostile reading found, each once reproduced: they must not come back."""

import csv
import dataclasses

import pytest
import torch

from sparse_circuits import CSPTokenizer
from sparse_circuits.circuits import (
    Circuit,
    PruneConfig,
    ablated,
    edges_in,
    gate,
    load_task,
    make_task,
    mean_activations,
    prune,
    verify,
)
from sparse_circuits.circuits.identity import weights_sha256
from sparse_circuits.circuits.prune import _Search
from sparse_circuits.circuits.search import search
from sparse_circuits.circuits.verify import _Look
from sparse_circuits.cli.circuits import prune_config
from tiny import ROOT, tiny_ids, tiny_model
from toy import NODES, ToyTokenizer, toy_blocks, toy_model, toy_task

CONFIG = PruneConfig(steps=150, pairs=8, eval_pairs=32)


@pytest.fixture(scope="module")
def circuit():
    model = toy_model()
    return prune(model, ToyTokenizer(), toy_task(), mean_activations(model, toy_blocks()), CONFIG)


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


def test_small_files_are_enough_for_the_gate_and_pruning():
    def few(values, wording):
        return (f"(' w1 w2 w{values.random.randrange(10)}", " ')"), ('(" w1 w2 w3 w4', ' ")')

    model, task = toy_model(), make_task("few", few, ToyTokenizer())
    assert gate(model, task).score.count == 2 * 10
    assert prune(model, ToyTokenizer(), task, mean_activations(model, toy_blocks()), CONFIG, force=True).num_nodes > 0


def test_a_search_of_another_model_is_refused(tmp_path):
    model, other = toy_model(), toy_model("redundant")
    config = dataclasses.replace(CONFIG, steps=30)
    search(model, ToyTokenizer(), toy_task(), mean_activations(model, toy_blocks()), config, trials=1, out=tmp_path)
    with pytest.raises(ValueError, match="search with another model"):
        search(other, ToyTokenizer(), toy_task(), mean_activations(other, toy_blocks()), config, trials=1, out=tmp_path)
    (tmp_path / "study.sqlite3").write_bytes(b"no database")
    with pytest.raises(ValueError, match="cannot be read"):
        search(model, ToyTokenizer(), toy_task(), mean_activations(model, toy_blocks()), config, trials=1, out=tmp_path)


def test_other_ablations_reach_removed_edges_too():
    model = tiny_model()
    means = mean_activations(model, tiny_ids(8, 16))
    task = dataclasses.replace(toy_task())
    nodes = {name: torch.arange(site.width) for name, site in model.node_sites().items()}
    base = prune(
        toy_model(), ToyTokenizer(), task, mean_activations(toy_model(), toy_blocks()), dataclasses.replace(CONFIG, steps=20)
    )
    whole = dataclasses.replace(
        base, nodes=nodes, edges={}, means=means.values, widths={n: s.width for n, s in model.node_sites().items()}, scores={}
    )
    found = _Look(whole, model, task, 8, 1).ablations(tiny_ids(8, 16))
    assert len({round(found[name], 6) for name in ("as_found", "zero", "resample", "worst_case")}) == 4
    assert found["worst_case"] > found["as_found"]


def test_frozen_norms_hold_in_every_measurement(circuit):
    model = toy_model()
    frozen = dataclasses.replace(circuit, settings={**circuit.settings, "freeze_norms": True})
    look = _Look(frozen, model, toy_task(), 8, 1)
    seen = []
    original = look.model.register_forward_pre_hook

    def register(hook, **options):
        seen.append(hook)
        return original(hook, **options)

    look.model.register_forward_pre_hook = register  # frozen norms record by such a hook
    for measure in (look.interchange, lambda: look._nothing(look.sets["test"]), look.necessity, look.faithfulness):
        before = len(seen)
        measure()
        assert len(seen) > before


def test_a_circuit_without_edges_of_its_own_exports_all_between_its_nodes(circuit):
    model, bare = toy_model(), dataclasses.replace(circuit, edges=None)
    assert set(bare.to_networkx(model).edges) == set(circuit.to_networkx().edges)
    with pytest.raises(ValueError, match="pass the model"):
        bare.to_networkx()


def test_prompts_that_pruning_saw_are_left_out_of_the_test(circuit):
    def repeating(values, wording):
        end = f"w{values.random.randrange(12)} w{values.random.randrange(12)} w{values.random.randrange(2)}"
        words = "w1 " * 18 + end
        return (f"(' {words}", " ')"), (f'(" {words}', ' ")')

    model = toy_model()
    task = make_task("repeating", repeating, ToyTokenizer())
    assert task.families == ("main",)
    found = prune(
        model,
        ToyTokenizer(),
        task,
        mean_activations(model, toy_blocks()),
        dataclasses.replace(CONFIG, steps=40, pairs=4, eval_pairs=8),
    )
    report = verify(found, model, ToyTokenizer(), task, pairs=32, controls=False, seeds=1)
    train = set(task.pairs(160, "train", fewer=True).texts)
    look = _Look(found, model, task, 32, 1)
    assert not train & set(look.sets["test"].texts)
    assert any("seen in pruning" in text for text in report.found["left_out"])


def test_edge_effects_count_every_pair():
    model = toy_model("distractor")
    means = mean_activations(model, toy_blocks())
    nodes = {name: torch.arange(site.width) for name, site in model.node_sites().items()}
    search_ = _Search(model, toy_task(), means, dataclasses.replace(CONFIG, eval_pairs=66))
    every = search_._edge_effects(nodes, edges_in(model, nodes))
    halves = []
    for part in (search_.pairs.part(0, 33), search_.pairs.part(33, 66)):
        search_.pairs = part
        halves.append(search_._edge_effects(nodes, edges_in(model, nodes)))
    for place, effect in every.items():
        assert effect == pytest.approx((halves[0][place] + halves[1][place]) / 2, rel=1e-3, abs=1e-6)


def test_settings_that_decide_the_function_are_part_of_the_identity(circuit):
    model = toy_model()
    before = weights_sha256(model)
    model.config.activation_type = "gelu"
    assert weights_sha256(model) != before
    with pytest.raises(ValueError, match="not this model's"), circuit.applied_to(model):
        pass


def test_frozen_norms_change_nothing_in_bfloat16(features):
    model, ids = tiny_model(**features).to(torch.bfloat16), tiny_ids()
    if features.get("norm_type") == "layer_norm":
        pytest.skip("torch's LayerNorm sums bfloat16 in its own way")
    with torch.no_grad():
        expected = model(ids).logits
        with ablated(model, {}, freeze_norms=True):
            assert (model(ids).logits - expected).abs().median() < 0.05


def test_modes_are_left_as_they_were():
    model = toy_model().train()
    with torch.no_grad():
        means = mean_activations(model, toy_blocks())
        found = prune(model, ToyTokenizer(), toy_task(), means, CONFIG)
    assert model.training
    assert {name: indices.tolist() for name, indices in found.nodes.items()} == NODES


def test_a_kill_between_the_two_moves_leaves_the_older_circuit(circuit, tmp_path, monkeypatch):
    import os

    circuit.save_pretrained(tmp_path)
    changed, moves = dataclasses.replace(circuit, scores={}, labels={"final_resid:4": "new"}), []
    original = os.replace

    def dies(source, target):
        if str(target).endswith("circuit.json"):
            raise KeyboardInterrupt
        moves.append(target)
        original(source, target)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        changed.save_pretrained(tmp_path)
    assert moves
    assert Circuit.from_pretrained(tmp_path).labels == {}
    monkeypatch.undo()
    changed.save_pretrained(tmp_path)
    assert Circuit.from_pretrained(tmp_path).labels == changed.labels
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circuit.json", "circuit.safetensors"]


def test_a_task_of_another_tokenizer_is_refused():
    model, other = toy_model(), type("Other", (ToyTokenizer,), {"get_vocab": lambda self: {"a": 0}})()
    with pytest.raises(ValueError, match="another tokenizer than the one given"):
        prune(model, other, toy_task(), mean_activations(model, toy_blocks()), CONFIG)


def test_small_things():
    assert prune_config(0.15, ["lr=1e-3"]).lr == 1e-3
    for setting in ("lr=[1", "lr=" + "9" * 400, "warmup=1"):
        with pytest.raises(ValueError, match=r"must be"):
            prune_config(0.15, [setting])
    with pytest.raises(ValueError, match="at least 2"):
        PruneConfig(eval_pairs=1)
