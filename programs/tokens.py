"""Templates as tokens: what is fixed, and what each text of each slot becomes where the slot stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from .language import Template, fill, narrowed, place, without

_CHECKED = 200  # random prompts on which a template's tokens are compared with the tokenizer's


@dataclass(frozen=True)
class Place:
    """Where a slot stands in a prompt: the how-manieth time, from 0."""

    slot: int
    time: int


@dataclass(frozen=True)
class Answer:
    """An answer's token: the same always, or by the text of one slot."""

    token: int
    slot: int | None = None
    by_text: tuple[int, ...] = ()

    def at(self, chosen: Sequence[int]) -> int:
        return self.token if self.slot is None else self.by_text[chosen[self.slot]]


@dataclass(frozen=True)
class TokenTemplate:
    """A template under a tokenizer.

    Args:
        units: token ids, and places of slots.
        pieces: for each slot, for each of its texts, for each time that it stands in the prompt, the token ids.
    """

    template: Template
    units: tuple[int | Place, ...]
    pieces: tuple[tuple[tuple[tuple[int, ...], ...], ...], ...]
    right: Answer
    wrong: Answer

    def ids(self, chosen: Sequence[int]) -> list[int]:
        """Token ids of the prompt whose slots hold the texts of these indices."""
        found: list[int] = []
        for unit in self.units:
            found += [unit] if isinstance(unit, int) else self.pieces[unit.slot][chosen[unit.slot]][unit.time]
        return found


def longest(made: TokenTemplate) -> int:
    """Tokens of the longest prompt of a template."""
    return sum(
        1 if isinstance(unit, int) else max(len(text[unit.time]) for text in made.pieces[unit.slot]) for unit in made.units
    )


def tokenised(template: Template, tokenizer: Any) -> TokenTemplate:
    """A template's tokens.

    Slots that stand in answers alone, and not in what their first token depends on, are left out: they would count each prompt many times.
    What a slot's text becomes is taken with the other slots at their first texts; that it does not depend on them is looked at on random prompts,
    and follows from the tokenizer splitting text at places that it tells from one character on.

    Raises:
        ValueError: if what stands around a slot changes with what it holds, or two slots share a token: naming the texts.
    """
    answers = _answers(template, tokenizer)
    told = {at[0] for at in map(place, template.prompt) if at is not None} | {answer.slot for answer in answers}
    if idle := set(range(len(template.slots))) - told:
        template = without(template, idle)
        answers = _answers(template, tokenizer)
    first = _first(template)
    units, pieces = None, []
    for slot, each in enumerate(template.slots):
        mine = []
        for text in each.texts:
            chosen = list(first)
            chosen[slot] = text
            if any(a == text and i != slot and template.slots[i].group == each.group for i, a in enumerate(first)):
                chosen = _first(template, {slot: text})
            found, own = _units(template, tokenizer, chosen, slot)
            if units is not None and found != units:
                raise ValueError(
                    f"{text!r} changes the tokens around it in {template.filled(template.prompt, chosen)!r}, so they cannot be told slot by slot."
                )
            units = found if units is None else units
            mine.append(own)
        pieces.append(tuple(mine))
    if units is None:
        units = tuple(_encode(tokenizer, template.prompt)[0])
    made = TokenTemplate(template, units, tuple(pieces), *answers)
    _check(made, tokenizer)
    return made


def fewer(made: TokenTemplate, texts: int, tokenizer: Any) -> TokenTemplate:
    """`tokenised(narrowed(made.template, texts), tokenizer)`, out of the tokens that are known."""
    template, answers = narrowed(made.template, texts), []
    for each in (made.right, made.wrong):
        kept = each.by_text if each.slot is None else each.by_text[: len(template.slots[each.slot].texts)]
        if each.slot is not None and len(set(kept)) == 1:
            return tokenised(template, tokenizer)  # of the few texts left, the answer depends on another slot, or on none
        answers.append(Answer(each.token, each.slot, kept))
    pieces = tuple(each[: len(slot.texts)] for each, slot in zip(made.pieces, template.slots))
    return TokenTemplate(template, made.units, pieces, *answers)


