"""What would save another model than the log speaks of: refused by name before training, or noticed at the first step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from .projection import Projected, local_part

# Of transformers' `optim`: those that step inside of backward, parameter by parameter, out of reach of gradient normalisation and projection.
_IN_BACKWARD = ("lomo", "layerwise")
WATCHED_STEPS = 3  # at the start of a run, in which weights are compared with what the projection left
_SAMPLE = 64  # entries of each tensor that are compared


def refuse_optimizer(optimizer: Any, tensors: Iterable[Projected]) -> None:
    """Raises ValueError for an optimizer whose weights, as saved, are not those that were projected.

    That is one that keeps two sets of weights and exchanges them for evaluation and saving (schedule-free ones: the average of projected
    weights has the nonzeros of all of them), and one that steps inside of backward.
    """
    own = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
    name = type(own).__name__
    if callable(getattr(own, "eval", None)) and callable(getattr(own, "train", None)):
        raise ValueError(
            f"{name} saves an average of weights, which has the nonzeros of all of them and not the density that is trained; "
            f"use an optimizer without one, such as optim='adamw_torch'."
        )
    inside = any(word in f"{type(own).__module__}.{name}".lower().replace("_", "") for word in _IN_BACKWARD)
    if inside or any(getattr(tensor.parameter, "_post_accumulate_grad_hooks", None) for tensor in tensors):
        raise ValueError(
            f"{name} changes weights inside of backward, before gradients are normalised and out of the projection's sight; "
            f"use an optimizer that steps afterwards, such as optim='adamw_torch'."
        )


def refuse_adapters(model: nn.Module) -> None:
    """Raises ValueError for a model with adapters: merging them fills the zeros of the matrices that they adapt."""
    if hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            "The model has adapters (PEFT), which the projection does not reach and whose merge fills zeros; train them without "
            "WeightSparsityCallback, then call sparse_circuits.training.merge_and_project(model)."
        )


def refuse_early_stopping(callbacks: Iterable[str], anneals: bool) -> None:
    """Raises ValueError where a run may stop before the target density is reached. callbacks: names of those that the state knows."""
    if anneals and "EarlyStoppingCallback" in callbacks:
        raise ValueError(
            "EarlyStoppingCallback could end the run in mid-annealing, with a model that is denser than its target; leave it out, or hold "
            "the density with anneal_start=anneal_stop=0."
        )


@torch.no_grad()
def fingerprint(tensors: Iterable[Projected]) -> torch.Tensor:
    """A few entries of every tensor: equal as long as nobody changes the weights."""
    found = []
    for tensor in tensors:
        flat = local_part(tensor.parameter)[0].detach().reshape(-1)
        found.append(flat[:: max(1, len(flat) // _SAMPLE)][:_SAMPLE].float().cpu())
    return torch.cat(found)


def require_unchanged(before: torch.Tensor, tensors: Iterable[Projected], optimizer: str) -> None:
    """Raises ValueError if weights have changed between a projection and the next optimizer step."""
    if not torch.equal(before.nan_to_num(), fingerprint(tensors).nan_to_num()):
        raise ValueError(
            f"Weights changed between two optimizer steps, where nothing may touch them (optimizer: {optimizer}): what is saved would not be "
            f"what was projected; use another optimizer, or leave out the callback that changes them."
        )


def require_as_projected(counts: dict[str, int], expected: dict[str, int], when: str) -> None:
    """Raises ValueError, naming the first tensor, if one has more nonzeros than its projection left."""
    for name, count in counts.items():
        if count > expected[name]:
            raise ValueError(
                f"{name} has {count:,} nonzeros {when}, its projection leaves {expected[name]:,}: something changed the weights after it; "
                f"project them again (sparse_circuits.training.project_) before they are used."
            )
