"""Out: a circuit as a graph of MIB's circuit tracks, and of EAP-IG, which loads it: components (heads, MLPs, input, logits) instead of single channels."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from ..circuits.circuit import Circuit
from ..circuits.edges import Edges
from ..circuits.export import counted_edges
from ..circuits.identity import refuse_other_model
from ..wiring_csp import FINAL

Sums = dict[str, torch.Tensor]  # component -> of each residual channel, the sum of |weights| with which it writes or reads it


def to_mib(circuit: Circuit, model: Any) -> dict[str, Any]:
    """{"cfg", "nodes", "edges"} as the published loader takes them (docs/method.md#exchange-formats).

    Nodes: "input", "a0.h3", "m0", "logits", each but the last with in_graph, score, and the residual channels that it writes in the circuit (neurons, neurons_scores).
    Edges: "input->a0.h3<q>", "a0.h3->m0", "m0->logits"; there is one where a channel that the circuit lets one component write is read by the other, later one. Its
    score is the sum over such channels of the |weights| that write it times those that read it; the embedding's and unembedding's count 1 in the circuit's channels.
    What a component does inside, such as which neurons it has, the format has no place for.

    Raises:
        ValueError: if the circuit is of another model.
    """
    refuse_other_model(circuit, model)
    config = model.config
    writes, reads = _sums(circuit, counted_edges(circuit, model), config)
    order = [
        "input",
        *(name for i in range(config.n_layer) for name in (*(f"a{i}.h{h}" for h in range(config.n_head)), f"m{i}")),
    ]
    edges: dict[str, dict[str, Any]] = {}
    for target, channels in reads.items():
        owner = target.partition("<")[0]
        before = order if owner == "logits" else [each for each in order[: order.index(owner)] if not _beside(each, owner)]
        for source in before:
            shared = writes[source] * channels if source in writes else None
            if shared is not None and bool((shared > 0).any()):
                edges[f"{source}->{target}"] = {"in_graph": True, "score": float(shared.sum())}
    leading = {name.partition("->")[0] for name in edges}
    nodes: dict[str, dict[str, Any]] = {}
    for name in order:
        own = writes.get(name, torch.zeros(config.d_model))
        kept = own if name in leading else torch.zeros_like(own)
        nodes[name] = {
            "in_graph": name in leading, "score": float(own.sum()), "neurons": (kept > 0).tolist(), "neurons_scores": kept.tolist(),
        }  # fmt: skip
    nodes["logits"] = {"in_graph": True}
    cfg = {
        "n_layers": config.n_layer,
        "n_heads": config.n_head,
        "d_model": config.d_model,
        "d_mlp": config.d_mlp,
        "d_head": config.d_head,
        "parallel_attn_mlp": False,
    }
    return {"cfg": cfg, "nodes": nodes, "edges": edges}


def _beside(source: str, target: str) -> bool:
    """Heads of one layer do not hear each other."""
    return source[0] == target[0] == "a" and source.partition(".")[0] == target.partition(".")[0]


def _sums(circuit: Circuit, edges: dict[str, Edges], config: Any) -> tuple[Sums, Sums]:
    """What components write and read; channels of concatenated positions, which nobody writes, are left out."""
    width = config.d_model
    writes: Sums = defaultdict(lambda: torch.zeros(width))
    reads: Sums = defaultdict(lambda: torch.zeros(width))

    def add(sums: Any, name: str, channel: int, weight: float) -> None:
        if channel < width:
            sums[name][channel] += abs(weight)

    for name, (sources, targets, weights) in edges.items():
        target = name.partition("->")[2]
        layer, path = target.split(".", 1)
        for s, t, w in zip(sources.tolist(), targets.tolist(), weights.tolist()):
            if path == "attn.resid_delta":
                add(writes, f"a{layer}.h{s // config.d_head}", t, w)
            elif path == "mlp.resid_delta":
                add(writes, f"m{layer}", t, w)
            elif path == "mlp.post_act":
                add(reads, f"m{layer}", s, w)
            else:
                add(reads, f"a{layer}.h{t // config.d_head}<{path[-1]}>", s, w)
    for site, indices in circuit.nodes.items():
        if site == FINAL or site.endswith("act_in"):  # the embedding writes every channel that is read
            for i in indices.tolist():
                if site == FINAL:
                    add(reads, "logits", i, 1.0)
                if i < width:
                    writes["input"][i] = 1.0
    return dict(writes), dict(reads)
