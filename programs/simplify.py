"""A circuit made simple enough to read, at a stated cost: norms and shares of attention become constants, AbsTopK nothing, small weights their means, GELU
a hinge, tables over tokens a few sets of tokens, numbers two digits. Each change is kept if the task loss stays within its part of what may be lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from ..circuits.outcome import losses
from .fold import folded
from .machine import logits_of
from .parts import MLP, Attention, Linear, Parts, Read, without_rivals
from .run import Seen, linear, run
from .symbols import alphabet, endings
from .tidy import tidied
from .tokens import TokenTemplate, random_assignment

SAMPLE = 384  # prompts that steps are decided on
_PHASES = ("AbsTopK", "norms", "weights", "queries", "hinges", "sets", "digits")
_SHARES = dict(zip(_PHASES, (0.2, 0.25, 0.5, 0.55, 0.6, 0.97, 1.0)))  # of what may be lost, by the end of each
_LEVELS = (1, 2, 3, 4, 6, 9, 9999)  # values that a table may have; the last: as many as the language's tokens have


@dataclass(frozen=True)
class Sampled:
    """Prompts of a language in groups of one length: (ids [n, tokens], columns of the right and the other answer [n, 2]); and all tokens of the language, and of
    its prompts' ends, as rows of the parts' tables."""

    groups: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    alphabet: torch.Tensor
    endings: torch.Tensor

    def loss(self, parts: Parts, seen: Seen | None = None) -> float:
        total, count = 0.0, 0
        for ids, columns in self.groups:
            logits = (logits_of(parts, ids) if seen is None else run(parts, ids, seen)).gather(1, columns)
            total, count = total + float(losses(logits).sum()), count + len(ids)
        return total / count

    def counts(self, parts: Parts, last: bool = False) -> torch.Tensor:
        """How often each row of tables is there, [vocab], for the last token of a prompt, or for all; those of the language at least once."""
        found = [
            parts.rows(ids[:, i], i) for ids, _ in self.groups for i in range(ids.shape[1]) if not last or i == ids.shape[1] - 1
        ]
        return torch.bincount(torch.cat([*found, self.endings if last else self.alphabet]), minlength=parts.vocab).double()


def sample_prompts(templates: Sequence[TokenTemplate], parts: Parts, count: int = SAMPLE, seed: int = 0) -> Sampled:
    """Random prompts, templates as often as they have prompts but each a few times; of each template those of its most common length."""
    random, place = Random(seed), {token: i for i, token in enumerate(parts.answers.tokens)}
    sizes = [each.template.count for each in templates]
    groups = []
    for each, size in zip(templates, sizes):
        wanted = max(16, round(count * size / sum(sizes)))
        by_length: dict[int, list[list[int]]] = {}
        for _ in range(3 * wanted):
            chosen = random_assignment(each.template, random)
            by_length.setdefault(len(each.ids(chosen)), []).append(chosen)
        rows = max(by_length.values(), key=len)[:wanted]
        ids = torch.tensor([each.ids(chosen) for chosen in rows])
        groups.append((ids, torch.tensor([[place[each.right.at(chosen)], place[each.wrong.at(chosen)]] for chosen in rows])))
    return Sampled(tuple(groups), alphabet(templates, parts.symbols), endings(templates, parts.symbols))


@dataclass(frozen=True)
class Step:
    """One kind of change: what was done, to how many places, and the task loss on the sample after it."""

    kind: str
    done: int
    of: int
    loss: float


def simplified(parts: Parts, sample: Sampled, bound: float) -> tuple[Parts, list[Step]]:
    """Parts that lose at most `bound` nats of task loss on the sample, and what was changed."""
    with torch.no_grad():
        start = sample.loss(parts)
        steps = [Step("nothing", 0, 0, start)]
        for phase in _PHASES:
            limit = start + bound * _SHARES[phase]
            parts, step = _phase(phase, parts, sample, limit)
            steps.append(step)
    return parts, steps


def _phase(kind: str, parts: Parts, sample: Sampled, limit: float) -> tuple[Parts, Step]:
    done = of = 0
    loss = sample.loss(parts)
    for change in _CHANGES[kind](parts, sample):
        made = change(parts)
        if made is None:
            continue
        of += 1
        found = sample.loss(made)
        if found <= limit:
            parts, loss, done = made, found, done + 1
    return tidied(folded(tidied(parts))), Step(kind, done, of, loss)


Change = Callable[[Parts], "Parts | None"]


def _with(parts: Parts, i: int, **fields: Any) -> Parts:
    """With fields of one sublayer replaced; -1: of the answers."""
    if i < 0:
        return dataclasses.replace(parts, answers=dataclasses.replace(parts.answers, **fields))
    sublayers = list(parts.sublayers)
    sublayers[i] = dataclasses.replace(sublayers[i], **fields)
    return dataclasses.replace(parts, sublayers=tuple(sublayers))


def _maps(parts: Parts) -> Iterator[tuple[int, str, Linear]]:
    """(sublayer, name of its field, map) of every map."""
    for i, each in enumerate(parts.sublayers):
        if isinstance(each, MLP):
            yield from ((i, "neurons", each.neurons), (i, "write", each.write))
        else:
            yield i, "write", each.write
            yield from ((i, kind, map_) for kind, map_ in (each.maps or {}).items())


def _set_map(parts: Parts, i: int, name: str, map_: Linear) -> Parts:
    each = parts.sublayers[i]
    if isinstance(each, Attention) and name != "write":
        return _with(parts, i, maps={**(each.maps or {}), name: map_})
    return _with(parts, i, **{name: map_})


def _map(parts: Parts, i: int, name: str) -> Linear:
    each = parts.sublayers[i]
    return (each.maps or {})[name] if isinstance(each, Attention) and name != "write" else getattr(each, name)


def _reads(parts: Parts) -> Iterator[tuple[int, Read]]:
    for i, each in enumerate(parts.sublayers):
        if each.read is not None and not (isinstance(each, Attention) and each.tables is not None):
            yield i, each.read
    yield -1, parts.answers.read


def _topk(parts: Parts, sample: Sampled) -> Iterator[Change]:
    """Nothing in AbsTopK's place, or, where that costs too much, a size below which nodes are dropped."""
    for i, name, map_ in list(_maps(parts)):
        if map_.k is not None:
            yield lambda now, i=i, name=name: _set_map(now, i, name, without_rivals(_map(now, i, name)))  # type: ignore[misc]
            for least in _sizes(map_, parts, sample):
                yield lambda now, i=i, name=name, least=least: _thresholded(now, i, name, least)  # type: ignore[misc]
    for i, read in list(_reads(parts)):
        if read.rivals is not None or read.passes is not None:
            yield lambda now, i=i: _with(now, i, read=dataclasses.replace(_read(now, i), rivals=None, passes=None))  # type: ignore[misc]


