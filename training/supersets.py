"""Gradients of the largest entries of a matrix alone, and of all of them now and then: `SparsityConfig(backward_density=...)`.

After Top-KAST (Jayakumar et al. 2020, arXiv 2106.03517), where a superset of the nonzeros, chosen by magnitude, gets gradients. There weights outside of the nonzeros keep
their values; here the projection makes them zero. So what is chosen by is what they had become by a step with the whole gradient, before that step's projection.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.weak import WeakTensorKeyDictionary

from ..kernels import count_of, held_pays, nonzeros_of
from ..nonzeros_csp import Support, nonzeros, value_gradient
from .projection import Projected, local_part, project_tensor_
from .schedules import SparsityConfig

__all__ = ["Held", "Supersets"]


class Held(Support):
    """The entries of a matrix [rows, width] that get a gradient."""

    @functools.cached_property
    def flat(self) -> torch.Tensor:
        """int64 [entries]: their places in the matrix, row by row."""
        return self.row_of.long() * self.shape[1] + self.columns

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """[rows, width] with values [entries] at their places and zeros elsewhere."""
        whole = values.new_zeros(self.shape)
        whole.view(-1)[self.flat] = values
        return whole

    def weight_gradient(self, dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """dy.T @ x [rows, width] at these entries, zero elsewhere; for dy [tokens, rows] and x [tokens, width], in float32 at least."""
        return self.spread(value_gradient(dy, x, self))

    def kept(self, whole: torch.Tensor) -> torch.Tensor:
        """A matrix [rows, width] at these entries, zero elsewhere."""
        return self.spread(whole.reshape(-1)[self.flat])

    def pays(self, x: torch.Tensor) -> bool:
        """Whether `weight_gradient` is faster than the whole gradient."""
        return held_pays(self.shape[0] * self.shape[1], self.columns.shape[0], x.dtype == torch.bfloat16)


class _Masked(torch.autograd.Function):
    """A weight, whose gradient is made whole and kept where it is held."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, held: Held) -> torch.Tensor:
        ctx.held, ctx.weight = held, weakref.ref(weight)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        weight = ctx.weight()
        if weight is not None:
            mark(weight)
        return ctx.held.kept(gradients[0]), None


# What of a weight gets a gradient in the step that is under way, by module; and weights with gradients of a part, until a callback takes them for what they are.
_UNDER_WAY: weakref.WeakKeyDictionary[nn.Module, Held] = weakref.WeakKeyDictionary()
_OF_A_PART: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def held_of(module: nn.Module) -> Held | None:
    """What of a module's weight gets a gradient now; None: all of it."""
    return _UNDER_WAY.get(module)


def forget(model: nn.Module) -> None:
    """All of every weight gets a gradient again, and gradients of a part are dropped: also after a run that was broken off within a step."""
    for module in model.modules():
        _UNDER_WAY.pop(module, None)
    for parameter in model.parameters():
        if _OF_A_PART.pop(parameter, False):
            parameter.grad = None


def mark(weight: torch.Tensor) -> None:
    """Says that a weight's gradient is of a part."""
    _OF_A_PART[weight] = True


def _refuse_marked(optimizer: Any, *given: Any) -> None:
    """Before any optimizer's step: gradients of a part are for the run alone that asked for them."""
    if len(_OF_A_PART) and any(p in _OF_A_PART for group in optimizer.param_groups for p in group["params"]):
        raise RuntimeError(
            "Gradients are of a part of the weights (backward_density), left by a run that was broken off within a step; call "
            "sparse_circuits.training.products.detach(model), which drops them, then zero_grad() and backward() again."
        )


@functools.cache
def _watch_optimizers() -> None:
    register_optimizer_step_pre_hook(_refuse_marked)


def held_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, held: Held | None) -> torch.Tensor:
    """PyTorch's linear map, with the gradient of the weight where it is held (None: all of it)."""
    return F.linear(x, weight if held is None else _Masked.apply(weight, held), bias)


