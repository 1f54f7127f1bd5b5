"""AbsTopK on CPU: its kernels, and the call."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import overload

from .jit import bits_of, compiled, draw, flags, floats, halves, ints, packed_flags, summing, words
from .jobs import CHUNKS, positions, record
from .run import LANES, run, serve

ENTRIES_PER_CHUNK = 1 << 16
MAX_BITS = 0x7FFFFFFF
NO_GUESS, HALF, HALF_GUESS = -1, 16, 0x3F80  # HALF: bits that numbers of 16 bits have less
HALVES = (torch.bfloat16, torch.float16)

# The k-th largest magnitude of a row is searched over the bits of the floats, which order as integers: each step counts the entries
# at or above a candidate in one vectorised pass that writes nothing. Steps interpolate between the counts known so far, with a
# bisection whenever that gains too little; the search starts at the threshold of the row before, or where it would be if magnitudes
# were distributed exponentially.


@summing
def _mean_magnitude(row, width):
    total = np.float32(0)
    for i in range(width):
        total += abs(row[i])
    return total / np.float32(width)


@compiled
def _first_guess(row, width, k):
    guess = _mean_magnitude(row, width) * np.float32(np.log(np.float64(width) / np.float64(k)))
    return np.int64(bits_of(guess)) if guess < np.float32(np.inf) else np.int64(bits_of(np.float32(1)))


@compiled
def _count_at_least(magnitudes, width, candidate):
    count = np.int32(0)
    for i in range(width):
        count = np.int32(count + np.int32(magnitudes[i] >= candidate))  # stays 32 bits wide, which halves the time
    return np.int64(count)


@compiled
def _threshold(magnitudes, width, k, guess, fewer):
    """(t, entries >= t): the largest t with at least k entries >= t, or any t with exactly k. fewer: bits that magnitudes lack of a float32's."""
    most = np.int64(MAX_BITS) >> fewer
    low, count_low = np.int64(0), np.int64(width)  # at least k entries are >= low
    high, count_high = most + 1, np.int64(0)  # fewer than k are >= high
    step, candidate = np.int64(1 << 20) >> fewer, np.int64(guess)
    bisect = False
    while high - low > 1:
        if candidate <= low or candidate >= high:
            candidate = low + (high - low) // 2
        count = _count_at_least(magnitudes, width, np.int32(candidate))
        if count == k:
            return candidate, count
        before = high - low
        if count > k:
            low, count_low = candidate, count
        else:
            high, count_high = candidate, count
        if high > most:
            candidate, step = low + step, step * 4
        elif low == 0:
            candidate, step = high - step, step * 4
        elif bisect:
            candidate, bisect = low + (high - low) // 2, False
        else:
            share = (np.float64(count_low - k) + 0.5) / np.float64(count_low - count_high)
            candidate = low + np.int64(np.float64(high - low) * share)
            bisect = (high - low) * 2 > before
    return low, count_low


@compiled
def _select(row, width, k, magnitudes, guess, zero, fewer):
    """AbsTopK of one row in place, given its magnitudes; 0 < k < width. Returns the threshold, the next row's guess, and how many are at or above it."""
    guess, count = _threshold(magnitudes, width, k, guess, fewer)
    t = np.int32(guess)
    for i in range(width):
        row[i] = row[i] if magnitudes[i] >= t else zero
    _drop_ties(row, width, magnitudes, t, count - k, zero)
    return guess, count


@compiled
def _drop_ties(row, width, magnitudes, threshold, excess, zero):
    """Of the entries tied at the threshold the last ones, as many as there are too many: ties go to the lower index."""
    i = width
    while excess > 0:
        i -= 1
        if magnitudes[i] == threshold:
            row[i], excess = zero, excess - 1


@compiled
def top_k_in_place(row, width, k, magnitudes, guess):
    """AbsTopK of one row in place, 0 <= k <= width; returns the threshold, the next row's guess. `magnitudes` is scratch."""
    if k >= width:
        return guess
    if k == 0:
        for i in range(width):
            row[i] = np.float32(0)
        return guess
    for i in range(width):
        magnitudes[i] = bits_of(row[i]) & np.int32(MAX_BITS)
    return _select(row, width, k, magnitudes, _first_guess(row, width, k) if guess < 0 else guess, np.float32(0), 0)[0]


