"""Parts in their plainest form: constants of norms, gains, scales and sinks worked into the weights and tables beside them. The same function."""

from __future__ import annotations

import dataclasses

import torch

from ..modeling_csp import activate
from .parts import MLP, Attention, Head, Linear, Parts, Read


def folded(parts: Parts) -> Parts:
    """Where a read has a constant scale and no AbsTopK: gain 1, scale 1, nothing held; scores as logits against a sink of 0; what does not vary in the bias
    of what reads it."""
    parts = _constants(_level(parts))
    sublayers = [_attention(each) if isinstance(each, Attention) else _mlp(each) for each in parts.sublayers]
    return dataclasses.replace(parts, sublayers=tuple(sublayers), answers=_answers(parts).answers)


def _level(parts: Parts) -> Parts:
    """Columns of the stream that are the same at every token, as what reads hold; a bigram column that is, as a bias."""
    first = parts.stream[0] if len(parts.stream) else parts.stream.new_zeros(parts.stream.shape[1])
    same = (parts.stream == first).all(0)
    steady = torch.where(same, first, 0.0)
    sublayers = [_holding(each, steady) for each in parts.sublayers]
    answers = dataclasses.replace(
        parts.answers, read=dataclasses.replace(parts.answers.read, held=parts.answers.read.held + steady)
    )
    if answers.table is not None:
        flat = (answers.table == answers.table[0]).all(0)
        more = torch.where(flat, answers.table[0], 0.0)
        answers = dataclasses.replace(answers, bias=answers.bias + more, table=answers.table - more)
    return dataclasses.replace(parts, stream=parts.stream - steady, sublayers=tuple(sublayers), answers=answers)


def _plain(read: Read) -> bool:
    return read.scale is not None and read.rivals is None and read.passes is None


def _into(map_: Linear, read: Read) -> Linear:
    """A map that reads the stream itself, where it read it through a norm."""
    factor = read.gain * (read.scale or 1.0)
    held = torch.where(read.written >= 0, _at(read.held, read.written), 0.0)
    weight = map_.weight * factor
    return dataclasses.replace(map_, weight=weight, bias=map_.bias + weight @ held)


def _bare(read: Read) -> Read:
    return dataclasses.replace(read, gain=torch.ones_like(read.gain), scale=1.0, held=torch.zeros_like(read.held))


def _at(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return values[places.clamp(min=0)] if len(values) else torch.zeros(len(places), dtype=torch.float64)


def _mlp(each: MLP) -> MLP:
    if not _plain(each.read):
        return each
    return dataclasses.replace(each, read=_bare(each.read), neurons=_into(each.neurons, each.read))


def _attention(each: Attention) -> Attention:
    if each.read is not None and each.maps is not None and _plain(each.read):
        each = dataclasses.replace(
            each, maps={kind: _into(map_, each.read) for kind, map_ in each.maps.items()}, read=_bare(each.read)
        )
    if each.tables is None:
        return each
    keys, heads = [each.tables["k"]], []
    count = each.tables["k"].shape[1]
    for head in each.heads:
        if len(head.queries):
            heads.append(head)
            continue
        score = torch.full((len(keys[0]),), head.constant, dtype=torch.float64)
        score = each.scaling * (score + keys[0][:, head.lone] @ head.lone_queries) - (head.sink or 0.0)
        if float(score.max() - score.min()) == 0.0:  # all tokens alike
            heads.append(
                dataclasses.replace(
                    head,
                    lone=head.lone[:0],
                    lone_queries=head.lone_queries[:0],
                    constant=float(score[0]) / each.scaling,
                    sink=_zero(head),
                )
            )
            continue
        keys.append(score[:, None])
        one = torch.tensor([1.0 / each.scaling], dtype=torch.float64)
        heads.append(dataclasses.replace(head, lone=torch.tensor([count]), lone_queries=one, constant=0.0, sink=_zero(head)))
        count += 1
    nodes = torch.cat([each.nodes["k"], torch.full((count - len(each.nodes["k"]),), -1)])
    return dataclasses.replace(
        each, tables={**each.tables, "k": torch.cat(keys, 1)}, nodes={**each.nodes, "k": nodes}, heads=tuple(heads)
    )


def _zero(head: Head) -> float | None:
    return None if head.sink is None else 0.0


def _answers(parts: Parts) -> Parts:
    answers, read = parts.answers, parts.answers.read
    if read.scale is None:
        return parts
    held = torch.where(read.written >= 0, _at(read.held, read.written), 0.0)
    weight = answers.weight * read.scale
    bias = answers.bias + weight @ held + answers.held * read.scale
    answers = dataclasses.replace(answers, read=_bare(read), weight=weight, held=torch.zeros_like(answers.held), bias=bias)
    return dataclasses.replace(parts, answers=answers)


def _constants(parts: Parts) -> Parts:
    """What does not vary is a constant of those that read it: neurons, and writes."""
    sublayers: list[Attention | MLP] = []
    added = torch.zeros(len(parts.channels), dtype=torch.float64)
    for each in parts.sublayers:
        each = _holding(each, added)
        if isinstance(each, MLP) and each.neurons.k is None and each.neurons.least is None:
            steady = (each.neurons.weight == 0).all(1)
            value = activate(each.neurons.activation, each.neurons.bias[steady])
            sources = tuple(name for name, s in zip(each.write.sources, steady.tolist()) if not s)
            write = dataclasses.replace(
                each.write,
                bias=each.write.bias + each.write.weight[:, steady] @ value,
                weight=each.write.weight[:, ~steady],
                sources=sources,
            )
            each = dataclasses.replace(each, neurons=_rows(each.neurons, ~steady), write=write)
        if each.write.k is None and each.write.least is None:
            steady = (each.write.weight == 0).all(1)
            added = added.index_add(0, torch.searchsorted(parts.channels, each.write.nodes[steady]), each.write.bias[steady])
            each = dataclasses.replace(each, write=_rows(each.write, ~steady))
        if len(each.write.nodes):
            sublayers.append(each)
    read = dataclasses.replace(parts.answers.read, held=parts.answers.read.held + added)
    return dataclasses.replace(parts, sublayers=tuple(sublayers), answers=dataclasses.replace(parts.answers, read=read))


def _holding(each: Attention | MLP, added: torch.Tensor) -> Attention | MLP:
    return (
        each
        if each.read is None
        else dataclasses.replace(each, read=dataclasses.replace(each.read, held=each.read.held + added))
    )


def _rows(map_: Linear, kept: torch.Tensor) -> Linear:
    return dataclasses.replace(map_, nodes=map_.nodes[kept], weight=map_.weight[kept], bias=map_.bias[kept])