@dataclass
class _Matrix:
    """A matrix of the blocks, its module, and what of it gets a gradient between whole ones."""

    tensor: Projected
    module: nn.Module
    held: Held | None = None


class Supersets:
    """What of each block matrix (the weights of `nn.Linear`) gets a gradient at which step.

    Entries outside of a superset are zero and so are their moments (`only_held` sees to it, whatever made a gradient), so that a checkpoint tells what the superset
    was: where weight or moment is not zero. Weights that are not trained are left out.

    Args:
        beyond: square sums of gradients, all over those that a step between whole ones has; by it the gradient's norm is told there. From the checkpoint, if
            there is one.
    """

    def __init__(self, model: nn.Module, tensors: Iterable[Projected], config: SparsityConfig, beyond: float = 1.0):
        self.config, self.beyond, self._remembers = config, beyond, False
        modules = {id(module.weight): module for module in model.modules() if type(module) is nn.Linear}
        self.matrices = [
            _Matrix(each, modules[id(each.parameter)])
            for each in tensors
            if each.group == "weights" and each.parameter.requires_grad and id(each.parameter) in modules
        ]  # fmt: skip
        if not self.matrices:
            raise ValueError(
                "backward_density needs block matrices that are trained weights of nn.Linear, of which this model has none; leave it out."
            )
        for each in self.matrices:
            if local_part(each.tensor.parameter)[1] is not None:
                raise ValueError(
                    f"backward_density does not work with weights in shards (FSDP2), as {each.tensor.name} is; leave it out, or use DDP."
                )

        _watch_optimizers()

    def begin(self, step: int, total: int, optimizer: Any = None) -> None:
        """Before a step's forward pass; with the optimizer, when a run is taken up."""
        partial = not self.config.is_whole_at(step, total)
        known = optimizer is not None and step > 0 and (partial or not self.config.is_whole_at(step - 1, total))
        if known and not all(_state(optimizer).get(each.tensor.parameter) for each in self.matrices):
            raise ValueError(
                "The checkpoint has no optimizer's state, by which gradients of a part of the weights (backward_density) go on; resume from one that has it, or start "
                "a new run from its weights."
            )
        for each in self.matrices:
            if known:
                each.held = _with_weight_or_moment(each.tensor.parameter, moments(optimizer, each.tensor))
            _UNDER_WAY.pop(each.module, None)
            if partial and each.held is not None:
                _UNDER_WAY[each.module] = each.held

    @torch.no_grad()
    def only_held(self, step: int, total: int) -> None:
        """Before gradients are normalised and the optimizer steps: no gradient outside of the superset, whatever came to it (another callback, a penalty on weights, a
        weight that two modules share)."""
        for each in self.matrices:
            _UNDER_WAY.pop(each.module, None)
            _OF_A_PART.pop(each.tensor.parameter, None)
            grad, held = each.tensor.parameter.grad, each.held
            if self.config.is_whole_at(step, total) or grad is None or held is None:
                continue
            if count_of(grad) != int(grad.reshape(-1)[held.flat].count_nonzero()):
                grad.copy_(held.kept(grad))

    def beyond_at(self, step: int, total: int) -> float:
        """Square sum of the whole gradient, over that of what a step has of it."""
        return 1.0 if self.config.is_whole_at(step, total) else self.beyond

    @torch.no_grad()
    def choose(self, step: int, total: int, optimizer: Any, parameters: Iterable[nn.Parameter], min_alive: int) -> None:
        """After the optimizer's step, before the projection: where the next step is to have a part of the gradient and this one has all of it."""
        if not self._remembers:
            self._remembers = all(moments(optimizer, each.tensor) for each in self.matrices)  # or raises, at the first step
        if self.config.is_whole_at(step + 1, total) or not self.config.is_whole_at(step, total):
            return
        before = [each.held for each in self.matrices]
        for each in self.matrices:
            parameter, kept = each.tensor.parameter, each.tensor.count(self.config.backward_density or 1.0)
            project_tensor_(parameter, kept, min_alive=min_alive, neuron_dim=each.tensor.neuron_dim)
            outside = parameter == 0
            for state in moments(optimizer, each.tensor):
                state.masked_fill_(outside, 0)
            each.held = _nonzero(parameter)
        # By the superset that was, if there was one: what is chosen by this gradient has more of it than of the next.
        self.beyond = _beyond(self.matrices, [old or each.held for old, each in zip(before, self.matrices)], parameters)

    @torch.no_grad()
    def settle(self, step: int, total: int, optimizer: Any) -> None:
        """After the projection: what has neither weight nor moment any more is held no more, as it would be when the run is taken up."""
        if self.config.is_whole_at(step, total) and self.config.is_whole_at(step + 1, total):
            return
        for each in self.matrices:
            if each.held is not None:
                each.held = _settled(each.held, each.tensor.parameter, moments(optimizer, each.tensor))


