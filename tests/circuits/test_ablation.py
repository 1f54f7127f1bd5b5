"""Ablation: open is nothing, closed is constant, gradients by formula, edges by brute force."""

import pytest
import torch

from sparse_circuits.circuits import (
    ablated,
    edges_in,
    mean_activations,
)
from sparse_circuits.circuits.ablation import gated
from sparse_circuits.circuits.attribution import attribution
from sparse_circuits.circuits.edges import removed_edges
from sparse_circuits.circuits.masks import Masks, PruneConfig, opened
from sparse_circuits.circuits.scoring import task_loss
from sparse_circuits.circuits.sites import edge_maps, y_name
from sparse_circuits.circuits.tasks import Pairs
from tiny import FEATURES, tiny_ids, tiny_model


def everything(model):
    return {name: torch.arange(site.width) for name, site in model.node_sites().items()}


def fills_of(model, seed=3):
    return mean_activations(model, tiny_ids(8, 16, seed=seed)).values


def tiny_pairs(count=4, tokens=9):
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 97, (2 * count, tokens), generator=generator)
    answers = torch.stack([torch.randperm(97, generator=generator)[:2] for _ in range(2 * count)])
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    return Pairs(ids, mask, answers, tuple(map(str, range(2 * count))))


def test_all_open_is_the_unpruned_model_bit_for_bit(features):
    model, ids = tiny_model(**features), tiny_ids()
    means = fills_of(model)
    fills = {name: means[name] for name in model.node_sites()}
    with torch.no_grad():
        expected = model(ids).logits
        with ablated(model, opened(everything(model), fills), removed={}, means=means):
            assert torch.equal(model(ids).logits, expected)
        masks = Masks(model, fills, PruneConfig(freeze_norms=False))
        with masks.applied():
            assert torch.equal(model(ids).logits, expected)


def test_all_closed_is_constant_but_for_the_bigram_table(features):
    model, ids = tiny_model(**features), tiny_ids()
    fills = {name: value for name, value in fills_of(model).items() if name in model.node_sites()}
    with torch.no_grad(), ablated(model, opened({}, fills)):
        logits = model(ids).logits
        if model.bigram_table is not None:
            logits = logits - model.bigram_table(ids)
    assert torch.allclose(logits, logits[0, 0].expand_as(logits), atol=1e-6)


def test_ablation_through_hooks_is_that_of_a_forward_pass_written_by_hand():
    """One node of the MLP's input closed, by changing the matrix that reads it."""
    model, ids = tiny_model(), tiny_ids()
    means = fills_of(model)
    site = "0.mlp.act_in"
    keep = torch.arange(model.config.d_model) != 7
    with torch.no_grad():
        with ablated(
            model, opened({**everything(model), site: keep.nonzero()[:, 0]}, {n: means[n] for n in model.node_sites()})
        ):
            by_hook = model(ids).logits
        c_fc = model.transformer.h[0].mlp.c_fc
        c_fc.bias += c_fc.weight[:, 7] * means[site][7]
        c_fc.weight[:, 7] = 0
        assert torch.allclose(model(ids).logits, by_hook, atol=1e-5)


def test_the_gates_gradient_is_its_formula():
    importance = torch.tensor([0.3, -0.2, 0.0], requires_grad=True)
    out = torch.randn(2, 5, 3, requires_grad=True, generator=torch.Generator().manual_seed(0))
    fill, slope = torch.tensor([1.0, 2.0, 3.0]), torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    changed = gated(importance, fill, 0.7)(out)
    assert torch.equal(changed[..., 0], out[..., 0])
    assert bool((changed[..., 1] == 2).all() and (changed[..., 2] == 3).all())  # at exactly 0 a gate is closed
    (changed * slope).sum().backward()
    sigmoid = torch.sigmoid(importance.detach() / 0.7)
    expected = (slope * (out.detach() - fill)).sum((0, 1)) * sigmoid * (1 - sigmoid) / 0.7
    assert torch.allclose(importance.grad, expected, atol=1e-6)
    assert torch.equal(out.grad, slope * torch.tensor([1.0, 0.0, 0.0]))


def test_the_number_of_open_gates_and_its_gradient():
    model = tiny_model()
    masks = Masks(model, fills_of(model), PruneConfig(temperature=0.5))
    with torch.no_grad():
        masks.importance["0.attn.q"][:5] = -0.1
    count = masks.open_count()
    total = sum(site.width for site in model.node_sites().values())
    assert int(count) == total - 5
    count.backward()
    sigmoid = torch.sigmoid(masks.importance["0.attn.q"].detach() / 0.5)
    assert torch.allclose(masks.importance["0.attn.q"].grad, sigmoid * (1 - sigmoid) / 0.5)


