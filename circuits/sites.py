"""Where the nodes and edges of a model are (docs/method.md#circuits)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..wiring_csp import MATRICES, located, location_width, reading, site


def require_csp(model: Any) -> Any:
    """The model, if it has node sites and logits.

    Raises:
        ValueError: if it is none of ours. (Never by class: a model loaded as remote code has another class object.)
    """
    if getattr(getattr(model, "config", None), "model_type", None) != "csp" or not hasattr(model, "lm_head"):
        raise ValueError(
            f"{type(model).__name__} is no CSP language model; load one with AutoModelForCausalLM.from_pretrained."
        )
    return model


def require_ids(model: Any, *ids: torch.Tensor) -> None:
    """Raises ValueError if token ids are not all the model's own: those of another tokenizer end in an IndexError, or in nonsense."""
    for each in ids:
        if each.numel() and not 0 <= int(each.min()) <= int(each.max()) < model.config.vocab_size:
            raise ValueError(
                f"There is a token id {int(each.max())}, the model has {model.config.vocab_size} tokens; give the tokenizer that belongs to the model."
            )


def y_name(layer: int | str) -> str:
    """The name under which means of what attention makes of v are kept. It is no node site; c_proj reads it."""
    return reading("attn_v").inputs_name(layer)


def dense(weight: Any) -> torch.Tensor:
    """A weight as an ordinary matrix, also from a model in sparse form."""
    return weight if isinstance(weight, torch.Tensor) else weight.to_dense()


@dataclass(frozen=True)
class EdgeMap:
    """The weights between two node sites: edges are the nonzeros that connect two nodes.

    Args:
        name: "3.attn.v->3.attn.resid_delta".
        module: the linear map; `rows`: those of its output that are the target's nodes.
        mean_name: whose means stand for the source where an edge is removed.
    """

    name: str
    source: str
    target: str
    module: nn.Module
    rows: slice
    mean_name: str

    def weight(self) -> torch.Tensor:
        """[targets, sources], dense."""
        return dense(self.module.weight).detach()[self.rows]

    def entries(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Weights of edges from nodes `source` to nodes `target`, one for each pair."""
        weight = self.weight()
        return weight[target.to(weight.device), source.to(weight.device)]

    def edges(self, sources: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(source nodes, target nodes) of all nonzeros from `sources` to `targets`, by target, then source."""
        sources, targets = sources.sort().values, targets.sort().values
        weight = self.weight()
        at = weight[targets.to(weight.device)][:, sources.to(weight.device)].nonzero().cpu()
        return sources[at[:, 1]], targets[at[:, 0]]


def edge_names(source: str) -> list[str]:
    """Names of the maps out of a site."""
    layer, location = located(source)
    return [
        f"{source}->{site(str(layer), target)}" for matrix in MATRICES if matrix.reads == location for target in matrix.writes
    ]


def edge_maps(model: Any) -> dict[str, EdgeMap]:
    """Name -> map, in forward order."""
    config = require_csp(model).config
    found = {}
    for i, block in enumerate(model.transformer.h):
        for matrix in MATRICES:
            source, first = site(i, matrix.reads), 0
            means = matrix.inputs_name(i)
            for location in matrix.writes:
                target, rows = site(i, location), slice(first, first + location_width(config, location))
                first = rows.stop
                name = f"{source}->{target}"
                found[name] = EdgeMap(name, source, target, block.get_submodule(matrix.path), rows, means)
    return found


def norms(model: Any) -> list[nn.Module]:
    """The norms of the residual stream, in forward order (those of positions are constant)."""
    return [norm for block in model.transformer.h for norm in (block.attn_norm, block.mlp_norm)] + [
        model.transformer.final_norm
    ]


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """While the block runs the model is in eval mode, and gradients may be taken whatever the caller has switched off."""
    before = model.training
    model.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        model.train(before)
