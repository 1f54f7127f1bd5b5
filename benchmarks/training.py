"""A training step: ours, skipping zeros or not, in float32 or bfloat16, and a plain loop with the same model, batch, optimizer and schedule, side by side.

    python benchmarks/training.py                              # the `small` preset, halfway down and at its density; some five minutes on 2 cores
    python benchmarks/training.py --preset tiny --rounds 2
    python benchmarks/training.py --width 1024 --density 0.00390625 --tokens 2048
    python benchmarks/training.py --keep-memory                # as `csp train` runs, the plain loop too
    python benchmarks/training.py --width 1024 --memory        # peak memory of a step
    python benchmarks/training.py --products                   # single products by shape and density: where `kernels/dispatch.py` has its crossovers from

"plain" differs in what released code does: projection through `torch.topk`, AbsTopK through `torch.topk` + scatter, and attention with
its sink through a materialised mask.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from plain import plain_abs_topk, plain_attention
from projection import by_topk
from side_by_side import in_turns, machine, ratio
from torch.nn import functional as F

import sparse_circuits.attention_csp as attention_csp
import sparse_circuits.topk_csp as topk_csp
from sparse_circuits import CSPConfig, CSPForCausalLM, SparsityConfig
from sparse_circuits.kernels.dense import dense_product, onednn_pays, weight_gradient
from sparse_circuits.kernels.listing import listed as kernel_listed
from sparse_circuits.kernels.listing import turned as kernel_turned
from sparse_circuits.nonzeros_csp import Support, nonzeros, sparse_product
from sparse_circuits.training import keep_memory, normalize_gradients_, project_tensors_, sparse_products, sparse_tensors
from sparse_circuits.training.recipes import make_recipe
from sparse_circuits.training.supersets import Held, Supersets

WAYS = ("skipping zeros", "skipping zeros, bfloat16", "dense products", "dense products, bfloat16", "plain", "plain, bfloat16")
SUPERSETS = (
    "gradients of 4 times the density",
    "gradients of 4 times the density, bfloat16",
)  # where density has come to its target
LATE = 75  # % of a run


class Run:
    """A model and its optimizer at some step of annealing."""

    def __init__(self, model: dict[str, Any], sparsity: SparsityConfig, percent: int, way: str):
        torch.manual_seed(0)
        self.way, self.min_alive, self.model = way, sparsity.min_alive, CSPForCausalLM(CSPConfig(**model))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=0.01, betas=(0.9, 0.95), eps=0.1, weight_decay=0.1, fused=True
        )
        self.tensors = sparse_tensors(self.model)
        self.densities = sparsity.densities_at(percent, 100)
        project_tensors_(self.tensors, self.densities, sparsity.min_alive)
        self.supersets, self.done = None, 0
        if way in SUPERSETS:
            part = {"backward_density": 4 * sparsity.density, "anneal_start": 0.0, "anneal_stop": 0.0}
            self.supersets = Supersets(self.model, self.tensors, SparsityConfig(**{**sparsity.to_dict(), **part}))

    def steps(self, batch: torch.Tensor) -> float:
        """Seconds of a step; with supersets, the mean from one whole gradient to the next."""
        if self.supersets is None:
            return self.step(batch)
        return statistics.mean(self.step(batch) for _ in range(self.supersets.config.backward_refresh))

    def step(self, batch: torch.Tensor) -> float:
        ours, plain = (topk_csp.abs_topk, attention_csp.ALL_ATTENTION_FUNCTIONS["sdpa"]), self.way.startswith("plain")
        if plain:
            topk_csp.abs_topk = plain_abs_topk
            attention_csp.ALL_ATTENTION_FUNCTIONS["sdpa"] = plain_attention
        skipping = contextlib.nullcontext() if self.way.startswith(("dense", "plain")) else sparse_products(self.model)
        at, parts = (self.done, 1 << 40), self.supersets  # step, and of how many
        self.done += 1
        try:
            begun = time.perf_counter()
            with skipping:
                if parts is not None:
                    parts.begin(*at)
                with torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in self.way):
                    loss = self.model(batch, labels=batch, use_cache=False).loss
                loss.backward()
            if parts is not None:
                parts.only_held(*at)
            normalize_gradients_(self.model.parameters(), 1.0 if parts is None else parts.beyond_at(*at))
            self.optimizer.step()
            if parts is not None:
                parts.choose(*at, self.optimizer, self.model.parameters(), self.min_alive)
            self.optimizer.zero_grad()
            (by_topk if plain else project_tensors_)(self.tensors, self.densities, self.min_alive)
            if parts is not None:
                parts.settle(*at, self.optimizer)
            self.loss = loss.item()
            return time.perf_counter() - begun
        finally:
            topk_csp.abs_topk, attention_csp.ALL_ATTENTION_FUNCTIONS["sdpa"] = ours


def steps(
    model: dict[str, Any], sparsity: SparsityConfig, percent: int, batches: tuple[int, int], rounds: int, only: list[str]
) -> None:
    """A table of the ways at one step of annealing."""
    ways = [way for way in WAYS + (SUPERSETS if percent == LATE else ()) if way in only or not only or way == "plain"]
    runs = {way: Run(model, sparsity, percent, way) for way in ways}
    times: dict[str, list[float]] = {way: [] for way in runs}
    for turn in range(rounds + 1):
        batch = torch.randint(0, 2048, batches, generator=torch.Generator().manual_seed(turn))
        for way, run in runs.items():
            took = run.steps(batch)
            if turn:
                times[way].append(took)
    density = runs["plain"].densities["weights"]
    print(
        f"\n| {percent} % into the run, density {density:.4g} | ms a step | tokens a second | times plain | last loss |\n|---|---|---|---|---|"
    )
    for way, run in runs.items():
        median = statistics.median(times[way])
        each = f"{median * 1e3:,.0f} | {batches[0] * batches[1] / median:,.0f} | {ratio(times['plain'], times[way], 2)}"
        print(f"| {way} | {each} | {run.loss:.4f} |", flush=True)


def memory(arguments: list[str]) -> None:
    """Peak memory of the ways, each in a process of its own: two steps, in the middle of annealing."""
    print("\n| way | GB at the peak | of which the process had before there was a model |\n|---|---|---|")
    for way in (*WAYS[:2], "plain", "plain, bfloat16"):
        command = [sys.executable, __file__, *arguments, "--one", way]
        before, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-2:]
        print(f"| {way} | {float(peak):.2f} | {float(before):.2f} |", flush=True)


def peak() -> float:
    """GB of this process at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


