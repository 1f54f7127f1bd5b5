"""Mask training on the sparse path against the dense path, side by side, and the time to a whole circuit.

python benchmarks/pruning.py                          # steps at three shapes (random weights), then a circuit of the shipped model
python benchmarks/pruning.py --model runs/tiny        # a circuit of another model
python benchmarks/pruning.py --largest                # a step at the shape of csp_yolo2 (419 M parameters, random weights), in sparse form alone
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from side_by_side import machine, ratio
from sparse import random_model as at_densities
from sparse import yolo2
from transformers import AutoTokenizer

from sparse_circuits import CSPConfig, CSPForCausalLM, project_
from sparse_circuits.circuits import PruneConfig, load_task, mean_activations, prune
from sparse_circuits.circuits.masks import Masks, unpruned
from sparse_circuits.circuits.scoring import task_loss
from sparse_circuits.circuits.tasks import Pairs
from sparse_circuits.corpora.mixture import mix
from sparse_circuits.wiring_csp import NODE_LOCATIONS

ROOT = Path(__file__).resolve().parent.parent
SHAPES = [(256, 4, 1 / 32), (1024, 4, 1 / 256), (2048, 2, 1 / 512)]  # width, layers, density


def random_model(width: int, layers: int, density: float) -> CSPForCausalLM:
    torch.manual_seed(0)
    config = CSPConfig(
        n_layer=layers,
        d_model=width,
        n_head=width // 16,
        d_head=16,
        sink=True,
        enable_bigram_table=True,
        afrac=dict.fromkeys(NODE_LOCATIONS, 0.25),
    )
    model = CSPForCausalLM(config).eval()
    project_(model, density)
    return model


def step_seconds(model: CSPForCausalLM, pairs: Pairs) -> float:
    """One step of mask training: the loss of some prompts, and its gradient to every mask; the scales of frozen norms are known, as they are after the
    first time that a batch is seen."""
    masks = Masks(model, {name: torch.zeros(site.width) for name, site in model.node_sites().items()}, PruneConfig())
    optimizer = torch.optim.AdamW(masks.parameters(), lr=0.01)
    _, scales = unpruned(model, pairs, PruneConfig())
    with masks.applied(scales):
        started = time.perf_counter()
        optimizer.zero_grad()
        (task_loss(model, pairs) + 1e-3 * masks.open_count()).backward()
        optimizer.step()
        return time.perf_counter() - started


def largest_step(rounds: int) -> None:
    """At csp_yolo2's shape and densities, 32 prompts of 16 tokens."""
    model = at_densities(yolo2(8), 1 / 1024, 1 / 128).to_sparse()
    ids = torch.randint(0, 2048, (32, 16), generator=torch.Generator().manual_seed(0))
    pairs = Pairs(ids, torch.ones_like(ids), torch.tensor([[5, 9], [9, 5]]).repeat(16, 1), ("",) * 32)
    step_seconds(model, pairs)
    times = sorted(step_seconds(model, pairs) for _ in range(rounds))
    print(
        f"csp_yolo2's shape, sparse: a step of mask training {statistics.median(times):.2f} s ({times[0]:.2f} to {times[-1]:.2f})"
    )


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="how many of the shapes, from the smallest")
    parser.add_argument("--model", type=Path, default=ROOT)
    parser.add_argument("--task", default="single_double_quote")
    parser.add_argument(
        "--steps", type=int, default=PruneConfig().steps, help="of mask training, for the circuit; 0: none is looked for"
    )
    parser.add_argument("--largest", action="store_true", help="a step at csp_yolo2's shape, and nothing else")
    given = parser.parse_args(words)
    print(machine(f"seed 0, {given.rounds} rounds in turns"))
    if given.largest:
        return largest_step(given.rounds)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 2048, (32, 32), generator=generator)
    answers = torch.tensor([[5, 9], [9, 5]]).repeat(16, 1)
    pairs = Pairs(ids, torch.ones_like(ids), answers, ("",) * 32)
    for width, layers, density in SHAPES[: given.shapes]:
        dense = random_model(width, layers, density).requires_grad_(False)
        sparse = random_model(width, layers, density).requires_grad_(False).to_sparse()
        step_seconds(dense, pairs), step_seconds(sparse, pairs)  # kernels are compiled, memory is there
        times = [(step_seconds(dense, pairs), step_seconds(sparse, pairs)) for _ in range(given.rounds)]
        d, s = (statistics.median(each) for each in zip(*times))
        print(
            f"width {width}, {layers} layers, density 1/{round(1 / density)}: dense {1 / d:6.2f} steps/s, sparse {1 / s:6.2f} steps/s, "
            f"ratio {ratio(*map(list, zip(*times)), 2)}"
        )
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    for kind in ("dense", "sparse") if given.steps else ():
        model = CSPForCausalLM.from_pretrained(given.model, dtype=torch.float32).eval()
        model = model.to_sparse() if kind == "sparse" else model
        means = mean_activations(model, mix({"idioms:500": 1.0}, tokenizer, 128, 0).train)
        started = time.perf_counter()
        circuit = prune(model, tokenizer, load_task(given.task, tokenizer), means, PruneConfig(steps=given.steps))
        print(f"{given.model.resolve().name}, {kind} form: {circuit} after {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
