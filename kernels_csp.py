"""CPU kernels in Numba: AbsTopK, products with sparse matrices, attention with a sink, and the two halves of a block.

Imported only where Numba is installed (`sparse_csp.py` looks first). Nothing here is needed for correct results: each kernel has a
PyTorch path with the same result, up to the order of float32 sums.

A kernel is a C function of one argument, the job: int64 words [next chunk, number of chunks, arguments...], where an argument is an
integer or the address of an array (`sparse_csp.run` makes it). Workers draw chunks until none is left. What a chunk is depends on the
sizes alone, so results do not depend on the number of threads.

All kernels stand in one file because Numba's cache on disk notices changes of the kernel's own file only.
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
_compiled = njit(nogil=True, error_model="numpy", fastmath={"contract"})
_summing = njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})


def _cast(name: str, source: Any, target: Any, operation: str) -> Any:
    def declare(typing, value):
        def generate(context, builder, signature, arguments):
            return getattr(builder, operation)(arguments[0], context.get_value_type(signature.return_type))

        return target(source), generate

    declare.__name__ = name
    return intrinsic(declare)


_f32_at = _cast("f32_at", types.int64, types.CPointer(types.float32), "inttoptr")
_i32_at = _cast("i32_at", types.int64, types.CPointer(types.int32), "inttoptr")
_u8_at = _cast("u8_at", types.int64, types.CPointer(types.uint8), "inttoptr")
_bits_of = _cast("bits_of", types.float32, types.int32, "bitcast")
_float_of = _cast("float_of", types.int32, types.float32, "bitcast")


@intrinsic
def _draw(typing, job):
    """job[0], which grows by one, atomically."""

    def generate(context, builder, signature, arguments):
        return builder.atomic_rmw("add", arguments[0], context.get_constant(types.int64, 1), "monotonic")

    return types.int64(types.CPointer(types.int64)), generate


@_compiled
def _floats(address):
    return carray(_f32_at(address), (FAR,))


@_compiled
def _ints(address):
    return carray(_i32_at(address), (FAR,))


# ---------------------------------------------------------------------------------------------------------------- AbsTopK
#
# The k-th largest magnitude of a row is searched over the bits of the floats, which order as integers: each step counts the entries
# at or above a candidate in one vectorised pass that writes nothing. Steps interpolate between the counts known so far, with a
# bisection whenever that gains too little; the search starts at the threshold of the row before, or where it would be if magnitudes
# were distributed exponentially.

_MAX_BITS = 0x7FFFFFFF
_NO_GUESS = -1


@_summing
def _mean_magnitude(row, width):
    total = np.float32(0)
    for i in range(width):
        total += abs(row[i])
    return total / np.float32(width)


@_compiled
def _first_guess(row, width, k):
    guess = _mean_magnitude(row, width) * np.float32(np.log(np.float64(width) / np.float64(k)))
    return np.int64(_bits_of(guess)) if guess < np.float32(np.inf) else np.int64(_bits_of(np.float32(1)))


@_compiled
def _count_at_least(magnitudes, width, candidate):
    count = np.int32(0)
    for i in range(width):
        count = np.int32(count + np.int32(magnitudes[i] >= candidate))  # stays 32 bits wide, which halves the time
    return np.int64(count)


@_compiled
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


@_compiled
def _top_k_row(source, row, width, k, magnitudes, guess):
    """AbsTopK of `source` into `row`, which may be the same; returns the threshold, the next row's guess. `magnitudes` is scratch."""
    if k == 0:
        for i in range(width):
            row[i] = np.float32(0)
        return guess
    for i in range(width):
        magnitudes[i] = _bits_of(source[i]) & np.int32(_MAX_BITS)
    if guess < 0:
        guess = _first_guess(source, width, k)
    guess, count = _threshold(magnitudes, width, k, guess)
    t = np.int32(guess)
    if count == k:
        for i in range(width):
            row[i] = source[i] if magnitudes[i] >= t else np.float32(0)
        return guess
    room = np.int64(k)  # for entries tied at the threshold, from the left
    for i in range(width):
        room -= np.int64(magnitudes[i] > t)
    for i in range(width):
        tied = magnitudes[i] == t and room > 0
        room -= np.int64(tied)
        row[i] = source[i] if tied or magnitudes[i] > t else np.float32(0)
    return guess