# What optimizers remember of each weight, zero for one that never had a gradient, by the names that PyTorch's and transformers' have for it.
_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "sum")


def _state(optimizer: Any) -> dict[Any, dict[str, Any]]:
    return getattr(optimizer, "optimizer", optimizer).state  # accelerate's wrapper


def moments(optimizer: Any, tensor: Projected) -> list[torch.Tensor]:
    """What an optimizer remembers of each entry of a tensor.

    Raises:
        ValueError: if it remembers nothing, or something that is not zero where there never was a gradient.
    """
    parameter, kind = tensor.parameter, type(getattr(optimizer, "optimizer", optimizer)).__name__
    state = _state(optimizer).get(parameter, {})
    found = {name: x for name, x in state.items() if isinstance(x, torch.Tensor) and x.shape == parameter.shape}
    other = next((name for name, x in found.items() if name not in _MOMENTS or not x.is_floating_point()), None)
    if other is not None or not found:
        what = "none" if other is None else f"{other!r}, which this does not know,"
        raise ValueError(
            f"backward_density needs an optimizer that keeps moments of every weight, as AdamW does, and {kind} keeps {what} of {tensor.name}; "
            f"use one that does, such as optim='adamw_torch', or leave backward_density out."
        )
    return list(found.values())


@torch.no_grad()
def _nonzero(parameter: torch.Tensor) -> Held:
    _, starts, columns = nonzeros_of(parameter) or nonzeros(parameter, parameter != 0)
    return Held(starts, columns, parameter.shape[1])


@torch.no_grad()
def _with_weight_or_moment(parameter: torch.Tensor, states: list[torch.Tensor]) -> Held:
    wanted = parameter != 0
    for state in states:
        wanted |= state != 0
    _, starts, columns = nonzeros(parameter, wanted)
    return Held(starts, columns, parameter.shape[1])


def _settled(held: Held, parameter: torch.Tensor, states: list[torch.Tensor]) -> Held:
    """Most have a moment: the rest is looked at closer."""
    left = (states[0].reshape(-1)[held.flat] == 0).nonzero().flatten()
    places = held.flat[left]
    for each in (parameter, *states[1:]):
        still = each.reshape(-1)[places] == 0
        left, places = left[still], places[still]
    if not len(left):
        return held
    kept = torch.ones(len(held.columns), dtype=torch.bool, device=left.device)
    kept[left] = False
    counts = torch.bincount(held.row_of[kept].long(), minlength=held.shape[0])
    return Held(F.pad(counts.cumsum(0), (1, 0)).to(torch.int32), held.columns[kept], held.shape[1])


def _beyond(matrices: list[_Matrix], held: list[Held | None], parameters: Iterable[nn.Parameter]) -> float:
    """Square sum of all gradients, over that of what is held of them."""
    whole = sum(_square_sum(p.grad) for p in parameters if p.requires_grad and p.grad is not None)
    lost = 0.0
    for each, part in zip(matrices, held):
        grad = each.tensor.parameter.grad
        if grad is not None and part is not None:
            lost += _square_sum(grad) - _square_sum(grad.reshape(-1)[part.flat])
    return whole / (whole - lost) if 0 < lost < whole else 1.0


def _square_sum(x: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(x)) ** 2
