"""Where positions are added to embeddings, a token is another one at each place: what a language has, token by place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from .tokens import TokenTemplate

Spot = tuple[int, int]  # place in the prompt, token


@dataclass(frozen=True)
class Symbols:
    """Each token at each place where a language can have it, in the order of places, then of tokens: rows of tables, where models without positions have tokens.

    Args:
        places, tokens: [symbols], int64.
    """

    places: torch.Tensor
    tokens: torch.Tensor

    @classmethod
    def of(cls, spots: set[Spot]) -> Symbols:
        known = sorted(spots)
        return cls(torch.tensor([place for place, _ in known]), torch.tensor([token for _, token in known]))

    def rows(self, tokens: torch.Tensor, place: int) -> torch.Tensor:
        """The symbol of each token [n] at a place.

        Raises:
            ValueError: for a token that the language does not have there.
        """
        first, end = (int(torch.searchsorted(self.places, place, right=right)) for right in (False, True))
        here = self.tokens[first:end]
        at = torch.searchsorted(here, tokens.contiguous())
        if not len(here) or bool((here[at.clamp(max=len(here) - 1)] != tokens).any()):
            raise ValueError(
                f"The language has no such token at place {place}; a circuit of a model with positions is compiled for its language."
            )
        return first + at

    def row(self, token: int, place: int) -> int:
        at = self._at.get((place, token))
        return int(self.rows(torch.tensor([token]), place)) if at is None else at

    @cached_property
    def _at(self) -> dict[Spot, int]:
        return {spot: i for i, spot in enumerate(zip(self.places.tolist(), self.tokens.tolist()))}


def spots(made: TokenTemplate) -> set[Spot]:
    """Each (place, token) that prompts of a template can have; values of different slots are taken as independent, which allows no fewer."""
    found: set[Spot] = set()
    for begun, unit in zip(starts(made), made.units):
        for piece in [(unit,)] if isinstance(unit, int) else [text[unit.time] for text in made.pieces[unit.slot]]:
            found |= {(first + i, token) for first in begun for i, token in enumerate(piece)}
    return found


def starts(made: TokenTemplate) -> list[set[int]]:
    """For each unit of a template the places at which it can begin."""
    found, here = [], {0}
    for unit in made.units:
        found.append(here)
        lengths = {1} if isinstance(unit, int) else {len(text[unit.time]) for text in made.pieces[unit.slot]}
        here = {first + length for first in here for length in lengths}
    return found


def symbols_of(templates: Sequence[TokenTemplate]) -> Symbols:
    """Those of all prompts of templates."""
    return Symbols.of({spot for each in templates for spot in spots(each)})


def alphabet(templates: Sequence[TokenTemplate], symbols: Symbols | None = None) -> torch.Tensor:
    """Every token that prompts of a language have, sorted; with symbols, every symbol."""
    if symbols is not None:
        return torch.tensor(sorted({symbols.row(token, place) for each in templates for place, token in spots(each)}))
    found = {unit for each in templates for unit in each.units if isinstance(unit, int)}
    found |= {token for each in templates for slot in each.pieces for text in slot for piece in text for token in piece}
    return torch.tensor(sorted(found))


def endings(templates: Sequence[TokenTemplate], symbols: Symbols | None = None) -> torch.Tensor:
    """Every token that a prompt of a language can end with, sorted; with symbols, every symbol."""
    found: set[int] = set()
    for each in templates:
        unit, begun = each.units[-1], starts(each)[-1]
        pieces = {(unit,)} if isinstance(unit, int) else {text[unit.time] for text in each.pieces[unit.slot]}
        if symbols is None:
            found |= {piece[-1] for piece in pieces}
        else:
            found |= {symbols.row(piece[-1], first + len(piece) - 1) for piece in pieces for first in begun}
    return torch.tensor(sorted(found))
