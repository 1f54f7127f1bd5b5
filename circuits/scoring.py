"""Task loss and accuracy, and capability: what a model can do at all."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from .._auto import renamed
from .python_tasks import BARE, FORMS, LINE_END
from .sites import evaluating, require_csp, require_ids
from .tasks import CannotExpress, Pairs, Task, load_task, tasks

CHANCE = math.log(2)
CAPABLE_ACCURACY = 0.95


def answer_logits(model: Any, pairs: Pairs, batch: int = 64) -> torch.Tensor:
    """Logits of (right answer, other answer) at the last position of each prompt, [2 * pairs, 2]."""
    device = require_csp(model).device
    found = []
    for part in pairs.batches(batch):
        part = part.to(device)
        out = model(input_ids=part.input_ids, attention_mask=part.attention_mask, logits_to_keep=1, use_cache=False)
        found.append(out.logits[:, -1].gather(1, part.answers))
    return torch.cat(found)


def losses(logits: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of each prompt in nats, from [..., 2] logits of (right, other)."""
    return F.softplus(logits[..., 1] - logits[..., 0])


def task_loss(model: Any, pairs: Pairs, batch: int = 64) -> torch.Tensor:
    """Mean over both prompts of every pair of the cross-entropy between the two answers, in nats (docs/method.md#task-loss). A scalar."""
    return losses(answer_logits(model, pairs, batch)).mean()


@dataclass(frozen=True)
class Score:
    """Loss in nats (chance: ln 2 = 0.693) and accuracy over prompts; `count` prompts."""

    loss: float
    accuracy: float
    count: int

    @classmethod
    def of(cls, logits: torch.Tensor) -> Score:
        right = (logits[:, 0] > logits[:, 1]).double().mean()
        return cls(float(losses(logits.double()).mean()), float(right), len(logits))

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def score(model: Any, pairs: Pairs, batch: int = 64) -> Score:
    """Loss and accuracy of a model, or of the circuit that is applied to it, in eval mode.

    Raises:
        ValueError: if the pairs have token ids that the model does not have.
    """
    require_ids(require_csp(model), pairs.input_ids, pairs.answers)
    with evaluating(model), torch.no_grad():
        return Score.of(answer_logits(model, pairs, batch))


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
    """Whether a model does a task well enough to prune for: accuracy of at least 0.95 and a loss below the target, on validation pairs
    (fewer than `pairs` if the task has no more)."""
    try:
        found = score(model, task.pairs(pairs, "validation", seed=seed, fewer=True))
    except CannotExpress as error:
        return Capability(task.name, None, str(error), task.form)
    reason = ""
    if found.accuracy < CAPABLE_ACCURACY:
        reason = f"accuracy {found.accuracy:.2f} is under {CAPABLE_ACCURACY}"
    elif found.loss >= target_loss:
        reason = f"loss {found.loss:.3f} is not under the target {target_loss:g}"
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
    part = pairs.to(require_csp(model).device)
    out = model(input_ids=part.input_ids, attention_mask=part.attention_mask, logits_to_keep=1, use_cache=False)
    return out.logits[:, -1].softmax(-1).gather(1, part.answers).sum(1).mean()


__getattr__ = renamed(__name__, {"Gate": "Capability", "gate": "capability", "gates": "capabilities"})
