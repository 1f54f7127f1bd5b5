"""Linear maps that train over the nonzeros of their weights, where a projection left few: outputs, and the gradients of inputs; dense ones by the
faster library. And norms in one pass.

Weights stay dense parameters, since any entry may come back, and their gradient is whole, by a dense product. In float32 results differ from PyTorch's by
the order of sums. Under autocast, inputs, outputs and gradients are bfloat16, as PyTorch's are, but weights are not rounded where zeros are skipped. Both differ in that an infinite or NaN activation reaches the outputs that it is connected to, and no others.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..kernels import listed, rms_norm, trains, turned
from ..kernels.dense import dense_product, onednn_pays, weight_gradient
from ..kernels.run import is_batched
from ..nonzeros_csp import Support, sparse_product
from ..topk_csp import is_transformed, kernels
from .supersets import Held, held_linear

__all__ = ["attach", "detach", "sparse_products"]


def attach(model: nn.Module) -> None:
    """Lets every `nn.Linear` of a model skip zeros while it trains, on CPU in float32 or under autocast's bfloat16, and every `nn.RMSNorm` be one pass; elsewhere
    they run as ever. `detach` undoes it."""
    for module in model.modules():
        if type(module) in _WAYS and "forward" not in vars(module):
            module.forward = types.MethodType(_WAYS[type(module)], module)  # type: ignore[method-assign]


def detach(model: nn.Module) -> None:
    """Undoes `attach`."""
    for module in model.modules():
        if getattr(vars(module).get("forward"), "__func__", None) in _WAYS.values():
            del module.forward


@contextlib.contextmanager
def sparse_products(model: nn.Module) -> Iterator[None]:
    """`attach` for a while, for training loops of one's own; `WeightSparsityCallback` does it by itself."""
    attach(model)
    try:
        yield
    finally:
        detach(model)


def _linear(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    weight, held = self.weight, vars(self).get("held")
    # Without gradients while training: a checkpoint's first pass, which has to be as its second.
    learns = weight.requires_grad and (torch.is_grad_enabled() or self.training) and kernels() is not None
    plain = x.shape[-1] == weight.shape[1] and (self.bias is None or self.bias.dtype == weight.dtype)
    if not (learns and plain and trains(x, weight)):
        return held_linear(x, weight, self.bias, held)
    narrow = torch.is_autocast_enabled("cpu")
    few = listed(weight, narrow)
    if few is None and (narrow or not onednn_pays()):
        return held_linear(x, weight, self.bias, held)
    flat = x.reshape(-1, x.shape[-1])
    out = _Product.apply(flat.to(torch.bfloat16) if narrow else flat, weight, self.bias, few, held)
    return out if x.dim() == 2 else out.view(*x.shape[:-1], weight.shape[0])


def _norm(self: nn.RMSNorm, x: torch.Tensor) -> torch.Tensor:
    learns = (torch.is_grad_enabled() or self.training) and kernels() is not None
    plain = self.normalized_shape == x.shape[-1:] and self.weight is not None and self.eps is not None
    out = rms_norm(x, self.weight, self.eps) if learns and plain else None
    return F.rms_norm(x, self.normalized_shape, self.weight, self.eps) if out is None else out


_WAYS: dict[type, Any] = {nn.Linear: _linear, nn.RMSNorm: _norm}


class _Product(torch.autograd.Function):
    """x [tokens, width], weight [rows, width], bias [rows] or None -> [tokens, rows]; by the nonzeros, if they are few enough to be listed, else by
    oneDNN. float32, or x and what comes of it in bfloat16, summed in float32."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, few: Any, held: Held | None
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.few, ctx.held = None, held
        if few is None:
            return dense_product(x, weight, bias)
        values, starts, columns = few
        support = Support(starts, columns, weight.shape[1])
        ctx.few = values, support
        return sparse_product(x, values, support, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (dy,), (x, weight) = gradients, ctx.saved_tensors
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        # A second derivative is wanted, or many gradients at once.
        again = torch.is_grad_enabled() or is_transformed() or is_batched(dy)
        dx = dweight = dbias = None
        if needs_x and again:
            dx = dy @ weight.to(dy.dtype)
        elif needs_x and ctx.few is None:
            dx = dense_product(dy, weight.t())
        elif needs_x:
            values, known = ctx.few
            starts, columns, order = turned(known)
            dx = sparse_product(dy, values[order], Support(starts, columns, weight.shape[0]))
        if needs_weight:
            dweight = _weight_gradient(dy, x, ctx.held, again).to(weight.dtype)
        if needs_bias:
            dbias = dy.sum(0, dtype=weight.dtype)
        return dx, dweight, dbias, None, None


def _weight_gradient(dy: torch.Tensor, x: torch.Tensor, held: Held | None, again: bool) -> torch.Tensor:
    if held is not None and held.pays and not again:
        return held.weight_gradient(dy, x)
    plain = again or not (onednn_pays() and dy.dtype == torch.float32)
    whole = dy.t() @ x if plain else weight_gradient(dy, x)
    return whole if held is None else held.kept(whole)
