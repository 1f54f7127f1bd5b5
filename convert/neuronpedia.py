"""Out: a circuit at work on one prompt, as an attribution graph of Neuronpedia and circuit-tracer."""

from __future__ import annotations

from typing import Any

import torch

from ..circuits.circuit import Circuit
from ..circuits.export import counted_edges, residual_links
from ..circuits.identity import refuse_other_model, versions
from ..circuits.reading import observed
from ..circuits.sites import EdgeMap, dense, edge_maps
from ..wiring_csp import FINAL, located, reads_residual


@torch.no_grad()
def to_attribution_graph(
    circuit: Circuit, model: Any, tokenizer: Any, prompt: str, *, scan: str, slug: str, top: int = 5
) -> dict[str, Any]:
    """A Neuronpedia / circuit-tracer attribution graph of the circuit at work on one prompt (docs/method.md#exchange-formats).

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
        "qParams": {"pinnedIds": [], "supernodes": graph.supernodes(), "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": list(graph.nodes.values()), "links": graph.links,
    }  # fmt: skip


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

    def supernodes(self) -> list[list[str]]:
        """The circuit's groups: [name, id, ...]."""
        found: dict[str, list[str]] = {}
        for node, group in self.circuit.groups.items():
            site, _, index = node.rpartition(":")
            own = [self._id(site, int(index), position) for position in range(len(self.ids))]
            found.setdefault(group, []).extend(each for each in own if each in self.nodes)
        return [[group, *ids] for group, ids in found.items() if ids]

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
        for name, edges in counted_edges(self.circuit, self.model).items():
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
        if located(part.source)[1] != "attn_v":
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
            for index in self.circuit.nodes.get(FINAL, torch.tensor([], dtype=torch.long)).tolist():
                value = float(self.seen[FINAL][last, index])
                self._link(self._id(FINAL, index, last), name, value * float(head[token, index]))
