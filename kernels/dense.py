"""Dense float32 products on CPU by oneDNN: twice as fast as PyTorch's on processors whose AVX-512 MKL leaves unused, as it does on those that are not Intel's."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

__all__ = ["dense_product", "onednn_pays", "weight_gradient"]


def onednn_pays() -> bool:
    """Whether this machine is one of those, and PyTorch may use oneDNN (`torch.backends.mkldnn`)."""
    return bool(torch._C._get_mkldnn_enabled()) and _is_held_back()


@functools.lru_cache(maxsize=1)
def _is_held_back() -> bool:
    """By the processor's name, which Linux tells: the same on every run, so that results stay the same to the bit."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "AuthenticAMD" in told and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def dense_product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x [tokens, width] @ W.T + bias -> [tokens, rows], float32; W [rows, width] in any layout."""
    own = None if bias is None else bias.contiguous()  # whose strides oneDNN does not look at
    return torch.ops.mkldnn._linear_pointwise(x, weight, own, "none", [], "")


def weight_gradient(dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """dy.T @ x -> [rows, width], for dy [tokens, rows] and x [tokens, width]. The wider side is the one that oneDNN lays out anew."""
    if dy.shape[1] > x.shape[1]:
        return dense_product(x.t(), dy.t()).t()
    return dense_product(dy.t(), x.t())
