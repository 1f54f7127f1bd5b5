"""Projection of all weights of a model of csp_yolo2's shape: ours, ours by PyTorch alone, and by `torch.topk`, in turns, in one run.

    python benchmarks/projection.py                     # 419 M parameters; some three minutes and 6 GB on 2 cores
    python benchmarks/projection.py --layers 1 --rounds 1 --width 512

Also the share of a training step of the `small` preset that projection takes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from side_by_side import machine, ratio
from sparse import yolo2

import sparse_circuits.training.selection as selection
from sparse_circuits import CSPForCausalLM
from sparse_circuits.kernels.run import serve as kernels_serve
from sparse_circuits.training import normalize_gradients_, project_tensors_, sparse_tensors
from sparse_circuits.training.recipes import make_recipe


def by_topk(tensors, densities, min_alive) -> None:
    """The same, through `torch.topk`: the minimum of each neuron is set to infinity first."""
    for tensor in tensors:
        weight, k = tensor.parameter.data, tensor.count(densities[tensor.group])
        if k >= weight.numel():
            continue
        magnitude = weight.abs()
        if min_alive and tensor.neuron_dim is not None:
            dim = 1 - tensor.neuron_dim
            magnitude.scatter_(dim, magnitude.topk(min_alive, dim=dim).indices, torch.inf)
        kept = magnitude.flatten().topk(k, sorted=False).indices
        mask = torch.zeros(weight.numel(), dtype=torch.bool)
        mask[kept] = True
        weight.masked_fill_(~mask.view_as(weight), 0)


def without_numba(tensors, densities, min_alive) -> None:
    selection.serve = lambda *tensors: False
    try:
        project_tensors_(tensors, densities, min_alive)
    finally:
        selection.serve = kernels_serve


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two projections are equal, but for which of several entries of the one magnitude at the threshold were kept."""
    odd = one != other
    return int(one.count_nonzero()) == int(other.count_nonzero()) and len((one[odd] - other[odd]).abs().unique()) <= 1


def seconds(function: Callable, tensors, saved, densities, min_alive) -> float:
    for tensor, weight in zip(tensors, saved, strict=True):
        tensor.parameter.data.copy_(weight)
    begun = time.perf_counter()
    function(tensors, densities, min_alive)
    return time.perf_counter() - begun


@torch.no_grad()
def compare(layers: int, rounds: int, width: int) -> None:
    config = yolo2(layers, width)
    torch.manual_seed(0)
    model = CSPForCausalLM(config)
    tensors = sparse_tensors(model)
    saved = [tensor.parameter.detach().clone() for tensor in tensors]
    paths = {"ours": project_tensors_, "ours, PyTorch": without_numba, "torch.topk": by_topk}
    print(f"{sum(w.numel() for w in saved):,} entries in {len(saved)} tensors, dense before")
    for label, density, embeddings, min_alive in (
        ("annealing, 1/2", 0.5, 0.5, 0), ("annealing, 1/2, 4 alive", 0.5, 0.5, 4), ("annealing, 1/8, 4 alive", 1 / 8, 1 / 8, 4),
        ("csp_yolo2, 1/1024", 1 / 1024, 1 / 128, 0),
    ):  # fmt: skip
        densities = {"weights": density, "embeddings": embeddings, "biases": density}
        times: dict[str, list[float]] = {name: [] for name in paths}
        results = {}
        for turn in range(rounds + 1):
            for name, function in paths.items():
                took = seconds(function, tensors, saved, densities, min_alive)
                if turn:
                    times[name].append(took)
                else:
                    results[name] = [tensor.parameter.detach().clone() for tensor in tensors[:6]]
        equal = all(same(a, b) for name in paths for a, b in zip(results["ours"], results[name], strict=True))
        medians = {name: statistics.median(t) for name, t in times.items()}
        cells = "   ".join(f"{name} {value:7.3f} s" for name, value in medians.items())
        plain = [slow / fast for slow, fast in zip(times["torch.topk"], times["ours, PyTorch"])]
        print(f"{label:<26} {cells}   |   topk / ours {ratio(times['torch.topk'], times['ours'])}, "
              f"topk / PyTorch {statistics.median(plain):.1f} ({min(plain):.1f} to {max(plain):.1f}), equal {equal}", flush=True)  # fmt: skip


def share_of_a_step(rounds: int) -> None:
    from sparse_circuits import CSPConfig

    recipe = make_recipe("small")
    model = CSPForCausalLM(CSPConfig(**recipe.model))
    batch = torch.randint(0, 2048, (recipe.arguments["per_device_train_batch_size"], recipe.block))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=0.1)
    tensors, density = sparse_tensors(model), recipe.sparsity["density"]
    densities = dict.fromkeys(("weights", "embeddings", "biases"), density)
    shares, totals = [], []
    for turn in range(rounds + 1):
        begun = time.perf_counter()
        model(batch, labels=batch).loss.backward()
        normalize_gradients_(model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        before = time.perf_counter()
        project_tensors_(tensors, densities, 4)
        after = time.perf_counter()
        if turn:
            shares.append((after - before) / (after - begun))
            totals.append(after - begun)
    print(f"a step of the small preset, {batch.numel():,} tokens: {statistics.median(totals):.2f} s, of which projection "
          f"{statistics.median(shares):.2%} ({min(shares):.2%} to {max(shares):.2%})")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=2048)
    options = parser.parse_args()
    print(
        machine(
            f"seed 0, {options.layers} layers of {options.width}, {options.rounds} rounds: medians, and the range of the ratios"
        )
    )
    compare(options.layers, options.rounds, options.width)
    share_of_a_step(options.rounds)


if __name__ == "__main__":
    main()
