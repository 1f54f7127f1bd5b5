"""`prune`: from a model and a task to the smallest circuit that does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .attribution import attribution
from .calibration import calibrate
from .candidates import Search, edge_count, node_count
from .circuit import Circuit
from .edges import Edges
from .identity import identify, tokenizer_sha256, versions
from .masks import (
    Masks,
    Nodes,
    PruneConfig,
    ranked,
    train_masks,
    training_pairs,
)
from .means import Means
from .outcome import last_logits
from .paths import on_path
from .python_tasks import SPLITS_VERSION
from .scoring import Score, capability
from .sites import evaluating, require_csp
from .tasks import NAME, Task

METHODS = ("learned", "attribution")
CHEAPER = 2  # times that masks are trained anew at a third of the price
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
    config = config if target_loss is None else dataclasses.replace(config, target_loss=target_loss)
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
    model: Any,
    tokenizer: Any,
    task: Task,
    means: Means,
    config: PruneConfig,
    scores: Mapping[str, torch.Tensor],
    *,
    method: str = "learned",
    seed: int | None = None,
) -> Circuit:
    """The circuit that a known ranking of nodes gives, such as that of a circuit found before (`circuit.scores`): for another target, or on other pairs.

    Args:
        scores: site -> importance of its nodes [width]; how many are above 0 is how many are tried first.
        method: what the ranking is called in the circuit's settings.
        seed: of a draw of the deciding pairs with replacement (a bootstrap); None: the pairs themselves.
    """
    with evaluating(model):
        search = Search(model, task, means, config, force=True)
        if seed is not None:
            order = torch.randint(0, len(search.pairs), (len(search.pairs),), generator=torch.Generator().manual_seed(seed))
            search.decide_on(search.pairs.at(order))
        return _decided(search, _Assembly(search, tokenizer, scores, method, []), scores, None)


def _prune(search: Search, tokenizer: Any, method: str, out: str | Path | None) -> Circuit:
    model = search.model
    history: list[tuple[int, float, int]] = []
    if method == "learned":
        scores, history = _learned(search)
    else:
        config = search.config
        fills = {name: search.values[name] for name in search.sites}
        pairs = training_pairs(search.task, config, config.eval_pairs).part(0, config.eval_pairs).to(model.device)
        scores = attribution(model, fills, pairs, config.freeze_norms)
    return _decided(search, _Assembly(search, tokenizer, scores, method, history), scores, out)


def _learned(search: Search) -> tuple[dict[str, torch.Tensor], list[tuple[int, float, int]]]:
    """Importance of every node, and the history of its masks. A price at which what stays open misses the target is cut to a third, twice at most; the
    price that was taken is in the circuit's settings."""
    for cheaper in range(CHEAPER + 1):
        masks = Masks(search.model, search.values, search.config, search.barred)
        history = train_masks(masks, search.task, conditions=search.conditions)
        scores = {name: importance.detach().float().cpu() for name, importance in masks.importance.items()}
        stopped = len(history) < search.config.steps  # by a person, who wants a circuit now
        if stopped or cheaper == CHEAPER or not search.config.k_coef or search.reaches(ranked(scores), int(masks.open_count())):
            break
        search.config = dataclasses.replace(search.config, k_coef=search.config.k_coef / 3)
    return scores, history


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
            "calibrated": calibrated.to_dict(), "nodes": node_count(nodes), "edges": edge_count(counted),
            "edges_before_pruning": edge_count(search.between(nodes)), "edges_on_path": edge_count(on_path(search.model, nodes, counted, answers)),
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
