"""The stock Trainer with the callback, against a loop written out; resume; errors; the log."""

import json
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainerState, default_data_collator
from transformers.trainer_utils import get_last_checkpoint

from runs import BATCH, BLOCKS, FEATURES, SPARSITY, STEPS, InOrder, arguments, trained
from sparse_circuits import SparsityConfig, WeightSparsityCallback
from sparse_circuits.corpora.blocks import TokenBlocks
from sparse_circuits.training import (
    adamw_groups,
    normalize_gradients_,
    project_tensors_,
    sharkfin_lr,
    sparse_tensors,
)
from tiny import tiny_model


def loop(accumulate=1):
    """The same training without the Trainer, from the public pieces; returns the model and loss, lr and L0 per step."""
    model = tiny_model(**FEATURES).train()
    optimizer = torch.optim.AdamW(adamw_groups(model, 0.1), lr=0.02, betas=(0.9, 0.95), eps=0.1, fused=True)
    tensors, log = sparse_tensors(model), []
    project_tensors_(tensors, SPARSITY.densities_at(0, STEPS), SPARSITY.min_alive)
    for step in range(STEPS):
        batch = BLOCKS[step * BATCH : (step + 1) * BATCH]
        total = 0.0
        for part in batch.chunk(accumulate):
            predicted = batch.numel() - len(batch)  # the Trainer divides by the tokens of the whole accumulated batch
            loss = model(part, labels=part, num_items_in_batch=torch.tensor(predicted)).loss
            loss.backward()
            total += loss.item()
        rms = normalize_gradients_(model.parameters())
        lr = sharkfin_lr(step, STEPS, peak=0.02, warmup=0.1, sparsity=SPARSITY)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
        project_tensors_(tensors, SPARSITY.densities_at(step, STEPS), SPARSITY.min_alive)
        log.append((total, rms.item(), sum(int(t.parameter.count_nonzero()) for t in tensors)))
    return model, log


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_trainer_with_callback_equals_the_loop_bit_for_bit(tmp_path, accumulate):
    model, log = loop(accumulate)
    trainer = trained(tmp_path, per_device_train_batch_size=BATCH // accumulate, gradient_accumulation_steps=accumulate)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [(e["gradient_rms"], e["l0"]) for e in logged] == [(rms, l0) for _, rms, l0 in log]
    assert [e["loss"] for e in logged] == pytest.approx([loss for loss, _, _ in log], abs=1e-5)
    for (name, one), other in zip(model.named_parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_the_log_tells_density_and_learning_rate(tmp_path):
    trainer = trained(tmp_path)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for step, entry in enumerate(logged):
        asked = SPARSITY.densities_at(step, STEPS)
        assert {g: entry[f"density_asked/{g}"] for g in asked} == asked
        assert entry["density/embeddings"] == pytest.approx(asked["embeddings"], abs=1e-3)
        assert entry["density/weights"] == pytest.approx(asked["weights"], abs=2e-3)
        # The Trainer logs the rate that the step used.
        assert entry["learning_rate"] == pytest.approx(
            sharkfin_lr(step, STEPS, peak=0.02, warmup=0.1, sparsity=SPARSITY), rel=1e-12
        )


def test_trackers_see_the_metrics_when_the_callback_leads(tmp_path):
    from transformers import TrainerCallback

    class Tracker(TrainerCallback):
        seen = []

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.seen.append(dict(logs))

    callback = WeightSparsityCallback(SPARSITY)
    trainer = InOrder(
        model=tiny_model(**FEATURES), args=arguments(tmp_path), train_dataset=TokenBlocks(BLOCKS),
        data_collator=default_data_collator, callbacks=[Tracker(), callback],
    )  # fmt: skip
    callback.lead(trainer)
    trainer.train()
    assert all("l0" in logs for logs in Tracker.seen if "loss" in logs)


@pytest.mark.parametrize("stop", [3, 11])
def test_a_resumed_run_is_bitwise_the_run_that_was_not_stopped(tmp_path, stop):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == stop

    whole = trained(tmp_path / "whole", trainer_class=Trainer)
    trained(tmp_path / "part", trainer_class=Trainer, callbacks=[Stop()], save_strategy="steps", save_steps=stop)
    checkpoint = get_last_checkpoint(tmp_path / "part")
    saved = json.loads(Path(checkpoint, "trainer_state.json").read_text())["stateful_callbacks"]["WeightSparsityCallback"]
    assert SparsityConfig(**saved["args"]["config"]) == SPARSITY
    resumed = trained(tmp_path / "part", trainer_class=Trainer, resume=checkpoint, model=tiny_model(seed=77, **FEATURES))
    for (name, one), other in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other), name
    losses = [[e["loss"] for e in t.state.log_history if "loss" in e] for t in (whole, resumed)]
    assert losses[0] == losses[1]


def test_resuming_with_other_settings_is_refused(tmp_path):
    trained(tmp_path, save_strategy="steps", save_steps=10)
    other = SparsityConfig(density=0.5, embedding_density=0.5, min_alive=2, anneal_start=0.1)
    with pytest.raises(ValueError, match=r"trained with density=0\.25, this run has density=0\.5"):
        trained(tmp_path, sparsity=other, resume=str(tmp_path / "checkpoint-10"))


def test_a_checkpoint_made_without_the_callback_resumes_with_it(tmp_path):
    trainer = InOrder(
        model=tiny_model(**FEATURES), args=arguments(tmp_path, save_strategy="steps", save_steps=10),
        train_dataset=TokenBlocks(BLOCKS), data_collator=default_data_collator,
    )  # fmt: skip
    trainer.train()
    resumed = trained(tmp_path, resume=str(tmp_path / "checkpoint-10"), save_strategy="steps", save_steps=15)
    assert resumed.state.log_history[-2]["density/weights"] == pytest.approx(0.25, abs=2e-3)


def test_fine_tuning_holds_the_density_from_the_first_step(tmp_path):
    held = SparsityConfig(density=0.25, min_alive=2, anneal_start=0.0, anneal_stop=0.0)
    trainer = trained(tmp_path, sparsity=held, lr_scheduler_type="constant", warmup_steps=0)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len({entry["l0"] for entry in logged}) == 1
    assert {entry["learning_rate"] for entry in logged} == {0.02}


def test_impossible_runs_are_refused_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match="too few for min_alive=4"):
        trained(tmp_path, sparsity=SparsityConfig(density=0.05))
    model = tiny_model(**FEATURES)
    optimizer = torch.optim.AdamW(model.parameters())
    trainer = Trainer(
        model=model, args=arguments(tmp_path), train_dataset=TokenBlocks(BLOCKS), callbacks=[WeightSparsityCallback(SPARSITY)],
        optimizers=(optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 5)),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"needs a schedule that is a LambdaLR .* not StepLR"):
        trainer.train()
    with pytest.raises(ValueError, match="cannot work with fp16"):
        trained(tmp_path, fp16=True)
    with pytest.raises(ValueError, match="label_smoothing_factor"):
        trained(tmp_path, label_smoothing_factor=0.1)
    refused = arguments(tmp_path)
    refused.deepspeed_plugin = object()
    with pytest.raises(ValueError, match="DeepSpeed"):
        WeightSparsityCallback(SPARSITY).on_train_begin(refused, None, None)
    best = arguments(tmp_path)
    best.load_best_model_at_end = True
    state = TrainerState(max_steps=STEPS)
    with pytest.raises(ValueError, match="load_best_model_at_end"):
        WeightSparsityCallback(SPARSITY).on_train_begin(best, state, None)


