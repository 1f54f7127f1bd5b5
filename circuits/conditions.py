"""What everything outside of a circuit is held at: means, zero, what other tokens of a corpus have there, or the worst that can be found.

A node that is held at its mean says nothing: a circuit found so may rest on that silence. Under `resample` and `mix`, closed nodes take the
activations of random tokens of a corpus, the same token at every node, one for a whole prompt or another at each position; under
`adversarial`, besides, one value a node for all prompts, within what the corpus shows, that was sought to break the circuit (docs/method.md#ablation).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .means import Means

Fills = dict[str, torch.Tensor]  # name -> [width], [prompts, 1, width] or [prompts, tokens, width]
ABLATIONS = ("mean", "zero", "resample", "mix", "adversarial")
SAMPLED = ("resample", "mix", "adversarial")  # those that need samples of activations


def drawn(samples: Mapping[str, torch.Tensor], prompts: int, tokens: int, generator: torch.Generator) -> Fills:
    """Activations of random corpus tokens, [prompts, tokens, width]; with tokens=1 one for a whole prompt."""
    index = torch.randint(0, len(next(iter(samples.values()))), (prompts, tokens), generator=generator)
    return {name: each[index] for name, each in samples.items()}


class Conditions:
    """The ablations under which a circuit is looked for.

    Args:
        means: with samples (`mean_activations(..., samples=2048)`) for resampling.
        ablation: one of `ABLATIONS`. draws: of each kind of resampling, for decisions; training draws anew in each step.

    Raises:
        ValueError: for resampling without samples.
    """

    def __init__(self, means: Means, ablation: str, draws: int, seed: int, device: Any):
        if ablation in SAMPLED and not means.samples:
            raise ValueError(
                f"ablation={ablation!r} draws activations of a corpus, which these means do not have; compute them with "
                f"mean_activations(model, blocks, samples=2048)."
            )
        self.ablation, self.draws, self.seed, self.means = ablation, draws, seed, means
        zero = ablation == "zero"
        self.base = {name: (torch.zeros_like(mean) if zero else mean).to(device) for name, mean in means.values.items()}
        self.samples = {name: each.to(device) for name, each in (means.samples or {}).items()}
        self.found: list[Fills] = []  # by `adversarial`
        self._generator = torch.Generator().manual_seed(seed)
        self._adversary = {name: each.clone() for name, each in self.base.items()} if ablation == "adversarial" else {}
        self._trained: Fills = {}

    def for_training(self, prompts: int, tokens: int) -> Fills:
        """Fresh fills for a batch of pairs; where there are several kinds, pairs take turns."""
        if self.ablation not in SAMPLED:
            return self.base
        kinds = {"resample": 2, "mix": 3, "adversarial": 4}[self.ablation]
        kind = torch.arange(prompts) // 2 % kinds
        by_prompt = drawn(self.samples, prompts, 1, self._generator)
        fills = drawn(self.samples, prompts, tokens, self._generator)
        for name, fill in fills.items():
            fill[kind == 0] = by_prompt[name][kind == 0]
            if self.ablation != "resample":
                fill[kind == 2] = self.base[name]
        if self._adversary:
            self._trained = {name: each.requires_grad_() for name, each in self._adversary.items()}
            last = (kind == 3).view(-1, 1, 1).to(fill.device)
            fills = {name: torch.where(last, self._trained[name], fill) for name, fill in fills.items()}
        return fills

    @torch.no_grad()
    def ascend(self, rate: float = 0.1) -> None:
        """After a backward pass: the adversary, one value a node that all prompts share, goes up its gradient, within what the corpus showed."""
        for name, each in self._trained.items():
            if each.grad is not None:
                low, high = self.means.low[name].to(each), self.means.high[name].to(each)
                moved = each + rate * (high - low) * each.grad.sign()
                self._adversary[name] = torch.maximum(torch.minimum(moved, high), low)

    def fixed(self, prompts: int, tokens: int) -> list[Fills]:
        """Those under which every decision is taken: always the same ones."""
        if self.ablation not in SAMPLED:
            return [self.base]
        generator = torch.Generator().manual_seed(self.seed + 1)
        fills = [] if self.ablation == "resample" else [self.base]
        for _ in range(self.draws):
            fills += [drawn(self.samples, prompts, 1, generator), drawn(self.samples, prompts, tokens, generator)]
        return fills + self.found

    def worse(self, loss: Callable[[Fills], torch.Tensor], steps: int = 20) -> Fills:
        """Fills that break what `loss` measures, added to those that every decision is taken under."""
        fills, _ = worst_fills(loss, self.base, self.means, steps=steps, restarts=2, seed=self.seed + len(self.found))
        self.found.append(fills)
        return fills


def worst_fills(
    loss: Callable[[Fills], torch.Tensor],
    start: Fills,
    means: Means,
    *,
    steps: int,
    restarts: int,
    seed: int,
    rate: float = 0.1,
) -> tuple[Fills, float]:
    """The fills of highest loss that projected gradient ascent finds: one value a node for all prompts and positions, within what the corpus showed there.

    Args:
        loss: of fills, a scalar with gradients to those that matter. start: where the first of the restarts begins; the others begin at random.
        rate: of a node's range, in the first step; it falls to a tenth.

    Returns:
        the fills and their loss, never below that at `start`.
    """
    generator = torch.Generator().manual_seed(seed)
    low = {name: torch.minimum(means.low[name].to(each), each) for name, each in start.items()}
    high = {name: torch.maximum(means.high[name].to(each), each) for name, each in start.items()}
    best, most = start, float("-inf")
    for restart in range(restarts):
        fills = start
        if restart:
            fills = {n: low[n] + (high[n] - low[n]) * torch.rand(f.shape, generator=generator).to(f) for n, f in start.items()}
        for step in range(steps + 1):
            fills = {name: each.detach().requires_grad_() for name, each in fills.items()}
            with torch.enable_grad():
                found = loss(fills)
            if float(found.detach()) > most:
                best, most = {name: each.detach() for name, each in fills.items()}, float(found.detach())
            if step == steps or not found.requires_grad:
                break
            grads = torch.autograd.grad(found, list(fills.values()), allow_unused=True)
            size = rate * (1 - 0.9 * step / steps)
            fills = {
                name: each
                if grad is None
                else (each + size * (high[name] - low[name]) * grad.sign()).clamp(low[name], high[name])
                for (name, each), grad in zip(fills.items(), grads)
            }
    return best, most
