"""Tokens per second of a training step: ours, and a plain loop with the same model, batch, optimizer and schedule, side by side.

    python benchmarks/training.py                # the `small` preset; some three minutes on 2 cores
    python benchmarks/training.py --preset tiny --rounds 2

"plain" differs in what released code does: projection through `torch.topk`, AbsTopK through `torch.topk` + scatter, and attention with
its sink through a materialised mask.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from plain import plain_abs_topk, plain_attention
from projection import by_topk
from side_by_side import machine, ratio

import sparse_circuits.attention_csp as attention_csp
import sparse_circuits.topk_csp as topk_csp
from sparse_circuits import CSPConfig, CSPForCausalLM, SparsityConfig
from sparse_circuits.training import normalize_gradients_, project_tensors_, sparse_tensors
from sparse_circuits.training.recipes import make_recipe


class Run:
    """A model and its optimizer, some way into annealing."""

    def __init__(self, recipe, plain: bool):
        torch.manual_seed(0)
        self.plain, self.model = plain, CSPForCausalLM(CSPConfig(**recipe.model))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01, betas=(0.9, 0.95), eps=0.1, weight_decay=0.1)
        self.tensors = sparse_tensors(self.model)
        self.densities = SparsityConfig(**recipe.sparsity).densities_at(25, 100)

    def step(self, batch: torch.Tensor) -> float:
        ours = topk_csp.abs_topk, attention_csp.ALL_ATTENTION_FUNCTIONS["sdpa"]
        if self.plain:
            topk_csp.abs_topk = plain_abs_topk
            attention_csp.ALL_ATTENTION_FUNCTIONS["sdpa"] = plain_attention
        try:
            begun = time.perf_counter()
            loss = self.model(batch, labels=batch, use_cache=False).loss
            loss.backward()
            normalize_gradients_(self.model.parameters())
            self.optimizer.step()
            self.optimizer.zero_grad()
            (by_topk if self.plain else project_tensors_)(self.tensors, self.densities, 4)
            self.loss = loss.item()
            return time.perf_counter() - begun
        finally:
            topk_csp.abs_topk, attention_csp.ALL_ATTENTION_FUNCTIONS["sdpa"] = ours


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="small")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    recipe = make_recipe(options.preset)
    batch_size = recipe.arguments["per_device_train_batch_size"]
    shape = f"preset {options.preset}, {batch_size} x {recipe.block} tokens a step, density a quarter into the run"
    print(machine(shape, f"seed 0, {options.rounds} rounds"))
    runs = {"ours": Run(recipe, plain=False), "plain": Run(recipe, plain=True)}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(options.rounds + 1):
        batch = torch.randint(0, 2048, (batch_size, recipe.block), generator=torch.Generator().manual_seed(turn))
        for name, run in runs.items():
            took = run.step(batch)
            if turn:
                times[name].append(took)
    tokens = batch_size * recipe.block
    for name, run in runs.items():
        print(f"{name:<6} {tokens / statistics.median(times[name]):9,.0f} tokens per second, last loss {run.loss:.4f}")
    print(f"ours / plain {ratio(times['plain'], times['ours'], 2)}")


if __name__ == "__main__":
    main()
