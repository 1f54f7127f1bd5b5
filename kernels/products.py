"""Products with sparse matrices on CPU, and what belongs to them: the gradient of their values, embeddings. The kernels and the calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .jit import (
    compiled,
    draw,
    floats,
    halves,
    ints,
    narrowed,
    summing,
    transpose_block,
    transpose_halves,
    transpose_to_halves,
    weighted_rows_of_four,
    weighted_rows_of_one,
    widened,
    words,
)
from .jobs import CHUNKS, flat, positions, record
from .run import LANES, run

# A matrix [rows, width] by its nonzeros (CSR): int32 row starts and columns, float32 values and, or 0, a bias [rows].
Matrix = record("Matrix", "row_starts columns values bias")


M = positions(Matrix, first=0)
ABREAST = 4 * LANES  # tokens of which the gradient of values takes the sum in one go


@compiled
def _to_lanes(x, stride, tokens, width, lanes, lane, count, narrow):
    """lanes[channel * count + lane + token] = x[token, channel], for up to LANES tokens; absent tokens give zeros. By addresses; narrow: x is bfloat16."""
    whole = width // LANES * LANES if tokens == LANES else 0
    for c in range(0, whole, LANES):
        if narrow:
            transpose_halves(x + 2 * c, stride, lanes + 4 * (c * count + lane), count)
        else:
            transpose_block(x + 4 * c, stride, lanes + 4 * (c * count + lane), count)
    target = floats(lanes)
    for c in range(whole, width):
        for t in range(LANES):
            value = np.float32(0)
            if t < tokens:
                value = widened(halves(x)[t * stride + c]) if narrow else floats(x)[t * stride + c]
            target[c * count + lane + t] = value


@compiled
def _product_of_one(x, starts, columns, values, bias, biased, rows, out):
    for r in range(rows):
        total = bias[r] if biased else np.float32(0)
        n, last = np.int64(starts[r]), np.int64(starts[r + 1])
        if last - n >= 8:  # four sums, so that each addition need not wait for the one before
            a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            while n + 4 <= last:
                a += values[n] * x[columns[n]]
                b += values[n + 1] * x[columns[n + 1]]
                c += values[n + 2] * x[columns[n + 2]]
                d += values[n + 3] * x[columns[n + 3]]
                n += 4
            total += (a + b) + (c + d)
        while n < last:
            total += values[n] * x[columns[n]]
            n += 1
        out[r] = total


@compiled
def _product_of_lanes(lanes, count, matrix, rows, out, stride, tokens, sums, narrow):
    """out[token, row] for up to `count` tokens (LANES, or four times as many), LANES rows at a time; narrow: out is bfloat16. By addresses."""
    starts, bias, biased = ints(matrix[M.row_starts]), floats(matrix[M.bias]), matrix[M.bias] != 0
    for first in range(0, rows, LANES):
        last = min(rows, first + LANES)
        for r in range(first, last):
            start = bias[r] if biased else np.float32(0)
            place = sums + 4 * (r - first) * count
            if count == LANES:
                weighted_rows_of_one(
                    matrix[M.values], matrix[M.columns], np.int64(starts[r]), np.int64(starts[r + 1]), lanes, start, place
                )
            else:
                weighted_rows_of_four(
                    matrix[M.values], matrix[M.columns], np.int64(starts[r]), np.int64(starts[r + 1]), lanes, start, place
                )
        _write(sums, count, out, stride, tokens, first, last, narrow)


@compiled
def _write(sums, count, out, stride, tokens, first, last, narrow):
    block = floats(sums)
    for lane in range(0, tokens, LANES):
        if last - first == LANES and tokens - lane >= LANES:
            if narrow:
                transpose_to_halves(sums + 4 * lane, count, out + 2 * (lane * stride + first), stride)
            else:
                transpose_block(sums + 4 * lane, count, out + 4 * (lane * stride + first), stride)
        else:
            for t in range(lane, min(tokens, lane + LANES)):
                for r in range(first, last):
                    if narrow:
                        halves(out)[t * stride + r] = narrowed(block[(r - first) * count + t])
                    else:
                        floats(out)[t * stride + r] = block[(r - first) * count + t]


@compiled
def product_rows(x, tokens, width, matrix, rows, out, out_stride, lanes, count, sums):
    """out = x @ W.T + bias for up to `count` tokens; matrix = addresses of (row starts, columns, values, bias or 0)."""
    if tokens == 1:
        starts, columns, values, bias = (
            ints(matrix[M.row_starts]),
            ints(matrix[M.columns]),
            floats(matrix[M.values]),
            floats(matrix[M.bias]),
        )
        _product_of_one(floats(x), starts, columns, values, bias, matrix[M.bias] != 0, rows, floats(out))
        return
    product_of_some(x, tokens, width, matrix, rows, out, out_stride, lanes, count, sums, False)


@compiled
def product_of_some(x, tokens, width, matrix, rows, out, out_stride, lanes, count, sums, narrow):
    """`product_rows` of more than one token; narrow: x and out are bfloat16, summed in float32."""
    size = 2 if narrow else 4
    for lane in range(0, count, LANES):
        present = max(0, min(LANES, tokens - lane))
        _to_lanes(x + size * lane * width, width, present, width, lanes, lane, count, narrow)
    _product_of_lanes(lanes, count, matrix, rows, out, out_stride, tokens, sums, narrow)


# x [tokens, width] -> out [tokens, rows]. tokens_per_chunk: LANES, or four times as many; narrow: x and out are bfloat16.
ProductJob = record("ProductJob", "x out tokens width rows matrix tokens_per_chunk narrow", matrix=Matrix)


PRODUCT = positions(ProductJob)


def product_kernel(job):
    a = words(job)
    count, size = a[PRODUCT.tokens_per_chunk], 2 if a[PRODUCT.narrow] else 4
    tokens, width, rows = a[PRODUCT.tokens], a[PRODUCT.width], a[PRODUCT.rows]
    lanes, sums = np.empty(width * count, np.float32), np.empty(LANES * count, np.float32)
    while True:
        chunk = draw(job)
        if chunk >= a[CHUNKS]:
            return
        first, matrix = chunk * count, a[PRODUCT.matrix :]
        x, out, left = a[PRODUCT.x] + size * first * width, a[PRODUCT.out] + size * first * rows, min(count, tokens - first)
        if a[PRODUCT.narrow]:
            product_of_some(x, left, width, matrix, rows, out, rows, lanes.ctypes.data, count, sums.ctypes.data, True)
        else:
            product_rows(x, left, width, matrix, rows, out, rows, lanes.ctypes.data, count, sums.ctypes.data)


# dy [tokens, rows], x [tokens, width] -> partial sums [chunks, nonzeros] of dy.T @ x at the nonzeros. narrow: dy and x are bfloat16.
ValueGradientJob = record("ValueGradientJob", "dy x partial tokens rows width row_of columns nonzeros tokens_per_chunk narrow")


VALUE_GRADIENT = positions(ValueGradientJob)


def value_gradient_kernel(job):
    a = words(job)
    dy, x, partial = a[VALUE_GRADIENT.dy], a[VALUE_GRADIENT.x], floats(a[VALUE_GRADIENT.partial])
    tokens, rows, width = a[VALUE_GRADIENT.tokens], a[VALUE_GRADIENT.rows], a[VALUE_GRADIENT.width]
    row_of, columns = ints(a[VALUE_GRADIENT.row_of]), ints(a[VALUE_GRADIENT.columns])
    nonzeros, per_chunk = a[VALUE_GRADIENT.nonzeros], a[VALUE_GRADIENT.tokens_per_chunk]
    narrow = a[VALUE_GRADIENT.narrow] != 0
    size = 2 if narrow else 4
    left, right = np.empty(rows * ABREAST, np.float32), np.empty(width * ABREAST, np.float32)
    while True:
        chunk = draw(job)
        if chunk >= a[CHUNKS]:
            return
        sums = partial[chunk * nonzeros : (chunk + 1) * nonzeros]
        for n in range(nonzeros):
            sums[n] = np.float32(0)
        last = min(tokens, (chunk + 1) * per_chunk)
        for first in range(chunk * per_chunk, last, ABREAST):
            for lane in range(0, ABREAST, LANES):
                at, count = first + lane, max(0, min(LANES, last - first - lane))
                _to_lanes(dy + size * at * rows, rows, count, rows, left.ctypes.data, lane, ABREAST, narrow)
                _to_lanes(x + size * at * width, width, count, width, right.ctypes.data, lane, ABREAST, narrow)
            for n in range(nonzeros):
                row, column = np.int64(row_of[n]) * ABREAST, np.int64(columns[n]) * ABREAST
                sums[n] += _dot(left[row : row + ABREAST], right[column : column + ABREAST])


@summing
def _dot(left, right):
    total = np.float32(0)
    for t in range(ABREAST):
        total += left[t] * right[t]
    return total


# ids: int32 [tokens] -> out [tokens, width], rows of the matrix; a chunk is a token.
EmbeddingJob = record("EmbeddingJob", "ids out width matrix", matrix=Matrix)


EMBEDDING = positions(EmbeddingJob)


def embedding_kernel(job):
    a = words(job)
    ids, out, width, matrix = ints(a[EMBEDDING.ids]), floats(a[EMBEDDING.out]), a[EMBEDDING.width], a[EMBEDDING.matrix :]
    starts, columns, values = ints(matrix[M.row_starts]), ints(matrix[M.columns]), floats(matrix[M.values])
    while True:
        t = draw(job)
        if t >= a[CHUNKS]:
            return
        row = out[t * width : (t + 1) * width]
        for c in range(width):
            row[c] = np.float32(0)
        for n in range(starts[ids[t]], starts[ids[t] + 1]):
            row[columns[n]] = values[n]


# --------------------------------------------------------------------------------------------------------------- the calls


def product(x: torch.Tensor, values: torch.Tensor, support: Any, bias: torch.Tensor | None) -> torch.Tensor:
    """x [tokens, width] @ W.T + bias -> [tokens, rows] of x's dtype, for W by its nonzeros; x float32 or bfloat16 and values float32, as `serve` takes them."""
    rows, width = support.shape
    x, values = x.contiguous(), values.contiguous()
    out = torch.empty(x.shape[0], rows, dtype=x.dtype, device=x.device)  # not on a default device
    kept_alive = None if bias is None else bias.to(torch.float32).contiguous()
    # Four groups of lanes share each weight that is read, as long as their inputs fit the second-level cache.
    per_chunk = 4 * LANES if x.shape[0] >= 8 * LANES and width <= 4096 else LANES
    matrix = Matrix(
        support.starts.data_ptr(),
        support.columns.data_ptr(),
        values.data_ptr(),
        0 if kept_alive is None else kept_alive.data_ptr(),
    )
    narrow = int(x.dtype == torch.bfloat16)
    job = ProductJob(x.data_ptr(), out.data_ptr(), x.shape[0], width, rows, matrix, per_chunk, narrow)
    run(product_kernel, -(-x.shape[0] // per_chunk), flat(job))
    return out


def value_gradient(dy: torch.Tensor, x: torch.Tensor, support: Any) -> torch.Tensor:
    """The entries of dy.T @ x at the nonzeros, [nonzeros] in float32; both float32 or both bfloat16."""
    dy, x, tokens, nonzeros = dy.contiguous(), x.contiguous(), x.shape[0], support.columns.shape[0]
    per_chunk = -(-tokens // (16 * ABREAST)) * ABREAST  # at most 16 chunks, each with a row of partial sums
    chunks = -(-tokens // per_chunk)
    partial = torch.empty(chunks, nonzeros, dtype=torch.float32, device=x.device)
    places, narrow = (support.row_of.data_ptr(), support.columns.data_ptr()), int(x.dtype == torch.bfloat16)
    job = ValueGradientJob(
        dy.data_ptr(), x.data_ptr(), partial.data_ptr(), tokens, *support.shape, *places, nonzeros, per_chunk, narrow
    )
    run(value_gradient_kernel, chunks, job)
    return partial.sum(0)


def embedding(ids: torch.Tensor, values: torch.Tensor, support: Any) -> torch.Tensor:
    """Rows [tokens, width] of a matrix by its nonzeros; ids [tokens], all of them in range, not none."""
    out, small = torch.empty(ids.shape[0], support.shape[1], dtype=torch.float32, device=ids.device), ids.to(torch.int32)
    matrix = Matrix(support.starts.data_ptr(), support.columns.data_ptr(), values.data_ptr(), 0)
    run(embedding_kernel, ids.shape[0], flat(EmbeddingJob(small.data_ptr(), out.data_ptr(), support.shape[1], matrix)))
    return out
