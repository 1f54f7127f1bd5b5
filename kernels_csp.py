"""CPU kernels in Numba: AbsTopK and products with sparse matrices.

This file and `block_kernels_csp.py` are imported only where Numba is installed (`sparse_csp.py` looks first). Nothing here is needed for correct results: each kernel has a
PyTorch path with the same result, up to the order of float32 sums.

A kernel is a C function of one argument, the job: int64 words [next chunk, number of chunks, arguments...], where an argument is an
integer or the address of an array (`sparse_csp.run` makes it). Workers draw chunks until none is left. What a chunk is depends on the
sizes alone, so results do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

try:
    from llvmlite import ir
    from numba import carray, njit, types
    from numba.core import cgutils
    from numba.extending import intrinsic
except ImportError:  # transformers refuses remote code whose imports may fail, unless they stand in a try block
    raise

LANES = 16  # tokens that a product handles side by side
QUERIES = 64  # queries that attention handles side by side
FAR = 1 << 40  # length given to arrays whose bounds the caller has checked

# `contract` (fused multiply-add) is all the freedom that leaves NaN, infinity and exp right; plain sums may also be reordered.
compiled = njit(nogil=True, error_model="numpy", fastmath={"contract"})
summing = njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})


def _cast(name: str, source: Any, target: Any, operation: str) -> Any:
    def declare(typing, value):
        def generate(context, builder, signature, arguments):
            return getattr(builder, operation)(arguments[0], context.get_value_type(signature.return_type))

        return target(source), generate

    declare.__name__ = name
    return intrinsic(declare)


_f32_at = _cast("f32_at", types.int64, types.CPointer(types.float32), "inttoptr")
_i32_at = _cast("i32_at", types.int64, types.CPointer(types.int32), "inttoptr")
_i64_at = _cast("i64_at", types.int64, types.CPointer(types.int64), "inttoptr")
_u8_at = _cast("u8_at", types.int64, types.CPointer(types.uint8), "inttoptr")
bits_of = _cast("bits_of", types.float32, types.int32, "bitcast")
float_of = _cast("float_of", types.int32, types.float32, "bitcast")


@intrinsic
def draw(typing, job):
    """job[0], which grows by one, atomically."""

    def generate(context, builder, signature, arguments):
        return builder.atomic_rmw("add", arguments[0], context.get_constant(types.int64, 1), "monotonic")

    return types.int64(types.CPointer(types.int64)), generate


@compiled
def floats(address):
    return carray(_f32_at(address), (FAR,))


@compiled
def ints(address):
    return carray(_i32_at(address), (FAR,))


@compiled
def longs(address):
    return carray(_i64_at(address), (FAR,))


# ---------------------------------------------------------------------------------------------------------------- AbsTopK
#
# The k-th largest magnitude of a row is searched over the bits of the floats, which order as integers: each step counts the entries
# at or above a candidate in one vectorised pass that writes nothing. Steps interpolate between the counts known so far, with a
# bisection whenever that gains too little; the search starts at the threshold of the row before, or where it would be if magnitudes
# were distributed exponentially.

_MAX_BITS = 0x7FFFFFFF
NO_GUESS = -1


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
def _threshold(magnitudes, width, k, guess):
    """(t, entries >= t): the largest t with at least k entries >= t, or any t with exactly k."""
    low, count_low = np.int64(0), np.int64(width)  # at least k entries are >= low
    high, count_high = np.int64(_MAX_BITS) + 1, np.int64(0)  # fewer than k are >= high
    step, candidate = np.int64(1 << 20), np.int64(guess)
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
        if high > _MAX_BITS:
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
def _select(row, width, k, magnitudes, guess):
    """AbsTopK of one row in place, given its magnitudes; 0 < k < width. Returns the threshold, the next row's guess."""
    if guess < 0:
        guess = _first_guess(row, width, k)
    guess, count = _threshold(magnitudes, width, k, guess)
    t = np.int32(guess)
    if count == k:
        for i in range(width):
            row[i] = row[i] if magnitudes[i] >= t else np.float32(0)
        return guess
    room = np.int64(k)  # for entries tied at the threshold, from the left
    for i in range(width):
        room -= np.int64(magnitudes[i] > t)
    for i in range(width):
        tied = magnitudes[i] == t and room > 0
        room -= np.int64(tied)
        row[i] = row[i] if tied or magnitudes[i] > t else np.float32(0)
    return guess


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
        magnitudes[i] = bits_of(row[i]) & np.int32(_MAX_BITS)
    return _select(row, width, k, magnitudes, guess)


