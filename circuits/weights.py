"""Every nonzero weight of a model, and what a text's loss is without it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..wiring_csp import TABLE_WEIGHT
from .sites import evaluating, require_csp, require_ids

COLUMNS = ("module", "output", "input", "value", "first_order", "exact")


@dataclass(frozen=True)
class Weight:
    """A nonzero weight [output, input] of a module's matrix.

    Args:
        first_order: what the loss rises by, nats per token, if the weight becomes zero, as its gradient has it: -gradient * value.
        exact: the same by removing it and running the text again; None where that was not done.
    """

    module: str
    output: int
    input: int
    value: float
    first_order: float
    exact: float | None = None


def weight_table(model: Any, blocks: torch.Tensor, exact: int = 0, batch: int = 16) -> list[Weight]:
    """All nonzeros of matrices but the bigram table, those first whose removal changes the loss most by first order.

    Args:
        blocks: token ids [n, tokens]. exact: of how many, from the first on, the effect is measured too, each by a pass over the text.

    Raises:
        ValueError: for a model in sparse form, whose zeros have no gradient but whose values are no parameters of matrices either, or ids that it lacks.
    """
    require_ids(require_csp(model), blocks)
    if any(not isinstance(getattr(module, "weight", None), (torch.Tensor, type(None))) for module in model.modules()):
        raise ValueError("The model is in sparse form; call model.to_dense() first.")
    matrices = {name: p for name, p in model.named_parameters() if p.dim() == 2 and not name.endswith(TABLE_WEIGHT)}
    wanted = {name: p.requires_grad for name, p in matrices.items()}
    gradients = {name: torch.zeros_like(p) for name, p in matrices.items()}
    with evaluating(model):
        try:
            for p in matrices.values():
                p.requires_grad_(True)
            for part in blocks.split(batch):
                ids = part.long().to(model.device)
                loss = model(ids, labels=ids, use_cache=False).loss * (len(part) / len(blocks))
                for name, gradient in zip(matrices, torch.autograd.grad(loss, list(matrices.values()), allow_unused=True)):
                    gradients[name] += 0.0 if gradient is None else gradient
        finally:
            for name, p in matrices.items():
                p.requires_grad_(wanted[name])
        found = [row for name, p in matrices.items() for row in _nonzeros(name, p, gradients[name])]
        found.sort(key=lambda row: -abs(row.first_order))
        return [*_measured(model, matrices, blocks, found[:exact], batch), *found[exact:]]


def _nonzeros(name: str, parameter: torch.Tensor, gradient: torch.Tensor) -> Iterator[Weight]:
    value = parameter.detach().float().cpu()
    effect = -gradient.detach().float().cpu() * value
    for output, source in value.nonzero().tolist():
        yield Weight(name.removesuffix(".weight"), output, source, float(value[output, source]), float(effect[output, source]))


@torch.no_grad()
def _measured(
    model: Any, matrices: dict[str, torch.Tensor], blocks: torch.Tensor, rows: Sequence[Weight], batch: int
) -> list[Weight]:
    def loss() -> float:
        parts = [part.long().to(model.device) for part in blocks.split(batch)]
        return sum(float(model(ids, labels=ids, use_cache=False).loss.double()) * len(ids) for ids in parts) / len(blocks)

    found = []
    whole = loss() if rows else 0.0
    for row in rows:
        matrix = matrices[f"{row.module}.weight"]
        matrix[row.output, row.input] = 0.0
        try:
            found.append(Weight(row.module, row.output, row.input, row.value, row.first_order, loss() - whole))
        finally:
            matrix[row.output, row.input] = row.value
    return found


def as_csv(rows: Sequence[Weight]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        cells = (f"{row.value:.9g}", f"{row.first_order:.6g}", "" if row.exact is None else f"{row.exact:.6g}")
        writer.writerow((row.module, row.output, row.input, *cells))
    return text.getvalue()
