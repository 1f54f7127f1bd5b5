"""Circuits as graphs: networkx and GraphML."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._auto import renamed
from ..files import write_whole
from ..wiring_csp import FINAL, reads_residual, writes_residual
from .edges import Edges, edges_in
from .identity import refuse_other_model

if TYPE_CHECKING:
    import networkx

    from .circuit import Circuit


def counted_edges(circuit: Circuit, model: Any) -> dict[str, Edges]:
    """The circuit's edges; if they were never pruned, all that connect its nodes."""
    if circuit.edges is not None:
        return circuit.edges
    if model is None:
        raise ValueError(
            f"The circuit for {circuit.task} has no edges of its own: pass the model, whose nonzeros between its nodes they are."
        )
    refuse_other_model(circuit, model)
    return edges_in(model, circuit.nodes)


def to_networkx(circuit: Circuit, model: Any = None) -> networkx.DiGraph:
    """Nodes "site:index" with site, index, layer (the last residual stream: n_layer) and label; edges with weight and kind.

    kind "weight": an edge of the circuit. kind "residual": a channel of the residual stream, written by one node and read by a later one.
    """
    import networkx

    graph = networkx.DiGraph(task=circuit.task, model=str(circuit.model.get("id") or ""))
    last = max((int(site.partition(".")[0]) for site in circuit.widths if site != FINAL), default=-1) + 1
    for site, indices in circuit.nodes.items():
        layer = last if site == FINAL else int(site.partition(".")[0])
        for index in indices.tolist():
            name = f"{site}:{index}"
            graph.add_node(name, site=site, index=index, layer=layer, label=circuit.labels.get(name, ""))
    for name, edges in counted_edges(circuit, model).items():
        source, target = name.split("->")
        for s, t, weight in zip(*(part.tolist() for part in edges)):
            graph.add_edge(f"{source}:{s}", f"{target}:{t}", weight=weight, kind="weight")
    for source, target in residual_links(circuit):
        graph.add_edge(source, target, weight=1.0, kind="residual")
    return graph


def residual_links(circuit: Circuit) -> list[tuple[str, str]]:
    """("site:index" that writes a channel, "site:index" that reads it later), among the circuit's nodes."""
    order = list(circuit.widths)
    writers = [site for site in circuit.nodes if writes_residual(site)]
    readers = [site for site in circuit.nodes if reads_residual(site)]
    found = []
    for writer in writers:
        for reader in readers:
            if order.index(reader) > order.index(writer):
                both = sorted(set(circuit.nodes[writer].tolist()) & set(circuit.nodes[reader].tolist()))
                found += [(f"{writer}:{i}", f"{reader}:{i}") for i in both]
    return found


def save_graphml(circuit: Circuit, path: str | Path, model: Any = None) -> Path:
    """The graph of `to_networkx` as GraphML, which Gephi, Cytoscape and yEd read."""
    import networkx

    text = io.BytesIO()
    networkx.write_graphml(to_networkx(circuit, model), text)
    return write_whole(path, text.getvalue())


def save_json(graph: dict[str, Any], path: str | Path) -> Path:
    """Writes a graph of plain data (`convert/mib.py`, `convert/neuronpedia.py`)."""
    return write_whole(Path(path), json.dumps(graph, allow_nan=False) + "\n")


__getattr__ = renamed(
    __name__,
    {
        "to_mib": "convert.mib:to_mib",
        "to_attribution_graph": "convert.neuronpedia:to_attribution_graph",
        "observed": "circuits.reading:observed",
    },
)