def abs_topk_kernel(job):
    """x, out, kept (0: not wanted), rows, width, k (from 1 to width - 1), rows per chunk."""
    arguments = carray(job, (9,))
    x, out = floats(arguments[2]), floats(arguments[3])
    wanted, kept = arguments[4] != 0, carray(_u8_at(arguments[4]), (FAR,))
    rows, width, k, per_chunk = arguments[5], arguments[6], arguments[7], arguments[8]
    magnitudes = np.empty(width, np.int32)
    while True:
        chunk = draw(job)
        if chunk >= arguments[1]:
            return
        guess = np.int64(NO_GUESS)
        for r in range(chunk * per_chunk, min(rows, (chunk + 1) * per_chunk)):
            source, row = x[r * width :], out[r * width :]
            for i in range(width):
                row[i] = source[i]
                magnitudes[i] = bits_of(source[i]) & np.int32(_MAX_BITS)
            guess = _select(row, width, k, magnitudes, guess)
            if wanted:
                _mark_kept(magnitudes, width, k, guess, kept[r * width :])


def masked_kernel(job):
    """x, bool mask, out, entries, entries per chunk: out = x where the mask is set, else 0."""
    arguments = carray(job, (7,))
    x, kept, out = floats(arguments[2]), carray(_u8_at(arguments[3]), (FAR,)), floats(arguments[4])
    while True:
        chunk = draw(job)
        if chunk >= arguments[1]:
            return
        for i in range(chunk * arguments[6], min(arguments[5], (chunk + 1) * arguments[6])):
            out[i] = x[i] if kept[i] != 0 else np.float32(0)


@compiled
def _mark_kept(magnitudes, width, k, threshold, kept):
    t, room = np.int32(threshold), np.int64(k)
    for i in range(width):
        room -= np.int64(magnitudes[i] > t)
    tied = np.int64(0)
    for i in range(width):
        tied += np.int64(magnitudes[i] == t)
    if tied <= room:
        for i in range(width):
            kept[i] = magnitudes[i] >= t
        return
    for i in range(width):
        last = magnitudes[i] == t and room > 0
        room -= np.int64(last)
        kept[i] = last or magnitudes[i] > t


# ------------------------------------------------------------------------------------- products with sparse matrices (CSR)


