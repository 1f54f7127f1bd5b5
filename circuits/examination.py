"""`Examination`: every measurement of a circuit that needs no further pruning."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from .ablation import Scales, ablated, holding, recorded_scales
from .calibration import apply_calibration
from .circuit import Circuit
from .conditions import SAMPLED, Fills, drawn, worst_fills
from .edges import Edges, edges_in, removed_edges
from .hooks import frozen
from .masks import PruneConfig, as_nodes, deciding_pairs, opened, ranked, training_pairs
from .means import Means, watching
from .narrow import narrowed
from .outcome import correlation, figures, last_logits, losses, summary
from .paths import on_path
from .scoring import Score
from .sites import edge_maps
from .tasks import Pairs, Task

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of nodes, as in MIB
DRAWS = 8
ASCENT, RESTARTS = 40, 3  # steps and beginnings of the search for the worst fills
AT_ONCE = 1 << 28  # bytes of one pass's activations in it


class Examination:
    """One circuit on its model: every measurement that needs no further pruning."""

    def __init__(self, circuit: Circuit, model: Any, task: Task, pairs: int, seed: int, corpus: Means | None = None):
        self.circuit, self.model, self.task, self.seed, self.corpus = circuit, model, task, seed, corpus
        self.target = float(circuit.settings.get("target_loss", 0.15))
        known = {f.name: circuit.settings[f.name] for f in dataclasses.fields(PruneConfig) if f.name in circuit.settings}
        self.config = PruneConfig(**{"freeze_norms": False, **known})  # as the circuit itself takes it where nothing is said
        self.method = str(circuit.settings.get("method", "learned"))
        self.means = self._means()
        self.removed = None if circuit.edges is None else removed_edges(model, circuit.nodes, circuit.edges)
        self.left_out: list[str] = []
        self._known_scales: list[tuple[Pairs, Scales]] = []
        seen = self._seen_in_pruning()
        self.sets: dict[str, Pairs] = {"validation": deciding_pairs(task, self.config, pairs)}
        for family in task.families:
            name = "test" if family == task.families[0] else family
            drawn = task.pairs(pairs, "test", family, seed=seed, fewer=True)
            fresh = drawn.without(seen)
            if len(fresh) < 2:
                raise ValueError(
                    f"{task.name} has {len(fresh)} pairs in {name} that pruning did not see; its splits must not share prompts."
                )
            if len(fresh) < pairs:
                self.left_out.append(f"{pairs - len(fresh)} of {pairs} pairs in {name}: seen in pruning, or there are no more")
            self.sets[name] = fresh
            seen = seen | set(fresh.prompts())
        self.sets = {name: each.to(model.device) for name, each in self.sets.items()}

    @property
    def resampled(self) -> bool:
        """Whether the circuit was found by resampling, which takes samples of a corpus."""
        return self.config.ablation in SAMPLED

    def _means(self) -> Means:
        """Those of the circuit, with ranges and samples of the corpus at hand."""
        tokens = int(self.circuit.settings.get("means", {}).get("tokens", 0))
        if self.corpus is None:
            return Means(self.circuit.means, {}, {}, tokens, "")
        return dataclasses.replace(self.corpus, values=self.circuit.means)

    def _seen_in_pruning(self) -> set[tuple[int, ...]]:
        """All prompts, as token ids, that masks were trained on or decisions taken on."""
        train = training_pairs(self.task, self.config, self.config.eval_pairs)
        return {*train.prompts(), *deciding_pairs(self.task, self.config).prompts()}

    @torch.no_grad()
    def full(self, pairs: Pairs) -> torch.Tensor:
        """Logits of the whole model, [prompts, vocabulary]."""
        return last_logits(self.model, pairs).cpu()

    def masked(
        self, pairs: Pairs, *, freeze: bool | None = None, fills: Fills | None = None, narrow: bool = False
    ) -> torch.Tensor:
        """Those of the circuit; with `fills`, everything outside, removed edges too, is held at them instead of the means. If `narrow`, those of the answers alone
        count, and a dense model is run by what they need (`narrow.py`)."""
        freeze = self.config.freeze_norms if freeze is None else freeze
        fills = self.circuit.means if fills is None else fills
        nodes_at = {name: fills[name] for name in self.circuit.widths}
        scales = self._scales(pairs) if freeze else False
        lean = narrowed(self.model, self.circuit.nodes, nodes_at, pairs.answers) if narrow else nullcontext()
        with (
            ablated(self.model, opened(self.circuit.nodes, nodes_at), removed=self.removed, means=fills, freeze_norms=scales),
            lean,
        ):
            return last_logits(self.model, pairs, len(pairs))

    @torch.no_grad()
    def _scales(self, pairs: Pairs) -> Scales:
        """Those of the whole model's norms on pairs, as one batch; computed once, since a circuit is run on them under many fills."""
        known = next((scales for of, scales in self._known_scales if of is pairs), None)
        if known is None:
            with recorded_scales(self.model) as known:
                last_logits(self.model, pairs, len(pairs))
            self._known_scales.append((pairs, known))
        return known

    @torch.no_grad()
    def nothing(self, pairs: Pairs) -> torch.Tensor:
        """Those of a model in which every node is held at its mean: what a circuit's figures have to be better than."""
        with ablated(self.model, opened({}, self.circuit.fills), freeze_norms=self.config.freeze_norms):
            return last_logits(self.model, pairs).cpu()

    @torch.no_grad()
    def loss(self, pairs: Pairs, **how: Any) -> float:
        """Pairwise loss of the circuit."""
        return _pairwise(self.masked(pairs, **how), pairs)

    def size(self) -> dict[str, Any]:
        """Nodes, and edges counted in three ways: all between the circuit's nodes, as the paper counts; those kept; those of them on a path from an
        embedding to an answer. And the model's."""
        between = edges_in(self.model, self.circuit.nodes)
        edges = between if self.circuit.edges is None else self.circuit.edges
        everything = {name: torch.arange(width) for name, width in self.circuit.widths.items()}
        straight = on_path(self.model, self.circuit.nodes, edges, self.sets["test"].answers.cpu())
        return {
            "nodes": self.circuit.num_nodes, "edges": _count(edges), "edges_between_nodes": _count(between), "edges_on_path": _count(straight),
            "model_nodes": sum(self.circuit.widths.values()), "model_edges": _count(edges_in(self.model, everything)),
        }  # fmt: skip

    @torch.no_grad()
    def scores(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Prompts -> model, circuit, everything ablated -> figures with intervals (`outcome.figures`); calibrated circuit -> loss, preference."""
        found = {}
        for name, pairs in self.sets.items():
            full, masked, nothing = self.full(pairs), self.masked(pairs), self.nothing(pairs)
            found[name] = {
                "model": summary(figures(full, pairs.answers), self.seed),
                "circuit": summary(figures(masked, pairs.answers, full), self.seed),
                "nothing": summary(figures(nothing, pairs.answers, full), self.seed),
            }
            if self.circuit.calibration:
                two = masked.cpu().gather(1, pairs.answers.cpu())
                found[name]["calibrated"] = Score.of(apply_calibration(two, self.circuit.calibration)).to_dict()
        return found

    @torch.no_grad()
    def agreement(self) -> dict[str, Any]:
        """What could fail although the task is done: KL over the whole vocabulary, first guesses, and the correlation within classes of logit
        differences, on test prompts, the circuit's and with everything ablated."""
        pairs = self.sets["test"]
        full, masked, nothing = self.full(pairs), self.masked(pairs), self.nothing(pairs)
        own, none = (figures(each, pairs.answers, full) for each in (masked, nothing))
        errs = figures(full, pairs.answers)["preference"] == 0
        related = correlation(_towards(masked, pairs), _towards(full, pairs), pairs.answers, self.seed)
        return {
            "kl": float(own["kl"].mean()), "kl_everything_ablated": float(none["kl"].mean()),
            "same_guess": float(own["same_guess"].mean()), "same_guess_everything_ablated": float(none["same_guess"].mean()),
            "same_preference": float(own["same_preference"].mean()),
            "correlation": related["value"], "correlation_interval": related["interval"],
            "errors_of_model": int(errs.sum()), "kl_where_model_errs": float(own["kl"][errs].mean()) if bool(errs.any()) else None,
        }  # fmt: skip

    @torch.no_grad()
    def necessity(self) -> dict[str, float]:
        """Pairwise loss of the model without the circuit's nodes, or edges (not clipped: it may exceed chance), and without as many random ones that
        are about as active."""
        pairs, generator = self.sets["test"], torch.Generator().manual_seed(self.seed)
        nodes = [self.without(pairs, self._random_nodes(generator)) for _ in range(DRAWS)]
        edges = [self.without_edges(pairs, self._random_edges(generator)) for _ in range(DRAWS)]
        own = edges_in(self.model, self.circuit.nodes) if self.circuit.edges is None else self.circuit.edges
        return {
            "model": _pairwise(self.full(pairs), pairs), "without_circuit": self.without(pairs, self.circuit.nodes),
            "without_random_nodes": statistics.mean(nodes), "without_random_nodes_most": max(nodes),
            "without_edges": self.without_edges(pairs, own),
            "without_random_edges": statistics.mean(edges), "without_random_edges_most": max(edges),
            "everything_ablated": _pairwise(self.nothing(pairs), pairs),
        }  # fmt: skip

    def _activity(self) -> dict[str, torch.Tensor]:
        """Node -> standard deviation over the test prompts' tokens: a node that never moves is no control for one that does."""
        if not hasattr(self, "_spread"):
            pairs = self.sets["test"]
            real = pairs.attention_mask.bool()
            with torch.no_grad(), watching(self.model) as seen:
                last_logits(self.model, pairs, len(pairs))
                self._spread = {name: seen[name][real].double().std(0).cpu() for name in self.circuit.widths}
        return self._spread

    def _random_nodes(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """For each node of the circuit one of the same site that is none of it, among the three closest in activity, one that moves while there is any; fewer where a
        site has no more."""
        found, spread = {}, self._activity()
        for name, indices in self.circuit.nodes.items():
            free = torch.ones(self.circuit.widths[name], dtype=torch.bool).index_fill(0, indices, False)
            chosen = []
            for i in indices[torch.randperm(len(indices), generator=generator)].tolist():
                others = free.nonzero()[:, 0]
                if not len(others):
                    break
                moving = others[spread[name][others] > 0]
                others = moving if len(moving) else others
                near = others[(spread[name][others] - spread[name][i]).abs().argsort(stable=True)[:3]]
                pick = int(near[torch.randint(0, len(near), (1,), generator=generator)])
                free[pick] = False
                chosen.append(pick)
            if chosen:
                found[name] = torch.tensor(sorted(chosen))
        return found

    def _random_edges(self, generator: torch.Generator) -> dict[str, Edges]:
        """As many edges of each map that are none of the circuit, from nodes that move, as far as there are any."""
        own, spread = self.circuit.edges or edges_in(self.model, self.circuit.nodes), self._activity()
        found, maps = {}, edge_maps(self.model)
        for name, each in own.items():
            part = maps[name]
            moving = (spread[part.source] > 0).nonzero()[:, 0]
            source, target = part.edges(moving, torch.arange(self.circuit.widths[part.target]))
            wide = self.circuit.widths[part.source]
            others = (~torch.isin(target * wide + source, each.target * wide + each.source)).nonzero()[:, 0]
            pick = others[torch.randperm(len(others), generator=generator)[: len(each.source)]]
            if len(pick):
                found[name] = Edges(source[pick], target[pick], part.entries(source[pick], target[pick]).float().cpu())
        return found

    @torch.no_grad()
    def without(self, pairs: Pairs, nodes: Mapping[str, torch.Tensor]) -> float:
        """Pairwise loss of the model with these nodes at their means."""
        changes = {}
        for name, indices in nodes.items():
            open_ = torch.ones(self.circuit.widths[name], dtype=torch.bool).index_fill(0, indices, False)
            changes[name] = holding(open_, self.circuit.means[name])
        with ablated(self.model, changes, freeze_norms=self.config.freeze_norms):
            return _pairwise(last_logits(self.model, pairs), pairs)

    @torch.no_grad()
    def without_edges(self, pairs: Pairs, edges: Mapping[str, Edges]) -> float:
        """Pairwise loss of the whole model with exactly these edges carrying means."""
        with ablated(self.model, {}, removed=edges, means=self.circuit.means, freeze_norms=self.config.freeze_norms):
            return _pairwise(last_logits(self.model, pairs), pairs)

    def ablations(self) -> dict[str, float]:
        """Pairwise loss of the circuit on test prompts, the rest ablated in other ways than the one it was found under."""
        pairs = self.sets["test"]
        zero = {name: torch.zeros_like(mean) for name, mean in self.circuit.means.items()}
        found = {
            "means": self.loss(pairs), "frozen_norms": self.loss(pairs, freeze=True), "free_norms": self.loss(pairs, freeze=False),
            "zero": self.loss(pairs, fills=zero),
        }  # fmt: skip
        if self.corpus is None or not self.corpus.samples:
            return found
        generator, (prompts, tokens) = torch.Generator().manual_seed(self.seed + 1000), pairs.input_ids.shape
        for kind, width in (("resample_prompt", 1), ("resample_position", tokens)):
            runs = [self.loss(pairs, fills=drawn(self.corpus.samples, prompts, width, generator)) for _ in range(DRAWS)]
            found |= {kind: statistics.mean(runs), f"{kind}_most": max(runs)}
        return found | {"worst_case": self._worst(pairs)}

    def _worst(self, pairs: Pairs) -> float:
        """Pairwise loss under the worst fills that are found; of large models a few pairs at a time, and what a gradient needs is computed again, not kept."""
        of_pair = 2 * pairs.input_ids.shape[1] * sum(self.circuit.widths.values()) * 4
        parts = list(pairs.batches(max(1, AT_ONCE // of_pair)))

        def of(part: Pairs, fills: Fills) -> torch.Tensor:
            return losses(self.masked(part, fills=fills, narrow=True).gather(1, part.answers)).sum()

        def loss(fills: Fills) -> torch.Tensor:
            again = len(parts) > 1 and torch.is_grad_enabled()
            each = [checkpoint(of, part, fills, use_reentrant=False) if again else of(part, fills) for part in parts]
            return torch.stack(each).sum() / (2 * len(pairs))

        with frozen(self.model):
            return worst_fills(loss, self.circuit.means, self.means, steps=ASCENT, restarts=RESTARTS, seed=self.seed)[1]

    def cross_tasks(self, others: Iterable[Task], pairs: int) -> dict[str, dict[str, float]]:
        """Other task -> pairwise loss of the model on it, and without this circuit's nodes."""
        found = {}
        for task in others:
            drawn_ = task.pairs(pairs, "test", seed=self.seed, fewer=True).to(self.model.device)
            found[task.name] = {
                "model": _pairwise(self.full(drawn_), drawn_),
                "without_circuit": self.without(drawn_, self.circuit.nodes),
            }
        return found

    @torch.no_grad()
    def interchange(self) -> dict[str, Any]:
        """What the circuit's nodes do in the circuit against what they do in the full run, on test prompts.

        fvu: fraction of variance unexplained, over all circuit nodes, and by site; None where nothing varies. loss_by_site: of the circuit with
        the nodes of that site at their values of the full run, the rest as the circuit makes it.
        """
        pairs = self.sets["test"]
        real = pairs.attention_mask.bool().cpu()
        freeze = self._scales(pairs) if self.config.freeze_norms else False
        with watching(self.model) as seen:
            last_logits(self.model, pairs, len(pairs))
            full = {name: seen[name].clone() for name in self.circuit.nodes}
        changes = opened(self.circuit.nodes, self.circuit.fills)
        with (
            ablated(self.model, changes, removed=self.removed, means=self.circuit.means, freeze_norms=freeze),
            watching(self.model) as seen,
        ):
            last_logits(self.model, pairs, len(pairs))
            inside = {name: seen[name].clone() for name in self.circuit.nodes}
        residual, variance, loss = {}, {}, {}
        for name, indices in self.circuit.nodes.items():
            a, b = (each[name].cpu()[real][:, indices].double() for each in (full, inside))
            residual[name], variance[name] = float((a - b).square().sum()), float((a - a.mean(0)).square().sum())
            kept = torch.zeros(self.circuit.widths[name], dtype=torch.bool).index_fill(0, indices, True).to(full[name].device)
            put = torch.where(kept, full[name], self.circuit.means[name].to(full[name]))
            swap = {**changes, name: lambda out, put=put: put}
            with ablated(self.model, swap, removed=self.removed, means=self.circuit.means, freeze_norms=freeze):
                loss[name] = _pairwise(last_logits(self.model, pairs, len(pairs)), pairs)
        total = sum(variance.values())
        return {
            "fvu": sum(residual.values()) / total if total > 1e-12 else None,
            "fvu_by_site": {name: residual[name] / variance[name] for name in residual if variance[name] > 1e-12},
            "loss_by_site": loss,
        }  # fmt: skip

    def faithfulness(self) -> dict[str, Any] | None:
        """f(k) = (m(C_k) - m(empty)) / (m(full) - m(empty)) of the logit difference m, for the k best nodes by the ranking of pruning; CPR is
        the area under f, CMD that under |1 - f|, over the fractions of nodes (MIB)."""
        if not self.circuit.scores:
            return None
        ranking, pairs = ranked(self.circuit.scores), self.sets["test"]
        full, nothing = (float(_towards(each, pairs).mean()) for each in (self.full(pairs), self.nothing(pairs)))
        if abs(full - nothing) < 1e-9:
            return None
        values = []
        for fraction in FRACTIONS:
            nodes = as_nodes(ranking[: max(1, round(fraction * len(ranking)))], list(self.circuit.widths))
            with torch.no_grad(), ablated(self.model, opened(nodes, self.circuit.fills), freeze_norms=self.config.freeze_norms):
                values.append((float(_towards(last_logits(self.model, pairs), pairs).mean()) - nothing) / (full - nothing))
        f = torch.tensor(values, dtype=torch.float64)
        at = torch.tensor(FRACTIONS, dtype=torch.float64)
        return {
            "fractions": list(FRACTIONS), "f": values,
            "cpr": float(torch.trapezoid(f, at)), "cmd": float(torch.trapezoid((1 - f).abs(), at)),
        }  # fmt: skip


def _towards(logits: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """Logit of the right answer minus the other's, float64 [prompts]."""
    two = logits.double().cpu().gather(1, pairs.answers.cpu())
    return two[:, 0] - two[:, 1]


def _pairwise(logits: torch.Tensor, pairs: Pairs) -> float:
    return float(losses(logits.double().gather(1, pairs.answers.to(logits.device))).mean())


def _count(edges: Mapping[str, Edges]) -> int:
    return sum(len(each.source) for each in edges.values())
