"""GPU kernels in Triton: AbsTopK by a search over thresholds, and products with sparse matrices.

Imported only where Triton is installed and a tensor lies on a GPU. Semantics are those of the PyTorch path, exactly for AbsTopK. Each
output is summed by one program in a fixed order, so results are deterministic. `ready` tries both kernels on small inputs, once per
device, before they are used: where one fails or differs, PyTorch serves instead, with a warning that says so.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from typing import Any

import torch
import triton
import triton.language as tl

MAX_WIDTH = 1 << 15  # a row of AbsTopK is held in registers
TOKENS = 64  # tokens that a product handles side by side


@triton.jit
def _abs_topk_kernel(x, out, kept, width, k, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row + columns, mask=inside, other=0.0)
    # The bits of a non-negative float order as integers do, with NaN above infinity; what is outside ranks below everything.
    bits = tl.where(inside, values.to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF, -1)
    threshold = 0
    for i in range(31):  # from the highest bit down: the largest threshold that at least k entries reach
        candidate = threshold | (1 << (30 - i))
        threshold = tl.where(tl.sum((bits >= candidate).to(tl.int32)) >= k, candidate, threshold)
    above, tied = bits > threshold, bits == threshold
    room = k - tl.sum(above.to(tl.int32))
    keep = above | (tied & (tl.cumsum(tied.to(tl.int32), 0) <= room))
    tl.store(out + row + columns, tl.where(keep, values, 0.0), mask=inside)
    tl.store(kept + row + columns, keep.to(tl.int8), mask=inside)


@triton.jit
def _product_kernel(x, starts, columns, values, out, tokens, BLOCK: tl.constexpr):
    """One row of W with BLOCK tokens: x is [width, tokens], out [rows, tokens]."""
    row = tl.program_id(0)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = token < tokens
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for n in range(tl.load(starts + row), tl.load(starts + row + 1)):
        source = x + tl.load(columns + n).to(tl.int64) * tokens
        total += tl.load(values + n) * tl.load(source + token, mask=inside, other=0.0)
    tl.store(out + row.to(tl.int64) * tokens + token, total, mask=inside)


@triton.jit
def _product_of_one_kernel(x, starts, columns, values, out, BLOCK: tl.constexpr):
    """One row of W with one token, BLOCK nonzeros at a time."""
    row = tl.program_id(0)
    first, last = tl.load(starts + row), tl.load(starts + row + 1)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for base in range(first, last, BLOCK):
        n = base + tl.arange(0, BLOCK)
        inside = n < last
        column = tl.load(columns + n, mask=inside, other=0)
        total += tl.load(values + n, mask=inside, other=0.0) * tl.load(x + column, mask=inside, other=0.0)
    tl.store(out + row, tl.sum(total))


def _on(device: torch.device) -> Any:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def abs_topk(x: torch.Tensor, k: int) -> torch.Tensor:
    """AbsTopK over the last dimension, differentiable; as `selected` takes it."""
    return _AbsTopK.apply(x, k) if x.requires_grad and torch.is_grad_enabled() else selected(x, k)[0]


class _AbsTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, k: int) -> torch.Tensor:
        out, kept = selected(x, k)
        ctx.save_for_backward(kept)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return torch.where(ctx.saved_tensors[0], gradients[0], 0), None


def selected(x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(AbsTopK over the last dimension, bool mask of what it keeps); float32, float16 or bfloat16, 0 < k < width <= MAX_WIDTH."""
    x, width = x.contiguous(), x.shape[-1]
    out, kept = torch.empty_like(x), torch.empty(x.shape, dtype=torch.bool, device=x.device)
    block = triton.next_power_of_2(width)
    grid = (x.numel() // width,)
    with _on(x.device):
        _abs_topk_kernel[grid](x, out, kept.view(torch.int8), width, k, BLOCK=block, num_warps=max(1, min(16, block // 512)))
    return out, kept


def product(x: torch.Tensor, starts: torch.Tensor, columns: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """x [tokens, width] @ W.T in float32, for W [rows, width] by its nonzeros (CSR, int32)."""
    rows, tokens = starts.shape[0] - 1, x.shape[0]
    out = torch.empty(rows, tokens, device=x.device, dtype=torch.float32)
    if tokens == 1:
        with _on(x.device):
            _product_of_one_kernel[(rows,)](x.contiguous(), starts, columns, values.contiguous(), out, BLOCK=32, num_warps=1)
        return out.view(1, rows)
    grid = (rows, triton.cdiv(tokens, TOKENS))
    with _on(x.device):
        _product_kernel[grid](x.t().contiguous(), starts, columns, values.contiguous(), out, tokens, BLOCK=TOKENS, num_warps=2)
    return out.t().contiguous()


@functools.cache
def ready(device: torch.device) -> bool:
    """Whether the kernels run on a device and agree there with PyTorch on small inputs; warns once where they do not."""
    try:
        fault = _fault(device)
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
    if fault:
        warnings.warn(f"The Triton kernels do not work on {device} ({fault[:200]}); PyTorch serves instead.", stacklevel=2)
    return not fault


def _fault(device: torch.device) -> str:
    with torch.no_grad():
        x = torch.randn(5, 200, generator=torch.Generator().manual_seed(0)).round(decimals=1).to(device)
        magnitude = x.abs()
        order = magnitude.argsort(dim=-1, descending=True, stable=True)[:, :50]
        expected = torch.zeros_like(x, dtype=torch.bool).scatter_(-1, order, True)
        out, kept = selected(x, 50)
        if not torch.equal(kept, expected) or not torch.equal(out, torch.where(expected, x, 0)):
            return "AbsTopK differs"
        dense = torch.where(magnitude > 1.5, x, 0)
        counts = (dense != 0).sum(1)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
        rows, columns = dense.nonzero(as_tuple=True)
        for tokens in (1, 70):
            inputs = torch.randn(tokens, 200, generator=torch.Generator().manual_seed(1)).to(device)
            found = product(inputs, starts, columns.int(), dense[rows, columns])
            if not torch.allclose(found.double(), inputs.double() @ dense.double().t(), atol=1e-4):
                return "the sparse product differs"
    return ""
