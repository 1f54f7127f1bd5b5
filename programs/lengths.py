"""Prompts of any length: what a circuit does however often a part of a prompt is repeated, bounded rigorously.

Attention is a weighted average. What one head makes of a prompt in which a part stands n times is, over all texts that the parts can hold, between two
extremes that move one way as n grows: so bounds at two numbers of repetitions hold for all between them, and those at infinity for all beyond.
Texts of different places are taken as independent, which allows more prompts than the language has, never fewer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .parts import Answers, Attention, Head, Parts
from .ranges import Interval, linear_range, read_range, wider
from .tokens import Place, TokenTemplate

Choices = tuple[tuple[int, ...], ...]  # token ids of each text that a place can hold
_ROUNDS = 100
_ENDLESS = math.inf


@dataclass(frozen=True)
class Repeated:
    """Prompts before + piece * n + after, each a sequence of places; `template` is the one with the fewest repetitions."""

    before: tuple[Choices, ...]
    piece: tuple[Choices, ...]
    after: tuple[Choices, ...]
    template: TokenTemplate


def repetitions(templates: Sequence[TokenTemplate]) -> list[Repeated]:
    """Parts that some template has once more than another that is like it in all else, answers too."""
    found: dict[tuple[object, ...], Repeated] = {}
    for short in templates:
        for long in templates:
            more = len(long.units) - len(short.units)
            if more <= 0 or (short.right.token, short.wrong.token) != (long.right.token, long.wrong.token):
                continue
            one, other = _places(short), _places(long)
            at = next((i for i in range(1, len(one)) if one[:i] == other[:i] and one[i:] == other[i + more :]), None)
            if at is None or any(each.slot is not None for t in (short, long) for each in (t.right, t.wrong)):
                continue
            piece = other[at : at + more]
            key = (short.right.token, short.wrong.token, piece, one[at:])
            if key not in found or len(short.units) < len(found[key].template.units):
                found[key] = Repeated(one[:at], piece, one[at:], short)
    return list(found.values())


def _places(made: TokenTemplate) -> tuple[Choices, ...]:
    return tuple(((unit,),) if isinstance(unit, int) else _texts(made, unit) for unit in made.units)


def _texts(made: TokenTemplate, unit: Place) -> Choices:
    return tuple(sorted({text[unit.time] for text in made.pieces[unit.slot]}))


def margins(parts: Parts, repeated: Repeated, low: int, high: float = _ENDLESS) -> tuple[float, float]:
    """Between what the margin lies for every prompt with `low` to `high` repetitions, math.inf for no end.

    Raises:
        ValueError: for a circuit whose keys or values, beyond the first layer, depend on what came before.
    """
    if parts.symbols is not None:
        raise ValueError(
            "The model has positions, so a part that is repeated is another one each time; bounds over lengths are for models without."
        )
    for each in parts.sublayers:
        if isinstance(each, Attention) and each.tables is None and (len(each.nodes["k"]) or len(each.nodes["v"])):
            raise ValueError(
                f"Layer {each.layer} attends to what earlier attention wrote; bounds over lengths are for circuits that attend to tokens alone."
            )
    found = [_of_ending(parts, repeated, ending, low, high) for ending in repeated.after[-1]]
    return min(each[0] for each in found), max(each[1] for each in found)


def _of_ending(parts: Parts, repeated: Repeated, ending: tuple[int, ...], low: int, high: float) -> tuple[float, float]:
    last = torch.tensor([ending[-1]])
    around = [*repeated.before, *repeated.after[:-1], (ending,)]
    stream: Interval = (parts.stream[last], parts.stream[last])
    for each in parts.sublayers:
        if isinstance(each, Attention):
            sources = _attended(each, last, around, repeated.piece, low, high, stream)
            written = linear_range(each.write, sources)
        else:
            written = linear_range(each.write, linear_range(each.neurons, read_range(each.read, last, stream)))
        places = torch.searchsorted(parts.channels, each.write.nodes)
        stream = stream[0].index_add(1, places, written[0]), stream[1].index_add(1, places, written[1])
    made = repeated.template
    right, wrong = (parts.answers.tokens.index(answer.token) for answer in (made.right, made.wrong))
    return _margin(parts.answers, last, stream, right, wrong)


def _attended(
    each: Attention,
    last: torch.Tensor,
    around: Sequence[Choices],
    piece: Sequence[Choices],
    low: int,
    high: float,
    stream: Interval,
) -> Interval:
    """What attention writes from, [1, sources], at the last token."""
    count = len(each.nodes["v"])
    least, most = torch.zeros(1, count, dtype=torch.float64), torch.zeros(1, count, dtype=torch.float64)
    shares: list[tuple[float, float]] = []
    for head in each.heads:
        if each.tables is None:
            shares += [_steady_share(each, head, last, around, piece, low, high, stream)] if head.shared else []
            continue
        sums = _Sums.of(each, head, int(last), around, piece)
        if len(head.values):
            ends = torch.stack([sums.averages(n, sign) for n in (low, high) for sign in (1.0, -1.0)])
            least[0, head.values], most[0, head.values] = ends.amin(0), ends.amax(0)
        shares += [sums.share(low, high)] if head.shared else []
    if shares:
        least = torch.cat([least, torch.tensor([[share[0] for share in shares]], dtype=torch.float64)], 1)
        most = torch.cat([most, torch.tensor([[share[1] for share in shares]], dtype=torch.float64)], 1)
    return wider((least, most))


@dataclass(frozen=True)
class _Sums:
    """For one head and last token: for each place, for each text, the sum of weights and of weights times values.

    Args:
        around, piece: (weights [places, texts], weighted values [places, texts, values]). sink: its weight, 0 without one.
    """

    around: tuple[torch.Tensor, torch.Tensor]
    piece: tuple[torch.Tensor, torch.Tensor]
    sink: float

    @classmethod
    def of(cls, each: Attention, head: Head, last: int, around: Sequence[Choices], piece: Sequence[Choices]) -> _Sums:
        assert each.tables is not None
        q, k, v = (each.tables[kind] for kind in "qkv")
        scores = torch.full((len(k),), head.constant, dtype=torch.float64)
        if len(head.queries):
            keys = torch.where(
                head.keys >= 0, k[:, head.keys.clamp(min=0)] if k.shape[1] else head.key_constants, head.key_constants
            )
            scores = scores + keys.expand(len(k), -1) @ q[last, head.queries]
        if len(head.lone):
            scores = scores + k[:, head.lone] @ head.lone_queries
        scores = each.scaling * scores
        there = torch.tensor(sorted({token for place in (*around, *piece) for text in place for token in text}))
        largest = float(scores[there].max()) if head.sink is None else max(float(scores[there].max()), head.sink)
        weights = (scores - largest).exp()
        weighted = weights[:, None] * v[:, head.values]

        def summed(places: Sequence[Choices]) -> tuple[torch.Tensor, torch.Tensor]:
            most = max(map(len, places))
            texts = [
                [torch.tensor(text, dtype=torch.int64) for text in (*place, *place[:1] * (most - len(place)))]
                for place in places
            ]
            return (
                torch.stack([torch.stack([weights[text].sum() for text in place]) for place in texts]),
                torch.stack([torch.stack([weighted[text].sum(0) for text in place]) for place in texts]),
            )

        return cls(summed(around), summed(piece), 0.0 if head.sink is None else math.exp(head.sink - largest))

    def averages(self, times: float, sign: float) -> torch.Tensor:
        """The largest (sign 1) or smallest (-1) average of each value at so many repetitions, over all texts, [values].

        A ratio of sums over independent choices: at the best ratio y the best choices of weighted - y * weight sum to nothing (Dinkelbach, 1967)."""
        parts = [(*self.piece, 1.0)] if times == _ENDLESS else [(*self.around, 1.0), (*self.piece, float(times))]
        y = torch.zeros(self.around[1].shape[2], dtype=torch.float64)
        for _ in range(_ROUNDS):
            weight = torch.full_like(y, 0.0 if times == _ENDLESS else self.sink)
            total = torch.zeros_like(y)
            for weights, weighted, count in parts:
                best = (sign * weighted - y * weights[..., None]).argmax(1)  # [places, values]
                weight = weight + count * weights.gather(1, best).sum(0)
                total = total + count * sign * weighted.gather(1, best[:, None]).sum((0, 1))
            before, y = y, total / weight
            if torch.equal(before, y):
                break
        return sign * y

    def share(self, low: float, high: float) -> tuple[float, float]:
        """What the sink leaves."""
        ends = []
        for times, which in ((low, torch.min), (high, torch.max)):
            if times == _ENDLESS:
                ends.append(1.0)
                continue
            total = float(which(self.around[0], 1).values.sum()) + times * float(which(self.piece[0], 1).values.sum())
            ends.append(total / (total + self.sink))
        return ends[0], ends[1]


def _steady_share(
    each: Attention,
    head: Head,
    last: torch.Tensor,
    around: Sequence[Choices],
    piece: Sequence[Choices],
    low: int,
    high: float,
    stream: Interval,
) -> tuple[float, float]:
    """The share that the sink leaves in a head whose keys are all constant: by the number of tokens, and the query."""
    assert each.read is not None
    assert each.maps is not None
    assert head.sink is not None
    queries = linear_range(each.maps["q"], read_range(each.read, last, stream))
    scores = [head.constant, head.constant]
    for q, constant in zip(head.queries.tolist(), head.key_constants.tolist()):
        ends = sorted((float(queries[0][0, q]) * constant, float(queries[1][0, q]) * constant))
        scores = [scores[0] + ends[0], scores[1] + ends[1]]
    found = []
    for times, score, which in ((low, min(scores), min), (high, max(scores), max)):
        if times == _ENDLESS:
            found.append(1.0)
            continue
        tokens = sum(which(map(len, place)) for place in around) + times * sum(which(map(len, place)) for place in piece)
        weight = tokens * math.exp(min(each.scaling * score - head.sink, 700.0))
        found.append(weight / (weight + 1.0))
    return found[0], found[1]


def _margin(answers: Answers, last: torch.Tensor, stream: Interval, right: int, wrong: int) -> tuple[float, float]:
    read = answers.read
    raw = read_range(read, last, stream, gained=False)
    weight, held = answers.weight[right] - answers.weight[wrong], float(answers.held[right] - answers.held[wrong])
    low = raw[0] @ weight.clamp(min=0) + raw[1] @ weight.clamp(max=0) + held
    high = raw[1] @ weight.clamp(min=0) + raw[0] @ weight.clamp(max=0) + held
    scales = [read.scale, read.scale]
    if read.scale is None:
        squares = raw[0].square(), raw[1].square()
        least = torch.where((raw[0] <= 0) & (raw[1] >= 0), 0.0, torch.minimum(*squares)).sum()
        most = torch.maximum(*squares).sum()
        scales = [float(((total + answers.held_square) / read.width + read.eps) ** -0.5) for total in (most, least)]
    ends = [float(end) * float(scale) for end in (low, high) for scale in scales]  # type: ignore[arg-type]
    more = float(answers.bias[right] - answers.bias[wrong])
    more += 0.0 if answers.table is None else float(answers.table[last, right] - answers.table[last, wrong])
    slack = 1e-9 * (1 + max(map(abs, ends)))
    return min(ends) + more - slack, max(ends) + more + slack


def by_length(parts: Parts, repeated: Repeated, each: int = 8, doublings: int = 9) -> list[tuple[int, float, float, float]]:
    """(from, to, least margin, largest margin): for each number of repetitions up to `each`, then for ranges that double, and for all beyond."""
    ranges: list[tuple[int, float]] = [(n, n) for n in range(each + 1)]
    for _ in range(doublings):
        begun = int(ranges[-1][1]) + 1
        ranges.append((begun, 2 * begun))
    ranges.append((int(ranges[-1][1]) + 1, _ENDLESS))
    return [(low, high, *margins(parts, repeated, low, high)) for low, high in ranges]