def test_q_and_k_may_share_their_masks():
    model = tiny_model()
    masks = Masks(model, fills_of(model), PruneConfig(tie_qk=True))
    assert masks.importance["1.attn.k"] is masks.importance["1.attn.q"]
    assert len(masks.parameters()) == len(masks.importance) - 2


@pytest.mark.parametrize(
    "name",
    [
        "0.attn.act_in->0.attn.k",
        "1.attn.v->1.attn.resid_delta",
        "0.mlp.act_in->0.mlp.post_act",
        "1.mlp.post_act->1.mlp.resid_delta",
    ],
)
def test_a_removed_edge_is_a_weight_that_carries_a_mean(name):
    model, ids = tiny_model(sink=True).double(), tiny_ids()
    means = {key: value.double() for key, value in fills_of(model).items()}
    part = edge_maps(model)[name]
    source, target = torch.tensor([3, 5, 3]), torch.tensor([1, 2, 6])
    with torch.no_grad():
        with ablated(model, {}, removed={name: (source, target)}, means=means):
            found = model(ids).logits
        for s, t in zip(source.tolist(), target.tolist()):
            row = part.rows.start + t
            part.module.bias[row] += part.module.weight[row, s] * means[part.mean_name][s]
            part.module.weight[row, s] = 0
        assert torch.allclose(model(ids).logits, found, atol=1e-12)


def test_a_circuit_of_all_edges_is_its_nodes():
    model, ids = tiny_model(), tiny_ids()
    means = fills_of(model)
    fills = {name: means[name] for name in model.node_sites()}
    nodes = {name: torch.arange(0, site.width, 2) for name, site in model.node_sites().items()}
    every = edges_in(model, nodes)
    assert removed_edges(model, nodes, every) == {}
    name = next(iter(every))
    gone = removed_edges(model, nodes, {**every, name: type(every[name])(*(part[:0] for part in every[name]))})
    assert list(gone) == [name]
    assert all(torch.equal(a, b) for a, b in zip(gone[name], every[name]))
    with torch.no_grad():
        with ablated(model, opened(nodes, fills)):
            expected = model(ids).logits
        with ablated(model, opened(nodes, fills), removed=removed_edges(model, nodes, edges_in(model, nodes)), means=means):
            assert torch.equal(model(ids).logits, expected)


@pytest.mark.parametrize("norm_type", ["rms_norm", "layer_norm"])
def test_frozen_norms_take_their_scale_from_the_unpruned_model(norm_type):
    model, ids = tiny_model(norm_type=norm_type).double(), tiny_ids()
    with torch.no_grad():
        expected = model(ids).logits
        with ablated(model, {}, freeze_norms=True):
            assert torch.allclose(model(ids).logits, expected, atol=1e-12)
    # Halving the last residual stream changes nothing with live norms, and halves the logits with frozen ones.
    half = {"final_resid": lambda out: out / 2}
    with torch.no_grad():
        with ablated(model, half):
            assert torch.allclose(model(ids).logits, expected, atol=1e-4)
        with ablated(model, half, freeze_norms=True):
            bias = 0 if norm_type == "rms_norm" else model.lm_head(model.transformer.final_norm.bias)
            halved = (expected - model.final_logits_bias - bias) / 2 + bias + model.final_logits_bias
            assert torch.allclose(model(ids).logits, halved, atol=1e-9)


def test_frozen_norms_let_gradients_flow():
    model, pairs = tiny_model(), tiny_pairs()
    fills = {name: value for name, value in fills_of(model).items() if name in model.node_sites()}
    masks = Masks(model, fills, PruneConfig(freeze_norms=True))
    with masks.applied():
        task_loss(model, pairs).backward()
    assert all(
        importance.grad is not None and bool(importance.grad.any())
        for name, importance in masks.importance.items()
        if not name.endswith(("q", "k"))
    )


def test_attribution_is_the_slope_of_closing_a_node():
    model, pairs = tiny_model().double(), tiny_pairs()
    fills = {name: value.double() for name, value in fills_of(model).items() if name in model.node_sites()}
    effects = attribution(model, fills, pairs)
    site, node, step = "0.mlp.post_act", 11, 1e-5

    def partly(out):
        moved = out.clone()
        moved[..., node] += step * (fills[site][node] - out[..., node])
        return moved

    with torch.no_grad():
        before = task_loss(model, pairs)
        with ablated(model, {site: partly}):
            after = task_loss(model, pairs)
    assert float((after - before) / step) == pytest.approx(float(effects[site][node]), rel=1e-3, abs=1e-7)


