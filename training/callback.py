"""Weight-sparse training under the stock Trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from .gradients import normalize_gradients_
from .guards import (
    WATCHED_STEPS,
    fingerprint,
    refuse_adapters,
    refuse_early_stopping,
    refuse_optimizer,
    require_as_projected,
    require_unchanged,
)
from .products import attach, detach
from .projection import Projected, Rule, nonzero_count, project_tensors_, refuse_impossible, sparse_tensors
from .schedules import SparsityConfig
from .supersets import Supersets

logger = logging.get_logger(__name__)


class WeightSparsityCallback(TrainerCallback, ExportableState):
    """Keeps a model weight-sparse while the stock Trainer trains it.

    Example:
        ```python
        Trainer(model=model, args=args, train_dataset=blocks, callbacks=[WeightSparsityCallback(SparsityConfig(density=1 / 16))])
        ```

    Inside each optimizer step: gradients are normalised to RMS 1, the optimizer steps, every sparse tensor is projected to the
    density of that step. The Trainer's own learning-rate schedule is multiplied by the density factor. Everything follows from
    `state.global_step`, so a resumed run continues exactly; the settings are saved with each checkpoint and must not change.

    On CPU, in float32 and with `bf16=True`, linear maps skip multiplications by zeros while they train (`products.py`).

    Logged with the loss: `density_asked/*`, `density/*` (measured), `l0` (nonzeros under the projection), `gradient_rms`. Trackers of
    `report_to` run before added callbacks; call `lead(trainer)` to let them see these figures too.

    What is saved has the nonzeros that are logged. Refused before the first step, by name, is what would make it otherwise: optimizers
    that save averages of weights (schedule-free) or step inside of backward (LOMO, layerwise GaLore), adapters (train those without this
    callback, then `merge_and_project`), early stopping and best checkpoints while density still falls, a rule that places nothing,
    and block matrices of ours that are hidden by a wrapper. In the first steps, and at each save, the weights are looked at.

    Args:
        config: a `SparsityConfig`, or its dict.
        rule: which tensors are sparse, for models other than ours (see `sparse_tensors`).
    """

    def __init__(self, config: SparsityConfig | dict[str, Any], rule: Rule | None = None):
        self.config = SparsityConfig(**config) if isinstance(config, dict) else config
        self.rule = rule
        self._tensors: list[Projected] = []
        self._gradient_rms: torch.Tensor | None = None
        self._before: torch.Tensor | None = None  # what the last projection left, while a run begins
        self._watched = 0
        self._optimizer = ""
        self.beyond = 1.0  # of the supersets, saved with each checkpoint
        self._supersets: Supersets | None = None

    def state(self) -> dict[str, Any]:
        beyond = self.beyond if self._supersets is None else self._supersets.beyond
        return {"args": {"config": self.config.to_dict()}, "attributes": {"beyond": beyond}}

    def lead(self, trainer: Any) -> None:
        """Moves this callback ahead of the Trainer's trackers, so that their log has its metrics."""
        callbacks = trainer.callback_handler.callbacks
        callbacks.remove(self)
        callbacks.insert(0, self)

    def on_train_begin(self, args, state, control, model=None, optimizer=None, lr_scheduler=None, **kwargs):
        self.refuse_unsupported(args, model, getattr(state, "max_steps", 0))
        refuse_early_stopping(state.stateful_callbacks, self._anneals(state.max_steps))
        self._refuse_other_settings(state)
        self._tensors = sparse_tensors(model, self.rule)
        refuse_optimizer(optimizer, self._tensors)
        self._optimizer, self._watched = type(getattr(optimizer, "optimizer", optimizer)).__name__, 0
        if self.config.normalize_gradients and args.max_grad_norm:
            logger.warning("Gradients are normalised to RMS 1, which takes the place of clipping: max_grad_norm is set to 0.")
            args.max_grad_norm = 0.0
        if self.config.lr_follows_density:
            self._follow_density(lr_scheduler, state.max_steps)
        # Before the first step: the density of step 0. After a resume: that of the last step, which changes nothing.
        self._project(max(state.global_step - 1, 0), state.max_steps)
        attach(model)
        self._supersets = None
        if self.config.backward_density is not None:
            self._supersets = Supersets(model, self._tensors, self.config, self.beyond)
            self._supersets.begin(state.global_step, state.max_steps, optimizer)

    def on_step_begin(self, args, state, control, **kwargs):
        if self._supersets is not None:
            self._supersets.begin(state.global_step, state.max_steps)

    def _anneals(self, total: int) -> bool:
        return self.config.densities_at(0, total) != self.config.targets()

    def refuse_unsupported(self, args, model, total: int) -> None:
        """Raises ValueError for arguments, or a model (its weights are not looked at), with which `total` steps of training cannot keep what
        this callback promises. Called when training begins; callers that have work to do before it call it themselves, first."""
        if getattr(args, "deepspeed", None) or getattr(args, "deepspeed_plugin", None):
            raise ValueError("Weight sparsity does not support DeepSpeed, which steps the optimizer out of sight; use DDP.")
        if args.fp16 and self.config.normalize_gradients:
            raise ValueError(
                "Gradient normalisation cannot work with fp16 loss scaling; use bf16=True or normalize_gradients=False."
            )
        if args.label_smoothing_factor:
            raise ValueError(
                "label_smoothing_factor makes the Trainer predict the current token for remote-code models; set it to 0."
            )
        if args.load_best_model_at_end and self._anneals(total):
            raise ValueError(
                "load_best_model_at_end would bring back a checkpoint from before the target density was reached; leave it out, or hold "
                "the density with anneal_start=anneal_stop=0."
            )
        refuse_adapters(model)
        tensors = sparse_tensors(model, self.rule)
        refuse_impossible(tensors, self.config.targets(), self.config.min_alive)
        if self.config.backward_density is not None:
            Supersets(model, tensors, self.config)  # refuses models that have no such matrices
            if args.max_grad_norm and not self.config.normalize_gradients:
                raise ValueError(
                    "max_grad_norm would clip by the norm of a part of the gradients (backward_density); set it to 0, or leave normalize_gradients as it is."
                )

    def _refuse_other_settings(self, state) -> None:
        """On resume, the settings must be those of the checkpoint; one made without the callback gets ours."""
        name = type(self).__name__
        saved = state.stateful_callbacks.setdefault(name, self.state())
        saved = saved[0] if isinstance(saved, list) else saved
        self.beyond = float(saved.get("attributes", {}).get("beyond", 1.0)) if state.global_step > 0 else 1.0
        saved = saved["args"]["config"]
        since = {"backward_density": None}  # settings that older checkpoints do not have, and what they were trained with
        for key, value in self.config.to_dict().items():
            before = saved.get(key, since.get(key, value))
            if state.global_step > 0 and before != value:
                raise ValueError(
                    f"The checkpoint was trained with {key}={before!r}, this run has {key}={value!r}; use the same SparsityConfig, "
                    f"or start a new run from the checkpoint's weights."
                )

    def _follow_density(self, lr_scheduler, total: int) -> None:
        scheduler = getattr(lr_scheduler, "scheduler", lr_scheduler)  # accelerate's wrapper
        if not isinstance(scheduler, LambdaLR):
            raise ValueError(
                f"lr_follows_density needs a schedule that is a LambdaLR (linear, cosine, constant, ...), not {type(scheduler).__name__}; "
                f"choose another lr_scheduler_type or set lr_follows_density=False."
            )
        scheduler.lr_lambdas = [following(shape, self.config, total) for shape in scheduler.lr_lambdas]
        for i, group in enumerate(scheduler.optimizer.param_groups):
            group["lr"] = scheduler.base_lrs[i] * scheduler.lr_lambdas[i](scheduler.last_epoch)
        scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self._before is not None:
            require_unchanged(self._before, self._tensors, self._optimizer)
        parts = self._supersets
        if parts is not None:
            parts.only_held(state.global_step, state.max_steps)
        if self.config.normalize_gradients:
            beyond = 1.0 if parts is None else parts.beyond_at(state.global_step, state.max_steps)
            self._gradient_rms = normalize_gradients_(model.parameters(), beyond)

    def on_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        step, total = state.global_step, state.max_steps
        if self._supersets is not None:
            self._supersets.choose(step, total, optimizer, model.parameters(), self.config.min_alive)
        self._project(step, total)
        if self._supersets is not None:
            self._supersets.settle(step, total, optimizer)

    def _project(self, step: int, total: int) -> None:
        project_tensors_(self._tensors, self.config.densities_at(step, total), self.config.min_alive)
        self._watched += 1
        self._before = fingerprint(self._tensors) if self._watched <= WATCHED_STEPS else None

    def on_save(self, args, state, control, **kwargs):
        self._require_as_projected(state, "in the checkpoint that was just saved")

    def on_train_end(self, args, state, control, model=None, **kwargs):
        self._before = None
        detach(model)
        self._require_as_projected(state, "at the end of training")
        density, target = (
            self.config.densities_at(max(state.global_step - 1, 0), state.max_steps)["weights"],
            self.config.density,
        )
        if state.global_step < state.max_steps and density > target:
            logger.warning(
                f"Training ended at step {state.global_step} of {state.max_steps}, at density {density:.4g} and not yet at its target {target:.4g}: "
                f"resume it, or project the model once (sparse_circuits.training.project_)."
            )

    def _require_as_projected(self, state, when: str) -> None:
        densities = self.config.densities_at(max(state.global_step - 1, 0), state.max_steps)
        counts = {tensor.name: nonzero_count(tensor.parameter) for tensor in self._tensors}
        require_as_projected(counts, {tensor.name: tensor.count(densities[tensor.group]) for tensor in self._tensors}, when)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "loss" not in logs or not self._tensors:
            return
        metrics = measured(self._tensors)
        asked = self.config.densities_at(max(state.global_step - 1, 0), state.max_steps)
        metrics |= {f"density_asked/{group}": density for group, density in asked.items()}
        if self._gradient_rms is not None:
            metrics["gradient_rms"] = self._gradient_rms.item()
        logs.update(metrics)
        state.log_history[-1].update(metrics)


def following(shape: Any, config: SparsityConfig, total: int) -> Any:
    """A learning-rate lambda times the density factor. (A function: LambdaLR would pickle an object's state with the checkpoint.)"""
    shape = getattr(shape, "without_density", shape)

    def scaled(step: int) -> float:
        return shape(step) * config.lr_factor_at(step, total)

    scaled.without_density = shape  # type: ignore[attr-defined]  # so that a second train() does not wrap twice
    return scaled


def measured(tensors: list[Projected]) -> dict[str, float]:
    """`density/<group>` and `l0`: nonzeros, over entries and in all."""
    nonzero: dict[str, int] = {}
    entries: dict[str, int] = {}
    for tensor in tensors:
        nonzero[tensor.group] = nonzero.get(tensor.group, 0) + nonzero_count(tensor.parameter)
        entries[tensor.group] = entries.get(tensor.group, 0) + tensor.parameter.numel()
    densities: dict[str, float] = {f"density/{group}": nonzero[group] / entries[group] for group in nonzero}
    return densities | {"l0": sum(nonzero.values())}
