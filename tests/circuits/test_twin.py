"""Node mode, edge mode, frozen norms and resampled fills against a plain second implementation."""

import pytest
import torch
from plain_circuit import plain_logits, plain_scales

from sparse_circuits.circuits import ablated, edges_in, mean_activations
from sparse_circuits.circuits.ablation import recorded_scales
from sparse_circuits.circuits.conditions import drawn
from sparse_circuits.circuits.edges import Edges
from sparse_circuits.circuits.masks import opened
from tiny import STREAM, tiny_ids, tiny_model


@pytest.fixture
def case(features):
    """A model in float64, its means and samples, every other node open, a third of the edges removed."""
    model = tiny_model(**features).double()
    means = mean_activations(model, tiny_ids(8, 16, seed=3), samples=40)
    nodes = {name: torch.arange(i % 2, site.width, 2) for i, (name, site) in enumerate(model.node_sites().items())}
    removed = {name: Edges(*(part[::3] for part in edges)) for name, edges in edges_in(model, nodes).items()}
    return model, means, nodes, removed


def sets(removed):
    return {name: {(int(s), int(t)) for s, t in zip(each.source, each.target)} for name, each in removed.items()}


@pytest.mark.parametrize("frozen", [False, "call", "given"])
@pytest.mark.parametrize("kind", ["mean", "prompt", "position"])
def test_a_circuit_is_what_the_method_says(case, kind, frozen):
    model, means, nodes, removed = case
    ids = tiny_ids(3, 11, seed=7)
    fills = means.values
    if kind != "mean":
        fills = drawn(means.samples, 3, 1 if kind == "prompt" else 11, torch.Generator().manual_seed(0))
    at_nodes = {name: fills[name] for name in model.node_sites()}
    with torch.no_grad():
        expected = {
            "nodes": plain_logits(model, ids, nodes, fills, scales=plain_scales(model, ids) if frozen else None),
            "edges": plain_logits(model, ids, nodes, fills, sets(removed), plain_scales(model, ids) if frozen else None),
        }
        with recorded_scales(model) as scales:
            whole = model(ids).logits
        freeze = {"call": True, "given": scales}.get(frozen, False)
        for mode, cut in (("nodes", None), ("edges", removed)):
            with ablated(model, opened(nodes, at_nodes), removed=cut, means=fills, freeze_norms=freeze):
                found = model(ids, use_cache=False).logits
            assert (found - expected[mode]).abs().max() < 1e-6, mode
    assert (expected["nodes"] - expected["edges"]).abs().max() > 1e-3
    assert (whole - expected["nodes"]).abs().max() > 1e-3


def test_also_with_abstopk_on_the_stream():
    model, ids = tiny_model(**STREAM).double(), tiny_ids(3, 11, seed=7)
    with torch.no_grad():
        found = model(ids).logits
        assert (found - plain_logits(model, ids)).abs().max() < 1e-10
        less = {name: share for name, share in STREAM["afrac"].items() if name != "resid_pre"}
        assert (found - tiny_model(afrac=less).double()(ids).logits).abs().max() > 1e-3


def test_the_plain_model_is_the_model(case):
    model, *_ = case
    ids = tiny_ids(3, 11, seed=7)
    with torch.no_grad():
        assert (model(ids).logits - plain_logits(model, ids)).abs().max() < 1e-10
