"""What a bridged training step costs over a plain one, and where its time goes.

    python benchmarks/bridges.py              # the tiny preset's shape, both models new
    python benchmarks/bridges.py --layers 4 --width 128

A plain step is forward, loss and backward of the sparse model. Optimizer and projection are the same for both and left out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from side_by_side import machine, ratio

from sparse_circuits import CSPConfig, CSPForCausalLM
from sparse_circuits.bridges import BridgeConfig, Bridges, bridge_losses, side_of
from sparse_circuits.bridges.hybrids import next_token_loss, plain_passes
from sparse_circuits.wiring_csp import NODE_LOCATIONS


def seconds(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    given = parser.parse_args(words)
    print(
        machine(
            f"width {given.width}, {given.layers} layers, {given.batch} x {given.tokens} tokens; seed 0, {given.rounds} rounds"
        )
    )
    torch.manual_seed(0)
    shape = {
        "n_layer": given.layers, "d_model": given.width, "d_mlp": 4 * given.width, "n_head": given.width // 16, "d_head": 16, "sink": True,
        "enable_bigram_table": True,
    }  # fmt: skip
    dense = side_of(CSPForCausalLM(CSPConfig(**shape)).eval().requires_grad_(False))
    model = CSPForCausalLM(CSPConfig(**shape, afrac=dict.fromkeys(NODE_LOCATIONS, 0.25)))
    sparse, bridges = side_of(model), Bridges(given.width, given.width, 2 * given.layers + 1, 0.25)
    ids = torch.randint(0, 2048, (given.batch, given.tokens))

    def plain() -> None:
        next_token_loss(model(ids).logits, ids).backward()

    def bridged(**terms: float) -> Callable[[], None]:
        config = BridgeConfig(**{"pretraining": 0.0, "nmse": 0.0, "kl": 0.0, **terms})
        return lambda: bridge_losses(dense, sparse, bridges, ids, config)["loss"].backward()

    steps = {
        "plain step": plain,
        "bridged step": bridged(pretraining=1, nmse=1, kl=1),
        "  both streams and pretraining": bridged(pretraining=1),
        "  both streams and NMSE": bridged(nmse=1),
        "  both streams and KL of hybrids": bridged(kl=1),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(given.rounds + 1):  # the first warms up
        for name, step in steps.items():
            took = seconds(step)
            if i:
                times[name].append(took)
    for name, each in times.items():
        print(f"{name:34s} {1000 * statistics.median(each):8.0f} ms   {ratio(each, times['plain step'], 2)} x plain")
    sublayers, heads = plain_passes(2 * given.layers)
    print(f"counted: the sublayers of {sublayers:g} forward passes and {heads} unembeddings, for 1 and 1")


if __name__ == "__main__":
    main()
