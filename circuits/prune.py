"""`prune`: from a model and a task to the smallest circuit that does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .ablation import ablated
from .calibration import calibrate
from .circuit import Circuit
from .conditions import Conditions, Fills
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
    objective,
    opened,
    ranked,
    train_masks,
    training_pairs,
    unpruned,
)
from .means import Means
from .outcome import last_logits
from .paths import on_path
from .python_tasks import SPLITS_VERSION
from .scoring import Score, capability
from .shrink import shrink, smallest_prefix
from .sites import edge_maps, evaluating, require_csp
from .tasks import NAME, Pairs, Task

Place = tuple[str, int]
EdgePlace = tuple[str, int, int]  # map, source, target
METHODS = ("learned", "attribution")
ADVERSARIES = 3  # times that a circuit is looked for anew, with what broke the last among the conditions


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
    barred: Nodes | None = None,
) -> Circuit:
    """The smallest circuit found that does `task` at the target loss while everything else is held at its mean.

    Nodes are chosen by learned masks; of their ranking the smallest prefix that meets the target on a fixed held-out set is taken; then
    nodes and edges are dropped one by one, with exact checks, until none can go; edges on no path from an embedding to an answer go
    too, if the target is met without them. Loss is that of the masked model on pairs of the validation split, without calibration,
    under every condition of `config.ablation`.

    Args:
        method: "learned", or "attribution": nodes ranked by one gradient, the baseline (far larger circuits).
        out: folder that always has the best circuit so far, also after Ctrl-C.
        force: prune although the model cannot do the task (for controls), or although the task has no validation pairs whose prompts are not
            trained on (`metrics["held_out"]` is False then).
        barred: nodes that the circuit may not have, to see what else does the task.

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
        return _prune(Search(model, task, means, config, force, barred), tokenizer, method, out)


def decided_again(
    model: Any, tokenizer: Any, task: Task, means: Means, config: PruneConfig, circuit: Circuit, seed: int
) -> Circuit:
    """The circuit that the masks of one found before give, decided on another draw of its deciding pairs, with replacement (a bootstrap)."""
    with evaluating(model):
        search = Search(model, task, means, config, force=True)
        search.decide_on(
            search.pairs.at(
                torch.randint(0, len(search.pairs), (len(search.pairs),), generator=torch.Generator().manual_seed(seed))
            )
        )
        make = _Assembly(search, tokenizer, circuit.scores, str(circuit.settings.get("method", "learned")), [])
        return _decided(search, make, circuit.scores, None)


def _prune(search: Search, tokenizer: Any, method: str, out: str | Path | None) -> Circuit:
    config, model = search.config, search.model
    history: list[tuple[int, float, int]] = []
    if method == "learned":
        masks = Masks(model, search.values, config, search.barred)
        history = train_masks(masks, search.task, conditions=search.conditions)
        scores = {name: importance.detach().float().cpu() for name, importance in masks.importance.items()}
    else:
        fills = {name: search.values[name] for name in search.sites}
        pairs = training_pairs(search.task, config, config.eval_pairs).part(0, config.eval_pairs).to(model.device)
        scores = attribution(model, fills, pairs, config.freeze_norms)
    return _decided(search, _Assembly(search, tokenizer, scores, method, history), scores, out)


def _decided(search: Search, make: _Assembly, scores: Mapping[str, torch.Tensor], out: str | Path | None) -> Circuit:
    """The smallest circuit by a ranking of nodes; the best by loss if none meets the target."""
    ranking = [place for place in ranked(scores) if not search.is_barred(*place)]
    nodes, curve = search.discretise(ranking, sum(int((s > 0).sum()) for s in scores.values()))
    make.extra["curve"] = curve
    circuit = make(nodes, None)
    _keep(circuit, out)
    if search.loss(nodes, None) > search.config.target_loss:
        return circuit
    circuit = make(*_smallest(search, nodes, lambda n, e: _keep(make(n, e), out)))
    _keep(circuit, out)
    return circuit


def _smallest(search: Search, start: Nodes, kept: Callable[[Nodes, dict[str, Edges] | None], None]) -> tuple[Nodes, Any]:
    """The smallest circuit from `start`, without what lies on no path; under an adversary, until it finds nothing that breaks it."""
    for _ in range(ADVERSARIES + 1):
        nodes, edges = search.without_detours(*search.smallest(start, kept))
        if search.config.ablation != "adversarial" or not search.broken(nodes, edges):
            break
        if search.loss(start) > search.config.target_loss:  # what was found breaks even what it began with
            break
    return nodes, edges


def _keep(circuit: Circuit, out: str | Path | None) -> None:
    if out is not None:
        circuit.save_pretrained(out)


