"""Scores on a task, and capability: what a model can do at all."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .._auto import renamed
from .outcome import figures, last_logits, losses, summary
from .python_tasks import BARE, FORMS, LINE_END
from .sites import evaluating, require_csp, require_ids
from .tasks import CannotExpress, Pairs, Task, load_task, tasks

CHANCE = math.log(2)
CAPABLE_PREFERENCE = 0.95


def answer_logits(model: Any, pairs: Pairs, batch: int = 64) -> torch.Tensor:
    """Logits of (right answer, other answer) at the last position of each prompt, [2 * pairs, 2]."""
    return last_logits(model, pairs, batch).gather(1, pairs.answers.to(model.device))


def task_loss(model: Any, pairs: Pairs, batch: int = 64) -> torch.Tensor:
    """Mean over both prompts of every pair of the cross-entropy between the two answers, in nats (docs/method.md#task-loss). A scalar."""
    return losses(answer_logits(model, pairs, batch)).mean()


@dataclass(frozen=True)
class Score:
    """What a model does on the prompts of pairs, means over `count` prompts.

    loss, preference: between the two answers alone (nats, chance ln 2 = 0.693; share of prompts on which the right one is preferred). They say nothing
    of all other tokens; that do first_guess (share on which the right answer is preferred to every token), probability and rank (median) of
    the right answer, and on_answers, the probability of the two together. None where only the two answers' logits are known.
    """

    loss: float
    preference: float
    count: int
    first_guess: float | None = None
    probability: float | None = None
    rank: float | None = None
    on_answers: float | None = None

    @classmethod
    def of(cls, logits: torch.Tensor) -> Score:
        """Of logits [prompts, 2] of (right, other)."""
        right = (logits[:, 0] > logits[:, 1]).double().mean()
        return cls(float(losses(logits.double()).mean()), float(right), len(logits))

    @classmethod
    def of_all(cls, logits: torch.Tensor, answers: torch.Tensor) -> Score:
        """Of logits [prompts, vocabulary] and answers [prompts, 2]."""
        found = summary(figures(logits, answers))
        return cls(**{field.name: found[field.name] for field in dataclasses.fields(cls)})

    @property
    def accuracy(self) -> float:
        """Former name of `preference`."""
        warnings.warn("Score.accuracy is now Score.preference: of two answers, not of all tokens.", FutureWarning, stacklevel=2)
        return self.preference

    def to_dict(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def score(model: Any, pairs: Pairs, batch: int = 64) -> Score:
    """What a model, or the circuit that is applied to it, does on pairs, in eval mode.

    Raises:
        ValueError: if the pairs have token ids that the model does not have.
    """
    require_ids(require_csp(model), pairs.input_ids, pairs.answers)
    with evaluating(model), torch.no_grad():
        return Score.of_all(last_logits(model, pairs, batch), pairs.answers)


@dataclass(frozen=True)
class Capability:
    """What a model can do of one task: its score on held-out pairs, and whether pruning for it makes sense."""

    task: str
    score: Score | None
    reason: str = ""
    form: str = ""

    @property
    def passes(self) -> bool:
        return self.score is not None and not self.reason


def capability(model: Any, task: Task, target_loss: float = 0.15, pairs: int = 64, seed: int = 0) -> Capability:
    """Whether a model prefers the right one of two answers well enough to prune for: on 0.95 of the prompts, with a pairwise loss below the target, on
    validation pairs (fewer than `pairs` if the task has no more). Whether the answer is its first guess is another matter, and in the score."""
    try:
        found = score(model, task.pairs(pairs, "validation", seed=seed, fewer=True))
    except CannotExpress as error:
        return Capability(task.name, None, str(error), task.form)
    reason = ""
    if found.preference < CAPABLE_PREFERENCE:
        reason = f"it prefers the right answer on {found.preference:.0%} of prompts, under {CAPABLE_PREFERENCE:.0%}"
    elif found.loss >= target_loss:
        reason = f"pairwise loss {found.loss:.3f} is not under the target {target_loss:g}"
    return Capability(task.name, found, reason, task.form)


def capabilities(
    model: Any, tokenizer: Any, names: Iterable[str] | None = None, *, form: str | None = None, **settings: Any
) -> list[Capability]:
    """`capability` for several tasks, by default all 20, in the form given or natural to the model."""
    return [capability(model, task_for(model, name, tokenizer, form), **settings) for name in (names or tasks())]


def task_for(model: Any, name: str | Path, tokenizer: Any, form: str | None = None) -> Task:
    """`load_task`, a built-in task in the form given or, by default, natural to the model."""
    task = load_task(name, tokenizer, form)
    return task if form or not task.form else load_task(name, tokenizer, natural_form(model, task))


def natural_form(model: Any, task: Task, pairs: int = 16) -> str:
    """The form of a built-in task to whose answers the model gives more probability: what its corpus has at these places. "line_end" if the
    tokenizer tells no difference, or only one of them can be said."""
    asked = {}
    for form in FORMS:
        try:
            asked[form] = dataclasses.replace(task, form=form, twin="").pairs(pairs, "train", fewer=True)
        except CannotExpress:
            continue
    if len(asked) < 2 or torch.equal(asked[LINE_END].answers, asked[BARE].answers):
        return next(iter(asked), LINE_END)
    with evaluating(model), torch.no_grad():
        mass = {form: float(_answer_mass(model, each)) for form, each in asked.items()}
    return BARE if mass[BARE] > mass[LINE_END] else LINE_END


def _answer_mass(model: Any, pairs: Pairs) -> torch.Tensor:
    """Mean over prompts of the probability that the two answers have together."""
    return figures(last_logits(model, pairs), pairs.answers)["on_answers"].mean()


__getattr__ = renamed(__name__, {"Gate": "Capability", "gate": "capability", "gates": "capabilities"})
