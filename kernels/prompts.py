"""Circuits on prompts, on CPU: what `programs/run.py` does with a circuit's parts, here prompt by prompt, in float64.

A prompt's sums are in the same order wherever it stands in a batch, prompts of a batch may have different lengths, and heads whose scores do not depend on who asks
keep sums over tokens instead of keys and values.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from .jit import bytes_of, compiled, doubles, draw, longs, summing, words
from .jobs import CHUNKS, length, positions, record
from .maps import MAP, WORD, MapWords, count_larger, map_of
from .run import run

ALONE, RUNNING, KEPT = 0, 1, 2  # heads: that take in nothing, that keep sums, that keep keys and values


class Scratch(NamedTuple):
    """Addresses of what a token is worked out in: of arrays themselves Numba would count references, atomically, at each call."""

    q: int
    k: int
    v: int
    sources: int  # of what a sublayer writes
    written: int
    sizes: int  # of who competes, and bounds of them
    bounds: int
    there: int  # on written channels, where a read reads
    nodes: int  # of a read
    stream: int


# A read (`parts.Read`). numbers: scale, width, eps, and what is added to the square of answers.
ReadWords = record(
    "ReadWords",
    "count channels written own held gain numbers own_scale square has_passes passes has_rivals rival_gain room size bar",
)
# A head (`parts.Head`). numbers: scaling, constant, sink. place: in a prompt's state.
HeadWords = record(
    "HeadWords", "kind shared queries keys constants asked values value_count lone lone_queries lone_count sunk numbers place"
)
# Attention, or an MLP, whose neurons are `q`. places: channels that it writes, among the written ones.
SublayerWords = record(
    "SublayerWords", "is_mlp alone tables q_table k_table v_table q_count k_count v_count read q k v write places heads head_count",
    read=ReadWords, q=MapWords, k=MapWords, v=MapWords, write=MapWords,
)  # fmt: skip
AnswerWords = record("AnswerWords", "count read weight held bias has_table table", read=ReadWords)
# A circuit. until: how many sublayers run at tokens before the last. widest: numbers in a row of scratch space.
CircuitWords = record("CircuitWords", "channels stream sublayers sublayer_count until widest answers", answers=AnswerWords)

READ, HEAD, SUBLAYER, ANSWER, CIRCUIT = (
    positions(each, first=0) for each in (ReadWords, HeadWords, SublayerWords, AnswerWords, CircuitWords)
)  # fmt: skip
HEAD_LENGTH, SUBLAYER_LENGTH = length(HeadWords), length(SublayerWords)


@compiled
def _held_at(at, row, scratch):
    """What is on written channels where a read reads, and what its nodes hold before the norm."""
    r, stream, there, nodes = longs(at), doubles(scratch.stream), doubles(scratch.there), doubles(scratch.nodes)
    held, count, written, own = doubles(r[READ.held]), r[READ.count], longs(r[READ.written]), doubles(r[READ.own])
    for c in range(r[READ.channels]):
        there[c] = stream[c] + held[c]
    for i in range(count):
        nodes[i] = there[written[i]] if written[i] >= 0 else own[row * count + i]


@summing
def _square(address, count):
    x, total = doubles(address), 0.0
    for i in range(count):
        total += x[i] * x[i]
    return total


@compiled
def _read(at, row, scratch):
    """What the nodes of a read hold at a token with this row of tables."""
    r, nodes = longs(at), doubles(scratch.nodes)
    count, numbers, gain = r[READ.count], doubles(r[READ.numbers]), doubles(r[READ.gain])
    _held_at(at, row, scratch)
    scale = numbers[0]
    if r[READ.own_scale] != 0:
        square = doubles(r[READ.square])[row] + _square(scratch.there, r[READ.channels])
        scale = 1.0 / math.sqrt(square / numbers[1] + numbers[2])
    for i in range(count):
        nodes[i] = nodes[i] * gain[i] * scale
    if r[READ.has_rivals] != 0:
        _pass(at, row, scratch)
    elif r[READ.has_passes] != 0:
        passes = bytes_of(r[READ.passes])
        for i in range(count):
            if passes[row * count + i] != 1:
                nodes[i] = 0.0


@compiled
def _pass(at, row, scratch):
    """Drops nodes of a read that AbsTopK drops."""
    r, nodes, there, sizes = longs(at), doubles(scratch.nodes), doubles(scratch.there), doubles(scratch.sizes)
    count, channels, passes, has_passes = r[READ.count], r[READ.channels], bytes_of(r[READ.passes]), r[READ.has_passes] != 0
    gain, bars, written = doubles(r[READ.rival_gain]), doubles(r[READ.bar]), longs(r[READ.written])
    size, rooms = doubles(r[READ.size]), longs(r[READ.room])
    for c in range(channels):
        sizes[c] = abs(there[c] * gain[c])
    for i in range(count):
        known = passes[row * count + i] if has_passes else -1
        if known == 0:
            nodes[i] = 0.0
        elif known < 0:
            mine = sizes[written[i]] if written[i] >= 0 else size[row * count + i]
            larger = count_larger(scratch.sizes, channels, mine)
            if written[i] >= 0:
                stays = mine > bars[row * (channels + 1) + larger]
            else:
                stays = larger < rooms[row * count + i]
            if not stays:
                nodes[i] = 0.0


@compiled
def _take_in(at, state_at, before, scratch):
    """Adds a token to what a head has of those before it, so many."""
    h, state, k, v = longs(at), doubles(state_at), doubles(scratch.k), doubles(scratch.v)
    place, count, asked = h[HEAD.place], h[HEAD.value_count], h[HEAD.asked]
    numbers, values = doubles(h[HEAD.numbers]), longs(h[HEAD.values])
    lone, lone_queries = longs(h[HEAD.lone]), doubles(h[HEAD.lone_queries])
    score = 0.0
    for i in range(h[HEAD.lone_count]):
        score += lone_queries[i] * k[lone[i]]
    if h[HEAD.kind] == RUNNING:
        score = numbers[0] * (score + numbers[1])
        if score > state[place]:  # the largest score so far, of which the others are taken
            shrink = math.exp(state[place] - score)
            for c in range(1 + count):
                state[place + 1 + c] *= shrink
            state[place] = score
        weight = math.exp(score - state[place])
        state[place + 1] += weight
        for c in range(count):
            state[place + 2 + c] += weight * v[values[c]]
        return
    keys, constants = longs(h[HEAD.keys]), doubles(h[HEAD.constants])
    place += before * (asked + 1 + count)
    for i in range(asked):
        state[place + i] = k[keys[i]] if keys[i] >= 0 else constants[i]
    state[place + asked] = score
    for c in range(count):
        state[place + asked + 1 + c] = v[values[c]]


@compiled
def _alone(at, log_tokens, scratch):
    """What a head that takes in nothing gives to all tokens together."""
    h, q = longs(at), doubles(scratch.q)
    if h[HEAD.sunk] == 0:
        return 1.0
    numbers, queries, constants = doubles(h[HEAD.numbers]), longs(h[HEAD.queries]), doubles(h[HEAD.constants])
    score = 0.0
    for i in range(h[HEAD.asked]):
        score += q[queries[i]] * constants[i]
    score = numbers[0] * (score + numbers[1])
    return 1.0 / (1.0 + math.exp(-(score + log_tokens - numbers[2])))


@compiled
def _running(at, state_at, scratch):
    h, state, out = longs(at), doubles(state_at), doubles(scratch.sources)
    place, values, sink = h[HEAD.place], longs(h[HEAD.values]), doubles(h[HEAD.numbers])[2]
    most, total, scale = state[place], state[place + 1], 1.0
    attended = total
    if h[HEAD.sunk] != 0:
        if sink > most:
            scale = math.exp(most - sink)
            attended = total * scale + 1.0
        else:
            attended = total + math.exp(sink - most)
    for c in range(h[HEAD.value_count]):
        out[values[c]] = state[place + 2 + c] * scale / attended
    return total * scale / attended


@compiled
def _kept(at, state_at, tokens, scratch):
    h, state, out, weights, q = (
        longs(at),
        doubles(state_at),
        doubles(scratch.sources),
        doubles(scratch.bounds),
        doubles(scratch.q),
    )
    asked, count, values, queries = h[HEAD.asked], h[HEAD.value_count], longs(h[HEAD.values]), longs(h[HEAD.queries])
    numbers, each = doubles(h[HEAD.numbers]), asked + 1 + count
    most = numbers[2] if h[HEAD.sunk] != 0 else -math.inf
    for t in range(tokens):
        place = h[HEAD.place] + t * each
        score = state[place + asked]
        for i in range(asked):
            score += q[queries[i]] * state[place + i]
        weights[t] = numbers[0] * (score + numbers[1])
        most = max(most, weights[t])
    total = 0.0
    for t in range(tokens):
        weight = math.exp(weights[t] - most)
        total += weight
        place = h[HEAD.place] + t * each + asked + 1
        for c in range(count):
            out[values[c]] += weight * state[place + c]
    attended = total + math.exp(numbers[2] - most) if h[HEAD.sunk] != 0 else total
    for c in range(count):
        out[values[c]] /= attended
    return total / attended


@compiled
def _attend(at, state_at, tokens, log_tokens, scratch):
    """What a head makes of so many tokens, at its values' places among sources, which are zero; the share of attention that its sink leaves."""
    kind = longs(at)[HEAD.kind]
    if kind == ALONE:
        return _alone(at, log_tokens, scratch)
    return _running(at, state_at, scratch) if kind == RUNNING else _kept(at, state_at, tokens, scratch)


