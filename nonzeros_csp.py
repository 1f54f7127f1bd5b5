"""Matrices of which only the nonzeros are kept (CSR): products with them, modules made of them, and where they pay.

Zeros are not multiplied: an infinite or NaN activation reaches the outputs that it is connected to, and no others (a dense product would
spread it to all as NaN).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .topk_csp import is_transformed, kernels


class Support:
    """Where a matrix [rows, width] has its nonzeros: int32 `starts` [rows + 1] and `columns` [nonzeros], row by row (CSR)."""

    def __init__(self, starts: torch.Tensor, columns: torch.Tensor, width: int):
        self.starts, self.columns = starts, columns
        self.shape = (starts.shape[0] - 1, width)

    @functools.cached_property
    def row_of(self) -> torch.Tensor:
        """int32 [nonzeros]: the row of each nonzero."""
        return self.count_rows()

    def count_rows(self) -> torch.Tensor:
        """`row_of`, made anew: what is made inside of a transformation of torch.func must not outlive it."""
        counts = (self.starts[1:] - self.starts[:-1]).long()
        return torch.arange(self.shape[0], device=counts.device, dtype=torch.int32).repeat_interleave(counts)

    @functools.cached_property
    def transposed(self) -> tuple[Support, torch.Tensor]:
        """The support of the transposed matrix, and the order that puts the values into it."""
        order = self.columns.argsort(stable=True)
        counts = torch.bincount(self.columns.long(), minlength=self.shape[1])
        starts = F.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
        return Support(starts, self.row_of[order], self.shape[0]), order


def sparse_product(x: torch.Tensor, values: torch.Tensor, support: Support, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x @ W.T + bias, for W [rows, width] given by its nonzeros.

    Args:
        x: [..., width], floating point.
        values: [nonzeros], in the support's order.
        support: where they stand.
        bias: [rows], or None.

    Returns:
        [..., rows], of x's dtype; float16 and bfloat16 are summed in float32. Differentiable, also twice, in x, values and bias.
    """
    if x.shape[-1] != support.shape[1]:
        raise ValueError(f"Inputs of width {x.shape[-1]} do not fit a matrix of {support.shape[0]} x {support.shape[1]}.")
    flat = x.reshape(-1, x.shape[-1])
    if is_transformed() and not torch.compiler.is_compiling() and not torch.jit.is_tracing():
        return _transformable_product(x, values, support, bias)
    if torch.is_grad_enabled():
        out = _SparseProduct.apply(flat, values, support, bias)
    else:
        out = _product(flat, values, support, bias)
    return out if x.dim() == 2 else out.view(*x.shape[:-1], support.shape[0])  # a view of it could not be changed in place


def _transformable_product(x: torch.Tensor, values: torch.Tensor, support: Support, bias: torch.Tensor | None) -> torch.Tensor:
    """The same in operations that torch.func and forward-mode AD know, at the cost of a [..., nonzeros] tensor."""
    terms = x[..., support.columns.long()] * values.to(x.dtype)
    out = torch.zeros_like(x[..., :1]).expand(*x.shape[:-1], support.shape[0]).index_add(-1, support.count_rows().long(), terms)
    return out if bias is None else out + bias


def _product(x: torch.Tensor, values: torch.Tensor, support: Support, bias: torch.Tensor | None) -> torch.Tensor:
    wide = torch.promote_types(values.dtype, torch.float32)
    weights, fast = values.to(wide), kernels()
    out = None if fast is None else fast.product(x, weights, support, bias)
    if out is None:
        inputs = x.to(wide)
        out = None if fast is None or inputs is x else fast.product(inputs, weights, support, bias)
    if out is None:
        out = _torch_product(inputs, weights, support)
        out = out if bias is None else out + bias
    return out.to(x.dtype)


