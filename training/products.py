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

from ..kernels import compact_topk, listed, packed, rms_norm, trains, turned, unpacked
from ..kernels.dense import dense_product, onednn_pays, weight_gradient
from ..kernels.run import ONCE, is_batched
from ..nonzeros_csp import Support, sparse_product
from ..topk_csp import is_transformed, kernels
from .supersets import Held, forget, held_linear, held_of, mark

__all__ = ["attach", "detach", "sparse_products"]


def attach(model: nn.Module) -> None:
    """Lets every `nn.Linear` of a model skip zeros while it trains, on CPU in float32 or under autocast's bfloat16, and every `nn.RMSNorm` be one pass; elsewhere
    they run as ever. Of what node sites leave, no more is kept for the gradient than AbsTopK kept. `detach` undoes it."""
    whole: Any = next((each for each in model.modules() if hasattr(each, "node_sites")), None)
    sites = set() if whole is None else set(whole.node_sites().values())
    after_gelu = {module.post_act for module in model.modules() if type(module).__name__ == "CSPMLP"} & sites
    for module in model.modules():
        way = _site_after_gelu if module in after_gelu else _site if module in sites else _WAYS.get(type(module))
        if way is not None and "forward" not in vars(module):
            module.forward = types.MethodType(way, module)  # type: ignore[method-assign]


def detach(model: nn.Module) -> None:
    """Undoes `attach`; all of every weight gets a gradient again, and gradients of a part are dropped, also after a run that was broken off."""
    forget(model)
    _release(model)


def _release(model: nn.Module) -> None:
    for module in model.modules():
        if getattr(vars(module).get("forward"), "__func__", None) in (_site, _site_after_gelu, *_WAYS.values()):
            del module.forward


@contextlib.contextmanager
def sparse_products(model: nn.Module) -> Iterator[None]:
    """`attach` for a while, for training loops of one's own; `WeightSparsityCallback` does it by itself."""
    attach(model)
    try:
        yield
    finally:
        _release(model)


def _linear(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    weight, held = self.weight, held_of(self)
    # Without gradients while training: a checkpoint's first pass, which has to be as its second.
    learns = weight.requires_grad and (torch.is_grad_enabled() or self.training) and kernels() is not None
    plain = x.shape[-1] == weight.shape[1] and (self.bias is None or self.bias.dtype == weight.dtype)
    if not (learns and plain and trains(x, weight)):
        return held_linear(x, weight, self.bias, held)
    narrow = torch.is_autocast_enabled("cpu")
    out = _Product.apply(x.reshape(-1, x.shape[-1]), weight, self.bias, listed(weight, narrow), held, narrow)
    return out if x.dim() == 2 else out.view(*x.shape[:-1], weight.shape[0])


def _norm(self: nn.RMSNorm, x: torch.Tensor) -> torch.Tensor:
    learns = (torch.is_grad_enabled() or self.training) and kernels() is not None
    gains, epsilon = self.weight, self.eps
    plain = self.normalized_shape == x.shape[-1:] and learns
    out = rms_norm(x, gains, epsilon) if plain and gains is not None and epsilon is not None else None
    return F.rms_norm(x, self.normalized_shape, self.weight, self.eps) if out is None else out


def _site(self: Any, x: torch.Tensor, fuses: bool = False) -> torch.Tensor:
    out = compact_topk(x, self.k, fuses) if 0 < self.k < x.shape[-1] and kernels() is not None else None
    return type(self).forward(self, x) if out is None else out


def _site_after_gelu(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Where the model gives what GELU makes to the site and to nobody else; unless a hook sees it."""
    own = self._forward_hooks, self._forward_pre_hooks, self._backward_hooks, self._backward_pre_hooks
    others = (
        getattr(nn.modules.module, f"_global_{kind}_hooks", ())
        for kind in ("forward", "forward_pre", "backward", "backward_pre")
    )
    return _site(self, x, not any(own) and not any(others))


_WAYS: dict[type, Any] = {nn.Linear: _linear, nn.RMSNorm: _norm}


class _Product(torch.autograd.Function):
    """x [tokens, width], weight [rows, width], bias [rows] or None -> [tokens, rows]; by the nonzeros, if they are few enough to be listed, else dense.
    float32; narrow: x and what comes of it in bfloat16, summed in float32."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, few: Any, held: Held | None, narrow: bool
    ) -> torch.Tensor:
        saved, ctx.layout = packed(x)
        x = x.to(torch.bfloat16) if narrow else x
        saved = saved.to(x.dtype) if ctx.layout else x
        ctx.support, ctx.held, ctx.narrow = None, held, narrow
        if few is None:
            dense = weight.to(x.dtype)
            ctx.save_for_backward(saved, weight, dense)
            return _dense(x, dense, None if bias is None else bias.to(x.dtype))
        values, starts, columns = few
        ctx.save_for_backward(saved, weight, values)
        ctx.support = Support(starts, columns, weight.shape[1])
        return sparse_product(x, values, ctx.support, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (dy,), (saved, weight, used) = gradients, ctx.saved_tensors
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        # A second derivative is wanted, or many gradients at once.
        again = torch.is_grad_enabled() or is_transformed() or is_batched(dy)
        if (again and ctx.layout) or (torch.is_grad_enabled() and ctx.narrow):
            raise RuntimeError(ONCE)
        dx = dweight = dbias = None
        if needs_x and again:
            dx = dy @ weight.to(dy.dtype)
        elif needs_x and ctx.support is None:
            dx = _dense(dy, used.t(), None)
        elif needs_x:
            starts, columns, order = turned(ctx.support)
            dx = sparse_product(dy, used[order], Support(starts, columns, weight.shape[0]))
        if needs_weight:
            if ctx.held is not None:
                mark(weight)
            dweight = _weight_gradient(dy, unpacked(saved, ctx.layout), ctx.held, again).to(weight.dtype)
        if needs_bias:
            dbias = dy.sum(0, dtype=weight.dtype)
        return dx, dweight, dbias, None, None, None


def _dense(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if x.dtype == torch.float32 and onednn_pays():
        return dense_product(x, weight, bias)
    with torch.autocast("cpu", enabled=False):
        return F.linear(x, weight, bias)


def _weight_gradient(dy: torch.Tensor, x: torch.Tensor, held: Held | None, again: bool) -> torch.Tensor:
    if held is not None and not again and held.pays(x):
        return held.weight_gradient(dy, x)
    plain = again or not (onednn_pays() and dy.dtype == torch.float32)
    whole = dy.t() @ x if plain else weight_gradient(dy, x)
    return whole if held is None else held.kept(whole)
