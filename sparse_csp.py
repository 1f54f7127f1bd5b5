"""The sparse primitives: AbsTopK on activations.

`abs_topk` keeps the k entries of largest magnitude in each row. Its semantics are exact and the same on every path: exactly
k entries are kept, ties go to the lower index, and NaN ranks above infinity (so a NaN is kept and stays visible).

Ties matter even among zeros: a kept zero passes gradient. The one exception to the rule is float64, the dtype of verification,
which leaves ties to `torch.topk`: the reference training run was made so, and departs within a step under any other choice.

Two paths with equal results: PyTorch, always there; and Numba, where it is installed (the extra `fast`), for float32 on CPU outside
of torch.compile. `benchmarks/abs_topk.py` measures them side by side. CSP_ABS_TOPK=torch in the environment forces the first.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

_SAME_WIDTH_INT = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def abs_topk(x: torch.Tensor, k: int) -> torch.Tensor:
    """AbsTopK over the last dimension (paper, section 2): the k entries of largest |x| of each row, the others zero.

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
    if _numba_serves(x):
        return _NumbaAbsTopK.apply(x, k) if torch.is_grad_enabled() and x.requires_grad else _numba_select(x, k)[0]
    return torch.where(abs_topk_mask(x.detach(), k), x, 0)


def abs_topk_mask(x: torch.Tensor, k: int) -> torch.Tensor:
    """Bool mask [..., width] of the entries that `abs_topk` keeps, by PyTorch alone; 0 < k < width."""
    if x.dtype == torch.float64:
        index = x.abs().topk(k, dim=-1).indices
        return torch.zeros_like(x, dtype=torch.bool).scatter_(-1, index, True)
    return largest_mask(magnitude_bits(x), k)


def magnitude_bits(x: torch.Tensor) -> torch.Tensor:
    """|x| as integers of its width: the bits of a non-negative float order as integers do, with NaN above infinity."""
    return x.abs().view(_SAME_WIDTH_INT[x.dtype])


def largest_mask(keys: torch.Tensor, k: int) -> torch.Tensor:
    """Bool mask of exactly k largest integers in each row [..., width], ties to the lower index; 0 < k <= width."""
    threshold = keys.topk(k, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True)
    above = keys > threshold
    tied = keys == threshold
    room = k - above.sum(dim=-1, keepdim=True)
    return above | (tied & (tied.cumsum(dim=-1) <= room))


# ------------------------------------------------------------------------------------------------------- AbsTopK by Numba
#
# The k-th largest magnitude of a row is found by bisection over the bits of the floats: each step counts the entries at or above a
# candidate, in one vectorised pass over the row that writes nothing. The search starts at the threshold of the row before.

_ENTRIES_PER_THREAD = 1 << 16  # below this, a second thread costs more than it saves
_MAX_BITS = 0x7FFFFFFF
_FIRST_GUESS = 0x3F000000  # 0.5


def _numba_serves(x: torch.Tensor) -> bool:
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and type(x) in (torch.Tensor, torch.nn.Parameter)
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and _numba_kernel() is not None
    )


@functools.lru_cache(maxsize=1)
def _numba_kernel() -> Any:
    """The compiled kernel, or None where Numba is not installed or not wanted. The first call compiles for seconds; later processes
    find the result in Numba's cache."""
    if os.environ.get("CSP_ABS_TOPK", "auto") == "torch" or importlib.util.find_spec("numba") is None:
        return None
    numba = importlib.import_module("numba")
    for function in (_count_at_least, _threshold, _select_rows):  # each calls the ones before it, compiled
        globals()[function.__name__] = numba.njit(nogil=True, cache=True)(function)
    return _select_rows


def _count_at_least(row, candidate):
    count = np.int32(0)
    for i in range(row.shape[0]):
        count += np.int32(row[i] >= candidate)
    return count


def _threshold(row, k, guess):
    """The largest t with at least k entries >= t (bits without sign), or any t with exactly k; and how many there are."""
    low, high = np.int64(0), np.int64(_MAX_BITS) + 1  # at least k entries are >= low, fewer than k are >= high
    step = np.int64(1 << 19)
    candidate, count_low = np.int64(guess), np.int64(row.shape[0])
    while high - low > 1:
        if candidate <= low or candidate >= high:
            candidate = low + (high - low) // 2
        count = np.int64(_count_at_least(row, np.int32(candidate)))
        if count == k:
            return candidate, count
        if count > k:
            low, count_low = candidate, count
            candidate = candidate + step if high > _MAX_BITS else low + (high - low) // 2
        else:
            high = candidate
            candidate = candidate - step if low == 0 else low + (high - low) // 2
        step *= 2
    return low, count_low


def _select_rows(bits, k, out, kept, first, last):
    """Rows [first, last) of bits [n, width]: the k entries of largest magnitude go to out (zero elsewhere) and are marked in kept."""
    width = bits.shape[1]
    magnitude = np.empty(width, dtype=np.int32)
    guess = np.int64(_FIRST_GUESS)
    for r in range(first, last):
        row = bits[r]
        for i in range(width):
            magnitude[i] = row[i] & np.int32(_MAX_BITS)
        guess, count = _threshold(magnitude, k, guess)
        t = np.int32(guess)
        if count == k:
            for i in range(width):
                keep = magnitude[i] >= t
                kept[r, i] = keep
                out[r, i] = row[i] if keep else np.int32(0)
            continue
        room = np.int64(k)  # of the entries tied at the threshold, as many as there is room for, from the left
        for i in range(width):
            room -= magnitude[i] > t
        for i in range(width):
            tied = magnitude[i] == t and room > 0
            room -= tied
            keep = tied or magnitude[i] > t
            kept[r, i] = keep
            out[r, i] = row[i] if keep else np.int32(0)


@functools.lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    # Our own threads, which sleep between calls: Numba's and torch's pools would each spin on all cores.
    return ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1)), thread_name_prefix="abs_topk")


def _numba_select(x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(AbsTopK of x, bool mask of what it keeps) for float32 on CPU, 0 < k < width."""
    kernel, rows = _numba_kernel(), x.detach().contiguous().view(-1, x.shape[-1])
    out, kept = torch.empty_like(rows), torch.empty(rows.shape, dtype=torch.bool)
    arrays: tuple[Any, ...] = rows.view(torch.int32).numpy(), k, out.view(torch.int32).numpy(), kept.numpy()
    parts = min(rows.shape[0], torch.get_num_threads(), max(1, rows.numel() // _ENTRIES_PER_THREAD))
    bounds = [rows.shape[0] * i // parts for i in range(parts + 1)]
    others = [_pool().submit(kernel, *arrays, *part) for part in itertools.pairwise(bounds[1:])]
    kernel(*arrays, 0, bounds[1])
    for other in others:
        other.result()
    return out.view(x.shape), kept.view(x.shape)


class _NumbaAbsTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, k: int) -> torch.Tensor:
        out, kept = _numba_select(x, k)
        ctx.save_for_backward(kept)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (kept,) = ctx.saved_tensors
        return torch.where(kept, gradients[0], 0), None