def _first(template: Template, given: dict[int, str] | None = None) -> list[str]:
    """A text for each slot, the first that its group has left."""
    chosen: list[str] = []
    given = given or {}
    for i, slot in enumerate(template.slots):
        taken = {chosen[j] for j in range(i) if template.slots[j].group == slot.group}
        taken |= {text for j, text in given.items() if j != i and template.slots[j].group == slot.group}
        chosen.append(given[i] if i in given else next(text for text in slot.texts if text not in taken))
    return chosen


def _encode(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(found["input_ids"]), [tuple(each) for each in found["offset_mapping"]]


def _units(
    template: Template, tokenizer: Any, chosen: Sequence[str], slot: int
) -> tuple[tuple[int | Place, ...], tuple[tuple[int, ...], ...]]:
    """Units of a prompt, and the token ids of one slot at each of its places."""
    text, spans, times = "", [], dict[int, int]()
    for character in template.prompt:
        at, begun = place(character), len(text)
        text += fill(character, chosen)
        if at is not None:
            spans.append((begun, len(text), Place(at[0], times.get(at[0], 0))))
            times[at[0]] = times.get(at[0], 0) + 1
    ids, offsets = _encode(tokenizer, text)
    words = [
        span for _, span in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    ]  # no token goes over their ends
    units: list[int | Place] = []
    own: dict[int, list[int]] = {time: [] for time in range(times.get(slot, 0))}
    for token, (begun, ended) in zip(ids, offsets):
        low, high = next(((low, high) for low, high in words if low <= begun < high), (begun, ended))
        over = [where for start, stop, where in spans if low < stop and high > start]
        if len(over) > 1:
            raise ValueError(f"Two values share a word in {text!r}, so the language cannot be told slot by slot.")
        if not over:
            units.append(token)
            continue
        if not units or units[-1] != over[0]:
            units.append(over[0])
        if over[0].slot == slot:
            own[over[0].time].append(token)
    return tuple(units), tuple(tuple(each) for each in own.values())


def _answers(template: Template, tokenizer: Any) -> tuple[Answer, Answer]:
    return _answer(template, tokenizer, template.right), _answer(template, tokenizer, template.wrong)


def _answer(template: Template, tokenizer: Any, continuation: str) -> Answer:
    """The first token of a continuation, by the slot that it depends on."""

    def token(chosen: Sequence[str]) -> int:
        prompt = template.filled(template.prompt, chosen)
        before, whole = _encode(tokenizer, prompt)[0], _encode(tokenizer, prompt + template.filled(continuation, chosen))[0]
        if whole[: len(before)] != before or len(whole) == len(before):
            raise ValueError(f"No token begins at the end of {prompt[-20:]!r} + {continuation!r}.")
        return whole[len(before)]

    first = _first(template)
    usual = token(first)
    for slot in dict.fromkeys(at[0] for at in map(place, continuation) if at is not None):
        by_text = tuple(token(_first(template, {slot: text})) for text in template.slots[slot].texts)
        if len(set(by_text)) > 1:
            return Answer(usual, slot, by_text)
    return Answer(usual)


def _check(made: TokenTemplate, tokenizer: Any) -> None:
    random, template = Random(0), made.template
    for _ in range(_CHECKED):
        chosen = random_assignment(template, random)
        text = template.filled(template.prompt, [slot.texts[i] for slot, i in zip(template.slots, chosen)])
        if made.ids(chosen) != _encode(tokenizer, text)[0]:
            raise ValueError(f"The tokens of {text!r} are not those of its parts; the language cannot be told slot by slot.")


def random_assignment(template: Template, random: Random) -> list[int]:
    """Indices of texts for each slot, those of a group all different."""
    chosen: list[int] = []
    for i, slot in enumerate(template.slots):
        taken = {template.slots[j].texts[chosen[j]] for j in range(i) if template.slots[j].group == slot.group}
        chosen.append(random.choice([j for j, text in enumerate(slot.texts) if text not in taken]))
    return chosen
