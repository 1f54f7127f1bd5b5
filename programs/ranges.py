"""What can happen, by intervals: over all contexts made of an alphabet of tokens, what every value of a circuit lies between, rigorously.

With it AbsTopK is decided once for all where its outcome is the same in every context: the circuit's parts become smaller and stay exact on these tokens.
Bounds are those of real numbers; they are widened by far more than float64 rounding (`_SLACK`).
"""

from __future__ import annotations

import dataclasses

import torch

from ..modeling_csp import activate
from .parts import MLP, Attention, Linear, Parts, Read, Rivals, without_rivals

_SLACK = 1e-9  # relative and absolute, by which every bound is widened
_GELU_LOWEST = -0.7517915246935645, -0.16997120747990369  # where GELU is smallest, and what it is there
_TANH_LOWEST = -0.7524614220710162, -0.17004075057125405  # and its approximation by tanh
Interval = tuple[torch.Tensor, torch.Tensor]


def specialised(parts: Parts, alphabet: torch.Tensor) -> Parts:
    """The same circuit on prompts of these tokens alone, [tokens], with what AbsTopK does there decided where it can be."""
    stream: Interval = (parts.stream[alphabet], parts.stream[alphabet])
    sublayers: list[Attention | MLP] = []
    for each in parts.sublayers:
        run = _attention(each, alphabet, stream) if isinstance(each, Attention) else _mlp(each, alphabet, stream)
        written = run[1]
        sublayers.append(run[0])
        places = torch.searchsorted(parts.channels, each.write.nodes)
        stream = stream[0].index_add(1, places, written[0]), stream[1].index_add(1, places, written[1])
    return dataclasses.replace(parts, sublayers=tuple(sublayers))


def _attention(each: Attention, alphabet: torch.Tensor, stream: Interval) -> tuple[Attention, Interval]:
    if each.tables is not None:
        values = each.tables["v"][alphabet], each.tables["v"][alphabet]
        made = each
    else:
        assert each.read is not None
        assert each.maps is not None
        read, there = _read(each.read, alphabet, stream)
        maps = {kind: _linear(map_, there) for kind, map_ in each.maps.items()}
        made = dataclasses.replace(each, read=read, maps={kind: map_ for kind, (map_, _) in maps.items()})
        values = maps["v"][1]
    low, high = values[0].amin(0), values[1].amax(0)
    sinks = torch.zeros(len(low), dtype=torch.bool)
    for head in each.heads:
        sinks[head.values] = head.sink is not None
    low, high = torch.where(sinks, low.clamp(max=0), low), torch.where(sinks, high.clamp(min=0), high)
    shared = sum(head.shared for head in each.heads)
    sources = torch.cat([low, torch.zeros(shared)])[None].double(), torch.cat([high, torch.ones(shared)])[None].double()
    write, out = _linear(each.write, sources)
    count = len(alphabet)
    return dataclasses.replace(made, write=write), (out[0].expand(count, -1), out[1].expand(count, -1))


def _mlp(each: MLP, alphabet: torch.Tensor, stream: Interval) -> tuple[MLP, Interval]:
    read, there = _read(each.read, alphabet, stream)
    neurons, active = _linear(each.neurons, there)
    write, out = _linear(each.write, active)
    return dataclasses.replace(each, read=read, neurons=neurons, write=write), out


def read_range(read: Read, tokens: torch.Tensor, stream: Interval, *, gained: bool = True) -> Interval:
    """What the nodes of a read lie between at tokens [n], [n, nodes]; not `gained`: before the norm, as answers take them."""
    if gained:
        return _read(read, tokens, stream)[1]
    there = stream[0] + read.held, stream[1] + read.held
    is_written, at = read.written >= 0, read.written.clamp(min=0)
    low, high = (
        torch.where(is_written, each[:, at], read.own[tokens]) if each.shape[1] else read.own[tokens] for each in there
    )
    return wider((low, high))


def linear_range(map_: Linear, sources: Interval) -> Interval:
    """What the nodes of a map lie between, [n, nodes]."""
    return _linear(map_, sources)[1]