@intrinsic
def _transpose_block(typing, source, source_stride, target, target_stride):
    """16 x 16 floats, by addresses and strides in floats: four rounds of interleaving row i with row i + 8."""

    def generate(context, builder, signature, arguments):
        vector, word = ir.VectorType(ir.FloatType(), LANES), ir.IntType(32)
        low = ir.Constant(ir.VectorType(word, LANES), [i // 2 + LANES * (i % 2) for i in range(LANES)])
        high = ir.Constant(ir.VectorType(word, LANES), [LANES // 2 + i // 2 + LANES * (i % 2) for i in range(LANES)])

        def place(base, stride, i):
            return _vector_at(context, builder, base, builder.mul(stride, context.get_constant(types.int64, i)))

        source, source_stride, target, target_stride = arguments
        rows = [builder.load(place(source, source_stride, i), align=4, typ=vector) for i in range(LANES)]
        for _ in range(4):
            pairs = [(rows[i], rows[i + LANES // 2]) for i in range(LANES // 2)]
            rows = [builder.shuffle_vector(*pair, order) for pair in pairs for order in (low, high)]
        for i, row in enumerate(rows):
            builder.store(row, place(target, target_stride, i), align=4)

    return types.void(types.int64, types.int64, types.int64, types.int64), generate


def _vector_at(context, builder, base, index):
    """Pointer to the floats at an address plus an index in floats."""
    address = builder.add(base, builder.mul(index, context.get_constant(types.int64, 4)))
    return builder.inttoptr(address, ir.VectorType(ir.FloatType(), LANES).as_pointer())


def _weighted_rows(groups):
    """out = start + the sum of values[n] * lanes[columns[n]] for n from first to last, over groups of LANES floats held in registers."""

    @intrinsic
    def weighted_rows(typing, values, columns, first, last, lanes, start, out):
        def generate(context, builder, signature, arguments):
            values, columns, first, last, lanes, start, out = arguments
            vector, word = ir.VectorType(ir.FloatType(), LANES), ir.IntType(32)

            def constant(value):
                return context.get_constant(types.int64, value)

            def spread(scalar):
                one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(word, 0))
                return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(word, LANES), [0] * LANES))

            totals = [cgutils.alloca_once_value(builder, spread(start)) for _ in range(groups)]
            with cgutils.for_range_slice(builder, first, last, constant(1)) as (n, _):
                offset = builder.mul(n, constant(4))
                weight = builder.load(
                    builder.inttoptr(builder.add(values, offset), ir.FloatType().as_pointer()), typ=ir.FloatType()
                )
                column = builder.load(builder.inttoptr(builder.add(columns, offset), word.as_pointer()), typ=word)
                row = builder.mul(builder.zext(column, ir.IntType(64)), constant(groups * LANES))
                weights = spread(weight)
                for g, total in enumerate(totals):
                    source = _vector_at(context, builder, lanes, builder.add(row, constant(g * LANES)))
                    product = builder.fmul(weights, builder.load(source, align=4, typ=vector), flags=("contract",))
                    builder.store(builder.fadd(product, builder.load(total, typ=vector), flags=("contract",)), total)
            for g, total in enumerate(totals):
                builder.store(builder.load(total, typ=vector), _vector_at(context, builder, out, constant(g * LANES)), align=4)

        signature = (types.int64, types.int64, types.int64, types.int64, types.int64, types.float32, types.int64)
        return types.void(*signature), generate

    return weighted_rows


@intrinsic
def add_weighted_sum(typing, weights, rows, count, stride, out):
    """out[0:LANES] += the sum of weights[i] * rows[i * stride : i * stride + LANES] for i below count; all by address."""

    def generate(context, builder, signature, arguments):
        weights, rows, count, stride, out = arguments
        vector, word = ir.VectorType(ir.FloatType(), LANES), ir.IntType(32)
        zero, one = context.get_constant(types.int64, 0), context.get_constant(types.int64, 1)
        place = _vector_at(context, builder, out, zero)
        # Four sums side by side: each addition would otherwise wait for the one before.
        totals = [cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * LANES)) for _ in range(4)]

        def add(i, total):
            address = builder.add(weights, builder.mul(i, context.get_constant(types.int64, 4)))
            weight = builder.load(builder.inttoptr(address, ir.FloatType().as_pointer()), typ=ir.FloatType())
            single = builder.insert_element(ir.Constant(vector, ir.Undefined), weight, ir.Constant(word, 0))
            spread = builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(word, LANES), [0] * LANES))
            row = builder.load(_vector_at(context, builder, rows, builder.mul(i, stride)), align=4, typ=vector)
            product = builder.fmul(spread, row, flags=("contract",))
            builder.store(builder.fadd(product, builder.load(total, typ=vector), flags=("contract",)), total)

        four = context.get_constant(types.int64, 4)
        whole = builder.sub(count, builder.srem(count, four))
        with cgutils.for_range_slice(builder, zero, whole, four) as (i, _):
            for u, total in enumerate(totals):
                add(builder.add(i, context.get_constant(types.int64, u)), total)
        with cgutils.for_range_slice(builder, whole, count, one) as (i, _):
            add(i, totals[0])
        first, second, third, fourth = (builder.load(total, typ=vector) for total in totals)
        summed = builder.fadd(builder.fadd(first, second), builder.fadd(third, fourth))
        builder.store(builder.fadd(summed, builder.load(place, align=4, typ=vector)), place, align=4)

    return types.void(types.int64, types.int64, types.int64, types.int64, types.int64), generate


_weighted_rows_of_one_group, weighted_rows_of_four = _weighted_rows(1), _weighted_rows(4)


@compiled
def _to_lanes(x, stride, tokens, width, lanes, lane, count):
    """lanes[channel * count + lane + token] = x[token, channel], for up to LANES tokens; absent tokens give zeros. By addresses."""
    whole = width // LANES * LANES if tokens == LANES else 0
    for c in range(0, whole, LANES):
        _transpose_block(x + 4 * c, stride, lanes + 4 * (c * count + lane), count)
    source, target = floats(x), floats(lanes)
    for c in range(whole, width):
        for t in range(LANES):
            target[c * count + lane + t] = source[t * stride + c] if t < tokens else np.float32(0)


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
def _product_of_lanes(lanes, count, matrix, rows, out, stride, tokens, sums):
    """out[token, row] for up to `count` tokens (LANES, or four times as many), LANES rows at a time. By addresses, but for sums."""
    starts, bias, biased, block = ints(matrix[0]), floats(matrix[3]), matrix[3] != 0, floats(sums)
    target = floats(out)
    for first in range(0, rows, LANES):
        last = min(rows, first + LANES)
        for r in range(first, last):
            start = bias[r] if biased else np.float32(0)
            place = sums + 4 * (r - first) * count
            if count == LANES:
                _weighted_rows_of_one_group(
                    matrix[2], matrix[1], np.int64(starts[r]), np.int64(starts[r + 1]), lanes, start, place
                )
            else:
                weighted_rows_of_four(matrix[2], matrix[1], np.int64(starts[r]), np.int64(starts[r + 1]), lanes, start, place)
        for lane in range(0, tokens, LANES):
            if last - first == LANES and tokens - lane >= LANES:
                _transpose_block(sums + 4 * lane, count, out + 4 * (lane * stride + first), stride)
            else:
                for t in range(lane, min(tokens, lane + LANES)):
                    for r in range(first, last):
                        target[t * stride + r] = block[(r - first) * count + t]


