"""Ways of annealing and of the optimizer's memory, against the preset's own: held-out loss by seed, at equal steps, tokens and density.

    python benchmarks/recipes.py --preset tiny --seeds 5                    # hours of a core; goes on where it was stopped
    python benchmarks/recipes.py --preset small --steps 1000 --seeds 2
    python benchmarks/recipes.py --preset tiny --steps 40 --seeds 1         # a quick look: no figures
    python benchmarks/recipes.py --table                                    # what has been measured

Beside each loss stands what the same seed's preset has (paired: the same batches, the same start).
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from side_by_side import machine, rows_of

import sparse_circuits.training.train as training
from sparse_circuits.training import WeightSparsityCallback, keep_memory
from sparse_circuits.training.recipes import make_recipe

ROWS = Path("runs/recipes.jsonl")


class Cold(WeightSparsityCallback):
    """Adam forgets weights that the projection made zero: what comes back begins anew."""

    @torch.no_grad()
    def on_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        super().on_optimizer_step(args, state, control, **kwargs)
        for tensor in self._tensors:
            moments, kept = optimizer.state[tensor.parameter], tensor.parameter != 0
            moments["exp_avg"].mul_(kept)
            moments["exp_avg_sq"].mul_(kept)


class Slow(WeightSparsityCallback):
    """Weights that were zero take a quarter of their step, so that they have to grow for some steps to stay."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        super().on_pre_optimizer_step(args, state, control, **kwargs)
        self._zeros = [tensor.parameter == 0 for tensor in self._tensors]

    @torch.no_grad()
    def on_optimizer_step(self, args, state, control, **kwargs):
        for tensor, zeros in zip(self._tensors, self._zeros):
            tensor.parameter.mul_(1 - 0.75 * zeros.to(tensor.parameter.dtype))
        super().on_optimizer_step(args, state, control, **kwargs)


PRESET = "the preset: annealed from 1 to 50 % of the run"
WAYS: dict[str, tuple[tuple[str, ...], type[WeightSparsityCallback]]] = {
    PRESET: ((), WeightSparsityCallback),
    "annealed from 25 to 75 %": (("sparsity.anneal_start=0.25", "sparsity.anneal_stop=0.75"), WeightSparsityCallback),
    "learning rate not by density": (("sparsity.lr_follows_density=false",), WeightSparsityCallback),
    "regrown weights start from moments of zero": ((), Cold),
    "a quarter of the step for weights that were zero": ((), Slow),
    "gradients of 2 times the density": (("sparsity.backward_density=2",), WeightSparsityCallback),
    "gradients of 4 times the density": (("sparsity.backward_density=4",), WeightSparsityCallback),
    "gradients of 4 times, the whole every 64 steps": (
        ("sparsity.backward_density=4", "sparsity.backward_refresh=64"),
        WeightSparsityCallback,
    ),
}


def measured(preset: str, steps: int, seed: int, way: str) -> dict[str, Any]:
    """One training, nothing of which stays."""
    settings, kind = WAYS[way]
    density = make_recipe(preset).sparsity["density"]
    settings = tuple(f"{s[:-1]}{float(s[-1]) * density}" if s.startswith("sparsity.backward_density") else s for s in settings)
    given = [*settings, f"arguments.seed={seed}", "arguments.save_strategy='no'", "arguments.eval_strategy='no'"]
    recipe = make_recipe(preset, settings=[*given, *([f"arguments.max_steps={steps}"] if steps else [])])
    folder = Path(tempfile.mkdtemp())
    training.WeightSparsityCallback = kind  # type: ignore[misc]
    try:
        report = training.train(recipe, folder / "run", stops=False, say=lambda text: None)
    finally:
        training.WeightSparsityCallback = WeightSparsityCallback  # type: ignore[misc]
        shutil.rmtree(folder)
    found = {name: report[name] for name in ("steps", "tokens", "held out", "bigram", "density/weights", "l0")}
    return {"preset": preset, "seed": seed, "way": way, "asked": steps} | found


def table(rows: list[dict[str, Any]]) -> None:
    for preset, steps in dict.fromkeys((row["preset"], row["steps"]) for row in rows):
        here = [row for row in rows if (row["preset"], row["steps"]) == (preset, steps)]
        own = {row["seed"]: row["held out"] for row in here if row["way"] == PRESET}
        print(f"\n`{preset}`, {steps:,} steps, {here[0]['tokens']:,} tokens, bigram {here[0]['bigram']:.3f}\n")
        print("| way | held-out loss by seed | less the preset's, by seed |\n|---|---|---|")
        for way in WAYS:
            found = {row["seed"]: row["held out"] for row in sorted(here, key=lambda row: row["seed"]) if row["way"] == way}
            if found:
                losses = ", ".join(f"{seed}: {loss:.3f}" for seed, loss in found.items())
                apart = ", ".join(f"{loss - own[seed]:+.3f}" for seed, loss in found.items() if seed in own)
                print(f"| {way} | {losses} | {apart if way != PRESET else ''} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, default=0, help="default: the preset's")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="ways with this in their name")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    rows = rows_of(options.rows)
    if not options.table:
        keep_memory()
        for seed in range(options.seeds):
            for way in [way for way in WAYS if options.only in way]:
                done = {(row["preset"], row["asked"], row["seed"], row["way"]) for row in rows}
                if (options.preset, options.steps, seed, way) not in done:
                    rows.append(measured(options.preset, options.steps, seed, way))
                    options.rows.parent.mkdir(parents=True, exist_ok=True)
                    with options.rows.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    print(machine())
    table(rows)


if __name__ == "__main__":
    main()
