"""The two halves of a block, before and after attention, each in one pass over its tokens."""

from __future__ import annotations

import numpy as np

from .attention import exp
from .jit import compiled, draw, float_of, floats, summing, words
from .jobs import CHUNKS, FIRST, length, positions, record
from .products import Matrix, product_rows
from .run import LANES
from .topk import NO_GUESS, top_k_in_place

# exp(z * z) * erfc(z) for z >= 0 as a polynomial in 1 / (1 + 0.46 z): a least-squares fit, relative error 9e-9 up to z = 6.6.
_ERFC = (
    -5.48027371e-02, 3.23623331e-01, -7.35912667e-01, 7.34895185e-01, -3.33660121e-01,
    3.55300929e-01, 1.84011087e-01, 2.67807565e-01, 2.58701105e-01, 3.63145449e-05,
)  # fmt: skip
_E0, _E1, _E2, _E3, _E4, _E5, _E6, _E7, _E8, _E9 = (np.float32(value) for value in _ERFC)
_TWICE, _CUBED = np.float32(1.5957691216057308), np.float32(0.044715)  # 2 sqrt(2 / pi)
_SQRT_HALF, _BEND = np.float32(0.7071067811865476), np.float32(0.46)


@compiled
def _gelu_row(row, width):
    """Exact (erf) GELU in place."""
    for i in range(width):
        x = row[i]
        z = abs(x) * _SQRT_HALF
        t = np.float32(1) / (np.float32(1) + _BEND * z)
        p = ((((((((_E0 * t + _E1) * t + _E2) * t + _E3) * t + _E4) * t + _E5) * t + _E6) * t + _E7) * t + _E8) * t + _E9
        beyond = np.float32(0.5) * p * exp(-(z * z))  # the normal distribution's mass beyond |x|
        share = beyond if x < 0 else np.float32(1) - beyond
        row[i] = x * share if share != 0 else np.float32(0)


@compiled
def _gelu_tanh_row(row, width):
    """GELU by tanh, in place: x times the logistic function of twice tanh's argument."""
    for i in range(width):
        x = row[i]
        twice = _TWICE * (x + _CUBED * x * x * x)
        small = exp(-abs(twice))
        share = (small if twice < 0 else np.float32(1)) / (np.float32(1) + small)
        row[i] = x * share if share != 0 else np.float32(0)


@compiled
def _relu_row(row, width):
    for i in range(width):
        row[i] = np.float32(0) if row[i] < 0 else row[i]


GELU, RELU, GELU_TANH = 1, 2, 3


@compiled
def _activate_row(row, width, activation):
    if activation == GELU:
        _gelu_row(row, width)
    elif activation == RELU:
        _relu_row(row, width)
    elif activation == GELU_TANH:
        _gelu_tanh_row(row, width)


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


# kind: 0: there is none; bias: or 0.
Norm = record("Norm", "kind eps_bits weight bias")


N = positions(Norm, first=0)
RMS_NORM, LAYER_NORM = 1, 2


@compiled
def _norm_row(x, width, norm, out):
    mean, square = _moments(x, width)
    if norm[N.kind] == LAYER_NORM:
        square = _variance(x, width, mean)
    else:
        mean = np.float32(0)
    scale = np.float32(1) / np.sqrt(square + float_of(np.int32(norm[N.eps_bits])))
    weight = floats(norm[N.weight])
    for i in range(width):
        out[i] = (x[i] - mean) * scale * weight[i]
    if norm[N.bias] != 0:
        bias = floats(norm[N.bias])
        for i in range(width):
            out[i] += bias[i]


@compiled
def _normed_input(x, d_model, norm, places, d_pos, position_norm, k, a, magnitudes, guesses, which):
    """One token: its normalised residual with the normalised position appended, after the site's AbsTopK."""
    _norm_row(x, d_model, norm, a)
    if d_pos > 0:
        _norm_row(places, d_pos, position_norm, a[d_model:])
    guesses[which] = top_k_in_place(a, d_model + d_pos, k, magnitudes, guesses[which])


# k of each AbsTopK location that these kernels apply; blocks with another at work are left to their modules (`fused.py`).
Kept = record("Kept", "attn_in attn_q attn_k attn_v attn_out resid_post_attn mlp_in mlp_neuron mlp_out resid_post_mlp")


# What stays from call to call. width: of q; relu: whether it acts on the residual stream.
BlockPlan = record(
    "BlockPlan",
    "d_model d_pos width d_mlp relu activation kept attn_norm attn_pos_norm mlp_norm mlp_pos_norm c_attn "
    "attn_proj c_fc mlp_proj",
    kept=Kept,
    attn_norm=Norm,
    attn_pos_norm=Norm,
    mlp_norm=Norm,
    mlp_pos_norm=Norm,
    c_attn=Matrix,
    attn_proj=Matrix,
    c_fc=Matrix,
    mlp_proj=Matrix,
)


# What changes: the residual stream x [tokens, d_model], positions with their stride, the input and the output of a half.
BlockCall = record("BlockCall", "x positions positions_stride tokens source out")


P, C, K = positions(BlockPlan), positions(BlockCall, FIRST + length(BlockPlan)), positions(Kept, first=0)


