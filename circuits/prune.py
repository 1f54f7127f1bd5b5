"""`prune`: from a model and a task to the smallest circuit that does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .ablation import ablated
from .calibration import calibrate
from .circuit import Circuit
from .edges import Edges, edges_in, removed_edges, within
from .hooks import hooks
from .identity import identify, tokenizer_sha256, versions
from .masks import (
    Masks,
    Nodes,
    PruneConfig,
    as_nodes,
    attribution,
    deciding_pairs,
    opened,
    ranked,
    train_masks,
    training_pairs,
)
from .means import Means
from .python_tasks import SPLITS_VERSION
from .scoring import Score, answer_logits, capability, losses, task_loss
from .shrink import shrink, smallest_prefix
from .sites import edge_maps, evaluating, require_csp
from .tasks import NAME, Pairs, Task

Place = tuple[str, int]
EdgePlace = tuple[str, int, int]  # map, source, target
METHODS = ("learned", "attribution")


class CannotDo(ValueError):
    """The model does not do the task well enough to look for a circuit."""


def prune(
    model: Any,
    tokenizer: Any,
    task: Task,
    means: Means,
    config: PruneConfig | None = None,
    *,
    target_loss: float | None = None,
    method: str = "learned",
    out: str | Path | None = None,
    force: bool = False,
) -> Circuit:
    """The smallest circuit found that does `task` at the target loss while everything else is held at its mean.

    Nodes are chosen by learned masks; of their ranking the smallest prefix that meets the target on a fixed held-out set is taken; then
    nodes and edges are dropped one by one, with exact checks, until none can go. Loss is that of the masked model on pairs of
    the validation split, without calibration.

    Args:
        method: "learned", or "attribution": nodes ranked by one gradient, the baseline (far larger circuits).
        out: folder that always has the best circuit so far, also after Ctrl-C.
        force: prune although the model cannot do the task (for controls), or although the task has no validation pairs whose prompts are not
            trained on (`metrics["held_out"]` is False then).

    Returns:
        the circuit; `metrics["reached"]` says whether it meets the target. If nothing does, it is the best by loss.

    Raises:
        CannotDo: if the model fails the task's gate.
        ValueError: for a method that does not exist, a tokenizer that is not the task's, or a task whose splits share all their prompts.
    """
    config = config or PruneConfig()
    if target_loss is not None:
        config = dataclasses.replace(config, target_loss=target_loss)
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; it must be 'learned' or 'attribution'.")
    if not NAME.fullmatch(task.name):
        raise ValueError(f"{task.name!r} cannot name a circuit; use letters, digits, '_', '-' and '.'.")
    if tokenizer_sha256(tokenizer) != tokenizer_sha256(task.tokenizer):
        raise ValueError(f"{task.name} was made with another tokenizer than the one given; make it with the model's own.")
    able = capability(require_csp(model), task, config.target_loss, config.eval_pairs)
    if not able.passes and not force:
        raise CannotDo(
            f"The model cannot do {task.name}: {able.reason}; a circuit for it would mean nothing (force=True prunes anyway)."
        )
    with evaluating(model):
        return _prune(model, tokenizer, task, means, config, method, out, force)


def _prune(
    model: Any, tokenizer: Any, task: Task, means: Means, config: PruneConfig, method: str, out: str | Path | None, force: bool
) -> Circuit:
    search = _Search(model, task, means, config, force)
    history: list[tuple[int, float, int]] = []
    if method == "learned":
        masks = Masks(model, search.fills, config)
        history = train_masks(masks, task)
        scores = {name: importance.detach().float().cpu() for name, importance in masks.importance.items()}
    else:
        scores = attribution(
            model,
            search.fills,
            training_pairs(task, config, config.eval_pairs).part(0, config.eval_pairs).to(model.device),
            config.freeze_norms,
        )
    make = _Assembly(search, tokenizer, scores, method, history)
    nodes, curve = search.discretise(ranked(scores), sum(int((s > 0).sum()) for s in scores.values()))
    make.extra["curve"] = curve
    circuit = make(nodes, None)
    _keep(circuit, out)
    if search.loss(nodes, None) > config.target_loss:
        return circuit
    circuit = make(*search.smallest(nodes, lambda n, e: _keep(make(n, e), out)))
    _keep(circuit, out)
    return circuit


def _keep(circuit: Circuit, out: str | Path | None) -> None:
    if out is not None:
        circuit.save_pretrained(out)


class _Search:
    """Exact losses of candidate circuits on a fixed set of held-out pairs, and the search among them."""

    def __init__(self, model: Any, task: Task, means: Means, config: PruneConfig, force: bool = False):
        sites = model.node_sites()
        lost = [name for name in sites if name not in means.values or len(means.values[name]) != sites[name].width]
        if lost:
            raise ValueError(
                f"The means have no {lost[0]} of this model's width; compute them on this model with mean_activations."
            )
        self.model, self.task, self.means, self.config = model, task, means, config
        self._known: tuple[Nodes, dict[str, Edges]] | None = None
        self.sites = list(sites)
        self.widths = {name: site.width for name, site in sites.items()}
        zero = config.ablation == "zero"
        self.values = {name: torch.zeros_like(mean) if zero else mean for name, mean in means.values.items()}
        self.fills = {name: self.values[name] for name in self.sites}
        self.held_out = True
        try:
            self.pairs = deciding_pairs(task, config).to(model.device)
        except ValueError:
            if not force:
                raise
            # For controls only, and recorded: there are no pairs that masks were not trained on.
            self.pairs = task.pairs(config.eval_pairs, "validation", seed=config.seed, fewer=True).to(model.device)
            self.held_out = False
            if len(self.pairs) < 2:
                raise

    def between(self, nodes: Nodes) -> dict[str, Edges]:
        """All edges between nodes. Looked up in the weights once; the search goes from nodes to fewer nodes."""
        known = self._known
        if known is None or any(
            name not in known[0] or not bool(torch.isin(i, known[0][name]).all()) for name, i in nodes.items()
        ):
            self._known = known = (nodes, edges_in(self.model, nodes))
        return within(known[1], nodes)

    @torch.no_grad()
    def logits(self, nodes: Nodes, edges: Mapping[str, Edges] | None, pairs: Pairs | None = None) -> torch.Tensor:
        removed = removed_edges(self.model, nodes, edges) if edges is not None else None
        with ablated(
            self.model, opened(nodes, self.fills), removed=removed, means=self.values, freeze_norms=self.config.freeze_norms
        ):
            return answer_logits(self.model, self.pairs if pairs is None else pairs).cpu()

    def loss(self, nodes: Nodes, edges: Mapping[str, Edges] | None = None) -> float:
        return float(losses(self.logits(nodes, edges).double()).mean())

    def discretise(self, ranking: list[Place], active: int) -> tuple[Nodes, list[list[float]]]:
        """The smallest prefix of the ranking that meets the target; by scanning, as loss is not monotone in its length.

        If no prefix of the active nodes does, longer ones are tried in growing steps; if none does, it is the best by loss.
        Also the curve of (nodes, loss) on the way.
        """
        curve: list[list[float]] = []

        def fits(k: int) -> bool:
            curve.append([k, self.loss(as_nodes(ranking[:k], self.sites))])
            return curve[-1][1] <= self.config.target_loss

        with tqdm(total=active, desc="choosing nodes", unit="k", disable=None, delay=2) as bar:
            k = smallest_prefix(active, lambda k: (bar.update(), fits(k))[1])
        size = max(1, active)
        while k is None and size < len(ranking):
            size = min(len(ranking), size + max(1, size // 4))
            k = size if fits(size) else None
        if k is None:
            k = int(min(curve, key=lambda point: point[1])[0])
        return as_nodes(ranking[:k], self.sites), curve

    def smallest(
        self, nodes: Nodes, kept: Callable[[Nodes, dict[str, Edges] | None], None]
    ) -> tuple[Nodes, dict[str, Edges] | None]:
        """Drops nodes, then edges, then nodes again, until no single one can go without missing the target."""
        edges: dict[str, Edges] | None = None
        while True:
            smaller = self._fewer_nodes(nodes, edges)
            if edges is not None:
                edges = within(edges, smaller)
                if _count(smaller) == _count(nodes):
                    return nodes, edges
            nodes = smaller
            if not self.config.edges:
                return nodes, None
            kept(nodes, edges)
            edges = self._fewer_edges(nodes, edges)
            kept(nodes, edges)

    def _fewer_nodes(self, nodes: Nodes, edges: dict[str, Edges] | None) -> Nodes:
        if not nodes:
            return nodes
        effect = self._node_effects(nodes)
        places = sorted(
            ((name, int(i)) for name in nodes for i in nodes[name]), key=lambda at: (effect[at[0]][at[1]].item(), at)
        )
        with tqdm(desc="dropping nodes", unit="try", disable=None, delay=2) as bar:

            def fits(left: Sequence[Place]) -> bool:
                bar.update()
                remaining = as_nodes(list(left), self.sites)
                return self.loss(remaining, None if edges is None else within(edges, remaining)) <= self.config.target_loss

            return as_nodes(shrink(places, fits), self.sites)

    def _node_effects(self, nodes: Nodes) -> dict[str, torch.Tensor]:
        """First-order effect of closing each node of the circuit, everything else being closed already."""
        gates, changes = {}, opened(nodes, self.fills)
        for name, indices in nodes.items():
            gate_ = torch.ones(self.widths[name], requires_grad=True, device=self.model.device)
            gates[name] = gate_
            open_ = torch.zeros(self.widths[name]).index_fill(0, indices, 1.0)
            fill = self.fills[name]
            changes[name] = lambda out, g=gate_, o=open_, f=fill: f.to(out) + (g * o.to(g)).to(out) * (out - f.to(out))
        with ablated(self.model, changes, freeze_norms=self.config.freeze_norms), torch.enable_grad():
            loss = task_loss(self.model, self.pairs)
        grads = torch.autograd.grad(loss, list(gates.values()), allow_unused=True)
        return {name: torch.zeros(self.widths[name]) if g is None else -g.cpu() for name, g in zip(gates, grads)}

    def _fewer_edges(self, nodes: Nodes, edges: dict[str, Edges] | None) -> dict[str, Edges]:
        edges = self.between(nodes) if edges is None else edges
        if not edges:
            return {}
        effects = self._edge_effects(nodes, edges)
        places = sorted(effects, key=lambda at: (effects[at], at))
        with tqdm(desc="dropping edges", unit="try", disable=None, delay=2) as bar:

            def fits(left: Sequence[EdgePlace]) -> bool:
                bar.update()
                return self.loss(nodes, chosen(edges, left)) <= self.config.target_loss

            return chosen(edges, shrink(places, fits))

    def _edge_effects(self, nodes: Nodes, edges: Mapping[str, Edges]) -> dict[EdgePlace, float]:
        """First-order effect of removing each edge: -W_ij * sum over prompts and tokens of d loss / d output_i * (source_j - mean_j)."""
        maps = edge_maps(self.model)
        inputs: dict[Any, torch.Tensor] = {}
        outputs: dict[Any, torch.Tensor] = {}

        def keep(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
            inputs[module], outputs[module] = args[0].detach(), out
            return out

        modules = {maps[name].module for name in edges}
        removed = removed_edges(self.model, nodes, edges)
        with (
            torch.enable_grad(),
            ablated(
                self.model,
                _with_gradient(opened(nodes, self.fills)),
                removed=removed,
                means=self.values,
                freeze_norms=self.config.freeze_norms,
            ),
            hooks() as handles,
        ):
            handles += [module.register_forward_hook(keep) for module in modules]
            loss = task_loss(self.model, self.pairs, batch=len(self.pairs))
        order = list(outputs)
        grads = dict(zip(order, torch.autograd.grad(loss, [outputs[m] for m in order], allow_unused=True)))
        effects: dict[EdgePlace, float] = {}
        for name, (source, target, weight) in edges.items():
            part, grad = maps[name], grads.get(maps[name].module)
            effect = torch.zeros(len(source))
            if grad is not None:
                moved = (inputs[part.module] - self.values[part.mean_name].to(grad)).flatten(0, -2)
                slope = grad.flatten(0, -2)[:, part.rows]
                effect = -weight * (slope[:, target.to(grad.device)] * moved[:, source.to(grad.device)]).sum(0).float().cpu()
            effects.update({(name, int(s), int(t)): float(e) for s, t, e in zip(source, target, effect)})
        return effects


def _with_gradient(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The first site's output gets a gradient even where no parameter of the model wants one."""
    first = next(iter(changes))
    change = changes[first]
    return {**changes, first: lambda out: change(out).detach().requires_grad_()}


