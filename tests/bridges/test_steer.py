"""Steering: the rule against its plain computation, on a model whose quote-type channel is known."""

import copy

import pytest
import torch

from sparse_circuits.bridges import BridgedPair, steer
from sparse_circuits.bridges.evaluate import constant_bridges
from sparse_circuits.bridges.sides import side_of
from sparse_circuits.bridges.steer import best_nodes, read_nodes, rms_ratios
from sparse_circuits.circuits import make_task
from toy import ToyTokenizer, toy_blocks, toy_model, toy_task

TYPE = "1.attn.act_in:3"  # which quote was opened; the head's values read it


@pytest.fixture(scope="module")
def pair():
    model = toy_model()
    twin = copy.deepcopy(model)
    return BridgedPair(model, twin, ToyTokenizer(), constant_bridges(side_of(model), side_of(twin), "identity"))


def test_the_push_is_the_counterfactuals_activation(pair):
    """Between equal models with identity bridges a push of strength s along one channel sets it s of the way to the counterfactual."""
    prompts = toy_task().pairs(6, "test")
    report = steer(pair, prompts, TYPE, toy_blocks(8), strengths=(0, 0.5, 1), random_directions=3)
    norm = pair.dense.model.transformer.h[1].attn_norm
    with torch.no_grad():
        seen = []
        handle = norm.register_forward_hook(lambda module, args, out: seen.append(out))
        pair.dense.model(prompts.input_ids, attention_mask=prompts.attention_mask)
        handle.remove()
        partner = torch.arange(len(seen[0])) ^ 1
        for strength, found in zip((0, 0.5, 1), report["probability"]):
            moved = seen[0].clone()
            moved[..., 3] += strength * (seen[0][partner][..., 3] - seen[0][..., 3]) * prompts.attention_mask
            handle = norm.register_forward_hook(lambda module, args, out, moved=moved: moved)
            logits = pair.dense.model(prompts.input_ids, attention_mask=prompts.attention_mask).logits[:, -1]
            handle.remove()
            wanted = logits.softmax(-1).gather(1, prompts.answers[:, 1:]).mean()
            assert found == pytest.approx(float(wanted), rel=1e-4)
    assert report["low"][2] - 1e-6 <= report["probability"][2] <= report["high"][2] + 1e-6


def test_the_known_node_steers_and_random_directions_do_not(pair):
    train, test = toy_task().pairs(8, "train"), toy_task().pairs(16, "test")
    ranking = best_nodes(pair, train, toy_blocks(8), read_nodes(pair.sparse.model))
    assert ranking[0][0] == TYPE
    report = steer(pair, test, TYPE, toy_blocks(8), others=["0.mlp.act_in:5"], random_directions=40)
    assert report["probability"][0] < 0.01
    assert report["probability"][-1] > 0.4  # the other half goes to words
    assert report["probability"][-1] > report["random"]["high"][-1] + 0.1
    assert report["others"]["0.mlp.act_in:5"][-1] < 0.05
    assert report["random"]["low"][0] == pytest.approx(report["probability"][0])
    assert steer(pair, test, TYPE, toy_blocks(8), seed=0) == steer(pair, test, TYPE, toy_blocks(8), seed=0)


def test_the_scale_is_the_ratio_of_the_streams(pair):
    assert rms_ratios(pair, toy_blocks(8)) == pytest.approx([1.0] * 5)
    wide = copy.deepcopy(pair.dense.model)
    with torch.no_grad():
        wide.transformer.wte.weight.mul_(4)
    scaled = BridgedPair(wide, pair.sparse.model, ToyTokenizer(), pair.bridges)
    assert rms_ratios(scaled, toy_blocks(8))[0] == pytest.approx(0.25)


def test_pairs_of_unequal_length_are_refused(pair):
    task = make_task("odd", lambda v, w: (("(' w1 w2", " ')"), ('(" w1', ' ")')), ToyTokenizer())
    with pytest.raises(ValueError, match="as long as their counterfactuals"):
        steer(pair, task.pairs(1), TYPE, toy_blocks(4))


def test_the_models_are_left_as_they_were(pair):
    before = {name: p.clone() for name, p in pair.dense.model.named_parameters()}
    steer(pair, toy_task().pairs(2, "test"), TYPE, toy_blocks(4), random_directions=2)
    assert all(torch.equal(before[name], p) for name, p in pair.dense.model.named_parameters())
    assert not pair.dense.read(2)._forward_hooks
