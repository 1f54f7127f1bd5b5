"""A training step alone and beside two busy processes, with OpenMP's threads sleeping while they wait (as the `csp` command sets it) and
spinning (PyTorch's default), each in a process of its own.

    python benchmarks/busy.py                # the `tiny` preset; some two minutes
    python benchmarks/busy.py --rounds 1 --seconds 3

What counts is how much longer a step takes beside other work: with as many busy processes as cores, a fair share is about twice as long.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from side_by_side import machine, ratio

BUSY = 2  # processes beside the run
LIMIT = 4.0  # times as long, at most, where threads sleep
STEP = """
import sys, time, torch
sys.path.insert(0, sys.argv[1])
from training import Run
from sparse_circuits import SparsityConfig
from sparse_circuits.training.recipes import make_recipe
recipe, seconds = make_recipe(sys.argv[2]), float(sys.argv[3])
run = Run(recipe.model, SparsityConfig(**recipe.sparsity), 25, "skipping zeros")
batch = torch.randint(0, 2048, (recipe.arguments["per_device_train_batch_size"], recipe.block), generator=torch.Generator().manual_seed(0))
run.step(batch)
run.step(batch)
begun, steps = time.perf_counter(), 0
while time.perf_counter() - begun < seconds or steps < 2:
    run.step(batch)
    steps += 1
print((time.perf_counter() - begun) / steps)
"""
SPIN = "import time\nend = time.time() + 600\nwhile time.time() < end: pass"


def step_seconds(preset: str, seconds: float, policy: str, busy: int) -> float:
    """Seconds of a step, mean over a run of its own, beside `busy` processes."""
    others = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(busy)]
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    if policy != "default":
        environment["OMP_WAIT_POLICY"] = policy
    try:
        command = [sys.executable, "-c", STEP, str(Path(__file__).parent), preset, str(seconds)]
        return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    finally:
        for other in others:
            other.kill()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    print(machine(f"preset {options.preset}, {BUSY} busy processes, {options.rounds} rounds in turns"))
    kinds = [(policy, busy) for policy in ("PASSIVE", "default") for busy in (0, BUSY)]
    found: dict[tuple[str, int], list[float]] = {kind: [] for kind in kinds}
    for _ in range(options.rounds):
        for kind in kinds:
            found[kind].append(step_seconds(options.preset, options.seconds, *kind))
    for policy, name in (("PASSIVE", "threads sleep (csp)"), ("default", "threads spin")):
        alone, beside = found[policy, 0], found[policy, BUSY]
        print(
            f"{name:<20} alone {1e3 * statistics.median(alone):7.0f} ms a step, beside {1e3 * statistics.median(beside):7.0f} ms: "
            f"{ratio(beside, alone)} times"
        )
    worst = statistics.median(b / a for a, b in zip(found["PASSIVE", 0], found["PASSIVE", BUSY]))
    if worst > LIMIT:
        raise SystemExit(f"A step takes {worst:.1f} times as long beside other work, more than {LIMIT:g} times.")


if __name__ == "__main__":
    main()
