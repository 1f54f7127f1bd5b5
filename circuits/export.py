"""Circuits for other tools: networkx and GraphML, a MIB-style graph, a Neuronpedia attribution graph for one prompt."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..files import write_whole
from ..wiring_csp import reads_residual
from .circuit import Circuit, Edges, edges_in
from .identity import refuse_other_model, versions
from .means import watching
from .sites import EdgeMap, dense, edge_maps

if TYPE_CHECKING:
    import networkx


def _counted(circuit: Circuit, model: Any) -> dict[str, Edges]:
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
    last = max((int(site.partition(".")[0]) for site in circuit.widths if site != "final_resid"), default=-1) + 1
    for site, indices in circuit.nodes.items():
        layer = last if site == "final_resid" else int(site.partition(".")[0])
        for index in indices.tolist():
            name = f"{site}:{index}"
            graph.add_node(name, site=site, index=index, layer=layer, label=circuit.labels.get(name, ""))
    for name, edges in _counted(circuit, model).items():
        source, target = name.split("->")
        for s, t, weight in zip(*(part.tolist() for part in edges)):
            graph.add_edge(f"{source}:{s}", f"{target}:{t}", weight=weight, kind="weight")
    for source, target in residual_links(circuit):
        graph.add_edge(source, target, weight=1.0, kind="residual")
    return graph


def residual_links(circuit: Circuit) -> list[tuple[str, str]]:
    """("site:index" that writes a channel, "site:index" that reads it later), among the circuit's nodes."""
    order = list(circuit.widths)
    writers = [site for site in circuit.nodes if site.endswith("resid_delta")]
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


def to_mib(circuit: Circuit, model: Any) -> dict[str, Any]:
    """A graph as MIB's circuit tracks exchange it (METHOD, section 8): cfg, nodes with in_graph, edges "src->dst" with in_graph and score.

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
    counted = _counted(circuit, model)
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


@torch.no_grad()
def to_attribution_graph(
    circuit: Circuit, model: Any, tokenizer: Any, prompt: str, *, scan: str, slug: str, top: int = 5
) -> dict[str, Any]:
    """A Neuronpedia / circuit-tracer attribution graph of the circuit at work on one prompt (METHOD, section 8).

    A node is a circuit node at a token where its activation is not 0; `layer` counts node sites, as several of ours lie in one layer. A link's
    weight is what goes along it: weight times activation; through attention also times the attention probability. Norms are not in it: links into a
    read of the residual stream, and into the output, are what is added before the norm. Queries and
    keys have no links onward: they steer attention, they are not added to anything.

    Args:
        scan: Neuronpedia's id of the model. slug: name of the graph.
        top: tokens of the output that get a node.

    Raises:
        ValueError: for a prompt without tokens.
    """
    refuse_other_model(circuit, model)
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    if not ids:
        raise ValueError("The prompt has no tokens; give some text.")
    seen, patterns, logits = observed(model, torch.tensor([ids]), circuit)
    graph = _Graph(circuit, model, tokenizer, ids, seen, patterns, logits, top)
    return {
        "metadata": {
            "slug": slug, "scan": scan, "prompt": prompt, "prompt_tokens": [tokenizer.decode([i]) for i in ids], "schema_version": 1,
            "info": {"description": f"Circuit for {circuit.task}", "generator": {"name": "sparse_circuits", "version": versions().get("sparse-circuits", "")}},
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": list(graph.nodes.values()), "links": graph.links,
    }  # fmt: skip


def observed(
    model: Any, ids: torch.Tensor, circuit: Circuit | None = None
) -> tuple[dict[str, torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """What the model, or the circuit in it, does on one prompt.

    Args:
        ids: [1, tokens].
        circuit: of this model, which the caller has checked.

    Returns:
        site -> activations [tokens, width]; attention probabilities of each layer [heads, tokens, tokens]; logits of the last token.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the others keep the probabilities to themselves
    applied = contextlib.nullcontext() if circuit is None else circuit.running(model)
    try:
        with applied, watching(model) as seen:
            out = model(input_ids=ids.to(model.device), use_cache=False, output_attentions=True)
    finally:
        model.set_attn_implementation(before)
    return (
        {name: each[0].float().cpu() for name, each in seen.items()},
        [a[0].float().cpu() for a in out.attentions],
        out.logits[0, -1].float().cpu(),
    )