def _sizes(map_: Linear, parts: Parts, sample: Sampled) -> list[float]:
    """Sizes that split what AbsTopK keeps of a map's nodes from what it drops, on the sample: quantiles of what it keeps, and of what it drops."""
    seen: Seen = {}
    sample.loss(parts, seen)
    values = torch.cat(seen[map_.name])
    kept, free = linear(map_, values), linear(without_rivals(map_), values)
    sizes = [free[kept != 0].abs(), free[(kept == 0) & (free != 0)].abs()]
    points = torch.tensor([0.0, 0.02, 0.1, 0.5, 0.9, 0.98, 1.0], dtype=torch.float64)
    return sorted({float(x) for each in sizes if len(each) for x in each.quantile(points)}) if all(map(len, sizes)) else []


def _thresholded(parts: Parts, i: int, name: str, least: float) -> Parts | None:
    map_ = _map(parts, i, name)
    return None if map_.k is None else _set_map(parts, i, name, dataclasses.replace(without_rivals(map_), least=least))


def _read(parts: Parts, i: int) -> Read:
    read = parts.answers.read if i < 0 else parts.sublayers[i].read
    assert read is not None
    return read


def _norms(parts: Parts, sample: Sampled) -> Iterator[Change]:
    seen: Seen = {}
    sample.loss(parts, seen)
    for i, read in list(_reads(parts)):
        if read.scale is None and f"{read.name}:scale" in seen:
            mean = float(torch.cat(seen[f"{read.name}:scale"]).mean())
            yield lambda now, i=i, mean=mean: _with(now, i, read=dataclasses.replace(_read(now, i), scale=mean, square=None))  # type: ignore[misc]


