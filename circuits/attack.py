"""Inputs on which a circuit says that the whole model will fail: prompts made longer by what the task is not about, until the circuit flips.

The paper reads off its bracket circuit that long lists dilute an average, and breaks the model with them (Gao et al. 2025, section on bracket counting). Here any
circuit is asked which filler, repeated how often, turns its answer; then the whole model is tried on the same prompts. Whether a longer prompt still has the same
answer is for a person to see: fillers are whole words that pairs have in common, or text that is given, and examples are shown.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from .ablation import ablated
from .circuit import Circuit
from .identity import refuse_other_model, refuse_other_task
from .masks import opened
from .outcome import last_logits
from .sites import evaluating
from .tasks import Pairs, Task, padded

COUNTS = (1, 2, 4, 8, 16, 32, 64)
_TRIED = 16  # fillers


@dataclass(frozen=True)
class Attack:
    """What came of prompts lengthened by `count` copies of a filler, on test pairs.

    Args:
        filler: for which the circuit fails most on validation pairs, as text.
        circuit_wrong, model_wrong: share of the prompts on which each prefers the wrong answer. nothing_wrong: of everything ablated.
        where_predicted: of the prompts on which the circuit is wrong, the share on which the model is; elsewhere: of those, lengthened as much, on which it is
            right. Both within right answers of which the circuit is right on some prompts and wrong on others: across answers, a constant would do
            as well. None if there are no such.
        any_filler: share on which the model is wrong if each prompt is lengthened by a filler at random: what no circuit is needed for.
        example: a lengthened prompt; examples: such on which both are wrong.
    """

    count: int
    filler: str
    circuit_wrong: float
    model_wrong: float
    nothing_wrong: float
    where_predicted: float | None
    elsewhere: float | None
    any_filler: float
    example: str
    examples: tuple[str, ...]


def attack(
    circuit: Circuit, model: Any, tokenizer: Any, task: Task, *, filler: str | None = None, after: str | None = None, counts: Sequence[int] = COUNTS,
    pairs: int = 64, seed: int = 0,
) -> list[Attack]:  # fmt: skip
    """Lengthens prompts by fillers that the circuit says will turn the answer, and tries them on the model.

    Args:
        filler: text that is put in, after the first `after` of each prompt. Default: each whole word that both prompts of a pair have equally often, and not all
            pairs have, after a word of that kind, at the same place in both.
        counts: copies that are put in; those that would exceed the model's block are left out.

    Returns:
        a row for each count, the first, 0, being the prompts as they are.

    Raises:
        ValueError: if the circuit is of another model or task, the task has no fillers, a prompt has no `after`, or no count fits the block.
    """
    refuse_other_model(circuit, model)
    refuse_other_task(circuit, task)
    if (filler is None) != (after is None):
        raise ValueError("A filler of your own needs a place: give both filler and after.")
    chosen_on, tried_on = (task.pairs(pairs, split, seed=seed, fewer=True) for split in ("validation", "test"))
    words = [] if filler is not None else fillers(chosen_on, tokenizer)
    if filler is None and not words:
        raise ValueError(
            f"{task.name} has no whole words that both prompts of a pair have and other pairs do not; give filler and after, such as ' 1,' after '['."
        )
    with evaluating(model):
        rows = []
        for count in (0, *counts):
            made = _made(model, tokenizer, circuit, (chosen_on, tried_on), words, filler, after, count, seed)
            if made is not None:
                rows.append(_row(model, circuit, *made, count))
    if len(rows) == 1:
        raise ValueError(
            f"Not even {min(counts)} copies fit the model's block of {model.config.block_size} tokens; give smaller counts."
        )
    return rows


def _made(
    model: Any, tokenizer: Any, circuit: Circuit, sets: tuple[Pairs, Pairs], words: list[int], filler: str | None, after: str | None, count: int, seed: int
) -> tuple[Pairs, Pairs, str] | None:  # fmt: skip
    """Test pairs with the filler that the circuit fails most on, with any filler, and the filler; None if they do not fit the block."""
    chosen_on, tried_on = sets
    if filler is not None and after is not None:
        found = inserted(tried_on, filler, after, count, tokenizer)
        return (found, found, filler) if found.input_ids.shape[1] <= model.config.block_size else None
    if max(each.input_ids.shape[1] for each in sets) + count > model.config.block_size:
        return None
    scored = []
    for token in words[:_TRIED] if count else words[:1]:
        margins = _margins(model, lengthened(chosen_on, [token] * len(chosen_on), count, words, tokenizer, seed), circuit)
        scored.append((-float((margins <= 0).float().mean()), float(margins.mean()), token))
    token = min(scored)[2]
    guided = lengthened(tried_on, [token] * len(tried_on), count, words, tokenizer, seed)
    anyhow = lengthened(tried_on, Random(seed + count).choices(words, k=len(tried_on)), count, words, tokenizer, seed)
    return guided, anyhow, tokenizer.decode([token])


def fillers(pairs: Pairs, tokenizer: Any) -> list[int]:
    """Tokens that are whole words, equally often in both prompts of every pair that has them, and in some pairs only; most frequent first."""
    prompts, seen, uneven = pairs.prompts(), Counter[int](), set[int]()
    for one, two in zip(prompts[0::2], prompts[1::2]):
        a, b = Counter(one), Counter(two)
        seen.update(a.keys() | b.keys())
        uneven |= {token for token in a.keys() | b.keys() if a[token] != b[token]}
    answers = set(pairs.answers.flatten().tolist())
    able = [token for token, often in seen.most_common() if often < len(pairs) and token not in uneven | answers]
    # A word ends where the next begins with a blank: every token of the prompts does, or a filler could stand inside of one.
    if any(tokenizer.decode([token])[:1] != " " for token in seen):
        return []
    return [token for token in able if tokenizer.decode([token])[1:].isalpha()]


def lengthened(pairs: Pairs, tokens: Sequence[int], count: int, known: Sequence[int], tokenizer: Any, seed: int) -> Pairs:
    """Each pair with `count` copies of its token after a filler that it has, at the same place in both prompts; at the start if it has none."""
    rows, among, prompts = [], set(known), pairs.prompts()
    for j, token in enumerate(tokens):
        one, two = prompts[2 * j], prompts[2 * j + 1]
        places = [i + 1 for i in range(min(len(one), len(two)) - 1) if one[i] == two[i] and one[i] in among] or [0]
        at = Random(f"{seed} {j}").choice(places)
        rows += [[*prompt[:at], *[token] * count, *prompt[at:]] for prompt in (one, two)]
    return _as_pairs(rows, pairs.answers, tokenizer)


def inserted(pairs: Pairs, filler: str, after: str, count: int, tokenizer: Any) -> Pairs:
    """Each prompt with `count` copies of a text after the first `after` in it, as tokens of the whole.

    Raises:
        ValueError: if a prompt has no `after`.
    """
    rows = []
    for text in pairs.texts:
        at = text.find(after)
        if at < 0:
            raise ValueError(
                f"The prompt {text[-60:]!r} has no {after!r} to put the filler after; give one that every prompt has."
            )
        at += len(after)
        rows.append(list(tokenizer.encode(text[:at] + filler * count + text[at:], add_special_tokens=False)))
    return _as_pairs(rows, pairs.answers, tokenizer)


def _as_pairs(rows: list[list[int]], answers: torch.Tensor, tokenizer: Any) -> Pairs:
    return Pairs(*padded(rows), answers, tuple(tokenizer.decode(row) for row in rows))


@torch.no_grad()
def _margins(model: Any, pairs: Pairs, circuit: Circuit | None = None, *, nothing: bool = False) -> torch.Tensor:
    """Logit of the right answer minus that of the other, [prompts]: of the model, the circuit, or with everything ablated."""
    applied: Any = contextlib.nullcontext()
    if circuit is not None:
        applied = ablated(model, opened({}, circuit.fills)) if nothing else circuit.running(model)
    with applied:
        found = last_logits(model, pairs, 32).gather(1, pairs.answers.to(model.device))
    return (found[:, 0] - found[:, 1]).cpu()


def _row(model: Any, circuit: Circuit, guided: Pairs, anyhow: Pairs, filler: str, count: int) -> Attack:
    predicted, wrong = (_margins(model, guided, each) <= 0 for each in (circuit, None))
    right, varied = guided.answers[:, 0], torch.zeros_like(predicted)
    for answer in right.unique():
        here = right == answer
        varied |= here & bool(predicted[here].any()) & bool((~predicted[here]).any())

    def share(where: torch.Tensor) -> float | None:
        return float(wrong[where].float().mean()) if bool(where.any()) else None

    return Attack(
        count, filler if count else "", float(predicted.float().mean()), float(wrong.float().mean()),
        float((_margins(model, guided, circuit, nothing=True) <= 0).float().mean()), share(predicted & varied), share(~predicted & varied),
        float((_margins(model, anyhow) <= 0).float().mean()), guided.texts[0], tuple(guided.texts[int(i)] for i in (predicted & wrong).nonzero()[:5, 0]),
    )  # fmt: skip


def as_table(rows: Sequence[Attack]) -> str:
    """For the terminal."""
    lines = [
        "copies  filler        circuit wrong  model wrong  nothing wrong  any filler  where predicted  elsewhere (same right answers)"
    ]
    for row in rows:
        where, elsewhere = ("-" if each is None else f"{each:.2f}" for each in (row.where_predicted, row.elsewhere))
        lines.append(
            f"{row.count:6d}  {row.filler[:12]!r:14s}{row.circuit_wrong:13.2f}{row.model_wrong:13.2f}{row.nothing_wrong:15.2f}{row.any_filler:12.2f}"
            f"{where:>17s}{elsewhere:>11s}"
        )
    return "\n".join(lines)