@_compiled
def _top_k_in_place(row, width, k, magnitudes, guess):
    return _top_k_row(row, row, width, k, magnitudes, guess) if k < width else guess


def abs_topk_kernel(job):
    """x, out, kept (0: not wanted), rows, width, k (less than width), rows per chunk."""
    arguments = carray(job, (9,))
    x, out = _floats(arguments[2]), _floats(arguments[3])
    wanted, kept = arguments[4] != 0, carray(_u8_at(arguments[4]), (FAR,))
    rows, width, k, per_chunk = arguments[5], arguments[6], arguments[7], arguments[8]
    magnitudes = np.empty(width, np.int32)
    while True:
        chunk = _draw(job)
        if chunk >= arguments[1]:
            return
        guess = np.int64(_NO_GUESS)
        for r in range(chunk * per_chunk, min(rows, (chunk + 1) * per_chunk)):
            guess = _top_k_row(x[r * width :], out[r * width :], width, k, magnitudes, guess)
            if wanted:
                _mark_kept(magnitudes, width, k, guess, kept[r * width :])


def masked_kernel(job):
    """x, bool mask, out, entries, entries per chunk: out = x where the mask is set, else 0."""
    arguments = carray(job, (7,))
    x, kept, out = _floats(arguments[2]), carray(_u8_at(arguments[3]), (FAR,)), _floats(arguments[4])
    while True:
        chunk = _draw(job)
        if chunk >= arguments[1]:
            return
        for i in range(chunk * arguments[6], min(arguments[5], (chunk + 1) * arguments[6])):
            out[i] = x[i] if kept[i] != 0 else np.float32(0)


@_compiled
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
def _add_weighted_sum(typing, weights, rows, count, stride, out):
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


_weighted_rows_of_one_group, _weighted_rows_of_four = _weighted_rows(1), _weighted_rows(4)


@_compiled
def _to_lanes(x, stride, tokens, width, lanes, lane, count):
    """lanes[channel * count + lane + token] = x[token, channel], for up to LANES tokens; absent tokens give zeros. By addresses."""
    whole = width // LANES * LANES if tokens == LANES else 0
    for c in range(0, whole, LANES):
        _transpose_block(x + 4 * c, stride, lanes + 4 * (c * count + lane), count)
    source, target = _floats(x), _floats(lanes)
    for c in range(whole, width):
        for t in range(LANES):
            target[c * count + lane + t] = source[t * stride + c] if t < tokens else np.float32(0)


@_compiled
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


@_compiled
def _product_of_lanes(lanes, count, matrix, rows, out, stride, tokens, sums):
    """out[token, row] for up to `count` tokens (LANES, or four times as many), LANES rows at a time. By addresses, but for sums."""
    starts, bias, biased, block = _ints(matrix[0]), _floats(matrix[3]), matrix[3] != 0, _floats(sums)
    target = _floats(out)
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
                _weighted_rows_of_four(matrix[2], matrix[1], np.int64(starts[r]), np.int64(starts[r + 1]), lanes, start, place)
        for lane in range(0, tokens, LANES):
            if last - first == LANES and tokens - lane >= LANES:
                _transpose_block(sums + 4 * lane, count, out + 4 * (lane * stride + first), stride)
            else:
                for t in range(lane, min(tokens, lane + LANES)):
                    for r in range(first, last):
                        target[t * stride + r] = block[(r - first) * count + t]


@_compiled
def _product_rows(x, tokens, width, matrix, rows, out, out_stride, lanes, count, sums):
    """out = x @ W.T + bias for up to `count` tokens; matrix = addresses of (row starts, columns, values, bias or 0)."""
    if tokens == 1:
        starts, columns, values, bias = _ints(matrix[0]), _ints(matrix[1]), _floats(matrix[2]), _floats(matrix[3])
        _product_of_one(_floats(x), starts, columns, values, bias, matrix[3] != 0, rows, _floats(out))
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
        chunk = _draw(job)
        if chunk >= arguments[1]:
            return
        first = chunk * count
        _product_rows(
            x + 4 * first * width, min(count, tokens - first), width, arguments[7:11], rows, out + 4 * first * rows, rows,
            lanes.ctypes.data, count, sums.ctypes.data,
        )  # fmt: skip


