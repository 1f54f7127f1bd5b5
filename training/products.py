"""Linear maps that train over nonzeros: of their weights, where a projection left few, and of their outputs' gradients, where AbsTopK did.

Weights stay dense parameters, since any entry may come back; what is skipped is multiplication by zeros. The gradient of the weights is
exact and whole. Results differ from dense products by the order of float32 sums, and in that an infinite or NaN activation reaches the
outputs that it is connected to, and no others.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..kernels import active_product, pays_in_training, trains_sparse
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
    if not (torch.is_grad_enabled() and weight.requires_grad and kernels() and trains_sparse(x, weight)):
        return F.linear(x, weight, self.bias)
    out = _Product.apply(x.reshape(-1, x.shape[-1]), weight, self.bias)
    return out.view(*x.shape[:-1], weight.shape[0])


def _listed(weight: torch.Tensor) -> tuple[torch.Tensor, Support]:
    """Values and support of a matrix' nonzeros."""
    values, starts, columns = nonzeros(weight, weight != 0)
    return values, Support(starts, columns, weight.shape[1])


class _Product(torch.autograd.Function):
    """x [tokens, width], weight [rows, width], bias [rows] or None -> [tokens, rows]."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.skips = pays_in_training(weight)
        return sparse_product(x, *_listed(weight), bias) if ctx.skips else F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (dy,), (x, weight) = gradients, ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        dx = dweight = None
        if torch.is_grad_enabled():  # a second derivative is wanted
            dx, dweight = (dy @ weight if needs_x else None), (dy.t() @ x if needs_weight else None)
        else:
            if needs_x:
                dx = sparse_product(dy, *_listed(weight.t().contiguous())) if ctx.skips else dy @ weight
            if needs_weight:
                dweight = active_product(dy, x)
                dweight = dy.t() @ x if dweight is None else dweight
        return dx, dweight, dy.sum(0) if needs_bias else None
