"""Pruning finds the circuit that is known, and nothing that could be smaller."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparse_circuits.circuits.candidates as candidates
from sparse_circuits.circuits import (
    CannotDo,
    Circuit,
    PruneConfig,
    capability,
    edges_in,
    make_task,
    mean_activations,
    prune,
    score,
    verify,
)
from sparse_circuits.circuits.candidates import Search, chosen
from sparse_circuits.circuits.masks import Masks, as_nodes, ranked, train_masks
from sparse_circuits.circuits.shrink import shrink, smallest_prefix
from tiny import tiny_model
from toy import CONFIG, EDGES, NODES, WORDS, ToyTokenizer, toy_blocks, toy_model, toy_task

QUICK = {"steps": 30, "pairs": 8, "eval_pairs": 32}


def found(kind, **settings):
    model = toy_model(kind)
    means = mean_activations(model, toy_blocks())
    return model, prune(model, ToyTokenizer(), toy_task(), means, PruneConfig(**{**QUICK, **settings}))


def shape(circuit):
    nodes = {name: indices.tolist() for name, indices in circuit.nodes.items()}
    return nodes, {name: set(zip(e.source.tolist(), e.target.tolist())) for name, e in circuit.edges.items()}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["plain", "distractor"])
def test_the_known_circuit_is_recovered_exactly(kind, seed):
    model, circuit = found(kind, seed=seed)
    assert shape(circuit) == (NODES, EDGES)
    assert (circuit.num_nodes, circuit.num_edges) == (12, 9)
    assert circuit.metrics["reached"]
    assert circuit.metrics["circuit"]["loss"] <= 0.15
    test = toy_task().pairs(32, "test").to(model.device)
    with circuit.applied_to(model):
        assert score(model, test).loss <= 0.15
        assert score(model, test).preference == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_of_two_copies_no_more_than_one_copys_size_is_kept(seed):
    """Redundant parts are not needed together: the circuit is no larger than with one head, and one head attends. Which parts of the
    copies are kept is not unique, so `verify` reports how often seeds agree, and that the circuit is not necessary."""
    model, circuit = found("redundant", seed=seed)
    assert len(circuit.nodes["1.attn.k"]) == 1
    assert circuit.num_nodes <= 12
    assert circuit.num_edges <= 9
    everything = {name: torch.arange(site.width) for name, site in model.node_sites().items()}
    assert sum(len(e.source) for e in edges_in(model, everything).values()) == 12


def test_frozen_norms_and_tied_masks_find_it_too():
    _, circuit = found("plain", freeze_norms=True)
    assert shape(circuit) == (NODES, EDGES)
    _, circuit = found("plain", tie_qk=True)
    assert shape(circuit) == (NODES, EDGES)


def test_attribution_is_there_as_a_baseline():
    model = toy_model("distractor")
    circuit = prune(
        model, ToyTokenizer(), toy_task(), mean_activations(model, toy_blocks()), PruneConfig(**QUICK), method="attribution"
    )
    assert circuit.metrics["reached"]
    assert circuit.settings["method"] == "attribution"


def test_no_edge_or_node_can_go():
    model = toy_model("distractor")
    task, means = toy_task(), mean_activations(model, toy_blocks())
    config = PruneConfig(**QUICK, target_loss=0.3)
    circuit = prune(model, ToyTokenizer(), task, means, config)
    search = Search(model, task, means, config)
    places = [(name, int(s), int(t)) for name, e in circuit.edges.items() for s, t in zip(e.source, e.target)]
    assert search.loss(circuit.nodes, circuit.edges) <= 0.3
    for place in places:
        assert search.loss(circuit.nodes, chosen(circuit.edges, [p for p in places if p != place])) > 0.3, place
    for name, indices in circuit.nodes.items():
        for i in indices.tolist():
            rest = {**circuit.nodes, name: indices[indices != i]}
            assert search.loss({k: v for k, v in rest.items() if len(v)}, chosen(circuit.edges, places)) > 0.3, (name, i)


def test_the_same_seed_gives_the_same_circuit():
    one, two = (found("plain", seed=3)[1] for _ in range(2))
    assert shape(one) == shape(two)
    assert one.metrics["history"] == two.metrics["history"]
    assert all(torch.equal(one.scores[name], two.scores[name]) for name in one.scores)


def test_the_model_comes_back_as_it_was():
    model = toy_model()
    ids = toy_blocks(4)
    before, wanted = model(ids).logits, [p.requires_grad for p in model.parameters()]
    prune(model, ToyTokenizer(), toy_task(), mean_activations(model, toy_blocks()), PruneConfig(**QUICK))
    assert torch.equal(model(ids).logits, before)
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_gate_refuses_what_the_model_cannot_do():
    model = toy_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    means = mean_activations(model, toy_blocks())
    with pytest.raises(CannotDo, match=r"cannot do quotes: it prefers the right answer on 0% of prompts, under 95%"):
        prune(model, ToyTokenizer(), toy_task(), means, PruneConfig(**QUICK))
    circuit = prune(model, ToyTokenizer(), toy_task(), means, PruneConfig(**QUICK), force=True)
    assert not circuit.metrics["reached"]


def test_the_discretised_k_is_the_smallest():
    """Brute force over every k on a tiny model, with scores that make loss anything but monotone."""
    model = toy_model("distractor")
    task, means = toy_task(), mean_activations(model, toy_blocks())
    search = Search(model, task, means, PruneConfig(**QUICK, freeze_norms=False))
    scores = {
        name: torch.rand(width, generator=torch.Generator().manual_seed(i))
        for i, (name, width) in enumerate(search.widths.items())
    }
    ranking = ranked(scores)
    every = [search.loss(as_nodes(ranking[:k], search.sites)) for k in range(len(ranking) + 1)]
    assert any(b > a + 1e-3 for a, b in itertools.pairwise(every))
    nodes, curve = search.discretise(ranking, len(ranking))
    first = next(k for k, loss in enumerate(every) if loss <= 0.15)
    assert sum(map(len, nodes.values())) == first
    assert curve[-1] == [first, every[first]]


def test_ties_are_broken_in_forward_order():
    scores = {"0.attn.act_in": torch.full((3,), -1.0), "final_resid": torch.tensor([0.5, -1.0])}
    assert ranked(scores) == [
        ("final_resid", 0),
        ("0.attn.act_in", 0),
        ("0.attn.act_in", 1),
        ("0.attn.act_in", 2),
        ("final_resid", 1),
    ]


@given(st.sets(st.frozensets(st.integers(0, 7), min_size=1), min_size=1, max_size=6))
def test_shrinking_leaves_nothing_that_could_go(enough):
    """`fits` holds for sets that contain one of several enough sets: any such result must be exactly one of the minimal ones."""

    def fits(items):
        return any(need <= set(items) for need in enough)

    kept = shrink(range(8), fits)
    assert fits(kept)
    assert all(not fits([i for i in kept if i != gone]) for gone in kept)


@given(st.lists(st.booleans(), max_size=12))
def test_shrinking_copes_with_loss_that_is_not_monotone(flags):
    def fits(items):
        return len(items) == 8 or (len(items) < len(flags) and flags[len(items)])

    kept = shrink(range(8), fits)
    assert fits(kept)
    assert not kept or not fits(kept[1:])


@given(st.sets(st.frozensets(st.integers(0, 7), min_size=1), min_size=1, max_size=6))
def test_one_by_one_nothing_is_tried_twice(enough):
    tried = []

    def fits(items):
        tried.append(frozenset(items))
        return any(need <= set(items) for need in enough)

    kept = shrink(range(8), fits, 1)
    assert len(set(tried)) == len(tried)
    assert all(frozenset(kept) - {gone} in tried for gone in kept)


@pytest.mark.parametrize("ablation", ["mean", "mix"])
def test_effects_do_not_depend_on_how_prompts_are_batched(ablation, monkeypatch):
    model = toy_model("distractor")
    means = mean_activations(model, toy_blocks(), samples=64)
    search = Search(model, toy_task(), means, PruneConfig(eval_pairs=12, ablation=ablation, draws=1))
    nodes = {name: torch.arange(width) for name, width in search.widths.items()}
    edges, found = edges_in(model, nodes), []
    for size in (100, 5, 1):
        monkeypatch.setattr(candidates, "EFFECT_PAIRS", size)
        found.append((search._node_effects(nodes), search._edge_effects(nodes, edges)))
    for node_effects, edge_effects in found[1:]:
        for name, each in found[0][0].items():
            assert torch.allclose(each, node_effects[name], atol=1e-6)
        assert edge_effects == pytest.approx(found[0][1], abs=1e-6)


def test_the_smallest_prefix_is_found_by_scanning():
    assert smallest_prefix(10, lambda k: k in (4, 9)) == 4
    assert smallest_prefix(3, lambda k: False) is None


def test_long_rankings_are_bisected_with_a_scan_around_what_is_found():
    asked = []

    def fits(k):
        asked.append(k)
        return k >= 4321 or k in (4300, 77)

    assert smallest_prefix(40_000, fits) == 4300  # not monotone nearby: found; far away (77) it is not looked for
    assert len(asked) < 60
    assert smallest_prefix(40_000, lambda k: False) is None
    assert smallest_prefix(40_000, lambda k: True) == 0
    assert smallest_prefix(40_000, lambda k: k == 40_000) == 40_000


WRONG = [
    ({"target_loss": 0.0}, "must be above 0"),
    ({"lr": "0.01"}, "lr is '0.01'; it must be a number"),
    ({"seed": 0.5}, "must be a whole number"),
    ({"edges": 1}, "must be true or false"),
    ({"ablation": ["mean"]}, "must be a word"),
    ({"steps": 0}, "whole number of at least 1"),
    ({"k_coef": -1.0}, "at least 0"),
    ({"ablation": "median"}, "must be one of mean, zero, resample, mix, adversarial"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_settings_that_cannot_work_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        PruneConfig(**settings)


def test_means_of_another_model_are_refused():
    model, other = toy_model(), toy_model()
    means = mean_activations(model, toy_blocks())
    del means.values["1.attn.v"]
    with pytest.raises(ValueError, match=r"no 1\.attn\.v of this model's width"):
        prune(other, ToyTokenizer(), toy_task(), means, PruneConfig(**QUICK))
    with pytest.raises(ValueError, match="method is 'magic'"):
        prune(model, ToyTokenizer(), toy_task(), mean_activations(model, toy_blocks()), method="magic")


def test_edges_are_the_nonzeros_between_nodes():
    model = toy_model()
    everything = {name: torch.arange(site.width) for name, site in model.node_sites().items()}
    edges = edges_in(model, everything)
    assert {name: set(zip(e.source.tolist(), e.target.tolist())) for name, e in edges.items()} == EDGES
    weight = model.transformer.h[1].attn.c_attn.weight
    assert edges["1.attn.act_in->1.attn.k"].weight.tolist() == weight[8, 2:3].tolist()
    sparse = model.to_sparse(max_density=1.0)
    assert {name: e.weight.tolist() for name, e in edges_in(sparse, everything).items()} == {
        name: e.weight.tolist() for name, e in edges.items()
    }


def test_a_task_that_the_bigram_table_does_has_an_empty_circuit():
    """Found on else_elif: nothing is needed, so nothing is kept, and verify gives that no level but that it agrees."""
    model = tiny_model(vocab_size=16, enable_bigram_table=True)
    with torch.no_grad():
        model.bigram_table.logit_bias.zero_()
        model.bigram_table.logit_bias[4, 2] = model.bigram_table.logit_bias[5, 3] = 20.0
        model.lm_head.weight.mul_(0.1)

    def last_word(values, wording):
        """The last word says it."""
        pool = {"train": WORDS[2:5], "validation": WORDS[5:8], "test": WORDS[8:]}[values.split]
        words = " ".join(values.random.choices(pool, k=5))
        return (f"{words} w0", " ')"), (f"{words} w1", ' ")')

    task = make_task("bigram", last_word, ToyTokenizer())
    task = dataclasses.replace(task, families=("main",))
    circuit = prune(model, ToyTokenizer(), task, mean_activations(model, toy_blocks()), PruneConfig(**QUICK))
    assert (circuit.num_nodes, circuit.num_edges) == (0, 0)
    report = verify(circuit, model, ToyTokenizer(), task, pairs=8, controls=False, seeds=1)
    assert not any(report.levels[name] for name in ("prefers", "produces", "mechanism", "robust", "only one"))
    assert "everything ablated 100%" in report.verdict[0]


def test_an_interrupted_search_leaves_the_best_so_far(tmp_path, monkeypatch):
    model = toy_model("distractor")
    means = mean_activations(model, toy_blocks())

    def stop(self, nodes, edges, chunk):
        raise KeyboardInterrupt

    monkeypatch.setattr(Search, "_fewer_edges", stop)
    with pytest.raises(KeyboardInterrupt):
        prune(model, ToyTokenizer(), toy_task(), means, PruneConfig(**QUICK), out=tmp_path)
    kept = Circuit.from_pretrained(tmp_path)
    assert kept.metrics["reached"]
    assert kept.edges is None
    assert kept.num_nodes == 12
    assert not any(module._forward_hooks for module in model.modules())


def test_stopping_mask_training_goes_on_with_the_masks_as_they_are():
    model = toy_model()
    means = mean_activations(model, toy_blocks())
    masks = Masks(model, {name: means.values[name] for name in model.node_sites()}, PruneConfig(**QUICK))

    def report(step, loss, nodes):
        if step == 20:
            raise KeyboardInterrupt

    assert len(train_masks(masks, toy_task(), report)) == 21
    assert any(p.requires_grad for p in model.parameters())


def test_small_files_are_enough_for_the_gate_and_pruning():
    def few(values, wording):
        return (f"(' w1 w2 w{values.random.randrange(10)}", " ')"), ('(" w1 w2 w3 w4', ' ")')

    model, task = toy_model(), make_task("few", few, ToyTokenizer())
    assert capability(model, task).score.count == 2 * 10
    assert prune(model, ToyTokenizer(), task, mean_activations(model, toy_blocks()), CONFIG, force=True).num_nodes > 0


def test_edge_effects_count_every_pair():
    model = toy_model("distractor")
    means = mean_activations(model, toy_blocks())
    nodes = {name: torch.arange(site.width) for name, site in model.node_sites().items()}
    search_ = Search(model, toy_task(), means, dataclasses.replace(CONFIG, eval_pairs=66))
    every = search_._edge_effects(nodes, edges_in(model, nodes))
    halves = []
    for part in (search_.pairs.part(0, 33), search_.pairs.part(33, 66)):
        search_.decide_on(part)
        halves.append(search_._edge_effects(nodes, edges_in(model, nodes)))
    for place, effect in every.items():
        assert effect == pytest.approx((halves[0][place] + halves[1][place]) / 2, rel=1e-3, abs=1e-6)


def test_modes_are_left_as_they_were():
    model = toy_model().train()
    with torch.no_grad():
        means = mean_activations(model, toy_blocks())
        found = prune(model, ToyTokenizer(), toy_task(), means, CONFIG)
    assert model.training
    assert {name: indices.tolist() for name, indices in found.nodes.items()} == NODES


def test_a_task_of_another_tokenizer_is_refused():
    model, other = toy_model(), type("Other", (ToyTokenizer,), {"get_vocab": lambda self: {"a": 0}})()
    with pytest.raises(ValueError, match="another tokenizer than the one given"):
        prune(model, other, toy_task(), mean_activations(model, toy_blocks()), CONFIG)
