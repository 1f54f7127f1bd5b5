"""Running a model with some of its nodes and edges held at a constant: hooks on the one model, taken away afterwards.

Everything that changes activations goes through `ablated`: gates that are learned, circuits that are applied, edges that are tried. A node is masked after its site's AbsTopK, for all tokens and prompts (docs/method.md#circuits).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .hooks import hooks
from .sites import EdgeMap, edge_maps, norms, require_csp

Change = Callable[[torch.Tensor], torch.Tensor]
Scales = dict[nn.Module, torch.Tensor]


@contextmanager
def ablated(
    model: nn.Module,
    changes: Mapping[str, Change],
    *,
    removed: Mapping[str, tuple[torch.Tensor, ...]] | None = None,
    means: Mapping[str, torch.Tensor] | None = None,
    freeze_norms: bool | Scales = False,
) -> Iterator[None]:
    """While the block runs, the output of each named node site goes through its function, and removed edges carry means.

    A removed edge adds W_ij * mean_j instead of W_ij * a_j. Values travel along all other weights as ever, so nothing is changed by a
    bit where nothing is removed, and nodes outside of a circuit compete in AbsTopK as they do without edges.

    Args:
        changes: site -> function of the site's output.
        removed: "source site->target site" -> (source nodes, target nodes), one pair for each edge; or `Edges`, which have the weights too.
        means: of every source, for removed edges, [width], or anything that broadcasts to [batch, tokens, width]; for v -> resid_delta of what attention makes of v (`sites.y_name`), which c_proj reads.
        freeze_norms: norms use the scales that they have in the unpruned model on the same input, so that deleting nodes cannot
            amplify what is left. Only scales are frozen, not outputs, so gradients flow. Each call runs the model twice, unless scales are
            given (`recorded_scales`, of this input; or any, [..., 1], of those norms that are not to act by themselves).
    """
    sites = require_csp(model).node_sites()
    state = _Recording()
    with hooks() as handles:
        for name, change in changes.items():
            if name not in sites:
                raise ValueError(f"{name!r} is no node site of this model; they are {', '.join(sites)}.")
            handles.append(sites[name].register_forward_hook(state.hook(change)))
        for module, parts in _by_module(model, removed or {}).items():
            cut = [_Cut.of(part, means or {}, *(removed or {})[part.name]) for part in parts]
            handles.append(module.register_forward_hook(state.cut_hook(cut)))
        if freeze_norms:
            given = dict(freeze_norms) if isinstance(freeze_norms, Mapping) else None
            handles += [norm.register_forward_hook(state.norm_hook) for norm in norms(model) if given is None or norm in given]
            if given is not None:
                state.scales = given
            else:
                handles.append(model.register_forward_pre_hook(state.record, with_kwargs=True))
        yield


@contextmanager
def recorded_scales(model: nn.Module) -> Iterator[Scales]:
    """While the block runs, the scales that the model's norms use in its last call: norm -> [batch, tokens, 1]."""
    state = _Recording()
    state.recording = True
    with hooks() as handles:
        handles += [norm.register_forward_hook(state.norm_hook) for norm in norms(model)]
        yield state.scales


