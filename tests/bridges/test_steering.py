"""Steering: the rule against its plain computation, on a model whose quote-type channel is known."""

import copy

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sparse_circuits import CSPConfig, CSPForCausalLM
from sparse_circuits.bridges import BridgedPair, Bridges, Steering, steer
from sparse_circuits.bridges.evaluate import constant_bridges
from sparse_circuits.bridges.sides import side_of
from sparse_circuits.bridges.steering import Push, _bootstrap, best_nodes, read_nodes, stream_rms
from sparse_circuits.circuits import make_task
from sparse_circuits.circuits.tasks import Pairs
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


def test_the_band_is_that_of_resampled_pairs():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1, 400, generator=generator)
    low, high = _bootstrap(values, generator)
    wanted = 1.96 * float(values.unflatten(1, (-1, 2)).mean(2).std()) / 200**0.5
    assert (high[0] - low[0]) / 2 == pytest.approx(wanted, rel=0.15)
    assert low[0] < float(values.mean()) < high[0]
    low, high = _bootstrap(torch.tensor([[1.0, -1.0] * 50]), generator)  # the two of a pair are drawn together
    assert low == high == [0.0]


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

        def moves(self, node):
            return True

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


def test_pairs_of_unequal_length_are_left_out_and_counted(pair):
    task = make_task("odd", lambda v, w: (("(' w1 w2", " ')"), ('(" w1', ' ")')), ToyTokenizer())
    with pytest.raises(ValueError, match="None of these prompts is as long as its counterfactual"):
        steer(pair, task.pairs(1), TYPE, toy_blocks(4))
    even, odd = toy_task().pairs(2), task.pairs(1)
    width = max(even.input_ids.shape[1], odd.input_ids.shape[1])
    parts = [
        [torch.nn.functional.pad(each, (width - each.shape[1], 0)) for each in (pairs.input_ids, pairs.attention_mask)]
        for pairs in (even, odd)
    ]
    mixed = Pairs(*(torch.cat(each) for each in zip(*parts)), torch.cat([even.answers, odd.answers]), even.texts + odd.texts)
    report = steer(pair, mixed, TYPE, toy_blocks(4), random_directions=2)
    assert (report["prompts"], report["left_out"]) == (4, 1)
    alone = steer(pair, even, TYPE, toy_blocks(4), random_directions=2)
    assert report["probability"] == pytest.approx(alone["probability"])


def test_text_and_strengths_are_asked_for(pair):
    prompts = toy_task().pairs(1)
    with pytest.raises(ValueError, match="give a corpus"):
        Steering(pair, prompts, toy_blocks(4)[:0])
    for strengths in ((), (float("nan"),)):
        with pytest.raises(ValueError, match="at least one finite number"):
            steer(pair, prompts, TYPE, toy_blocks(4), strengths=strengths)


def test_logits_come_one_by_one_and_leave_the_caller_as_it_was(pair):
    steering = Steering(pair, toy_task().pairs(2), toy_blocks(4))
    pair.dense.model.train()
    found = steering.last_logits(steering.along(TYPE), 1.0, torch.eye(8)[:3])
    first = next(found)
    assert first.shape == (4, pair.dense.model.config.vocab_size)
    assert not first.requires_grad
    assert torch.is_grad_enabled()
    assert pair.dense.model.training
    assert len(list(found)) == 2
    pair.dense.model.eval()


VOCAB, LENGTHS = 40, (5, 5, 9, 9, 7, 7, 1, 1)


def random_csp(norm, width, **settings):
    config = CSPConfig(
        vocab_size=VOCAB, n_layer=2, d_model=width, d_mlp=24, n_head=2, d_head=6, norm_type=norm, block_size=64, sink=True, enable_bigram_table=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=None, **settings,
    )  # fmt: skip
    return randomised(CSPForCausalLM(config), 0.5)


def random_gpt2():
    return randomised(GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_positions=64, n_embd=16, n_layer=2, n_head=4)), 0.3)