def value_gradient_kernel(job):
    """dy, x, partial sums [chunks, nonzeros], tokens, rows, width, rows of the nonzeros, columns, nonzeros, tokens per chunk."""
    arguments = carray(job, (12,))
    dy, x, partial = arguments[2], arguments[3], _floats(arguments[4])
    tokens, rows, width = arguments[5], arguments[6], arguments[7]
    row_of, columns, nonzeros, per_chunk = _ints(arguments[8]), _ints(arguments[9]), arguments[10], arguments[11]
    left, right = np.empty((rows, LANES), np.float32), np.empty((width, LANES), np.float32)
    while True:
        chunk = _draw(job)
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


@_summing
def _dot(left, right):
    total = np.float32(0)
    for t in range(LANES):
        total += left[t] * right[t]
    return total


def embedding_kernel(job):
    """ids (int32), out, tokens, width, row starts, columns, values."""
    arguments = carray(job, (9,))
    ids, out, width = _ints(arguments[2]), _floats(arguments[3]), arguments[5]
    starts, columns, values = _ints(arguments[6]), _ints(arguments[7]), _floats(arguments[8])
    while True:
        t = _draw(job)
        if t >= arguments[1]:
            return
        row = out[t * width : (t + 1) * width]
        for c in range(width):
            row[c] = np.float32(0)
        for n in range(starts[ids[t]], starts[ids[t] + 1]):
            row[columns[n]] = values[n]


# -------------------------------------------------------------------------------------------------------------- attention

_LOG2E, _LN2_HIGH, _LN2_LOW = np.float32(1.4426950408889634), np.float32(0.693359375), np.float32(-2.12194440e-4)
_ROUND = np.float32(12582912.0)  # 1.5 * 2**23: adding it rounds to a whole number, whose bits then stand at the end
_ROUND_BITS = np.int32(0x4B400000)


@_compiled
def _exp(x):
    """exp for x <= 0 to 1e-7 relative, 0 below -87; NaN stays NaN. Branch-free, so that loops over it vectorise."""
    shifted = x * _LOG2E + _ROUND
    n = shifted - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = np.float32(1.0 / 720.0)
    p = p * r + np.float32(1.0 / 120.0)
    p = p * r + np.float32(1.0 / 24.0)
    p = p * r + np.float32(1.0 / 6.0)
    p = p * r + np.float32(0.5)
    p = p * r + np.float32(1.0)
    p = p * r + np.float32(1.0)
    scale = _float_of(np.int32(np.int32(_bits_of(shifted) - _ROUND_BITS) + np.int32(127)) << np.int32(23))
    return np.float32(0) if x < np.float32(-87) else p * scale


@_compiled
def _list_nonzeros(x, token_stride, channel_stride, tokens, d_head, counts, channels, weights):
    for t in range(tokens):
        count = 0
        for c in range(d_head):
            value = x[t * token_stride + c * channel_stride]
            channels[t, count] = c
            weights[t, count] = value
            count += value != 0
        counts[t] = count


@_compiled
def _attend_block(q, q_stride, first, past, scale, sink, sunk, d_head, keys, values, scores, turned, sums, top, mass):
    """Softmax attention of QUERIES queries from `first` over the keys they see; the result is in sums / mass, by channel."""
    key_counts, key_channels, key_weights = keys
    value_counts, value_channels, value_weights = values
    seen = past + first + QUERIES
    for c in range(d_head):
        for i in range(QUERIES):
            turned[c, i] = q[(first + i) * q_stride + c] * scale
            sums[c, i] = np.float32(0)
    for i in range(QUERIES):
        top[i] = sink if sunk else np.float32(-np.inf)
    for j in range(min(seen, key_counts.shape[0])):
        row = scores[j]
        _weighted_rows_of_four(
            key_weights[j].ctypes.data, key_channels[j].ctypes.data, np.int64(0), np.int64(key_counts[j]), turned.ctypes.data,
            np.float32(0), row.ctypes.data,
        )  # fmt: skip
        for i in range(max(0, min(QUERIES, j - past - first))):  # these queries come before the key
            row[i] = np.float32(-np.inf)
        for i in range(QUERIES):
            top[i] = max(top[i], row[i])
    for i in range(QUERIES):
        mass[i] = _exp(sink - top[i]) if sunk else np.float32(0)
    for j in range(min(seen, key_counts.shape[0])):
        row = scores[j]
        for i in range(QUERIES):
            row[i] = _exp(row[i] - top[i])
            mass[i] += row[i]
        for n in range(value_counts[j]):
            weight, total = value_weights[j, n], sums[value_channels[j, n]]
            for i in range(QUERIES):
                total[i] += weight * row[i]


