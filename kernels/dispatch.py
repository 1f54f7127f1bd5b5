"""Which kernel serves a call, if any. The modules of the CPU kernels need Numba, that of the GPU kernels Triton: loaded by the first call."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from typing import Any

import torch

from .run import LANES, available, serve

__all__ = [
    "abs_topk",
    "causal_attention",
    "compact_topk",
    "count_of",
    "embedding",
    "fused_block",
    "gpu",
    "held_pays",
    "listed",
    "nonzeros_of",
    "packed",
    "pays",
    "product",
    "prompt_kernel",
    "rms_norm",
    "trains",
    "turned",
    "unpacked",
    "value_gradient",
]

# Up to how many nonzero channels of a head's keys and values, on average, attention here beats PyTorch's: measured, `benchmarks/sparse.py`.
ATTENTION_CHANNELS = 24
ATTENTION_QUERIES = 16  # and from how many queries on
# Up to which density, or, for one matrix, up to how many nonzeros, whose time is less than what a fused block saves, products here beat
# dense ones: by `benchmarks/sparse.py` on 2 cores (AVX-512).
PRODUCT_DENSITY, PRODUCT_NONZEROS = 1 / 16, 1 << 14
# The same where a weight is a dense parameter in training, whose nonzeros are listed anew for each product, and for the gradient of a part of it; and from how many
# tokens on: against MKL's or oneDNN's dense float32 products, and against bfloat16's, by `benchmarks/training.py --products`.
TRAINING_DENSITY, NARROW_DENSITY, TRAINING_TOKENS = 1 / 8, 1 / 16, 512
AMX_DENSITY = (
    1 / 64
)  # for bfloat16 where the processor has AMX, whose dense products are several times as fast: by that, not measured


@functools.cache
def _module(name: str) -> Any:
    return importlib.import_module(f".{name}", __package__)


def abs_topk(x: torch.Tensor, k: int) -> torch.Tensor | None:
    """AbsTopK over the last dimension, 0 < k < width."""
    if serve(x, halves=True):
        return _module("topk").abs_topk(x, k)
    triton = gpu(x)
    return None if triton is None or x.shape[-1] > triton.MAX_WIDTH else triton.abs_topk(x, k)


def compact_topk(x: torch.Tensor, k: int, fuses: bool) -> torch.Tensor | None:
    """`abs_topk` in training, which keeps for the gradient what AbsTopK keeps; None where that cannot be, or is for few tokens. fuses: nobody else has x."""
    if x.numel() < TRAINING_TOKENS * x.shape[-1] or not serve(x, halves=True) or not _module("compact").compacts(x):
        return None
    return _module("compact").compact_topk(x, k, fuses)


def packed(x: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """What is to be saved for a gradient of a tensor that may be a view of what `compact_topk` gave, and how it lies there."""
    return _module("compact").packed(x)


def unpacked(saved: torch.Tensor, layout: Any) -> torch.Tensor:
    """The tensor of which that was `packed`."""
    return _module("compact").unpacked(saved, layout)


def product(x: torch.Tensor, values: torch.Tensor, support: Any, bias: torch.Tensor | None) -> torch.Tensor | None:
    """x [tokens, width] @ W.T + bias -> [tokens, rows], for W by its nonzeros; of bfloat16 in bfloat16, summed in float32."""
    if serve(values) and (serve(x) or (x.dtype == torch.bfloat16 and x.shape[0] >= LANES and serve(x, halves=True))):
        return _module("products").product(x, values, support, bias)
    if x.dtype != values.dtype:
        return None
    triton = gpu(x) if values.numel() and x.dtype == torch.float32 else None
    if triton is None:
        return None
    out = triton.product(x, support.starts, support.columns, values)
    return out if bias is None else out + bias


def value_gradient(dy: torch.Tensor, x: torch.Tensor, support: Any) -> torch.Tensor | None:
    """The entries of dy.T @ x at the nonzeros, [nonzeros], in float32."""
    if serve(dy, x) or (dy.dtype == x.dtype == torch.bfloat16 and serve(dy, x, halves=True)):
        return _module("products").value_gradient(dy, x, support)
    triton = gpu(x) if support.columns.numel() and x.dtype == dy.dtype == torch.float32 else None
    return None if triton is None else triton.value_gradient(dy, x, support.row_of, support.columns)


def trains(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether a linear map's training may go another way than PyTorch's here: enough tokens, and tensors that kernels take; under autocast its bfloat16."""
    if x.numel() < TRAINING_TOKENS * x.shape[-1] or min(weight.shape) < LANES:
        return False
    narrow = torch.is_autocast_enabled("cpu")
    if narrow and torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return False
    return serve(weight) and serve(x, halves=narrow) and x.dtype != torch.float16