def chosen(edges: Mapping[str, Edges], places: Sequence[EdgePlace]) -> dict[str, Edges]:
    """Those edges that are among `places`, in their order."""
    wanted = set(places)
    found = {}
    for name, each in edges.items():
        stays = torch.tensor([(name, int(s), int(t)) in wanted for s, t in zip(each.source, each.target)], dtype=torch.bool)
        if bool(stays.any()):
            found[name] = Edges(*(part[stays] for part in each))
    return found


def _count(nodes: Nodes) -> int:
    return sum(len(indices) for indices in nodes.values())


class _Assembly:
    """Makes the `Circuit` of nodes and edges, with its numbers."""

    def __init__(
        self, search: _Search, tokenizer: Any, scores: Mapping[str, torch.Tensor], method: str, history: Sequence[Any]
    ):
        self.search, self.scores, self.method = search, dict(scores), method
        self.model, self.tokenizer = identify(search.model), tokenizer_sha256(tokenizer)
        self.extra: dict[str, Any] = {"history": [list(step) for step in history]}
        with torch.no_grad():
            self.full = Score.of(answer_logits(search.model, search.pairs).cpu())

    def __call__(self, nodes: Nodes, edges: dict[str, Edges] | None) -> Circuit:
        search, config = self.search, self.search.config
        logits = search.logits(nodes, edges)
        found = Score.of(logits)
        calibration, calibrated = calibrate(logits)
        counted = search.between(nodes) if edges is None else edges
        metrics = {
            "reached": found.loss <= config.target_loss,
            "model": self.full.to_dict(), "circuit": found.to_dict(), "calibrated": calibrated.to_dict(),
            "nodes": _count(nodes), "edges": sum(len(each.source) for each in counted.values()),
            "edges_before_pruning": sum(len(each.source) for each in search.between(nodes).values()),
            **({} if search.held_out else {"held_out": False}), **self.extra,
        }  # fmt: skip
        return Circuit(
            task=search.task.name + (f"_{search.task.twin}" if search.task.twin else ""), nodes=nodes, edges=edges, means=search.values,
            widths=search.widths, model=self.model, tokenizer=self.tokenizer, scores=self.scores,
            settings={**config.to_dict(), "method": self.method, "twin": search.task.twin, "task_origin": search.task.origin,
                      "task_form": search.task.form, "splits": SPLITS_VERSION,
                      "means": {"tokens": search.means.count, "corpus_sha256": search.means.corpus}},
            calibration=calibration, metrics=metrics, versions=versions(),
        )  # fmt: skip
