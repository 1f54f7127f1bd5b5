"""CPU kernels in Numba, continued: attention with a sink, its gradient, and the two halves of a block. See `kernels_csp.py`."""

from __future__ import annotations

import numpy as np

try:
    from numba import carray
except ImportError:
    raise

from .kernels_csp import (
    LANES,
    NO_GUESS,
    QUERIES,
    add_weighted_sum,
    bits_of,
    compiled,
    draw,
    float_of,
    floats,
    product_rows,
    summing,
    top_k_in_place,
    weighted_rows_of_four,
)

# -------------------------------------------------------------------------------------------------------------- attention

_LOG2E, _LN2_HIGH, _LN2_LOW = np.float32(1.4426950408889634), np.float32(0.693359375), np.float32(-2.12194440e-4)
_ROUND = np.float32(12582912.0)  # 1.5 * 2**23: adding it rounds to a whole number, whose bits then stand at the end
_ROUND_BITS = np.int32(0x4B400000)


@compiled
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
    scale = float_of(np.int32(np.int32(bits_of(shifted) - _ROUND_BITS) + np.int32(127)) << np.int32(23))
    return np.float32(0) if x < np.float32(-87) else p * scale


@compiled
def _list_nonzeros(x, token_stride, channel_stride, tokens, d_head, counts, channels, weights):
    for t in range(tokens):
        count = 0
        for c in range(d_head):
            value = x[t * token_stride + c * channel_stride]
            channels[t, count] = c
            weights[t, count] = value
            count += value != 0
        counts[t] = count