class _Graph:
    """Nodes and links of one prompt."""

    def __init__(
        self,
        circuit: Circuit,
        model: Any,
        tokenizer: Any,
        ids: list[int],
        seen: Any,
        patterns: Any,
        logits: torch.Tensor,
        top: int,
    ):
        self.circuit, self.model, self.seen, self.patterns, self.ids = circuit, model, seen, patterns, ids
        self.order = list(circuit.widths)
        self.nodes: dict[str, dict[str, Any]] = {}
        self.links: list[dict[str, Any]] = []
        for position, token in enumerate(ids):
            self._add(f"E_{token}_{position}", None, "E", position, "embedding", tokenizer.decode([token]), None)
        for site, indices in circuit.nodes.items():
            for position in range(len(ids)):
                for index in indices.tolist():
                    value = float(seen[site][position, index])
                    if value != 0:
                        label = circuit.labels.get(f"{site}:{index}", f"{site}:{index}")
                        self._add(
                            self._id(site, index, position),
                            index,
                            str(self.order.index(site)),
                            position,
                            "circuit node",
                            label,
                            value,
                        )
        self._link_maps()
        self._link_residual()
        self._link_ends(tokenizer, logits, top)

    def _id(self, site: str, index: int, position: int) -> str:
        return f"{self.order.index(site)}_{index}_{position}"

    def _add(
        self, name: str, feature: int | None, layer: str, position: int, kind: str, label: str, value: float | None
    ) -> None:
        self.nodes[name] = {
            "node_id": name, "feature": feature, "layer": layer, "ctx_idx": position, "feature_type": kind, "jsNodeId": name, "clerp": label,
            "activation": value, "influence": None if value is None else abs(value),
        }  # fmt: skip

    def _link(self, source: str, target: str, weight: float) -> None:
        if weight != 0 and source in self.nodes and target in self.nodes:
            self.links.append({"source": source, "target": target, "weight": weight})

    def _link_maps(self) -> None:
        maps = edge_maps(self.model)
        for name, edges in _counted(self.circuit, self.model).items():
            part = maps[name]
            for s, t, weight in zip(*(each.tolist() for each in edges)):
                for position in range(len(self.ids)):
                    for earlier, share in self._reach(part, s, position):
                        value = float(self.seen[part.source][earlier, s])
                        self._link(
                            self._id(part.source, s, earlier), self._id(part.target, t, position), weight * share * value
                        )

    def _reach(self, part: EdgeMap, index: int, position: int) -> list[tuple[int, float]]:
        """Positions from which a source reaches a target, with the attention probability."""
        if not part.source.endswith("attn.v"):
            return [(position, 1.0)]
        layer, head = int(part.source.partition(".")[0]), index // self.model.config.d_head
        return [(earlier, float(self.patterns[layer][head, position, earlier])) for earlier in range(position + 1)]

    def _link_residual(self) -> None:
        for source, target in residual_links(self.circuit):
            (writer, _, index), (reader, _, _) = source.rpartition(":"), target.rpartition(":")
            for position in range(len(self.ids)):
                value = float(self.seen[writer][position, int(index)])
                self._link(self._id(writer, int(index), position), self._id(reader, int(index), position), value)

    def _link_ends(self, tokenizer: Any, logits: torch.Tensor, top: int) -> None:
        embedding, head = dense(self.model.transformer.wte.weight), dense(self.model.lm_head.weight)
        for site, indices in self.circuit.nodes.items():
            if reads_residual(site):
                for index in (i for i in indices.tolist() if i < embedding.shape[1]):
                    for position, token in enumerate(self.ids):
                        self._link(f"E_{token}_{position}", self._id(site, index, position), float(embedding[token, index]))
        probabilities, last = logits.softmax(0), len(self.ids) - 1
        for token in logits.topk(min(top, len(logits))).indices.tolist():
            name = f"{len(self.order)}_{token}_{last}"
            self._add(
                name,
                token,
                str(len(self.order)),
                last,
                "logit",
                f"{tokenizer.decode([token])!r} (p={float(probabilities[token]):.3f})",
                None,
            )
            self.nodes[name]["token_prob"] = float(probabilities[token])
            for index in self.circuit.nodes.get("final_resid", torch.tensor([], dtype=torch.long)).tolist():
                value = float(self.seen["final_resid"][last, index])
                self._link(self._id("final_resid", index, last), name, value * float(head[token, index]))


def save_json(graph: dict[str, Any], path: str | Path) -> Path:
    """Writes a graph of `to_mib` or `to_attribution_graph`."""
    return write_whole(Path(path), json.dumps(graph, allow_nan=False) + "\n")
