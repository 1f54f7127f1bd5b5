"""Circuits that are known because they were written into the weights: what each method finds of them.

    python benchmarks/known_circuits.py                                        # five programs, random hosts of the smallest size, five seeds; an hour on one core
    python benchmarks/known_circuits.py --sizes small medium large --seeds 1
    python benchmarks/known_circuits.py --host runs/tiny --seeds 3             # in a model that was trained
    python benchmarks/known_circuits.py --programs quote_closing --methods attribution eap-ig --seeds 1    # a quick look

For each method: recall and precision of nodes and edges of what its ranking alone gives (the shortest prefix that meets the target loss), and of what is left after
dropping nodes and edges one by one with exact checks. Ranking at random, with the same dropping after it, is what any method must beat.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from side_by_side import machine
from transformers import AutoTokenizer
from transformers.utils import logging

from sparse_circuits import CSPForCausalLM
from sparse_circuits.circuits import PruneConfig, edges_in, prune
from sparse_circuits.circuits.attribution import edge_attribution
from sparse_circuits.circuits.candidates import Search, chosen
from sparse_circuits.circuits.known import HOSTS, PROGRAMS, Known, plant
from sparse_circuits.circuits.masks import as_nodes, ranked, training_pairs
from sparse_circuits.wiring_csp import FINAL

METHODS = ("mean", "zero", "resample", "mix", "adversarial", "attribution", "eap-ig", "random")
FIGURES = ("node_recall", "node_precision", "edge_recall", "edge_precision")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", nargs="*", default=list(PROGRAMS), choices=PROGRAMS)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--sizes", nargs="*", default=["small"], choices=HOSTS)
    parser.add_argument("--host", type=Path, help="a trained model to plant in, instead of random ones")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="rows, one JSON a line")
    given = parser.parse_args()
    logging.disable_progress_bar()
    host = (
        None
        if given.host is None
        else (CSPForCausalLM.from_pretrained(given.host).eval(), AutoTokenizer.from_pretrained(given.host))
    )
    rows = []
    for program in given.programs:
        for size in ["trained"] if host else given.sizes:
            for seed in range(given.seeds):
                with tempfile.TemporaryDirectory() as scratch:
                    try:
                        known = plant(
                            program, Path(scratch, "known"), *(host or ()), **({} if host else {"size": size}), seed=seed
                        )
                    except ValueError as error:  # a program need not work in every host
                        print(f"seed {seed}, left out: {error}")
                        continue
                    for method in given.methods:
                        rows.append(
                            {"program": program, "size": size, "seed": seed, "method": method, **found_by(known, method, seed)}
                        )
                        if given.out:
                            with given.out.open("a", encoding="utf-8") as file:
                                file.write(json.dumps(rows[-1]) + "\n")
    print(machine(f"{given.seeds} seed(s) from 0, target loss 0.15, 2 draws"))
    print(as_table(rows))


def found_by(known: Known, method: str, seed: int) -> dict[str, Any]:
    """Scores by its ranking alone and after dropping, and seconds."""
    begun = time.perf_counter()
    ablation = method if method in ("zero", "resample", "mix", "adversarial") else "mean"
    search = Search(known.model, known.task, known.means, PruneConfig(ablation=ablation, draws=2, seed=seed))
    if method == "eap-ig":
        nodes, edges = edges_by_gradients(known, search)
    else:
        if method == "random":
            generator = torch.Generator().manual_seed(seed)
            scores = {name: torch.rand(width, generator=generator) for name, width in search.widths.items()}
        else:
            scores = prune(
                known.model, known.tokenizer, known.task, known.means, PruneConfig(ablation=ablation, draws=2, seed=seed, edges=False),
                method="attribution" if method == "attribution" else "learned",
            ).scores  # fmt: skip
        nodes, edges = prefix(ranked(scores), search)
    raw, left = known.score_of(nodes, edges), None
    reached = search.loss(nodes, edges) <= search.config.target_loss
    if reached:
        found = search.without_detours(*search.smallest(nodes, lambda n, e: None, edges))
        assert search.loss(*found) <= search.config.target_loss
        left = known.score_of(*found)
    return {"reached": reached, "ranking": raw, "dropped": left, "seconds": time.perf_counter() - begun}


def prefix(ranking: Sequence[tuple[str, int]], search: Search) -> tuple[Any, Any]:
    """The shortest prefix that meets the target, within a doubling and a bisection of it, with all edges between its nodes."""
    nodes = shortest(
        len(ranking), lambda k: as_nodes(list(ranking[:k]), search.sites), lambda found: search.loss(found), search
    )
    return nodes, edges_in(search.model, nodes)


def edges_by_gradients(known: Known, search: Search) -> tuple[Any, Any]:
    """The shortest prefix of edges by |integrated gradients| that meets the target, with the nodes at their ends."""
    counts = torch.bincount(known.blocks.flatten().long(), minlength=known.model.config.vocab_size).float()
    embedding = (counts @ known.model.transformer.wte.weight) / counts.sum()
    pairs = training_pairs(known.task, search.config, 64).part(0, 64)
    scores = edge_attribution(known.model, known.means.values, embedding, pairs, freeze_norms=search.config.freeze_norms)
    places = [(name, int(s), int(t)) for name, each in scores.items() for t, s in each.nonzero().tolist()]
    places.sort(key=lambda at: -abs(float(scores[at[0]][at[2], at[1]])))
    all_nodes = {name: torch.arange(width) for name, width in search.widths.items()}
    everything = edges_in(known.model, all_nodes)

    told = (known.model.lm_head.weight[pairs.answers.unique()] != 0).any(0)  # channels that the answers read

    def of(k: int) -> tuple[Any, Any]:
        ends = {(name.split("->")[0], s) for name, s, _ in places[:k]} | {(name.split("->")[1], t) for name, _, t in places[:k]}
        ends |= {(FINAL, i) for name, i in ends if name.endswith("resid_delta") and bool(told[i])}
        return as_nodes(sorted(ends), search.sites), chosen(everything, places[:k])

    return shortest(len(places), of, lambda found: search.loss(*found), search)


def shortest(count: int, of: Any, loss: Any, search: Search) -> Any:
    """The first k of 1, 2, 4, ... that meets the target, then bisected; everything if none does."""
    high = 1
    while high < count and loss(of(high)) > search.config.target_loss:
        high = min(count, 2 * high)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if loss(of(middle)) <= search.config.target_loss else (middle, high)
    return of(high)


def as_table(rows: list[dict[str, Any]]) -> str:
    heads = (
        "program",
        "host",
        "method",
        "reached",
        "ranking alone: nodes r / p",
        "edges r / p",
        "after dropping: nodes r / p",
        "edges r / p",
        "exact",
        "s",
    )
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for key in dict.fromkeys((row["program"], row["size"], row["method"]) for row in rows):
        of = [row for row in rows if (row["program"], row["size"], row["method"]) == key]
        reached, cells = [row for row in of if row["reached"]], []
        for stage, those in (("ranking", of), ("dropped", reached)):
            for what in ("node", "edge"):
                means = [
                    f"{statistics.mean(row[stage][f'{what}_{each}'] for row in those):.2f}" if those else "-"
                    for each in ("recall", "precision")
                ]
                cells.append(" / ".join(means))
        exact = sum(all(row["dropped"][figure] == 1 for figure in FIGURES) for row in reached)
        seconds = statistics.median(row["seconds"] for row in of)
        lines.append(
            "| " + " | ".join([*key, f"{len(reached)} of {len(of)}", *cells, f"{exact} of {len(of)}", f"{seconds:.0f}"]) + " |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