@compiled
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
        weighted_rows_of_four(
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
    scale = float_of(np.int32(a[26]))
    past = keys - queries
    padded = (queries + QUERIES - 1) // QUERIES * QUERIES
    scores = np.empty((keys, QUERIES), np.float32)
    turned, sums = np.empty((d_head, QUERIES), np.float32), np.empty((d_head, QUERIES), np.float32)
    top, mass = np.empty(QUERIES, np.float32), np.empty(QUERIES, np.float32)
    own = np.zeros(padded * d_head, np.float32)
    key_lists = (np.empty(keys, np.int32), np.empty((keys, d_head + 1), np.int32), np.empty((keys, d_head + 1), np.float32))
    value_lists = (np.empty(keys, np.int32), np.empty((keys, d_head + 1), np.int32), np.empty((keys, d_head + 1), np.float32))
    while True:
        chunk = draw(job)
        if chunk >= a[1]:
            return
        b, h = chunk // heads, chunk % heads
        k, v = floats(a[3] + 4 * (b * a[15] + h * a[16])), floats(a[4] + 4 * (b * a[19] + h * a[20]))
        q, out = floats(a[2] + 4 * (b * a[12] + h * a[13])), floats(a[5] + 4 * (b * a[23] + h * a[24]))
        _list_nonzeros(k, a[17], a[18], keys, d_head, *key_lists)
        _list_nonzeros(v, a[21], a[22], keys, d_head, *value_lists)
        for t in range(queries):
            for c in range(d_head):
                own[t * d_head + c] = q[t * a[14] + c]
        sunk = a[7] != 0
        sink = floats(a[7])[h] if sunk else np.float32(0)
        for first in range(0, queries, QUERIES):
            _attend_block(
                own, d_head, first, past, scale, sink, sunk, d_head, key_lists, value_lists, scores, turned, sums, top, mass
            )
            for i in range(min(QUERIES, queries - first)):
                for c in range(d_head):
                    out[(first + i) * a[25] + c] = sums[c, i] / mass[i]
            if a[6] != 0:
                lse = floats(a[6])
                for i in range(min(QUERIES, queries - first)):
                    lse[chunk * queries + first + i] = top[i] + np.log(mass[i])


@compiled
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
        weighted_rows_of_four(
            key_weights[j].ctypes.data, key_channels[j].ctypes.data, np.int64(0), np.int64(key_counts[j]), q_turned.ctypes.data,
            np.float32(0), p.ctypes.data,
        )  # fmt: skip
        weighted_rows_of_four(
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
            add_weighted_sum(ds.ctypes.data, rows[0].ctypes.data + place, QUERIES, wide, key_sums[j].ctypes.data + 4 * c)
            add_weighted_sum(p.ctypes.data, rows[1].ctypes.data + place, QUERIES, wide, value_sums[j].ctypes.data + 4 * c)


def attention_gradient_kernel(job):
    """q, k, v, dout, out, log-sum-exp, dq, dk, dv, heads, tokens, d_head, strides of q (batch, head, token), of k and of v (batch, head,
    token, channel), bits of the scale. dout, out, dq, dk, dv are [batch, tokens, heads, d_head]; causal."""
    a = carray(job, (26,))
    heads, tokens, d_head = a[11], a[12], a[13]
    scale = float_of(np.int32(a[25]))
    padded, wide = (tokens + QUERIES - 1) // QUERIES * QUERIES, (d_head + LANES - 1) // LANES * LANES
    rows = (np.zeros((padded, wide), np.float32), np.zeros((padded, wide), np.float32))
    turned = (
        np.empty((d_head, QUERIES), np.float32), np.empty((d_head, QUERIES), np.float32), np.empty((d_head, QUERIES), np.float32),
    )  # fmt: skip
    deltas, lse = np.zeros(padded, np.float32), np.full(padded, np.float32(np.inf))  # absent queries attend to nothing
    sums = (np.empty((tokens, wide), np.float32), np.empty((tokens, wide), np.float32))
    scratch = (np.empty(QUERIES, np.float32), np.empty(QUERIES, np.float32))
    key_lists = (
        np.empty(tokens, np.int32),
        np.empty((tokens, d_head + 1), np.int32),
        np.empty((tokens, d_head + 1), np.float32),
    )
    value_lists = (
        np.empty(tokens, np.int32),
        np.empty((tokens, d_head + 1), np.int32),
        np.empty((tokens, d_head + 1), np.float32),
    )
    while True:
        chunk = draw(job)
        if chunk >= a[1]:
            return
        b, h = chunk // heads, chunk % heads
        q = floats(a[2] + 4 * (b * a[14] + h * a[15]))
        k, v = floats(a[3] + 4 * (b * a[17] + h * a[18])), floats(a[4] + 4 * (b * a[21] + h * a[22]))
        place, stride = 4 * (b * tokens * heads + h) * d_head, heads * d_head
        dout, out = floats(a[5] + place), floats(a[6] + place)
        _list_nonzeros(k, a[19], a[20], tokens, d_head, *key_lists)
        _list_nonzeros(v, a[23], a[24], tokens, d_head, *value_lists)
        for t in range(tokens):
            lse[t], deltas[t] = floats(a[7])[chunk * tokens + t], np.float32(0)
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
            dq = floats(a[8] + place)
            for i in range(min(QUERIES, tokens - first)):
                for c in range(d_head):
                    dq[(first + i) * stride + c] = turned[2][c, i] * scale
        dk, dv = floats(a[9] + place), floats(a[10] + place)
        for t in range(tokens):
            for c in range(d_head):
                dk[t * stride + c], dv[t * stride + c] = sums[0][t, c] * scale, sums[1][t, c]


@summing
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
    scale, scores, width = float_of(np.int32(a[12])), np.empty(seen, np.float32), a[8] * a[11]
    while True:
        chunk = draw(job)
        if chunk >= a[1]:
            return
        for which in range(chunk * per_chunk, min(a[7] * heads, (chunk + 1) * per_chunk)):  # batch * heads + head
            q = floats(a[2] + 4 * (which // heads * 3 * width + which % heads * d_head))
            keys, values = floats(a[3] + 4 * which * d_head * room), floats(a[4] + 4 * which * d_head * room)
            out = floats(a[5] + 4 * which * d_head)
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
            top = floats(a[6])[which % heads] if a[6] != 0 else np.float32(-np.inf)
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
                    add_weighted_sum(
                        scores.ctypes.data,
                        a[4] + 4 * (which * d_head * room + c),
                        seen,
                        d_head,
                        a[5] + 4 * (which * d_head + c),
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


@compiled
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


@compiled
def _relu_row(row, width):
    for i in range(width):
        row[i] = np.float32(0) if row[i] < 0 else row[i]


@summing
def _moments(x, width):
    total, squares = np.float32(0), np.float32(0)
    for i in range(width):
        total += x[i]
        squares += x[i] * x[i]
    return total / np.float32(width), squares / np.float32(width)


@summing
def _variance(x, width, mean):
    total = np.float32(0)
    for i in range(width):
        total += (x[i] - mean) * (x[i] - mean)
    return total / np.float32(width)


@compiled
def _norm_row(x, width, norm, out):
    """norm = (1: RMSNorm, 2: LayerNorm; bits of eps; addresses of weight and of bias or 0)."""
    mean, square = _moments(x, width)
    if norm[0] == 2:
        square = _variance(x, width, mean)
    else:
        mean = np.float32(0)
    scale = np.float32(1) / np.sqrt(square + float_of(np.int32(norm[1])))
    weight = floats(norm[2])
    for i in range(width):
        out[i] = (x[i] - mean) * scale * weight[i]
    if norm[3] != 0:
        bias = floats(norm[3])
        for i in range(width):
            out[i] += bias[i]


@compiled
def _normed_input(x, d_model, norm, positions, d_pos, position_norm, k, a, magnitudes, guesses, which):
    """One token: its normalised residual with the normalised position appended, after the site's AbsTopK."""
    _norm_row(x, d_model, norm, a)
    if d_pos > 0:
        _norm_row(positions, d_pos, position_norm, a[d_model:])
    guesses[which] = top_k_in_place(a, d_model + d_pos, k, magnitudes, guesses[which])


# Words of a block's plan, after the job's first two: sizes (d_model, d_pos, width of q, d_mlp, relu on the residual, MLP activation),
# k of the ten AbsTopK locations, norms (4 words each: attention, its position, MLP, its position), matrices (4 each: c_attn, c_proj,
# c_fc, mlp c_proj); then what changes from call to call: x, positions (0: none) and their stride, tokens, in, out.
PLAN_SIZES, PLAN_KS, PLAN_NORMS, PLAN_MATRICES, PLAN_CALL, PLAN_WORDS = 2, 8, 18, 34, 50, 56


def before_attention_kernel(job):
    """Residual stream x [tokens, d_model] -> q, k, v side by side [tokens, 3 * width], each after its AbsTopK."""
    a = carray(job, (PLAN_WORDS,))
    d_model, d_pos, width = a[PLAN_SIZES], a[PLAN_SIZES + 1], a[PLAN_SIZES + 2]
    x, positions, stride = floats(a[PLAN_CALL]), floats(a[PLAN_CALL + 1]), a[PLAN_CALL + 2]
    tokens, qkv = a[PLAN_CALL + 3], floats(a[PLAN_CALL + 5])
    wide = d_model + d_pos
    inputs = np.empty((LANES, wide), np.float32)
    lanes, sums = np.empty((wide if tokens > 1 else 1) * LANES, np.float32), np.empty(LANES * LANES, np.float32)
    magnitudes, guesses = np.empty(max(wide, width), np.int32), np.empty(4, np.int64)
    while True:
        chunk = draw(job)
        if chunk >= a[1]:
            return
        first = chunk * LANES
        count = min(LANES, tokens - first)
        guesses[:] = NO_GUESS
        for t in range(count):
            _normed_input(
                x[(first + t) * d_model :], d_model, a[PLAN_NORMS : PLAN_NORMS + 4], positions[(first + t) * stride :], d_pos,
                a[PLAN_NORMS + 4 : PLAN_NORMS + 8], a[PLAN_KS], inputs[t], magnitudes, guesses, 0,
            )  # fmt: skip
        out = qkv[first * 3 * width :]
        product_rows(
            inputs.ctypes.data, count, wide, a[PLAN_MATRICES : PLAN_MATRICES + 4], 3 * width, a[PLAN_CALL + 5] + 12 * first * width,
            3 * width, lanes.ctypes.data, LANES, sums.ctypes.data,
        )  # fmt: skip
        for t in range(count):
            for which in range(3):
                row = out[(3 * t + which) * width :]
                guesses[1 + which] = top_k_in_place(row, width, a[PLAN_KS + 1 + which], magnitudes, guesses[1 + which])


@compiled
def _add_to_residual(x, delta, width, relu, k, out, magnitudes, guess):
    for i in range(width):
        out[i] = x[i] + delta[i]
    if relu != 0:
        _relu_row(out, width)
    return top_k_in_place(out, width, k, magnitudes, guess)


def after_attention_kernel(job):
    """Attention's output [tokens, width] and the residual stream before it -> the residual stream after the block."""
    a = carray(job, (PLAN_WORDS,))
    d_model, d_pos, width = a[PLAN_SIZES], a[PLAN_SIZES + 1], a[PLAN_SIZES + 2]
    d_mlp, relu, activation = a[PLAN_SIZES + 3], a[PLAN_SIZES + 4], a[PLAN_SIZES + 5]
    x, positions, stride = floats(a[PLAN_CALL]), floats(a[PLAN_CALL + 1]), a[PLAN_CALL + 2]
    tokens, y, out = a[PLAN_CALL + 3], a[PLAN_CALL + 4], floats(a[PLAN_CALL + 5])
    wide, ks, matrices = d_model + d_pos, a[PLAN_KS:PLAN_NORMS], a[PLAN_MATRICES:PLAN_CALL]
    widest = max(wide, width, d_mlp)
    deltas, inputs = np.empty((LANES, d_model), np.float32), np.empty((LANES, wide), np.float32)
    hidden, sums = np.empty((LANES, d_mlp), np.float32), np.empty(LANES * LANES, np.float32)
    lanes = np.empty((widest if tokens > 1 else 1) * LANES, np.float32)
    magnitudes, guesses = np.empty(widest, np.int32), np.empty(6, np.int64)
    while True:
        chunk = draw(job)
        if chunk >= a[1]:
            return
        first = chunk * LANES
        count = min(LANES, tokens - first)
        guesses[:] = NO_GUESS
        # Addresses are taken anew for each chunk: an array lives until its last mention.
        lanes_at, sums_at = lanes.ctypes.data, sums.ctypes.data
        product_rows(
            y + 4 * first * width, count, width, matrices[4:8], d_model, deltas.ctypes.data, d_model, lanes_at, LANES, sums_at
        )
        for t in range(count):
            guesses[0] = top_k_in_place(deltas[t], d_model, ks[4], magnitudes, guesses[0])
            middle = out[(first + t) * d_model :]
            source = x[(first + t) * d_model :]
            guesses[1] = _add_to_residual(source, deltas[t], d_model, relu, ks[5], middle, magnitudes, guesses[1])
            _normed_input(
                middle, d_model, a[PLAN_NORMS + 8 : PLAN_NORMS + 12], positions[(first + t) * stride :], d_pos,
                a[PLAN_NORMS + 12 : PLAN_NORMS + 16], ks[6], inputs[t], magnitudes, guesses, 2,
            )  # fmt: skip
        product_rows(
            inputs.ctypes.data, count, wide, matrices[8:12], d_mlp, hidden.ctypes.data, d_mlp, lanes_at, LANES, sums_at
        )
        for t in range(count):
            if activation == 1:
                _gelu_row(hidden[t], d_mlp)
            elif activation == 2:
                _relu_row(hidden[t], d_mlp)
            guesses[3] = top_k_in_place(hidden[t], d_mlp, ks[7], magnitudes, guesses[3])
        product_rows(
            hidden.ctypes.data, count, d_mlp, matrices[12:16], d_model, deltas.ctypes.data, d_model, lanes_at, LANES, sums_at
        )
        for t in range(count):
            guesses[4] = top_k_in_place(deltas[t], d_model, ks[8], magnitudes, guesses[4])
            middle = out[(first + t) * d_model :]
            guesses[5] = _add_to_residual(middle, deltas[t], d_model, relu, ks[9], middle, magnitudes, guesses[5])


BLOCK_KERNELS = {
    "attention": attention_kernel,
    "attention_gradient": attention_gradient_kernel,
    "attention_of_one": attention_of_one_kernel,
    "before_attention": before_attention_kernel,
    "after_attention": after_attention_kernel,
}
