"""Numba kernels of `selection.py`: one pass that counts and collects, one that writes. See `kernels_csp.py` for what a kernel is."""

from __future__ import annotations

import numpy as np
from numba import carray

from ..kernels_csp import bits_of, compiled, draw, floats, ints, longs

_MAX_BITS = 0x7FFFFFFF
BLOCK = 16


@compiled
def _collect_row(weights, width, low, high, first, room, keys, index, count, columns, by_column):
    """Counts the entries of one row at or above `high`; appends those from `low` on and below it. Returns both counts."""
    above = np.int64(0)
    for start in range(0, width, BLOCK):
        stop = min(width, start + BLOCK)
        some, reached = np.int32(0), np.int32(0)
        for i in range(start, stop):
            key = bits_of(weights[i]) & np.int32(_MAX_BITS)
            some = np.int32(some + np.int32(key >= low))
            reached = np.int32(reached + np.int32(key >= high))
        above += np.int64(reached)
        if by_column and reached > 0:
            for i in range(start, stop):
                columns[i] = np.int32(columns[i] + np.int32((bits_of(weights[i]) & np.int32(_MAX_BITS)) >= high))
        if some != reached:
            for i in range(start, stop):
                key = bits_of(weights[i]) & np.int32(_MAX_BITS)
                if key >= low and key < high:
                    if count < room:
                        keys[count] = key
                        index[count] = np.int32(first + i)
                    count += 1
    return above, count


def collect_kernel(job):
    """weights, entries, rows, width, rows per chunk, low, high, room per chunk, counts by row, counts by chunk and column (0: not wanted),
    keys and index [chunks, room], collected [chunks] (more than room: some are missing)."""
    a = carray(job, (15,))
    weights, entries, rows, width, per_chunk = floats(a[2]), a[3], a[4], a[5], a[6]
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
                weights[r * width :], size, low, high, first, room, keys, index, count, columns, by_column
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
