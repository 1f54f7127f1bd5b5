"""The sparse primitives: AbsTopK on activations.

`abs_topk` keeps the k entries of largest magnitude in each row. Its semantics are exact and the same on every path: exactly
k entries are kept, ties go to the lower index, and NaN ranks above infinity (so a NaN is kept and stays visible).

Ties matter even among zeros: a kept zero passes gradient. The one exception to the rule is float64, the dtype of verification,
which leaves ties to `torch.topk`: the reference training run was made so, and departs within a step under any other choice.
"""

from __future__ import annotations

import torch

_SAME_WIDTH_INT = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def abs_topk(x: torch.Tensor, k: int) -> torch.Tensor:
    """AbsTopK over the last dimension (paper, section 2): the k entries of largest |x| of each row, the others zero.

    Args:
        x: any shape [..., width], floating point.
        k: entries kept in each row, 0 <= k <= width.

    Returns:
        A tensor like x. The gradient flows through the kept entries only.
    """
    width = x.shape[-1]
    if not 0 <= k <= width:
        raise ValueError(f"AbsTopK cannot keep k={k} of {width} entries; k must be from 0 to {width}.")
    if k == width:
        return x
    if k == 0:
        return x * 0 if not x.requires_grad else torch.where(torch.zeros_like(x, dtype=torch.bool), x, 0)
    return torch.where(abs_topk_mask(x.detach(), k), x, 0)


def abs_topk_mask(x: torch.Tensor, k: int) -> torch.Tensor:
    """Bool mask [..., width] of the entries that `abs_topk` keeps; 0 < k < width."""
    if x.dtype == torch.float64:
        index = x.abs().topk(k, dim=-1).indices
        return torch.zeros_like(x, dtype=torch.bool).scatter_(-1, index, True)
    return largest_mask(magnitude_bits(x), k)


def magnitude_bits(x: torch.Tensor) -> torch.Tensor:
    """|x| as integers of its width: the bits of a non-negative float order as integers do, with NaN above infinity."""
    return x.abs().view(_SAME_WIDTH_INT[x.dtype])


def largest_mask(keys: torch.Tensor, k: int) -> torch.Tensor:
    """Bool mask of exactly k largest integers in each row [..., width], ties to the lower index; 0 < k < width."""
    threshold = keys.topk(k, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True)
    above = keys > threshold
    tied = keys == threshold
    room = k - above.sum(dim=-1, keepdim=True)
    return above | (tied & (tied.cumsum(dim=-1) <= room))