# x [rows, width], its rows `stride` numbers apart, out [rows, width], float32, or bfloat16 or float16 for the kernel of halves; kept: bool [rows, width], or 0 where it is not wanted; bits: the same in uint16
# [rows, width / 16 rounded up], or 0; 0 < k < width.
AbsTopKJob = record("AbsTopKJob", "x out kept bits rows width stride k rows_per_chunk")


ABS_TOPK = positions(AbsTopKJob)


@compiled
def _keep_rows(x, stride, out, mask, width, k, zero, fewer, first, last, guess, magnitudes):
    """AbsTopK of rows `first` to `last`, of either kind of number."""
    wanted, kept = mask != 0, flags(mask)
    for r in range(first, last):
        row = out[r * width :]
        _copy_with_magnitudes(x[r * stride :], row, width, magnitudes)
        guess, count = _select(row, width, k, magnitudes, guess, zero, fewer)
        if wanted:
            _mark_kept(magnitudes, width, k, guess, count, kept[r * width :])


def _copy_with_magnitudes(source, row, width, magnitudes):
    """row = source, and the bits of its magnitudes: those of numbers of 16 bits order as those of float32 do."""


@overload(_copy_with_magnitudes)
def _by_kind(source, row, width, magnitudes):
    def floats_copied(source, row, width, magnitudes):
        for i in range(width):
            row[i] = source[i]
            magnitudes[i] = bits_of(source[i]) & np.int32(MAX_BITS)

    def halves_copied(source, row, width, magnitudes):
        for i in range(width):
            row[i] = source[i]
            magnitudes[i] = np.int32(source[i]) & np.int32(MAX_BITS >> HALF)

    return floats_copied if source.dtype == types.float32 else halves_copied


