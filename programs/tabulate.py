"""What depends on a token and its place alone, worked out for each: sublayers before the first that takes in other tokens, and what that one asks, looks for and copies.

For running prompts (`certify.py`); programs are written from the parts as they were.
"""

from __future__ import annotations

import dataclasses

import torch

from .classes import told_apart
from .parts import MLP, Attention, Parts, Read, Rivals
from .run import linear, places_of, read_tokens, written_alone
from .symbols import Symbols


def tabulated(parts: Parts, symbols: Symbols) -> Parts:
    """The same circuit on prompts of these symbols alone, up to float64 rounding: what comes before the first attention that takes in other tokens is in the stream's
    table, that attention has tables, and rows of tables are symbols.

    Args:
        parts: with tokens, or with other symbols, as rows.
    """
    parts = _by_place(parts, symbols)
    rows, group = _different(parts, symbols)
    stream, rest = parts.stream[rows], list(parts.sublayers)
    while rest and (isinstance(rest[0], MLP) or rest[0].alone):
        each = rest.pop(0)
        stream = stream.index_add(1, places_of(each, parts), written_alone(each, rows, stream, symbols.places[rows] + 1))
    if rest and isinstance(rest[0], Attention) and rest[0].tables is None:
        rest[0] = _with_tables(rest[0], rows, group, stream)
    return dataclasses.replace(parts, stream=stream[group], sublayers=tuple(rest))


def _with_tables(each: Attention, rows: torch.Tensor, group: torch.Tensor, stream: torch.Tensor) -> Attention:
    assert each.read is not None
    assert each.maps is not None
    values = read_tokens(each.read, rows, stream)
    tables = {kind: linear(map_, values)[group] for kind, map_ in each.maps.items()}
    return dataclasses.replace(each, tables=tables, read=None, maps=None)


def _different(parts: Parts, symbols: Symbols) -> tuple[torch.Tensor, torch.Tensor]:
    """(the first symbol of each group that cannot be told apart by what is worked out here; each symbol's group). Worked out once for each group, so
    that equal symbols get equal bits: in a batch rounding may depend on where a row stands."""
    columns = [symbols.places[:, None].double(), parts.stream]
    for each in parts.sublayers:
        if isinstance(each, MLP) or each.tables is None:
            assert each.read is not None
            columns += told_apart(each.read)
        else:
            columns += list(each.tables.values())
        if isinstance(each, Attention) and not each.alone:
            break
    wide = torch.cat([each.double().reshape(parts.vocab, -1) for each in columns], 1)
    _, group = wide.unique(dim=0, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), parts.vocab).scatter_reduce(0, group, torch.arange(parts.vocab), "amin")
    return first, group


def _by_place(parts: Parts, symbols: Symbols) -> Parts:
    """Tables whose rows are symbols, where they were tokens; the same parts, where they were these symbols."""
    if parts.symbols is not None:
        return parts
    at = symbols.tokens
    sublayers: list[Attention | MLP] = []
    for each in parts.sublayers:
        if isinstance(each, MLP):
            sublayers.append(dataclasses.replace(each, read=_rows(each.read, at)))
            continue
        tables = None if each.tables is None else {kind: table[at] for kind, table in each.tables.items()}
        sublayers.append(dataclasses.replace(each, read=None if each.read is None else _rows(each.read, at), tables=tables))
    table = None if parts.answers.table is None else parts.answers.table[at]
    answers = dataclasses.replace(parts.answers, read=_rows(parts.answers.read, at), table=table)
    return dataclasses.replace(
        parts, vocab=len(at), stream=parts.stream[at], sublayers=tuple(sublayers), answers=answers, symbols=symbols
    )


def _rows(each: Read, at: torch.Tensor) -> Read:
    rivals = each.rivals and Rivals(each.rivals.gain, each.rivals.room[at], each.rivals.size[at], each.rivals.bar[at])
    square, passes = (None if table is None else table[at] for table in (each.square, each.passes))
    return dataclasses.replace(each, own=each.own[at], square=square, passes=passes, rivals=rivals)
