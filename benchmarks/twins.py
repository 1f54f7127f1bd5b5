"""Circuits of sparse models against those of dense twins of about the same loss, with settings of pruning searched for both with the same budget.

    python benchmarks/paper.py train runs/paper --only sparse-seed0 sparse-seed1 sparse-seed2 dense-seed0 dense-seed1 dense-seed2
    python benchmarks/twins.py runs/paper/sparse-seed? runs/paper/dense-seed? --out runs/twins       # hours on one core; goes on where it was stopped

For every task that all models pass the gate for: the search is over circuits of nodes alone, by the edges between them, on the first training seed of each series; its
best settings are then those of all its seeds, whose circuits lose their edges too. Mean ablation, frozen norms, target loss 0.15.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from paper import Compared, Rows, geometric, series_of
from side_by_side import machine, rows_of

from sparse_circuits import Circuit
from sparse_circuits.circuits import PruneConfig, prune
from sparse_circuits.circuits.search import RANGES, STUDY, search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", nargs="+", type=Path, help="folders of `csp train`; names that differ in their seed alone are a series"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for studies and rows")
    parser.add_argument("--tasks", nargs="*", help="default: all that every run can do")
    parser.add_argument(
        "--trials", type=int, default=6, help="settings that are tried, the default ones first, for each task and series"
    )
    parser.add_argument("--steps", type=int, default=400, help="of mask training")
    parser.add_argument("--pairs", type=int, default=64, help="on which circuits are decided")
    parser.add_argument("--part", default="0/1", help="I/N: every N-th task, from the I-th, for processes side by side")
    given = parser.parse_args()
    measure(given)
    print(
        machine(
            f"{given.trials} settings tried, {given.steps} steps, {given.pairs} deciding pairs, mean ablation, frozen norms, seed 0 of pruning"
        )
    )
    print(as_table(rows_of(given.out / "rows.jsonl")))


def measure(given: argparse.Namespace) -> None:
    rows, compared = Rows(given.out / "rows.jsonl"), Compared(given.runs, given.tasks)
    part, parts = map(int, given.part.split("/"))
    if part == 0:
        compared.add_models(rows)
    models, tokenizer, means = compared.models, compared.tokenizer, {run: compared.means(run) for run in compared.models}
    config, method = PruneConfig(steps=given.steps, eval_pairs=given.pairs), f"{given.trials} settings, {given.pairs} pairs"
    for name in compared.able[part::parts]:
        task = compared.asked[name]
        for run, model in models.items():
            own = {"run": run, "weights": compared.weights[run], "task": name, "steps": given.steps, "method": method}
            if rows.has(kind="circuit", **own):
                continue
            leader = next(other for other in models if series_of(other) == series_of(run))
            place = given.out / f"{series_of(run)}-{task.name}"
            best = searched(models[leader], tokenizer, task, means[leader], config, given.trials, place)
            begun = time.perf_counter()
            found = prune(model, tokenizer, task, means[run], dataclasses.replace(config, **best)).metrics
            counts = {key: found[key] for key in ("reached", "nodes", "edges", "edges_before_pruning")}
            rows.add(kind="circuit", **own, **counts, settings=best, seconds=time.perf_counter() - begun)
            print(f"{run:16s} {name:24s} {found['edges']:7,d} edges{'' if found['reached'] else ', missed'}", flush=True)


def searched(
    model: Any, tokenizer: Any, task: Any, means: Any, config: PruneConfig, trials: int, place: Path
) -> dict[str, float]:
    """The best of some settings, the default ones among them, by edges between the nodes of circuits of nodes alone."""
    left = trials - finished(place)
    if left > 0:
        search(model, tokenizer, task, means, dataclasses.replace(config, edges=False), trials=left, out=place)
    found = Circuit.from_pretrained(place)
    return {name: found.settings[name] for name in RANGES}


def finished(place: Path) -> int:
    """Trials that a search has behind it."""
    if not (place / STUDY).is_file():
        return 0
    import optuna

    study = optuna.load_study(study_name="prune", storage=f"sqlite:///{place / STUDY}")
    return len(study.get_trials(states=[optuna.trial.TrialState.COMPLETE]))


def as_table(rows: list[dict[str, Any]]) -> str:
    """Edges by task and run, geometric means over tasks that every run has a circuit with edges for, and ratios of every dense run to every sparse one."""
    circuits = [row for row in rows if row["kind"] == "circuit"]
    runs = list(dict.fromkeys(row["run"] for row in circuits))
    losses = {row["run"]: row["loss"] for row in rows if row["kind"] == "model"}
    by_task: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in circuits:
        by_task[row["task"]][row["run"]] = row
    lines = ["| task | " + " | ".join(runs) + " |", "|" + "---|" * (len(runs) + 1)]
    kept = []
    for task, of in sorted(by_task.items()):
        counted = len(of) == len(runs) and all(row["reached"] and row["edges"] for row in of.values())
        kept += [task] * counted
        cells = [f"{of[run]['edges']:,}{'' if of[run]['reached'] else '*'}" if run in of else "" for run in runs]
        lines.append(f"| {task}{'' if counted else ' (not in the mean)'} | " + " | ".join(cells) + " |")
    if kept:
        means = {run: geometric(by_task[task][run]["edges"] for task in kept) for run in runs}
        lines.append(f"| **geometric mean, {len(kept)} tasks** | " + " | ".join(f"{means[run]:,.0f}" for run in runs) + " |")
        lines.append("| held-out loss | " + " | ".join(f"{losses[run]:.3f}" if run in losses else "" for run in runs) + " |")
        dense, sparse = (
            [means[run] for run in runs if series_of(run).startswith("dense") == wanted] for wanted in (True, False)
        )
        if dense and sparse:
            ratios = [d / s for d in dense for s in sparse]
            lines.append(
                f"\nDense over sparse: {geometric(dense) / geometric(sparse):.1f} times the edges ({min(ratios):.1f} to {max(ratios):.1f} over pairs of seeds)."
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
