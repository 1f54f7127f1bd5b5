"""Products on CPU whose left side is mostly zeros, as AbsTopK leaves activations and their gradients: the kernels, and the calls.

left [rows, inner] @ right [inner, columns], over the nonzeros of left alone. Right is cut into panels of up to 128 columns, a panel into
tiles of as many rows as the first-level cache holds; sums of a row of left and a panel stay in registers while a tile lasts. Left is
listed first: for each tile and row the values, and where in the tile their rows of right begin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import _vector_at, compiled, draw, floats, ints, transpose_block, words
from .jobs import CHUNKS, positions, record
from .run import LANES, run

GROUPS = 8  # vectors of LANES columns in the widest panel: as many sums as hide the latency of an addition
TILE_FLOATS = 8192  # of a tile of right: 32 KiB
ROWS = 256  # of left that are handled with one tile after another: their sums fit the second-level cache
LISTED = 1 << 22  # entries of left that are listed at a time
VECTOR, WORD = ir.VectorType(ir.FloatType(), LANES), ir.IntType(32)


def _add_rows(groups: int) -> Any:
    """out[0 : groups * LANES] += the sum of weights[n] * the row at `rows` + places[n] (bytes), for n below count; all by address."""

    @intrinsic
    def add_rows(typing, weights, places, count, rows, out):
        def generate(context, builder, signature, arguments):
            weights, places, count, rows, out = arguments

            def constant(value):
                return context.get_constant(types.int64, value)

            def sums_at(g):
                return _vector_at(context, builder, out, constant(g * LANES))

            totals = [cgutils.alloca_once_value(builder, builder.load(sums_at(g), align=64, typ=VECTOR)) for g in range(groups)]
            with cgutils.for_range_slice(builder, constant(0), count, constant(1)) as (n, _):
                offset = builder.mul(n, constant(4))
                weight = builder.load(
                    builder.inttoptr(builder.add(weights, offset), ir.FloatType().as_pointer()), typ=ir.FloatType()
                )
                place = builder.load(builder.inttoptr(builder.add(places, offset), WORD.as_pointer()), typ=WORD)
                row = builder.add(rows, builder.zext(place, ir.IntType(64)))
                one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), weight, ir.Constant(WORD, 0))
                spread = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(WORD, LANES), [0] * LANES))
                for g, total in enumerate(totals):
                    source = builder.load(_vector_at(context, builder, row, constant(g * LANES)), align=64, typ=VECTOR)
                    product = builder.fmul(spread, source, flags=("contract",))
                    builder.store(builder.fadd(product, builder.load(total, typ=VECTOR), flags=("contract",)), total)
            for g, total in enumerate(totals):
                builder.store(builder.load(total, typ=VECTOR), sums_at(g), align=64)

        return types.void(types.int64, types.int64, types.int64, types.int64, types.int64), generate

    return add_rows


_add_4, _add_5, _add_6, _add_7, _add_8 = (_add_rows(groups) for groups in range(4, GROUPS + 1))


@intrinsic
def _list_lanes(typing, source, first, step, values, places):
    """Appends the nonzeros of LANES floats to values, and first + i * step of each to places; how many there are. By addresses."""

    def generate(context, builder, signature, arguments):
        source, first, step, values, places = arguments
        word, bits = ir.VectorType(WORD, LANES), ir.VectorType(ir.IntType(1), LANES)

        def spread(scalar):
            one = builder.insert_element(ir.Constant(word, ir.Undefined), builder.trunc(scalar, WORD), ir.Constant(WORD, 0))
            return builder.shuffle_vector(one, one, ir.Constant(word, [0] * LANES))

        def append(vector, kind, name, at, mask):
            target = kind.as_pointer()
            signature = ir.FunctionType(ir.VoidType(), [ir.VectorType(kind, LANES), target, bits])
            store = cgutils.get_or_insert_function(builder.module, signature, f"llvm.masked.compressstore.v{LANES}{name}")
            builder.call(store, [vector, builder.inttoptr(at, target), mask])

        x = builder.load(builder.inttoptr(source, VECTOR.as_pointer()), align=4, typ=VECTOR)
        mask = builder.fcmp_unordered("!=", x, ir.Constant(VECTOR, [0.0] * LANES))  # NaN is no zero
        index = builder.add(spread(first), builder.mul(spread(step), ir.Constant(word, list(range(LANES)))))
        append(x, ir.FloatType(), "f32", values, mask)
        append(index, WORD, "i32", places, mask)
        count = builder.ctpop(builder.bitcast(mask, ir.IntType(LANES)))
        return builder.zext(count, ir.IntType(64))

    return types.int64(types.int64, types.int64, types.int64, types.int64, types.int64), generate


# left, by address: entry (row, i) at row * width + i, or, if it is given transposed, at i * width + row. A chunk is a tile of a block of
# ROWS rows, whose lists begin at chunk * ROWS * tile; starts [chunks, ROWS + 1] count from there. step: bytes of a row of right's panels.
ListJob = record("ListJob", "left transposed width rows inner tile tiles step values places starts")


LIST = positions(ListJob)


@compiled
def _fetch(left, transposed, width, row, count, first, length, buffer):
    """buffer[r * stride + i] for LANES rows from `row` (`count` of them are there) and `length` entries from `first`; zeros beyond."""
    stride, source, target = (length + LANES - 1) // LANES * LANES, floats(left), floats(buffer)
    whole = length // LANES * LANES if count == LANES and transposed else 0
    for i in range(0, whole, LANES):
        transpose_block(left + 4 * ((first + i) * width + row), width, buffer + 4 * i, stride)
    for r in range(LANES):
        for i in range(whole, stride):
            at = ((first + i) * width + row + r) if transposed else ((row + r) * width + first + i)
            target[r * stride + i] = source[at] if r < count and i < length else np.float32(0)
    return stride


def list_kernel(job):
    a = words(job)
    rows, inner, tile, tiles, step = a[LIST.rows], a[LIST.inner], a[LIST.tile], a[LIST.tiles], a[LIST.step]
    left, transposed, width = a[LIST.left], a[LIST.transposed], a[LIST.width]
    buffer = np.empty(LANES * tile, np.float32)
    while True:
        chunk = draw(job)
        if chunk >= a[CHUNKS]:
            return
        block, first = chunk // tiles * ROWS, chunk % tiles * tile
        length, offset = min(tile, inner - first), 4 * chunk * ROWS * tile
        values, places, starts = a[LIST.values] + offset, a[LIST.places] + offset, ints(a[LIST.starts] + 4 * chunk * (ROWS + 1))
        n, present = np.int64(0), min(ROWS, rows - block)
        for r in range(0, present, LANES):
            count = min(LANES, present - r)
            if not transposed and count == LANES and length % LANES == 0:  # as it lies there
                at, stride, span = left + 4 * ((block + r) * width + first), width, length
            else:
                at = buffer.ctypes.data
                stride = span = _fetch(left, transposed, width, block + r, count, first, length, at)
            for i in range(LANES):
                starts[r + i] = n
                for c in range(0, span, LANES):
                    n += _list_lanes(at + 4 * (i * stride + c), c * step, step, values + 4 * n, places + 4 * n)
        starts[(present + LANES - 1) // LANES * LANES] = n


# right: panels [panels, inner, groups * LANES]; out [rows, columns]; bias [columns], or 0. A chunk is a block of ROWS rows and a panel.
ActiveJob = record("ActiveJob", "right out bias rows inner columns groups panels tile tiles values places starts")


ACTIVE = positions(ActiveJob)


@compiled
def _add_tile(groups, values, places, starts, rows, tile, sums):
    """The products of a tile, added to sums [rows, groups * LANES]; all but starts by address."""
    step = 4 * groups * LANES
    for r in range(rows):
        first = np.int64(starts[r])
        count = np.int64(starts[r + 1]) - first
        if groups == 8:
            _add_8(values + 4 * first, places + 4 * first, count, tile, sums + r * step)
        elif groups == 7:
            _add_7(values + 4 * first, places + 4 * first, count, tile, sums + r * step)
        elif groups == 6:
            _add_6(values + 4 * first, places + 4 * first, count, tile, sums + r * step)
        elif groups == 5:
            _add_5(values + 4 * first, places + 4 * first, count, tile, sums + r * step)
        else:
            _add_4(values + 4 * first, places + 4 * first, count, tile, sums + r * step)


def active_kernel(job):
    a = words(job)
    rows, columns, groups, tile, tiles = a[ACTIVE.rows], a[ACTIVE.columns], a[ACTIVE.groups], a[ACTIVE.tile], a[ACTIVE.tiles]
    panels, inner, wide = a[ACTIVE.panels], a[ACTIVE.inner], groups * LANES
    room = np.empty(ROWS * wide + LANES, np.float32)
    aligned = (room.ctypes.data + 63) // 64 * 64
    sums, out, bias, biased = floats(aligned), floats(a[ACTIVE.out]), floats(a[ACTIVE.bias]), a[ACTIVE.bias] != 0
    while True:
        chunk = draw(job)
        if chunk >= a[CHUNKS]:
            return
        block, panel = chunk // panels, chunk % panels
        count, begin = min(ROWS, rows - block * ROWS), panel * wide
        present = min(wide, columns - begin)
        for c in range(wide):
            sums[c] = bias[begin + c] if biased and c < present else np.float32(0)
        for i in range(wide, count * wide):
            sums[i] = sums[i - wide]
        for t in range(tiles):
            part = block * tiles + t
            offset = 4 * part * ROWS * tile
            _add_tile(
                groups, a[ACTIVE.values] + offset, a[ACTIVE.places] + offset, ints(a[ACTIVE.starts] + 4 * part * (ROWS + 1)), count,
                a[ACTIVE.right] + 4 * (panel * inner + t * tile) * wide, aligned,
            )  # fmt: skip
        for r in range(count):
            place = (block * ROWS + r) * columns + begin
            for c in range(present):
                out[place + c] = sums[r * wide + c]


# --------------------------------------------------------------------------------------------------------------- the calls


def aligned_floats(*shape: int) -> torch.Tensor:
    """Uninitialised float32 whose first byte stands at a multiple of 64."""
    count = int(np.prod(shape))
    room = torch.empty(count + LANES, dtype=torch.float32)
    return room[-room.data_ptr() % 64 // 4 :][:count].view(shape)


def _panels(right: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    """([panels, inner, groups * LANES], groups, panels) of a matrix [inner, columns], zeros beside it; as few of these as can be."""
    inner, columns = right.shape
    vectors = -(-columns // LANES)
    groups = min(range(4, GROUPS + 1), key=lambda g: (-(-vectors // g) * g, -g))
    count, wide = -(-vectors // groups), groups * LANES
    packed = aligned_floats(count, inner, wide)
    for p in range(count):
        part = right[:, p * wide : (p + 1) * wide]
        packed[p, :, : part.shape[1]] = part
        packed[p, :, part.shape[1] :] = 0
    return packed, groups, count


def active_product(
    left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None, transposed: bool = False
) -> torch.Tensor:
    """left @ right + bias -> [rows, columns] over the nonzeros of left.

    Args:
        left: [rows, inner], or [inner, rows] if `transposed`; right: [inner, columns], any strides; bias: [columns]. As `serve` takes them.
    """
    left = left.contiguous()
    inner, rows = left.shape if transposed else left.shape[::-1]
    panels, groups, count = _panels(right)
    wide = groups * LANES
    tile = TILE_FLOATS // wide // LANES * LANES
    tiles, step = -(-inner // tile), max(2, LISTED // (inner * ROWS)) * ROWS
    blocks = -(-min(rows, step) // ROWS)
    values, places = (torch.empty(blocks * tiles * ROWS * tile, dtype=kind) for kind in (torch.float32, torch.int32))
    starts = torch.empty(blocks * tiles, ROWS + 1, dtype=torch.int32)
    lists = values.data_ptr(), places.data_ptr(), starts.data_ptr()
    out = torch.empty(rows, right.shape[1], dtype=torch.float32)
    for row in range(0, rows, step):
        part = min(step, rows - row)
        at = left.data_ptr() + 4 * row * (1 if transposed else left.shape[1])
        listing = ListJob(at, int(transposed), left.shape[1], part, inner, tile, tiles, 4 * wide, *lists)
        run(list_kernel, -(-part // ROWS) * tiles, listing)
        job = ActiveJob(
            panels.data_ptr(), out[row:].data_ptr(), 0 if bias is None else bias.data_ptr(), part, inner, right.shape[1], groups, count,
            tile, tiles, *lists,
        )  # fmt: skip
        run(active_kernel, -(-part // ROWS) * count, job)
    return out