@compiled
def _row_of(table_at, row, count, out_at):
    table, out = doubles(table_at), doubles(out_at)
    for i in range(count):
        out[i] = table[row * count + i]


@compiled
def _asked(at, row, asks, scratch):
    """Queries, keys and values of a token: queries if it asks, keys and values if anything is taken in."""
    s = longs(at)
    takes_in = s[SUBLAYER.alone] == 0
    if s[SUBLAYER.tables] != 0:
        if asks:
            _row_of(s[SUBLAYER.q_table], row, s[SUBLAYER.q_count], scratch.q)
        if takes_in:
            _row_of(s[SUBLAYER.k_table], row, s[SUBLAYER.k_count], scratch.k)
            _row_of(s[SUBLAYER.v_table], row, s[SUBLAYER.v_count], scratch.v)
        return
    _read(at + WORD * SUBLAYER.read, row, scratch)
    if asks:
        map_of(at + WORD * SUBLAYER.q, scratch.nodes, scratch.q, scratch.sizes, scratch.bounds)
    if takes_in:
        map_of(at + WORD * SUBLAYER.k, scratch.nodes, scratch.k, scratch.sizes, scratch.bounds)
        map_of(at + WORD * SUBLAYER.v, scratch.nodes, scratch.v, scratch.sizes, scratch.bounds)


