"""RMSNorm on CPU, which PyTorch takes for a dozen operations, most of which keep a tensor of their own for the gradient. The kernels and the call."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .jit import compiled, draw, float_bits, float_of, floats, summing, words
from .jobs import CHUNKS, positions, record
from .run import run, serve

MOST_CHUNKS = 32  # each of which has sums of its own for the gradient of the gains

# x float32 [rows, width], weight [width] -> out [rows, width], scales [rows]: 1 over the root of the mean square + epsilon.
NormJob = record("NormJob", "x weight out scales rows width rows_per_chunk epsilon_bits")
# dy and x [rows, width], weight, scales -> dx [rows, width], partial [chunks, width]: sums of dy times the normalised x.
NormGradientJob = record("NormGradientJob", "dy x weight scales dx partial rows width rows_per_chunk")


NORM, GRADIENT = positions(NormJob), positions(NormGradientJob)


@summing
def _square_sum(row, width):
    total = np.float32(0)
    for i in range(width):
        total += row[i] * row[i]
    return total


@compiled
def _scale_row(row, weight, scale, out, width):
    for i in range(width):
        out[i] = row[i] * scale * weight[i]


def norm_kernel(job):
    a = words(job)
    width, epsilon = a[NORM.width], float_of(np.int32(a[NORM.epsilon_bits]))
    weight, scales = floats(a[NORM.weight]), floats(a[NORM.scales])
    while True:
        chunk = draw(job)
        if chunk >= a[CHUNKS]:
            return
        first = chunk * a[NORM.rows_per_chunk]
        for r in range(first, min(a[NORM.rows], first + a[NORM.rows_per_chunk])):
            row, out = floats(a[NORM.x] + 4 * r * width), floats(a[NORM.out] + 4 * r * width)
            scale = np.float32(1) / np.sqrt(_square_sum(row, width) / np.float32(width) + epsilon)
            scales[r] = scale
            _scale_row(row, weight, scale, out, width)


@summing
def _of_three(dy, row, weight, width):
    total = np.float32(0)
    for i in range(width):
        total += dy[i] * weight[i] * row[i]
    return total


@compiled
def _row_gradient(dy, row, weight, scale, mean, dx, sums, width):
    """mean: of dy * weight * x, times the scale's cube."""
    for i in range(width):
        dx[i] = dy[i] * weight[i] * scale - row[i] * mean
        sums[i] += dy[i] * row[i] * scale


def norm_gradient_kernel(job):
    a = words(job)
    width, weight, scales = a[GRADIENT.width], floats(a[GRADIENT.weight]), floats(a[GRADIENT.scales])
    while True:
        chunk = draw(job)
        if chunk >= a[CHUNKS]:
            return
        first, sums = chunk * a[GRADIENT.rows_per_chunk], floats(a[GRADIENT.partial] + 4 * chunk * width)
        for i in range(width):
            sums[i] = np.float32(0)
        for r in range(first, min(a[GRADIENT.rows], first + a[GRADIENT.rows_per_chunk])):
            at = 4 * r * width
            dy, row, dx = floats(a[GRADIENT.dy] + at), floats(a[GRADIENT.x] + at), floats(a[GRADIENT.dx] + at)
            scale = scales[r]
            mean = _of_three(dy, row, weight, width) / np.float32(width) * scale * scale * scale
            _row_gradient(dy, row, weight, scale, mean, dx, sums, width)


# ---------------------------------------------------------------------------------------------------------------- the call


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """x over the root of the mean square of its last dimension (+ epsilon under the root), times weight [width]; both as `serve` takes them. Differentiable, also twice."""
    return _RMSNorm.apply(x.contiguous(), weight.contiguous(), epsilon)  # outside of it: a second derivative goes through


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        width = x.shape[-1]
        rows, out = x.numel() // width, torch.empty_like(x)
        scales, per_chunk, ctx.epsilon = (
            torch.empty(rows, dtype=torch.float32, device=x.device),
            -(-rows // MOST_CHUNKS),
            epsilon,
        )
        places = x.data_ptr(), weight.data_ptr(), out.data_ptr(), scales.data_ptr()
        run(norm_kernel, -(-rows // per_chunk), NormJob(*places, rows, width, per_chunk, float_bits(epsilon)))
        ctx.save_for_backward(x, weight, scales)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        dy, (x, weight, scales) = gradients[0], ctx.saved_tensors
        if torch.is_grad_enabled() or not serve(dy):  # a second derivative is wanted, or it is no plain tensor
            return *_gradients(dy, x, weight, ctx.epsilon), None
        dy = dy.contiguous()
        width, rows = x.shape[-1], scales.shape[0]
        per_chunk = -(-rows // MOST_CHUNKS)
        chunks = -(-rows // per_chunk)
        dx, partial = torch.empty_like(x), torch.empty(chunks, width, dtype=torch.float32, device=x.device)
        places = dy.data_ptr(), x.data_ptr(), weight.data_ptr(), scales.data_ptr(), dx.data_ptr(), partial.data_ptr()
        run(norm_gradient_kernel, chunks, NormGradientJob(*places, rows, width, per_chunk))
        return dx, partial.sum(0), None


def _gradients(dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """By PyTorch, itself differentiable."""
    scale = (x.square().mean(-1, keepdim=True) + epsilon).rsqrt()
    normed, by_weight = x * scale, dy * weight
    dx = scale * (by_weight - normed * (by_weight * normed).mean(-1, keepdim=True))
    return dx, (dy * normed).reshape(-1, x.shape[-1]).sum(0)