def test_clipping_gives_way_to_normalisation(tmp_path):
    trainer = trained(tmp_path, max_grad_norm=1.0)
    assert trainer.args.max_grad_norm == 0.0
    for (name, one), other in zip(loop()[0].named_parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_stock_decay_groups_are_ours(tmp_path):
    model = tiny_model(**FEATURES)
    trainer = Trainer(model=model, args=arguments(tmp_path))
    trainer.create_optimizer()
    names = {id(p): n for n, p in model.named_parameters()}
    stock = {names[id(p)] for g in trainer.optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    ours = {names[id(p)] for p in adamw_groups(model, 0.1)[0]["params"]}
    assert stock == ours
    assert "bigram_table.logit_bias" not in stock
    assert "transformer.h.0.attn.sink_bias" not in stock
    assert "transformer.wte.weight" in stock


def test_gradients_are_normalised_over_every_trainable_parameter():
    model, ids = tiny_model(enable_bigram_table=True), BLOCKS[:4]
    model(ids, labels=ids).loss.backward()
    before = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    by_hand = (sum((g.double() ** 2).sum() for g in before.values()) / count).sqrt().item()
    assert normalize_gradients_(model.parameters()).item() == pytest.approx(by_hand, rel=1e-6)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, before[name] / (by_hand + 1e-5))
    with pytest.raises(ValueError, match="no gradients"):
        normalize_gradients_(tiny_model().parameters())
