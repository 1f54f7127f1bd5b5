"""How the size of circuits grows with what they must survive, and which levels of `csp verify` they reach.

    csp train --preset tiny --out runs/tiny
    python benchmarks/survival.py runs/tiny --out runs/survival.jsonl              # hours on one core; goes on where it was stopped
    python benchmarks/survival.py runs/tiny --out runs/quick.jsonl --tasks single_double_quote --ways mean --steps 60
    python benchmarks/survival.py runs/tiny --out runs/survival.jsonl --kinds nonsense shuffled   # where nothing is to be found, the same way

One row for each task that the model passes the gate for, and each way of pruning: its size, its figures on test prompts beside those of the model and of
everything ablated, its pairwise loss under ablations that it was not found under, and the levels.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

from side_by_side import machine, rows_of
from transformers import AutoTokenizer

from sparse_circuits import CSPForCausalLM
from sparse_circuits.circuits import PruneConfig, capabilities, mean_activations, prune, task_for, verify
from sparse_circuits.circuits.controls import SAMPLES, shuffled
from sparse_circuits.circuits.identity import weights_sha256
from sparse_circuits.cli.given import corpus_blocks

WAYS: dict[str, dict[str, Any]] = {
    "mean, free norms": {"ablation": "mean", "freeze_norms": False},
    "mean": {"ablation": "mean"},
    "mix": {"ablation": "mix", "draws": 2},
    "mix, 8 draws": {"ablation": "mix", "draws": 8},
    "mix, distribution": {"ablation": "mix", "draws": 2, "objective": "distribution"},
    "adversarial": {"ablation": "adversarial", "draws": 2},
}

KINDS = ("task", "nonsense", "shuffled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", type=Path, help="folder of a model; means are over its training blocks, or the standard library"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="rows, one JSON a line; those that are there are not measured again"
    )
    parser.add_argument("--tasks", nargs="*", help="default: all that the model passes the gate for")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument(
        "--kinds",
        nargs="*",
        choices=KINDS,
        default=["task"],
        help="the tasks themselves, their nonsense twins, the tasks on shuffled weights",
    )
    given = parser.parse_args()
    model = CSPForCausalLM.from_pretrained(given.model, sparse=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    blocks = corpus_blocks(str(given.model), None, tokenizer, 51_200)
    able = given.tasks or [each.task for each in capabilities(model, tokenizer) if each.passes]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    weights = weights_sha256(model)
    done = {(row["task"], row["way"], row["kind"], row["steps"], row["weights"]) for row in rows_of(given.out)}
    kinds = dict.fromkeys(given.kinds, (model, mean_activations(model, blocks, samples=SAMPLES)))
    if "shuffled" in kinds:
        other = shuffled(model)
        kinds["shuffled"] = other, mean_activations(other, blocks, samples=SAMPLES)
    for name in able:
        for way in given.ways:
            for kind, (subject, means) in kinds.items():
                if (name, way, kind, given.steps, weights) in done:
                    continue
                task = task_for(model, name, tokenizer)
                task = task.nonsense() if kind == "nonsense" else task
                free = {"k_coef": 0.0} if kind == "shuffled" else {}
                begun = time.perf_counter()
                circuit = prune(
                    subject, tokenizer, task, means, PruneConfig(steps=given.steps, **WAYS[way], **free), force=kind != "task"
                )
                seconds = time.perf_counter() - begun
                report = verify(circuit, subject, tokenizer, task, blocks=blocks, controls=False, seeds=1)
                with given.out.open("a", encoding="utf-8") as file:
                    row = as_row(circuit, report, seconds) | {
                        "task": name,
                        "way": way,
                        "kind": kind,
                        "steps": given.steps,
                        "weights": weights,
                    }
                    file.write(json.dumps(row) + "\n")
    print(machine(f"{given.steps} steps, target loss 0.15, seed 0, means over 51,200 training tokens"))
    asked = {"steps": given.steps, "weights": weights}
    print(
        as_table(
            [
                row
                for row in rows_of(given.out)
                if row["task"] in able and row["way"] in given.ways and row["kind"] in kinds and asked.items() <= row.items()
            ]
        )
    )


def as_row(circuit: Any, report: Any, seconds: float) -> dict[str, Any]:
    found, metrics = report.found, circuit.metrics
    test = {
        kind: {key: value for key, value in each.items() if key != "intervals"}
        for kind, each in found["scores"]["test"].items()
    }
    return {
        "seconds": seconds, "reached": metrics["reached"], "nodes": metrics["nodes"], "edges": metrics["edges"], "edges_on_path": metrics["edges_on_path"],
        "levels": [name for name, holds in report.levels.items() if holds], "test": test,
        **{key: found[key] for key in ("agreement", "necessity", "ablations")},
    }  # fmt: skip


def as_table(rows: list[dict[str, Any]]) -> str:
    heads = ["task", "way", "edges (on a path)", "prefers", "first guess: model / circuit / nothing", "KL (nothing)", "resampled prompt / position", "worst",
             "without its edges / random", "levels"]  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        model, own, nothing = (row["test"][kind] for kind in ("model", "circuit", "nothing"))
        a, n = row["ablations"], row["necessity"]
        name = row["task"] + ("" if row["kind"] == "task" else f", {row['kind']}")
        cells = [
            name, row["way"], f"{row['edges']} ({row['edges_on_path']})" + ("" if row["reached"] else "*"), f"{own['preference']:.2f}",
            f"{model['first_guess']:.2f} / {own['first_guess']:.2f} / {nothing['first_guess']:.2f}", f"{own['kl']:.2f} ({nothing['kl']:.2f})",
            f"{a['resample_prompt']:.2f} / {a['resample_position']:.2f}", f"{a['worst_case']:.1f}",
            f"{n['without_edges']:.2f} / {n['without_random_edges']:.2f}", ", ".join(row["levels"]) or "none",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("\n* the target loss was not reached\n")
    # Means over the tasks on which every way reached the target with a circuit: a way that fails on hard tasks must not look small.
    ways = list(dict.fromkeys(row["way"] for row in rows))
    reached = {
        way: {row["task"] for row in rows if row["way"] == way and row["kind"] == "task" and row["reached"] and row["edges"]}
        for way in ways
    }
    common = set.intersection(*reached.values()) if reached else set()
    for way in ways:
        of = [row for row in rows if row["way"] == way and row["kind"] == "task" and row["task"] in common]
        if of:
            mean = math.exp(statistics.mean(math.log(row["edges"]) for row in of))
            levels = {
                name: sum(name in row["levels"] for row in of)
                for name in ("prefers", "produces", "agrees", "mechanism", "robust")
            }
            said = ", ".join(f"{name} {count}" for name, count in levels.items())
            lines.append(
                f"{way}: geometric mean of {mean:.0f} edges over {len(of)} tasks, {statistics.median(row['seconds'] for row in of):.0f} s; {said}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
