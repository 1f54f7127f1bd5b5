"""Where a matrix has its nonzeros, on CPU: listed by rows (CSR), and such a list by columns. The kernels and the calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .jit import compiled, draw, ints, words
from .jobs import CHUNKS, positions, record
from .run import LANES, run

ENTRIES_PER_CHUNK = 1 << 16
MAGNITUDE = 0x7FFFFFFF

# weight float32 [rows, width], by its bits: -0.0 is zero, NaN is none. starts int32 [rows + 1]: of a row's count when rows are counted, of
# its first place when they are listed; columns int32 and values float32 [nonzeros].
ListJob = record("ListJob", "weight starts columns values rows width rows_per_chunk")


LIST = positions(ListJob)


@compiled
def _count(row, width):
    count = np.int32(0)
    for c in range(width):
        count = np.int32(count + np.int32(row[c] & np.int32(MAGNITUDE) != 0))
    return count


def count_kernel(job):
    a = words(job)
    weight, starts, width = ints(a[LIST.weight]), ints(a[LIST.starts]), a[LIST.width]
    while True:
        chunk = draw(job)
        if chunk >= a[CHUNKS]:
            return
        first = chunk * a[LIST.rows_per_chunk]
        for r in range(first, min(a[LIST.rows], first + a[LIST.rows_per_chunk])):
            starts[r + 1] = _count(weight[r * width :], width)


@compiled
def _any(entries):
    found = np.int32(0)
    for i in range(LANES):
        found |= entries[i]
    return found & np.int32(MAGNITUDE) != 0


@compiled
def _list_row(row, width, n, last, columns, values):
    """Most groups of LANES have none: those are seen at one glance. No more than were counted, whatever others do to the matrix meanwhile."""
    whole = width // LANES * LANES
    for c in range(0, width, LANES):
        if c == whole or _any(row[c:]):
            for i in range(c, min(width, c + LANES)):
                if row[i] & np.int32(MAGNITUDE) != 0 and n < last:
                    columns[n], values[n] = i, row[i]
                    n += 1


def list_kernel(job):
    a = words(job)
    weight, starts, width = ints(a[LIST.weight]), ints(a[LIST.starts]), a[LIST.width]
    columns, values = ints(a[LIST.columns]), ints(a[LIST.values])
    while True:
        chunk = draw(job)
        if chunk >= a[CHUNKS]:
            return
        first = chunk * a[LIST.rows_per_chunk]
        for r in range(first, min(a[LIST.rows], first + a[LIST.rows_per_chunk])):
            if starts[r + 1] > starts[r]:
                _list_row(weight[r * width :], width, np.int64(starts[r]), np.int64(starts[r + 1]), columns, values)


# The list of a matrix [rows, width] -> that of its transpose: starts_turned [width + 1], zeros before, rows_turned and order [nonzeros].
TurnJob = record("TurnJob", "starts columns rows width starts_turned rows_turned order")


TURN = positions(TurnJob)


def turn_kernel(job):
    """In one chunk: a count of each column, then every nonzero to its place."""
    a = words(job)
    starts, columns, rows, width = ints(a[TURN.starts]), ints(a[TURN.columns]), a[TURN.rows], a[TURN.width]
    ends, rows_turned, order = ints(a[TURN.starts_turned]), ints(a[TURN.rows_turned]), ints(a[TURN.order])
    place = np.zeros(width + 1, np.int32)
    while True:
        if draw(job) >= a[CHUNKS]:
            return
        for n in range(starts[rows]):
            ends[columns[n] + 1] += 1
        for c in range(width):
            ends[c + 1] += ends[c]
            place[c] = ends[c]
        for r in range(rows):
            for n in range(starts[r], starts[r + 1]):
                at = place[columns[n]]
                rows_turned[at], order[at] = r, n
                place[columns[n]] = at + 1


# --------------------------------------------------------------------------------------------------------------- the calls


def counted(weight: torch.Tensor) -> torch.Tensor:
    """int32 [rows + 1]: 0, and the nonzeros of each row of a matrix, contiguous and as `serve` takes it."""
    rows, width = weight.shape
    starts, per_chunk = torch.zeros(rows + 1, dtype=torch.int32, device="cpu"), max(1, ENTRIES_PER_CHUNK // width)
    run(count_kernel, -(-rows // per_chunk), ListJob(weight.data_ptr(), starts.data_ptr(), 0, 0, rows, width, per_chunk))
    return starts


def listed(weight: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """(values, int32 row starts, int32 columns) of the nonzeros of a matrix; None if they are more than `most`. It is as `serve` takes it."""
    weight, (rows, width) = weight.detach().contiguous(), weight.shape
    per_chunk = max(1, ENTRIES_PER_CHUNK // width)
    ends = counted(weight).cumsum(0)
    count = int(ends[-1])
    if count > min(most, (1 << 31) - 1):
        return None
    starts = ends.to(torch.int32)
    values, columns = (torch.empty(count, dtype=kind, device="cpu") for kind in (torch.float32, torch.int32))
    places = starts.data_ptr(), columns.data_ptr(), values.data_ptr()
    run(list_kernel, -(-rows // per_chunk), ListJob(weight.data_ptr(), *places, rows, width, per_chunk))
    return values, starts, columns


def turned(support: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of a transposed matrix: int32 row starts, int32 columns, and the int32 order that puts the values into it."""
    (rows, width), before = support.shape, (support.starts.contiguous(), support.columns.contiguous())
    starts = torch.zeros(width + 1, dtype=torch.int32, device="cpu")
    columns, order = torch.empty_like(before[1]), torch.empty_like(before[1])
    places = starts.data_ptr(), columns.data_ptr(), order.data_ptr()
    run(turn_kernel, 1, TurnJob(before[0].data_ptr(), before[1].data_ptr(), rows, width, *places))
    return starts, columns, order