class Search:
    """Exact losses of candidate circuits on a fixed set of held-out pairs, under fixed conditions, and the search among them."""

    def __init__(
        self, model: Any, task: Task, means: Means, config: PruneConfig, force: bool = False, barred: Nodes | None = None
    ):
        sites = model.node_sites()
        lost = [name for name in sites if name not in means.values or len(means.values[name]) != sites[name].width]
        if lost:
            raise ValueError(
                f"The means have no {lost[0]} of this model's width; compute them on this model with mean_activations."
            )
        self.model, self.task, self.means, self.config = model, task, means, config
        self._known: tuple[Nodes, dict[str, Edges]] | None = None
        self.sites, self.barred = list(sites), barred or {}
        self.widths = {name: site.width for name, site in sites.items()}
        self.conditions = Conditions(means, config.ablation, config.draws, config.seed, model.device)
        self.values = {name: value.cpu() for name, value in self.conditions.base.items()}
        self.held_out = True
        try:
            pairs = deciding_pairs(task, config)
        except ValueError:
            if not force:
                raise
            # For controls only, and recorded: there are no pairs that masks were not trained on.
            pairs = task.pairs(config.eval_pairs, "validation", seed=config.seed, fewer=True)
            self.held_out = False
            if len(pairs) < 2:
                raise
        self.decide_on(pairs)

    def decide_on(self, pairs: Pairs) -> None:
        """Takes every decision from now on by these pairs."""
        self.pairs = pairs.to(self.model.device)
        self.held = self.conditions.fixed(*self.pairs.input_ids.shape)
        self.model_logits, self.scales = unpruned(self.model, self.pairs, self.config)

    def is_barred(self, site: str, index: int) -> bool:
        return site in self.barred and bool((self.barred[site] == index).any())

    def between(self, nodes: Nodes) -> dict[str, Edges]:
        """All edges between nodes. Looked up in the weights once; the search goes from nodes to fewer nodes."""
        known = self._known
        if known is None or any(
            name not in known[0] or not bool(torch.isin(i, known[0][name]).all()) for name, i in nodes.items()
        ):
            self._known = known = (nodes, edges_in(self.model, nodes))
        return within(known[1], nodes)

    @contextmanager
    def _as(self, nodes: Nodes, removed: Mapping[str, Edges] | None, fills: Fills) -> Iterator[None]:
        """While the block runs, the model is a candidate under one condition, on the deciding pairs."""
        changes = opened(nodes, {name: fills[name] for name in self.sites})
        with ablated(self.model, changes, removed=removed, means=fills, freeze_norms=self.scales or False):
            yield

    def _removed(self, nodes: Nodes, edges: Mapping[str, Edges] | None) -> Mapping[str, Edges] | None:
        return None if edges is None else removed_edges(self.model, nodes, edges, self.between(nodes))

    @torch.no_grad()
    def logits(self, nodes: Nodes, edges: Mapping[str, Edges] | None) -> torch.Tensor:
        """At the last position, with everything else at its mean (or zero), [prompts, vocabulary]."""
        with self._as(nodes, self._removed(nodes, edges), self.conditions.base):
            return last_logits(self.model, self.pairs, len(self.pairs)).cpu()

    def cost(self, logits: torch.Tensor) -> torch.Tensor:
        """What must not exceed the target loss: the task loss; with the distribution as objective, KL too, in the same proportion to its own target."""
        loss = objective(logits.double(), self.pairs.answers, None)
        if self.model_logits is None:
            return loss
        divergence = objective(logits.double(), self.pairs.answers, self.model_logits.double())
        return torch.maximum(loss, divergence * (self.config.target_loss / self.config.target_kl))

    @torch.no_grad()
    def loss(self, nodes: Nodes, edges: Mapping[str, Edges] | None = None, *, whole: bool = False) -> float:
        """The highest cost under all conditions; unless the `whole` is asked for, the first that exceeds the target will do."""
        removed, highest = self._removed(nodes, edges), float("-inf")
        for i, fills in enumerate(self.held):
            with self._as(nodes, removed, fills):
                highest = max(highest, float(self.cost(last_logits(self.model, self.pairs, len(self.pairs)))))
            if highest > self.config.target_loss and not whole:
                self.held.insert(0, self.held.pop(i))  # what fails one candidate tends to fail the next
                break
        return highest

    def broken(self, nodes: Nodes, edges: Mapping[str, Edges] | None) -> bool:
        """Whether fills can be found under which the circuit misses the target; they are a condition from then on."""
        removed = self._removed(nodes, edges)

        def cost(fills: Fills) -> torch.Tensor:
            with self._as(nodes, removed, fills):
                return self.cost(last_logits(self.model, self.pairs, len(self.pairs)))

        fills = self.conditions.worse(cost)
        self.held.insert(0, fills)
        with torch.no_grad():
            return float(cost(fills)) > self.config.target_loss

    def without_detours(self, nodes: Nodes, edges: dict[str, Edges] | None) -> tuple[Nodes, dict[str, Edges] | None]:
        """Without edges on no path from an embedding to an answer, where the target is met without them; else they are what a norm or a constant is for."""
        if edges is None:
            return nodes, edges
        straight = on_path(self.model, nodes, edges, self.pairs.answers)
        if _edge_count(straight) == _edge_count(edges) or self.loss(nodes, straight) > self.config.target_loss:
            return nodes, edges
        fewer = self._fewer_nodes(nodes, straight)
        return fewer, within(straight, fewer)

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

    def _some(self) -> list[Fills]:
        """A few of the conditions: effects only order what is tried."""
        return self.held[:3]

    def _node_effects(self, nodes: Nodes) -> dict[str, torch.Tensor]:
        """First-order effect of closing each node of the circuit, everything else being closed already; mean over some conditions."""
        effects = {name: torch.zeros(self.widths[name]) for name in nodes}
        for fills in self._some():
            gates, changes = {}, opened(nodes, {name: fills[name] for name in self.sites})
            for name, indices in nodes.items():
                gate_ = torch.ones(self.widths[name], requires_grad=True, device=self.model.device)
                gates[name] = gate_
                open_ = torch.zeros(self.widths[name]).index_fill(0, indices, 1.0)
                changes[name] = lambda out, g=gate_, o=open_, f=fills[name]: (
                    f.to(out) + (g * o.to(g)).to(out) * (out - f.to(out))
                )
            with ablated(self.model, changes, freeze_norms=self.scales or False), torch.enable_grad():
                cost = self.cost(last_logits(self.model, self.pairs, len(self.pairs)))
            grads = torch.autograd.grad(cost, list(gates.values()), allow_unused=True)
            for name, grad in zip(gates, grads):
                effects[name] -= 0 if grad is None else grad.cpu()
        return effects

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
        """First-order effect of removing each edge, summed over some conditions: -W_ij * sum over prompts and tokens of d cost / d output_i *
        (source_j - what it would be held at)."""
        maps, effects = edge_maps(self.model), dict.fromkeys(_places(edges), 0.0)
        for fills in self._some():
            inputs, grads = self._at_maps(nodes, edges, fills)
            for name, (source, target, weight) in edges.items():
                part, grad = maps[name], grads.get(maps[name].module)
                if grad is None:
                    continue
                moved = (inputs[part.module] - fills[part.mean_name].to(grad)).flatten(0, -2)
                slope = grad.flatten(0, -2)[:, part.rows]
                effect = -weight * (slope[:, target.to(grad.device)] * moved[:, source.to(grad.device)]).sum(0).float().cpu()
                for place, each in zip(_places({name: edges[name]}), effect.tolist()):
                    effects[place] += each
        return effects

    def _at_maps(
        self, nodes: Nodes, edges: Mapping[str, Edges], fills: Fills
    ) -> tuple[dict[Any, torch.Tensor], dict[Any, Any]]:
        """By linear map: its input, and the gradient of the cost to its output, with these edges removed from nowhere but what is removed already."""
        maps = edge_maps(self.model)
        inputs: dict[Any, torch.Tensor] = {}
        outputs: dict[Any, torch.Tensor] = {}

        def keep(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
            inputs[module], outputs[module] = args[0].detach(), out
            return out

        modules = {maps[name].module for name in edges}
        removed = removed_edges(self.model, nodes, edges)
        changes = _with_gradient(opened(nodes, {name: fills[name] for name in self.sites}))
        with (
            torch.enable_grad(),
            ablated(self.model, changes, removed=removed, means=fills, freeze_norms=self.scales or False),
            hooks() as handles,
        ):
            handles += [module.register_forward_hook(keep) for module in modules]
            cost = self.cost(last_logits(self.model, self.pairs, len(self.pairs)))
        order = list(outputs)
        return inputs, dict(zip(order, torch.autograd.grad(cost, [outputs[m] for m in order], allow_unused=True)))


def _places(edges: Mapping[str, Edges]) -> list[EdgePlace]:
    return [(name, int(s), int(t)) for name, each in edges.items() for s, t in zip(each.source, each.target)]


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


def _edge_count(edges: Mapping[str, Edges]) -> int:
    return sum(len(each.source) for each in edges.values())


class _Assembly:
    """Makes the `Circuit` of nodes and edges, with its numbers."""

    def __init__(self, search: Search, tokenizer: Any, scores: Mapping[str, torch.Tensor], method: str, history: Sequence[Any]):
        self.search, self.scores, self.method = search, dict(scores), method
        self.model, self.tokenizer = identify(search.model), tokenizer_sha256(tokenizer)
        self.extra: dict[str, Any] = {"history": [list(step) for step in history]}
        with torch.no_grad():
            self.full = last_logits(search.model, search.pairs).cpu()

    def __call__(self, nodes: Nodes, edges: dict[str, Edges] | None) -> Circuit:
        search, config = self.search, self.search.config
        answers = search.pairs.answers.cpu()
        logits = search.logits(nodes, edges)
        calibration, calibrated = calibrate(logits.gather(1, answers), self.full.gather(1, answers))
        counted = search.between(nodes) if edges is None else edges
        worst = search.loss(nodes, edges, whole=True)
        metrics = {
            "reached": worst <= config.target_loss, "worst_cost": worst,
            "model": Score.of_all(self.full, answers).to_dict(), "circuit": Score.of_all(logits, answers).to_dict(),
            "calibrated": calibrated.to_dict(), "nodes": _count(nodes), "edges": _edge_count(counted),
            "edges_before_pruning": _edge_count(search.between(nodes)), "edges_on_path": _edge_count(on_path(search.model, nodes, counted, answers)),
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
