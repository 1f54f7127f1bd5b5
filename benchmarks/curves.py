"""Loss against wall time: the plain loop and ours, from the same weights, over the same batches, in turns step by step, each by a clock of its own.

    python benchmarks/curves.py                     # the `small` preset, 300 steps; some 15 minutes on 2 cores
    python benchmarks/curves.py --preset tiny --steps 20 --figure curves.png

The schedule is the preset's, over so many steps. Held-out loss is measured off the clock. Memory is kept in all, as `csp train` keeps it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from side_by_side import machine

from sparse_circuits import SparsityConfig
from sparse_circuits.corpora.mixture import mix
from sparse_circuits.files import save_figure
from sparse_circuits.tokenization_csp import CSPTokenizer
from sparse_circuits.training import keep_memory, sharkfin_lr
from sparse_circuits.training.recipes import Recipe, make_recipe
from sparse_circuits.training.train import loss_on
from training import WAYS, Run

SHOWN = ("plain", "plain, bfloat16", *WAYS[:2])
POINTS = 20  # evaluations of a curve
FIGURE = Path("docs/figures/curves.png")


class Curve:
    """One way's training; seconds and held-out losses."""

    def __init__(self, recipe: Recipe, way: str, steps: int):
        self.sparsity, self.total = SparsityConfig(**recipe.sparsity), steps
        self.run, self.seconds, self.arguments = Run(recipe.model, self.sparsity, 0, way), 0.0, recipe.arguments
        self.points: list[tuple[int, float, float]] = []

    def step(self, i: int, batch: torch.Tensor) -> None:
        peak, warmup = self.arguments["learning_rate"], self.arguments["warmup_ratio"]
        self.run.densities = self.sparsity.densities_at(i, self.total)
        for group in self.run.optimizer.param_groups:
            group["lr"] = sharkfin_lr(i, self.total, peak=peak, warmup=warmup, sparsity=self.sparsity)
        self.seconds += self.run.step(batch)

    def evaluate(self, i: int, blocks: torch.Tensor) -> None:
        self.points.append((i, self.seconds, loss_on(self.run.model, blocks, 32)))
        self.run.model.train()


def curves(recipe: Recipe, steps: int, blocks: int) -> dict[str, Curve]:
    tokenizer, size = CSPTokenizer.from_folder("."), recipe.arguments["per_device_train_batch_size"]
    mixture = mix(recipe.corpora, tokenizer, recipe.block, 0)
    order = torch.randperm(len(mixture.train), generator=torch.Generator().manual_seed(0))
    found = {way: Curve(recipe, way, steps) for way in SHOWN}
    for way in SHOWN:  # what is compiled by the first step is not on the clock
        Run(recipe.model, SparsityConfig(**recipe.sparsity), 75, way).step(mixture.train[:size].long())
    for i in range(steps):
        batch = mixture.train[order[torch.arange(i * size, (i + 1) * size) % len(order)]].long()
        for curve in found.values():
            if i % max(1, steps // POINTS) == 0:
                curve.evaluate(i, mixture.held_out[:blocks])
            curve.step(i, batch)
    for curve in found.values():
        curve.evaluate(steps, mixture.held_out[:blocks])
    return found


def draw(found: dict[str, Curve], title: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for way, curve in found.items():
        axis.plot([seconds for _, seconds, _ in curve.points], [loss for *_, loss in curve.points], marker=".", label=way)
    axis.set_xlabel("seconds of training")
    axis.set_ylabel("held-out loss, nats per token")
    axis.set_title(title)
    axis.legend()
    save_figure(figure, path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="small")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--blocks", type=int, default=50, help="held-out blocks of an evaluation")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    options = parser.parse_args()
    keep_memory()
    recipe: Any = make_recipe(options.preset)
    tokens = options.steps * recipe.arguments["per_device_train_batch_size"] * recipe.block
    found = curves(recipe, options.steps, options.blocks)
    print(machine(f"preset {options.preset}, {options.steps} steps, {tokens:,} tokens, seed 0"))
    print("\n| way | seconds | times as fast | held-out loss at the end |\n|---|---|---|---|")
    for way, curve in found.items():
        ratio = found["plain"].seconds / curve.seconds
        print(f"| {way} | {curve.seconds:,.0f} | {ratio:.2f} | {curve.points[-1][2]:.3f} |")
    options.figure.parent.mkdir(parents=True, exist_ok=True)
    draw(found, f"{options.preset}, {options.steps} steps of {tokens // options.steps:,} tokens", options.figure)


if __name__ == "__main__":
    main()
