"""`verify`: is this circuit to be believed? Measurements, controls that are pruned the same way, and a verdict in words.

Low loss of a masked model is no evidence by itself: masks reach it on tasks that the model does not do (docs/method.md#what-goes-wrong). So a report
asks whether the circuit agrees with the unpruned model, on prompts that it was not chosen on; whether the model needs it; and
what the same search finds where there is nothing to find.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import statistics
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

from .ablation import ablated, holding
from .calibration import apply_calibration
from .circuit import Circuit
from .edges import edges_in, removed_edges
from .identity import circuit_sha256, refuse_other_model, refuse_other_task, tokenizer_sha256
from .masks import PruneConfig, as_nodes, deciding_pairs, opened, ranked, training_pairs
from .means import Means, mean_activations, sample_activations, watching
from .prune import prune
from .report import Verification
from .scoring import Score, answer_logits, losses, task_loss
from .sites import evaluating, norms, require_csp
from .tasks import Pairs, Task

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of nodes, as in MIB
DRAWS = 8


def verify(
    circuit: Circuit,
    model: Any,
    tokenizer: Any,
    task: Task,
    *,
    blocks: torch.Tensor | None = None,
    pairs: int = 64,
    controls: bool = True,
    seeds: int = 3,
    seed: int = 1,
) -> Verification:
    """Measures a circuit and its controls on pairs that it was not found on.

    Args:
        task: that of the circuit (of its twin's circuit: the twin).
        blocks: token ids [n, tokens] of a corpus: for resampled and worst-case ablation, and the means of the model with shuffled weights. Without
            it these are left out, and the report says so.
        controls: prune the nonsense and constant twins and the model with shuffled weights the same way (three prunings).
        seeds: how many prunings, this one among them, decide on stability; 1 leaves it out.
        seed: of prompts and draws.

    Raises:
        ValueError: if model, tokenizer or task are not the circuit's.
    """
    refuse_other_model(circuit, require_csp(model))
    if seeds < 1 or pairs < 2:
        raise ValueError(f"seeds={seeds} and pairs={pairs} cannot work; give at least 1 and 2.")
    if tokenizer_sha256(tokenizer) != circuit.tokenizer:
        raise ValueError(f"The circuit for {circuit.task} was found with another tokenizer than this; use the model's own.")
    refuse_other_task(circuit, task)
    with evaluating(model):
        return _judged(Examination(circuit, model, task, pairs, seed), tokenizer, blocks, controls, seeds)


def _judged(look: Examination, tokenizer: Any, blocks: torch.Tensor | None, controls: bool, seeds: int) -> Verification:
    found: dict[str, Any] = {
        "task": look.circuit.task, "circuit_sha256": circuit_sha256(look.circuit), "model": look.circuit.model, "size": look.size(), "target_loss": look.target,
        "scores": look.scores(), "agreement": look.agreement(), "necessity": look.necessity(), "ablations": look.ablations(blocks),
        "interchange": look.interchange(), "faithfulness": look.faithfulness(), "left_out": list(look.left_out),
    }  # fmt: skip
    if controls:
        found["controls"] = _controls(look, tokenizer, blocks, found["left_out"])
    else:
        found["left_out"].append("controls (nonsense twin, constant twin, shuffled weights): not asked for")
    if blocks is None:
        found["left_out"].append("resampled and worst-case ablation: no corpus given")
    if seeds > 1:
        found["stability"] = _stability(look, tokenizer, seeds)
    else:
        found["left_out"].append("stability over seeds: not asked for")
    return Verification.judged(found)


class Examination:
    """One circuit on its model: every measurement that needs no further pruning."""

    def __init__(self, circuit: Circuit, model: Any, task: Task, pairs: int, seed: int):
        self.circuit, self.model, self.task, self.seed = circuit, model, task, seed
        self.target = float(circuit.settings.get("target_loss", 0.15))
        self.config = PruneConfig(
            **{f.name: circuit.settings[f.name] for f in dataclasses.fields(PruneConfig) if f.name in circuit.settings}
        )
        self.method = str(circuit.settings.get("method", "learned"))
        self.means = Means(circuit.means, {}, {}, int(circuit.settings.get("means", {}).get("tokens", 0)), "")
        self.removed = None if circuit.edges is None else removed_edges(model, circuit.nodes, circuit.edges)
        self.left_out: list[str] = []
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

    def _seen_in_pruning(self) -> set[tuple[int, ...]]:
        """All prompts, as token ids, that masks were trained on or decisions taken on."""
        train = training_pairs(self.task, self.config, self.config.eval_pairs)
        return {*train.prompts(), *deciding_pairs(self.task, self.config).prompts()}

    @torch.no_grad()
    def full(self, pairs: Pairs) -> torch.Tensor:
        return answer_logits(self.model, pairs).cpu()

    @torch.no_grad()
    def masked(
        self, pairs: Pairs, *, freeze: bool | None = None, fills: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Logits of the circuit; with `fills`, everything outside, removed edges too, is held at them instead of the means."""
        freeze = self.config.freeze_norms if freeze is None else freeze
        fills = self.circuit.means if fills is None else fills
        nodes_at = {name: fills[name] for name in self.circuit.widths}
        with ablated(self.model, opened(self.circuit.nodes, nodes_at), removed=self.removed, means=fills, freeze_norms=freeze):
            return answer_logits(self.model, pairs).cpu()

    def size(self) -> dict[str, Any]:
        edges = edges_in(self.model, self.circuit.nodes) if self.circuit.edges is None else self.circuit.edges
        everything = {name: torch.arange(width) for name, width in self.circuit.widths.items()}
        return {
            "nodes": self.circuit.num_nodes, "edges": sum(len(each.source) for each in edges.values()),
            "model_nodes": sum(self.circuit.widths.values()),
            "model_edges": sum(len(each.source) for each in edges_in(self.model, everything).values()),
        }  # fmt: skip

    def scores(self) -> dict[str, dict[str, dict[str, float]]]:
        """Prompts -> model, circuit, calibrated circuit -> loss, accuracy, count."""
        found = {}
        for name, pairs in self.sets.items():
            masked = self.masked(pairs)
            found[name] = {"model": Score.of(self.full(pairs)).to_dict(), "circuit": Score.of(masked).to_dict()}
            if self.circuit.calibration:
                found[name]["calibrated"] = Score.of(apply_calibration(masked, self.circuit.calibration)).to_dict()
        return found

    def agreement(self) -> dict[str, float | None]:
        """KL(model || circuit) in nats of the two answers' probabilities on test prompts, also where the model errs."""
        pairs = self.sets["test"]
        full, masked = self.full(pairs).double(), self.masked(pairs).double()
        errs = full[:, 0] <= full[:, 1]
        with torch.no_grad():
            nothing = self._nothing(pairs)
        return {
            "kl": float(kl(full, masked).mean()), "kl_everything_ablated": float(kl(full, nothing).mean()),
            "same_answer": float(((full[:, 0] > full[:, 1]) == (masked[:, 0] > masked[:, 1])).double().mean()),
            "errors_of_model": int(errs.sum()), "kl_where_model_errs": float(kl(full, masked)[errs].mean()) if bool(errs.any()) else None,
        }  # fmt: skip

    @torch.no_grad()
    def _nothing(self, pairs: Pairs) -> torch.Tensor:
        with ablated(self.model, opened({}, self.circuit.fills), freeze_norms=self.config.freeze_norms):
            return answer_logits(self.model, pairs).cpu().double()

    def necessity(self) -> dict[str, float]:
        """Loss of the model without the circuit (not clipped: it may exceed chance), and without as many random nodes of the same sites."""
        pairs, generator = self.sets["test"], torch.Generator().manual_seed(self.seed)
        random = [self._without(pairs, self._random_nodes(generator)) for _ in range(DRAWS)]
        return {
            "model": float(losses(self.full(pairs)).mean()), "without_circuit": self._without(pairs, self.circuit.nodes),
            "without_random_nodes": statistics.mean(random), "without_random_nodes_most": max(random),
            "everything_ablated": float(losses(self._nothing(pairs)).mean()),
        }  # fmt: skip

    def _random_nodes(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """As many nodes at each site, none of the circuit's while there are others."""
        found = {}
        for name, indices in self.circuit.nodes.items():
            order = torch.randperm(self.circuit.widths[name], generator=generator)
            inside = torch.isin(order, indices)
            found[name] = torch.cat([order[~inside], order[inside]])[: len(indices)]
        return found

    @torch.no_grad()
    def _without(self, pairs: Pairs, nodes: Mapping[str, torch.Tensor]) -> float:
        changes = {}
        for name, indices in nodes.items():
            open_ = torch.ones(self.circuit.widths[name], dtype=torch.bool).index_fill(0, indices, False)
            changes[name] = holding(open_, self.circuit.means[name])
        with ablated(self.model, changes, freeze_norms=self.config.freeze_norms):
            return float(losses(answer_logits(self.model, pairs)).mean())

    def ablations(self, blocks: torch.Tensor | None) -> dict[str, float]:
        """Loss of the circuit on test prompts, the rest ablated in other ways than the one it was found under."""
        pairs = self.sets["test"]

        def loss(fills: Mapping[str, torch.Tensor] | None = None, freeze: bool | None = None) -> float:
            return float(losses(self.masked(pairs, fills=fills, freeze=freeze)).mean())

        zero = {name: torch.zeros_like(mean) for name, mean in self.circuit.means.items()}
        found = {"as_found": loss(), "frozen_norms": loss(freeze=True), "zero": loss(zero)}
        if blocks is not None:
            samples = sample_activations(self.model, blocks, DRAWS, self.seed)
            runs = [loss({name: sample[draw] for name, sample in samples.items()}) for draw in range(DRAWS)]
            found |= {"resample": statistics.mean(runs), "resample_most": max(runs)}
            found["worst_case"] = loss(self._worst(pairs, mean_activations(self.model, blocks[:64])))
        return found

    def _worst(self, pairs: Pairs, ranges: Means) -> dict[str, torch.Tensor]:
        """Every closed node, and every removed edge's source, at the end of its observed range that, to first order, raises the loss."""
        fills = {name: mean.clone().requires_grad_() for name, mean in self.circuit.means.items()}
        changes = opened(self.circuit.nodes, {name: fills[name] for name in self.circuit.widths})
        with (
            ablated(self.model, changes, removed=self.removed, means=fills, freeze_norms=self.config.freeze_norms),
            torch.enable_grad(),
        ):
            grads = torch.autograd.grad(task_loss(self.model, pairs, batch=len(pairs)), list(fills.values()), allow_unused=True)
        return {
            name: self.circuit.means[name] if grad is None else torch.where(grad > 0, ranges.high[name], ranges.low[name])
            for name, grad in zip(fills, grads)
        }

    @torch.no_grad()
    def interchange(self) -> dict[str, Any]:
        """What the circuit's nodes do in the circuit against what they do in the full run, on test prompts.

        fvu: fraction of variance unexplained, over all circuit nodes, and by site; None where nothing varies. loss_by_site: of the circuit with
        the nodes of that site at their values of the full run, the rest as the circuit makes it.
        """
        pairs = self.sets["test"]
        real = pairs.attention_mask.bool().cpu()
        freeze = self.config.freeze_norms
        with watching(self.model) as seen:
            self.model(input_ids=pairs.input_ids, attention_mask=pairs.attention_mask, use_cache=False)
            full = {name: seen[name].clone() for name in self.circuit.nodes}
        changes = opened(self.circuit.nodes, self.circuit.fills)
        with (
            ablated(self.model, changes, removed=self.removed, means=self.circuit.means, freeze_norms=freeze),
            watching(self.model) as seen,
        ):
            self.model(input_ids=pairs.input_ids, attention_mask=pairs.attention_mask, use_cache=False)
            inside = {name: seen[name].clone() for name in self.circuit.nodes}
        residual, variance, loss = {}, {}, {}
        for name, indices in self.circuit.nodes.items():
            a, b = (each[name].cpu()[real][:, indices].double() for each in (full, inside))
            residual[name], variance[name] = float((a - b).square().sum()), float((a - a.mean(0)).square().sum())
            kept = torch.zeros(self.circuit.widths[name], dtype=torch.bool).index_fill(0, indices, True).to(full[name].device)
            put = torch.where(kept, full[name], self.circuit.means[name].to(full[name]))
            swap = {**changes, name: lambda out, put=put: put}
            with ablated(self.model, swap, removed=self.removed, means=self.circuit.means, freeze_norms=freeze):
                loss[name] = float(losses(answer_logits(self.model, pairs, batch=len(pairs))).mean())
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
        full, nothing = _difference(self.full(pairs)), _difference(self._nothing(pairs))
        if abs(full - nothing) < 1e-9:
            return None
        values = []
        for fraction in FRACTIONS:
            nodes = as_nodes(ranking[: max(1, round(fraction * len(ranking)))], list(self.circuit.widths))
            with torch.no_grad(), ablated(self.model, opened(nodes, self.circuit.fills), freeze_norms=self.config.freeze_norms):
                values.append((_difference(answer_logits(self.model, pairs)) - nothing) / (full - nothing))
        f = torch.tensor(values, dtype=torch.float64)
        at = torch.tensor(FRACTIONS, dtype=torch.float64)
        return {
            "fractions": list(FRACTIONS), "f": values,
            "cpr": float(torch.trapezoid(f, at)), "cmd": float(torch.trapezoid((1 - f).abs(), at)),
        }  # fmt: skip


def _difference(logits: torch.Tensor) -> float:
    return float((logits[:, 0] - logits[:, 1]).double().mean())


def kl(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    """KL(one || two) in nats of the answer probabilities, [prompts], from logits [prompts, 2]."""
    return F.kl_div(two.log_softmax(-1), one.log_softmax(-1), reduction="none", log_target=True).sum(-1)


def _controls(look: Examination, tokenizer: Any, blocks: torch.Tensor | None, left_out: list[str]) -> dict[str, Any]:
    """Nonsense and constant twin on the model, and the task on a model with shuffled weights, each pruned as the circuit was."""
    base = dataclasses.replace(look.task, twin="")
    found = {}
    for name, task in (("nonsense", base.nonsense()), ("constant", base.constant())):
        found[name] = _control(look, tokenizer, look.model, task, look.means)
    if blocks is None:
        left_out.append("shuffled weights: no corpus given for their means")
    else:
        other = shuffled(look.model, look.seed)
        found["shuffled"] = _control(look, tokenizer, other, base, mean_activations(other, blocks))
    return found


def _control(look: Examination, tokenizer: Any, model: Any, task: Task, means: Means) -> dict[str, Any]:
    circuit = prune(model, tokenizer, task, means, look.config, method=look.method, force=True)
    there = Examination(circuit, model, task, len(look.sets["test"]), look.seed)
    agreement = there.agreement()
    return {
        "reached": circuit.metrics["reached"], "nodes": circuit.num_nodes, "edges": circuit.metrics["edges"],
        "model_loss": float(losses(there.full(there.sets["test"])).mean()), "loss": float(losses(there.masked(there.sets["test"])).mean()),
        "kl": agreement["kl"], "same_answer": agreement["same_answer"],
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
    return other


def _stability(look: Examination, tokenizer: Any, seeds: int) -> dict[str, Any]:
    """Other seeds' circuits against this one's and each other's: mean Jaccard of nodes and of edges, and how often each edge is found."""
    circuits = [look.circuit]
    for i in range(1, seeds):
        config = dataclasses.replace(look.config, seed=look.config.seed + i)
        circuits.append(prune(look.model, tokenizer, look.task, look.means, config, method=look.method, force=True))
    nodes = [{(name, int(i)) for name, indices in c.nodes.items() for i in indices} for c in circuits]
    edges = [_edge_set(look.model, c) for c in circuits]
    count = {edge: sum(edge in each for each in edges) / seeds for edge in sorted(set().union(*edges))}
    return {
        "seeds": seeds, "edges": [len(each) for each in edges],
        "jaccard_nodes": statistics.mean(jaccard(a, b) for a, b in itertools.combinations(nodes, 2)),
        "jaccard_edges": statistics.mean(jaccard(a, b) for a, b in itertools.combinations(edges, 2)),
        "edge_frequency": {f"{name}:{source}->{target}": share for (name, source, target), share in count.items()},
    }  # fmt: skip


def _edge_set(model: Any, circuit: Circuit) -> set[tuple[str, int, int]]:
    edges = edges_in(model, circuit.nodes) if circuit.edges is None else circuit.edges
    return {(name, int(s), int(t)) for name, each in edges.items() for s, t in zip(each.source, each.target)}


def jaccard(one: set[Any], two: set[Any]) -> float:
    """|intersection| / |union|; of two empty sets 1."""
    return len(one & two) / len(one | two) if one | two else 1.0
