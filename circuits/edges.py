"""Edges: the nonzero weights that connect two nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from .sites import edge_maps, require_csp


class Edges(NamedTuple):
    """Edges of one map: source and target nodes (int64), weights (float32), one entry each, sorted by target, then source."""

    source: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor


def edges_in(model: Any, nodes: Mapping[str, torch.Tensor]) -> dict[str, Edges]:
    """All edges between nodes: the nonzeros that connect two of them; maps without any are left out."""
    found = {}
    for name, part in edge_maps(require_csp(model)).items():
        if part.source in nodes and part.target in nodes:
            source, target = part.edges(nodes[part.source], nodes[part.target])
            if len(source):
                found[name] = Edges(source, target, part.entries(source, target).float().cpu())
    return found


def removed_edges(
    model: Any, nodes: Mapping[str, torch.Tensor], kept: Mapping[str, Edges], every: Mapping[str, Edges] | None = None
) -> dict[str, Edges]:
    """Edges between `nodes` that are not among `kept`, as `ablated` takes them.

    Args:
        every: all edges between these nodes, if they are known; else they are looked up in the model.
    """
    removed = {}
    for name, edges in (edges_in(model, nodes) if every is None else every).items():
        stays = torch.zeros(len(edges.source), dtype=torch.bool)
        if name in kept and len(kept[name].source):
            wide = int(max(edges.source.max(), kept[name].source.max())) + 1
            stays = torch.isin(edges.target * wide + edges.source, kept[name].target * wide + kept[name].source)
        if not bool(stays.all()):
            removed[name] = Edges(*(part[~stays] for part in edges))
    return removed


def places(edges: Mapping[str, Edges]) -> list[tuple[str, int, int]]:
    """(map, source node, target node) of each edge, in order."""
    return [(name, s, t) for name, each in edges.items() for s, t in zip(each.source.tolist(), each.target.tolist())]


def within(edges: Mapping[str, Edges], nodes: Mapping[str, torch.Tensor]) -> dict[str, Edges]:
    """Those edges whose two nodes are among `nodes`."""
    found = {}
    for name, each in edges.items():
        source, target = name.split("->")
        if source in nodes and target in nodes:
            stays = torch.isin(each.source, nodes[source]) & torch.isin(each.target, nodes[target])
            if bool(stays.any()):
                found[name] = Edges(*(part[stays] for part in each))
    return found
