"""Adapters (LoRA and its kind) on a weight-sparse model: merged, and projected again, with what that costs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .projection import csp_rule, nonzero_count, project_tensor_, sparse_tensors

# What adapters call the matrix that they stand before.
_WRAPPED = re.compile(r"\.(base_layer|original_module)(?=\.)")


@dataclass(frozen=True)
class Merged:
    """What merging did: nonzeros under the projection before it, after it, and at the end; losses in nats per token (None: not measured)
    of the model with its adapter, and of the merged model projected back."""

    nonzeros_before: int
    nonzeros_merged: int
    nonzeros: int
    loss_adapted: float | None
    loss: float | None


def merge_and_project(
    model: Any, blocks: torch.Tensor | None = None, *, counts: Mapping[str, int] | None = None, batch: int = 16
) -> tuple[Any, Merged]:
    """Merges the adapters of a PEFT model into its matrices, and projects each back to the number of nonzeros that it had before.

    A merge alone fills zeros: a low-rank update is dense. What the projection costs is in the report; training on for some steps under
    `WeightSparsityCallback` (density held, `anneal_start=anneal_stop=0`) wins back most of it.

    Args:
        model: what `peft.get_peft_model` made of a CSP model in dense form, trained.
        blocks: token ids [n, tokens], held out, to measure the loss on.
        counts: nonzeros of each sparse tensor, by name, as `project_` returns them. Default: those of the base model's matrices, which
            adapters leave as they were.
        batch: of blocks.

    Returns:
        the CSP model, and the report.

    Raises:
        ValueError: for a model without adapters that can be merged, or of another kind; and where tensors of the base model were trained
            themselves (such as biases with bias="all"), so that what they had before must be given as `counts`.
    """
    if not hasattr(model, "merge_and_unload"):
        raise ValueError(
            f"{type(model).__name__} has no adapters that can be merged; give the model that peft.get_peft_model returned."
        )
    base = model.get_base_model()
    if getattr(base.config, "model_type", None) != "csp":
        raise ValueError(
            f"{type(base).__name__} is no CSP model, whose density could be kept; merge it and use project_ with a rule."
        )
    counts = base_nonzeros(base) if counts is None else dict(counts)
    adapted = None if blocks is None else mean_loss(model, blocks, batch)
    merged = model.merge_and_unload(safe_merge=True)
    tensors = sparse_tensors(merged)
    filled = sum(nonzero_count(tensor.parameter) for tensor in tensors)
    for tensor in tensors:
        project_tensor_(tensor.parameter, counts[tensor.name])
    left = sum(nonzero_count(tensor.parameter) for tensor in tensors)
    loss = None if blocks is None else mean_loss(merged, blocks, batch)
    return merged, Merged(sum(counts.values()), filled, left, adapted, loss)


def base_nonzeros(base: Any) -> dict[str, int]:
    """Nonzeros of every sparse tensor of a CSP model with adapters in it, by the name that it has without them."""
    rule, counts = csp_rule(base.config), {}
    for name, parameter in base.named_parameters():
        own = _WRAPPED.sub("", name)
        if ".modules_to_save." not in name and rule(own, parameter) is not None:
            if parameter.requires_grad:
                raise ValueError(
                    f"{own} was trained itself, beside the adapters, so its zeros are gone; pass counts, the nonzeros of each tensor before."
                )
            counts[own] = nonzero_count(parameter)
    return counts


@torch.no_grad()
def mean_loss(model: Any, blocks: torch.Tensor, batch: int) -> float:
    """Next-token cross-entropy in nats per token over blocks [n, tokens]."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    parts = [ids.long().to(device) for ids in blocks.split(batch)]
    losses = [float(model(input_ids=ids, labels=ids, use_cache=False).loss) * len(ids) for ids in parts]
    model.train(training)
    return sum(losses) / len(blocks)
