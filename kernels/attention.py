"""Causal attention with a sink on CPU, its gradient, and that of one new token per text: the kernels, and the call."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .compact import packed, unpacked
from .jit import (
    add_weighted_sum,
    bits_of,
    compiled,
    draw,
    float_bits,
    float_of,
    floats,
    summing,
    weighted_rows_of_four,
    words,
)
from .jobs import CHUNKS, flat, positions, record
from .run import LANES, run

QUERIES = 64  # queries that are handled side by side

_LOG2E, _LN2_HIGH, _LN2_LOW = np.float32(1.4426950408889634), np.float32(0.693359375), np.float32(-2.12194440e-4)
_ROUND = np.float32(12582912.0)  # 1.5 * 2**23: adding it rounds to a whole number, whose bits then stand at the end
_ROUND_BITS = np.int32(0x4B400000)


@compiled
def exp(x):
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
        mass[i] = exp(sink - top[i]) if sunk else np.float32(0)
    for j in range(min(seen, key_counts.shape[0])):
        row = scores[j]
        for i in range(QUERIES):
            row[i] = exp(row[i] - top[i])
            mass[i] += row[i]
        for n in range(value_counts[j]):
            weight, total = value_weights[j, n], sums[value_channels[j, n]]
            for i in range(QUERIES):
                total[i] += weight * row[i]


# Of a tensor [batch, heads, tokens, channels], in floats.
Strides = record("Strides", "batch head token channel")


S = positions(Strides, first=0)


# q, k, v, out [batch, heads, tokens, d_head]; log_sums: log-sum-exp [batch, heads, queries], or 0 where it is not wanted; sink
# [heads], or 0.  A chunk is one head of one text; causal, the last query sees every key. Keys and values are listed by their
# nonzeros, which AbsTopK makes few. The channels of q lie side by side.
AttentionJob = record(
    "AttentionJob",
    "q k v out log_sums sink heads queries keys d_head of_q of_k of_v of_out scale_bits",
    of_q=Strides,
    of_k=Strides,
    of_v=Strides,
    of_out=Strides,
)


ATTENTION = positions(AttentionJob)


@compiled
def _place(address, strides, b, h):
    """The first float of a head of a text."""
    return floats(address + 4 * (b * strides[S.batch] + h * strides[S.head]))


def attention_kernel(job):
    a = words(job)
    heads, queries, keys, d_head = a[ATTENTION.heads], a[ATTENTION.queries], a[ATTENTION.keys], a[ATTENTION.d_head]
    of_q, of_k, of_v, of_out = a[ATTENTION.of_q :], a[ATTENTION.of_k :], a[ATTENTION.of_v :], a[ATTENTION.of_out :]
    scale, sunk = float_of(np.int32(a[ATTENTION.scale_bits])), a[ATTENTION.sink] != 0
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
        if chunk >= a[CHUNKS]:
            return
        b, h = chunk // heads, chunk % heads
        q, k = _place(a[ATTENTION.q], of_q, b, h), _place(a[ATTENTION.k], of_k, b, h)
        v, out = _place(a[ATTENTION.v], of_v, b, h), _place(a[ATTENTION.out], of_out, b, h)
        _list_nonzeros(k, of_k[S.token], of_k[S.channel], keys, d_head, *key_lists)
        _list_nonzeros(v, of_v[S.token], of_v[S.channel], keys, d_head, *value_lists)
        for t in range(queries):
            for c in range(d_head):
                own[t * d_head + c] = q[t * of_q[S.token] + c]
        sink = floats(a[ATTENTION.sink])[h] if sunk else np.float32(0)
        for first in range(0, queries, QUERIES):
            _attend_block(
                own, d_head, first, past, scale, sink, sunk, d_head, key_lists, value_lists, scores, turned, sums, top, mass
            )
            for i in range(min(QUERIES, queries - first)):
                for c in range(d_head):
                    out[(first + i) * of_out[S.token] + c] = sums[c, i] / mass[i]
            if a[ATTENTION.log_sums] != 0:
                log_sums = floats(a[ATTENTION.log_sums])
                for i in range(min(QUERIES, queries - first)):
                    log_sums[chunk * queries + first + i] = top[i] + np.log(mass[i])


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
    own_lse, own_deltas = (
        lse[first : first + QUERIES],
        deltas[first : first + QUERIES],
    )  # an index that is a sum would not become vector instructions
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
            p[i] = exp(p[i] - own_lse[i])
            ds[i] = p[i] * (ds[i] - own_deltas[i])
        for n in range(key_counts[j]):
            weight, total = key_weights[j, n], dq_turned[key_channels[j, n]]
            for i in range(QUERIES):
                total[i] += weight * ds[i]
        for c in range(0, wide, LANES):
            place = 4 * (first * wide + c)
            add_weighted_sum(ds.ctypes.data, rows[0].ctypes.data + place, QUERIES, wide, key_sums[j].ctypes.data + 4 * c)
            add_weighted_sum(p.ctypes.data, rows[1].ctypes.data + place, QUERIES, wide, value_sums[j].ctypes.data + 4 * c)


# dout, out, dq, dk, dv [batch, tokens, heads, d_head]; the rest as in `AttentionJob`, with as many keys as queries.
AttentionGradientJob = record(
    "AttentionGradientJob",
    "q k v dout out log_sums dq dk dv heads tokens d_head of_q of_k of_v scale_bits",
    of_q=Strides,
    of_k=Strides,
    of_v=Strides,
)


GRADIENT = positions(AttentionGradientJob)


@compiled
def _gradient_head(a, chunk, scale, rows, turned, deltas, lse, sums, scratch, key_lists, value_lists):
    """One head of one text. rows: (q, dout); deltas: rowsum(dout * out); sums: the gradients of keys and values."""
    heads, tokens, d_head = a[GRADIENT.heads], a[GRADIENT.tokens], a[GRADIENT.d_head]
    of_q, of_k, of_v = a[GRADIENT.of_q :], a[GRADIENT.of_k :], a[GRADIENT.of_v :]
    b, h = chunk // heads, chunk % heads
    q, k, v = _place(a[GRADIENT.q], of_q, b, h), _place(a[GRADIENT.k], of_k, b, h), _place(a[GRADIENT.v], of_v, b, h)
    place, stride = 4 * (b * tokens * heads + h) * d_head, heads * d_head
    dout, out, log_sums = floats(a[GRADIENT.dout] + place), floats(a[GRADIENT.out] + place), floats(a[GRADIENT.log_sums])
    _list_nonzeros(k, of_k[S.token], of_k[S.channel], tokens, d_head, *key_lists)
    _list_nonzeros(v, of_v[S.token], of_v[S.channel], tokens, d_head, *value_lists)
    for t in range(tokens):
        lse[t], deltas[t] = log_sums[chunk * tokens + t], np.float32(0)
        for c in range(d_head):
            rows[0][t, c], rows[1][t, c] = q[t * of_q[S.token] + c], dout[t * stride + c]
            deltas[t] += dout[t * stride + c] * out[t * stride + c]
        for c in range(sums[0].shape[1]):
            sums[0][t, c], sums[1][t, c] = np.float32(0), np.float32(0)
    dq = floats(a[GRADIENT.dq] + place)
    for first in range(0, tokens, QUERIES):
        for c in range(d_head):
            for i in range(QUERIES):
                turned[0][c, i], turned[1][c, i] = rows[0][first + i, c] * scale, rows[1][first + i, c]
                turned[2][c, i] = np.float32(0)
        _gradient_block(first, key_lists, value_lists, rows, turned, deltas, lse, sums[0], sums[1], scratch)
        for i in range(min(QUERIES, tokens - first)):
            for c in range(d_head):
                dq[(first + i) * stride + c] = turned[2][c, i] * scale
    dk, dv = floats(a[GRADIENT.dk] + place), floats(a[GRADIENT.dv] + place)
    for t in range(tokens):
        for c in range(d_head):
            dk[t * stride + c], dv[t * stride + c] = sums[0][t, c] * scale, sums[1][t, c]


def attention_gradient_kernel(job):
    a = words(job)
    tokens, d_head = a[GRADIENT.tokens], a[GRADIENT.d_head]
    scale = float_of(np.int32(a[GRADIENT.scale_bits]))
    padded, wide = (tokens + QUERIES - 1) // QUERIES * QUERIES, (d_head + LANES - 1) // LANES * LANES
    rows = (np.zeros((padded, wide), np.float32), np.zeros((padded, wide), np.float32))
    turned = (
        np.empty((d_head, QUERIES), np.float32), np.empty((d_head, QUERIES), np.float32), np.empty((d_head, QUERIES), np.float32),
    )  # fmt: skip
    deltas, lse = np.zeros(padded, np.float32), np.full(padded, np.float32(np.inf))  # absent queries attend to nothing
    sums = (np.empty((tokens, wide), np.float32), np.empty((tokens, wide), np.float32))
    scratch = (np.empty(QUERIES, np.float32), np.empty(QUERIES, np.float32))
    counts = (np.empty(tokens, np.int32), np.empty(tokens, np.int32))
    channels = (np.empty((tokens, d_head + 1), np.int32), np.empty((tokens, d_head + 1), np.int32))
    weights = (np.empty((tokens, d_head + 1), np.float32), np.empty((tokens, d_head + 1), np.float32))
    key_lists, value_lists = (counts[0], channels[0], weights[0]), (counts[1], channels[1], weights[1])
    while True:
        chunk = draw(job)
        if chunk >= a[CHUNKS]:
            return
        _gradient_head(a, chunk, scale, rows, turned, deltas, lse, sums, scratch, key_lists, value_lists)


@summing
def _exp_in_place(x, count, top):
    total = np.float32(0)
    for j in range(count):
        x[j] = exp(x[j] - top)
        total += x[j]
    return total


# One query per text, whose own key and value are stored first, as the last of those seen. Keys lie by channel, so that where the
# query is zero they are never read.  qkv [batch, 3, heads, d_head], keys [batch, heads, d_head, room], values [batch, heads, room,
# d_head], out [batch, heads, d_head], sink [heads], or 0.
AttentionOfOneJob = record(
    "AttentionOfOneJob", "qkv keys values out sink batch heads seen room d_head scale_bits heads_per_chunk"
)


OF_ONE = positions(AttentionOfOneJob)


@compiled
def _weigh_values(scores, seen, values, d_head, out):
    """out[c] = the sum of scores[j] * values[j, c]; values and out by address."""
    target, source = floats(out), floats(values)
    for c in range(d_head):
        target[c] = np.float32(0)
    if d_head % LANES == 0:
        for c in range(0, d_head, LANES):
            add_weighted_sum(scores.ctypes.data, values + 4 * c, seen, d_head, out + 4 * c)
    else:
        for j in range(seen):
            for c in range(d_head):
                target[c] += scores[j] * source[j * d_head + c]


def attention_of_one_kernel(job):
    a = words(job)
    heads, seen, room, d_head = a[OF_ONE.heads], a[OF_ONE.seen], a[OF_ONE.room], a[OF_ONE.d_head]
    per_chunk, sunk, width = a[OF_ONE.heads_per_chunk], a[OF_ONE.sink] != 0, a[OF_ONE.heads] * a[OF_ONE.d_head]
    scale, scores = float_of(np.int32(a[OF_ONE.scale_bits])), np.empty(seen, np.float32)
    while True:
        chunk = draw(job)
        if chunk >= a[CHUNKS]:
            return
        for which in range(chunk * per_chunk, min(a[OF_ONE.batch] * heads, (chunk + 1) * per_chunk)):  # batch * heads + head
            q = floats(a[OF_ONE.qkv] + 4 * (which // heads * 3 * width + which % heads * d_head))
            keys, values = (
                floats(a[OF_ONE.keys] + 4 * which * d_head * room),
                floats(a[OF_ONE.values] + 4 * which * d_head * room),
            )
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
            top = floats(a[OF_ONE.sink])[which % heads] if sunk else np.float32(-np.inf)
            sink = top
            for j in range(seen):
                top = max(top, scores[j])
            mass = _exp_in_place(scores, seen, top)
            if sunk:
                mass += exp(sink - top)
            at = a[OF_ONE.out] + 4 * which * d_head
            _weigh_values(scores, seen, a[OF_ONE.values] + 4 * which * d_head * room, d_head, at)
            out = floats(at)
            for c in range(d_head):
                out[c] /= mass


# --------------------------------------------------------------------------------------------------------------- the call


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sink: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """Causal attention [batch, heads, tokens, d_head] -> [batch, tokens, heads, d_head]; query, key, value as `serve` takes them or 16 bits wide
    (sums are float32, and out is), with as many keys as queries. Differentiable once."""
    return _Attention.apply(query, key, value, sink, scaling)


def _forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sink: torch.Tensor | None, scaling: float, wanted: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(out, log of the softmax' denominator, sink included, [batch, heads, tokens], if wanted)."""
    batch, heads, tokens, d_head = query.shape
    out = torch.empty(batch, tokens, heads, d_head, dtype=torch.float32, device=query.device)
    sums = torch.empty(batch, heads, tokens, dtype=torch.float32, device=query.device) if wanted else None
    job = AttentionJob(
        query.data_ptr(), key.data_ptr(), value.data_ptr(), out.data_ptr(), 0 if sums is None else sums.data_ptr(),
        0 if sink is None else sink.data_ptr(), heads, tokens, key.shape[2], d_head, Strides(*query.stride()), Strides(*key.stride()),
        Strides(*value.stride()), Strides(*out.transpose(1, 2).stride()), float_bits(scaling),
    )  # fmt: skip
    run(attention_kernel, batch * heads, flat(job))
    return out, sums


