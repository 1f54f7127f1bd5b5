"""Parts without what no answer depends on any more, after weights have gone."""

from __future__ import annotations

import dataclasses

import torch

from .parts import MLP, Attention, Head, Linear, Parts, Read


def tidied(parts: Parts) -> Parts:
    """The same function. Where AbsTopK is still at work, or a norm has its own scale, everything that takes part in it stays."""
    answers = parts.answers
    used = (
        (answers.weight != 0).any(0)
        if answers.read.scale is not None
        else torch.ones(answers.weight.shape[1], dtype=torch.bool)
    )
    answers = dataclasses.replace(answers, read=_nodes(answers.read, used), weight=answers.weight[:, used])
    needed = _channels(answers.read, parts)
    sublayers: list[Attention | MLP] = []
    for each in reversed(parts.sublayers):
        made = _attention(each, parts, needed) if isinstance(each, Attention) else _mlp(each, parts, needed)
        if made is not None:
            sublayers.insert(0, made)
            if made.read is not None and not (isinstance(made, Attention) and made.tables is not None):
                needed |= _channels(made.read, parts)
    return _narrow(dataclasses.replace(parts, sublayers=tuple(sublayers), answers=answers), needed)


def _channels(read: Read, parts: Parts) -> torch.Tensor:
    """Which written channels a read depends on."""
    needed = torch.zeros(len(parts.channels), dtype=torch.bool)
    if read.rivals is not None or (read.scale is None and read.square is not None):
        return torch.ones_like(needed)
    needed[read.written[read.written >= 0]] = True
    return needed


def _nodes(read: Read, kept: torch.Tensor) -> Read:
    rivals = read.rivals
    if rivals is not None:
        rivals = dataclasses.replace(rivals, room=rivals.room[:, kept], size=rivals.size[:, kept])
    passes = None if read.passes is None else read.passes[:, kept]
    return dataclasses.replace(
        read,
        nodes=read.nodes[kept],
        written=read.written[kept],
        own=read.own[:, kept],
        gain=read.gain[kept],
        rivals=rivals,
        passes=passes,
    )


def _rows(map_: Linear, kept: torch.Tensor) -> Linear:
    return dataclasses.replace(map_, nodes=map_.nodes[kept], weight=map_.weight[kept], bias=map_.bias[kept])


def _columns(map_: Linear, kept: torch.Tensor) -> Linear:
    sources = tuple(name for name, stays in zip(map_.sources, kept.tolist()) if stays)
    return dataclasses.replace(map_, sources=sources, weight=map_.weight[:, kept])


def _written(write: Linear, parts: Parts, needed: torch.Tensor) -> Linear:
    if write.k is not None:
        return write
    return _rows(write, needed[torch.searchsorted(parts.channels, write.nodes)])


def _mlp(each: MLP, parts: Parts, needed: torch.Tensor) -> MLP | None:
    write = _written(each.write, parts, needed)
    if not len(write.nodes):
        return None
    used, neurons = (write.weight != 0).any(0), each.neurons
    if neurons.k is None:
        write, neurons = _columns(write, used), _rows(neurons, used)
    read_by = (neurons.weight != 0).any(0)
    return dataclasses.replace(each, read=_nodes(each.read, read_by), neurons=_columns(neurons, read_by), write=write)


def _attention(each: Attention, parts: Parts, needed: torch.Tensor) -> Attention | None:
    write = _written(each.write, parts, needed)
    if not len(write.nodes):
        return None
    used = (write.weight != 0).any(0)
    write = _columns(write, used)
    count = len(each.nodes["v"])
    shared = iter(used[count:].tolist())
    heads: list[Head] = []
    for head in each.heads:
        still = next(shared) if head.shared else False
        values = head.values[used[head.values]]
        if still or len(values):
            heads.append(dataclasses.replace(head, values=values, shared=still))
    keep = {
        "q": _marked(len(each.nodes["q"]), [head.queries for head in heads]),
        "k": _marked(len(each.nodes["k"]), [each_ for head in heads for each_ in (head.keys[head.keys >= 0], head.lone)]),
        "v": used[:count],
    }
    if each.maps is not None and any(map_.k is not None for map_ in each.maps.values()):
        keep = {kind: torch.ones_like(kept) for kind, kept in keep.items()}
        write = dataclasses.replace(_written(each.write, parts, needed))
        heads = list(each.heads)
    return _selected(each, keep, heads, write)


def _marked(count: int, places: list[torch.Tensor]) -> torch.Tensor:
    marked = torch.zeros(count, dtype=torch.bool)
    for each in places:
        marked[each] = True
    return marked


def _selected(each: Attention, keep: dict[str, torch.Tensor], heads: list[Head], write: Linear) -> Attention:
    """With those queries, keys and values alone, and heads that know their new places."""
    at = {kind: torch.where(kept, kept.cumsum(0) - 1, -1) for kind, kept in keep.items()}
    moved = tuple(
        dataclasses.replace(
            head, queries=at["q"][head.queries], keys=torch.where(head.keys >= 0, _at(at["k"], head.keys), -1), lone=at["k"][head.lone],
            values=at["v"][head.values],
        )
        for head in heads
    )  # fmt: skip
    nodes = {kind: each.nodes[kind][kept] for kind, kept in keep.items()}
    tables = None if each.tables is None else {kind: table[:, keep[kind]] for kind, table in each.tables.items()}
    maps, read = each.maps, each.read
    if maps is not None and read is not None:
        maps = {kind: _rows(map_, keep[kind]) if map_.k is None else map_ for kind, map_ in maps.items()}
        read_by = torch.stack([(map_.weight != 0).any(0) for map_ in maps.values()]).any(0)
        maps, read = {kind: _columns(map_, read_by) for kind, map_ in maps.items()}, _nodes(read, read_by)
    return dataclasses.replace(each, nodes=nodes, tables=tables, maps=maps, read=read, heads=moved, write=write)


def _at(table: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return table[places.clamp(min=0)] if len(table) else torch.full_like(places, -1)


def _narrow(parts: Parts, needed: torch.Tensor) -> Parts:
    """Without written channels that nothing depends on, if nothing else writes to them."""
    for each in parts.sublayers:
        needed[torch.searchsorted(parts.channels, each.write.nodes)] = True
    if bool(needed.all()):
        return parts
    at = torch.where(needed, needed.cumsum(0) - 1, -1)

    def narrower(read: Read) -> Read:
        return dataclasses.replace(
            read, written=torch.where(read.written >= 0, _at(at, read.written), -1), held=read.held[needed]
        )

    sublayers = [each if each.read is None else dataclasses.replace(each, read=narrower(each.read)) for each in parts.sublayers]
    answers = dataclasses.replace(parts.answers, read=narrower(parts.answers.read))
    return dataclasses.replace(
        parts, channels=parts.channels[needed], stream=parts.stream[:, needed], sublayers=tuple(sublayers), answers=answers
    )
