"""What a step of `paper-16x` would take on several machines, under DDP and under FSDP2: a simulation, not a run.

    python benchmarks/distributed.py               # measures one layer at full width on this machine; some three minutes on 2 cores, 6 GB
    python benchmarks/distributed.py --width 64    # a quick look: no figures

Measured here: forward and backward of a layer by token, and optimizer, normalisation and projection of its weights. Taken as given: so many machines like this one, a
network of so many bytes a second between any two neighbours of a ring, no overlap of network and work, no waiting for each other.

    DDP      work of tokens / n; gradients summed over a ring, 2 (n - 1) / n times their bytes; optimizer and projection of everything, on each
    FSDP2    work of tokens / n; weights gathered twice for each of a machine's batches (the recipe accumulates 8 in all) and gradients scattered once, each
             (n - 1) / n times their bytes; optimizer and projection of 1 / n
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

import torch
from side_by_side import machine

from sparse_circuits import SparsityConfig
from sparse_circuits.training import keep_memory, normalize_gradients_, project_tensors_, sparse_products
from sparse_circuits.training.recipes import make_recipe
from training import Run

TOKENS = 1024  # of the measured step
MACHINES = (1, 2, 4, 8, 16, 32)
NETWORKS = {"10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9}
STATE = 4 * 4  # bytes of weight, gradient and two moments, float32


@dataclass
class Measured:
    """Seconds of one layer: by token, and by weight."""

    token: float
    weight: float
    weights: int


def measured(width: int, rounds: int) -> Measured:
    recipe = make_recipe("paper-16x")
    own = {
        "n_layer": 1,
        "d_model": width,
        "d_mlp": 4 * width,
        "n_head": max(1, width // 16),
        "vocab_size": 64,
        "enable_bigram_table": False,
    }
    sparsity = SparsityConfig(**{**recipe.sparsity, "min_alive": 0})
    run = Run({**recipe.model, **own}, sparsity, 90, "skipping zeros, bfloat16")
    batch, work, rest = torch.randint(0, 64, (TOKENS // 256, 256)), [], []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        with sparse_products(run.model):
            with torch.autocast("cpu", torch.bfloat16):
                loss = run.model(batch, labels=batch, use_cache=False).loss
            loss.backward()
        work.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        normalize_gradients_(run.model.parameters())
        run.optimizer.step()
        project_tensors_(run.tensors, run.densities, 0)
        rest.append(time.perf_counter() - begun)
        run.optimizer.zero_grad()
    weights = sum(p.numel() for p in run.model.transformer.h.parameters())
    return Measured(statistics.median(work[1:]) / TOKENS, statistics.median(rest[1:]) / weights, weights)


def table(layer: Measured, layers: int, tokens: int, batches: int, others: int) -> None:
    """others: weights outside of the layers, which cost as theirs do."""
    weights = layers * layer.weights + others
    print(
        f"\n{weights / 1e9:.2f} billion weights, {tokens:,} tokens a step; one machine alone: {layer.token * layers * tokens:,.0f} s forward and backward,"
    )
    print(f"{layer.weight * weights:.1f} s normalisation, optimizer and projection.\n")
    print(
        "| machines | network | DDP: GB sent | s a step | times one machine | GB of state | FSDP2: GB sent | s a step | times one machine | GB of state |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    alone = layer.token * layers * tokens + layer.weight * weights
    for name, speed in NETWORKS.items():
        for n in MACHINES:
            work, cells = layer.token * layers * tokens / n, []
            for passes, part in ((2, 1), (1 + 2 * max(1, batches // n), n)):
                sent = passes * (n - 1) / n * 4 * weights
                step = work + layer.weight * weights / part + sent / speed
                cells += [f"{sent / 1e9:.1f}", f"{step:,.1f}", f"{alone / step:.1f}", f"{STATE * weights / part / 1e9:.1f}"]
            print(f"| {n} | {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, help="default: paper-16x's, 4,096")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    keep_memory()
    recipe = make_recipe("paper-16x")
    width, layers = options.width or recipe.model["d_model"], recipe.model["n_layer"]
    arguments = recipe.arguments
    tokens = arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] * recipe.block
    density = recipe.sparsity["density"]
    print(
        machine(
            f"a layer of width {width}, blocks at 1/{round(1 / density)}, bfloat16, {TOKENS} tokens, {options.rounds} rounds"
        )
    )
    table(measured(width, options.rounds), layers, tokens, arguments["gradient_accumulation_steps"], 2 * 2048 * width + 2048**2)


if __name__ == "__main__":
    main()
