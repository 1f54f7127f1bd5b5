"""Steering: the rule against its plain computation, on a model whose quote-type channel is known."""

import copy

import pytest
import torch

from sparse_circuits.bridges import BridgedPair, Steering, steer
from sparse_circuits.bridges.evaluate import constant_bridges
from sparse_circuits.bridges.sides import side_of
from sparse_circuits.bridges.steer import Push, best_nodes, read_nodes, stream_rms
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
    ranking = best_nodes(Steering(pair, train, toy_blocks(8)), read_nodes(pair.sparse.model))
    assert ranking[0] == TYPE
    report = steer(pair, test, TYPE, toy_blocks(8), others=["0.mlp.act_in:5"], random_directions=40)
    whole = report["strengths"].index(1.0)
    assert report["probability"][0] < 0.01
    assert report["probability"][whole] > 0.4  # the other half goes to words
    assert report["probability"][whole] > report["random"]["high"][whole] + 0.1
    assert report["others"]["0.mlp.act_in:5"][whole] < 0.05
    assert report["random"]["low"][0] == pytest.approx(report["probability"][0])
    assert steer(pair, test, TYPE, toy_blocks(8), seed=0) == steer(pair, test, TYPE, toy_blocks(8), seed=0)


def test_a_push_that_does_no_more_than_random_ones_is_not_the_best():
    """`loud` raises everything along whatever direction, `quiet` less, and only along its own."""

    class Known:
        def along(self, node):
            return Push(0, torch.ones(2, 3), torch.tensor([0.9 if node == "loud" else 0.5 if node == "quiet" else 0.0]))

        def random(self, push, count, generator):
            return push.direction * (1.0 if push.direction > 0.8 else 0.1) * torch.ones(count, 1)

        def probabilities(self, push, strength, directions=None):
            directions = push.direction[None] if directions is None else directions
            return (strength * directions[:, :1, None]).expand(-1, 2, 2)

    assert best_nodes(Known(), ["nothing", "loud", "quiet"]) == ["quiet", "nothing", "loud"]


def test_the_scale_is_the_ratio_of_the_streams(pair):
    sparse, dense = stream_rms(pair, toy_blocks(8))
    assert sparse == pytest.approx(dense)
    wide = copy.deepcopy(pair.dense.model)
    with torch.no_grad():
        wide.transformer.wte.weight.mul_(4)
    scaled = BridgedPair(wide, pair.sparse.model, ToyTokenizer(), pair.bridges)
    assert stream_rms(scaled, toy_blocks(8))[1][0] == pytest.approx(4 * dense[0])
    prompts = toy_task().pairs(2)
    before, after = (Steering(each, prompts, toy_blocks(8)).along("0.mlp.act_in:5") for each in (pair, scaled))
    ratio = stream_rms(scaled, toy_blocks(8))[1][1] / dense[1]
    assert torch.allclose(after.direction * ratio, before.direction)
    assert torch.equal(after.amount, before.amount)


def test_gains_of_norms_do_not_matter(pair):
    """A gain that moves from the norm into the matrices behind it changes the node's activation, not the model, and so not the push."""
    moved = copy.deepcopy(pair.sparse.model)
    block, prompts = moved.transformer.h[1], toy_task().pairs(4, "test")
    with torch.no_grad():
        block.attn_norm.weight[3] = -0.5
        block.attn.c_attn.weight[:, 3] /= -0.5
    other = BridgedPair(pair.dense.model, moved, ToyTokenizer(), pair.bridges)
    gained = copy.deepcopy(pair.dense.model)
    with torch.no_grad():
        gained.transformer.h[1].attn_norm.weight[3] = 3.0
        gained.transformer.h[1].attn.c_attn.weight[:, 3] /= 3.0
    third = BridgedPair(gained, pair.sparse.model, ToyTokenizer(), pair.bridges)
    found = [steer(each, prompts, TYPE, toy_blocks(8), random_directions=2)["probability"] for each in (pair, other, third)]
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert found[2] == pytest.approx(found[0], rel=1e-4)
    letter = steer(other, prompts, TYPE, toy_blocks(8), random_directions=2, gains=False)["probability"]
    assert letter[-1] < found[0][0] < found[0][-1]  # the gain is negative: the wrong way


def test_the_last_point_is_steered_too(pair):
    """Nodes of final_resid are the stream before the last norm: a push along one is its change, over RMS."""
    prompts, reference = toy_task().pairs(4, "test"), toy_blocks(8)
    push = Steering(pair, prompts, reference).along("final_resid:3")
    gain = pair.dense.model.transformer.final_norm.weight[3]
    wanted = torch.zeros_like(push.direction)
    wanted[3] = gain / stream_rms(pair, reference)[1][-1]
    assert push.point == 4
    assert torch.allclose(push.direction, wanted)


def test_other_nodes_and_no_controls_are_refused(pair):
    prompts = toy_task().pairs(1)
    with pytest.raises(ValueError, match="does not read the residual stream"):
        steer(pair, prompts, "0.mlp.post_act:1", toy_blocks(4))
    with pytest.raises(ValueError, match="nothing to compare"):
        steer(pair, prompts, TYPE, toy_blocks(4), random_directions=0)


def test_pairs_of_unequal_length_are_refused(pair):
    task = make_task("odd", lambda v, w: (("(' w1 w2", " ')"), ('(" w1', ' ")')), ToyTokenizer())
    with pytest.raises(ValueError, match="as long as their counterfactuals"):
        steer(pair, task.pairs(1), TYPE, toy_blocks(4))


def test_the_models_are_left_as_they_were(pair):
    before = {name: p.clone() for name, p in pair.dense.model.named_parameters()}
    steer(pair, toy_task().pairs(2, "test"), TYPE, toy_blocks(4), random_directions=2)
    assert all(torch.equal(before[name], p) for name, p in pair.dense.model.named_parameters())
    assert not pair.dense.read(2)._forward_hooks
