"""Circuits of a sparse model against those of its dense twin: edges at the same task loss, pruned the same way.

    csp train --preset tiny --out runs/tiny && csp train --preset dense-tiny --out runs/dense-tiny
    python benchmarks/circuit_size.py runs/tiny runs/dense-tiny

Whether such circuits are to be believed, `survival.py` asks. Tasks are those that every model given passes the gate for. The paper finds circuits about 16 times smaller in sparse models.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

from safetensors.torch import load_file
from side_by_side import machine
from transformers import AutoTokenizer

from sparse_circuits import CSPForCausalLM
from sparse_circuits.circuits import PruneConfig, capability, load_task, mean_activations, prune, tasks
from sparse_circuits.circuits.controls import SAMPLES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="folders of `csp train`: the sparse model, then its dense twin")
    parser.add_argument("--tasks", nargs="*", help="default: all that every model can do")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=1, help="of pruning; medians over them")
    parser.add_argument("--ablation", default="mean", help="what circuits must survive: mean, zero, resample, mix, adversarial")
    given = parser.parse_args()
    print(machine(f"{given.steps} steps, target loss 0.15, {given.seeds} seed(s) from 0, means over 51,200 training tokens"))
    models = [CSPForCausalLM.from_pretrained(folder).eval() for folder in given.models]
    tokenizer = AutoTokenizer.from_pretrained(given.models[0])
    blocks = [load_file(folder / "blocks.safetensors")["train"] for folder in given.models]
    blocks = [each[: 51_200 // each.shape[1]] for each in blocks]
    means = [mean_activations(model, each, samples=SAMPLES) for model, each in zip(models, blocks)]
    chosen = [n for n in given.tasks or tasks() if all(capability(model, load_task(n, tokenizer)).passes for model in models)]
    print(f"{len(chosen)} tasks pass the gate of all models")
    sizes(models, tokenizer, chosen, means, given)


def sizes(models, tokenizer, chosen, means, given) -> None:
    heads = [folder.name for folder in given.models]
    print(
        f"{'task':28s}"
        + "".join(f"{head + ' edges (nodes) s':>34s}" for head in heads)
        + ("   ratio" if len(heads) == 2 else "")
    )
    logs: list[list[float]] = [[] for _ in models]
    for name in chosen:
        row, edges = f"{name:28s}", []
        for model, mean in zip(models, means):
            started, found = time.perf_counter(), []
            for seed in range(given.seeds):
                config = PruneConfig(steps=given.steps, seed=seed, ablation=given.ablation)
                circuit = prune(model, tokenizer, load_task(name, tokenizer), mean, config)
                reached = circuit.metrics["reached"] and circuit.num_edges is not None
                found.append((circuit.num_edges if reached else math.inf, circuit.num_nodes))
            edges.append(sorted(found)[len(found) // 2])
            row += (
                f"{edges[-1][0]:>16} {'(' + str(edges[-1][1]) + ')':>8} {(time.perf_counter() - started) / given.seeds:7.0f} "
            )
        if not all(count for count, _ in edges):
            print(row + "   done by the bigram table alone: not in the mean", flush=True)
            continue
        if all(math.isfinite(count) for count, _ in edges):
            for log, (count, _) in zip(logs, edges):
                log.append(math.log(count))
        if len(edges) == 2:
            row += f"{edges[1][0] / edges[0][0]:8.1f}"
        print(row, flush=True)
    geometric = [math.exp(sum(log) / len(log)) for log in logs if log]
    print(
        f"geometric mean of edges over {len(logs[0])} tasks: "
        + ", ".join(f"{head} {g:.0f}" for head, g in zip(heads, geometric))
    )
    if len(geometric) == 2:
        print(f"the dense twin's circuits have {geometric[1] / geometric[0]:.1f} times the edges")


if __name__ == "__main__":
    main()
