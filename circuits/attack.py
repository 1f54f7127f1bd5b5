"""Inputs on which a circuit says that the whole model will fail: prompts made longer by what the task is not about, until the circuit flips.

The paper reads off its bracket circuit that long lists dilute an average, and breaks the model with them (Gao et al. 2025, section on bracket counting). Here any
circuit is asked which of the task's own fillers, repeated how often, turn its answer; then the whole model is tried on them, beside prompts
lengthened as much on which the circuit says that it will not fail.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from .circuit import Circuit
from .identity import refuse_other_model, refuse_other_task
from .outcome import last_logits
from .sites import evaluating
from .tasks import Pairs, Task

COUNTS = (1, 2, 4, 8, 16, 32, 64)
_TRIED = 16  # fillers


@dataclass(frozen=True)
class Attack:
    """What came of prompts lengthened by `count` copies of a filler, on test pairs.

    Args:
        token: the filler for which the circuit fails most on validation pairs, as text.
        circuit_wrong, model_wrong: share of the prompts on which each prefers the wrong answer.
        where_predicted: of the prompts on which the circuit is wrong, the share on which the model is; None if there are none.
        elsewhere: the same of those, lengthened as much, on which the circuit is right: the matched control. None if there are none.
        any_filler: share on which the model is wrong if each prompt is lengthened by a filler at random: what no circuit is needed for.
        examples: prompts on which both are wrong.
    """

    count: int
    token: str
    circuit_wrong: float
    model_wrong: float
    where_predicted: float | None
    elsewhere: float | None
    any_filler: float
    examples: tuple[str, ...]


def attack(
    circuit: Circuit, model: Any, tokenizer: Any, task: Task, *, counts: Sequence[int] = COUNTS, pairs: int = 64, seed: int = 0
) -> list[Attack]:
    """Lengthens prompts by fillers that the circuit says will turn the answer, and tries them on the model.

    A filler is a token that both prompts of a pair have, equally often, and that not all pairs have: the task is not about it. It is put in where the pair has
    one already, the same in both prompts.

    Args:
        counts: copies that are put in; those that would exceed the model's block are left out.

    Returns:
        a row for each count, the first, 0, being the prompts as they are.

    Raises:
        ValueError: if the circuit is of another model or task, or the task has no fillers.
    """
    refuse_other_model(circuit, model)
    refuse_other_task(circuit, task)
    chosen_on, tried_on = (task.pairs(pairs, split, seed=seed, fewer=True) for split in ("validation", "test"))
    known = fillers(chosen_on)
    if not known:
        raise ValueError(
            f"The prompts of {task.name} have nothing in common within pairs that differs between them: there is no filler to lengthen them by."
        )
    longest = max(chosen_on.input_ids.shape[1], tried_on.input_ids.shape[1])
    able = [count for count in counts if longest + count <= model.config.block_size]
    random, rows = Random(seed), []
    with evaluating(model):
        for count in (0, *able):
            scored = []
            for token in known[:_TRIED] if count else known[:1]:
                margins = _margins(
                    model, lengthened(chosen_on, [token] * len(chosen_on), count, known, tokenizer, seed), circuit
                )
                scored.append((-float((margins <= 0).float().mean()), float(margins.mean()), token))
            token = min(scored)[2]
            guided = lengthened(tried_on, [token] * len(tried_on), count, known, tokenizer, seed)
            anyhow = lengthened(tried_on, random.choices(known, k=len(tried_on)), count, known, tokenizer, seed)
            rows.append(_row(model, circuit, guided, anyhow, count, tokenizer.decode([token]) if count else ""))
    return rows


def fillers(pairs: Pairs) -> list[int]:
    """Tokens that are equally often in both prompts of every pair that has them, and in some pairs only; most frequent first."""
    prompts, seen, uneven = pairs.prompts(), Counter[int](), set[int]()
    for one, two in zip(prompts[0::2], prompts[1::2]):
        a, b = Counter(one), Counter(two)
        seen.update(a.keys() | b.keys())
        uneven |= {token for token in a.keys() | b.keys() if a[token] != b[token]}
    answers = set(pairs.answers.flatten().tolist())
    return [token for token, often in seen.most_common() if often < len(pairs) and token not in uneven | answers]


def lengthened(pairs: Pairs, tokens: Sequence[int], count: int, known: Sequence[int], tokenizer: Any, seed: int) -> Pairs:
    """Each pair with `count` copies of its token after a filler that it has, at the same place in both prompts; at the start if it has none."""
    rows, among = [], set(known)
    prompts = pairs.prompts()
    for j, token in enumerate(tokens):
        one, two = prompts[2 * j], prompts[2 * j + 1]
        places = [i + 1 for i in range(min(len(one), len(two)) - 1) if one[i] == two[i] and one[i] in among] or [0]
        at = Random(f"{seed} {j}").choice(places)
        rows += [[*prompt[:at], *[token] * count, *prompt[at:]] for prompt in (one, two)]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return Pairs(ids, mask, pairs.answers, tuple(tokenizer.decode(row) for row in rows))


@torch.no_grad()
def _margins(model: Any, pairs: Pairs, circuit: Circuit | None = None) -> torch.Tensor:
    """Logit of the right answer minus that of the other, [prompts]."""
    with contextlib.nullcontext() if circuit is None else circuit.running(model):
        found = last_logits(model, pairs, 32).gather(1, pairs.answers.to(model.device))
    return (found[:, 0] - found[:, 1]).cpu()


def _row(model: Any, circuit: Circuit, guided: Pairs, anyhow: Pairs, count: int, token: str) -> Attack:
    predicted, wrong = (_margins(model, guided, each) <= 0 for each in (circuit, None))

    def share(where: torch.Tensor) -> float | None:
        return float(wrong[where].float().mean()) if bool(where.any()) else None

    return Attack(
        count, token, float(predicted.float().mean()), float(wrong.float().mean()), share(predicted), share(~predicted),
        float((_margins(model, anyhow) <= 0).float().mean()), tuple(guided.texts[int(i)] for i in (predicted & wrong).nonzero()[:5, 0]),
    )  # fmt: skip


def as_table(rows: Sequence[Attack]) -> str:
    """For the terminal."""
    lines = ["copies  filler        circuit wrong  model wrong  where predicted  elsewhere  any filler"]
    for row in rows:
        where, elsewhere = ("      -" if each is None else f"{each:7.2f}" for each in (row.where_predicted, row.elsewhere))
        lines.append(
            f"{row.count:6d}  {row.token[:12]!r:14s}{row.circuit_wrong:11.2f}{row.model_wrong:13.2f}{where:>17s}{elsewhere:>11s}{row.any_filler:12.2f}"
        )
    return "\n".join(lines)
