"""Blocks that run fused: equal to their modules, and not fused where anyone would notice."""

import copy

import pytest
import torch

import sparse_circuits.kernels.fused as fused
from sparse_circuits import CSPConfig
from sparse_circuits.topk_csp import NodeSite
from sparse_circuits.wiring_csp import LOCATIONS
from tiny import ALL_SITES, sparse_pair, tiny_ids


@pytest.fixture
def fused_runs(monkeypatch):
    """Counts the blocks that ran fused."""
    runs, original = [], fused._run
    monkeypatch.setattr(fused, "_run", lambda attn, *a: runs.append(attn.layer_idx) or original(attn, *a))
    return runs


@torch.no_grad()
def test_equal_in_every_feature(features, path, fused_runs):
    dense, form = sparse_pair(**features)
    for ids in (tiny_ids(3, 17), tiny_ids(1, 40), tiny_ids(2, 1)):
        assert (form(ids).logits - dense(ids).logits).abs().max() < 1e-5
    assert bool(fused_runs) == (path == "kernels")
    mask = torch.ones(3, 17, dtype=torch.long)
    mask[1, :5] = mask[2, :11] = 0
    ids = tiny_ids(3, 17)
    ours, theirs = form(ids, attention_mask=mask).logits, dense(ids, attention_mask=mask).logits
    assert (ours - theirs)[mask.bool()].abs().max() < 1e-5
    for options in ({}, {"attention_mask": mask}, {"num_beams": 3}, {"cache_implementation": "static"}):
        given = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, **options}
        assert torch.equal(form.generate(ids, **given), dense.generate(ids, **given)), options


@torch.no_grad()
def test_a_cache_gives_what_no_cache_gives(features, fused_runs):
    _, form = sparse_pair(**features)
    ids = tiny_ids(2, 24)
    whole = form(ids, use_cache=False).logits
    cache = form(ids[:, :7], use_cache=True).past_key_values
    steps = [form(ids[:, i : i + 1], past_key_values=cache).logits for i in range(7, 24)]
    assert (torch.cat(steps, dim=1) - whole[:, 7:]).abs().max() < 1e-5
    assert len(fused_runs) == 2 * 19
    # Cropped, copied and reordered caches go on from what they hold, and leave each other alone.
    twin = copy.deepcopy(cache)
    cache.crop(-4)
    expected = form(ids[:, 20:21], past_key_values=cache).logits
    assert (expected - whole[:, 20:21]).abs().max() < 1e-5
    form(ids[:, :1], past_key_values=twin)
    cache.crop(-1)
    assert torch.equal(form(ids[:, 20:21], past_key_values=cache).logits, expected)
    cache.crop(-1)
    cache.reorder_cache(torch.tensor([1, 0]))
    swapped = form(ids[:, 20:21].flip(0), past_key_values=cache).logits
    assert (swapped.flip(0) - expected).abs().max() < 1e-5
    # A step of several tokens runs module by module, on the same cache.
    cache.crop(-5)
    cache.reorder_cache(torch.tensor([1, 0]))
    assert (form(ids[:, 16:20], past_key_values=cache).logits - whole[:, 16:20]).abs().max() < 1e-5


@torch.no_grad()
def test_hooks_see_and_change_every_node(fused_runs):
    dense, form = sparse_pair(afrac=dict.fromkeys(ALL_SITES, 0.5), sink=True)
    ids = tiny_ids(2, 20)
    assert list(form.node_sites()) == list(dense.node_sites())
    seen = [{}, {}]
    for model, found in zip((dense, form), seen, strict=True):
        for name, site in model.node_sites().items():
            site.register_forward_hook(lambda m, a, out, name=name, found=found: found.__setitem__(name, out))
        model(ids)
    assert not fused_runs
    for name in seen[0]:
        assert (seen[0][name] - seen[1][name]).abs().max() < 1e-5
    _, form = sparse_pair(afrac=dict.fromkeys(ALL_SITES, 0.5), sink=True)
    plain = form(ids).logits
    assert fused_runs == [0, 1]
    handle = form.transformer.h[1].mlp.post_act.register_forward_hook(lambda m, a, out: out * 0)
    ablated = form(ids).logits
    assert fused_runs == [0, 1, 0]  # the other block still runs fused
    assert not torch.equal(ablated, plain)
    handle.remove()
    assert torch.equal(form(ids).logits, plain)


