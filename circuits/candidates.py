"""`Search`: exact losses of candidate circuits, under every condition, and the search among them for the smallest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from tqdm import tqdm

from .ablation import Scales, ablated
from .conditions import Conditions, Fills
from .edges import Edges, edges_in, removed_edges, within
from .edges import places as edge_places
from .hooks import frozen, hooks
from .masks import Nodes, PruneConfig, as_nodes, deciding_pairs, objective, opened, unpruned
from .means import Means
from .narrow import Narrow, can_narrow, narrowed
from .outcome import last_logits
from .paths import on_path
from .prefix import Prefix, signatures
from .shrink import shrink, smallest_prefix
from .sites import edge_maps
from .tasks import Pairs, Task

Place = tuple[str, int]
EFFECT_PAIRS = 16  # in a batch of the passes that keep every activation
EdgePlace = tuple[str, int, int]  # map, source, target


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
        self._narrow: list[tuple[Fills, Narrow]] = []  # by fills
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
        self._prefixes: list[tuple[Fills, Prefix]] = []  # by fills
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

    def cost(self, logits: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
        """What must not exceed the target loss: the task loss; with the distribution as objective, KL too, in the same proportion to its own target.

        Args:
            rows: which of the prompts the logits are of.
        """
        answers = self.pairs.answers[rows]
        loss = objective(logits.double(), answers, None)
        if self.model_logits is None:
            return loss
        divergence = objective(logits.double(), answers, self.model_logits[rows].double())
        return torch.maximum(loss, divergence * (self.config.target_loss / self.config.target_kl))

    @torch.no_grad()
    def loss(self, nodes: Nodes, edges: Mapping[str, Edges] | None = None, *, whole: bool = False) -> float:
        """The highest cost under all conditions; unless the `whole` is asked for, the first that exceeds the target will do, models run by what the
        candidate needs (`narrow.py`), and layers before the first that differs from the last candidate that met the target are not run (`prefix.py`)."""
        removed, highest = self._removed(nodes, edges), float("-inf")
        layers = [] if whole else signatures(self.model, nodes, edges)
        seen = self.pairs.answers.unique() if self.model_logits is None else None
        for i, fills in enumerate(self.held):
            narrow = None if whole else self._narrowed(fills)
            begun = nullcontext() if whole else self._prefix(fills).running(layers)
            lean = nullcontext() if narrow is None else narrow.running(nodes, seen, removed, fills)
            with self._as(nodes, removed if narrow is None else None, fills), lean, begun:
                highest = max(highest, float(self.cost(last_logits(self.model, self.pairs, len(self.pairs)))))
            if highest > self.config.target_loss and not whole:
                self.held.insert(0, self.held.pop(i))  # what fails one candidate tends to fail the next
                break
        if highest <= self.config.target_loss and not whole:
            for _, prefix in self._prefixes:
                prefix.keep()
        return highest

    def _prefix(self, fills: Fills) -> Prefix:
        """What is kept of the runs under one condition."""
        found = next((each for known, each in self._prefixes if known is fills), None)
        if found is None:
            found = Prefix(self.model)
            self._prefixes.append((fills, found))
        return found

    def _narrowed(self, fills: Fills) -> Narrow | None:
        """The model by what a candidate needs, where closed nodes stand at one value each."""
        if not can_narrow(self.model, fills):
            return None
        narrow = next((each for known, each in self._narrow if known is fills), None)
        if narrow is None:
            narrow = Narrow(self.model, fills)
            self._narrow.append((fills, narrow))
        return narrow

    def broken(self, nodes: Nodes, edges: Mapping[str, Edges] | None) -> bool:
        """Whether fills can be found under which the circuit misses the target; they are a condition from then on."""
        removed = self._removed(nodes, edges)

        def cost(fills: Fills) -> torch.Tensor:
            seen = self.pairs.answers if self.model_logits is None else None
            with self._as(nodes, removed, fills), narrowed(self.model, nodes, fills, seen):
                return self.cost(last_logits(self.model, self.pairs, len(self.pairs)))

        with frozen(self.model):
            fills = self.conditions.worse(cost)
        self.held.insert(0, fills)
        with torch.no_grad():
            return float(cost(fills)) > self.config.target_loss

    def without_detours(self, nodes: Nodes, edges: dict[str, Edges] | None) -> tuple[Nodes, dict[str, Edges] | None]:
        """Without edges on no path from an embedding to an answer, where the target is met without them; else they are what a norm or a constant is for."""
        if edges is None:
            return nodes, edges
        straight = on_path(self.model, nodes, edges, self.pairs.answers)
        if edge_count(straight) == edge_count(edges) or self.loss(nodes, straight) > self.config.target_loss:
            return nodes, edges
        fewer = self._fewer_nodes(nodes, straight)
        return fewer, within(straight, fewer)

    def reaches(self, ranking: list[Place], active: int, tried: int = 16) -> bool:
        """Whether one of some prefixes of the active nodes, the longest among them, meets the target."""
        sizes = sorted({active * i // tried for i in range(1, tried + 1)}, reverse=True)
        return any(self.loss(as_nodes(ranking[:size], self.sites)) <= self.config.target_loss for size in sizes)

    def discretise(self, ranking: list[Place], active: int) -> tuple[Nodes, list[list[float]]]:
        """The smallest prefix of the ranking that meets the target; by scanning, as loss is not monotone in its length (of long rankings a bisection, `shrink`).

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
        self, nodes: Nodes, kept: Callable[[Nodes, dict[str, Edges] | None], None], edges: dict[str, Edges] | None = None
    ) -> tuple[Nodes, dict[str, Edges] | None]:
        """Drops nodes, then edges, then nodes again, until no single one can go without missing the target, which what is given must meet.

        Args:
            edges: with which to begin; default: all between the nodes.
        """
        tried, chunk = False, None
        while True:
            smaller = self._fewer_nodes(nodes, edges, chunk)
            if edges is not None:
                edges = within(edges, smaller)
                if tried and node_count(smaller) == node_count(nodes):
                    return nodes, edges
            nodes, tried = smaller, True
            if not self.config.edges:
                return nodes, None
            kept(nodes, edges)
            edges = self._fewer_edges(nodes, edges, chunk)
            kept(nodes, edges)
            chunk = 1  # most of what is left is needed

    def _fewer_nodes(self, nodes: Nodes, edges: dict[str, Edges] | None, chunk: int | None = None) -> Nodes:
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

            return as_nodes(shrink(places, fits, chunk), self.sites)

    def _some(self) -> Iterator[tuple[Pairs, Fills, Scales | bool, slice]]:
        """A few of the conditions (effects only order what is tried), on some prompts at a time: gradients keep what every site does."""
        for fills in self.held[:3]:
            for first in range(0, len(self.pairs), EFFECT_PAIRS):
                rows = slice(2 * first, 2 * (first + EFFECT_PAIRS))
                scales = {norm: each[rows] for norm, each in (self.scales or {}).items()}
                of = {name: each[rows] if each.dim() == 3 and len(each) > 1 else each for name, each in fills.items()}
                yield self.pairs.part(first, first + EFFECT_PAIRS), of, scales or False, rows

    def _node_effects(self, nodes: Nodes) -> dict[str, torch.Tensor]:
        """First-order effect of closing each node of the circuit, everything else being closed already; summed over some conditions."""
        effects = {name: torch.zeros(self.widths[name]) for name in nodes}
        for pairs, fills, scales, rows in self._some():
            gates, changes = {}, opened(nodes, {name: fills[name] for name in self.sites})
            for name, indices in nodes.items():
                gate_ = torch.ones(self.widths[name], requires_grad=True, device=self.model.device)
                gates[name] = gate_
                open_ = torch.zeros(self.widths[name]).index_fill(0, indices, 1.0)
                changes[name] = lambda out, g=gate_, o=open_, f=fills[name]: (
                    f.to(out) + (g * o.to(g)).to(out) * (out - f.to(out))
                )
            with ablated(self.model, changes, freeze_norms=scales), torch.enable_grad():
                cost = self.cost(last_logits(self.model, pairs, len(pairs)), rows) * (len(pairs) / len(self.pairs))
            grads = torch.autograd.grad(cost, list(gates.values()), allow_unused=True)
            for name, grad in zip(gates, grads):  # the sum over batches and conditions
                effects[name] -= 0 if grad is None else grad.cpu()
        return effects

    def _fewer_edges(self, nodes: Nodes, edges: dict[str, Edges] | None, chunk: int | None) -> dict[str, Edges]:
        edges = self.between(nodes) if edges is None else edges
        if not edges:
            return {}
        effects = self._edge_effects(nodes, edges)
        places = sorted(effects, key=lambda at: (effects[at], at))
        with tqdm(desc="dropping edges", unit="try", disable=None, delay=2) as bar:

            def fits(left: Sequence[EdgePlace]) -> bool:
                bar.update()
                return self.loss(nodes, chosen(edges, left)) <= self.config.target_loss

            return chosen(edges, shrink(places, fits, chunk))

    def _edge_effects(self, nodes: Nodes, edges: Mapping[str, Edges]) -> dict[EdgePlace, float]:
        """First-order effect of removing each edge, summed over some conditions: -W_ij * sum over prompts and tokens of d cost / d output_i *
        (source_j - what it would be held at)."""
        maps, effects = edge_maps(self.model), dict.fromkeys(edge_places(edges), 0.0)
        for part_of in self._some():
            fills = part_of[1]
            inputs, grads = self._at_maps(nodes, edges, *part_of)
            for name, (source, target, weight) in edges.items():
                part, grad = maps[name], grads.get(maps[name].module)
                if grad is None:
                    continue
                moved = (inputs[part.module] - fills[part.mean_name].to(grad)).flatten(0, -2)
                slope = grad.flatten(0, -2)[:, part.rows]
                effect = -weight * (slope[:, target.to(grad.device)] * moved[:, source.to(grad.device)]).sum(0).float().cpu()
                for place, each in zip(edge_places({name: edges[name]}), effect.tolist()):
                    effects[place] += each
        return effects

    def _at_maps(
        self, nodes: Nodes, edges: Mapping[str, Edges], pairs: Pairs, fills: Fills, scales: Scales | bool, rows: slice
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
            ablated(self.model, changes, removed=removed, means=fills, freeze_norms=scales),
            hooks() as handles,
        ):
            handles += [module.register_forward_hook(keep) for module in modules]
            cost = self.cost(last_logits(self.model, pairs, len(pairs)), rows) * (len(pairs) / len(self.pairs))
        order = list(outputs)
        return inputs, dict(zip(order, torch.autograd.grad(cost, [outputs[m] for m in order], allow_unused=True)))


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
        stays = torch.tensor([place in wanted for place in edge_places({name: each})], dtype=torch.bool)
        if bool(stays.any()):
            found[name] = Edges(*(part[stays] for part in each))
    return found


def node_count(nodes: Nodes) -> int:
    return sum(len(indices) for indices in nodes.values())


def edge_count(edges: Mapping[str, Edges]) -> int:
    return sum(len(each.source) for each in edges.values())
