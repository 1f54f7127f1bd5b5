"""Making a set smaller, one part after the other, with exact checks: nothing is dropped on an estimate alone."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

Item = TypeVar("Item", bound=Hashable)


def shrink(items: Sequence[Item], fits: Callable[[Sequence[Item]], bool], chunk: int | None = None) -> list[Item]:
    """A subset that still fits, and from which no single item can be taken without it ceasing to fit.

    Args:
        items: the least important first; the whole must fit.
        fits: of a subset, in the order of `items`. It need not be monotone, and is called about (removed / log) + (kept) times.
        chunk: how many go at once in the first round; default: a quarter. 1 where most are known to be needed.

    Items go in chunks first, halved where a chunk is needed, then one by one, round and round, until none has gone since each that is left was tried.
    """
    kept = list(items)
    chunk = max(1, len(kept) // 4) if chunk is None else chunk
    while chunk > 1:
        kept = _one_round(kept, fits, chunk)
        chunk = min(chunk // 2, max(1, len(kept) // 4))
    at, needed = 0, 0
    while needed < len(kept):
        at %= len(kept)
        without = kept[:at] + kept[at + 1 :]
        if fits(without):
            kept, needed = without, 0
        else:
            at, needed = at + 1, needed + 1
    return kept


def _one_round(kept: list[Item], fits: Callable[[Sequence[Item]], bool], chunk: int) -> list[Item]:
    start = 0
    while start < len(kept):
        without = kept[:start] + kept[start + chunk :]
        if fits(without):
            kept = without
        else:
            start += chunk
    return kept


SCANNED = 512  # up to how many prefixes are all tried
_AROUND = 32  # how many are tried around what a bisection finds


def smallest_prefix(count: int, fits: Callable[[int], bool]) -> int | None:
    """The smallest k of 0 ... count for which fits(k); None if there is none. By scanning: loss is not monotone in k.

    Above 512 a scan would take hours in large models: it is a bisection then, and a scan of the 32 before what it finds; exact if loss is monotone further away than that. If the whole does not fit, sixteen shorter ones are tried.
    """
    if count <= SCANNED:
        return next((k for k in range(count + 1) if fits(k)), None)
    if not fits(count):
        return next((k for k in range(count // 16, count, count // 16) if fits(k)), None)
    low, high = -1, count  # fits(high); below low nothing is known to fit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return next((k for k in range(max(0, high - _AROUND), high) if fits(k)), high)