def attention_kernel(job):
    """q, k, v, out, log-sum-exp (0: not wanted), sink (0: none), heads, queries, keys, d_head, strides of q (batch, head, token), of k and
    v (batch, head, token, channel), of out (batch, head, token), bits of the scale. A chunk is one head of one text; causal, the last
    query sees every key. Keys and values are listed by their nonzeros, which AbsTopK makes few."""
    a = carray(job, (27,))
    heads, queries, keys, d_head = a[8], a[9], a[10], a[11]
    scale = _float_of(np.int32(a[26]))
    past = keys - queries
    padded = (queries + QUERIES - 1) // QUERIES * QUERIES
    scores = np.empty((keys, QUERIES), np.float32)
    turned, sums = np.empty((d_head, QUERIES), np.float32), np.empty((d_head, QUERIES), np.float32)
    top, mass = np.empty(QUERIES, np.float32), np.empty(QUERIES, np.float32)
    own = np.zeros(padded * d_head, np.float32)
    key_lists = (np.empty(keys, np.int32), np.empty((keys, d_head + 1), np.int32), np.empty((keys, d_head + 1), np.float32))
    value_lists = (np.empty(keys, np.int32), np.empty((keys, d_head + 1), np.int32), np.empty((keys, d_head + 1), np.float32))
    while True:
        chunk = _draw(job)
        if chunk >= a[1]:
            return
        b, h = chunk // heads, chunk % heads
        k, v = _floats(a[3] + 4 * (b * a[15] + h * a[16])), _floats(a[4] + 4 * (b * a[19] + h * a[20]))
        q, out = _floats(a[2] + 4 * (b * a[12] + h * a[13])), _floats(a[5] + 4 * (b * a[23] + h * a[24]))
        _list_nonzeros(k, a[17], a[18], keys, d_head, *key_lists)
        _list_nonzeros(v, a[21], a[22], keys, d_head, *value_lists)
        for t in range(queries):
            for c in range(d_head):
                own[t * d_head + c] = q[t * a[14] + c]
        sunk = a[7] != 0
        sink = _floats(a[7])[h] if sunk else np.float32(0)
        for first in range(0, queries, QUERIES):
            _attend_block(
                own, d_head, first, past, scale, sink, sunk, d_head, key_lists, value_lists, scores, turned, sums, top, mass
            )
            for i in range(min(QUERIES, queries - first)):
                for c in range(d_head):
                    out[(first + i) * a[25] + c] = sums[c, i] / mass[i]
            if a[6] != 0:
                lse = _floats(a[6])
                for i in range(min(QUERIES, queries - first)):
                    lse[chunk * queries + first + i] = top[i] + np.log(mass[i])


@_compiled
def _gradient_block(first, keys, values, rows, turned, deltas, lse, key_sums, value_sums, scratch):
    """Adds what QUERIES queries from `first` give to the gradients of keys and values, and leaves their own in turned[2].

    rows = (q, dout) [tokens, wide]; turned = (q * scale, dout, dq) [d_head, QUERIES]; with p the attention's probabilities and
    D = rowsum(dout * out): dv_j = sum_i p_ij dout_i, ds_ij = p_ij (dout_i . v_j - D_i), dq_i = sum_j ds_ij k_j, dk_j = sum_i ds_ij q_i.
    """
    key_counts, key_channels, key_weights = keys
    value_counts, value_channels, value_weights = values
    q_turned, dout_turned, dq_turned = turned
    (p, ds), wide = scratch, key_sums.shape[1]
    for j in range(min(first + QUERIES, key_counts.shape[0])):
        _weighted_rows_of_four(
            key_weights[j].ctypes.data, key_channels[j].ctypes.data, np.int64(0), np.int64(key_counts[j]), q_turned.ctypes.data,
            np.float32(0), p.ctypes.data,
        )  # fmt: skip
        _weighted_rows_of_four(
            value_weights[j].ctypes.data, value_channels[j].ctypes.data, np.int64(0), np.int64(value_counts[j]),
            dout_turned.ctypes.data, np.float32(0), ds.ctypes.data,
        )  # fmt: skip
        for i in range(max(0, min(QUERIES, j - first))):
            p[i] = np.float32(-np.inf)
        for i in range(QUERIES):
            p[i] = _exp(p[i] - lse[first + i])
            ds[i] = p[i] * (ds[i] - deltas[first + i])
        for n in range(key_counts[j]):
            weight, total = key_weights[j, n], dq_turned[key_channels[j, n]]
            for i in range(QUERIES):
                total[i] += weight * ds[i]
        for c in range(0, wide, LANES):
            place = 4 * (first * wide + c)
            _add_weighted_sum(ds.ctypes.data, rows[0].ctypes.data + place, QUERIES, wide, key_sums[j].ctypes.data + 4 * c)
            _add_weighted_sum(p.ctypes.data, rows[1].ctypes.data + place, QUERIES, wide, value_sums[j].ctypes.data + 4 * c)


