"""Edges on a path from an embedding to an answer, against a walk over every path, and by what gradients can reach."""

import torch

from sparse_circuits.circuits import ablated, edges_in
from sparse_circuits.circuits.ablation import recorded_scales
from sparse_circuits.circuits.edges import Edges
from sparse_circuits.circuits.means import watching
from sparse_circuits.circuits.paths import on_path
from sparse_circuits.circuits.sites import edge_maps
from tiny import sparse_pair
from toy import EDGES, NODES, toy_model

ANSWERS = torch.tensor([2, 3])


def places(edges):
    return {name: {(int(s), int(t)) for s, t in zip(each.source, each.target)} for name, each in edges.items()}


def nodes_of(model, chosen=None):
    return {name: torch.arange(site.width) for name, site in model.node_sites().items()} if chosen is None else chosen


def test_of_the_known_circuit_every_edge_is_on_a_path_and_of_the_distractor_none():
    model = toy_model("distractor")
    every = edges_in(model, nodes_of(model))
    found = places(on_path(model, nodes_of(model), every, ANSWERS))
    assert found == EDGES
    assert sum(map(len, places(every).values())) > sum(map(len, found.values()))


def test_a_path_that_is_cut_takes_everything_before_and_after_with_it():
    model = toy_model()
    nodes = {name: torch.tensor(indices) for name, indices in NODES.items()}
    edges = edges_in(model, nodes)
    without_last = {name: each for name, each in edges.items() if name != "1.attn.v->1.attn.resid_delta"}
    assert on_path(model, nodes, without_last, ANSWERS) == {}
    without_type = {**edges, "0.mlp.post_act->0.mlp.resid_delta": _only(edges["0.mlp.post_act->0.mlp.resid_delta"], {(0, 2)})}
    left = places(on_path(model, nodes, without_type, ANSWERS))
    # The value is constant now, but the head's pattern still moves with the quote: what it makes of a constant is on the path.
    assert left["1.attn.act_in->1.attn.k"] == {(2, 0)}
    assert "1.attn.act_in->1.attn.v" not in left
    assert left["0.mlp.act_in->0.mlp.post_act"] == {(0, 0), (1, 0)}


def _only(edges, wanted):
    stays = torch.tensor([(int(s), int(t)) in wanted for s, t in zip(edges.source, edges.target)])
    return Edges(*(part[stays] for part in edges))


def test_answers_that_no_channel_tells_have_no_paths():
    model = toy_model()
    assert on_path(model, nodes_of(model), edges_in(model, nodes_of(model)), torch.tensor([5])) == {}


def test_what_moves_and_moves_an_answer_is_on_a_path():
    """In a random sparse model with all nodes open and the norms' scales held: an edge whose source varies, and whose weight has a gradient from the
    answers' logits."""
    model, _ = sparse_pair(share=0.05, seed=3, n_layer=2)
    every = edges_in(model, nodes_of(model))
    marked = places(on_path(model, nodes_of(model), every, torch.tensor([7, 9])))
    ids = torch.arange(20).view(2, 10)
    with torch.no_grad(), recorded_scales(model) as scales:
        model(ids)
    with ablated(model, {}, freeze_norms=scales), watching(model) as seen:
        logits = model(ids, use_cache=False).logits
        (logits[..., 7].square().sum() + logits[..., 9].square().sum()).backward()
    checked = 0
    for name, part in edge_maps(model).items():
        grad, varies = part.module.weight.grad[part.rows], seen[part.mean_name].flatten(0, 1).std(0) > 1e-6
        for source, target in places(every).get(name, ()):
            if abs(float(grad[target, source])) > 1e-6 and varies[source]:
                assert (source, target) in marked.get(name, set()), (name, source, target)
                checked += 1
    assert 20 < checked < sum(map(len, places(every).values()))
