"""The selection of a projection (`training/selection.py`) on CPU: one pass that counts and collects, one that writes."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .jit import bits_of, compiled, draw, floats, ints, longs, words
from .jobs import CHUNKS, positions, record
from .run import LANES
from .topk import MAX_BITS

WIDE = 64  # entries that are compared together, to the bits of one word


@intrinsic
def _reaching(typing, address, bound):
    """Bit i of the result: whether the magnitude of float i of the WIDE at an address, as bits, is at least a bound."""

    def generate(context, builder, signature, arguments):
        address, bound = arguments
        word, vector = ir.IntType(32), ir.VectorType(ir.IntType(32), LANES)
        every = ir.Constant(vector, [0] * LANES)

        def spread(scalar):
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(word, 0))
            return builder.shuffle_vector(one, one, every)

        bounds, magnitude, mask = spread(bound), ir.Constant(vector, [MAX_BITS] * LANES), context.get_constant(types.int64, 0)
        for part in range(WIDE // LANES):
            place = builder.add(address, context.get_constant(types.int64, 4 * LANES * part))
            bits = builder.load(builder.inttoptr(place, vector.as_pointer()), align=4, typ=vector)
            reached = builder.icmp_signed(">=", builder.and_(bits, magnitude), bounds)
            few = builder.zext(builder.bitcast(reached, ir.IntType(LANES)), ir.IntType(64))
            mask = builder.or_(mask, builder.shl(few, context.get_constant(types.int64, LANES * part)))
        return mask

    return types.int64(types.int64, types.int32), generate


@intrinsic
def _ones(typing, bits):
    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.int64(types.int64), generate


@intrinsic
def _lowest(typing, bits):
    """Place of the lowest bit that is set; 64 if none is."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.int64), generate


@compiled
def _take(weights, i, first, room, keys, index, count):
    if count < room:
        keys[count] = bits_of(weights[i]) & np.int32(MAX_BITS)
        index[count] = np.int32(first + i)
    return count + 1


@compiled
def _collect_row(address, width, low, high, first, room, keys, index, count, columns, by_column):
    """Counts the entries of one row at or above `high`; appends those from `low` on and below it. Returns both counts."""
    weights, above, whole = floats(address), np.int64(0), width // WIDE * WIDE
    for start in range(0, whole, WIDE):
        reached = _reaching(address + 4 * start, high)
        inside = _reaching(address + 4 * start, low) ^ reached
        above += _ones(reached)
        while inside != 0:
            count = _take(weights, start + _lowest(inside), first, room, keys, index, count)
            inside &= inside - 1
    for i in range(whole, width):
        key = bits_of(weights[i]) & np.int32(MAX_BITS)
        above += np.int64(key >= high)
        if key >= low and key < high:
            count = _take(weights, i, first, room, keys, index, count)
    if by_column and above > 0:
        for i in range(width):
            columns[i] = np.int32(columns[i] + np.int32((bits_of(weights[i]) & np.int32(MAX_BITS)) >= high))
    return above, count


# One pass over the weights, by rows: counts what is at or above `high`, and collects what is from `low` on and below it.  by_row:
# counts [rows]; by_column: counts [chunks, width], or 0 where they are not wanted; keys, places [chunks, room]; collected [chunks]
# (more than room: some are missing).
CollectJob = record(
    "CollectJob", "weights entries rows width rows_per_chunk low high room by_row by_column keys places collected"
)


COLLECT = positions(CollectJob)


def collect_kernel(job):
    a = words(job)
    weights, entries, rows, width = a[COLLECT.weights], a[COLLECT.entries], a[COLLECT.rows], a[COLLECT.width]
    low, high, room, per_chunk = np.int32(a[COLLECT.low]), np.int32(a[COLLECT.high]), a[COLLECT.room], a[COLLECT.rows_per_chunk]
    by_row, by_column = ints(a[COLLECT.by_row]), a[COLLECT.by_column] != 0
    while True:
        chunk = draw(job)
        if chunk >= a[CHUNKS]:
            return
        keys, index = ints(a[COLLECT.keys] + 4 * chunk * room), ints(a[COLLECT.places] + 4 * chunk * room)
        columns = ints(a[COLLECT.by_column] + 4 * chunk * width)
        count = np.int64(0)
        for r in range(chunk * per_chunk, min(rows, (chunk + 1) * per_chunk)):
            size = min(width, entries - r * width)
            first = (r - chunk * per_chunk) * width
            above, count = _collect_row(
                weights + 4 * r * width, size, low, high, first, room, keys, index, count, columns, by_column
            )
            by_row[r] = np.int32(above)
        longs(a[COLLECT.collected])[chunk] = count


# Zeroes every entry whose magnitude, as bits, is at most the threshold.
ZeroUpToJob = record("ZeroUpToJob", "weights entries per_chunk threshold")


ZERO_UP_TO = positions(ZeroUpToJob)


def zero_up_to_kernel(job):
    a = words(job)
    weights, threshold, per_chunk = floats(a[ZERO_UP_TO.weights]), np.int32(a[ZERO_UP_TO.threshold]), a[ZERO_UP_TO.per_chunk]
    while True:
        chunk = draw(job)
        if chunk >= a[CHUNKS]:
            return
        own = weights[chunk * per_chunk :]  # from 0 on: an index that might be negative would not become vector instructions
        for i in range(min(per_chunk, a[ZERO_UP_TO.entries] - chunk * per_chunk)):
            own[i] = own[i] if (bits_of(own[i]) & np.int32(MAX_BITS)) > threshold else np.float32(0)