def attention_gradient_kernel(job):
    """q, k, v, dout, out, log-sum-exp, dq, dk, dv, heads, tokens, d_head, strides of q (batch, head, token), of k and of v (batch, head,
    token, channel), bits of the scale. dout, out, dq, dk, dv are [batch, tokens, heads, d_head]; causal."""
    a = carray(job, (26,))
    heads, tokens, d_head = a[11], a[12], a[13]
    scale = _float_of(np.int32(a[25]))
    padded, wide = (tokens + QUERIES - 1) // QUERIES * QUERIES, (d_head + LANES - 1) // LANES * LANES
    rows = (np.zeros((padded, wide), np.float32), np.zeros((padded, wide), np.float32))
    turned = (
        np.empty((d_head, QUERIES), np.float32), np.empty((d_head, QUERIES), np.float32), np.empty((d_head, QUERIES), np.float32),
    )  # fmt: skip
    deltas, lse = np.zeros(padded, np.float32), np.full(padded, np.float32(np.inf))  # absent queries attend to nothing
    sums = (np.empty((tokens, wide), np.float32), np.empty((tokens, wide), np.float32))
    scratch = (np.empty(QUERIES, np.float32), np.empty(QUERIES, np.float32))
    key_lists = (np.empty(tokens, np.int32), np.empty((tokens, d_head + 1), np.int32), np.empty((tokens, d_head + 1), np.float32))
    value_lists = (np.empty(tokens, np.int32), np.empty((tokens, d_head + 1), np.int32), np.empty((tokens, d_head + 1), np.float32))
    while True:
        chunk = _draw(job)
        if chunk >= a[1]:
            return
        b, h = chunk // heads, chunk % heads
        q = _floats(a[2] + 4 * (b * a[14] + h * a[15]))
        k, v = _floats(a[3] + 4 * (b * a[17] + h * a[18])), _floats(a[4] + 4 * (b * a[21] + h * a[22]))
        place, stride = 4 * (b * tokens * heads + h) * d_head, heads * d_head
        dout, out = _floats(a[5] + place), _floats(a[6] + place)
        _list_nonzeros(k, a[19], a[20], tokens, d_head, *key_lists)
        _list_nonzeros(v, a[23], a[24], tokens, d_head, *value_lists)
        for t in range(tokens):
            lse[t], deltas[t] = _floats(a[7])[chunk * tokens + t], np.float32(0)
            for c in range(d_head):
                rows[0][t, c], rows[1][t, c] = q[t * a[16] + c], dout[t * stride + c]
                deltas[t] += dout[t * stride + c] * out[t * stride + c]
            for c in range(wide):
                sums[0][t, c], sums[1][t, c] = np.float32(0), np.float32(0)
        for first in range(0, tokens, QUERIES):
            for c in range(d_head):
                for i in range(QUERIES):
                    turned[0][c, i], turned[1][c, i] = rows[0][first + i, c] * scale, rows[1][first + i, c]
                    turned[2][c, i] = np.float32(0)
            _gradient_block(first, key_lists, value_lists, rows, turned, deltas, lse, sums[0], sums[1], scratch)
            dq = _floats(a[8] + place)
            for i in range(min(QUERIES, tokens - first)):
                for c in range(d_head):
                    dq[(first + i) * stride + c] = turned[2][c, i] * scale
        dk, dv = _floats(a[9] + place), _floats(a[10] + place)
        for t in range(tokens):
            for c in range(d_head):
                dk[t * stride + c], dv[t * stride + c] = sums[0][t, c] * scale, sums[1][t, c]