class _SparseProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, values: torch.Tensor, support: Support, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.support = support
        # What the gradient of the other needs: pruning a frozen model keeps no activations here.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, values)
        return _product(x, values, support, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (dy,), (x, values) = gradients, ctx.saved_tensors
        dx = dvalues = dbias = None
        if ctx.needs_input_grad[0]:
            support, order = ctx.support.transposed
            dx = sparse_product(dy, values[order], support)
        if ctx.needs_input_grad[1]:
            dvalues = value_gradient(dy, x, ctx.support).to(values.dtype)
        if ctx.needs_input_grad[3]:
            dbias = dy.sum(0)
        return dx, dvalues, None, dbias


def value_gradient(dy: torch.Tensor, x: torch.Tensor, support: Support) -> torch.Tensor:
    """The entries of dy.T @ x on a support, [nonzeros], in float32 at least; for dy [tokens, rows] and x [tokens, width]. Differentiable."""
    return _ValueGradient.apply(dy, x, support)


class _ValueGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dy: torch.Tensor, x: torch.Tensor, support: Support) -> torch.Tensor:
        ctx.save_for_backward(dy, x)
        ctx.support = support
        wide = torch.promote_types(x.dtype, torch.float32)
        fast = kernels()
        found = None if fast is None else fast.value_gradient(dy, x, support)
        if found is None and fast is not None and dy.dtype != wide:
            found = fast.value_gradient(dy.to(wide), x.to(wide), support)
        if found is not None:
            return found
        dy, x = dy.to(wide), x.to(wide)
        left, right = dy.t().contiguous(), x.t().contiguous()
        step = max(1, (1 << 22) // max(1, x.shape[0]))
        pairs = zip(support.row_of.split(step), support.columns.split(step))
        parts = [(left[rows.long()] * right[columns.long()]).sum(1) for rows, columns in pairs]
        return torch.cat(parts) if parts else x.new_zeros(0, dtype=wide)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (g,), (dy, x) = gradients, ctx.saved_tensors
        support, order = ctx.support.transposed
        return sparse_product(x, g, ctx.support), sparse_product(dy, g[order], support), None


def _torch_product(x: torch.Tensor, values: torch.Tensor, support: Support) -> torch.Tensor:
    if x.numel() == 0 or values.numel() == 0:
        return x.new_zeros(x.shape[0], support.shape[0])
    by_channel = x.t().contiguous()
    out = F.embedding_bag(
        support.columns, by_channel, support.starts, mode="sum", per_sample_weights=values, include_last_offset=True
    )
    return out.t().contiguous()


# --------------------------------------------------------------------------------------------------------- sparse modules

# Where nonzeros are faster than dense matrices by PyTorch alone: up to a low density, and only for matrices of some size. With kernels on
# CPU, `kernels.dispatch` says.
TORCH_DENSITY, TORCH_ENTRIES = 1 / 64, 1 << 18
GPU_DENSITY = 1 / 100  # where the paper (section 2) sees sparse kernels pay off; not measured here


def pays(shape: tuple[int, ...] | torch.Size, count: int, device: torch.device, max_density: float | None = None) -> bool:
    """Whether a matrix with `count` nonzeros should run as nonzeros: the one place of that choice.

    `max_density` replaces the measured rule: 1.0 takes every matrix, 0.0 none that has a nonzero.
    """
    entries = shape[0] * shape[1]
    if max_density is not None:
        return count <= max_density * entries
    fast = kernels() if device.type == "cpu" else None
    if fast is not None and fast.pays(entries, count):
        return True
    limit = GPU_DENSITY if device.type == "cuda" else TORCH_DENSITY
    return count <= limit * entries and entries >= TORCH_ENTRIES


class SparseMatrix(nn.Module):
    """A matrix of which only the nonzeros are kept: parameter `values`; buffers `row_starts` and `columns` say where they stand.

    The support is fixed: training moves the values only, and an optimizer's state is as small as they are.
    """

    row_starts: torch.Tensor
    columns: torch.Tensor

    def __init__(self, values: torch.Tensor, row_starts: torch.Tensor, columns: torch.Tensor, shape: tuple[int, int]):
        super().__init__()
        self.shape = torch.Size(shape)
        self.values = nn.Parameter(values)
        self.register_buffer("row_starts", row_starts.to(torch.int32))
        self.register_buffer("columns", columns.to(torch.int32))
        self._support: tuple[Any, Support] | None = None

    @classmethod
    def from_dense(cls, weight: torch.Tensor) -> SparseMatrix:
        """The nonzeros of a matrix [rows, width]; NaN is one, -0.0 is none."""
        dense = weight.detach()
        matrix = cls(*nonzeros(dense, dense != 0), tuple(dense.shape))  # type: ignore[arg-type]
        matrix.values.requires_grad_(weight.requires_grad or not isinstance(weight, nn.Parameter))
        return matrix

    def to_dense(self) -> torch.Tensor:
        """[rows, width], differentiable in the values."""
        empty = self.values.new_zeros(self.shape)
        return empty.index_put((self.support.row_of.long(), self.columns.long()), self.values)

    @property
    def support(self) -> Support:
        # Moving the module to another device makes new buffers, loading a state dict writes into the old ones.
        starts, columns = self.row_starts, self.columns
        state = (
            (id(starts), id(columns)) if starts.is_inference() else (id(starts), id(columns), starts._version, columns._version)
        )
        if self._support is None or self._support[0] != state:
            self._support = state, Support(starts, columns, self.shape[1])
        return self._support[1]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        starts, columns = (state_dict.get(prefix + name) for name in ("row_starts", "columns"))
        if all(isinstance(each, torch.Tensor) and not each.is_meta for each in (starts, columns)):
            fault = csr_fault(starts, columns, self.shape)
            if fault:
                raise ValueError(f"{prefix[:-1]} of the state dict is damaged: {fault}")
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        rows, width = self.shape
        count = self.columns.shape[0]
        return f"{rows} x {width}, nonzeros={count}, density={count / max(1, rows * width):.2g}"


def csr_fault(starts: torch.Tensor, columns: torch.Tensor, shape: tuple[int, ...] | torch.Size) -> str:
    """What is wrong with the row starts and columns of a matrix; "" if nothing is. Kernels read by them without a check."""
    rows, width = shape
    if any(part.dim() != 1 or part.is_floating_point() or part.dtype == torch.bool for part in (starts, columns)):
        return "its indices are no vectors of whole numbers."
    starts, columns = starts.to(torch.int64), columns.to(torch.int64)
    if starts.shape[0] != rows + 1:
        return f"it has {starts.shape[0] - 1} rows and should have {rows}."
    if columns.shape[0] >= 1 << 31:
        return "it has more nonzeros than 32-bit indices can count."
    counts = starts.diff()
    if int(starts[0]) != 0 or int(starts[-1]) != columns.shape[0] or bool(((counts < 0) | (counts > width)).any()):
        return f"its rows do not add up to its {columns.shape[0]} nonzeros."
    if columns.numel():
        if int(columns.min()) < 0 or int(columns.max()) >= width:
            return f"a column index is outside of its {width} columns."
        rising = columns[1:] > columns[:-1]
        firsts = starts[1:-1][(starts[1:-1] > 0) & (starts[1:-1] < columns.shape[0])]
        rising[firsts - 1] = True
        if not bool(rising.all()):
            return "its columns do not rise within each row."
    return ""


def nonzeros(dense: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(values, int32 row starts, int32 columns) of the entries of a matrix that a bool mask of its shape selects."""
    rows, columns = wanted.nonzero(as_tuple=True)
    starts = F.pad(torch.bincount(rows, minlength=dense.shape[0]).cumsum(0), (1, 0))
    return dense[rows, columns], starts.to(torch.int32), columns.to(torch.int32)


class _SparseModule(nn.Module):
    """A module whose `weight` is a `SparseMatrix`; its state dict may hold that as a dense matrix, as ordinary checkpoints do."""

    weight: SparseMatrix

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        dense, matrix = state_dict.pop(f"{prefix}weight", None), self.weight
        if dense is not None:
            if tuple(dense.shape) != tuple(matrix.shape):
                raise ValueError(f"{prefix}weight is {tuple(dense.shape)} in the checkpoint and {tuple(matrix.shape)} here.")
            rows, columns = (index.long().to(dense.device) for index in (matrix.support.row_of, matrix.columns))
            values = dense[rows, columns]
            if int((dense != 0).sum()) != int((values != 0).sum()):
                raise ValueError(
                    f"{prefix}weight has nonzeros in the checkpoint where this model, in sparse form, has none; load it with "
                    f"from_pretrained(..., sparse=True), or call to_dense() first."
                )
            own = {"values": values, "row_starts": matrix.row_starts, "columns": matrix.columns}
            state_dict.update({f"{prefix}weight.{name}": tensor for name, tensor in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *rest)


class SparseLinear(_SparseModule):
    """`nn.Linear` whose weight is a `SparseMatrix`."""

    def __init__(self, weight: SparseMatrix, bias: nn.Parameter | None):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sparse_product(x, self.weight.values, self.weight.support, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class SparseEmbedding(_SparseModule):
    """`nn.Embedding` whose weight is a `SparseMatrix`."""

    def __init__(self, weight: SparseMatrix):
        super().__init__()
        self.num_embeddings, self.embedding_dim = weight.shape
        self.weight = weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        values, support = self.weight.values, self.weight.support
        if ids.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"Token ids are {ids.dtype}; an embedding takes int64 or int32.")
        flat, width = ids.reshape(-1), self.embedding_dim
        if flat.numel() and not torch.compiler.is_compiling() and flat.device.type == "cpu":
            low, high = int(flat.min()), int(flat.max())
            if low < 0 or high >= self.num_embeddings:
                raise IndexError(f"Token ids run from {low} to {high}; this embedding has 0 to {self.num_embeddings - 1}.")
        fast = None if values.requires_grad and torch.is_grad_enabled() else kernels()
        out = None if fast is None else fast.embedding(flat, values, support)
        if out is not None:
            return out.view(*ids.shape, width)
        first = support.starts[flat].long()
        counts = support.starts[flat + 1].long() - first
        token = torch.arange(flat.shape[0], device=flat.device).repeat_interleave(counts)
        offset = torch.arange(token.shape[0], device=flat.device) - (counts.cumsum(0) - counts)[token]
        entry = first[token] + offset
        rows = values.new_zeros(flat.shape[0], width).index_put((token, support.columns[entry].long()), values[entry])
        return rows.view(*ids.shape, width)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"
