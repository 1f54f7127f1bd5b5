"""What a run of weight-sparse training logs besides its loss, and the page of its curves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from ..circuits.hooks import hooks
from ..files import save_figure
from ..wiring_csp import FINAL, MATRICES, Matrix, part, reading, writing
from .projection import Projected, local_part, sparse_tensors


def alive(tensors: list[Projected]) -> dict[str, float]:
    """`alive_neurons/<layer>`: MLP neurons with both an incoming and an outgoing weight; `dead_qk/<layer>`: channels of q and k without any
    incoming weight."""
    found: dict[str, float] = {}
    into, out_of, to_qk = writing("mlp_neuron"), reading("mlp_neuron"), writing("attn_q")
    for prefix, own in _layers(tensors).items():
        layer = prefix.rpartition(".")[2]
        neurons = _nonzero_by(own[into.path], 1) & _nonzero_by(own[out_of.path], 0)
        rows = _nonzero_by(own[to_qk.path], 1).chunk(len(to_qk.writes))
        found[f"alive_neurons/{layer}"] = int(neurons.sum())
        dead = [~part for part, location in zip(rows, to_qk.writes) if location in ("attn_q", "attn_k")]
        found[f"dead_qk/{layer}"] = int(torch.cat(dead).sum())
    return found


def _layers(tensors: list[Projected]) -> dict[str, dict[str, torch.Tensor]]:
    """Where a layer begins -> path in the block -> weight, for the layers of our own models."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for tensor in tensors:
        kind, what = part(tensor.name)
        if kind == "weight" and isinstance(what, Matrix):
            found.setdefault(tensor.name.removesuffix(f".{what.path}.weight"), {})[what.path] = tensor.parameter
    return {prefix: own for prefix, own in found.items() if len(own) == len(MATRICES)}


def _nonzero_by(parameter: torch.Tensor, over: int) -> torch.Tensor:
    """Bool [units]: whether any entry along dimension `over` is nonzero, over all shards."""
    local, shards = local_part(parameter.detach())
    some = (local != 0).any(dim=over)
    if shards is None:
        return some
    if over == 0:
        return shards.total(some.int()) > 0
    sizes = shards.gathered(torch.tensor([len(some)], device=some.device))[:, 0]
    padded = torch.zeros(int(sizes.max()), dtype=torch.int32, device=some.device)
    padded[: len(some)] = some.int()
    return torch.cat([row[:size] for row, size in zip(shards.gathered(padded), sizes.tolist())]) > 0


@torch.no_grad()
def residual_kurtosis(model: Any, batch: dict[str, torch.Tensor]) -> float:
    """Kurtosis (3 for a normal distribution) of the residual stream before the last norm, over channels, averaged over tokens. It
    rises with weight sparsity (paper, appendix)."""
    seen: list[torch.Tensor] = []
    with hooks() as handles:
        site = model.node_sites()[FINAL]
        handles.append(site.register_forward_hook(lambda module, args, out: seen.append(out.detach())))
        model(**{name: tensor.to(model.device) for name, tensor in batch.items() if name != "labels"})
    x = seen[0].double().flatten(0, -2)
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1)
    return float((centred.pow(4).mean(-1) / variance.square().clamp(min=1e-300)).mean())


class RunMetrics(TrainerCallback):
    """Adds to the log: tokens seen and per second, neurons alive and q/k channels dead by layer; at evaluations, residual kurtosis.

    Args:
        block: tokens in a sequence.
        own: the CSP model, where the Trainer trains a module that holds it.
    """

    def __init__(self, block: int, own: Any = None):
        self.block, self.own = block, own
        self._begun: tuple[float, int] | None = None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self._tensors = sparse_tensors(self.own or model)
        self._begun = time.monotonic(), state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "loss" not in logs:
            return
        per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size * self.block
        metrics: dict[str, float] = {"tokens": state.global_step * per_step, **alive(self._tensors)}
        if self._begun and state.global_step > self._begun[1]:
            metrics["tokens_per_second"] = round(
                (state.global_step - self._begun[1]) * per_step / (time.monotonic() - self._begun[0])
            )
        logs.update(metrics)
        state.log_history[-1].update(metrics)

    def on_evaluate(self, args, state, control, model=None, metrics=None, eval_dataloader=None, **kwargs):
        batch = next(iter(eval_dataloader))
        kurtosis = residual_kurtosis(self.own or model, {"input_ids": batch["input_ids"][:8]})
        if metrics is not None:
            metrics["eval_residual_kurtosis"] = kurtosis
        if state.log_history:
            state.log_history[-1]["eval_residual_kurtosis"] = kurtosis


def write_curves(log: list[dict[str, Any]], path: str | Path) -> None:
    """A PNG of loss, learning rate and density over the steps of a run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(7, 8), sharex=True, layout="constrained")
    panels = (
        ("loss, nats per token", {"loss": "training", "eval_loss": "held out"}),
        ("learning rate", {"learning_rate": "learning rate"}),
        ("nonzero fraction", {"density/weights": "weights", "density/embeddings": "embeddings", "density_asked/weights": "asked of weights"}),
    )  # fmt: skip
    for axis, (title, series) in zip(axes, panels, strict=True):
        for key, label in series.items():
            points = [(entry["step"], float(entry[key])) for entry in log if key in entry]
            if points:
                axis.plot(*zip(*points), label=label, marker="." if len(points) < 40 else None)
        axis.set_ylabel(title)
        if axis.get_lines():
            axis.legend()
    axes[2].set_yscale("log")
    axes[2].set_xlabel("optimizer step")
    save_figure(figure, path, dpi=120)
    plt.close(figure)
