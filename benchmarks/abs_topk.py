"""AbsTopK on CPU: Numba, our PyTorch path, and `torch.topk` + scatter as released code has it, in turn, in one run.

    python benchmarks/abs_topk.py

Prints medians in milliseconds and the ratio to `torch.topk` + scatter, with the ratio's range over the rounds.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable

import torch

import sparse_circuits.sparse_csp as sparse

SHAPES = ((512, 8192), (512, 2048), (4096, 384), (1, 8192), (1, 2048))
ROUNDS = 15


def released(x: torch.Tensor, k: int) -> torch.Tensor:
    index = x.abs().topk(k, dim=-1, sorted=False).indices
    return torch.zeros_like(x).scatter_(-1, index, x.gather(-1, index))


def ours_torch(x: torch.Tensor, k: int) -> torch.Tensor:
    return torch.where(sparse.abs_topk_mask(x, k), x, 0)


def milliseconds(function: Callable[[torch.Tensor, int], torch.Tensor], x: torch.Tensor, k: int) -> float:
    repeats = max(1, 100_000 // x.numel())
    begun = time.perf_counter()
    for _ in range(repeats):
        function(x, k)
    return (time.perf_counter() - begun) / repeats * 1e3


def main() -> None:
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores; k = 1/4, seed 0"
    )
    if sparse.kernels() is None:
        raise SystemExit("Numba is not installed: pip install 'sparse-circuits[fast]'")
    print(
        f"{'rows x width':>14} {'numba':>9} {'torch':>9} {'topk+scatter':>13} {'copy':>9}   numba against topk+scatter (range)"
    )
    for rows, width in SHAPES:
        x, k = torch.randn(rows, width, generator=torch.Generator().manual_seed(0)), width // 4
        assert torch.equal(sparse.abs_topk(x, k), released(x, k))
        paths = {"numba": sparse.abs_topk, "torch": ours_torch, "released": released, "copy": lambda x, k: x.clone()}
        times: dict[str, list[float]] = {name: [] for name in paths}
        for _ in range(ROUNDS):
            for name, function in paths.items():
                times[name].append(milliseconds(function, x, k))
        medians = [statistics.median(times[name]) for name in paths]
        ratios = [slow / fast for slow, fast in zip(times["released"], times["numba"])]
        print(f"{rows:>6} x {width:<5} " + " ".join(f"{m:9.3f}" for m in medians[:2]) + f" {medians[2]:13.3f} {medians[3]:9.3f}"
              f"   {statistics.median(ratios):6.1f}x ({min(ratios):.1f} to {max(ratios):.1f})")  # fmt: skip


if __name__ == "__main__":
    main()
