"""Circuits in which one sublayer alone takes in other tokens, with tables: what it makes of a prompt is a sum over tokens of what each brings by itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .parts import Attention, Parts
from .run import attention_scores, share_alone

_WIDEST = 600.0  # nats between scores: exp of them has to stay a float64 by far


class TooFarApart(ValueError):
    """Scores that cannot be added up as exp of them."""


@dataclass
class Total:
    """What tokens have brought so far, [n, columns of `Contributions`]."""

    brought: torch.Tensor

    def at(self, rows: torch.Tensor) -> Total:
        return Total(self.brought[rows])


def can_sum(parts: Parts) -> bool:
    """Whether the first sublayer, an attention with tables, is the only one that takes in other tokens."""
    taking = [isinstance(each, Attention) and not each.alone for each in parts.sublayers]
    return sum(taking) == 1 and taking[0] and parts.sublayers[0].tables is not None  # type: ignore[union-attr]


def asking(parts: Parts, rows: torch.Tensor) -> torch.Tensor:
    """For each of some rows of tables, a number that is the same for rows whose queries are, [rows]."""
    first = parts.sublayers[0]
    assert isinstance(first, Attention)
    assert first.tables is not None
    q = first.tables["q"][rows]
    return q.unique(dim=0, return_inverse=True)[1] if q.shape[1] else torch.zeros(len(rows), dtype=torch.int64)


class Contributions:
    """What each row of tables brings to prompts of `count` tokens that end with a row that asks as `last` does: for each head exp(score), and exp(score) times each kept value.

    Attributes:
        by_row: [vocab, columns].

    Raises:
        TooFarApart: where scores differ by more than exp can hold.
    """

    def __init__(self, parts: Parts, last: int, count: int):
        first = parts.sublayers[0]
        assert isinstance(first, Attention)
        assert first.tables is not None
        q, k, v = (first.tables[kind] for kind in "qkv")
        self.heads, self.width = first.heads, v.shape[1]
        columns, self.sinks, self.steady = [], [], {}
        for head in self.heads:
            if head.alone:
                self.steady[head.index] = share_alone(head, first.scaling, q[last][None], count)
                continue
            scores = attention_scores(head, first.scaling, q[last][None], k[None])[0]
            most = float(scores.max()) if head.sink is None else max(float(scores.max()), head.sink)
            if not most - float(scores.min()) < _WIDEST:
                raise TooFarApart(f"Head {head.index} has scores that are over {_WIDEST:g} apart, which cannot be added up.")
            share = (scores - most).exp()
            self.sinks.append(None if head.sink is None else torch.tensor(head.sink - most, dtype=torch.float64).exp())
            columns += [share[:, None], share[:, None] * v[:, head.values]]
        self.by_row = torch.cat(columns, 1)

    def sources(self, brought: torch.Tensor) -> torch.Tensor:
        """Of what the first sublayer writes, [n, sources], by sums over prompts' tokens [n, columns]."""
        out, shares, at = torch.zeros(len(brought), self.width, dtype=torch.float64), [], 0
        sinks = iter(self.sinks)
        for head in self.heads:
            if head.alone:
                shares += [self.steady[head.index].expand(len(brought), 1)] if head.shared else []
                continue
            sink = next(sinks)
            share = brought[:, at : at + 1]
            attended = share if sink is None else share + sink
            out[:, head.values] = brought[:, at + 1 : at + 1 + len(head.values)] / attended
            if head.shared:
                shares.append(share / attended)
            at += 1 + len(head.values)
        return torch.cat([out, *shares], 1)
