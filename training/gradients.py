"""Gradient normalisation and the optimizer's parameter groups."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ..wiring_csp import TABLE
from .projection import local_part

RMS_EPS = 1e-5


@torch.no_grad()
def normalize_gradients_(parameters: Iterable[nn.Parameter], beyond: float = 1.0) -> torch.Tensor:
    """Divides all gradients, in place, by their global root mean square + 1e-5 (paper, appendix on training; release's script).

    Every trainable parameter counts in the mean, those without a gradient as zeros. Sharded ones (DTensor) count over all ranks.

    Args:
        beyond: what the square sum is multiplied by, where gradients are known in part (`supersets.py`).

    Returns:
        The root mean square before the division, a scalar tensor; no host synchronisation.
    """
    trainable = [p for p in parameters if p.requires_grad]
    grads = [p.grad for p in trainable if p.grad is not None]
    if not grads:
        raise ValueError("There are no gradients to normalise; call backward first.")
    wide = torch.promote_types(grads[0].dtype, torch.float32)
    parts = [local_part(grad) for grad in grads]
    whole = [torch.linalg.vector_norm(local, dtype=wide) for local, shards in parts if shards is None]
    cut = [torch.linalg.vector_norm(local, dtype=wide) for local, shards in parts if shards is not None]
    if cut:
        shards = next(shards for _, shards in parts if shards is not None)
        whole.append(shards.total(torch.stack(cut).square().sum()).sqrt())
    rms = torch.linalg.vector_norm(torch.stack(whole)) * (beyond / sum(p.numel() for p in trainable)) ** 0.5
    torch._foreach_div_([local for local, _ in parts], rms + RMS_EPS)
    return rms


def adamw_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two parameter groups for AdamW: decay on tensors of two dimensions and more, except the bigram table.

    The stock Trainer makes the same split for our models, because it goes by names (`*_norm`, `*bias*`).
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in named if p.dim() >= 2 and not name.startswith(f"{TABLE}.")]
    chosen = {id(p) for p in decayed}
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": [p for _, p in named if id(p) not in chosen], "weight_decay": 0.0},
    ]