@torch.no_grad()
def test_changes_are_noticed(fused_runs):
    _, form = sparse_pair(sink=True)
    ids = tiny_ids(1, 20)
    before = form(ids).logits
    block = form.transformer.h[0]
    block.mlp.c_fc.weight.values.mul_(2)  # in place
    doubled = form(ids).logits
    assert not torch.equal(doubled, before)
    block.mlp.c_fc.weight.values.data = block.mlp.c_fc.weight.values.data / 2  # other storage
    assert torch.equal(form(ids).logits, before)
    block.attn.v.k = 4  # another AbsTopK
    assert not torch.equal(form(ids).logits, before)
    block.attn.v.k = block.attn.v.width
    assert len(fused_runs) == 8
    block.mlp.post_act.forward = lambda x: x * 0  # as accelerate and others patch modules
    assert not torch.equal(form(ids).logits, before)
    del block.mlp.post_act.forward
    block.mlp.c_fc = form.transformer.h[1].mlp.c_fc  # another module
    assert not torch.equal(form(ids).logits, before)
    with torch.autocast("cpu", torch.bfloat16):
        form(ids)
    form.train()
    form(ids)
    assert len(fused_runs) == 8 + 1 + 2
    twin = copy.deepcopy(form.eval())
    assert torch.equal(twin(ids).logits, form(ids).logits)


@torch.no_grad()
def test_a_cache_of_another_batch_or_model_is_refused_as_ever():
    dense, form = sparse_pair()
    ids = tiny_ids(3, 10)
    for model in (dense, form):
        cache = model(ids[:1], use_cache=True).past_key_values
        with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
            model(ids[:, :1], past_key_values=cache)


@torch.no_grad()
def test_tensors_taken_from_a_cache_do_not_change():
    _, form = sparse_pair()
    ids = tiny_ids(1, 20)
    cache = form(ids[:, :10], use_cache=True).past_key_values
    form(ids[:, 10:11], past_key_values=cache)
    taken = [(layer.keys, layer.values, layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
    cache.crop(-3)
    for i in range(4):
        form(ids[:, i : i + 1], past_key_values=cache)
    for keys, values, keys_then, values_then in taken:
        assert torch.equal(keys, keys_then)
        assert torch.equal(values, values_then)


@torch.no_grad()
def test_positions_are_taken_as_the_modules_take_them():
    dense, form = sparse_pair(position_embedding_type="concatenated", d_pos_emb=6)
    ids = tiny_ids(2, 20)
    one = torch.tensor([[3]])
    torch.testing.assert_close(form(ids, position_ids=one).logits, dense(ids, position_ids=one).logits, atol=1e-5, rtol=1e-5)
    for model in (dense, form):
        with pytest.raises(RuntimeError):
            model(ids, position_ids=torch.arange(5)[None])
    for model in (dense, form):
        model.transformer.wpe.to(torch.bfloat16)
        for block in model.transformer.h:
            block.attn_pos_norm.to(torch.bfloat16)
            block.mlp_pos_norm.to(torch.bfloat16)
    torch.testing.assert_close(form(ids).logits, dense(ids).logits, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_whoever_looks_at_a_module_sees_it_run():
    _, form = sparse_pair(dropout=0.5)
    ids = tiny_ids(1, 20)

    def differ(change, undo):
        before = form(ids).logits
        change()
        after = form(ids).logits
        undo()
        assert torch.equal(form(ids).logits, before)
        return not torch.equal(before, after)

    site = form.transformer.h[0].mlp.post_act
    form(ids)
    from collections import OrderedDict

    site._forward_hooks = OrderedDict()  # an idiom for removing all hooks
    handles = []
    assert differ(lambda: handles.append(site.register_forward_hook(lambda m, a, out: out * 0)), lambda: handles.pop().remove())
    dropout = form.transformer.h[1].mlp.dropout
    assert differ(dropout.train, dropout.eval)
    kind = type(form.transformer.h[0].mlp)
    original = kind.forward
    assert differ(
        lambda: setattr(kind, "forward", lambda self, x: original(self, x) * 0), lambda: setattr(kind, "forward", original)
    )
    norm = form.transformer.h[0].attn_norm
    assert differ(lambda: setattr(norm, "eps", 1.0), lambda: setattr(norm, "eps", 1.1920929e-07))
    mlp = form.transformer.h[0].mlp
    assert differ(lambda: setattr(mlp, "activation_type", "relu"), lambda: setattr(mlp, "activation_type", "gelu"))


@torch.no_grad()
def test_every_location_of_the_table_is_applied_or_leaves_the_block_to_its_modules(fused_runs):
    """Each alone, at work: the form computes what the dense model does, by whatever way."""
    for location in LOCATIONS:
        dense, form = sparse_pair(afrac={location: 0.25})
        ids = tiny_ids(2, 18)
        assert (form(ids).logits - dense(ids).logits).abs().max() < 1e-5, location
        assert (form(ids).logits - sparse_pair()[1](ids).logits).abs().max() > 1e-3, location


@torch.no_grad()
def test_a_location_that_kernels_do_not_know_is_not_passed_over(fused_runs):
    _, form = sparse_pair()
    block, ids = form.transformer.h[1], tiny_ids(1, 20)
    block.mlp.extra = NodeSite(form.config, "mlp_neuron")
    form(ids)
    assert fused_runs == [0, 1]  # it keeps everything
    block.mlp.extra = NodeSite(CSPConfig(**{**form.config.to_dict(), "afrac": {"mlp_neuron": 0.25}}), "mlp_neuron")
    form(ids)
    assert fused_runs == [0, 1, 0]
