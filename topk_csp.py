"""AbsTopK (paper, section 2), the node sites that apply it, and the way to faster kernels.

Semantics are exact and the same on every path: exactly k entries are kept, ties go to the lower index, and NaN ranks above infinity (so
a NaN is kept and stays visible). Ties matter even among zeros: a kept zero passes gradient. The one exception is float64, the dtype of
verification, which leaves ties to `torch.topk`: the reference training run was made so, and departs within a step under any other choice.

These files are PyTorch alone. Where the package `sparse_circuits` is installed beside them, its kernels serve, in float32 and narrower and
outside of torch.compile, with equal results up to the order of float32 sums. CSP_KERNELS=torch in the environment leaves them out.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad

from .configuration_csp import CSPConfig, package
from .wiring_csp import location_width

_SAME_WIDTH_INT = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def kernels() -> Any:
    """The module `sparse_circuits.kernels`, or None where it is not installed, not wanted, or something is traced or transformed."""
    return None if is_transformed() or not kernels_wanted() else package("kernels")


@functools.lru_cache(maxsize=1)
def kernels_wanted() -> bool:
    return os.environ.get("CSP_KERNELS", "auto") != "torch"


def is_transformed() -> bool:
    """Whether something other than plain execution and reverse-mode gradients is going on: tracing, torch.func, forward-mode AD."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
    )


def abs_topk(x: torch.Tensor, k: int) -> torch.Tensor:
    """AbsTopK over the last dimension: the k entries of largest |x| of each row, the others zero.

    Args:
        x: any shape [..., width], floating point.
        k: entries kept in each row, 0 <= k <= width.

    Returns:
        A tensor like x. The gradient flows through the kept entries only.
    """
    width = x.shape[-1]
    if not 0 <= k <= width:
        raise ValueError(f"AbsTopK cannot keep k={k} of {width} entries; k must be from 0 to {width}.")
    if k == width:
        return x
    if k == 0:
        return torch.where(torch.zeros_like(x, dtype=torch.bool), x, 0)
    fast = kernels()
    out = None if fast is None else fast.abs_topk(x, k)
    if out is not None:
        return out
    return torch.where(abs_topk_mask(x.detach(), k), x, 0)


def abs_topk_mask(x: torch.Tensor, k: int) -> torch.Tensor:
    """Bool mask [..., width] of the entries that `abs_topk` keeps, by PyTorch alone; 0 < k < width."""
    # ONNX has no view of a float's bits; its TopK gives ties to the lower index, as we do.
    if x.dtype == torch.float64 or torch.onnx.is_in_onnx_export():
        index = x.abs().topk(k, dim=-1).indices
        return torch.zeros_like(x, dtype=torch.bool).scatter_(-1, index, True)
    return largest_mask(magnitude_bits(x), k)


def magnitude_bits(x: torch.Tensor) -> torch.Tensor:
    """|x| as integers of its width: the bits of a non-negative float order as integers do, with NaN above infinity. (Of its own width: PyTorch widens a float16's
    NaN to one of two others, by where in a row it stands.)"""
    return x.abs().view(_SAME_WIDTH_INT[x.dtype])


def largest_mask(keys: torch.Tensor, k: int) -> torch.Tensor:
    """Bool mask of exactly k largest integers in each row [..., width], ties to the lower index; 0 < k <= width."""
    threshold = keys.topk(k, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True)
    above = keys > threshold
    tied = keys == threshold
    room = k - above.sum(dim=-1, keepdim=True)
    return above | (tied & (tied.cumsum(dim=-1) <= room))


class NodeSite(nn.Module):
    """One node site: applies the location's AbsTopK if the config has one, and nothing else. Its output is the nodes' activation."""

    def __init__(self, config: CSPConfig, location: str | None):
        super().__init__()
        self.width = location_width(config, location) if location else config.d_model
        self.k = int(config.afrac.get(location, 1.0) * self.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return abs_topk(x, self.k) if self.k < self.width else x

    def extra_repr(self) -> str:
        return f"width={self.width}" + (f", k={self.k}" if self.k < self.width else "")
