"""GPU kernels in Triton: AbsTopK by a search over thresholds, products with sparse matrices, and the gradient of their values.

Imported only where Triton is installed and a tensor lies on a GPU. Semantics are those of the PyTorch path, exactly for AbsTopK. Each
output is summed by one program in a fixed order, so results are deterministic. `ready` tries them all on small inputs, once per
device, before they are used: where one fails or differs, PyTorch serves instead, with a warning that says so. Nothing here waits for the
device, but for the first call of each shape on it, which times a few block sizes (`_chosen`).
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

MAX_WIDTH = 1 << 15  # a row of AbsTopK is held in registers
# Block sizes that are tried, once for each kernel, shape and device; the first is taken where timing means nothing.
ROWS_OF_TOPK = (4096, 8192, 16384)  # entries in a program: several rows of a narrow site
TOKENS = (64, 32, 128, 256)  # tokens that a product handles side by side
# Bits of a float32 that are 0 in a widened value: the search need not look at them.
_EMPTY_BITS = {torch.float32: 0, torch.float16: 13, torch.bfloat16: 16}


@triton.jit
def _abs_topk_kernel(x, out, kept, rows, width, k, ROWS: tl.constexpr, BLOCK: tl.constexpr, LOWEST: tl.constexpr):
    """ROWS rows, each read once and written once, with its mask; held in registers meanwhile."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (columns < width)[None, :]
    place = row[:, None] * width + columns[None, :]
    values = tl.load(x + place, mask=inside, other=0.0)
    # The bits of a non-negative float order as integers do, with NaN above infinity; what is outside ranks below everything.
    bits = tl.where(inside, values.to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF, -1)
    threshold = tl.zeros((ROWS,), dtype=tl.int32)
    for i in range(31 - LOWEST):  # from the highest bit down: the largest threshold that at least k entries reach
        candidate = threshold | (1 << (30 - i))
        reached = tl.sum((bits >= candidate[:, None]).to(tl.int32), axis=1)
        threshold = tl.where(reached >= k, candidate, threshold)
    above, tied = bits > threshold[:, None], bits == threshold[:, None]
    room = k - tl.sum(above.to(tl.int32), axis=1)
    excess = tl.max(tl.sum(tied.to(tl.int32), axis=1) - room, axis=0)
    keep = above | tied
    if excess > 0:  # more ties than room in some row: those to the left
        keep = above | (tied & (tl.cumsum(tied.to(tl.int32), 1) <= room[:, None]))
    tl.store(out + place, tl.where(keep, values, 0.0), mask=inside)
    tl.store(kept + place, keep.to(tl.int8), mask=inside)


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


@triton.jit
def _value_gradient_kernel(dy, x, row_of, columns, out, tokens, BLOCK: tl.constexpr):
    """One nonzero: dy is [rows, tokens], x [width, tokens]."""
    n = tl.program_id(0).to(tl.int64)
    left = dy + tl.load(row_of + n).to(tl.int64) * tokens
    right = x + tl.load(columns + n).to(tl.int64) * tokens
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for base in range(0, tokens, BLOCK):
        token = base + tl.arange(0, BLOCK)
        inside = token < tokens
        total += tl.load(left + token, mask=inside, other=0.0) * tl.load(right + token, mask=inside, other=0.0)
    tl.store(out + n, tl.sum(total))


_choices: dict[tuple[Any, ...], int] = {}


def _chosen(key: tuple[Any, ...], options: tuple[int, ...], launch: Callable[[int], None], device: torch.device) -> int:
    """The fastest of a few block sizes, timed once for each key on a device; the first where there is no clock for it."""
    if len(options) == 1 or device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return _choices.get((device, *key), options[0])
    if (device, *key) not in _choices:
        seconds = {}
        for option in options:
            launch(option)  # compiles
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for _ in range(3):
                launch(option)
            end.record()
            end.synchronize()
            seconds[option] = start.elapsed_time(end)
        _choices[(device, *key)] = min(seconds, key=seconds.__getitem__)
    return _choices[(device, *key)]


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
    block, rows = triton.next_power_of_2(width), x.numel() // width

    def launch(entries: int) -> None:
        side = max(1, entries // block)
        warps = max(1, min(16, side * block // 512))
        _abs_topk_kernel[(triton.cdiv(rows, side),)](
            x, out, kept.view(torch.int8), rows, width, k, ROWS=side, BLOCK=block, LOWEST=_EMPTY_BITS[x.dtype], num_warps=warps
        )

    options = tuple(entries for entries in ROWS_OF_TOPK if block <= entries <= max(block, 2 * rows * block)) or (block,)
    with _on(x.device):
        launch(_chosen(("topk", x.dtype, width, rows > 64), options, launch, x.device))
    return out, kept


def product(x: torch.Tensor, starts: torch.Tensor, columns: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """x [tokens, width] @ W.T in float32, for W [rows, width] by its nonzeros (CSR, int32)."""
    rows, tokens = starts.shape[0] - 1, x.shape[0]
    out = torch.empty(rows, tokens, device=x.device, dtype=torch.float32)
    values = values.contiguous()
    if tokens == 1:
        with _on(x.device):
            _product_of_one_kernel[(rows,)](x.contiguous(), starts, columns, values, out, BLOCK=32, num_warps=1)
        return out.view(1, rows)
    turned = x.t().contiguous()

    def launch(block: int) -> None:
        grid, warps = (rows, triton.cdiv(tokens, block)), max(1, block // 32)
        _product_kernel[grid](turned, starts, columns, values, out, tokens, BLOCK=block, num_warps=warps)

    with _on(x.device):
        launch(_chosen(("product", rows, x.shape[1], triton.next_power_of_2(tokens)), TOKENS, launch, x.device))
    return out.t().contiguous()


def value_gradient(dy: torch.Tensor, x: torch.Tensor, row_of: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The entries of dy.T @ x at the nonzeros, float32 [nonzeros]; dy [tokens, rows], x [tokens, width] float32."""
    out = torch.empty(columns.shape[0], device=x.device, dtype=torch.float32)
    left, right, tokens = dy.t().contiguous(), x.t().contiguous(), x.shape[0]
    block = min(1024, triton.next_power_of_2(tokens))
    with _on(x.device):
        _value_gradient_kernel[(out.shape[0],)](
            left, right, row_of, columns, out, tokens, BLOCK=block, num_warps=max(1, block // 256)
        )
    return out


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
            dy = torch.randn(tokens, 5, generator=torch.Generator().manual_seed(2)).to(device)
            gradient = value_gradient(dy, inputs, rows.int(), columns.int())
            if not torch.allclose(gradient.double(), (dy.double().t() @ inputs.double())[rows, columns], atol=1e-4):
                return "the gradient of sparse values differs"
    return ""
