"""Every prompt of a language through a circuit: what it gets right, by value, and where it is worst.

Prompts are a tree: what they begin with in common is run once. Texts that the circuit cannot tell apart are run once too, and counted as often as they are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from ..kernels import prompt_kernel
from .classes import SlotClasses, slot_classes, token_classes
from .machine import Machine, Prompts
from .parts import Parts
from .ranges import specialised
from .run import State, begin, conclude, step
from .sums import Contributions, TooFarApart, Total, asking, can_sum
from .symbols import alphabet, symbols_of
from .tabulate import tabulated
from .tokens import Answer, Place, TokenTemplate, longest

CHUNK = 32_768  # prompts at a time
WORST = 20
DRAWN = 256  # prompts of each kind that are kept, by default
MARGIN = 1e-7  # nats: a smaller margin than this, either way, counts as not right; float64 rounding is far below


def answer_tokens(templates: Sequence[TokenTemplate]) -> list[int]:
    return sorted({token for each in templates for a in (each.right, each.wrong) for token in (a.token, *a.by_text)})


@dataclass
class Tally:
    """What came out for one template.

    Args:
        count: prompts, as assignments of texts to slots. run: how many were run; the others cannot be told from one of them by the circuit.
        right: of `count`, those whose right answer has the larger logit by more than `MARGIN`. loss: mean pairwise loss, nats.
        smallest: margin, over all prompts; worst: (margin, text indices by slot), ascending.
        by_text: for each slot that is in the prompt, for each text index, (right, count).
        drawn: text indices of prompts that are right, and that are not, at random: {True: [...], False: [...]}.
    """

    template: TokenTemplate
    count: int = 0
    run: int = 0
    right: int = 0
    loss: float = 0.0
    worst: list[tuple[float, tuple[int, ...]]] = field(default_factory=list)
    by_text: dict[int, dict[int, tuple[int, int]]] = field(default_factory=dict)
    drawn: dict[bool, list[tuple[int, ...]]] = field(default_factory=dict)

    @property
    def smallest(self) -> float:
        return self.worst[0][0] if self.worst else float("inf")


def runs(parts: Parts, templates: Sequence[TokenTemplate]) -> list[int]:
    """How many prompts `certify` runs for each template, about: an upper bound that forgets that texts of a group differ."""
    return [math.prod(len(each.members) for each in classes) for classes in told_parts(parts, templates)[1]]


def certify(
    parts: Parts, templates: Sequence[TokenTemplate], tell: Callable[[int], None] = lambda count: None, drawn: int = DRAWN
) -> list[Tally]:
    """Every prompt of each template through the circuit, whose answers have to be those of the language (`answer_tokens`).

    Args:
        tell: called with how many prompts have been run since it was called last.
        drawn: prompts of each kind, right and not, that are kept for the whole model to see.
    """
    with torch.no_grad():
        small, classes = told_parts(parts, templates)
        return [_tally(small, each, own, tell, drawn) for each, own in zip(templates, classes)]


def _tally(
    parts: Parts, template: TokenTemplate, classes: Sequence[SlotClasses], tell: Callable[[int], None], drawn: int
) -> Tally:
    if can_sum(parts):
        try:
            return _Sums(parts, template, classes, tell, drawn).tally()
        except TooFarApart:
            pass
    return (_Walk if prompt_kernel() is None else _Rows)(parts, template, classes, tell, drawn).tally()


def told_parts(parts: Parts, templates: Sequence[TokenTemplate]) -> tuple[Parts, list[list[SlotClasses]]]:
    """The circuit on prompts of these templates alone, with tables of what it can be, and each template's classes of texts."""
    symbols = parts.symbols or symbols_of(templates)
    small = specialised(parts, alphabet(templates, parts.symbols))
    small = tabulated(small, symbols)
    every = alphabet(templates, symbols)
    small = specialised(small, every)  # again, now that more is known
    middle, last = token_classes(small, last=False), token_classes(small, last=True)
    return small, [slot_classes(each, middle, last, symbols) for each in templates]