def listed(weight: torch.Tensor, narrow: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """(values, int32 row starts, int32 columns) of a matrix that trains faster by its nonzeros, which are listed anew each time; None for others."""
    return _module("listing").listed(weight, int(_training_density(narrow) * weight.numel()))


def _training_density(narrow: bool) -> float:
    return TRAINING_DENSITY if not narrow else AMX_DENSITY if _has_amx() else NARROW_DENSITY


def held_pays(entries: int, count: int, narrow: bool) -> bool:
    """Whether the gradient of `count` entries of a matrix is faster to be had one by one than with all of them; narrow: of bfloat16."""
    return available() and count <= _training_density(narrow) * entries


def nonzeros_of(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """(values, int32 row starts, int32 columns) of all nonzeros of a matrix."""
    return _module("listing").listed(weight, weight.numel()) if serve(weight) else None


def count_of(weight: torch.Tensor) -> int:
    """Nonzeros of a matrix."""
    if weight.is_contiguous() and serve(weight):
        return int(_module("listing").counted(weight.detach()).sum())
    return int(weight.count_nonzero())


def _has_amx() -> bool:
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def turned(support: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What was `listed`, by columns: row starts of the transpose, its columns, and the order that puts the values into it."""
    return _module("listing").turned(support)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor | None:
    """RMSNorm over the last dimension, with gains [width], of as many tokens as training has."""
    enough = x.numel() >= TRAINING_TOKENS * x.shape[-1]
    return _module("norm").rms_norm(x, weight, epsilon) if enough and serve(x, weight) else None


def embedding(ids: torch.Tensor, values: torch.Tensor, support: Any) -> torch.Tensor | None:
    """Rows [tokens, width] of a matrix by its nonzeros; ids [tokens], all of them in range."""
    return _module("products").embedding(ids, values, support) if ids.numel() and serve(values) else None


def causal_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sink: torch.Tensor | None, scaling: float, kept: float
) -> torch.Tensor | None:
    """Causal attention [batch, heads, tokens, d_head] -> [batch, tokens, heads, d_head].

    Args:
        kept: the share of the channels of keys and values that AbsTopK leaves.
    """
    queries, dtype = query.shape[2], query.dtype
    if queries < ATTENTION_QUERIES or key.shape[1] != query.shape[1] or kept * query.shape[-1] > ATTENTION_CHANNELS:
        return None
    if not serve(query, key, value, halves=True):
        return None
    return _module("attention").attention(query, key[:, :, :queries], value[:, :, :queries], sink, scaling).to(dtype)


def fused_block(block: Any, x: torch.Tensor, *rest: Any) -> torch.Tensor | None:
    """A whole block for inference: see `fused.fused_block`."""
    return _module("fused").fused_block(block, x, *rest) if not torch.is_grad_enabled() and serve(x) else None


def prompt_kernel() -> Any:
    """What runs circuits on prompts (`prompts.py`, `programs/machine.py`), or None."""
    return _module("prompts") if available() else None


def pays(entries: int, count: int) -> bool:
    """Whether a matrix of so many entries, `count` of them nonzeros, is faster as nonzeros on CPU."""
    return available() and (count <= PRODUCT_DENSITY * entries or (count <= PRODUCT_NONZEROS and count <= entries / 4))


def gpu(x: torch.Tensor) -> Any:
    """The GPU kernels' module for a tensor that it can take, or None. (Tested in Triton's interpreter only.)"""
    if x.device.type != "cuda" or x.dtype not in (torch.float32, torch.float16, torch.bfloat16) or x.numel() == 0:
        return None
    module = _triton()
    return module if module is not None and module.ready(x.device) else None


@functools.lru_cache(maxsize=1)
def _triton() -> Any:
    if os.environ.get("CSP_KERNELS", "auto") == "torch" or importlib.util.find_spec("triton") is None:
        return None
    return _module("gpu")
