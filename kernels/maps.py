"""Linear maps of circuits, in float64, and who passes AbsTopK behind them: for one token each, what `programs/run.linear` does for many."""

from __future__ import annotations

import math

import numpy as np
import torch

from .jit import compiled, doubles, longs
from .jobs import positions, record

GELU, GELU_TANH, RELU = 1, 2, 3
LOWEST = 0.1701  # more than the size of what GELU, or its approximation, makes of any negative number
WORD = 8  # bytes
EDGE, CELLS = 8, 512  # of what is tabulated of GELU: from -8 to 8, so many cells to 1


def _bounds() -> np.ndarray:
    """[GELU and its approximation, least and most, cells]: what its size lies between in each cell, rounding included. It falls up to its lowest point, and rises from there."""
    edges = torch.linspace(-EDGE, EDGE, 2 * EDGE * CELLS + 1, dtype=torch.float64)
    found = []
    for approximate in ("none", "tanh"):
        size = torch.nn.functional.gelu(edges, approximate=approximate).abs()
        least, most = torch.minimum(size[:-1], size[1:]), torch.maximum(size[:-1], size[1:])
        turns = (edges[:-1] > -0.8) & (edges[1:] < -0.7)
        most = torch.where(turns, torch.full_like(most, LOWEST), most)
        found.append(torch.stack([(least - 1e-12).clamp(min=0), most + 1e-12]))
    return torch.stack(found).numpy()


BOUNDS = _bounds()


# A linear map (`parts.Linear`). weight [width, rows], bias [rows], fixed [fixed_count], ahead [count]; k: -1 where all pass; least: 0, or the address of a number.
MapWords = record("MapWords", "count rows width k weight bias fixed fixed_count ahead least activation")
MAP = positions(MapWords, first=0)


@compiled
def _activated(x, kind):
    if kind == GELU:
        return x * 0.5 * (1.0 + math.erf(x * 0.7071067811865476))
    if kind == GELU_TANH:
        return 0.5 * x * (1.0 + math.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    return x if x > 0.0 or kind != RELU else 0.0


@compiled
def count_larger(address, count, mine):
    sizes, larger = doubles(address), 0
    for i in range(count):
        larger += sizes[i] > mine
    return larger


@compiled
def map_of(at, values_at, out_at, lows, highs):
    """out [rows] of values [width], of which the first `count` are the nodes; lows, highs: scratch space."""
    m, values, out = longs(at), doubles(values_at), doubles(out_at)
    count, rows, width, kind = m[MAP.count], m[MAP.rows], m[MAP.width], m[MAP.activation]
    weight, bias = doubles(m[MAP.weight]), doubles(m[MAP.bias])
    for r in range(rows):
        out[r] = bias[r]
    for j in range(width):
        value, first = values[j], j * rows
        if value != 0.0:
            column = weight[first:]  # an index that is a sum would not become vector instructions
            for r in range(rows):
                out[r] += value * column[r]
    if kind != 0:
        before = doubles(highs)
        for i in range(count):
            before[i] = out[i]
            out[i] = _activated(out[i], kind)
    if m[MAP.k] >= 0:
        _compete(at, out_at, lows, highs)
    elif m[MAP.least] != 0:
        least = doubles(m[MAP.least])[0]
        for i in range(count):
            out[i] = out[i] if abs(out[i]) >= least else 0.0


@compiled
def _compete(at, out_at, lows_at, highs_at):
    """Drops nodes that AbsTopK drops; of these `out` is activated, of rivals not yet."""
    m, out, lows = longs(at), doubles(out_at), doubles(lows_at)
    count, rows, kind, k, ahead = m[MAP.count], m[MAP.rows], m[MAP.activation], m[MAP.k], longs(m[MAP.ahead])
    for i in range(count):
        lows[i] = abs(out[i])
    if kind in (GELU, GELU_TANH):
        _compete_by_gelu(at, out_at, lows_at, highs_at)
        return
    for r in range(count, rows):
        lows[r] = abs(out[r])
    if kind == RELU:
        for r in range(count, rows):
            lows[r] = lows[r] if out[r] > 0.0 else 0.0
    for i in range(count):
        larger = ahead[i] + count_larger(m[MAP.fixed], m[MAP.fixed_count], lows[i])
        if larger >= k or larger + count_larger(lows_at, rows, lows[i]) >= k:
            out[i] = 0.0


@compiled
def _within(x, mine, kind):
    """What the size of GELU of x lies between: both on one side of `mine`, or both what it is."""
    cell = int((x + EDGE) * CELLS)
    if 0 <= cell < 2 * EDGE * CELLS:
        which = 0 if kind == GELU else 1
        low, high = BOUNDS[which, 0, cell], BOUNDS[which, 1, cell]
        if low > mine or high <= mine:
            return low, high
    size = abs(_activated(x, kind))
    return size, size


@compiled
def _compete_by_gelu(at, out_at, lows_at, before_at):
    """The same where GELU comes before: hardly ever by the error function of a rival, which would take most of the time.

    Where a node is positive and larger than any negative number becomes, larger rivals are those that were larger before. Else x / 2 and x are bounds of what becomes of x,
    then `BOUNDS` are."""
    m, out, lows, before = longs(at), doubles(out_at), doubles(lows_at), doubles(before_at)
    count, rows, k, ahead = m[MAP.count], m[MAP.rows], m[MAP.k], longs(m[MAP.ahead])
    rivals, highs_at, bounded = out_at + WORD * count, before_at + WORD * count, False
    for i in range(count):
        mine = lows[i]
        larger = ahead[i] + count_larger(m[MAP.fixed], m[MAP.fixed_count], mine) + count_larger(lows_at, count, mine)
        if before[i] > 0.0 and mine > LOWEST:
            larger += count_larger(rivals, rows - count, before[i])
        else:
            if not bounded:
                bounded = True
                for r in range(count, rows):
                    x = out[r]
                    lows[r] = 0.5 * x if x > 0.0 else 0.0
                    before[r] = x if x > 0.0 else -0.5 * x
            low = count_larger(lows_at + WORD * count, rows - count, mine)
            high = count_larger(highs_at, rows - count, mine)
            if larger + low < k <= larger + high:
                for r in range(count, rows):
                    if lows[r] <= mine < before[r]:
                        lows[r], before[r] = _within(out[r], mine, m[MAP.activation])
                low = count_larger(lows_at + WORD * count, rows - count, mine)
            larger += low
        if larger >= k:
            out[i] = 0.0
