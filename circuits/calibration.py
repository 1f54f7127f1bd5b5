"""Scale and shift of the two answers' logits: fitted on one half of the pairs, scored on the other, reported apart."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F

from .scoring import Score

MAX_SCALE = 10.0  # larger scales were seen only where they flatter a circuit that has nearly no signal left (docs/method.md#calibration)


def calibrate(logits: torch.Tensor, model: torch.Tensor) -> tuple[dict[str, float], Score]:
    """Fits `scale` and `shift` of the difference of the two answers' logits by 16 LBFGS steps (paper: scale and shift of the logits).

    Fitted to the whole model's probabilities of the two answers (cross-entropy), not to which answer is right: right answers can often be separated,
    and no scale is large enough for those. Prompts 2j and 2j + 1 are a pair whose right answers are opposite, so the difference is taken towards
    the first prompt's answer.

    Args:
        logits: the circuit's, [2n, 2] of (right, other). model: the whole model's.

    Returns:
        {"scale", "shift"}, and the score on the half of the pairs that was not fitted on. The scale is at most 10.
    """
    towards, wanted = (_towards_first(each.detach().cpu().double()) for each in (logits, model))
    if len(towards) < 2:
        raise ValueError("One pair cannot be fitted on and scored on; calibrate on at least 2.")
    fit, rest, wanted = towards[0::2], towards[1::2], wanted[0::2].sigmoid()
    # scale = 10 * sigmoid: the bound is part of the fit, so that the shift belongs to the scale
    start = torch.logit(torch.tensor(1 / MAX_SCALE, dtype=torch.float64))
    raw, shift = start.requires_grad_(), torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([raw, shift], max_iter=16, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(fit * MAX_SCALE * raw.sigmoid() + shift, wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    scale, moved = float(MAX_SCALE * raw.detach().sigmoid()), float(shift.detach())
    if not (math.isfinite(scale) and math.isfinite(moved)):
        scale, moved = 1.0, 0.0
    with torch.no_grad():
        return {"scale": scale, "shift": moved}, Score.of(_calibrated(rest, torch.tensor(scale), torch.tensor(moved)))


def apply_calibration(logits: torch.Tensor, calibration: Mapping[str, float]) -> torch.Tensor:
    """Logits [2n, 2] of (right, other) with a fitted scale and shift; the right answer's is the difference, the other's 0."""
    scale, shift = (torch.tensor(calibration[name], dtype=torch.float64) for name in ("scale", "shift"))
    return _calibrated(_towards_first(logits.double()), scale, shift)


def _towards_first(logits: torch.Tensor) -> torch.Tensor:
    """[pairs, 2]: for both prompts the logit of the first prompt's answer minus that of the second's."""
    difference = (logits[:, 0] - logits[:, 1]).view(-1, 2)
    return difference * torch.tensor([1.0, -1.0], dtype=logits.dtype, device=logits.device)


def _calibrated(towards: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Logits [prompts, 2] of (right, other) after scale and shift."""
    difference = ((towards * scale + shift) * torch.tensor([1.0, -1.0], dtype=towards.dtype, device=towards.device)).flatten()
    return torch.stack([difference, torch.zeros_like(difference)], dim=1)