def _as_read(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As the kernels read them: float32, a query's channels side by side."""
    query, key, value = query.float(), key.float(), value.float()
    return query if query.stride(-1) == 1 else query.contiguous(), key, value


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, sink: Any, scaling: float) -> torch.Tensor:
        saved = [packed(x) for x in (query, key, value)]
        ctx.layouts = [layout for _, layout in saved]
        query, key, value = _as_read(query, key, value)
        sink32 = None if sink is None else sink.detach().to(torch.float32).contiguous()
        out, log_sums = _forward(query, key, value, sink32, scaling, wanted=any(ctx.needs_input_grad))
        ctx.scaling = scaling
        ctx.save_for_backward(*(x for x, _ in saved), sink32, out, log_sums)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        *saved, sink, out, log_sums = ctx.saved_tensors
        query, key, value = _as_read(*(unpacked(x, layout) for x, layout in zip(saved, ctx.layouts)))
        dout = gradients[0].contiguous()
        batch, heads, tokens, d_head = query.shape
        dq, dk, dv = (torch.empty_like(out) for _ in range(3))
        job = AttentionGradientJob(
            query.data_ptr(), key.data_ptr(), value.data_ptr(), dout.data_ptr(), out.data_ptr(), log_sums.data_ptr(), dq.data_ptr(),
            dk.data_ptr(), dv.data_ptr(), heads, tokens, d_head, Strides(*query.stride()), Strides(*key.stride()),
            Strides(*value.stride()), float_bits(ctx.scaling),
        )  # fmt: skip
        run(attention_gradient_kernel, batch * heads, flat(job))
        dsink = None
        if ctx.needs_input_grad[3]:
            share = (sink.view(1, -1, 1) - log_sums).exp()  # of the sink in each query's softmax, [batch, heads, tokens]
            dsink = -(share * (dout * out).sum(-1).transpose(1, 2)).sum((0, 2))
        return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2), dsink, None
