"""Linear maps that train over the nonzeros of their weights, where a projection left few: outputs, and the gradients of inputs.

Weights stay dense parameters, since any entry may come back, and their gradient is exact and whole, by a dense product. Results differ from dense
ones by the order of float32 sums, and in that an infinite or NaN activation reaches the outputs that it is connected to, and no others.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..kernels import pays_in_training, trains_sparse
from ..nonzeros_csp import Support, nonzeros, sparse_product
from ..topk_csp import kernels

__all__ = ["attach", "detach", "sparse_products"]


def attach(model: nn.Module) -> None:
    """Lets every `nn.Linear` of a model skip zeros while it trains, on CPU in float32; elsewhere they run as ever. `detach` undoes it."""
    for module in model.modules():
        if type(module) is nn.Linear and "forward" not in vars(module):
            module.forward = types.MethodType(_forward, module)  # type: ignore[method-assign]


def detach(model: nn.Module) -> None:
    """Undoes `attach`."""
    for module in model.modules():
        if getattr(vars(module).get("forward"), "__func__", None) is _forward:
            del module.forward


@contextlib.contextmanager
def sparse_products(model: nn.Module) -> Iterator[None]:
    """`attach` for a while, for training loops of one's own; `WeightSparsityCallback` does it by itself."""
    attach(model)
    try:
        yield
    finally:
        detach(model)


def _forward(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    weight = self.weight
    learns = torch.is_grad_enabled() and weight.requires_grad and kernels() is not None
    if not (learns and trains_sparse(x, weight) and pays_in_training(weight)):
        return F.linear(x, weight, self.bias)
    out = _Product.apply(x.reshape(-1, x.shape[-1]), weight, self.bias)
    return out.view(*x.shape[:-1], weight.shape[0])


class _Product(torch.autograd.Function):
    """x [tokens, width], weight [rows, width], bias [rows] or None -> [tokens, rows]."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        values, starts, columns = nonzeros(weight, weight != 0)
        ctx.values, ctx.support = values, Support(starts, columns, weight.shape[1])
        return sparse_product(x, values, ctx.support, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (dy,), (x, weight) = gradients, ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        dx = None
        if needs_x and torch.is_grad_enabled():  # a second derivative is wanted
            dx = dy @ weight
        elif needs_x:
            support, order = ctx.support.transposed
            dx = sparse_product(dy, ctx.values[order], support)
        return dx, dy.t() @ x if needs_weight else None, dy.sum(0) if needs_bias else None