def before_attention_kernel(job):
    """The residual stream -> out: q, k, v side by side [tokens, 3 * width], each after its AbsTopK."""
    a = words(job)
    d_model, d_pos, width, kept = a[P.d_model], a[P.d_pos], a[P.width], a[P.kept :]
    x, places, stride = floats(a[C.x]), floats(a[C.positions]), a[C.positions_stride]
    tokens, qkv = a[C.tokens], floats(a[C.out])
    wide = d_model + d_pos
    inputs = np.empty((LANES, wide), np.float32)
    lanes, sums = np.empty((wide if tokens > 1 else 1) * LANES, np.float32), np.empty(LANES * LANES, np.float32)
    magnitudes, guesses = np.empty(max(wide, width), np.int32), np.empty(4, np.int64)
    while True:
        chunk = draw(job)
        if chunk >= a[CHUNKS]:
            return
        first = chunk * LANES
        count = min(LANES, tokens - first)
        guesses[:] = NO_GUESS
        for t in range(count):
            _normed_input(
                x[(first + t) * d_model :], d_model, a[P.attn_norm :], places[(first + t) * stride :], d_pos, a[P.attn_pos_norm :],
                kept[K.attn_in], inputs[t], magnitudes, guesses, 0,
            )  # fmt: skip
        out = qkv[first * 3 * width :]
        product_rows(
            inputs.ctypes.data, count, wide, a[P.c_attn :], 3 * width, a[C.out] + 12 * first * width, 3 * width, lanes.ctypes.data,
            LANES, sums.ctypes.data,
        )  # fmt: skip
        for t in range(count):
            row = out[3 * t * width :]
            guesses[1] = top_k_in_place(row, width, kept[K.attn_q], magnitudes, guesses[1])
            guesses[2] = top_k_in_place(row[width:], width, kept[K.attn_k], magnitudes, guesses[2])
            guesses[3] = top_k_in_place(row[2 * width :], width, kept[K.attn_v], magnitudes, guesses[3])


@compiled
def _add_to_residual(x, delta, width, relu, k, out, magnitudes, guess):
    for i in range(width):
        out[i] = x[i] + delta[i]
    if relu != 0:
        _relu_row(out, width)
    return top_k_in_place(out, width, k, magnitudes, guess)


def after_attention_kernel(job):
    """source: attention's output [tokens, width], and the residual stream before it -> out: the residual stream after the block."""
    a = words(job)
    d_model, d_pos, width, kept = a[P.d_model], a[P.d_pos], a[P.width], a[P.kept :]
    d_mlp, relu, activation = a[P.d_mlp], a[P.relu], a[P.activation]
    x, places, stride = floats(a[C.x]), floats(a[C.positions]), a[C.positions_stride]
    tokens, y, out = a[C.tokens], a[C.source], floats(a[C.out])
    wide = d_model + d_pos
    widest = max(wide, width, d_mlp)
    deltas, inputs = np.empty((LANES, d_model), np.float32), np.empty((LANES, wide), np.float32)
    hidden, sums = np.empty((LANES, d_mlp), np.float32), np.empty(LANES * LANES, np.float32)
    lanes = np.empty((widest if tokens > 1 else 1) * LANES, np.float32)
    magnitudes, guesses = np.empty(widest, np.int32), np.empty(6, np.int64)
    while True:
        chunk = draw(job)
        if chunk >= a[CHUNKS]:
            return
        first = chunk * LANES
        count = min(LANES, tokens - first)
        guesses[:] = NO_GUESS
        # Addresses are taken anew for each chunk: an array lives until its last mention.
        lanes_at, sums_at, deltas_at, hidden_at = lanes.ctypes.data, sums.ctypes.data, deltas.ctypes.data, hidden.ctypes.data
        source = y + 4 * first * width
        product_rows(source, count, width, a[P.attn_proj :], d_model, deltas_at, d_model, lanes_at, LANES, sums_at)
        for t in range(count):
            guesses[0] = top_k_in_place(deltas[t], d_model, kept[K.attn_out], magnitudes, guesses[0])
            middle, before = out[(first + t) * d_model :], x[(first + t) * d_model :]
            guesses[1] = _add_to_residual(
                before, deltas[t], d_model, relu, kept[K.resid_post_attn], middle, magnitudes, guesses[1]
            )
            _normed_input(
                middle, d_model, a[P.mlp_norm :], places[(first + t) * stride :], d_pos, a[P.mlp_pos_norm :], kept[K.mlp_in],
                inputs[t], magnitudes, guesses, 2,
            )  # fmt: skip
        product_rows(inputs.ctypes.data, count, wide, a[P.c_fc :], d_mlp, hidden_at, d_mlp, lanes_at, LANES, sums_at)
        for t in range(count):
            _activate_row(hidden[t], d_mlp, activation)
            guesses[3] = top_k_in_place(hidden[t], d_mlp, kept[K.mlp_neuron], magnitudes, guesses[3])
        product_rows(hidden_at, count, d_mlp, a[P.mlp_proj :], d_model, deltas_at, d_model, lanes_at, LANES, sums_at)
        for t in range(count):
            guesses[4] = top_k_in_place(deltas[t], d_model, kept[K.mlp_out], magnitudes, guesses[4])
            middle = out[(first + t) * d_model :]
            guesses[5] = _add_to_residual(
                middle, deltas[t], d_model, relu, kept[K.resid_post_mlp], middle, magnitudes, guesses[5]
            )