@dataclass
class _Batch:
    """Prompts on their way: state, the class chosen for each slot [n, slots] (-1: not yet), and for how many prompts each stands [n]."""

    state: State | Prompts | Total
    chosen: torch.Tensor
    weight: torch.Tensor

    def at(self, rows: torch.Tensor) -> _Batch:
        return _Batch(self.state.at(rows), self.chosen[rows], self.weight[rows])


class _Walk:
    """One template's tree of prompts, depth first in chunks."""

    def __init__(
        self, parts: Parts, template: TokenTemplate, classes: Sequence[SlotClasses], tell: Callable[[int], None], drawn: int
    ):
        self.parts, self.template, self.classes, self.tell, self.drawn = parts, template, classes, tell, drawn
        self.sizes = [torch.tensor([len(each) for each in c.members]) for c in classes]
        self.groups = torch.tensor([slot.group for slot in template.template.slots])
        self.place = {token: i for i, token in enumerate(parts.answers.tokens)}
        self.found = Tally(template)
        self._generator = torch.Generator().manual_seed(0)
        self._keys = {kind: torch.zeros(0, dtype=torch.float64) for kind in (True, False)}
        self._rows = {kind: torch.zeros(0, len(classes), dtype=torch.int64) for kind in (True, False)}
        self.start: State | Prompts = begin()
        self._sums = {slot: torch.zeros(2, len(c.members), dtype=torch.float64) for slot, c in enumerate(classes)}

    def tally(self) -> Tally:
        slots = len(self.template.template.slots)
        start = _Batch(self.start, torch.full((1, slots), -1), torch.ones(1, dtype=torch.int64))
        self.walk(start, 0)
        found = self.found
        found.loss /= max(1, found.count)
        found.drawn = {kind: [self.texts(row) for row in rows.tolist()] for kind, rows in self._rows.items()}
        prompt_slots = {unit.slot for unit in self.template.units if isinstance(unit, Place)}
        for slot in sorted(prompt_slots):
            right, count = self._sums[slot]
            found.by_text[slot] = {
                text: (int(right[i] / len(members)), int(count[i] / len(members)))
                for i, members in enumerate(self.classes[slot].members) for text in members
            }  # fmt: skip
        return found

    def walk(self, batch: _Batch, at: int) -> None:
        units = self.template.units
        if at == len(units):
            return
        unit, final = units[at], at == len(units) - 1
        if isinstance(unit, int):
            self.go(batch, torch.full((len(batch.weight), 1), unit), at, final)
            return
        for part in self.expanded(batch, unit.slot):
            first = int(part.chosen[0, unit.slot])
            length = len(self.piece(unit, first))
            table = torch.tensor([self.padded(unit, c, length) for c in range(len(self.classes[unit.slot].members))]).view(
                -1, length
            )
            self.go(part, table[part.chosen[:, unit.slot]], at, final)

    def go(self, batch: _Batch, tokens: torch.Tensor, at: int, final: bool) -> None:
        """A unit's tokens [n, length], and what follows."""
        state, logits = batch.state, None
        assert isinstance(state, State)
        for i in range(tokens.shape[1]):
            state, logits = step(self.parts, state, tokens[:, i], last=final and i == tokens.shape[1] - 1)
        batch = _Batch(state, batch.chosen, batch.weight)
        if final:
            assert logits is not None
            self.take(batch, logits)
        else:
            self.walk(batch, at + 1)

    def piece(self, unit: Place, c: int) -> tuple[int, ...]:
        return self.template.pieces[unit.slot][self.classes[unit.slot].members[c][0]][unit.time]

    def padded(self, unit: Place, c: int, length: int) -> list[int]:
        piece = self.piece(unit, c)
        return list(piece) if len(piece) == length else [0] * length  # of another length: never looked up

    def expanded(self, batch: _Batch, slot: int) -> Iterator[_Batch]:
        """The batch with each class of a slot that it has not chosen yet, in parts whose texts are equally many tokens, not too large."""
        if bool((batch.chosen[:, slot] >= 0).all()):
            yield batch
            return
        for classes in self.by_shape(slot):
            yield from self.with_classes(batch, slot, classes)

    def with_classes(self, batch: _Batch, slot: int, classes: torch.Tensor) -> Iterator[_Batch]:
        available = self.available(batch, slot)[:, classes]
        rows, which = (available > 0).nonzero(as_tuple=True)
        for some, each in (
            zip(rows.split(CHUNK), which.split(CHUNK)) if len(rows) else ()
        ):  # all texts of this length may be taken
            made = batch.at(some)
            made.chosen[:, slot] = classes[each]
            made.weight = made.weight * available[some, each]
            yield made

    def available(self, batch: _Batch, slot: int) -> torch.Tensor:
        """How many texts of each class are left, [n, classes]: slots of a group take different ones."""
        left = self.sizes[slot].expand(len(batch.weight), -1).clone()
        for other in (self.groups == self.groups[slot]).nonzero()[:, 0].tolist():
            if other != slot and bool((batch.chosen[:, other] >= 0).all()):
                left.scatter_add_(1, batch.chosen[:, other : other + 1], torch.full((len(left), 1), -1))
        return left

    def by_shape(self, slot: int) -> list[torch.Tensor]:
        """Classes by how many tokens their texts are at each place."""
        shapes: dict[tuple[int, ...], list[int]] = {}
        for c, members in enumerate(self.classes[slot].members):
            shapes.setdefault(tuple(map(len, self.template.pieces[slot][members[0]])), []).append(c)
        return [torch.tensor(each) for each in shapes.values()]

    def take(self, batch: _Batch, logits: torch.Tensor) -> None:
        """Answers: slots that stand in answers alone are filled now."""
        for slot in range(batch.chosen.shape[1]):
            if bool((batch.chosen[:, slot] < 0).any()):
                for made, rows in self.answered(batch, slot):
                    self.take(made, logits[rows])
                return
        right, wrong = (self.columns(answer, batch.chosen) for answer in (self.template.right, self.template.wrong))
        margin = (logits.gather(1, right[:, None]) - logits.gather(1, wrong[:, None]))[:, 0]
        self.count(batch, margin)

    def answered(self, batch: _Batch, slot: int) -> Iterator[tuple[_Batch, torch.Tensor]]:
        available = self.available(batch, slot)
        if all(
            answer.slot != slot for answer in (self.template.right, self.template.wrong)
        ):  # its first token does not depend on it
            every = torch.arange(len(batch.weight))
            made = _Batch(State(len(every), {}, {}), batch.chosen.clone(), batch.weight * available.sum(1))
            made.chosen[:, slot] = 0
            yield made, every
            return
        for c in range(len(self.classes[slot].members)):
            rows = (available[:, c] > 0).nonzero()[:, 0]
            made = _Batch(State(len(rows), {}, {}), batch.chosen[rows].clone(), batch.weight[rows] * available[rows, c])
            made.chosen[:, slot] = c
            yield made, rows

    def columns(self, answer: Answer, chosen: torch.Tensor) -> torch.Tensor:
        if answer.slot is None:
            return torch.full((len(chosen),), self.place[answer.token])
        members = self.classes[answer.slot].members
        return torch.tensor([self.place[answer.by_text[each[0]]] for each in members])[chosen[:, answer.slot]]

    def count(self, batch: _Batch, margin: torch.Tensor) -> None:
        found, weight = self.found, batch.weight
        right = margin > MARGIN
        found.count += int(weight.sum())
        found.run += len(weight)
        found.right += int(weight[right].sum())
        found.loss += float((F.softplus(-margin) * weight).sum())
        for slot, sums in self._sums.items():
            sums[0].index_add_(0, batch.chosen[:, slot], (weight * right).double())
            sums[1].index_add_(0, batch.chosen[:, slot], weight.double())
        for kind in (True, False):
            self.draw(kind, batch.chosen[right == kind], weight[right == kind])
        some = margin.topk(min(WORST, len(margin)), largest=False)
        for value, row in zip(some.values.tolist(), some.indices.tolist()):
            if len(found.worst) < WORST or value < found.worst[-1][0]:
                found.worst = sorted([*found.worst, (value, self.texts(batch.chosen[row].tolist()))])[:WORST]
        self.tell(len(weight))

    def draw(self, kind: bool, chosen: torch.Tensor, weight: torch.Tensor) -> None:
        """Keeps so many prompts of a kind, each prompt of the language as likely: those with the largest of random keys (Efraimidis and Spirakis, 2006)."""
        keys = torch.cat(
            [self._keys[kind], torch.rand(len(weight), generator=self._generator, dtype=torch.float64).log() / weight]
        )
        best = keys.topk(min(self.drawn, len(keys))).indices
        self._keys[kind], self._rows[kind] = keys[best], torch.cat([self._rows[kind], chosen])[best]

    def texts(self, chosen: Sequence[int]) -> tuple[int, ...]:
        """One text index for each slot, of the classes chosen, those of a group all different."""
        taken: dict[int, set[int]] = {}
        found = []
        for slot, c in enumerate(chosen):
            used = taken.setdefault(int(self.groups[slot]), set())
            text = next((each for each in self.classes[slot].members[c] if each not in used), self.classes[slot].members[c][0])
            used.add(text)
            found.append(text)
        return tuple(found)


