"""Candidates that begin where they differ from the last one give what they give from the beginning, bit for bit."""

import pytest
import torch

from sparse_circuits.circuits import PruneConfig, ablated, edges_in, mean_activations, prune
from sparse_circuits.circuits.ablation import recorded_scales
from sparse_circuits.circuits.candidates import Search
from sparse_circuits.circuits.edges import Edges
from sparse_circuits.circuits.masks import opened
from sparse_circuits.circuits.prefix import Prefix, signatures
from tiny import tiny_ids, tiny_model
from toy import CONFIG, ToyTokenizer, toy_blocks, toy_model, toy_task


@pytest.mark.parametrize("frozen", [False, True])
def test_every_candidate_is_as_from_the_beginning(features, frozen):
    model = tiny_model(**features)
    means, ids = mean_activations(model, tiny_ids(8, 16, seed=3)), tiny_ids(3, 11, seed=7)
    draw = torch.Generator().manual_seed(0)
    nodes = {name: (torch.rand(site.width, generator=draw) < 0.6).nonzero()[:, 0] for name, site in model.node_sites().items()}
    with torch.no_grad(), recorded_scales(model) as scales:
        model(ids, use_cache=False)
    prefix, run, last = Prefix(model), [], model.config.n_layer - 1
    for block in model.transformer.h:
        block.attn.register_forward_hook(lambda module, *rest: run.append(module.layer_idx))

    def logits(nodes, edges, begun):
        removed = (
            None
            if edges is None
            else {n: Edges(*(part[::3] for part in e)) for n, e in edges_in(model, nodes).items() if n not in edges}
        )
        fills = {name: means.values[name] for name in model.node_sites()}
        with (
            torch.no_grad(),
            ablated(model, opened(nodes, fills), removed=removed, means=means.values, freeze_norms=scales if frozen else False),
        ):
            if not begun:
                return model(ids, use_cache=False).logits
            with prefix.running(signatures(model, nodes, edges)):
                return model(ids, use_cache=False).logits

    def without(site):
        return {name: each[1:] if name == site else each for name, each in nodes.items()}

    some = edges_in(model, nodes)
    fewer = {name: e for name, e in some.items() if not name.startswith(f"{last}.")}
    candidates = [(nodes, None, last + 1), (without(f"{last}.mlp.act_in"), None, last), (without("0.attn.v"), None, 0), (nodes, some, 0), (nodes, {}, 0),
                  (without("final_resid"), None, last + 1), (nodes, None, last + 1), (nodes, fewer, 0)]  # fmt: skip
    for kept in ((nodes, None), (nodes, some)):
        logits(*kept, True)
        prefix.keep()
        for candidate, edges, first in candidates:
            wanted = logits(candidate, edges, False)
            run.clear()
            assert torch.equal(logits(candidate, edges, True), wanted)
            if kept[1] is None:
                assert run == list(range(first, last + 1))
        run.clear()
        assert torch.equal(logits(nodes, fewer, True), logits(nodes, fewer, False))
    assert not any("forward" in vars(block) for block in model.transformer.h)


@pytest.mark.parametrize("ablation", ["mean", "mix"])
def test_a_search_finds_the_same_and_runs_less(ablation, monkeypatch):
    found, ran = [], []
    for begun in (True, False):
        model = toy_model("distractor")
        means = mean_activations(model, toy_blocks(), samples=64)
        count = []
        for block in model.transformer.h:
            block.mlp.register_forward_hook(lambda *a, count=count: count.append(1))
        if not begun:
            monkeypatch.setattr(Prefix, "keep", lambda self: None)
        config = PruneConfig(**{**CONFIG.to_dict(), "ablation": ablation, "draws": 1})
        circuit = prune(model, ToyTokenizer(), toy_task(), means, config)
        found.append(({n: i.tolist() for n, i in circuit.nodes.items()}, circuit.metrics))
        ran.append(len(count))
    assert found[0] == found[1]
    assert ran[0] < ran[1]


def test_other_pairs_begin_anew():
    model = toy_model()
    means = mean_activations(model, toy_blocks())
    search = Search(model, toy_task(), means, PruneConfig(steps=1, eval_pairs=8))
    nodes = {name: torch.arange(width) for name, width in search.widths.items()}
    search.loss(nodes)
    search.decide_on(search.pairs.part(2, 5))
    assert search.loss(nodes) == search.loss(nodes, whole=True)