def _read(read: Read, alphabet: torch.Tensor, stream: Interval) -> tuple[Read, Interval]:
    there = stream[0] + read.held, stream[1] + read.held
    is_written, at = read.written >= 0, read.written.clamp(min=0)
    own = read.own[alphabet]
    raw = tuple(torch.where(is_written, each[:, at], own) if each.shape[1] else own for each in there)
    if read.scale is None:
        assert read.square is not None
        squares = there[0].square(), there[1].square()
        least = torch.where((there[0] <= 0) & (there[1] >= 0), 0.0, torch.minimum(*squares)).sum(1)
        most = torch.maximum(*squares).sum(1)
        scales = (((read.square[alphabet] + total) / read.width + read.eps).rsqrt()[:, None] for total in (most, least))
        out = _times((raw[0] * read.gain, raw[1] * read.gain), *scales)
    else:
        out = _ordered(raw[0] * read.gain * read.scale, raw[1] * read.gain * read.scale)
    passes, maybe, sizes = _passing(read, alphabet, there, is_written, at)
    out = torch.where(maybe, out[0], 0.0), torch.where(maybe, out[1], 0.0)
    undecided = maybe & ~passes
    out = torch.where(undecided, out[0].clamp(max=0), out[0]), torch.where(undecided, out[1].clamp(min=0), out[1])
    if read.rivals is not None:
        known = torch.zeros(len(read.own), len(read.nodes), dtype=torch.int8)
        known[alphabet] = torch.where(undecided, -1, passes.to(torch.int8)).to(torch.int8)
        rivals = _told(read.rivals, alphabet, undecided, is_written, sizes) if bool(undecided.any()) else None
        read = dataclasses.replace(read, rivals=rivals, passes=known)
    return read, wider(out)


def _told(rivals: Rivals, alphabet: torch.Tensor, undecided: torch.Tensor, is_written: torch.Tensor, sizes: Interval) -> Rivals:
    """Rivals with what can't decide anything set alike at all tokens, so that tokens which differ in it alone are the same."""
    size, room, bar = rivals.size.clone(), rivals.room.clone(), rivals.bar.clone()
    mine = undecided & ~is_written
    size[alphabet], room[alphabet] = torch.where(mine, size[alphabet], 0.0), torch.where(mine, room[alphabet], 0)
    written = undecided & is_written
    infinite = torch.tensor(float("inf"), dtype=torch.float64)
    least = torch.where(written, sizes[0], infinite).amin(
        1, keepdim=True
    )  # no bar below it stops anyone, none above lets anyone pass
    most = torch.where(written, sizes[1], -infinite).amax(1, keepdim=True)
    there = bar[alphabet]
    there = torch.where(there < least, -1.0, torch.where(there > most, infinite, there))
    bar[alphabet] = torch.where(written.any(1, keepdim=True), there, 0.0)
    return Rivals(rivals.gain, room, size, bar)


def _passing(
    read: Read, alphabet: torch.Tensor, there: Interval, is_written: torch.Tensor, at: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, Interval]:
    """([alphabet, n] passes in every context, passes in some, what the sizes of nodes lie between)."""
    if read.rivals is None:
        sure = (
            torch.ones(len(alphabet), len(read.nodes), dtype=torch.bool) if read.passes is None else read.passes[alphabet] == 1
        )
        return sure, sure, (torch.zeros(sure.shape), torch.zeros(sure.shape))
    rivals = read.rivals
    gained = wider(_ordered(there[0] * rivals.gain, there[1] * rivals.gain))
    low, high = _sizes(gained)  # [alphabet, written]
    mine = rivals.size[alphabet]
    if low.shape[1]:
        mine_low, mine_high = torch.where(is_written, low[:, at], mine), torch.where(is_written, high[:, at], mine)
    else:
        mine_low = mine_high = mine
    others = torch.ones(len(read.nodes), low.shape[1], dtype=torch.bool)
    others[is_written, at[is_written]] = False
    most = ((high[:, None] > mine_low[:, :, None]) & others).sum(2)
    least = ((low[:, None] > mine_high[:, :, None]) & others).sum(2)
    bars, room = rivals.bar[alphabet], rivals.room[alphabet]
    passes = torch.where(is_written, mine_low > bars.gather(1, most), most < room)
    maybe = torch.where(is_written, mine_high > bars.gather(1, least), least < room)
    nothing = mine_high == 0  # dropped or not, it is zero
    passes, maybe = passes | nothing, maybe | nothing
    if read.passes is not None:  # decided before, when rivals that decide nothing were made alike
        known = read.passes[alphabet]
        passes, maybe = (known == 1) | ((known < 0) & passes), (known == 1) | ((known < 0) & maybe)
    return passes, maybe, (mine_low, mine_high)


