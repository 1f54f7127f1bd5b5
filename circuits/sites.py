"""Where the nodes and edges of a model are (METHOD, section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

# source site -> target site, within one layer; the module between them; which third of its rows
_KINDS = (
    ("attn.act_in", "attn.q", "attn.c_attn", 0),
    ("attn.act_in", "attn.k", "attn.c_attn", 1),
    ("attn.act_in", "attn.v", "attn.c_attn", 2),
    ("attn.v", "attn.resid_delta", "attn.c_proj", None),
    ("mlp.act_in", "mlp.post_act", "mlp.c_fc", None),
    ("mlp.post_act", "mlp.resid_delta", "mlp.c_proj", None),
)


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
    return f"{layer}.attn.y"


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


def reads_residual(site: str) -> bool:
    """Whether the nodes of a site are channels of the residual stream, read through a norm or by the unembedding."""
    return site.endswith("act_in") or site == "final_resid"


def edge_names(source: str) -> list[str]:
    """Names of the maps out of a site."""
    layer, _, site = source.partition(".")
    return [f"{layer}.{s}->{layer}.{t}" for s, t, _, _ in _KINDS if s == site]


_ORDER = ("attn.act_in", "attn.q", "attn.k", "attn.v", "attn.resid_delta", "mlp.act_in", "mlp.post_act", "mlp.resid_delta")


def ordered(names: Iterable[str]) -> list[str]:
    """Node sites in forward order."""
    return sorted(
        names,
        key=lambda name: (
            (1 << 30, 0) if name == "final_resid" else (int(name.partition(".")[0]), _ORDER.index(name.partition(".")[2]))
        ),
    )


def edge_maps(model: Any) -> dict[str, EdgeMap]:
    """Name -> map, in forward order."""
    config = require_csp(model).config
    width = config.n_head * config.d_head
    found = {}
    for i, block in enumerate(model.transformer.h):
        for source, target, path, third in _KINDS:
            module = block.get_submodule(path)
            rows = slice(0, config.d_mlp if target == "mlp.post_act" else config.d_model)
            rows = rows if third is None else slice(third * width, (third + 1) * width)
            mean_name = y_name(i) if source == "attn.v" else f"{i}.{source}"
            name = f"{i}.{source}->{i}.{target}"
            found[name] = EdgeMap(name, f"{i}.{source}", f"{i}.{target}", module, rows, mean_name)
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
