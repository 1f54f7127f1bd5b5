"""What a model says at the last position of each prompt, as figures that can fail, each with an interval over pairs of prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from .sites import require_csp
from .tasks import Pairs

DRAWS = 1000  # of pairs, for an interval
COVERAGE = 0.95


def last_logits(model: Any, pairs: Pairs, batch: int = 64) -> torch.Tensor:
    """Logits over the vocabulary at the last position of each prompt, [2 * pairs, vocabulary]; `batch` pairs at a time."""
    device = require_csp(model).device
    found = []
    for part in pairs.batches(batch):
        part = part.to(device)
        out = model(input_ids=part.input_ids, attention_mask=part.attention_mask, logits_to_keep=1, use_cache=False)
        found.append(out.logits[:, -1])
    return torch.cat(found)


def losses(logits: torch.Tensor) -> torch.Tensor:
    """Pairwise loss of each prompt: binary cross-entropy between the two answers in nats, from [..., 2] logits of (right, other)."""
    return F.softplus(logits[..., 1] - logits[..., 0])


def vocabulary_kl(model: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL(model || other) in nats over the whole vocabulary, [prompts], from logits [prompts, vocabulary]."""
    return F.kl_div(other.log_softmax(-1), model.log_softmax(-1), reduction="none", log_target=True).sum(-1)


def figures(logits: torch.Tensor, answers: torch.Tensor, model: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """Each prompt's figures, float64 [prompts].

    Args:
        logits: [prompts, vocabulary]. answers: [prompts, 2] token ids of (right, other).
        model: logits of the whole model, to compare with.

    Returns:
        loss: pairwise, between the two answers. preference: whether the right answer is preferred to the other. first_guess: whether it is preferred to
        every token. probability, rank (1 is first): of the right answer. on_answers: probability of the two together. With `model`: kl
        (of the whole vocabulary, from the model's probabilities), same_guess (the model's first guess), same_preference.
    """
    logits, answers = logits.double().cpu(), answers.cpu()
    two = logits.gather(1, answers)
    probabilities = logits.softmax(-1).gather(1, answers)
    found = {
        "loss": losses(two),
        "preference": (two[:, 0] > two[:, 1]).double(),
        "first_guess": (logits.argmax(-1) == answers[:, 0]).double(),
        "probability": probabilities[:, 0],
        "rank": 1.0 + (logits > two[:, :1]).sum(1).double(),
        "on_answers": probabilities.sum(1),
    }
    if model is None:
        return found
    model = model.double().cpu()
    theirs = model.gather(1, answers)
    return found | {
        "kl": vocabulary_kl(model, logits),
        "same_guess": (logits.argmax(-1) == model.argmax(-1)).double(),
        "same_preference": ((two[:, 0] > two[:, 1]) == (theirs[:, 0] > theirs[:, 1])).double(),
    }


def summary(each: Mapping[str, torch.Tensor], seed: int = 0) -> dict[str, Any]:
    """Figure -> mean over prompts (of rank: the median), `count`, and `intervals`: figure -> 95 % over pairs, by bootstrap.

    Pairs are drawn, not prompts: the two prompts of a pair are alike. Intervals say how far other prompts of the kind would move a figure,
    nothing of other models.
    """
    found: dict[str, Any] = {name: float(_middle(name, values.view(1, -1))) for name, values in each.items()}
    found["count"] = len(next(iter(each.values())))
    found["intervals"] = {name: interval(values, name, seed) for name, values in each.items()}
    return found


def interval(values: torch.Tensor, name: str = "", seed: int = 0) -> list[float]:
    """[low, high] of a figure's mean (of rank: median) over prompts [2 * pairs], drawing pairs."""
    pairs = values.view(-1, 2)
    return _percentiles(_middle(name, pairs[_drawn(len(pairs), seed)].flatten(1)))


def _middle(name: str, values: torch.Tensor) -> torch.Tensor:
    return values.median(-1).values if name == "rank" else values.mean(-1)


def _drawn(pairs: int, seed: int) -> torch.Tensor:
    return torch.randint(0, pairs, (DRAWS, pairs), generator=torch.Generator().manual_seed(seed))


def _percentiles(values: torch.Tensor) -> list[float]:
    values = values[~values.isnan()]
    edges = torch.tensor([(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], dtype=values.dtype)
    return values.quantile(edges).tolist() if len(values) else [float("nan")] * 2


def correlation(one: torch.Tensor, two: torch.Tensor, answers: torch.Tensor, seed: int = 0) -> dict[str, Any]:
    """Correlation of two logit differences (right minus other, [prompts]) within classes, prompts of one right and other answer; with its interval.

    Across classes two things that separate the answers correlate whatever they do inside. None where nothing varies: always giving
    the same difference is no agreement.
    """
    one, two = one.double().cpu(), two.double().cpu()
    classes = answers.cpu().unique(dim=0, return_inverse=True)[1]
    whole = _correlated(one[None], two[None], classes[None])
    drawn = _drawn(len(one) // 2, seed)
    rows = torch.stack([2 * drawn, 2 * drawn + 1], -1).flatten(1)
    spread = _percentiles(_correlated(one[rows], two[rows], classes[rows]))
    value = float(whole[0])
    return {"value": None if value != value else value, "interval": None if value != value else spread}


def _correlated(one: torch.Tensor, two: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """[draws], of [draws, prompts]: centred within classes; NaN where one of them does not vary."""
    one, two = (_centred(each, classes) for each in (one, two))
    size = (one.square().sum(1) * two.square().sum(1)).sqrt()
    return torch.where(size > 1e-12 * one.shape[1], (one * two).sum(1) / size, torch.nan)


def _centred(values: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    for label in classes.unique():
        inside = classes == label
        mean = (values * inside).sum(1, keepdim=True) / inside.sum(1, keepdim=True).clamp(min=1)
        values = torch.where(inside, values - mean, values)
    return values
