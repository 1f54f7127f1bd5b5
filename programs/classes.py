"""Which tokens a circuit cannot tell apart, and so which texts of a slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .parts import MLP, Attention, Parts, Read
from .symbols import Symbols, starts
from .tokens import Place, TokenTemplate


def token_classes(parts: Parts, last: bool) -> torch.Tensor:
    """For each token of the vocabulary, the smallest token that the circuit cannot tell from it: [vocab].

    Args:
        last: as the last token of a prompt; else as one that others follow, of which less is read.
    """
    columns: list[torch.Tensor] = []
    streamed = False  # whether what the stream holds at this token matters
    for each in parts.sublayers:
        if not last and each.layer > parts.deepest - isinstance(each, MLP):
            break
        if isinstance(each, Attention) and each.tables is not None:
            columns += [each.tables[kind] for kind in ("kv" if each.layer == parts.deepest and not last else "qkv")]
        else:
            assert each.read is not None
            streamed, columns = True, columns + told_apart(each.read)
    if last:
        streamed = True
        columns += told_apart(parts.answers.read)
        columns += [] if parts.answers.table is None else [parts.answers.table]
    columns += [parts.stream] if streamed else []
    wide = (
        torch.cat([each.double().reshape(parts.vocab, -1) for each in columns], 1) if columns else torch.zeros(parts.vocab, 1)
    )
    if not wide.shape[1]:  # no token matters
        return torch.zeros(parts.vocab, dtype=torch.int64)
    _, which = wide.unique(dim=0, return_inverse=True)
    first = torch.full((int(which.max()) + 1,), parts.vocab, dtype=torch.int64)
    first = first.scatter_reduce(0, which, torch.arange(parts.vocab), "amin")
    return first[which]


def told_apart(read: Read) -> list[torch.Tensor]:
    """What a read has of each token, [vocab, columns] each: tokens that are equal in it are the same to it."""
    passes = torch.ones(read.own.shape, dtype=torch.int8) if read.passes is None else read.passes
    found = [torch.where(passes == 0, 0.0, read.own), passes]
    found += [] if read.square is None else [read.square[:, None]]
    return found if read.rivals is None else [*found, read.rivals.room, read.rivals.size, read.rivals.bar]


@dataclass(frozen=True)
class SlotClasses:
    """Texts of the slots of one group, put together where the circuit cannot tell them apart, wherever they stand and whatever answers they make.

    Args:
        members: for each class, the indices of its texts.
    """

    members: tuple[tuple[int, ...], ...]


def slot_classes(
    made: TokenTemplate, middle: torch.Tensor, last: torch.Tensor, symbols: Symbols | None = None
) -> list[SlotClasses]:
    """For each slot of a template its classes; slots of a group have the same.

    Args:
        middle, last: `token_classes`. symbols: of the parts that these are of.
    """
    ending = made.units[-1]
    begun = {(unit.slot, unit.time): sorted(first) for unit, first in zip(made.units, starts(made)) if isinstance(unit, Place)}
    keys: dict[int, list[tuple[object, ...]]] = {}
    for slot, each in enumerate(made.template.slots):
        for i in range(len(each.texts)):
            key: list[object] = [slot]
            for time, piece in enumerate(made.pieces[slot][i]):
                ends = not isinstance(ending, int) and (ending.slot, ending.time) == (slot, time)
                for first in begun[slot, time] if symbols is not None else (0,):
                    rows = piece if symbols is None else [symbols.row(token, first + i) for i, token in enumerate(piece)]
                    key.append(_told(rows, middle, last if ends else middle))
            key += [answer.by_text[i] for answer in (made.right, made.wrong) if answer.slot == slot]
            keys.setdefault(each.group, [() for _ in each.texts])[i] += tuple(key)
    found = {}
    for group, told in keys.items():
        members: dict[tuple[object, ...], list[int]] = {}
        for i, each_key in enumerate(told):
            members.setdefault(each_key, []).append(i)
        found[group] = SlotClasses(tuple(tuple(each) for each in members.values()))
    return [found[each.group] for each in made.template.slots]


def _told(piece: Sequence[int], middle: torch.Tensor, ending: torch.Tensor) -> tuple[int, ...]:
    return (*(int(middle[token]) for token in piece[:-1]), *(int(ending[token]) for token in piece[-1:]))
