"""Projection of weights: every sparse tensor keeps its k largest magnitudes, each neuron a minimum of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .._auto import renamed
from ..configuration_csp import CSPConfig
from ..topk_csp import magnitude_bits
from ..wiring_csp import EMBEDDING, MATRICES, POSITIONS, UNEMBEDDING, Matrix, part
from .schedules import SparsityConfig
from .selection import Shards, select_in_place, top_mask


@dataclass(frozen=True)
class Projected:
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
        kind, what = part(name)
        if isinstance(what, Matrix):
            return ("biases", None) if kind == "bias" else ("weights", what.neuron_dim)
        if what in (EMBEDDING, UNEMBEDDING):
            return "embeddings", None
        return ("weights", None) if what == POSITIONS and added and parameter.requires_grad else None

    return rule


def module_rule(model: nn.Module, neurons: Mapping[str, str] | None = None) -> Rule:
    """A rule for any transformers model: linear maps (Linear, Conv1D) are "weights", embeddings and the unembedding "embeddings", the
    biases of linear maps "biases"; everything else stays dense.

    Args:
        neurons: end of a module's name -> "outputs" or "inputs": which side of a linear map are the neurons that keep `min_alive` weights.
            For GPT-2: {"mlp.c_fc": "outputs", "attn.c_attn": "outputs", "c_proj": "inputs"}. The orientation of the stored matrix
            (Conv1D's is the transpose of Linear's) follows from the module's class. Maps that are not named have no minimum.

    Raises:
        ValueError: if a name fits no linear map, or a side is neither.
    """
    declared, used = dict(neurons or {}), set()
    for side in declared.values():
        if side not in ("outputs", "inputs"):
            raise ValueError(f"neurons has {side!r}; a linear map's neurons are its 'outputs' or its 'inputs'.")
    head = getattr(model, "get_output_embeddings", lambda: None)()
    placed: dict[str, tuple[str, int | None]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) or (head is not None and module is head):
            placed[f"{name}.weight"] = ("embeddings", None)
        elif isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            end = max((key for key in declared if f".{name}".endswith(f".{key}")), key=len, default=None)
            used.add(end)
            rows_are_outputs = isinstance(module, nn.Linear)
            dim = None if end is None else int((declared[end] == "outputs") != rows_are_outputs)
            placed[f"{name}.weight"] = ("weights", dim)
            placed[f"{name}.bias"] = ("biases", None)
    lost = sorted(set(declared) - used)
    if lost:
        raise ValueError(f"neurons names {lost[0]!r}, which no Linear or Conv1D of {type(model).__name__} ends with.")
    return lambda name, parameter: placed.get(name)


def sparse_tensors(model: nn.Module, rule: Rule | None = None) -> list[Projected]:
    """The tensors under the projection, in `named_parameters` order.

    Args:
        rule: (name, parameter) -> (group, neuron_dim) or None. Default: `csp_rule`, for our own models only.

    Raises:
        ValueError: if the model is not ours and no rule is given, a matrix of ours is hidden by a wrapper, a rule places nothing or what is
            no floating-point weight (a quantised one), or parameters are sharded otherwise than along dimension 0.
    """
    ours = rule is None
    if rule is None:
        config: Any = getattr(model, "config", None)
        if getattr(config, "model_type", None) != "csp":
            raise ValueError(
                f"{type(model).__name__} is no CSP model: pass a rule that says which tensors are sparse, such as module_rule(model)."
            )
        rule = csp_rule(config)
    if getattr(model, "is_sparse", False):
        raise ValueError(
            "The support of a model in sparse form is fixed: train it without projection (its zeros stay zero), or call "
            "model.to_dense() first."
        )
    found = []
    for name, parameter in model.named_parameters():
        placed = rule(name, parameter)
        if placed is None:
            continue
        if not parameter.is_floating_point():
            raise ValueError(f"{name} is {parameter.dtype}: quantised weights cannot be projected; load the model unquantised.")
        local_part(parameter, name)  # refuses a layout that the projection cannot handle
        if placed[1] is not None and parameter.dim() != 2:
            raise ValueError(
                f"{name} has shape {list(parameter.shape)} and no neurons to count; flattened shards are not supported."
            )
        found.append(Projected(name, parameter, *placed))
    if ours:
        _require_whole(model, {tensor.name for tensor in found})
    elif not found:
        raise ValueError(
            f"The rule places none of the {len(list(model.parameters()))} parameters of {type(model).__name__}, so it would train dense; "
            f"let it return a group for some names (see module_rule)."
        )
    return found


_PATHS = "|".join(re.escape(matrix.path) for matrix in MATRICES)
_OURS = re.compile(rf"(^|\.)(h\.\d+\.({_PATHS})|{EMBEDDING}|{UNEMBEDDING})$")


def _require_whole(model: nn.Module, found: set[str]) -> None:
    """Raises ValueError for a matrix of ours that goes by another name than its own: behind an adapter, a parametrization, a pruning mask."""
    config: Any = getattr(model, "config", None)
    heads = [module for name, module in model.named_modules() if name.endswith(UNEMBEDDING)]
    tied = heads if getattr(config, "tie_word_embeddings", False) else []  # whose weight is the embedding's
    for name, module in model.named_modules():
        if not _OURS.search(name) or f"{name}.weight" in found or any(module is other for other in tied):
            continue
        hidden = sorted(own for own, _ in module.named_parameters())
        raise ValueError(
            f"{name} keeps its weight as {', '.join(hidden[:3]) or 'no parameter'}, which the projection would leave dense; take away what wraps it "
            f"(merge adapters, remove parametrizations and pruning masks), or pass a rule of your own."
        )


def refuse_impossible(tensors: list[Projected], densities: Mapping[str, float], min_alive: int) -> None:
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

    With a minimum, the `min_alive` largest of each neuron are kept first and count inside k. Ties go to the lower index. Of a DTensor that
    is cut along dimension 0, as FSDP2 does, every rank projects its part as it would be projected in the whole; all ranks must call.

    Raises:
        ValueError: if the minimum does not fit into k.
    """
    if k >= weight.numel():
        return
    minimum = min_alive if neuron_dim is not None else 0
    if minimum and minimum * weight.shape[neuron_dim or 0] > k:
        raise ValueError(f"min_alive={min_alive} in each of {weight.shape[neuron_dim or 0]} neurons exceeds k={k}.")
    local, shards = local_part(weight)
    if k == 0:
        local.zero_()
    elif shards is not None or not select_in_place(local, k, neuron_dim, minimum):
        keys = magnitude_bits(local.detach().contiguous())
        local.masked_fill_(~top_mask(keys, k, neuron_dim=neuron_dim, at_least=minimum, shards=shards), 0)