@compiled
def _attention(at, row, before, state, goes_on, scratch):
    """Takes a token in; if it goes on, sources of what attention writes."""
    _asked(at, row, goes_on, scratch)
    s, out = longs(at), doubles(scratch.sources)
    if s[SUBLAYER.alone] == 0:
        for n in range(s[SUBLAYER.head_count]):
            head = s[SUBLAYER.heads] + WORD * n * HEAD_LENGTH
            if longs(head)[HEAD.kind] != ALONE:
                _take_in(head, state, before, scratch)
    if not goes_on:
        return
    place, log_tokens = s[SUBLAYER.v_count], math.log(float(before + 1))
    for i in range(place):
        out[i] = 0.0
    for n in range(s[SUBLAYER.head_count]):
        head = s[SUBLAYER.heads] + WORD * n * HEAD_LENGTH
        share = _attend(head, state, before + 1, log_tokens, scratch)
        if longs(head)[HEAD.shared] != 0:
            out[place] = share
            place += 1


@compiled
def _answer(at, row, scratch, out_at):
    a, raw, out = longs(at), doubles(scratch.nodes), doubles(out_at)
    read = at + WORD * ANSWER.read
    r, count = longs(read), a[ANSWER.count]
    nodes, numbers, weight = r[READ.count], doubles(r[READ.numbers]), doubles(a[ANSWER.weight])
    held, bias, table = doubles(a[ANSWER.held]), doubles(a[ANSWER.bias]), doubles(a[ANSWER.table])
    _held_at(read, row, scratch)
    scale = numbers[0]
    if r[READ.own_scale] != 0:
        scale = 1.0 / math.sqrt((_square(scratch.nodes, nodes) + numbers[3]) / numbers[1] + numbers[2])
    for n in range(count):
        total = held[n]
        for i in range(nodes):
            total += raw[i] * weight[n * nodes + i]
        out[n] = total * scale + bias[n]
        if a[ANSWER.has_table] != 0:
            out[n] += table[row * count + n]


@compiled
def _token(circuit, row, before, state, final, given, scratch, out):
    """One token more; after the last the logits of the answers. given: whether sources of what the first sublayer writes are there."""
    c, stream, written = longs(circuit), doubles(scratch.stream), doubles(scratch.written)
    _row_of(c[CIRCUIT.stream], row, c[CIRCUIT.channels], scratch.stream)
    count = c[CIRCUIT.sublayer_count] if final else c[CIRCUIT.until]
    for n in range(count):
        at = c[CIRCUIT.sublayers] + WORD * n * SUBLAYER_LENGTH
        s = longs(at)
        if s[SUBLAYER.is_mlp] != 0:
            _read(at + WORD * SUBLAYER.read, row, scratch)
            map_of(at + WORD * SUBLAYER.q, scratch.nodes, scratch.sources, scratch.sizes, scratch.bounds)
        elif n > 0 or not given:
            goes_on = final or n < count - 1
            _attention(at, row, before, state, goes_on, scratch)
            if not goes_on:
                return
        map_of(at + WORD * SUBLAYER.write, scratch.sources, scratch.written, scratch.sizes, scratch.bounds)
        places = longs(s[SUBLAYER.places])
        for i in range(s[SUBLAYER.write + MAP.count]):
            stream[places[i]] += written[i]
    if final:
        _answer(circuit + WORD * CIRCUIT.answers, row, scratch, out)