def _weights(parts: Parts, sample: Sampled) -> Iterator[Change]:
    """Each weight, from the one that moves least: nothing in its place but what it adds on average."""
    seen: Seen = {}
    sample.loss(parts, seen)
    found = []
    for i, name, map_ in _maps(parts):
        if map_.name not in seen:
            continue
        values = torch.cat(seen[map_.name])
        mean, spread = values.mean(0), (values - values.mean(0)).square().mean(0).sqrt()
        for row, column in map_.weight[: len(map_.nodes)].nonzero().tolist():
            found.append((abs(float(map_.weight[row, column] * spread[column])), i, name, row, column, float(mean[column])))
    answers, values = parts.answers, torch.cat(seen[parts.answers.read.name])
    for column in range(answers.weight.shape[1]):
        moves = float(
            (answers.weight[:, column].max() - answers.weight[:, column].min())
            * values[:, column].std(correction=0)
            * (answers.read.scale or 1.0)
        )
        found.append((abs(moves), -1, "", 0, column, float(values[:, column].mean())))
    for _, i, name, row, column, usual in sorted(found):
        yield lambda now, i=i, name=name, row=row, column=column, usual=usual: _without(now, i, name, row, column, usual)  # type: ignore[misc]


def _without(parts: Parts, i: int, name: str, row: int, column: int, mean: float) -> Parts | None:
    if i < 0:
        weight, held = parts.answers.weight.clone(), parts.answers.held + parts.answers.weight[:, column] * mean
        weight[:, column] = 0
        return _with(parts, -1, weight=weight, held=held)
    map_ = _map(parts, i, name)
    weight, bias = map_.weight.clone(), map_.bias.clone()
    if not float(weight[row, column]):
        return None
    bias[row] += weight[row, column] * mean
    weight[row, column] = 0
    return _set_map(parts, i, name, dataclasses.replace(map_, weight=weight, bias=bias))


def _queries(parts: Parts, sample: Sampled) -> Iterator[Change]:
    """Scores that no longer depend on the query, then keys that no longer matter to a head."""
    seen: Seen = {}
    sample.loss(parts, seen)
    for i, each in enumerate(parts.sublayers):
        if isinstance(each, Attention):
            mean = torch.cat(seen[f"{each.layer}:queries"]).mean(0)
            for h in range(len(each.heads)):
                yield lambda now, i=i, h=h, mean=mean: _steady(now, i, h, mean)  # type: ignore[misc]
                yield lambda now, i=i, h=h: _keyless(now, i, h)  # type: ignore[misc]


def _steady(parts: Parts, i: int, h: int, mean: torch.Tensor) -> Parts | None:
    each = parts.sublayers[i]
    assert isinstance(each, Attention)
    head = each.heads[h]
    if not len(head.queries):
        return None
    asked = mean[head.queries]
    kept = head.keys >= 0
    made = dataclasses.replace(
        head, queries=head.queries[:0], keys=head.keys[:0], key_constants=head.key_constants[:0],
        lone=torch.cat([head.lone, head.keys[kept]]), lone_queries=torch.cat([head.lone_queries, asked[kept]]),
        constant=head.constant + float(asked[~kept] @ head.key_constants[~kept]),
    )  # fmt: skip
    return _with(parts, i, heads=(*each.heads[:h], made, *each.heads[h + 1 :]))


