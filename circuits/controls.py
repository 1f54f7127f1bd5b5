"""Prunings that judge a circuit: controls, other seeds and prompts, and what else does the task."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import statistics
from typing import Any

import torch

from ..wiring_csp import by_head, located
from .circuit import Circuit
from .conditions import SAMPLED
from .edges import edges_in, places
from .examination import Examination
from .masks import Nodes
from .means import Means, mean_activations
from .prune import decided_again, prune
from .sites import norms
from .tasks import Task

SAMPLES = 2048  # tokens whose activations are kept, for resampling
DISJOINT = 3  # circuits beside the one at hand that are looked for


def controls(look: Examination, tokenizer: Any, blocks: torch.Tensor | None, left_out: list[str]) -> dict[str, Any]:
    """Nonsense and constant twin on the model, and the task on a model with shuffled weights, each pruned as the circuit was; the last without the price
    on open nodes, so that it is not size that stands in the way."""
    base = dataclasses.replace(look.task, twin="")
    found = {}
    for name, task in (("nonsense", base.nonsense()), ("constant", base.constant())):
        found[name] = _control(look, tokenizer, look.model, task, look.means)
    if blocks is None:
        left_out.append("shuffled weights: no corpus given for their means")
    else:
        other = shuffled(look.model, look.seed)
        means = mean_activations(other, blocks, samples=SAMPLES if look.config.ablation in SAMPLED else 0)
        found["shuffled"] = _control(look, tokenizer, other, base, means, k_coef=0.0)
    return found


def _control(look: Examination, tokenizer: Any, model: Any, task: Task, means: Means, **settings: Any) -> dict[str, Any]:
    config = dataclasses.replace(look.config, **settings)
    circuit = prune(model, tokenizer, task, means, config, method=look.method, force=True)
    there = Examination(circuit, model, task, len(look.sets["test"]), look.seed, means if means.samples else None)
    return {
        "reached": circuit.metrics["reached"], "nodes": circuit.num_nodes, "edges": circuit.metrics["edges"],
        "scores": there.scores()["test"], "agreement": there.agreement(), "necessity": there.necessity(), "ablations": there.ablations(),
    }  # fmt: skip


@torch.no_grad()
def shuffled(model: Any, seed: int = 0) -> Any:
    """A copy of a model in which every matrix has its entries in random order: same numbers, same density, nothing learned.

    The bigram table keeps its rows' contents but not which token they belong to. Norms, sinks and biases of logits stay.
    """
    other = copy.deepcopy(model).to_dense()
    generator = torch.Generator().manual_seed(seed)
    skip = {id(p) for norm in norms(other) for p in norm.parameters()}
    for parameter in other.parameters():
        if parameter.dim() >= 2 and id(parameter) not in skip:
            rows_only = parameter is getattr(getattr(other, "bigram_table", None), "logit_bias", None)
            if rows_only:
                parameter.copy_(parameter[torch.randperm(len(parameter), generator=generator).to(parameter.device)])
            else:
                order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return other.to_sparse() if model.is_sparse else other


def stability(look: Examination, tokenizer: Any, seeds: int) -> dict[str, Any]:
    """Other seeds' circuits (masks, prompts) against this one's and each other's: mean Jaccard of nodes and of edges, how often each edge is found; and
    how often each is among those that the same masks give, decided on other draws of the prompts."""
    circuits = [look.circuit]
    for i in range(1, seeds):
        config = dataclasses.replace(look.config, seed=look.config.seed + i)
        circuits.append(prune(look.model, tokenizer, look.task, look.means, config, method=look.method, force=True))
    nodes = [{(name, int(i)) for name, indices in c.nodes.items() for i in indices} for c in circuits]
    edges = [edge_set(look.model, c) for c in circuits]
    found = {
        "seeds": seeds, "edges": [len(each) for each in edges],
        "jaccard_nodes": statistics.mean(jaccard(a, b) for a, b in itertools.combinations(nodes, 2)),
        "jaccard_edges": statistics.mean(jaccard(a, b) for a, b in itertools.combinations(edges, 2)),
        "edge_frequency": _frequency(edges),
    }  # fmt: skip
    if look.circuit.scores:
        again = [
            edge_set(
                look.model,
                decided_again(
                    look.model,
                    tokenizer,
                    look.task,
                    look.means,
                    look.config,
                    look.circuit.scores,
                    method=look.method,
                    seed=look.seed + i,
                ),
            )
            for i in range(seeds)
        ]
        own = edges[0]
        found["membership"] = _frequency(again)
        found["membership_of_own_edges"] = statistics.mean(len(own & each) / max(1, len(own)) for each in again)
    return found


def _frequency(edges: list[set[tuple[str, int, int]]]) -> dict[str, float]:
    count = {edge: sum(edge in each for each in edges) / len(edges) for edge in sorted(set().union(*edges))}
    return {f"{name}:{source}->{target}": share for (name, source, target), share in count.items()}


def redundancy(look: Examination, tokenizer: Any) -> dict[str, Any]:
    """Circuits for the same task that share no query, key, value or neuron with those before: pruned again with these barred, until the target is not
    reached. (Channels of the residual stream may be shared: they are what everything is written to and read from.)"""
    barred, sizes = _computing(look.circuit.nodes), [look.circuit.metrics.get("edges")]
    for _ in range(DISJOINT):
        other = prune(look.model, tokenizer, look.task, look.means, look.config, method=look.method, force=True, barred=barred)
        if not other.metrics["reached"] or not _computing(other.nodes):
            return {"disjoint": len(sizes), "edges": sizes, "exhausted": True}
        sizes.append(other.metrics["edges"])
        for name, indices in _computing(other.nodes).items():
            barred[name] = torch.cat([barred[name], indices]) if name in barred else indices
    return {"disjoint": len(sizes), "edges": sizes, "exhausted": False}


def _computing(nodes: Nodes) -> Nodes:
    """Queries, keys, values and neurons among nodes."""
    return {name: indices for name, indices in nodes.items() if by_head(name) or located(name)[1] == "mlp_neuron"}


def edge_set(model: Any, circuit: Circuit) -> set[tuple[str, int, int]]:
    edges = edges_in(model, circuit.nodes) if circuit.edges is None else circuit.edges
    return set(places(edges))


def jaccard(one: set[Any], two: set[Any]) -> float:
    """|intersection| / |union|; of two empty sets 1."""
    return len(one & two) / len(one | two) if one | two else 1.0