class _Recording:
    """Shared by the hooks of one block: whether the unpruned model is running to record its norms' scales."""

    def __init__(self) -> None:
        self.recording = False
        self.scales: Scales = {}

    def hook(self, change: Change) -> Any:
        return lambda module, args, out: None if self.recording else change(out)

    def cut_hook(self, cuts: list[_Cut]) -> Any:
        return lambda module, args, out: None if self.recording else subtract(args[0], out, cuts)

    def record(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        if self.recording:
            return
        if kwargs.get("past_key_values") is not None or kwargs.get("use_cache"):
            raise ValueError(
                "Frozen norms run the model twice on the same input, which a cache does not allow; pass use_cache=False."
            )
        self.recording = True
        try:
            with torch.no_grad():
                model(*args, **{**kwargs, "use_cache": False})
        finally:
            self.recording = False

    def norm_hook(self, norm: nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor | None:
        (x,) = args
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # as the norms themselves do it for narrow types
        if not isinstance(norm, nn.RMSNorm):
            wide = wide - wide.mean(-1, keepdim=True)
        if self.recording:
            self.scales[norm] = (wide.square().mean(-1, keepdim=True) + norm.eps).rsqrt()  # type: ignore[operator]
            return None
        if norm not in self.scales:
            raise ValueError("Frozen norms are recorded by calls of the model itself; call the model, not a part of it.")
        scaled = wide * self.scales[norm] * norm.weight.to(wide)  # type: ignore[operator,union-attr]
        bias = getattr(norm, "bias", None)
        return (scaled if bias is None else scaled + bias.to(wide)).to(x)


def holding(open_: torch.Tensor, fill: torch.Tensor) -> Change:
    """Where `open_` [width] is false, activations become `fill`: [width], or [batch or 1, tokens or 1, width]. Open ones pass bit for bit."""

    def change(out: torch.Tensor) -> torch.Tensor:
        return torch.where(open_.to(out.device), out, fill.to(out))

    return change


class _Gate(torch.autograd.Function):
    """Heaviside(importance) forward, sigmoid'(importance / temperature) / temperature backward (paper, appendix on pruning)."""

    @staticmethod
    def forward(ctx: Any, out: torch.Tensor, fill: torch.Tensor, importance: torch.Tensor, temperature: float) -> torch.Tensor:
        ctx.save_for_backward(out, fill, importance)
        ctx.temperature = temperature
        return torch.where(importance > 0, out, fill)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        out, fill, importance = ctx.saved_tensors
        (grad,) = grads
        to_gate = (grad * (out - fill)).flatten(0, -2).sum(0)
        closed = importance <= 0
        return (
            torch.where(closed, 0, grad),
            torch.where(closed, grad, 0).sum_to_size(fill.shape) if ctx.needs_input_grad[1] else None,
            (to_gate * surrogate(importance, ctx.temperature)).to(importance),
            None,
        )


def surrogate(importance: torch.Tensor, temperature: float) -> torch.Tensor:
    """d gate / d importance as the backward pass takes it: sigmoid'(importance / temperature) / temperature."""
    open_ = torch.sigmoid(importance / temperature)
    return open_ * (1 - open_) / temperature


def gated(importance: torch.Tensor, fill: torch.Tensor, temperature: float) -> Change:
    """Nodes open where importance [width] is above 0, held at `fill` (as in `holding`) elsewhere; importance gets a gradient, and fill if it wants one."""
    return lambda out: _Gate.apply(out, fill.to(out), importance, temperature)  # type: ignore[no-untyped-call,return-value]


def scaled(gate: torch.Tensor, fill: torch.Tensor) -> Change:
    """fill + gate * (activation - fill): at gate 1 its gradient is the first-order effect of each node (attribution)."""
    return lambda out: fill.to(out) + gate * (out - fill.to(out))


@dataclass(frozen=True)
class _Cut:
    """Removed weights of one map as a small matrix [targets, sources], with their channels and the sources' means."""

    targets: torch.Tensor  # rows of the module's output
    sources: torch.Tensor
    matrix: torch.Tensor
    mean: torch.Tensor

    @classmethod
    def of(
        cls,
        part: EdgeMap,
        means: Mapping[str, torch.Tensor],
        source: torch.Tensor,
        target: torch.Tensor,
        weights: torch.Tensor | None = None,
    ) -> _Cut:
        if part.mean_name not in means:
            raise ValueError(
                f"There are no means of {part.mean_name}, which removed edges carry; compute them with mean_activations."
            )
        sources, at_source = source.unique(return_inverse=True)
        targets, at_target = target.unique(return_inverse=True)
        weights = part.entries(source, target) if weights is None else weights
        matrix = weights.new_zeros(len(targets), len(sources))
        matrix[at_target, at_source] = weights
        return cls(targets + part.rows.start, sources, matrix, means[part.mean_name][..., sources])


def _by_module(model: nn.Module, names: Mapping[str, Any]) -> dict[nn.Module, list[EdgeMap]]:
    maps = edge_maps(model) if names else {}
    grouped: dict[nn.Module, list[EdgeMap]] = {}
    for name in names:
        if name not in maps:
            raise ValueError(f"{name!r} is no map between node sites of this model; they are {', '.join(maps)}.")
        grouped.setdefault(maps[name].module, []).append(maps[name])
    return grouped


def subtract(x: torch.Tensor, out: torch.Tensor, cuts: list[_Cut]) -> torch.Tensor:
    """A linear map's output without what the cut weights add beyond their means."""
    out = out.clone()
    for cut in cuts:
        moved = x[..., cut.sources.to(x.device)] - cut.mean.to(x)
        out[..., cut.targets.to(x.device)] -= F.linear(moved, cut.matrix.to(x))
    return out