SHAPES = ((576, 224), (192, 768), (768, 192), (3072, 1024), (1024, 4096))  # of `small`, and of width 1,024: outputs, inputs


def listed(matrix: torch.Tensor) -> tuple[torch.Tensor, Support]:
    values, starts, columns = kernel_listed(matrix, matrix.numel())
    return values, Support(starts, columns, matrix.shape[1])


def by_weights(x: torch.Tensor, dy: torch.Tensor, weight: torch.Tensor, rounds: int) -> list[str]:
    """Output and input gradient against the dense ones that a run would have instead: of their type, by the library that serves."""
    values, known = listed(weight)  # by the forward pass; it is turned anew each time
    dense = weight.to(x.dtype)
    by_onednn = onednn_pays() and x.dtype == torch.float32

    def turned() -> torch.Tensor:
        starts, columns, order = kernel_turned(known)
        return sparse_product(dy, values[order], Support(starts, columns, weight.shape[0]))

    out = {
        "dense": lambda: dense_product(x, dense) if by_onednn else F.linear(x, dense),
        "ours": lambda: sparse_product(x, *listed(weight)),
    }
    back = {"dense": lambda: dense_product(dy, dense.t()) if by_onednn else dy @ dense, "ours": turned}
    times = [in_turns(paths, rounds) for paths in (out, back)]
    return [ratio(each["dense"], each["ours"]) for each in times]


def by_parts(x: torch.Tensor, dy: torch.Tensor, weight: torch.Tensor, rounds: int) -> str:
    """The gradient of a part of the weights against that of all."""
    held = Held(*nonzeros(weight, weight != 0)[1:], weight.shape[1])
    by_onednn = onednn_pays() and x.dtype == torch.float32
    paths = {
        "dense": lambda: (weight_gradient(dy, x) if by_onednn else dy.t() @ x).float(),
        "ours": lambda: held.weight_gradient(dy, x),
    }
    times = in_turns(paths, rounds)
    return ratio(times["dense"], times["ours"])


