"""Baselines that rank by gradients alone: nodes by one, edges by several between nothing and the whole model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..wiring_csp import EMBEDDING
from .ablation import Scales, ablated, recorded_scales, scaled
from .hooks import hooks
from .outcome import last_logits
from .scoring import task_loss
from .sites import edge_maps
from .tasks import Pairs


def attribution(
    model: Any, fills: Mapping[str, torch.Tensor], pairs: Pairs, freeze_norms: bool = False
) -> dict[str, torch.Tensor]:
    """First-order effect of closing each node on the task loss: site -> loss(closed) - loss(open), estimated by one gradient, [width]."""
    gates = {name: torch.ones(fill.shape, device=model.device, requires_grad=True) for name, fill in fills.items()}
    changes = {name: scaled(gate, fills[name].to(model.device)) for name, gate in gates.items()}
    with ablated(model, changes, freeze_norms=freeze_norms), torch.enable_grad():
        loss = task_loss(model, pairs)
    grads = torch.autograd.grad(loss, list(gates.values()), allow_unused=True)
    return {
        name: torch.zeros_like(gate.detach()).cpu() if g is None else -g.detach().float().cpu()
        for (name, gate), g in zip(gates.items(), grads)
    }


def edge_attribution(
    model: Any,
    fills: Mapping[str, torch.Tensor],
    embedding: torch.Tensor,
    pairs: Pairs,
    steps: int = 5,
    freeze_norms: bool = False,
) -> dict[str, torch.Tensor]:
    """Effect of removing each edge on the task loss, by integrated gradients over inputs: the idea of EAP-IG (Hanna et al. 2024, arXiv 2403.17806) on this
    graph. W_ij * (mean source - source) times the gradient to the target, averaged over embeddings between their mean and the prompt's own.

    Args:
        fills: name -> mean [width], `Means.values`. embedding: mean embedding of a corpus, [d_model]. pairs: at most 64, one batch. steps: of the path.
        freeze_norms: norms use the scales of the prompts themselves all along the path.

    Returns:
        map -> [targets, sources]; 0 where there is no edge.
    """
    maps = edge_maps(model)
    modules = {part.module for part in maps.values()}
    frozen: bool | Scales = False
    if freeze_norms:
        with torch.no_grad(), recorded_scales(model) as frozen:
            last_logits(model, pairs, len(pairs))
    inputs, slopes = _along(model, modules, embedding, pairs, steps, frozen)
    found = {}
    for name, part in maps.items():
        moved = (fills[part.mean_name].to(model.device) - inputs[part.module]).flatten(0, -2)
        slope = slopes[part.module].flatten(0, -2)[:, part.rows]
        found[name] = (part.weight() * (slope.T @ moved)).float().cpu()
    return found


def _along(
    model: Any, modules: set[Any], embedding: torch.Tensor, pairs: Pairs, steps: int, frozen: bool | Scales
) -> tuple[dict[Any, torch.Tensor], dict[Any, torch.Tensor]]:
    """By linear map: its input on the prompts themselves, and the mean over the path of the loss's gradient to its output."""
    inputs: dict[Any, torch.Tensor] = {}
    slopes: dict[Any, torch.Tensor] = {}
    table = model.transformer.get_submodule(EMBEDDING)
    for step in range(1, steps + 1):
        outputs: dict[Any, torch.Tensor] = {}

        def between(module: Any, args: Any, out: torch.Tensor, share: float = step / steps) -> torch.Tensor:
            return (embedding.to(out) + share * (out - embedding.to(out))).detach().requires_grad_()

        def keep(module: Any, args: Any, out: torch.Tensor, outputs: dict[Any, torch.Tensor] = outputs) -> None:
            inputs[module], outputs[module] = args[0].detach(), out  # of the last step, which is the prompt's own

        with torch.enable_grad(), ablated(model, {}, freeze_norms=frozen), hooks() as handles:
            handles.append(table.register_forward_hook(between))
            handles += [module.register_forward_hook(keep) for module in modules]
            loss = task_loss(model, pairs, len(pairs))
        for module, slope in zip(outputs, torch.autograd.grad(loss, list(outputs.values()), allow_unused=True)):
            each = torch.zeros_like(outputs[module]) if slope is None else slope
            slopes[module] = slopes.get(module, torch.zeros_like(each)) + each / steps
    return inputs, slopes
