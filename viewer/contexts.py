"""Where in a corpus the nodes of a circuit are largest and smallest, all of them in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..circuits.means import watching
from ..circuits.reading import AFTER, BEFORE

Context = dict[str, Any]


@dataclass(frozen=True)
class Contexts:
    """Contexts of nodes: (site, index) -> largest and smallest (token ids, activations, place of the one meant), share of tokens where not 0."""

    found: dict[tuple[str, int], tuple[list[Context], list[Context], float]]

    def of(self, site: str, index: int) -> tuple[list[Context], list[Context], float]:
        return self.found[site, index]


@torch.no_grad()
def find_contexts(model: Any, nodes: Mapping[str, torch.Tensor], blocks: torch.Tensor, count: int, batch: int = 16) -> Contexts:
    """For each node the `count` blocks with its largest and those with its smallest activation, the place within the block, and what is around.

    Of a block only one place is taken, so that contexts differ. Two passes over the corpus: activations of all nodes at all tokens need not be held.
    """
    extremes: dict[tuple[str, int], list[Any]] = {(site, sign): [] for site in nodes for sign in (1, -1)}
    active = {site: torch.zeros(len(indices), dtype=torch.int64) for site, indices in nodes.items()}
    for _, seen in _runs(model, nodes, blocks, batch):
        for site, values in seen.items():
            active[site] += (values != 0).sum((0, 1))
            for sign in (1, -1):
                extremes[site, sign].append((sign * values).max(1))  # over tokens: [blocks, nodes]
    chosen = {key: _best(parts, count) for key, parts in extremes.items()}
    needed = torch.unique(torch.cat([rows.flatten() for rows, _ in chosen.values()])) if chosen else torch.tensor([])
    place = {int(row): i for i, row in enumerate(needed)}
    found: dict[tuple[str, int], tuple[list[Context], list[Context], float]] = {
        (site, int(i)): ([], [], float(active[site][j]) / blocks.numel()) for site, indices in nodes.items() for j, i in enumerate(indices)
    }  # fmt: skip
    wanted: dict[int, list[tuple[str, int, int, int, int]]] = {}
    for (site, sign), (rows, columns) in chosen.items():
        for rank in range(rows.shape[0]):
            for j in range(rows.shape[1]):
                wanted.setdefault(place[int(rows[rank, j])], []).append((site, j, sign, rank, int(columns[rank, j])))
    kept: dict[tuple[str, int, int], dict[int, Context]] = {}
    for start, seen in _runs(model, nodes, blocks[needed.long()], batch):
        size = next(iter(seen.values())).shape[0]
        for row in range(size):
            for site, j, sign, rank, column in wanted[start + row]:
                ids = blocks[int(needed[start + row])]
                kept.setdefault((site, j, sign), {})[rank] = _window(ids, seen[site][row, :, j], column)
    for (site, j, sign), by_rank in kept.items():
        largest, smallest, _ = found[site, int(nodes[site][j])]
        (largest if sign > 0 else smallest).extend(by_rank[rank] for rank in sorted(by_rank))
    return Contexts(found)


def _runs(model: Any, nodes: Mapping[str, torch.Tensor], blocks: torch.Tensor, batch: int) -> Any:
    """(first row, site -> activations [rows, tokens, nodes]) of each batch."""
    with watching(model) as seen:
        for start in range(0, len(blocks), batch):
            model(input_ids=blocks[start : start + batch].long().to(model.device), use_cache=False, logits_to_keep=1)
            yield start, {site: seen[site][..., indices.to(model.device)].float().cpu() for site, indices in nodes.items()}


def _best(parts: list[Any], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, columns) [count, nodes] of the largest values over all batches, first rows first among equals."""
    values, columns = torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])
    rows = values.argsort(dim=0, descending=True, stable=True)[:count]
    return rows, columns.gather(0, rows)


def _window(ids: torch.Tensor, values: torch.Tensor, column: int) -> Context:
    first, last = max(0, column - BEFORE), min(len(ids), column + AFTER + 1)
    shown = [float(f"{value:.3g}") for value in values[first:last].tolist()]
    return {"tokens": ids[first:last].tolist(), "values": shown, "at": column - first}