class _Rows(_Walk):
    """The same by kernels (`machine.py`), each prompt with as many tokens as it has: a slot's texts go together however long they are, with what follows them."""

    def __init__(
        self, parts: Parts, template: TokenTemplate, classes: Sequence[SlotClasses], tell: Callable[[int], None], drawn: int
    ):
        super().__init__(parts, template, classes, tell, drawn)
        self.machine = Machine(parts, longest(template))
        self.start = self.machine.begin()

    def walk(self, batch: _Batch, at: int) -> None:
        units = self.template.units
        unit = units[at]
        end = next((i for i in range(at + 1, len(units)) if isinstance(units[i], Place)), len(units))
        fixed = [each for each in units[at:end] if isinstance(each, int)]
        if isinstance(unit, int):
            self.on(
                batch, torch.tensor([fixed]).expand(len(batch.weight), -1), torch.full((len(batch.weight),), len(fixed)), end
            )
            return
        pieces = [[*self.piece(unit, c), *fixed] for c in range(len(self.classes[unit.slot].members))]
        lengths = torch.tensor([len(each) for each in pieces])
        table = torch.tensor([[*each, *[0] * (int(lengths.max()) - len(each))] for each in pieces])
        for part in self.expanded(batch, unit.slot):
            chosen = part.chosen[:, unit.slot]
            self.on(part, table[chosen], lengths[chosen], end)

    def on(self, batch: _Batch, tokens: torch.Tensor, lengths: torch.Tensor, end: int) -> None:
        """Tokens [n, most], of which a prompt has the first `lengths`, and what follows."""
        assert isinstance(batch.state, Prompts)
        last = end == len(self.template.units)
        logits = self.machine.go(batch.state, tokens, lengths, last)
        if last:
            self.take(batch, logits)
        else:
            self.walk(batch, end)

    def by_shape(self, slot: int) -> list[torch.Tensor]:
        return [torch.arange(len(self.classes[slot].members))]


