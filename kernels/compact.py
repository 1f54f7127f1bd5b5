"""What AbsTopK leaves of a tensor, kept for the gradient as its k numbers a row and a bit for each entry: a quarter of the memory at k = width / 4.

Only while a model trains (`training/products.py`): a node site keeps the bits, and what wants its output for a gradient (a product, attention, GELU) the numbers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from .jit import (
    SQUEEZES,
    compiled,
    draw,
    expanded_halves,
    expanded_lanes,
    halves,
    ints,
    masked_halves,
    masked_lanes,
    squeezed_halves,
    squeezed_lanes,
    words,
)
from .jobs import CHUNKS, positions, record
from .run import LANES, ONCE, is_batched, run, serve
from .topk import ENTRIES_PER_CHUNK, HALVES, with_bits

# x [rows, width] and bits, uint16 [rows, width / 16 rounded up] -> out: x where the bit is set, else zero; or what is set, [rows, k]; or x [rows, k] put back.
# Numbers by their bits: float32, or 16 bits wide if `narrow`.
BitsJob = record("BitsJob", "x bits out rows width k rows_per_chunk narrow operation")
MASK, COMPRESS, EXPAND = 0, 1, 2


BITS = positions(BitsJob)


@compiled
def _mask_row(x, bits, out, width, size):
    """By addresses; size: bytes of a number."""
    for w in range(width // LANES):
        at, word = w * LANES * size, np.int64(bits[w])
        if size == 2:
            masked_halves(x + at, word, out + at)
        else:
            masked_lanes(x + at, word, out + at)
    for i in range(width // LANES * LANES, width):
        is_set = np.int64(bits[i // LANES]) >> (i % LANES) & 1
        if size == 2:
            halves(out)[i] = halves(x)[i] if is_set else np.uint16(0)
        else:
            ints(out)[i] = ints(x)[i] if is_set else np.int32(0)


@compiled
def _compress_row(x, bits, out, width, k, size):
    """By addresses; size: bytes of a number. As many entries at once as there is room for in the row."""
    n, first = 0, 0
    while SQUEEZES and first + LANES <= width and n + LANES <= k:
        word = np.int64(bits[first // LANES])
        if size == 2:
            squeezed_halves(x + first * size, word, out + n * size)
        else:
            squeezed_lanes(x + first * size, word, out + n * size)
        n, first = n + _count(word), first + LANES
    if size == 2:
        _compress_rest(halves(x), bits, halves(out), first, width, n, k)
    else:
        _compress_rest(ints(x), bits, ints(out), first, width, n, k)


@compiled
def _compress_rest(row, bits, out, first, width, n, k):
    """Each entry is written to the next free place, which it takes if its bit is set."""
    for i in range(first, width):
        if n < k:
            out[n] = row[i]
        n += (np.int32(bits[i // LANES]) >> np.int32(i % LANES)) & np.int32(1)


@compiled
def _expand_row(x, bits, out, width, size):
    """By addresses; size: bytes of a number."""
    n = 0
    for w in range(width // LANES):
        word = np.int64(bits[w])
        if size == 2:
            expanded_halves(x + n * size, word, out + w * LANES * size)
        else:
            expanded_lanes(x + n * size, word, out + w * LANES * size)
        n += _count(word)
    for i in range(width // LANES * LANES, width):
        is_set = np.int64(bits[i // LANES]) >> (i % LANES) & 1
        if size == 2:
            halves(out)[i] = halves(x)[n] if is_set else np.uint16(0)
        else:
            ints(out)[i] = ints(x)[n] if is_set else np.int32(0)
        n += is_set


@compiled
def _count(word):
    """Bits that are set in 16."""
    word = word - ((word >> 1) & 0x5555)
    word = (word & 0x3333) + ((word >> 2) & 0x3333)
    word = (word + (word >> 4)) & 0x0F0F
    return (word + (word >> 8)) & 0x1F


def bits_kernel(job):
    a = words(job)
    width, size, does = a[BITS.width], 2 if a[BITS.narrow] else 4, a[BITS.operation]
    across, x_width, out_width = (
        (width + LANES - 1) // LANES,
        a[BITS.k] if does == EXPAND else width,
        a[BITS.k] if does == COMPRESS else width,
    )
    while True:
        chunk = draw(job)
        if chunk >= a[CHUNKS]:
            return
        first = chunk * a[BITS.rows_per_chunk]
        for r in range(first, min(a[BITS.rows], first + a[BITS.rows_per_chunk])):
            x, out, bits = (
                a[BITS.x] + size * r * x_width,
                a[BITS.out] + size * r * out_width,
                halves(a[BITS.bits] + 2 * r * across),
            )
            if does == MASK:
                _mask_row(x, bits, out, width, size)
            elif does == COMPRESS:
                _compress_row(x, bits, out, width, a[BITS.k], size)
            else:
                _expand_row(x, bits, out, width, size)


# --------------------------------------------------------------------------------------------------------------- the calls


class Kept:
    """Which entries of a tensor [..., width] AbsTopK kept, k of each row.

    Args:
        bits: uint16 [rows, width / 16 rounded up], as int16.
    """

    def __init__(self, bits: torch.Tensor, shape: torch.Size, k: int):
        self.bits, self.shape, self.k = bits, shape, k

    def mask(self, x: torch.Tensor) -> torch.Tensor:
        """x where they are, else zero."""
        return self._run(MASK, x, torch.empty_like(x))

    def compress(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, k]: the entries of x that are kept."""
        return self._run(COMPRESS, x, torch.empty(self.bits.shape[0], self.k, dtype=x.dtype, device=x.device))

    def expand(self, values: torch.Tensor) -> torch.Tensor:
        """What `compress` was given, with zeros where nothing was kept."""
        return self._run(EXPAND, values, torch.empty(self.shape, dtype=values.dtype, device=values.device))

    def _run(self, operation: int, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        width, rows, narrow = self.shape[-1], self.bits.shape[0], int(x.dtype in HALVES)
        per_chunk = max(1, ENTRIES_PER_CHUNK // width)
        places = x.data_ptr(), self.bits.data_ptr(), out.data_ptr()
        run(bits_kernel, -(-rows // per_chunk), BitsJob(*places, rows, width, self.k, per_chunk, narrow, operation))
        return out


@dataclass(eq=False)
class _Site:
    """The output of a node site as it was made, as long as its gradient can be asked for."""

    kept: Kept
    storage: StorageWeakRef
    version: int
    values: Callable[[], torch.Tensor | None] = lambda: None  # of `compress`, as long as somebody has them


# By address of a storage, which nothing else can have as long as it is referred to.
_SITES: weakref.WeakValueDictionary[int, _Site] = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class Layout:
    """How a view lies in a site's output."""

    kept: Kept
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


def packed(x: torch.Tensor) -> tuple[torch.Tensor, Layout | None]:
    """What is to be saved of a tensor that a gradient needs: of a view of a site's output the numbers that were kept, of others the tensor."""
    site = _site_of(x)
    if site is None:
        return x, None
    values = site.values()
    if values is None:
        whole = torch.empty(0, dtype=x.dtype, device=x.device).set_(x.untyped_storage(), 0, site.kept.shape)  # type: ignore[call-overload]
        values = site.kept.compress(whole)
        site.values = weakref.ref(values)
    return values, Layout(site.kept, x.size(), x.stride(), x.storage_offset())


def unpacked(saved: torch.Tensor, layout: Layout | None) -> torch.Tensor:
    """The tensor of which `packed` said what is to be saved."""
    return saved if layout is None else layout.kept.expand(saved).as_strided(layout.size, layout.stride, layout.offset)


def _site_of(x: torch.Tensor) -> _Site | None:
    site = _SITES.get(x.untyped_storage()._cdata)
    unchanged = (
        site is not None and not site.storage.expired() and site.version == x._version and x.numel() == site.kept.shape.numel()
    )
    return site if unchanged else None


def compacts(x: torch.Tensor) -> bool:
    """Whether `compact_topk` can serve: a gradient is to come, and nobody else says how tensors are saved for it (checkpoints, offloading)."""
    if not (x.requires_grad and torch.is_grad_enabled() and serve(x, halves=True)):
        return False
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is None


def compact_topk(x: torch.Tensor, k: int, fuses: bool = False) -> torch.Tensor:
    """`abs_topk` of which no more is kept than must be, 0 < k < width, where `compacts(x)`. Differentiable once. What is kept of its output is as it was made: changes in
    place are noticed by the version that PyTorch counts, and those that it cannot see (`.data`, NumPy) are not.

    Args:
        fuses: nobody else has x. If it is GELU's output, GELU's gradient is taken too, where it is not zero: its input, which it would be taken from, is not kept whole then.
    """
    gelu = x.grad_fn if fuses and x.grad_fn is not None and x.grad_fn.name() == "GeluBackward0" else None
    if gelu is None or not x.is_contiguous():
        return _CompactTopK.apply(x, None, k, "")
    return _CompactTopK.apply(x.detach(), gelu._saved_self, k, gelu._saved_approximate)


class _CompactTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, before: torch.Tensor | None, k: int, approximate: str) -> torch.Tensor:
        out, bits = with_bits(x, k)
        ctx.site = _Site(Kept(bits, out.shape, k), StorageWeakRef(out.untyped_storage()), out._version)
        _SITES[out.untyped_storage()._cdata] = ctx.site
        ctx.approximate = approximate
        ctx.save_for_backward(None if before is None else ctx.site.kept.compress(before.contiguous()))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        if torch.is_grad_enabled() or is_batched(gradients[0]):
            raise RuntimeError(ONCE)
        dy, kept, (before,) = gradients[0].contiguous(), ctx.site.kept, ctx.saved_tensors
        if before is None:
            return kept.mask(dy), None, None, None
        through = torch.ops.aten.gelu_backward(kept.compress(dy), before, approximate=ctx.approximate)
        return None, kept.expand(through), None, None