# states [prompts, state_width]: in and out. tokens [prompts, longest] of which each prompt takes `lengths`; counts [prompts]: tokens before, in and out.
# lookup [places, vocab]: rows of tables, or 0: tokens are rows. final: whether the last is the prompt's, and out [prompts, answers] is wanted.
# sources: 0, or [prompts, source_count], of what the first sublayer writes. missing: one word, set where a token has no row.
PromptsJob = record(
    "PromptsJob",
    "circuit prompts states state_width tokens longest lengths counts lookup places vocab final out sources source_count missing per_chunk",
)


PROMPTS = positions(PromptsJob)


@compiled
def _row_at(lookup, places, vocab, token, place):
    """Of tables, for a token at a place; -1 where there is none."""
    if places == 0:
        return token
    return longs(lookup)[place * vocab + token] if 0 <= token < vocab and place < places else -1


def prompts_kernel(job):
    a = words(job)
    c, missing = longs(a[PROMPTS.circuit]), longs(a[PROMPTS.missing])
    tokens, lengths, counts = longs(a[PROMPTS.tokens]), longs(a[PROMPTS.lengths]), longs(a[PROMPTS.counts])
    given, source_count, answers = doubles(a[PROMPTS.sources]), a[PROMPTS.source_count], c[CIRCUIT.answers + ANSWER.count]
    memory = np.empty(10 * c[CIRCUIT.widest])
    at, each = memory.ctypes.data, WORD * c[CIRCUIT.widest]
    scratch = Scratch(
        at,
        at + each,
        at + 2 * each,
        at + 3 * each,
        at + 4 * each,
        at + 5 * each,
        at + 6 * each,
        at + 7 * each,
        at + 8 * each,
        at + 9 * each,
    )
    sources = doubles(scratch.sources)
    while True:
        chunk = draw(job)
        if chunk >= a[CHUNKS]:
            return
        first = chunk * a[PROMPTS.per_chunk]
        for n in range(first, min(first + a[PROMPTS.per_chunk], a[PROMPTS.prompts])):
            state, out, count = (
                a[PROMPTS.states] + WORD * n * a[PROMPTS.state_width],
                a[PROMPTS.out] + WORD * n * answers,
                counts[n],
            )
            for i in range(source_count):
                sources[i] = given[n * source_count + i]
            for i in range(lengths[n]):
                row = _row_at(a[PROMPTS.lookup], a[PROMPTS.places], a[PROMPTS.vocab], tokens[n * a[PROMPTS.longest] + i], count)
                if row < 0:
                    missing[0] = 1
                    break
                final = a[PROMPTS.final] != 0 and i == lengths[n] - 1
                _token(a[PROMPTS.circuit], row, count, state, final, source_count != 0, scratch, out)
                count += 1
            counts[n] = count


# --------------------------------------------------------------------------------------------------------------- the call

_PER_CHUNK = 64


def go(
    circuit: torch.Tensor,
    answers: int,
    states: torch.Tensor,
    counts: torch.Tensor,
    tokens: torch.Tensor,
    lengths: torch.Tensor,
    lookup: torch.Tensor | None,
    final: bool,
    sources: torch.Tensor | None = None,
) -> torch.Tensor:
    """Prompts some tokens on, each by its own `lengths`: states [n, width] and counts [n] become what they are after these; all contiguous, float64 and int64.

    Args:
        circuit: the words of a `CircuitWords`, whose arrays are kept by who calls. answers: how many.
        tokens: [n, longest]. lookup: [places, vocab], or None: tokens are rows of tables.
        sources: of what the first sublayer writes, [n, sources], which is then not run.

    Returns:
        Logits of the answers [n, answers] if `final`, else nothing, [0, answers].

    Raises:
        ValueError: for a token that has no row.
    """
    count, missing = len(tokens), torch.zeros(1, dtype=torch.int64)
    out = torch.empty(count if final else 0, answers, dtype=torch.float64)
    places, vocab = (0, 0) if lookup is None else lookup.shape
    job = PromptsJob(
        circuit.data_ptr(), count, states.data_ptr(), states.shape[1], tokens.data_ptr(), tokens.shape[1], lengths.data_ptr(), counts.data_ptr(),
        0 if lookup is None else lookup.data_ptr(), places, vocab, int(final), out.data_ptr(), 0 if sources is None else sources.data_ptr(),
        0 if sources is None else sources.shape[1], missing.data_ptr(), _PER_CHUNK,
    )  # fmt: skip
    run(prompts_kernel, -(-count // _PER_CHUNK), job)
    if int(missing):
        raise ValueError(
            "The language has no such token at its place; a circuit of a model with positions is compiled for its language."
        )
    return out