@_summing
def _exp_in_place(x, count, top):
    total = np.float32(0)
    for j in range(count):
        x[j] = _exp(x[j] - top)
        total += x[j]
    return total


def attention_of_one_kernel(job):
    """qkv [batch, 3, heads, d_head], keys [batch, heads, d_head, room], values [batch, heads, room, d_head], out [batch, heads, d_head],
    sink (0: none), batch, heads, seen, room, d_head, bits of the scale, heads per chunk.

    One query per text, whose own key and value are stored first, as the last of those seen. Keys lie by channel, so that where the
    query is zero they are never read."""
    a = carray(job, (14,))
    heads, seen, room, d_head, per_chunk = a[8], a[9], a[10], a[11], a[13]
    scale, scores, width = _float_of(np.int32(a[12])), np.empty(seen, np.float32), a[8] * a[11]
    while True:
        chunk = _draw(job)
        if chunk >= a[1]:
            return
        for which in range(chunk * per_chunk, min(a[7] * heads, (chunk + 1) * per_chunk)):  # batch * heads + head
            q = _floats(a[2] + 4 * (which // heads * 3 * width + which % heads * d_head))
            keys, values = _floats(a[3] + 4 * which * d_head * room), _floats(a[4] + 4 * which * d_head * room)
            out = _floats(a[5] + 4 * which * d_head)
            for c in range(d_head):
                keys[c * room + seen - 1] = q[width + c]
                values[(seen - 1) * d_head + c] = q[2 * width + c]
            for j in range(seen):
                scores[j] = np.float32(0)
            for c in range(d_head):
                if q[c] != 0:
                    weight, source = q[c] * scale, keys[c * room : c * room + seen]
                    for j in range(seen):
                        scores[j] += weight * source[j]
            top = _floats(a[6])[which % heads] if a[6] != 0 else np.float32(-np.inf)
            sink = top
            for j in range(seen):
                top = max(top, scores[j])
            mass = _exp_in_place(scores, seen, top)
            if a[6] != 0:
                mass += _exp(sink - top)
            for c in range(d_head):
                out[c] = np.float32(0)
            if d_head % LANES == 0:
                for c in range(0, d_head, LANES):
                    _add_weighted_sum(
                        scores.ctypes.data, a[4] + 4 * (which * d_head * room + c), seen, d_head, a[5] + 4 * (which * d_head + c)
                    )
            else:
                for j in range(seen):
                    for c in range(d_head):
                        out[c] += scores[j] * values[j * d_head + c]
            for c in range(d_head):
                out[c] /= mass


# ------------------------------------------------------------------------------------------------- the two halves of a block

# exp(z * z) * erfc(z) for z >= 0 as a polynomial in 1 / (1 + 0.46 z): a least-squares fit, relative error 9e-9 up to z = 6.6.
_ERFC = (
    -5.48027371e-02, 3.23623331e-01, -7.35912667e-01, 7.34895185e-01, -3.33660121e-01,
    3.55300929e-01, 1.84011087e-01, 2.67807565e-01, 2.58701105e-01, 3.63145449e-05,
)  # fmt: skip
_E0, _E1, _E2, _E3, _E4, _E5, _E6, _E7, _E8, _E9 = (np.float32(value) for value in _ERFC)
_SQRT_HALF, _BEND = np.float32(0.7071067811865476), np.float32(0.46)


@_compiled
def _gelu_row(row, width):
    """Exact (erf) GELU in place."""
    for i in range(width):
        x = row[i]
        z = abs(x) * _SQRT_HALF
        t = np.float32(1) / (np.float32(1) + _BEND * z)
        p = ((((((((_E0 * t + _E1) * t + _E2) * t + _E3) * t + _E4) * t + _E5) * t + _E6) * t + _E7) * t + _E8) * t + _E9
        beyond = np.float32(0.5) * p * _exp(-(z * z))  # the normal distribution's mass beyond |x|
        share = beyond if x < 0 else np.float32(1) - beyond
        row[i] = x * share if share != 0 else np.float32(0)


@_compiled
def _relu_row(row, width):
    for i in range(width):
        row[i] = np.float32(0) if row[i] < 0 else row[i]


@_summing
def _moments(x, width):
    total, squares = np.float32(0), np.float32(0)
    for i in range(width):
        total += x[i]
        squares += x[i] * x[i]
    return total / np.float32(width), squares / np.float32(width)


@_summing
def _variance(x, width, mean):
    total = np.float32(0)
    for i in range(width):
        total += (x[i] - mean) * (x[i] - mean)
    return total / np.float32(width)


@_compiled
def _norm_row(x, width, norm, out):
    """norm = (1: RMSNorm, 2: LayerNorm; bits of eps; addresses of weight and of bias or 0)."""
    mean, square = _moments(x, width)
    if norm[0] == 2:
        square = _variance(x, width, mean)
    else:
        mean = np.float32(0)
    scale = np.float32(1) / np.sqrt(square + _float_of(np.int32(norm[1])))
    weight = _floats(norm[2])
    for i in range(width):
        out[i] = (x[i] - mean) * scale * weight[i]
    if norm[3] != 0:
        bias = _floats(norm[3])
        for i in range(width):
            out[i] += bias[i]


@_compiled
def _normed_input(x, d_model, norm, positions, d_pos, position_norm, k, a, magnitudes, guesses, which):
    """One token: its normalised residual with the normalised position appended, after the site's AbsTopK."""
    _norm_row(x, d_model, norm, a)
    if d_pos > 0:
        _norm_row(positions, d_pos, position_norm, a[d_model:])
    guesses[which] = _top_k_in_place(a, d_model + d_pos, k, magnitudes, guesses[which])


# Words of a block's plan, after the job's first two: sizes (d_model, d_pos, width of q, d_mlp, relu on the residual, MLP activation),
# k of the ten AbsTopK locations, norms (4 words each: attention, its position, MLP, its position), matrices (4 each: c_attn, c_proj,
# c_fc, mlp c_proj); then what changes from call to call: x, positions (0: none) and their stride, tokens, in, out.
PLAN_SIZES, PLAN_KS, PLAN_NORMS, PLAN_MATRICES, PLAN_CALL, PLAN_WORDS = 2, 8, 18, 34, 50, 56


def before_attention_kernel(job):
    """Residual stream x [tokens, d_model] -> q, k, v side by side [tokens, 3 * width], each after its AbsTopK."""
    a = carray(job, (PLAN_WORDS,))
    d_model, d_pos, width = a[PLAN_SIZES], a[PLAN_SIZES + 1], a[PLAN_SIZES + 2]
    x, positions, stride = _floats(a[PLAN_CALL]), _floats(a[PLAN_CALL + 1]), a[PLAN_CALL + 2]
    tokens, qkv = a[PLAN_CALL + 3], _floats(a[PLAN_CALL + 5])
    wide = d_model + d_pos
    inputs = np.empty((LANES, wide), np.float32)
    lanes, sums = np.empty((wide if tokens > 1 else 1) * LANES, np.float32), np.empty(LANES * LANES, np.float32)
    magnitudes = np.empty(max(wide, width), np.int32)
    while True:
        chunk = _draw(job)
        if chunk >= a[1]:
            return
        first = chunk * LANES
        count = min(LANES, tokens - first)
        guesses = np.full(4, _NO_GUESS, np.int64)
        for t in range(count):
            _normed_input(
                x[(first + t) * d_model :], d_model, a[PLAN_NORMS : PLAN_NORMS + 4], positions[(first + t) * stride :], d_pos,
                a[PLAN_NORMS + 4 : PLAN_NORMS + 8], a[PLAN_KS], inputs[t], magnitudes, guesses, 0,
            )  # fmt: skip
        out = qkv[first * 3 * width :]
        _product_rows(
            inputs.ctypes.data, count, wide, a[PLAN_MATRICES : PLAN_MATRICES + 4], 3 * width, a[PLAN_CALL + 5] + 12 * first * width,
            3 * width, lanes.ctypes.data, LANES, sums.ctypes.data,
        )  # fmt: skip
        for t in range(count):
            for which in range(3):
                row = out[(3 * t + which) * width :]
                guesses[1 + which] = _top_k_in_place(row, width, a[PLAN_KS + 1 + which], magnitudes, guesses[1 + which])


@_compiled
def _add_to_residual(x, delta, width, relu, k, out, magnitudes, guess):
    for i in range(width):
        out[i] = x[i] + delta[i]
    if relu != 0:
        _relu_row(out, width)
    return _top_k_in_place(out, width, k, magnitudes, guess)


def after_attention_kernel(job):
    """Attention's output [tokens, width] and the residual stream before it -> the residual stream after the block."""
    a = carray(job, (PLAN_WORDS,))
    d_model, d_pos, width = a[PLAN_SIZES], a[PLAN_SIZES + 1], a[PLAN_SIZES + 2]
    d_mlp, relu, activation = a[PLAN_SIZES + 3], a[PLAN_SIZES + 4], a[PLAN_SIZES + 5]
    x, positions, stride = _floats(a[PLAN_CALL]), _floats(a[PLAN_CALL + 1]), a[PLAN_CALL + 2]
    tokens, y, out = a[PLAN_CALL + 3], a[PLAN_CALL + 4], _floats(a[PLAN_CALL + 5])
    wide, ks, matrices = d_model + d_pos, a[PLAN_KS:PLAN_NORMS], a[PLAN_MATRICES:PLAN_CALL]
    widest = max(wide, width, d_mlp)
    deltas, inputs = np.empty((LANES, d_model), np.float32), np.empty((LANES, wide), np.float32)
    hidden, sums = np.empty((LANES, d_mlp), np.float32), np.empty(LANES * LANES, np.float32)
    lanes = np.empty((widest if tokens > 1 else 1) * LANES, np.float32)
    magnitudes = np.empty(widest, np.int32)
    while True:
        chunk = _draw(job)
        if chunk >= a[1]:
            return
        first = chunk * LANES
        count = min(LANES, tokens - first)
        guesses = np.full(6, _NO_GUESS, np.int64)
        # Addresses are taken anew for each chunk: an array lives until its last mention.
        lanes_at, sums_at = lanes.ctypes.data, sums.ctypes.data
        _product_rows(
            y + 4 * first * width, count, width, matrices[4:8], d_model, deltas.ctypes.data, d_model, lanes_at, LANES, sums_at
        )
        for t in range(count):
            guesses[0] = _top_k_in_place(deltas[t], d_model, ks[4], magnitudes, guesses[0])
            middle = out[(first + t) * d_model :]
            source = x[(first + t) * d_model :]
            guesses[1] = _add_to_residual(source, deltas[t], d_model, relu, ks[5], middle, magnitudes, guesses[1])
            _normed_input(
                middle, d_model, a[PLAN_NORMS + 8 : PLAN_NORMS + 12], positions[(first + t) * stride :], d_pos,
                a[PLAN_NORMS + 12 : PLAN_NORMS + 16], ks[6], inputs[t], magnitudes, guesses, 2,
            )  # fmt: skip
        _product_rows(inputs.ctypes.data, count, wide, matrices[8:12], d_mlp, hidden.ctypes.data, d_mlp, lanes_at, LANES, sums_at)
        for t in range(count):
            if activation == 1:
                _gelu_row(hidden[t], d_mlp)
            elif activation == 2:
                _relu_row(hidden[t], d_mlp)
            guesses[3] = _top_k_in_place(hidden[t], d_mlp, ks[7], magnitudes, guesses[3])
        _product_rows(
            hidden.ctypes.data, count, d_mlp, matrices[12:16], d_model, deltas.ctypes.data, d_model, lanes_at, LANES, sums_at
        )
        for t in range(count):
            guesses[4] = _top_k_in_place(deltas[t], d_model, ks[8], magnitudes, guesses[4])
            middle = out[(first + t) * d_model :]
            guesses[5] = _add_to_residual(middle, deltas[t], d_model, relu, ks[9], middle, magnitudes, guesses[5])


KERNELS = {
    kernel.__name__.removesuffix("_kernel"): kernel
    for kernel in (
        abs_topk_kernel, masked_kernel, product_kernel, value_gradient_kernel, embedding_kernel,
        attention_kernel, attention_gradient_kernel, attention_of_one_kernel, before_attention_kernel, after_attention_kernel,
    )
}  # fmt: skip
