"""Gradients of a superset of the nonzeros: against a loop written out with masks, resumed to the bit, and what it refuses."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, default_data_collator
from transformers.trainer_utils import get_last_checkpoint

import sparse_circuits.kernels.dispatch as dispatch
import sparse_circuits.training.supersets as supersets
from runs import BATCH, BLOCKS, FEATURES, SPARSITY, STEPS, InOrder, arguments, trained
from sparse_circuits import SparsityConfig
from sparse_circuits.corpora.blocks import TokenBlocks
from sparse_circuits.nonzeros_csp import nonzeros
from sparse_circuits.training import (
    adamw_groups,
    module_rule,
    project_,
    project_tensors_,
    sharkfin_lr,
    sparse_products,
    sparse_tensors,
)
from sparse_circuits.training.gradients import RMS_EPS
from sparse_circuits.training.products import detach
from sparse_circuits.training.projection import Projected
from sparse_circuits.training.supersets import Held, Supersets, moments
from tiny import tiny_model

PART = SparsityConfig(**{**SPARSITY.to_dict(), "backward_density": 0.5, "backward_refresh": 4})


@pytest.fixture(autouse=True)
def whole_gradients_masked(monkeypatch):
    """So that sums are those of the loop, to the bit; that of entries alone is looked at by itself."""
    monkeypatch.setattr(supersets, "held_pays", lambda *given: False)


def by_masks(sparsity):
    """The same training by dense tensors: masks, gradients times masks, ratios of square sums."""
    model = tiny_model(**FEATURES).train()
    optimizer = torch.optim.AdamW(adamw_groups(model, 0.1), lr=0.02, betas=(0.9, 0.95), eps=0.1, fused=True)
    tensors, masks, beyond, parts = sparse_tensors(model), {}, 1.0, []
    project_tensors_(tensors, sparsity.densities_at(0, STEPS), sparsity.min_alive)
    matrices = [tensor for tensor in tensors if tensor.group == "weights" and "wpe" not in tensor.name]
    for step in range(STEPS):
        whole, chosen = sparsity.is_whole_at(step, STEPS), not sparsity.is_whole_at(step + 1, STEPS)
        batch = BLOCKS[step * BATCH : (step + 1) * BATCH]
        model(batch, labels=batch).loss.backward()
        if not whole:
            for tensor in matrices:
                tensor.parameter.grad.mul_(masks[tensor.name])
                parts.append(float((tensor.parameter.grad != 0).float().mean()))
        grads = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
        size = sum(p.numel() for p in model.parameters() if p.requires_grad)
        squares = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(grad) for grad in grads]))
        rms = squares * ((1.0 if whole else beyond) / size) ** 0.5
        for grad in grads:
            grad.div_(rms + RMS_EPS)
        for group in optimizer.param_groups:
            group["lr"] = sharkfin_lr(step, STEPS, peak=0.02, warmup=0.1, sparsity=sparsity)
        optimizer.step()
        old = dict(masks)
        for tensor in matrices if whole and chosen else []:
            project_tensors_([tensor], {"weights": sparsity.backward_density}, sparsity.min_alive)
            for moment in ("exp_avg", "exp_avg_sq"):
                optimizer.state[tensor.parameter][moment].mul_(tensor.parameter != 0)
            masks[tensor.name] = optimizer.state[tensor.parameter]["exp_avg"] != 0
            masks[tensor.name] |= tensor.parameter != 0
        if whole and chosen:
            every = sum(float(grad.double().square().sum()) for grad in grads)
            outside = sum(float((t.parameter.grad * ~old.get(t.name, masks[t.name])).double().square().sum()) for t in matrices)
            beyond = every / (every - outside)
        optimizer.zero_grad()
        project_tensors_(tensors, sparsity.densities_at(step, STEPS), sparsity.min_alive)
    return model, beyond, parts


def test_a_run_is_that_of_a_loop_with_masks():
    with pytest.MonkeyPatch.context():
        wanted, beyond, parts = by_masks(PART)
    trainer = trained("unused", sparsity=PART)
    assert beyond > 1.01
    assert parts
    assert 0.3 < max(parts) <= 0.5
    callback = next(each for each in trainer.callback_handler.callbacks if hasattr(each, "config"))
    assert callback.state()["attributes"]["beyond"] == pytest.approx(beyond, rel=1e-6)
    for (name, one), other in zip(trainer.model.named_parameters(), wanted.parameters(), strict=True):
        assert torch.allclose(one, other, atol=2e-6), name
    assert not any(supersets.held_of(module) for module in trainer.model.modules())


def test_it_is_off_by_default_and_the_whole_of_a_matrix_changes_nothing():
    assert SPARSITY.backward_density is None
    assert all(SPARSITY.is_whole_at(step, STEPS) for step in range(STEPS))
    plain = trained("unused")
    whole = trained("unused", sparsity=SparsityConfig(**{**PART.to_dict(), "backward_density": 1}))
    for (name, one), other in zip(plain.model.named_parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other), name
    part = trained("unused", sparsity=PART)
    assert not torch.equal(part.model.lm_head.weight, plain.model.lm_head.weight)


DEEP = {"backward_density": 0.8, "backward_refresh": 3, "density": 0.05, "min_alive": 0, "anneal_stop": 0.9}


@pytest.mark.parametrize(
    ("settings", "by_kernel", "stop"), [({}, False, 11), ({}, False, 12), ({}, True, 13), (DEEP, False, 15), (DEEP, True, 16)]
)
def test_a_resumed_run_is_bitwise_the_run_that_was_not_stopped(tmp_path, settings, by_kernel, stop, monkeypatch):
    """Between whole gradients, too: the superset is known by the moments. With neurons that are dead, and weights that leave it."""
    monkeypatch.setattr(supersets, "held_pays", lambda *given: by_kernel)
    monkeypatch.setattr(dispatch, "TRAINING_TOKENS", 1)
    PART = SparsityConfig(**{**SPARSITY.to_dict(), "backward_density": 0.5, "backward_refresh": 4, **settings})

    def model(seed=0):
        made = tiny_model(seed=seed, **FEATURES)
        with torch.no_grad():
            made.transformer.h[0].mlp.c_fc.bias[:20] = -50
        return made

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == stop

    given = {"sparsity": PART, "trainer_class": Trainer}
    whole = trained(tmp_path / "whole", model=model(), **given)
    trained(tmp_path / "part", model=model(), callbacks=[Stop()], save_strategy="steps", save_steps=stop, **given)
    checkpoint = get_last_checkpoint(tmp_path / "part")
    saved = json.loads(Path(checkpoint, "trainer_state.json").read_text())["stateful_callbacks"]["WeightSparsityCallback"]
    assert SparsityConfig(**saved["args"]["config"]) == PART
    resumed = trained(tmp_path / "part", resume=checkpoint, model=model(77), **given)
    for (name, one), other in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_gradient_of_entries_is_that_of_a_product(dtype):
    x, dy, mask = torch.randn(150, 48).to(dtype), torch.randn(150, 32).to(dtype), torch.rand(32, 48) < 0.1
    held = Held(*nonzeros(torch.zeros(32, 48), mask)[1:], 48)
    found = held.weight_gradient(dy, x)
    wanted = (dy.double().t() @ x.double()) * mask
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (found - wanted).abs().max() <= (1e-12 if dtype == torch.float64 else 2e-5)
    assert torch.equal(held.kept(wanted), wanted)


def test_entries_one_by_one_where_they_are_few(monkeypatch):
    """As products by nonzeros are chosen; fewer for bfloat16."""
    monkeypatch.setattr(dispatch, "_has_amx", lambda: False)
    for density, expected in ((1 / 4, (False, False)), (1 / 10, (True, False)), (1 / 20, (True, True))):
        assert tuple(dispatch.held_pays(1 << 20, int(density * (1 << 20)), narrow) for narrow in (False, True)) == expected
    monkeypatch.setattr(dispatch, "_has_amx", lambda: True)
    assert not dispatch.held_pays(1 << 20, 1 << 15, True)
    monkeypatch.setattr(dispatch, "available", lambda: False)
    assert not dispatch.held_pays(1 << 20, 1, False)


def test_nothing_held_is_no_gradient():
    held = Held(*nonzeros(torch.zeros(4, 6), torch.zeros(4, 6, dtype=torch.bool))[1:], 6)
    assert torch.equal(held.weight_gradient(torch.randn(20, 4), torch.randn(20, 6)), torch.zeros(4, 6))


@pytest.mark.parametrize("by_kernel", [False, True])
@pytest.mark.parametrize("narrow", [False, True])
def test_in_a_model_other_entries_have_no_gradient(by_kernel, narrow, monkeypatch):
    """By the kernel and by a mask, float32 and under autocast; what is held has the gradient that it had."""
    monkeypatch.setattr(supersets, "held_pays", lambda *given: by_kernel)
    monkeypatch.setattr(dispatch, "TRAINING_TOKENS", 1)
    monkeypatch.setattr(dispatch, "_has_amx", lambda: False)
    model = tiny_model(d_model=32, d_mlp=64, n_head=2, d_head=16).train()
    project_(model, 1 / 16, min_alive=1)
    masks = {name: torch.rand(module.weight.shape) < 0.2 for name, module in model.named_modules() if type(module) is nn.Linear}

    def gradients(given):
        model.zero_grad()
        supersets.forget(model)
        for name, module in model.named_modules():
            if given and name in masks:
                supersets._UNDER_WAY[module] = Held(*nonzeros(module.weight, masks[name])[1:], module.weight.shape[1])
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow), sparse_products(model):
            model(BLOCKS[:8], labels=BLOCKS[:8]).loss.backward()
        return {name: module.weight.grad.clone() for name, module in model.named_modules() if name in masks}

    whole, part = gradients(False), gradients(True)
    for name, mask in masks.items():
        assert not (part[name] * ~mask).any()
        assert (part[name] - whole[name] * mask).abs().max() <= (2e-2 if narrow else 1e-5) * whole[name].abs().max(), name


def test_accumulated_gradients_are_of_the_same_entries():
    one = trained("unused", sparsity=PART)
    two = trained("unused", sparsity=PART, per_device_train_batch_size=BATCH // 2, gradient_accumulation_steps=2)
    for (name, first), other in zip(one.model.named_parameters(), two.model.parameters(), strict=True):
        assert torch.allclose(first, other, atol=1e-5), name


class Broken(InOrder):
    """Breaks off in a step between whole gradients, before or after its backward pass."""

    after = False

    def training_step(self, *args, **kwargs):
        if self.state.global_step == 14 and not self.after:
            raise KeyboardInterrupt
        loss = super().training_step(*args, **kwargs)
        if self.state.global_step == 14:
            raise KeyboardInterrupt
        return loss


@pytest.mark.parametrize("after", [False, True])
def test_gradients_of_a_run_that_was_broken_off_are_not_taken_for_whole_ones(after, monkeypatch):
    monkeypatch.setattr(Broken, "after", after)
    model = tiny_model(**FEATURES)
    with pytest.raises(KeyboardInterrupt):
        trained("unused", model=model, sparsity=PART, trainer_class=Broken)
    weight = model.transformer.h[0].mlp.c_fc.weight
    twin = copy.deepcopy(model)
    twin.zero_grad()
    twin(BLOCKS[:4], labels=BLOCKS[:4]).loss.backward()  # a copy is nobody's run
    assert int((twin.transformer.h[0].mlp.c_fc.weight.grad != 0).sum()) > 0.6 * weight.numel()
    model(BLOCKS[:4], labels=BLOCKS[:4]).loss.backward()
    with pytest.raises(RuntimeError, match=r"broken off within a step; call sparse_circuits\.training\.products\.detach"):
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    with pytest.raises(RuntimeError, match="broken off within a step"):  # nor by another run, without the callback
        Trainer(model, arguments("unused"), train_dataset=TokenBlocks(BLOCKS), data_collator=default_data_collator).train()
    detach(model)
    assert weight.grad is None  # what was of a part is dropped
    model.zero_grad()
    model(BLOCKS[:4], labels=BLOCKS[:4]).loss.backward()
    assert int((weight.grad != 0).sum()) > 0.6 * weight.numel()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    trained("unused", model=model, sparsity=PART)  # nor is another run with it held up


class Penalised(InOrder):
    """A loss that reaches every weight, past all modules."""

    def compute_loss(self, model, *args, **kwargs):
        return super().compute_loss(model, *args, **kwargs) + 0.01 * sum(p.abs().sum() for p in model.parameters())


class Touches(TrainerCallback):
    def on_step_begin(self, args, state, control, model=None, **kwargs):
        with torch.no_grad():
            model.transformer.h[0].mlp.c_fc.weight.clamp_(-5, 5)


@pytest.mark.parametrize("how", [{"trainer_class": Penalised}, {"callbacks": [Touches()]}])
def test_gradients_that_others_make_are_of_the_same_entries(how):
    shares = []

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            grad = model.transformer.h[0].mlp.c_fc.weight.grad
            shares.append((PART.is_whole_at(state.global_step, STEPS), float((grad != 0).float().mean())))

    trained("unused", sparsity=PART, **{**how, "callbacks": [*how.get("callbacks", ()), Look()]})
    assert max(share for whole, share in shares if not whole) <= 0.5
    assert min(share for whole, share in shares if whole) > 0.5


def adamax():
    optimizer = torch.optim.Adamax(adamax.parameters)
    adamax.parameters[0].grad = torch.ones(3, 4)
    optimizer.step()
    return optimizer


adamax.parameters = [nn.Parameter(torch.ones(3, 4))]


def test_weights_that_are_not_trained_are_left_out():
    model = tiny_model(**FEATURES)
    model.transformer.h[0].mlp.c_fc.weight.requires_grad_(False)
    before = model.transformer.h[0].mlp.c_fc.weight.clone()
    trained("unused", model=model, sparsity=PART)
    kept = model.transformer.h[0].mlp.c_fc.weight
    assert torch.equal(kept, before * (kept != 0))


@pytest.mark.parametrize("older", [False, True])
def test_checkpoints_that_cannot_tell_the_superset_are_refused(tmp_path, older):
    """Older ones than the setting, and those without the optimizer."""
    given = {"trainer_class": Trainer, "save_strategy": "steps", "save_steps": 14}
    trained(tmp_path, sparsity=SPARSITY if older else PART, save_only_model=not older, **given)
    checkpoint = tmp_path / "checkpoint-14"
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    if older:
        for name in ("backward_density", "backward_refresh"):
            state["stateful_callbacks"]["WeightSparsityCallback"]["args"]["config"].pop(name)
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match="trained with backward_density=None" if older else "has no optimizer's state"):
        trained(tmp_path, sparsity=PART, resume=str(checkpoint), **given)


class Count(TrainerCallback):
    def __init__(self, seen):
        self.seen = seen

    def on_step_end(self, args, state, control, **kwargs):
        self.seen.append(state.global_step)


def test_what_it_cannot_do_is_said_in_a_sentence():
    seen = []
    with pytest.raises(
        ValueError, match=r"backward_density needs an optimizer that keeps moments.*SGD keeps none of transformer"
    ):
        trained("unused", sparsity=PART, optim="sgd", callbacks=[Count(seen)])
    assert not seen  # no step was done
    with pytest.raises(ValueError, match="Adamax keeps 'exp_inf', which this does not know"):
        moments(adamax(), Projected("weight", next(iter(adamax.parameters)), "weights", None))
    with pytest.raises(ValueError, match="max_grad_norm would clip by the norm of a part"):
        trained("unused", sparsity=SparsityConfig(**{**PART.to_dict(), "normalize_gradients": False}), max_grad_norm=1.0)
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=20))
    with pytest.raises(ValueError, match=r"weights of nn\.Linear, of which this model has none"):
        Supersets(gpt2, sparse_tensors(gpt2, module_rule(gpt2)), PART)
    for value in (0.1, 1.5, True, "half", float("nan")):
        with pytest.raises(ValueError, match="backward_density is"):
            SparsityConfig(density=0.25, backward_density=value)
    for value in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="backward_refresh is"):
            SparsityConfig(density=0.25, backward_refresh=value)