def _linear(map_: Linear, sources: Interval) -> tuple[Linear, Interval]:
    """The map with rivals that can be told apart from every kept node left out, and what its nodes lie between, [rows, nodes]."""
    positive, negative = map_.weight.clamp(min=0).T, map_.weight.clamp(max=0).T
    low = sources[0] @ positive + sources[1] @ negative + map_.bias
    high = sources[1] @ positive + sources[0] @ negative + map_.bias
    low, high = _activated(*wider((low, high)), map_.activation)
    count = len(map_.nodes)
    mine = low[:, :count], high[:, :count]
    if map_.k is None:
        return map_, mine if map_.least is None else (mine[0].clamp(max=0), mine[1].clamp(min=0))
    box = sources[0].amin(0), sources[1].amax(0)
    always, never = _compared(map_, box, (low.amin(0), high.amax(0)))
    smallest, largest = (each[0, :count] for each in _sizes((low.amin(0, keepdim=True), high.amax(0, keepdim=True))))
    most = (~never).sum(1) + torch.searchsorted(-map_.fixed, -smallest)
    least = always.sum(1) + torch.searchsorted(-map_.fixed, -largest, right=True)
    most, least = (each + (0 if map_.ahead is None else map_.ahead) for each in (most, least))
    if bool((most < map_.k).all()):
        return without_rivals(map_), mine
    sure = most < map_.k
    stays = (~(always | never)).any(
        0
    )  # rivals whose place is the same against every node in every context are counted, not run
    stays[:count] = True
    ahead = always[:, ~stays].sum(1) + (0 if map_.ahead is None else map_.ahead)
    made = dataclasses.replace(map_, weight=map_.weight[stays], bias=map_.bias[stays], ahead=ahead)
    return made, (torch.where(sure, mine[0], mine[0].clamp(max=0)), torch.where(sure, mine[1], mine[1].clamp(min=0)))


def _compared(map_: Linear, box: Interval, found: Interval) -> tuple[torch.Tensor, torch.Tensor]:
    """([nodes, rows] a row is larger than a node in every context, is never larger), a node itself never.

    |a| > |b| where a - b and a + b have one sign; both are linear in the same sources, which says more than bounds of a and of b do."""
    count = len(map_.nodes)
    sizes = _sizes((found[0][None], found[1][None]))
    always, never = sizes[0] > sizes[1][0, :count, None], sizes[1] < sizes[0][0, :count, None]
    if not map_.activation:
        nodes, rows = (map_.weight[:count, None], map_.bias[:count, None]), (map_.weight[None], map_.bias[None])
        signs = []
        for each in (1.0, -1.0):
            weight, bias = rows[0] + each * nodes[0], rows[1] + each * nodes[1]
            low = weight.clamp(min=0) @ box[0] + weight.clamp(max=0) @ box[1] + bias
            high = weight.clamp(min=0) @ box[1] + weight.clamp(max=0) @ box[0] + bias
            low, high = wider((low, high))
            signs.append((low > 0).int() - (high < 0).int())
        always, never = always | (signs[0] * signs[1] > 0), never | (signs[0] * signs[1] < 0)
    itself = torch.eye(count, len(map_.bias), dtype=torch.bool)
    return always & ~itself, never | itself


def _activated(low: torch.Tensor, high: torch.Tensor, kind: str) -> Interval:
    if kind == "relu":
        return low.clamp(min=0), high.clamp(min=0)
    if kind not in ("gelu", "gelu_tanh"):
        return low, high
    ends = activate(kind, low), activate(kind, high)
    where, lowest = _GELU_LOWEST if kind == "gelu" else _TANH_LOWEST
    over = (low <= where) & (high >= where)
    return wider((torch.where(over, lowest, torch.minimum(*ends)), torch.maximum(*ends)))


def _times(x: Interval, low: torch.Tensor, high: torch.Tensor) -> Interval:
    """x times a positive scale between low and high."""
    x = _ordered(*x)
    return torch.where(x[0] < 0, x[0] * high, x[0] * low), torch.where(x[1] > 0, x[1] * high, x[1] * low)


def _ordered(one: torch.Tensor, other: torch.Tensor) -> Interval:
    return torch.minimum(one, other), torch.maximum(one, other)


def _sizes(x: Interval) -> Interval:
    """Of |x|."""
    ends = x[0].abs(), x[1].abs()
    return torch.where((x[0] <= 0) & (x[1] >= 0), 0.0, torch.minimum(*ends)), torch.maximum(*ends)


def wider(x: Interval) -> Interval:
    return x[0] - _SLACK * (1 + x[0].abs()), x[1] + _SLACK * (1 + x[1].abs())
