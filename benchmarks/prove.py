"""Prompts per second: every prompt of a task through a circuit's program, against the circuit run through its model.

    python benchmarks/prove.py MODEL CIRCUIT [CIRCUIT ...] --most 200000

CIRCUIT: folders that csp prune wrote. The certificate shares what prompts begin with and runs in float64; through the model prompts go in batches of 64, in
float32, on the dense and on the sparse form, whichever is faster. Both by as many threads as PyTorch has.
"""

from __future__ import annotations

import argparse
import time

import torch
from side_by_side import machine

from sparse_circuits import Circuit, CSPForCausalLM, CSPTokenizer
from sparse_circuits.circuits.outcome import last_logits
from sparse_circuits.cli.given import corpus_blocks
from sparse_circuits.programs.certify import answer_tokens, certify, runs
from sparse_circuits.programs.compile import compile_circuit, mean_scales
from sparse_circuits.programs.language import language
from sparse_circuits.programs.parts import Attention, Parts
from sparse_circuits.programs.tokens import tokenised

PAIRS = 64  # pairs that are timed through the model


def depth(parts: Parts) -> str:
    """What a circuit has of layers: "1 attention, 0 MLP" and so on."""
    attention = sum(isinstance(each, Attention) for each in parts.sublayers)
    return f"{attention} attention, {len(parts.sublayers) - attention} MLP"


def through_model(model, circuit: Circuit, task) -> float:
    """Prompts per second, the better of both forms."""
    pairs, best = task.pairs(PAIRS, "test", fewer=True), 0.0
    for form in (model.to_dense, lambda: model.to_sparse(max_density=1.0)):
        form()
        with torch.no_grad(), circuit.running(model):
            last_logits(model, pairs)
            begun = time.perf_counter()
            last_logits(model, pairs)
            best = max(best, 2 * len(pairs) / (time.perf_counter() - begun))
    model.to_dense()
    return best


def measured(model, tokenizer, circuit: Circuit, scales, most: int, split: str | None) -> tuple[str, float, float, int]:
    """(depth, prompts per second by program, through the model, prompts run)."""
    task = circuit.find_task(tokenizer)
    templates = [tokenised(each, tokenizer) for each in language(task, split)]
    parts = compile_circuit(model, circuit, answer_tokens(templates), scales if circuit.settings.get("freeze_norms") else None)
    chosen, total = [], 0
    for needed, each in sorted(zip(runs(parts, templates), templates), key=lambda pair: pair[0]):
        if total + needed <= most or not chosen:
            chosen, total = [*chosen, each], total + needed
    begun = time.perf_counter()
    done = sum(tally.run for tally in certify(parts, chosen))
    return depth(parts), done / (time.perf_counter() - begun), through_model(model, circuit, task), done


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("circuits", nargs="+")
    parser.add_argument("--most", type=int, default=200_000, help="prompts that are run, if any template has so few")
    parser.add_argument("--split", default="test", choices=["all", "train", "validation", "test"], help="whose words")
    given = parser.parse_args()
    tokenizer, model = CSPTokenizer.from_pretrained(given.model), CSPForCausalLM.from_pretrained(given.model).eval()
    scales = mean_scales(model, corpus_blocks(given.model, None, tokenizer, 12_800))
    print(
        "| circuit | edges | sublayers | prompts run | by program, prompts/s | through the model | ratio |\n|---|---|---|---|---|---|---|"
    )
    for folder in given.circuits:
        circuit = Circuit.from_pretrained(folder)
        what, fast, slow, done = measured(
            model, tokenizer, circuit, scales, given.most, None if given.split == "all" else given.split
        )
        print(
            f"| {circuit.task} | {circuit.num_edges} | {what} | {done:,} | {fast:,.0f} | {slow:,.0f} | {fast / slow:,.0f} |",
            flush=True,
        )
    print(machine("seed 0"))


if __name__ == "__main__":
    main()
