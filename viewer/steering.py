"""What the page shows of nodes under bridges: what the decoder's direction of each does to the dense model's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..bridges.steering import Steering
from ..wiring_csp import reads_residual

STRENGTHS = (0.0, 0.5, 1.0, 2.0, 4.0)
RANDOM = 10  # directions
TOKENS = 8


def node_steering(steering: Steering, nodes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Node -> what a push of the dense model along it does, for nodes that read the residual stream and differ between prompts and counterfactuals.

    Returns:
        for each: strengths; answer, other: probabilities of the prompt's own answer and of the counterfactual's, means over prompts; random: the
        other's along that of some random directions of the same length which raises it most; raised: next tokens whose probability rises or falls most
        as the node rises (weight: percentage points at strength 1, mean over the prompts that are pushed; where the push lowers the node, summed
        over tokens, the sign is turned).
    """
    generator, answers = torch.Generator().manual_seed(0), steering.prompts.answers
    found: dict[str, dict[str, Any]] = {}
    for node in nodes:
        site, _, index = node.rpartition(":")
        if not reads_residual(site) or int(index) >= steering.pair.sparse.width or not steering.moves(node):
            continue
        push = steering.along(node)
        after = {s: next(steering.last_logits(push, s)).float().softmax(-1) for s in STRENGTHS}
        shares = torch.stack([each.gather(-1, answers.to(each.device)).mean(0).cpu() for each in after.values()])
        drawn = steering.random(push, RANDOM, generator)
        pushed = [steering.probabilities(push, s, drawn)[..., 1].mean(1).max() for s in STRENGTHS[1:]]
        most = torch.stack([shares[0, 1], *pushed])  # no push has no direction
        sign = push.amount.sum(1).sign().to(after[1.0])[:, None]
        change = 100 * ((sign * (after[1.0] - after[0.0])).sum(0) / sign.abs().sum().clamp_min(1)).cpu()
        top = [t for t in change.abs().topk(min(TOKENS, len(change))).indices.tolist() if change[t]]
        found[node] = {
            "strengths": list(STRENGTHS), "answer": _short(shares[:, 0]), "other": _short(shares[:, 1]), "random": _short(most),
            "raised": [{"token": t, "weight": _short(change[t : t + 1])[0]} for t in top],
        }  # fmt: skip
    return found


def _short(values: torch.Tensor) -> list[float]:
    return [float(f"{float(v):.4g}") for v in values]