def _keyless(parts: Parts, i: int, h: int) -> Parts | None:
    each = parts.sublayers[i]
    assert isinstance(each, Attention)
    head = each.heads[h]
    if not len(head.lone) or len(head.queries) or each.tables is None:
        return None
    means = each.tables["k"].mean(0)[head.lone]
    made = dataclasses.replace(
        head, lone=head.lone[:0], lone_queries=head.lone_queries[:0], constant=head.constant + float(means @ head.lone_queries)
    )
    return _with(parts, i, heads=(*each.heads[:h], made, *each.heads[h + 1 :]))


def _hinges(parts: Parts, sample: Sampled) -> Iterator[Change]:
    for i, name, map_ in list(_maps(parts)):
        if map_.activation in ("gelu", "gelu_tanh"):
            yield lambda now, i=i, name=name: _set_map(now, i, name, dataclasses.replace(_map(now, i, name), activation="relu"))  # type: ignore[misc]


@dataclass(frozen=True)
class _Table:
    """A column over tokens: how to get and set it, how much each token counts there [vocab], and whether it is a score, of which the exponential matters."""

    get: Callable[[Parts], torch.Tensor]
    put: Callable[[Parts, torch.Tensor], Parts]
    counts: torch.Tensor
    score: bool = False


def _tables(parts: Parts, sample: Sampled) -> Iterator[_Table]:
    deepest = max((each.layer for each in parts.sublayers if isinstance(each, Attention)), default=-1)
    every, last = sample.counts(parts), sample.counts(parts, last=True)
    for i, each in enumerate(parts.sublayers):
        if isinstance(each, Attention) and each.tables is not None:
            yield from _attention_tables(i, each, every, last if each.layer == deepest else every)
    for i, read in _reads(parts):
        late = (
            i < 0
            or parts.sublayers[i].layer > deepest
            or (isinstance(parts.sublayers[i], MLP) and parts.sublayers[i].layer >= deepest)
        )
        for c in (read.written < 0).nonzero()[:, 0].tolist():
            yield _Table(
                lambda now, i=i, c=c: _read(now, i).own[:, c],  # type: ignore[misc]
                lambda now, x, i=i, c=c: _with(
                    now, i, read=dataclasses.replace(_read(now, i), own=_column(_read(now, i).own, c, x))
                ),  # type: ignore[misc]
                last if late else every,
            )
    for c in range(parts.stream.shape[1]):
        yield _Table(
            lambda now, c=c: now.stream[:, c],  # type: ignore[misc]
            lambda now, x, c=c: dataclasses.replace(now, stream=_column(now.stream, c, x)),  # type: ignore[misc]
            every if deepest > 0 else last,
        )
    for c in range(0 if parts.answers.table is None else parts.answers.table.shape[1]):
        yield _Table(
            lambda now, c=c: now.answers.table[:, c],  # type: ignore[misc]
            lambda now, x, c=c: _with(now, -1, table=_column(now.answers.table, c, x)),  # type: ignore[misc]
            last,
        )


def _attention_tables(i: int, each: Attention, every: torch.Tensor, asking: torch.Tensor) -> Iterator[_Table]:
    assert each.tables is not None
    scores = {int(head.lone[0]) for head in each.heads if len(head.lone) == 1 and not len(head.queries)}
    moved = {
        int(v): int(head.lone[0]) for head in each.heads if len(head.lone) == 1 and not len(head.queries) for v in head.values
    }
    for kind in "qkv":
        for c in range(each.tables[kind].shape[1]):
            counts = asking if kind == "q" else every
            if kind == "v" and c in moved:  # a value counts as much as the head looks at its token
                score = each.tables["k"][:, moved[c]]
                counts = every * (score - score[every > 0].max()).exp()
            yield _Table(
                lambda now, i=i, kind=kind, c=c: now.sublayers[i].tables[kind][:, c],  # type: ignore[misc]
                lambda now, x, i=i, kind=kind, c=c: _with(
                    now, i, tables={**now.sublayers[i].tables, kind: _column(now.sublayers[i].tables[kind], c, x)}
                ),  # type: ignore[misc]
                counts,
                kind == "k" and c in scores,
            )


def _column(table: torch.Tensor, c: int, values: torch.Tensor) -> torch.Tensor:
    made = table.clone()
    made[:, c] = values
    return made