def randomised(model, scale):
    """Gains and biases too, of both signs; float64."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


def norms(model):
    if model.config.model_type == "gpt2":
        return [norm for block in model.transformer.h for norm in (block.ln_1, block.ln_2)] + [model.transformer.ln_f]
    return [norm for block in model.transformer.h for norm in (block.attn_norm, block.mlp_norm)] + [
        model.transformer.final_norm
    ]


def hooked(module, model, ids, before=False):
    """What goes into a module or comes out of it, on one prompt."""
    seen = []
    if before:
        handle = module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    else:
        handle = module.register_forward_hook(lambda module, args, out: seen.append(out))
    model(input_ids=ids[None], use_cache=False)
    handle.remove()
    return seen[0][0]


def by_hand(pair, rows, answers, reference, node, strength, gains):
    """The rule again: prompt after prompt, without padding, in float64, with hooks of its own."""
    dense, sparse = pair.dense.model, pair.sparse.model
    site, channel = node.split(":")[0], int(node.split(":")[1])
    last = site == "final_resid"
    point = 4 if last else 2 * int(site[0]) + ("mlp" in site)
    read = norms(dense)[point]

    def rms(model):
        values = torch.cat([hooked(norms(model)[point], model, ids, before=True) for ids in reference])
        centred = values - values.mean(-1, keepdim=True) if isinstance(norms(model)[point], torch.nn.LayerNorm) else values
        return centred.square().mean().sqrt()

    kind = "mlp" if point % 2 else "attn"
    module = sparse.transformer.final_resid if last else getattr(sparse.transformer.h[point // 2], kind).act_in
    values = [hooked(module, sparse, ids)[:, channel] for ids in rows]
    column = pair.bridges.decoders[point].weight[:, channel].double()
    if isinstance(read, torch.nn.LayerNorm):
        column = column - column.mean()
    scale = 1 / rms(dense) if last else rms(sparse) / rms(dense)
    if gains:
        column = column * read.weight
        scale = scale if last else scale / norms(sparse)[point].weight[channel]
    found = []
    for i, ids in enumerate(rows):
        push = (strength * scale * (values[i ^ 1] - values[i]))[:, None] * column
        handle = read.register_forward_hook(lambda module, args, out, push=push: out + push)
        found.append(dense(input_ids=ids[None], use_cache=False).logits[0, -1].softmax(-1)[answers[i]])
        handle.remove()
    return torch.stack(found)


@pytest.mark.parametrize(
    ("dense", "sparse"),
    [
        (random_gpt2, lambda: random_csp("rms_norm", 12, afrac={"attn_in": 0.5, "mlp_in": 0.5})),
        (random_gpt2, lambda: random_csp("layer_norm", 12)),
        (lambda: random_csp("layer_norm", 16), lambda: random_csp("rms_norm", 12, position_embedding_type="concatenated", d_pos_emb=5)),
    ],
    ids=["GPT-2", "GPT-2 and LayerNorm", "LayerNorm and positions"],
)  # fmt: skip
@torch.no_grad()
def test_steering_against_a_plain_computation(dense, sparse):
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, VOCAB, (n,), generator=generator) for n in LENGTHS]
    ids = torch.stack([torch.nn.functional.pad(row, (max(LENGTHS) - len(row), 0)) for row in rows])
    mask = torch.stack([torch.nn.functional.pad(torch.ones_like(row), (max(LENGTHS) - len(row), 0)) for row in rows])
    answers = torch.randint(0, VOCAB, (len(rows), 2), generator=generator)
    reference = torch.randint(0, VOCAB, (11, 10), generator=generator)
    bridges = Bridges(16, 12, 5)
    for parameter in bridges.parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    pair = BridgedPair(dense(), sparse(), ToyTokenizer(), bridges.double())
    for gains in (True, False):
        steering = Steering(pair, Pairs(ids, mask, answers, tuple("abcdefgh")), reference, gains=gains)
        for node in ("0.attn.act_in:3", "0.mlp.act_in:0", "1.attn.act_in:11", "1.mlp.act_in:5", "final_resid:2"):
            push = steering.along(node)
            for strength in (0.5, 4.0):
                wanted = by_hand(pair, rows, answers, reference, node, strength, gains)
                assert torch.allclose(steering.probabilities(push, strength)[0].double(), wanted, atol=1e-6), (node, gains)


def test_the_models_are_left_as_they_were(pair):
    before = {name: p.clone() for name, p in pair.dense.model.named_parameters()}
    steer(pair, toy_task().pairs(2, "test"), TYPE, toy_blocks(4), random_directions=2)
    assert all(torch.equal(before[name], p) for name, p in pair.dense.model.named_parameters())
    assert not pair.dense.read(2)._forward_hooks