def products(tokens: int, rounds: int) -> None:
    """Outputs and input gradients over the nonzeros of weights, which are listed anew each time; and dense ones, by MKL and by oneDNN."""
    head = "| matrix | density | output | input gradient | output, bfloat16 | input gradient, bfloat16 "
    head += "| gradient of as many weights | bfloat16 |\n|---|---|---|---|---|---|---|---|"
    print(f"\nTimes as fast as a dense product, {tokens} tokens\n\n{head}")
    for rows, width in SHAPES:
        x, dy = torch.randn(tokens, width), torch.randn(tokens, rows)
        for density in (1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 256):
            weight = torch.randn(rows, width) * (torch.rand(rows, width) < density)
            kinds = (x, dy), (x.bfloat16(), dy.bfloat16())
            cells = [cell for kind in kinds for cell in by_weights(*kind, weight, rounds)]
            cells += [by_parts(*kind, weight, rounds) for kind in kinds]
            print(f"| {rows} x {width} | 1/{round(1 / density)} | {' | '.join(cells)} |", flush=True)
    print(
        "\nDense float32 products: times as fast by oneDNN as by MKL\n\n"
        "| matrix | output | input gradient | weight gradient |\n|---|---|---|---|"
    )
    for rows, width in SHAPES:
        cells = by_library(torch.randn(tokens, width), torch.randn(tokens, rows), rounds)
        print(f"| {rows} x {width} | {' | '.join(cells)} |", flush=True)


def by_library(x: torch.Tensor, dy: torch.Tensor, rounds: int) -> list[str]:
    """Output, input gradient and weight gradient of a dense matrix."""
    weight = torch.randn(dy.shape[1], x.shape[1])
    pairs = (
        {"mkl": lambda: F.linear(x, weight), "onednn": lambda: dense_product(x, weight)},
        {"mkl": lambda: dy @ weight, "onednn": lambda: dense_product(dy, weight.t())},
        {"mkl": lambda: dy.t() @ x, "onednn": lambda: weight_gradient(dy, x)},
    )
    times = [in_turns(pair, rounds) for pair in pairs]
    return [ratio(each["mkl"], each["onednn"]) for each in times]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="small")
    parser.add_argument("--width", type=int, help="instead of a preset: layers of this width")
    parser.add_argument("--layers", type=int, default=4, help="with --width: how many")
    parser.add_argument(
        "--density",
        type=float,
        default=1 / 256,
        help="with --width: of its matrices at the end; embeddings have sixteen times as much",
    )
    parser.add_argument("--min-alive", type=int, default=4, help="with --width: weights that each neuron keeps")
    parser.add_argument("--tokens", type=int, default=8192, help="with --width: a step's; with --products: a product's")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--products", action="store_true")
    parser.add_argument("--memory", action="store_true", help="peak memory of a step instead of its time")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=WAYS + SUPERSETS, default=[], help="these ways, and the plain loop")
    parser.add_argument("--late", action="store_true", help="only where density has come to its target")
    parser.add_argument("--keep-memory", action="store_true", help="of all ways alike, as csp train does")
    options = parser.parse_args()
    if options.keep_memory and not keep_memory():
        raise SystemExit("Memory cannot be kept here: there is no glibc, or the environment says otherwise.")
    if options.products:
        print(machine(f"{options.rounds} rounds"))
        with torch.no_grad():
            products(options.tokens, options.rounds)
        return
    if options.width:
        width = options.width
        model = {
            **make_recipe("small").model,
            "d_model": width,
            "d_mlp": 4 * width,
            "n_head": width // 16,
            "d_head": 16,
            "n_layer": options.layers,
        }
        embeddings = min(1.0, 16 * options.density)
        sparsity = SparsityConfig(density=options.density, embedding_density=embeddings, min_alive=options.min_alive)
        batches, name = (options.tokens // 256, 256), f"{options.layers} layers of width {width}"
    else:
        recipe = make_recipe(options.preset)
        model, sparsity, name = recipe.model, SparsityConfig(**recipe.sparsity), f"preset {options.preset}"
        batches = recipe.arguments["per_device_train_batch_size"], recipe.block
    if options.one:
        before, run = peak(), Run(model, sparsity, 25, options.one)
        for _ in range(2):
            run.step(torch.randint(0, 2048, batches))
        print(before, peak())
        return
    print(
        machine(
            f"{name}, {batches[0]} x {batches[1]} tokens a step, seed 0, {options.rounds} rounds, times plain: median (range)"
        )
    )
    if options.memory:
        memory([argument for argument in sys.argv[1:] if argument != "--memory"])
        return
    for percent in (25, LATE)[options.late :]:
        steps(model, sparsity, percent, batches, options.rounds, options.only)


if __name__ == "__main__":
    main()
