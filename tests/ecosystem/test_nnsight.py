"""nnsight and plain hooks see every node by its module's name."""

import pytest
import torch

from tiny import recorded, tiny_ids, tiny_model

nnsight = pytest.importorskip("nnsight", reason="the extra `ecosystem` is part of make test")


def test_activations_and_logits_equal_ours(features):
    model, ids = tiny_model(**features), tiny_ids()
    logits, seen = recorded(model, ids)
    traced = nnsight.NNsight(model)
    with torch.no_grad(), traced.trace(ids):
        neurons = traced.transformer.h[1].mlp.post_act.output.save()
        last = traced.transformer.final_resid.output.save()
        out = traced.output.logits.save()
    assert torch.equal(neurons, seen["1.mlp.post_act"])
    assert torch.equal(last, seen["final_resid"])
    assert torch.allclose(out, logits, atol=1e-5)


def test_a_node_is_changed():
    model, ids = tiny_model(), tiny_ids()

    def off(module, args, out):
        out = out.clone()
        out[..., 5] = 0
        return out

    handle = model.node_sites()["0.mlp.post_act"].register_forward_hook(off)
    with torch.no_grad():
        wanted = model(ids).logits
    handle.remove()
    traced = nnsight.NNsight(model)
    with torch.no_grad(), traced.trace(ids):
        traced.transformer.h[0].mlp.post_act.output[..., 5] = 0
        out = traced.output.logits.save()
    assert torch.allclose(out, wanted, atol=1e-5)
