"""Density and learning rate as functions of the step alone, so that a resumed run needs no schedule state.

Steps count optimizer steps from 0; step i of T uses density and learning rate "at i" (docs/method.md#weight-sparse-training: gradients, update, projection).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

GROUPS = ("weights", "embeddings", "biases")


@dataclass(frozen=True)
class SparsityConfig:
    """How sparse, and how it gets there (paper, section 2 and appendix; the release's training script).

    Args:
        density: fraction of each weight matrix of the blocks that stays nonzero at the end, in (0, 1].
        embedding_density: the same for token embedding and unembedding. Default: density.
        bias_density: the same for biases; 1 leaves them dense. Default: density.
        min_alive: weights that each neuron or attention channel keeps (c_fc and c_attn: per output row; c_proj: per input
            column), counted inside the density. 0 switches it off.
        anneal_start, anneal_stop: fractions of training between which density falls from 1 to its target; equal fractions
            (0 and 0, say) hold the target from that step on.
        anneal: "linear" in the step, or "power": a straight line of log density over log step.
        anneal_exponent: e of 1 - (1 - u)**e for "linear"; 1 is linear, more is faster at first.
        normalize_gradients: divide all gradients by their global root mean square (+ 1e-5) before the optimizer.
        lr_follows_density: multiply the learning rate by sqrt(target density / current density) of the block weights, which with
            a linear decay is the paper's "sharkfin".
        backward_density: None: every weight of the block matrices gets a gradient at every step, as in the paper. A fraction: once density is not above it, only so many
            of each matrix do, the largest (`supersets.py`), except at every `backward_refresh`-th step. Cheaper steps where both are low, at some loss
            (docs/results.md#projection-and-training-steps).
        backward_refresh: steps from one whole gradient to the next, with backward_density.
    """

    density: float
    embedding_density: float | None = None
    bias_density: float | None = None
    min_alive: int = 4
    anneal_start: float = 0.01
    anneal_stop: float = 0.5
    anneal: str = "linear"
    anneal_exponent: float = 1.0
    normalize_gradients: bool = True
    lr_follows_density: bool = True
    backward_density: float | None = None
    backward_refresh: int = 16

    def __post_init__(self) -> None:
        for group, value in self.targets().items():
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= 1:
                raise ValueError(f"The density of {group} is {value!r}; it must be a fraction above 0 and at most 1.")
        if isinstance(self.min_alive, bool) or not isinstance(self.min_alive, int) or self.min_alive < 0:
            raise ValueError(f"min_alive is {self.min_alive!r}; it must be a whole number of at least 0.")
        for name in ("anneal_start", "anneal_stop", "anneal_exponent"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
                raise ValueError(f"{name} is {value!r}; it must be a finite number.")
        for name in ("normalize_gradients", "lr_follows_density"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be True or False.")
        if not 0 <= self.anneal_start <= self.anneal_stop < 1:
            raise ValueError(
                f"anneal_start={self.anneal_start} and anneal_stop={self.anneal_stop} must be fractions of training below 1, in this order."
            )
        if self.anneal not in ("linear", "power"):
            raise ValueError(f"anneal is {self.anneal!r}; it must be 'linear' or 'power'.")
        if not self.anneal_exponent > 0:
            raise ValueError(f"anneal_exponent is {self.anneal_exponent!r}; it must be above 0.")
        self._check_backward()
        if self.anneal == "power" and self.anneal_exponent != 1:
            raise ValueError("anneal_exponent shapes the linear schedule only; leave it out with anneal='power'.")

    def _check_backward(self) -> None:
        value, every = self.backward_density, self.backward_refresh
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or not self.density <= value <= 1
        ):
            raise ValueError(
                f"backward_density is {value!r}; it must be a fraction from density ({self.density:g}) to 1, or None for whole gradients."
            )
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"backward_refresh is {every!r}; it must be a whole number of at least 1.")

    def targets(self) -> dict[str, float]:
        """Final density by group."""
        embeddings = self.density if self.embedding_density is None else self.embedding_density
        biases = self.density if self.bias_density is None else self.bias_density
        return {"weights": self.density, "embeddings": embeddings, "biases": biases}

    def densities_at(self, step: int, total: int) -> dict[str, float]:
        """Density asked of each group after step `step` of `total`."""
        return {group: self._density_at(step, total, target) for group, target in self.targets().items()}

    def _density_at(self, step: int, total: int, target: float) -> float:
        start, stop = self.anneal_start * total, self.anneal_stop * total
        if step >= min(stop, total - 1):  # whatever the rounding, training ends at the target
            return target
        if step <= start:
            return 1.0
        if self.anneal == "power":
            first = max(start, 1.0)
            return (
                target ** (math.log(max(step, first) / first) / math.log(max(stop, first) / first)) if stop > first else target
            )
        u = (step - start) / (stop - start)
        return 1.0 + (target - 1.0) * (1.0 - (1.0 - u) ** self.anneal_exponent)

    def lr_factor_at(self, step: int, total: int) -> float:
        """sqrt(target / current density of the block weights), or 1."""
        if not self.lr_follows_density:
            return 1.0
        return math.sqrt(self.density / self.densities_at(step, total)["weights"])

    def is_whole_at(self, step: int, total: int) -> bool:
        """Whether step `step` of `total` has the whole gradient of the block matrices."""
        if self.backward_density is None or step % self.backward_refresh == 0:
            return True
        last = (
            step - step % self.backward_refresh
        )  # with the whole gradient, after which a superset was chosen if density was low enough
        return self.densities_at(last, total)["weights"] > self.backward_density

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def sharkfin_lr(step: int, total: int, *, peak: float, warmup: float, sparsity: SparsityConfig | None = None) -> float:
    """Learning rate of a step: linear warmup over int(warmup * total) steps, linear decay to 0, times the density factor.

    transformers' "linear" schedule with that many warmup steps and our callback give the same.
    """
    steps = int(warmup * total)
    shape = step / steps if step < steps else (total - step) / max(1, total - steps)
    return peak * shape * (sparsity.lr_factor_at(step, total) if sparsity else 1.0)