def test_hooks_are_gone_afterwards_whatever_happens():
    model = tiny_model()
    fills = {name: value for name, value in fills_of(model).items() if name in model.node_sites()}
    with pytest.raises(RuntimeError, match="in the middle"), ablated(model, opened({}, fills), freeze_norms=True):
        raise RuntimeError("in the middle")
    with (
        pytest.raises(ValueError, match="no node site"),
        ablated(model, {"0.attn.act_in": lambda x: x, "nowhere": lambda x: x}),
    ):
        pass
    with (
        pytest.raises(ValueError, match="no map between"),
        ablated(model, {}, removed={"a->b": (torch.tensor([0]), torch.tensor([0]))}),
    ):
        pass
    removed = {"0.attn.v->0.attn.resid_delta": (torch.tensor([0]), torch.tensor([0]))}
    with pytest.raises(ValueError, match=r"no means of 0\.attn\.y"), ablated(model, {}, removed=removed, means=fills):
        pass
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_sparse_form_gives_the_same(features):
    model, ids = tiny_model(**{**features, "tie_word_embeddings": False}), tiny_ids()
    means = fills_of(model)
    fills = {name: means[name] for name in model.node_sites()}
    nodes = {name: torch.arange(0, site.width, 3) for name, site in model.node_sites().items()}
    removed = {"0.mlp.act_in->0.mlp.post_act": (torch.tensor([0, 3]), torch.tensor([3, 6]))}
    with torch.no_grad():
        with ablated(model, opened(nodes, fills), removed=removed, means=means):
            expected = model(ids).logits
        model.to_sparse(max_density=1.0)
        with ablated(model, opened(nodes, fills), removed=removed, means=means):
            assert torch.allclose(model(ids).logits, expected, atol=1e-4)


def test_padding_changes_nothing():
    model, pairs = tiny_model(sink=True), tiny_pairs()
    short = Pairs(pairs.input_ids[:1, 3:], pairs.attention_mask[:1, 3:], pairs.answers[:1], pairs.texts[:1])
    first = Pairs(pairs.input_ids[:1], pairs.attention_mask[:1], pairs.answers[:1], pairs.texts[:1])
    fills = {name: value for name, value in fills_of(model).items() if name in model.node_sites()}
    nodes = {name: torch.arange(0, site.width, 2) for name, site in model.node_sites().items()}
    with torch.no_grad(), ablated(model, opened(nodes, fills)):
        ids, mask = short.input_ids, short.attention_mask
        one = model(ids, attention_mask=mask).logits[:, -1]
        two = model(first.input_ids, attention_mask=first.attention_mask).logits[:, -1]
    assert torch.allclose(one, two, atol=1e-5)


def test_means_are_those_of_all_tokens_however_batched(features):
    model, blocks = tiny_model(**features), tiny_ids(8, 16)
    one, many = mean_activations(model, blocks, batch=8), mean_activations(model, blocks, batch=3)
    assert (one.count, one.corpus) == (many.count, many.corpus) == (128, one.corpus)
    seen = {}
    handles = [
        site.register_forward_hook(lambda m, a, out, name=name: seen.__setitem__(name, out))
        for name, site in model.node_sites().items()
    ]
    handles.append(model.transformer.h[1].attn.c_proj.register_forward_pre_hook(lambda m, a: seen.__setitem__(y_name(1), a[0])))
    with torch.no_grad():
        model(blocks)
    for handle in handles:
        handle.remove()
    for name, activation in seen.items():
        flat = activation.flatten(0, -2)
        assert torch.allclose(one.values[name], flat.double().mean(0).float(), atol=1e-5), name
        assert torch.allclose(many.values[name], one.values[name], atol=1e-5)
        assert torch.allclose(one.low[name], flat.amin(0), atol=1e-5)
        assert torch.allclose(one.high[name], flat.amax(0), atol=1e-5)


def test_means_of_no_tokens_or_foreign_ids_are_refused():
    model = tiny_model()
    with pytest.raises(ValueError, match="at least one of each"):
        mean_activations(model, torch.zeros(0, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="token id 97"):
        mean_activations(model, torch.full((2, 5), 97))


RMS = [
    name for name, each in FEATURES.items() if each.get("norm_type") != "layer_norm"
]  # torch's LayerNorm sums bfloat16 in its own way


@pytest.mark.parametrize("name", RMS)
def test_frozen_norms_change_nothing_in_bfloat16(name):
    model, ids = tiny_model(**FEATURES[name]).to(torch.bfloat16), tiny_ids()
    with torch.no_grad():
        expected = model(ids).logits
        with ablated(model, {}, freeze_norms=True):
            assert (model(ids).logits - expected).abs().median() < 0.05
