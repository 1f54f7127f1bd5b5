"""Encoders and decoders between a dense and a sparse model, one of each per residual point (docs/method.md#bridges)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from ..topk_csp import abs_topk


@dataclass(frozen=True)
class BridgeConfig:
    """How two models are bridged, and what training weighs how.

    The paper gives neither coefficients, nor the normaliser of NMSE, nor which targets gradients pass through. Ours: NMSE is the squared error over the
    variance of the target in the batch (so 1 is what a constant reaches), and the denominator is a constant; the dense model's
    outputs and streams are constants; `nmse_moves_sparse` says whether the sparse model is moved towards what encoders make of the dense
    stream (LOG.md has the comparison).

    Args:
        active: fraction of the sparse stream's channels that an encoder leaves nonzero (AbsTopK); 1: all.
        pretraining, nmse, kl: coefficients of the three kinds of terms; each kind but the first is a sum over points and both directions.
        nmse_moves_sparse: whether the target of the encoders gets a gradient. The input of the decoders always does.
        lr: peak learning rate of the bridges; it follows the same schedule as that of the sparse model.
    """

    active: float = 0.25
    pretraining: float = 1.0
    nmse: float = 1.0
    kl: float = 1.0
    nmse_moves_sparse: bool = False
    lr: float = 0.01

    def __post_init__(self) -> None:
        if not isinstance(self.active, (int, float)) or isinstance(self.active, bool) or not 0 < self.active <= 1:
            raise ValueError(f"active is {self.active!r}; it must be a fraction above 0 and at most 1.")
        for name in ("pretraining", "nmse", "kl"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value!r}; it must be a coefficient of at least 0.")
        if not isinstance(self.lr, (int, float)) or isinstance(self.lr, bool) or not 0 < self.lr < float("inf"):
            raise ValueError(f"lr is {self.lr!r}; it must be a learning rate above 0.")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Bridges(nn.Module):
    """`encode(i, x)`: dense stream -> sparse stream at point i, AbsTopK(W x + b). `decode(i, x)`: linear, back.

    Shapes: `decoders[i].weight` is [dense width, sparse width]: column c is what sparse channel c means in the dense stream.
    At first decoders are the transposes of encoders, whose rows or columns are orthonormal: what is lost is what AbsTopK drops.
    """

    def __init__(self, dense_width: int, sparse_width: int, points: int, active: float = 1.0):
        super().__init__()
        self.keep = max(1, round(active * sparse_width))
        self.encoders = nn.ModuleList([nn.Linear(dense_width, sparse_width) for _ in range(points)])
        self.decoders = nn.ModuleList([nn.Linear(sparse_width, dense_width) for _ in range(points)])
        for encoder, decoder in zip(self.encoders, self.decoders):
            nn.init.orthogonal_(encoder.weight)  # type: ignore[arg-type]
            nn.init.zeros_(encoder.bias)  # type: ignore[arg-type]
            nn.init.zeros_(decoder.bias)  # type: ignore[arg-type]
            decoder.weight.data.copy_(encoder.weight.T)  # type: ignore[operator,arg-type]

    @property
    def points(self) -> int:
        return len(self.encoders)

    def encode(self, i: int, x: torch.Tensor) -> torch.Tensor:
        y = self.encoders[i](x)
        return y if self.keep >= y.shape[-1] else abs_topk(y, self.keep)

    def decode(self, i: int, x: torch.Tensor) -> torch.Tensor:
        return self.decoders[i](x)
