"""Out: a circuit as a graph of MIB's circuit tracks."""

from __future__ import annotations

from typing import Any

import torch

from ..circuits.circuit import Circuit
from ..circuits.export import counted_edges, residual_links
from ..circuits.identity import refuse_other_model
from ..circuits.sites import edge_maps


def to_mib(circuit: Circuit, model: Any) -> dict[str, Any]:
    """A graph as MIB's circuit tracks exchange it (docs/method.md#exchange-formats): cfg, nodes with in_graph, edges "src->dst" with in_graph and score.

    Nodes are sites with the circuit's neurons; an edge stands for a map or a channel between two sites, its score for the sum of |weights| in it.
    """
    refuse_other_model(circuit, model)
    nodes = {}
    for site, width in circuit.widths.items():
        kept = circuit.nodes.get(site)
        scores = circuit.scores.get(site)
        nodes[site] = {
            "in_graph": kept is not None, "score": None if scores is None else float(scores.max()),
            "neurons": [bool(flag) for flag in torch.zeros(width).bool().index_fill(0, kept, True)] if kept is not None else [False] * width,
            "neurons_scores": None if scores is None else scores.tolist(),
        }  # fmt: skip
    edges = {}
    counted = counted_edges(circuit, model)
    for name in edge_maps(model):
        weight = counted.get(name)
        edges[name] = {"in_graph": weight is not None, "score": 0.0 if weight is None else float(weight.weight.abs().sum())}
    for source, target in residual_links(circuit):
        name = f"{source.rpartition(':')[0]}->{target.rpartition(':')[0]}"
        edges[name] = {"in_graph": True, "score": edges.get(name, {}).get("score", 0.0) + 1.0}
    config = model.config
    cfg = {
        "n_layers": config.n_layer,
        "n_heads": config.n_head,
        "d_model": config.d_model,
        "d_mlp": config.d_mlp,
        "d_head": config.d_head,
    }
    return {"cfg": cfg, "nodes": nodes, "edges": edges}
