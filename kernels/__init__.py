"""Kernels: what makes AbsTopK, sparse products, attention with a sink and whole blocks fast, on CPU (Numba) and on GPUs (Triton).

Nothing here is needed for correct results. The remote code (`*_csp.py`) is PyTorch alone; where this package is installed beside it, it
finds these functions. Each gives None where it cannot serve (no Numba, another dtype or device, a tensor that is not plain) or does not
pay, and else the result of the PyTorch path, up to the order of float32 sums.
"""

from .dispatch import (
    abs_topk,
    causal_attention,
    compact_topk,
    count_of,
    embedding,
    fused_block,
    held_pays,
    listed,
    nonzeros_of,
    packed,
    pays,
    product,
    prompt_kernel,
    rms_norm,
    trains,
    turned,
    unpacked,
    value_gradient,
)

__all__ = [
    "abs_topk",
    "causal_attention",
    "compact_topk",
    "count_of",
    "embedding",
    "fused_block",
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
