"""Projection of weights: every sparse tensor keeps its k largest magnitudes, each neuron a minimum of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..configuration_csp import CSPConfig
from ..sparse_csp import largest_mask, magnitude_bits
from .schedules import SparsityConfig


@dataclass(frozen=True)
class SparseTensor:
    """One tensor under the projection.

    Args:
        name: as in `named_parameters`.
        parameter: the tensor itself.
        group: "weights", "embeddings" or "biases": whose density it has.
        neuron_dim: the dimension that counts neurons or attention channels, each of which keeps `min_alive` weights; None: no
            minimum. 0 where an output row is a neuron's own weights (c_fc, c_attn), 1 where an input column is (c_proj).
    """

    name: str
    parameter: nn.Parameter
    group: str
    neuron_dim: int | None

    def count(self, density: float) -> int:
        """Entries kept at a density: int(density * numel)."""
        return int(density * self.parameter.numel())


Rule = Callable[[str, nn.Parameter], "tuple[str, int | None] | None"]


def csp_rule(config: CSPConfig) -> Rule:
    """The rule of our own models: (group, neuron_dim) of a parameter, or None if it stays dense.

    Dense: norms, sinks, the bigram table, the frozen logit bias, concatenated and frozen positions. Learned added positions count as weights.
    """
    added = config.position_embedding_type == "added"

    def rule(name: str, parameter: nn.Parameter) -> tuple[str, int | None] | None:
        owner, _, kind = name.rpartition(".")
        layer = owner.rpartition(".")[2]
        if layer in ("c_attn", "c_fc", "c_proj"):
            return ("biases", None) if kind == "bias" else ("weights", 1 if layer == "c_proj" else 0)
        if layer in ("wte", "lm_head"):
            return "embeddings", None
        return ("weights", None) if layer == "wpe" and added and parameter.requires_grad else None

    return rule


def sparse_tensors(model: nn.Module, rule: Rule | None = None) -> list[SparseTensor]:
    """The tensors under the projection, in `named_parameters` order.

    Args:
        rule: (name, parameter) -> (group, neuron_dim) or None. Default: `csp_rule`, for our own models only.

    Raises:
        ValueError: if the model is not ours and no rule is given, or its parameters are sharded.
    """
    if rule is None:
        config: Any = getattr(model, "config", None)
        if getattr(config, "model_type", None) != "csp":
            raise ValueError(f"{type(model).__name__} is no CSP model: pass a rule that says which tensors are sparse.")
        rule = csp_rule(config)
    if getattr(model, "is_sparse", False):
        raise ValueError(
            "The support of a model in sparse form is fixed: train it without projection (its zeros stay zero), or call "
            "model.to_dense() first."
        )
    found = []
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "placements"):
            raise ValueError(f"{name} is sharded (DTensor); the projection of sharded parameters is not supported yet.")
        placed = rule(name, parameter)
        if placed is None:
            continue
        if placed[1] is not None and parameter.dim() != 2:
            raise ValueError(
                f"{name} has shape {list(parameter.shape)} and no neurons to count; flattened shards are not supported."
            )
        found.append(SparseTensor(name, parameter, *placed))
    return found


def refuse_impossible(tensors: list[SparseTensor], densities: Mapping[str, float], min_alive: int) -> None:
    """Raises ValueError where a density cannot hold the minimum alive, or leaves nothing of a matrix."""
    for tensor in tensors:
        k = tensor.count(densities[tensor.group])
        if k == 0 and tensor.group != "biases":
            raise ValueError(
                f"Density {densities[tensor.group]:g} keeps none of the {tensor.parameter.numel():,} entries of {tensor.name}; raise it."
            )
        if tensor.neuron_dim is None or k >= tensor.parameter.numel():
            continue
        neurons = tensor.parameter.shape[tensor.neuron_dim]
        if min_alive > tensor.parameter.shape[1 - tensor.neuron_dim]:
            raise ValueError(f"min_alive={min_alive} exceeds the weights that each neuron of {tensor.name} has; lower it.")
        if min_alive * neurons > k:
            raise ValueError(
                f"{tensor.name} keeps {k:,} weights at density {densities[tensor.group]:g}, too few for min_alive={min_alive} in each "
                f"of its {neurons:,} neurons; lower min_alive to at most {k // neurons} or raise the density."
            )


@torch.no_grad()
def project_tensor_(weight: torch.Tensor, k: int, *, min_alive: int = 0, neuron_dim: int | None = None) -> None:
    """Zeroes, in place, all but exactly k positions of a tensor: the largest by magnitude.

    With a minimum, the `min_alive` largest of each neuron are kept first and count inside k. Ties go to the lower index.

    Raises:
        ValueError: if the minimum does not fit into k.
    """
    if k >= weight.numel():
        return
    keys = magnitude_bits(weight.detach().contiguous())
    if min_alive and neuron_dim is not None:
        if min_alive * weight.shape[neuron_dim] > k:
            raise ValueError(f"min_alive={min_alive} in each of {weight.shape[neuron_dim]} neurons exceeds k={k}.")
        rows = keys if neuron_dim == 0 else keys.t()  # one neuron's own weights each
        forced = largest_mask(rows, min_alive)
        keys = keys.masked_fill(forced if neuron_dim == 0 else forced.t(), torch.iinfo(keys.dtype).max)
    if k == 0:
        weight.zero_()
        return
    mask = largest_mask(keys.view(1, -1), k).view(weight.shape)
    weight.masked_fill_(~mask, 0)


def project_tensors_(tensors: list[SparseTensor], densities: Mapping[str, float], min_alive: int) -> None:
    """Projects each tensor to its group's density, in place. `min_alive` is ignored where a group is dense."""
    for tensor in tensors:
        k = tensor.count(densities[tensor.group])
        project_tensor_(tensor.parameter, k, min_alive=min_alive, neuron_dim=tensor.neuron_dim)


def project_(
    model: nn.Module,
    density: float,
    *,
    embedding_density: float | None = None,
    bias_density: float | None = None,
    min_alive: int = 4,
    rule: Rule | None = None,
) -> dict[str, int]:
    """Projects a model's weights once, in place; arguments as in `SparsityConfig`.

    Returns:
        Nonzeros of every sparse tensor, by parameter name.
    """
    config = SparsityConfig(density, embedding_density, bias_density, min_alive)
    tensors = sparse_tensors(model, rule)
    refuse_impossible(tensors, config.targets(), min_alive)
    project_tensors_(tensors, config.targets(), min_alive)
    return {tensor.name: int(tensor.parameter.count_nonzero()) for tensor in tensors}
