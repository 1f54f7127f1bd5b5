"""Candidates run by what they need are the candidates run whole, and save what they are there to save."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sparse_circuits.circuits import PruneConfig, ablated, edges_in, mean_activations
from sparse_circuits.circuits.ablation import recorded_scales
from sparse_circuits.circuits.candidates import Search
from sparse_circuits.circuits.edges import Edges, removed_edges
from sparse_circuits.circuits.examination import Examination
from sparse_circuits.circuits.hooks import frozen
from sparse_circuits.circuits.hypotheses import Stage
from sparse_circuits.circuits.masks import opened
from sparse_circuits.circuits.narrow import Narrow
from sparse_circuits.circuits.outcome import losses
from sparse_circuits.circuits.tasks import Pairs
from tiny import STREAM, sparse_pair, tiny_ids, tiny_model
from toy import NODES, toy_blocks, toy_circuit, toy_model, toy_task


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_what_is_needed_gives_what_the_whole_gives(features, edges, seed, form):
    equal(features, edges, seed, form)


def test_also_with_abstopk_on_the_stream():
    equal(STREAM, True, 0)


def equal(features, edges, seed, form="dense"):
    model = (tiny_model(**features) if form == "dense" else sparse_pair(**features)[1]).double()
    means = mean_activations(model, tiny_ids(8, 16, seed=3))
    generator = torch.Generator().manual_seed(seed)
    nodes = {}
    for name, site in model.node_sites().items():
        open_ = (torch.rand(site.width, generator=generator) < (0.0, 0.3, 0.9)[seed]).nonzero()[:, 0]
        if len(open_):
            nodes[name] = open_
    if seed == 1:  # one sublayer that writes nothing
        nodes.pop("0.attn.resid_delta", None)
    removed = {name: Edges(*(part[::3] for part in each)) for name, each in edges_in(model, nodes).items()} if edges else None
    fills = {name: means.values[name] for name in model.node_sites()}
    ids, answers = tiny_ids(3, 11, seed=7), torch.tensor([4, 9, 50])
    narrow = Narrow(model, fills)
    with torch.no_grad(), recorded_scales(model) as scales:
        model(ids, use_cache=False)
    freeze = False if seed == 1 else scales
    with torch.no_grad(), ablated(model, opened(nodes, fills), removed=removed, means=means.values, freeze_norms=freeze):
        whole = model(ids, use_cache=False).logits
        with narrow.running(nodes):
            found = model(ids, use_cache=False).logits
        with narrow.running(nodes, answers):
            few = model(ids, use_cache=False).logits
        again = model(ids, use_cache=False).logits
    with (
        torch.no_grad(),
        ablated(model, opened(nodes, fills), freeze_norms=freeze),
        narrow.running(nodes, None, removed, means.values),
    ):
        cut = model(ids, use_cache=False).logits
    assert (cut - whole).abs().max() < 1e-9
    assert (found - whole).abs().max() < 1e-9
    assert (few - whole)[..., answers].abs().max() < 1e-9
    assert torch.equal(again, whole)  # nothing of it stays


def test_it_multiplies_what_is_open_and_no_more(monkeypatch):
    model = tiny_model()
    means = mean_activations(model, tiny_ids(8, 16, seed=3))
    fills = {name: means.values[name] for name in model.node_sites()}
    nodes = {"0.mlp.act_in": torch.tensor([1, 2]), "0.mlp.post_act": torch.tensor([3]), "0.mlp.resid_delta": torch.tensor([0])}
    narrow, done = Narrow(model, fills), []
    linear = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda x, w, b=None: done.append(w.numel()) or linear(x, w, b))
    with torch.no_grad(), ablated(model, opened(nodes, fills)), narrow.running(nodes, torch.tensor([5])):
        model(tiny_ids(2, 5), use_cache=False)
    assert sum(done) == 2 * 1 + 1 * 1 + model.config.d_model  # c_fc, c_proj, one answer


@pytest.mark.parametrize("sparse", [False, True])
def test_a_search_decides_by_it_and_counts_by_the_whole(sparse):
    model = toy_model()
    means = mean_activations(model, toy_blocks())
    model = model.to_sparse(max_density=1.0) if sparse else model
    search = Search(model, toy_task(), means, PruneConfig(steps=1, eval_pairs=8))
    nodes = {name: torch.tensor(each) for name, each in NODES.items()}
    assert search.loss(nodes) == pytest.approx(search.loss(nodes, whole=True), abs=1e-5)
    assert len(search._narrow) == 1


def test_nonzeros_between_open_nodes_are_multiplied_and_no_more(monkeypatch):
    import sparse_circuits.circuits.narrow as lean

    model = sparse_pair()[1]
    means = mean_activations(model, tiny_ids(8, 16, seed=3))
    nodes = {"0.mlp.act_in": torch.tensor([1, 2]), "0.mlp.post_act": torch.arange(20), "0.mlp.resid_delta": torch.tensor([0])}
    fills, done, product = {name: means.values[name] for name in model.node_sites()}, [], lean.sparse_product
    monkeypatch.setattr(lean, "sparse_product", lambda x, v, s, b: done.append(len(v)) or product(x, v, s, b))
    with torch.no_grad(), ablated(model, opened(nodes, fills)), Narrow(model, fills).running(nodes):
        model(tiny_ids(2, 5), use_cache=False)
    assert sum(done) == sum(len(each.source) for each in edges_in(model, nodes).values()) > 5


@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("frozen_norms", [False, True])
def test_the_search_for_the_worst_fills_goes_the_same_way(frozen_norms, form, monkeypatch):
    """Gradients to what closed nodes are held at are those of the whole model, and none is computed for a weight."""
    import sparse_circuits.circuits.narrow as lean

    model = toy_model("distractor").double()
    means = mean_activations(model, toy_blocks())
    circuit = toy_circuit(model, means)
    model = model.to_sparse(max_density=1.0) if form == "sparse" else model
    circuit.settings = {**circuit.settings, "eval_pairs": 8, "freeze_norms": frozen_norms}
    found = []
    for can in (True, False):
        monkeypatch.setattr(lean, "can_narrow", lambda model, fills, can=can: can)
        look = Examination(circuit, model, toy_task(), 8, 0, means)
        pairs, draw = look.sets["test"], torch.Generator().manual_seed(1)
        fills = {
            n: (each + torch.rand(each.shape, generator=draw)).double().requires_grad_() for n, each in means.values.items()
        }
        wanted = [p.requires_grad for p in model.parameters()]
        with frozen(model):
            loss = losses(look.masked(pairs, fills=fills, narrow=True).gather(1, pairs.answers)).mean()
            assert not any(p.requires_grad for p in model.parameters())
            grads = torch.autograd.grad(loss, list(fills.values()), allow_unused=True)
        assert [p.requires_grad for p in model.parameters()] == wanted
        found.append((loss.item(), [torch.zeros_like(f) if g is None else g for f, g in zip(fills.values(), grads)]))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-9)
    for one, other in zip(found[0][1], found[1][1]):
        assert (one - other).abs().max() < 1e-9
    assert max(float(g.abs().max()) for g in found[0][1]) > 1e-3


@pytest.mark.parametrize("frozen_norms", [False, True])
def test_a_node_is_replaced_in_what_the_circuit_needs_as_in_the_whole(features, frozen_norms):
    """Nodes of the circuit, and others, at every site; the layers before each are run once."""
    model = tiny_model(**features).double()
    means, generator = mean_activations(model, tiny_ids(8, 16, seed=3)).values, torch.Generator().manual_seed(1)
    fills = {name: means[name] for name in model.node_sites()}
    nodes = {
        name: (torch.rand(site.width, generator=generator) < 0.4).nonzero()[:, 0] for name, site in model.node_sites().items()
    }
    edges = {name: Edges(*(part[::2] for part in each)) for name, each in edges_in(model, nodes).items()}
    circuit = SimpleNamespace(nodes=nodes, edges=edges, means=means, fills=fills, settings={"freeze_norms": frozen_norms})
    pairs = Pairs(tiny_ids(6, 9, seed=5), torch.ones(6, 9, dtype=torch.int64), torch.tensor([[4, 9]] * 6), ("",) * 6)
    stage = Stage(model, SimpleNamespace(decode=str), pairs, circuit)
    with torch.no_grad(), recorded_scales(model) as scales:
        model(pairs.input_ids, use_cache=False)
    removed, opens = removed_edges(model, nodes, edges), opened(nodes, fills)
    for name, site in model.node_sites().items():
        for index in (0, site.width - 1):

            def change(out, index=index):
                return out.index_fill(-1, torch.tensor([index]), 0.7)

            held = {**opens, name: lambda out, name=name: change(opens[name](out.clone()))}
            with (
                torch.no_grad(),
                ablated(model, held, removed=removed, means=means, freeze_norms=scales if frozen_norms else False),
            ):
                logits = model(pairs.input_ids, use_cache=False).logits[:, -1]
            assert stage.loss(name, index, change) == pytest.approx(
                float(losses(logits.gather(1, pairs.answers)).mean()), abs=1e-9
            )