@compiled
def product_rows(x, tokens, width, matrix, rows, out, out_stride, lanes, count, sums):
    """out = x @ W.T + bias for up to `count` tokens; matrix = addresses of (row starts, columns, values, bias or 0)."""
    if tokens == 1:
        starts, columns, values, bias = ints(matrix[0]), ints(matrix[1]), floats(matrix[2]), floats(matrix[3])
        _product_of_one(floats(x), starts, columns, values, bias, matrix[3] != 0, rows, floats(out))
        return
    for lane in range(0, count, LANES):
        present = max(0, min(LANES, tokens - lane))
        _to_lanes(x + 4 * lane * width, width, present, width, lanes, lane, count)
    _product_of_lanes(lanes, count, matrix, rows, out, out_stride, tokens, sums)


def product_kernel(job):
    """x, out, tokens, width, rows, row starts, columns, values, bias or 0, tokens per chunk (LANES, or four times as many)."""
    arguments = carray(job, (12,))
    x, out, count = arguments[2], arguments[3], arguments[11]
    tokens, width, rows = arguments[4], arguments[5], arguments[6]
    lanes, sums = np.empty(width * count, np.float32), np.empty(LANES * count, np.float32)
    while True:
        chunk = draw(job)
        if chunk >= arguments[1]:
            return
        first = chunk * count
        product_rows(
            x + 4 * first * width, min(count, tokens - first), width, arguments[7:11], rows, out + 4 * first * rows, rows,
            lanes.ctypes.data, count, sums.ctypes.data,
        )  # fmt: skip


def value_gradient_kernel(job):
    """dy, x, partial sums [chunks, nonzeros], tokens, rows, width, rows of the nonzeros, columns, nonzeros, tokens per chunk."""
    arguments = carray(job, (12,))
    dy, x, partial = arguments[2], arguments[3], floats(arguments[4])
    tokens, rows, width = arguments[5], arguments[6], arguments[7]
    row_of, columns, nonzeros, per_chunk = ints(arguments[8]), ints(arguments[9]), arguments[10], arguments[11]
    left, right = np.empty((rows, LANES), np.float32), np.empty((width, LANES), np.float32)
    while True:
        chunk = draw(job)
        if chunk >= arguments[1]:
            return
        sums = partial[chunk * nonzeros : (chunk + 1) * nonzeros]
        for n in range(nonzeros):
            sums[n] = np.float32(0)
        for first in range(chunk * per_chunk, min(tokens, (chunk + 1) * per_chunk), LANES):
            count = min(LANES, tokens - first)
            _to_lanes(dy + 4 * first * rows, rows, count, rows, left.ctypes.data, 0, LANES)
            _to_lanes(x + 4 * first * width, width, count, width, right.ctypes.data, 0, LANES)
            for n in range(nonzeros):
                sums[n] += _dot(left[row_of[n]], right[columns[n]])


@summing
def _dot(left, right):
    total = np.float32(0)
    for t in range(LANES):
        total += left[t] * right[t]
    return total


def embedding_kernel(job):
    """ids (int32), out, tokens, width, row starts, columns, values."""
    arguments = carray(job, (9,))
    ids, out, width = ints(arguments[2]), floats(arguments[3]), arguments[5]
    starts, columns, values = ints(arguments[6]), ints(arguments[7]), floats(arguments[8])
    while True:
        t = draw(job)
        if t >= arguments[1]:
            return
        row = out[t * width : (t + 1) * width]
        for c in range(width):
            row[c] = np.float32(0)
        for n in range(starts[ids[t]], starts[ids[t] + 1]):
            row[columns[n]] = values[n]


KERNELS = {
    "abs_topk": abs_topk_kernel,
    "masked": masked_kernel,
    "product": product_kernel,
    "value_gradient": value_gradient_kernel,
    "embedding": embedding_kernel,
}