def _sets(parts: Parts, sample: Sampled) -> Iterator[Change]:
    """Each table with as few values as will do; tokens that the language does not have there take the most common one."""
    for table in list(_tables(parts, sample)):
        for levels in _LEVELS:
            yield lambda now, table=table, levels=levels: _grouped(now, table, levels)  # type: ignore[misc]


def _grouped(parts: Parts, table: _Table, levels: int) -> Parts | None:
    values = table.get(parts)
    there = values[table.counts > 0].unique()
    if len(values.unique()) <= levels or (levels > 1 and len(there) < levels and levels != _LEVELS[-1]):
        return None
    return table.put(parts, _levels(values, table.counts, levels, table.score))


def _levels(values: torch.Tensor, counts: torch.Tensor, levels: int, score: bool = False) -> torch.Tensor:
    """Values brought to so many, by weighted means of groups (Lloyd, 1982), from quantiles on; scores by their exponentials. The last of `_LEVELS` leaves
    what counts as it is."""
    there = counts > 0
    own, weight = values[there], counts[there]
    top = float(own.max()) if score else 0.0
    own = (own - top).exp() if score else own
    if levels == _LEVELS[-1]:
        centres = own.unique()
    else:
        order = own.sort().values
        places = torch.linspace(0, len(order) - 1, levels).round().long()
        spread = torch.linspace(float(order[0]), float(order[-1]), levels, dtype=torch.float64)
        centres = min(
            (_centres(own, weight, start) for start in (order[places].unique(), spread)), key=lambda c: _cost(own, weight, c)
        )
    nearest = (own[:, None] - centres).abs().argmin(1)
    centres = centres.clamp(min=1e-30).log() + top if score else centres
    usual = centres[torch.bincount(nearest).argmax()]
    made = torch.full_like(values, float(usual))
    made[there] = centres[nearest]
    return made


def _centres(own: torch.Tensor, weight: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    for _ in range(50):
        nearest = (own[:, None] - centres).abs().argmin(1)
        total = torch.zeros_like(centres).index_add_(0, nearest, weight)
        sums = torch.zeros_like(centres).index_add_(0, nearest, weight * own)
        centres = torch.where(total > 0, sums / total.clamp(min=1e-300), centres)
    return centres


def _cost(own: torch.Tensor, weight: torch.Tensor, centres: torch.Tensor) -> float:
    return float((weight * (own[:, None] - centres).square().amin(1)).sum())


def _digits(parts: Parts, sample: Sampled) -> Iterator[Change]:
    for digits in (2, 3):
        yield lambda now, digits=digits: None if _rounded(now) else round_parts(now, digits)  # type: ignore[misc]


def _rounded(parts: Parts) -> bool:
    return bool((parts.answers.weight == _round(parts.answers.weight, 2)).all())


def _round(x: torch.Tensor, digits: int) -> torch.Tensor:
    size = torch.where(x == 0, 1.0, x.abs())
    factor = 10.0 ** (digits - 1 - size.log10().floor())
    return torch.where(x.isfinite(), (x * factor).round() / factor, x)


def round_parts(parts: Parts, digits: int) -> Parts:
    """Every number to so many digits."""

    def all_of(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            return _round(x, digits) if x.is_floating_point() else x
        if isinstance(x, float):
            return float(_round(torch.tensor(x, dtype=torch.float64), digits))
        if isinstance(x, tuple):
            return tuple(all_of(each) for each in x)
        if isinstance(x, dict):
            return {key: all_of(each) for key, each in x.items()}
        if dataclasses.is_dataclass(x) and not isinstance(x, type):
            return dataclasses.replace(x, **{f.name: all_of(getattr(x, f.name)) for f in dataclasses.fields(x)})
        return x

    return all_of(parts)


_CHANGES: dict[str, Callable[[Parts, Sampled], Iterator[Change]]] = {
    "AbsTopK": _topk, "norms": _norms, "weights": _weights, "queries": _queries, "hinges": _hinges, "sets": _sets, "digits": _digits,
}  # fmt: skip