def local_part(tensor: torch.Tensor, name: str = "The tensor") -> tuple[torch.Tensor, Shards | None]:
    """A tensor itself, or this rank's part of a DTensor and where the others are (None if every rank has all of it).

    Raises:
        ValueError: if it is sharded otherwise than along dimension 0 of a one-dimensional mesh.
    """
    placements: Any = getattr(tensor, "placements", None)
    if placements is None:
        return tensor, None
    mesh, local = tensor.device_mesh, tensor._local_tensor  # type: ignore[attr-defined]
    if all(placement.is_replicate() for placement in placements):
        return local, None
    if mesh.ndim != 1 or not placements[0].is_shard(0):
        raise ValueError(
            f"{name} is sharded as {tuple(placements)}; the projection is exact for FSDP2, which shards along dimension 0 of one mesh."
        )
    return local, Shards(mesh.get_group(), mesh.get_local_rank(), mesh.size())


def nonzero_count(tensor: torch.Tensor) -> int:
    """Nonzeros of a tensor, over all its shards; all ranks must call."""
    local, shards = local_part(tensor)
    count = local.count_nonzero()
    return int(count if shards is None else shards.total(count))


def project_tensors_(tensors: list[Projected], densities: Mapping[str, float], min_alive: int) -> None:
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


__getattr__ = renamed(__name__, {"SparseTensor": "Projected"})
