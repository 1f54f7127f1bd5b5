"""A task's prompts as a language: every prompt that its generator can write, as templates with slots.

The generator itself says what they are: it is run on values that are no words but slots, once for each way in which its own choices (how many items,
which quote) can fall. So the language cannot differ from what the generator samples.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..circuits.python_tasks import BARE, SPLITS, Values
from ..circuits.tasks import Task, in_family

_FIRST, _CAPITAL = 0xE000, 0xF000  # private characters: a slot, and the same slot with a capital letter
_MOST_PATHS = 20_000


@dataclass(frozen=True)
class Slot:
    """A place that any of `texts` can take; slots of one `group` take different ones (they were drawn together)."""

    kind: str
    texts: tuple[str, ...]
    group: int


@dataclass(frozen=True)
class Template:
    """Prompts that differ in what their slots hold. Slots are private characters in `prompt`, `right` and `wrong`, numbered from 0.

    Args:
        right, wrong: continuations; the answers are their first tokens.
    """

    prompt: str
    right: str
    wrong: str
    slots: tuple[Slot, ...]

    @property
    def count(self) -> int:
        """How many assignments of texts to slots there are."""
        total, used = 1, dict[int, int]()
        for slot in self.slots:
            total *= max(0, len(slot.texts) - used.get(slot.group, 0))
            used[slot.group] = used.get(slot.group, 0) + 1
        return total

    def filled(self, text: str, chosen: Sequence[str]) -> str:
        return "".join(fill(each, chosen) for each in text)

    def assignments(self) -> Iterator[tuple[str, ...]]:
        """All of them, by brute force."""
        yield from self._assign((), {})

    def _assign(self, chosen: tuple[str, ...], used: dict[int, frozenset[str]]) -> Iterator[tuple[str, ...]]:
        if len(chosen) == len(self.slots):
            yield chosen
            return
        slot = self.slots[len(chosen)]
        for text in slot.texts:
            taken = used.get(slot.group, frozenset())
            if text not in taken:
                yield from self._assign((*chosen, text), {**used, slot.group: taken | {text}})


def place(character: str) -> tuple[int, bool] | None:
    """(slot, with a capital) of a private character."""
    code = ord(character)
    if _CAPITAL <= code < _CAPITAL + 0x800:
        return code - _CAPITAL, True
    return (code - _FIRST, False) if _FIRST <= code < _CAPITAL else None


def fill(character: str, chosen: Sequence[str]) -> str:
    at = place(character)
    if at is None:
        return character
    return chosen[at[0]].capitalize() if at[1] else chosen[at[0]]


def language(task: Task, split: str | None = None, family: str = "main") -> list[Template]:
    """All templates of a built-in task, or of one whose function takes every value from `values`.

    Args:
        split: whose values slots may take; None: those of all splits together.

    Raises:
        ValueError: for a task from a file, which is a list, and for a twin.
    """
    if task.origin.startswith("file:"):
        raise ValueError(f"{task.name} is a file of pairs, which has no language; score the circuit on the pairs themselves.")
    found: dict[tuple[Any, ...], Template] = {}
    path: list[int] = []
    for _ in range(_MOST_PATHS):
        values = _SlotValues(path, split)
        examples = in_family(task.generator, values, family)  # type: ignore[arg-type]
        texts = [(prompt, next(iter(text.split("\n"))) or text if task.form == BARE else text) for prompt, text in examples]
        for i in (0, 1):
            right, wrong = texts[i][1], texts[1 - i][1]
            if task.twin == "nonsense":
                right, wrong = wrong, right
            elif task.twin == "constant":
                right, wrong = texts[0][1], texts[1][1]
            made = _renumbered(texts[i][0], right, wrong, values.slots)
            found[(made.prompt, made.right, made.wrong, made.slots)] = made
        following = values.following()
        if following is None:
            return list(found.values())
        path = following
    raise ValueError(
        f"The generator of {task.name} makes over {_MOST_PATHS:,} choices; its language is too large to write down."
    )


def narrowed(template: Template, texts: int) -> Template:
    """The template whose slots take the first so many of their texts, and as many more as slots that differ need."""
    sizes = [sum(other.group == slot.group for other in template.slots) for slot in template.slots]
    slots = tuple(Slot(each.kind, each.texts[: max(texts, size)], each.group) for each, size in zip(template.slots, sizes))
    return Template(template.prompt, template.right, template.wrong, slots)


def without(template: Template, slots: Collection[int]) -> Template:
    """The template whose answers have the first text of these slots, which the prompt does not have, for good."""
    kept = [chr(_FIRST + i) if i not in slots else slot.texts[0] for i, slot in enumerate(template.slots)]
    capital = [chr(_CAPITAL + i) if i not in slots else slot.texts[0].capitalize() for i, slot in enumerate(template.slots)]

    def filled(text: str) -> str:
        places = [(character, place(character)) for character in text]
        return "".join(character if at is None else (capital if at[1] else kept)[at[0]] for character, at in places)

    return _renumbered(template.prompt, filled(template.right), filled(template.wrong), template.slots)


def count(templates: Sequence[Template]) -> int:
    return sum(each.count for each in templates)


def _renumbered(prompt: str, right: str, wrong: str, slots: Sequence[Slot]) -> Template:
    """Slots numbered as they appear; those that do not are left out, and of answers nothing but what their first token can hold."""
    order: dict[int, int] = {}
    texts = []
    for text in (prompt, right, wrong):
        for character in text:
            at = place(character)
            if at is not None:
                order.setdefault(at[0], len(order))
        texts.append("".join(_moved(character, order) for character in text))
    groups: dict[int, int] = {}
    kept = []
    for old in order:
        slot = slots[old]
        kept.append(Slot(slot.kind, slot.texts, groups.setdefault(slot.group, len(groups))))
    return Template(texts[0], texts[1], texts[2], tuple(kept))


def _moved(character: str, order: dict[int, int]) -> str:
    at = place(character)
    return character if at is None else chr((_CAPITAL if at[1] else _FIRST) + order[at[0]])


class _SlotText(str):
    """A slot as the generator sees it."""

    def capitalize(self) -> str:  # type: ignore[override]
        return _SlotText(chr(ord(self) - _FIRST + _CAPITAL))


class _SlotValues(Values):
    """Values that are slots, and choices taken from a path: the first so many as it says, then the first of each."""

    def __init__(self, path: list[int], split: str | None):
        self._path, self._taken, self.slots = path, list[tuple[int, int]](), list[Slot]()
        self.split, self.random = split or SPLITS[0], _Choices(self)  # type: ignore[assignment]
        self._pools, self._numbers = {}, []
        for each in SPLITS if split is None else (split,):
            one = Values(each, None)  # type: ignore[arg-type]
            for kind, pool in one._pools.items():
                self._pools[kind] = [*self._pools.get(kind, []), *pool]
            self._numbers += one._numbers
        self._groups = 0

    def _slot(self, kind: str, pool: Sequence[str]) -> str:
        self.slots.append(Slot(kind, tuple(sorted(set(pool))), self._groups))
        return _SlotText(chr(_FIRST + len(self.slots) - 1))

    def _take(self, kind: str, count: int) -> list[str]:
        self._groups += 1
        return [self._slot(kind, self._pools[kind]) for _ in range(count)]

    def number(self) -> int:
        self._groups += 1
        return self._slot("number", [str(each) for each in self._numbers])  # type: ignore[return-value]

    def choose(self, among: int) -> int:
        at = len(self._taken)
        chosen = self._path[at] if at < len(self._path) else 0
        self._taken.append((chosen, among))
        return chosen

    def following(self) -> list[int] | None:
        """The path after this one; None after the last."""
        for at in reversed(range(len(self._taken))):
            chosen, among = self._taken[at]
            if chosen + 1 < among:
                return [each for each, _ in self._taken[:at]] + [chosen + 1]
        return None

    def quote(self) -> str:
        return "'\""[self.choose(2)]

    def count(self, low: int, high: int) -> int:
        return low + self.choose(high - low + 1)

    def either(self, *options: str) -> str:
        return options[self.choose(len(options))]


class _Choices:
    """What generators take from `values.random` themselves."""

    def __init__(self, values: _SlotValues):
        self._values = values

    def choice(self, options: Sequence[Any]) -> Any:
        return options[self._values.choose(len(options))]

    def sample(self, options: Sequence[Any], count: int) -> list[Any]:
        rest, taken = list(options), []
        for _ in range(count):
            taken.append(rest.pop(self._values.choose(len(rest))))
        return taken

    def __getattr__(self, name: str) -> Any:
        raise ValueError(
            f"This task's function draws by random.{name}, so its language is not known; take values from its first argument alone."
        )
