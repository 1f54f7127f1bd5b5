"""What a kernel is told, as records with named fields: the one definition of what stands where, for Python and for the kernel.

A kernel is a C function of one argument, the job: int64 words [next chunk, number of chunks, the fields of its record ...]. A field is a
whole number, the address of an array, or a record of its own, whose fields follow in place. `flat` gives the words of a record,
`positions` the word at which each of its fields begins; kernels read `a[AT.tokens]`, so a field may be added anywhere.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

NEXT, CHUNKS, FIRST = 0, 1, 2  # words of every job: the next chunk that is drawn, how many there are, where the record begins


def record(name: str, fields: str, **kinds: Any) -> Any:
    """A record's class (a NamedTuple).

    Args:
        fields: their names in order, with blanks between. kinds: of those that are records themselves.
    """
    return NamedTuple(name, [(field, kinds.get(field, int)) for field in fields.split()])  # type: ignore[misc]


@functools.cache
def _sizes(kind: type) -> tuple[int, ...]:
    """Words of each field of a record."""
    fields: Any = typing.get_type_hints(kind)
    return tuple(length(field) if hasattr(field, "_fields") else 1 for field in fields.values())


def length(kind: Any) -> int:
    """Words of a record."""
    return sum(_sizes(kind))


def positions(kind: Any, first: int = FIRST) -> Any:
    """A record of the same kind that holds, for each field, the word at which it begins."""
    sizes = _sizes(kind)
    return kind(*(first + sum(sizes[:i]) for i in range(len(sizes))))


def flat(record: Any) -> Iterator[int]:
    """The words of a record whose fields may be records."""
    for field in record:
        if isinstance(field, tuple):
            yield from flat(field)
        else:
            yield field
