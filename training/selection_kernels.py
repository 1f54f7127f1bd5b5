"""Numba kernels of `selection.py`: one pass that counts and collects, one that writes. See `kernels_csp.py` for what a kernel is."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from ..kernels_csp import LANES, bits_of, compiled, draw, floats, ints, longs

_MAX_BITS = 0x7FFFFFFF
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

        bounds, magnitude, mask = spread(bound), ir.Constant(vector, [_MAX_BITS] * LANES), context.get_constant(types.int64, 0)
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
        keys[count] = bits_of(weights[i]) & np.int32(_MAX_BITS)
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
        key = bits_of(weights[i]) & np.int32(_MAX_BITS)
        above += np.int64(key >= high)
        if key >= low and key < high:
            count = _take(weights, i, first, room, keys, index, count)
    if by_column and above > 0:
        for i in range(width):
            columns[i] = np.int32(columns[i] + np.int32((bits_of(weights[i]) & np.int32(_MAX_BITS)) >= high))
    return above, count


def collect_kernel(job):
    """weights, entries, rows, width, rows per chunk, low, high, room per chunk, counts by row, counts by chunk and column (0: not wanted),
    keys and index [chunks, room], collected [chunks] (more than room: some are missing)."""
    a = carray(job, (15,))
    weights, entries, rows, width, per_chunk = a[2], a[3], a[4], a[5], a[6]
    high = np.int32(a[8])
    low, room, by_row, by_column = np.int32(a[7]), a[9], ints(a[10]), a[11] != 0
    while True:
        chunk = draw(job)
        if chunk >= a[1]:
            return
        keys, index = ints(a[12] + 4 * chunk * room), ints(a[13] + 4 * chunk * room)
        columns = ints(a[11] + 4 * chunk * width)
        count = np.int64(0)
        for r in range(chunk * per_chunk, min(rows, (chunk + 1) * per_chunk)):
            size = min(width, entries - r * width)
            first = (r - chunk * per_chunk) * width
            above, count = _collect_row(
                weights + 4 * r * width, size, low, high, first, room, keys, index, count, columns, by_column
            )
            by_row[r] = np.int32(above)
        longs(a[14])[chunk] = count


def zero_up_to_kernel(job):
    """weights, entries, entries per chunk, threshold: zeroes every entry whose magnitude, as bits, is at most the threshold."""
    a = carray(job, (6,))
    weights, threshold = floats(a[2]), np.int32(a[5])
    while True:
        chunk = draw(job)
        if chunk >= a[1]:
            return
        for i in range(chunk * a[4], min(a[3], (chunk + 1) * a[4])):
            weights[i] = weights[i] if (bits_of(weights[i]) & np.int32(_MAX_BITS)) > threshold else np.float32(0)


SELECTION_KERNELS = {"collect": collect_kernel, "zero_up_to": zero_up_to_kernel}