@compiled
def _pack_rows(kept, width, bits, first, last):
    """Rows `first` to `last`, of which a chunk's bools are, 16 to a word; both by address."""
    words_of_row = (width + LANES - 1) // LANES
    for r in range(first, last):
        row, target = kept + (r - first) * width, halves(bits + 2 * r * words_of_row)
        for w in range(width // LANES):
            target[w] = packed_flags(row + w * LANES)
        if width % LANES:
            word, rest = 0, flags(row + width // LANES * LANES)
            for i in range(width % LANES):
                word |= np.int64(rest[i]) << i
            target[width // LANES] = word


def abs_topk_kernel(job):
    a = words(job)
    x, out, rows, width = floats(a[ABS_TOPK.x]), floats(a[ABS_TOPK.out]), a[ABS_TOPK.rows], a[ABS_TOPK.width]
    magnitudes, packed, stride = np.empty(width, np.int32), a[ABS_TOPK.bits] != 0, a[ABS_TOPK.stride]
    own = np.empty(a[ABS_TOPK.rows_per_chunk] * width if packed else 1, np.uint8)
    while True:
        chunk = draw(job)
        if chunk >= a[CHUNKS]:
            return
        first = chunk * a[ABS_TOPK.rows_per_chunk]
        guess = _first_guess(x[first * stride :], width, a[ABS_TOPK.k])
        last = min(rows, first + a[ABS_TOPK.rows_per_chunk])
        kept = own.ctypes.data - first * width if packed else a[ABS_TOPK.kept]
        _keep_rows(x, stride, out, kept, width, a[ABS_TOPK.k], np.float32(0), 0, first, last, guess, magnitudes)
        if packed:
            _pack_rows(own.ctypes.data, width, a[ABS_TOPK.bits], first, last)


def abs_topk_halves_kernel(job):
    a = words(job)
    x, out, rows, width = halves(a[ABS_TOPK.x]), halves(a[ABS_TOPK.out]), a[ABS_TOPK.rows], a[ABS_TOPK.width]
    magnitudes, packed, stride = np.empty(width, np.int32), a[ABS_TOPK.bits] != 0, a[ABS_TOPK.stride]
    guess = np.int64(HALF_GUESS)
    own = np.empty(a[ABS_TOPK.rows_per_chunk] * width if packed else 1, np.uint8)
    while True:
        chunk = draw(job)
        if chunk >= a[CHUNKS]:
            return
        first = chunk * a[ABS_TOPK.rows_per_chunk]
        last = min(rows, first + a[ABS_TOPK.rows_per_chunk])
        kept = own.ctypes.data - first * width if packed else a[ABS_TOPK.kept]
        _keep_rows(x, stride, out, kept, width, a[ABS_TOPK.k], np.uint16(0), HALF, first, last, guess, magnitudes)
        if packed:
            _pack_rows(own.ctypes.data, width, a[ABS_TOPK.bits], first, last)


@compiled
def _mark_kept(magnitudes, width, k, threshold, count, kept):
    t = np.int32(threshold)
    for i in range(width):
        kept[i] = magnitudes[i] >= t
    _drop_ties(kept, width, magnitudes, t, count - k, np.uint8(0))


# out = x where the bool mask is set, else 0; float32, or numbers of 16 bits if `narrow`.
MaskedJob = record("MaskedJob", "x kept out entries per_chunk narrow")


MASKED = positions(MaskedJob)


@compiled
def _mask(x, kept, out, count):
    """By the bits of numbers, and from 0 on: a choice between numbers, or an index that might be negative, would not become vector instructions."""
    for i in range(count):
        out[i] = x[i] & -np.int32(kept[i])


def masked_kernel(job):
    a = words(job)
    x, kept, out, per_chunk = a[MASKED.x], flags(a[MASKED.kept]), a[MASKED.out], a[MASKED.per_chunk]
    while True:
        chunk = draw(job)
        if chunk >= a[CHUNKS]:
            return
        first = chunk * per_chunk
        count = min(a[MASKED.entries] - first, per_chunk)
        if a[MASKED.narrow]:
            _mask(halves(x)[first:], kept[first:], halves(out)[first:], count)
        else:
            _mask(ints(x)[first:], kept[first:], ints(out)[first:], count)


def abs_topk(x: torch.Tensor, k: int) -> torch.Tensor:
    """AbsTopK over the last dimension; x as `serve` takes it, or bfloat16 or float16, 0 < k < width."""
    if x.requires_grad and torch.is_grad_enabled():
        return _AbsTopK.apply(x, k)
    return _selected(x, k)


def with_bits(x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """AbsTopK, and a bit for each entry, whether it is kept: uint16 words, as int16 [rows, width / 16 rounded up]."""
    width = x.shape[-1]
    bits = torch.empty(x.numel() // width, -(-width // LANES), dtype=torch.int16, device=x.device)
    return _selected(x, k, bits=bits), bits


def _selected(x: torch.Tensor, k: int, kept: torch.Tensor | None = None, bits: torch.Tensor | None = None) -> torch.Tensor:
    width, out, stride = x.shape[-1], torch.empty(x.shape, dtype=x.dtype, device=x.device), _row_stride(x)
    if stride is None:
        x, stride = x.contiguous(), width
    rows = x.numel() // width
    per_chunk = max(1, ENTRIES_PER_CHUNK // width)
    wanted = (0 if each is None else each.data_ptr() for each in (kept, bits))
    job = AbsTopKJob(x.data_ptr(), out.data_ptr(), *wanted, rows, width, stride, k, per_chunk)
    run(abs_topk_halves_kernel if x.dtype in HALVES else abs_topk_kernel, -(-rows // per_chunk), job)
    return out


def _row_stride(x: torch.Tensor) -> int | None:
    """How far apart the rows of a tensor are, as those of a part of its columns; None if they are not all equally far."""
    if x.stride(-1) != 1 and x.shape[-1] > 1:
        return None
    stride = x.stride(-2) if x.dim() > 1 else x.shape[-1]
    apart = stride
    for size, own in zip(reversed(x.shape[:-1]), reversed(x.stride()[:-1])):
        if size > 1 and own != apart:
            return None
        apart *= size
    return stride


class _AbsTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, k: int) -> torch.Tensor:
        kept = torch.empty(x.shape, dtype=torch.bool, device=x.device)
        out = _selected(x, k, kept)
        ctx.save_for_backward(kept)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return masked(gradients[0], ctx.saved_tensors[0]), None


def masked(gradient: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The gradient where a bool mask of its shape is set, else 0."""
    if torch.is_grad_enabled() or not serve(gradient, halves=True):  # a second derivative is wanted, or it is no plain tensor
        return torch.where(kept, gradient, 0)
    gradient, count = gradient.contiguous(), gradient.numel()
    out = torch.empty_like(gradient)
    job = MaskedJob(
        gradient.data_ptr(), kept.data_ptr(), out.data_ptr(), count, ENTRIES_PER_CHUNK, int(gradient.dtype in HALVES)
    )
    run(masked_kernel, -(-count // ENTRIES_PER_CHUNK), job)
    return out