class _Sums(_Walk):
    """The same where what tokens bring adds up (`sums.py`): fixed tokens are added once, a slot's texts as wholes. Texts of as many tokens go together, so that it is known
    where each token stands."""

    def __init__(
        self, parts: Parts, template: TokenTemplate, classes: Sequence[SlotClasses], tell: Callable[[int], None], drawn: int
    ):
        super().__init__(parts, template, classes, tell, drawn)
        self.machine = None if prompt_kernel() is None else Machine(parts, longest(template))
        self.known: dict[tuple[int, int], int] = {}  # rows of tables, by token and place

    def walk(self, batch: _Batch, at: int) -> None:
        slots = sorted({unit.slot for unit in self.template.units if isinstance(unit, Place)})
        for shapes in itertools.product(*(self.by_shape(slot) for slot in slots)):
            self.sum_up(batch, dict(zip(slots, shapes)))

    def sum_up(self, batch: _Batch, among: dict[int, torch.Tensor]) -> None:
        """Prompts whose slots hold classes of these, which are equally many tokens wherever they stand."""
        places, count = [], 0
        for unit in self.template.units:
            places.append(count)
            count += 1 if isinstance(unit, int) else len(self.piece(unit, int(among[unit.slot][0])))
        ending = self.template.units[-1]
        if isinstance(ending, int):
            self.ended(batch, among, places, torch.tensor([self.row(ending, count - 1)]), count)
            return
        classes = among[ending.slot]
        rows = torch.tensor([self.row(self.piece(ending, c)[-1], count - 1) for c in classes.tolist()])
        asked = asking(self.parts, rows)
        for each in asked.unique().tolist():
            by_class = torch.zeros(len(self.classes[ending.slot].members), dtype=torch.int64).index_copy(0, classes, rows)
            self.ended(batch, {**among, ending.slot: classes[asked == each]}, places, by_class, count)

    def ended(self, batch: _Batch, among: dict[int, torch.Tensor], places: list[int], last: torch.Tensor, count: int) -> None:
        """Prompts that end with rows of tables that ask for the same: with one, or by the class of the slot that they end with."""
        first = last[among[self.template.units[-1].slot][0]] if isinstance(self.template.units[-1], Place) else last[0]
        of = Contributions(self.parts, int(first), count)
        brought = torch.zeros(1, of.by_row.shape[1], dtype=torch.float64)
        tables = {slot: torch.zeros(len(self.classes[slot].members), brought.shape[1], dtype=torch.float64) for slot in among}
        for unit, begun in zip(self.template.units, places):
            if isinstance(unit, int):
                brought = brought + of.by_row[self.row(unit, begun)]
                continue
            for c in among[unit.slot].tolist():
                for i, token in enumerate(self.piece(unit, c)):
                    tables[unit.slot][c] += of.by_row[self.row(token, begun + i)]
        order = sorted(among, key=lambda slot: len(among[slot]))  # the largest last, where batches are made
        self.add(of, _Batch(Total(brought), batch.chosen, batch.weight), order, among, tables, last, count)

    def row(self, token: int, place: int) -> int:
        if (token, place) not in self.known:
            self.known[token, place] = int(self.parts.rows(torch.tensor([token]), place))
        return self.known[token, place]

    def add(
        self,
        of: Contributions,
        batch: _Batch,
        order: list[int],
        among: dict[int, torch.Tensor],
        tables: dict[int, torch.Tensor],
        last: torch.Tensor,
        count: int,
    ) -> None:
        assert isinstance(batch.state, Total)
        if not order:
            ending = self.template.units[-1]
            rows = last[batch.chosen[:, ending.slot]] if isinstance(ending, Place) else last.expand(len(batch.weight))
            self.take(batch, self.conclude(of.sources(batch.state.brought), rows, count))
            return
        slot, *others = order
        for part in self.with_classes(batch, slot, among[slot]):
            assert isinstance(part.state, Total)
            total = Total(part.state.brought + tables[slot][part.chosen[:, slot]])
            self.add(of, _Batch(total, part.chosen, part.weight), others, among, tables, last, count)

    def conclude(self, sources: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
        if self.machine is None:
            return conclude(self.parts, sources, rows, count)
        return self.machine.conclude(sources, rows, count)
