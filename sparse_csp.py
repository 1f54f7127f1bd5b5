"""The sparse primitives: AbsTopK on activations, products with weights of which only the nonzeros are kept, and modules made of them.

`abs_topk` keeps the k entries of largest magnitude in each row. Its semantics are exact and the same on every path: exactly
k entries are kept, ties go to the lower index, and NaN ranks above infinity (so a NaN is kept and stays visible). Ties matter even
among zeros: a kept zero passes gradient. The one exception is float64, the dtype of verification, which leaves ties to `torch.topk`:
the reference training run was made so, and departs within a step under any other choice.

`sparse_product` multiplies activations with a matrix of which only the nonzeros are kept. Zeros are not multiplied: an infinite or
NaN activation reaches the outputs that it is connected to, and no others (a dense product would spread it to all as NaN).

Three paths with equal results, up to the order of float32 sums: PyTorch, always there; Numba (`kernels_csp.py`), where it is
installed (the extra `fast`), on CPU; Triton (`gpu_kernels_csp.py`) on GPUs. The latter two serve outside of torch.compile, in
float32 and narrower. CSP_KERNELS=torch in the environment forces the first.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F

_SAME_WIDTH_INT = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}

# ---------------------------------------------------------------------------------------------------------- running kernels

LANES = 16  # tokens in one chunk of a product (`kernels_csp.LANES`)
_ENTRIES_PER_CHUNK = 1 << 16  # of AbsTopK


@functools.lru_cache(maxsize=1)
def kernels() -> dict[str, Any] | None:
    """The kernels by name, or None where Numba is not installed or not wanted."""
    if os.environ.get("CSP_KERNELS", "auto") == "torch" or importlib.util.find_spec("numba") is None:
        return None
    try:
        from .block_kernels_csp import BLOCK_KERNELS
        from .kernels_csp import KERNELS
    except ImportError as error:
        warnings.warn(f"Numba cannot be used ({error}); PyTorch serves instead, slower.", stacklevel=2)
        return None
    return KERNELS | BLOCK_KERNELS


def kernels_serve(*tensors: torch.Tensor) -> bool:
    """Whether the kernels can take these tensors: float32 on CPU, plain, not empty, and nothing is being traced."""
    for x in tensors:
        if x.dtype != torch.float32 or x.device.type != "cpu" or x.numel() == 0:
            return False
        if type(x) is not torch.Tensor and type(x) is not nn.Parameter:
            return False
    return not _is_transformed() and kernels() is not None


def _is_transformed() -> bool:
    """Whether something other than plain execution and reverse-mode gradients is going on: tracing, torch.func, forward-mode AD."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
    )


def gpu_kernels(x: torch.Tensor) -> Any:
    """The module `gpu_kernels_csp` for a tensor on a GPU that it can take, or None. (Tested in Triton's interpreter only.)"""
    if x.device.type != "cuda" or x.dtype not in (torch.float32, torch.float16, torch.bfloat16) or x.numel() == 0:
        return None
    module = None if _is_transformed() else _triton_kernels()
    return module if module is not None and module.ready(x.device) else None


@functools.lru_cache(maxsize=1)
def _triton_kernels() -> Any:
    if os.environ.get("CSP_KERNELS", "auto") == "torch" or importlib.util.find_spec("triton") is None:
        return None
    from .gpu_kernels_csp import __name__ as name

    return sys.modules[name]


@functools.cache
def _entry(kernel: str | Callable[..., None]) -> tuple[Any, int]:
    """A kernel as a C function, and its address. The first use compiles for seconds; later processes find the result on disk."""
    import numba
    import numba.core.config as settings

    signature = numba.types.void(numba.types.CPointer(numba.types.int64))
    source = (kernels() or {})[kernel] if isinstance(kernel, str) else kernel
    options: dict[str, Any] = {"nopython": True, "error_model": "numpy", "fastmath": {"contract"}}
    before, folder = settings.CACHE_DIR, _cache_folder(source.__code__.co_filename)  # type: ignore[attr-defined]
    try:
        settings.CACHE_DIR = folder or before  # type: ignore[attr-defined]
        function = numba.cfunc(signature, cache=folder is not None, **options)(source)
    finally:
        settings.CACHE_DIR = before  # type: ignore[attr-defined]
    address: Any = function.address
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address), address


@functools.cache
def _cache_folder(file: str) -> str | None:
    """Where compiled kernels are kept: beside this file, or in the user's cache; None where neither can be written. The name has a hash
    of the kernels' sources, since Numba itself notices changes of a kernel's own file only, not of those that it is made from."""
    here = Path(__file__).resolve().parent
    sources = b"".join(path.read_bytes() for path in (here / "kernels_csp.py", here / "block_kernels_csp.py", Path(file)))
    name = f"kernels-{hashlib.sha256(sources).hexdigest()[:16]}"
    for parent in (here / "__pycache__", Path("~/.cache/sparse_circuits")):
        try:
            folder = parent.expanduser() / name
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # not writable; no home
            continue
        if os.access(folder, os.W_OK):
            return str(folder)
    return None


@functools.lru_cache(maxsize=1)
def _openmp() -> Any:
    """GOMP_parallel of the OpenMP library that PyTorch has loaded, or None. Two teams of threads would fight for the cores."""
    try:
        parallel = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    parallel.argtypes, parallel.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return parallel


@functools.lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=max(1, os.cpu_count() or 1), thread_name_prefix="sparse_circuits")


@functools.cache
def _words(count: int) -> Any:
    return ctypes.c_int64 * count


def run(kernel: str | Callable[..., None], chunks: int, *arguments: int) -> None:
    """Runs the chunks of a kernel (one of `kernels()`, or its function) on as many threads as PyTorch may use; returns when all are
    done."""
    function, address = _entry(kernel)
    job = _words(len(arguments) + 2)(0, chunks, *arguments)
    threads = min(chunks, torch.get_num_threads()) if chunks > 1 else 1
    if threads == 1:
        function(ctypes.addressof(job))
    elif (parallel := _openmp()) is not None:
        parallel(address, ctypes.addressof(job), threads, 0)
    else:
        for other in [_pool().submit(function, ctypes.addressof(job)) for _ in range(threads)]:
            other.result()
    if job[0] < chunks:  # kernels take all their memory before they draw the first chunk
        raise MemoryError(
            "There is not enough memory for the scratch space of a kernel; use shorter sequences or smaller batches."
        )


# ----------------------------------------------------------------------------------------------------------------- AbsTopK


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
        return torch.where(torch.zeros_like(x, dtype=torch.bool), x, 0)
    if x.dtype in (torch.bfloat16, torch.float16) and x.device.type == "cpu" and not torch.compiler.is_compiling():
        return abs_topk(x.float(), k).to(x.dtype)  # the same selection: widening keeps order and ties
    gpu = gpu_kernels(x)
    if kernels_serve(x) or (gpu is not None and width <= gpu.MAX_WIDTH):
        if x.requires_grad and torch.is_grad_enabled():
            return _FastAbsTopK.apply(x, k)
        return _fast_abs_topk(x, k, None) if gpu is None else gpu.abs_topk(x, k)[0]
    return torch.where(abs_topk_mask(x.detach(), k), x, 0)


def abs_topk_mask(x: torch.Tensor, k: int) -> torch.Tensor:
    """Bool mask [..., width] of the entries that `abs_topk` keeps, by PyTorch alone; 0 < k < width."""
    # ONNX has no view of a float's bits; its TopK gives ties to the lower index, as we do.
    if x.dtype == torch.float64 or torch.onnx.is_in_onnx_export():
        index = x.abs().topk(k, dim=-1).indices
        return torch.zeros_like(x, dtype=torch.bool).scatter_(-1, index, True)
    return largest_mask(magnitude_bits(x), k)


def magnitude_bits(x: torch.Tensor) -> torch.Tensor:
    """|x| as integers of its width: the bits of a non-negative float order as integers do, with NaN above infinity."""
    return x.abs().view(_SAME_WIDTH_INT[x.dtype])


def largest_mask(keys: torch.Tensor, k: int) -> torch.Tensor:
    """Bool mask of exactly k largest integers in each row [..., width], ties to the lower index; 0 < k <= width."""
    threshold = keys.topk(k, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True)
    above = keys > threshold
    tied = keys == threshold
    room = k - above.sum(dim=-1, keepdim=True)
    return above | (tied & (tied.cumsum(dim=-1) <= room))


def _fast_abs_topk(x: torch.Tensor, k: int, kept: torch.Tensor | None) -> torch.Tensor:
    x, width = x.contiguous(), x.shape[-1]
    out = torch.empty_like(x)
    rows = x.numel() // width
    per_chunk = max(1, _ENTRIES_PER_CHUNK // width)
    mask = 0 if kept is None else kept.data_ptr()
    run("abs_topk", -(-rows // per_chunk), x.data_ptr(), out.data_ptr(), mask, rows, width, k, per_chunk)
    return out


class _FastAbsTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, k: int) -> torch.Tensor:
        gpu = gpu_kernels(x)
        if gpu is not None:
            out, kept = gpu.abs_topk(x, k)
        else:
            kept = torch.empty(x.shape, dtype=torch.bool)
            out = _fast_abs_topk(x, k, kept)
        ctx.save_for_backward(kept)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (kept,), gradient = ctx.saved_tensors, gradients[0]
        if torch.is_grad_enabled() or not kernels_serve(gradient):  # a second derivative is wanted, or it is no plain tensor
            return torch.where(kept, gradient, 0), None
        gradient, out, count = (
            gradient.contiguous(),
            torch.empty_like(gradient, memory_format=torch.contiguous_format),
            gradient.numel(),
        )
        chunks = -(-count // _ENTRIES_PER_CHUNK)
        run("masked", chunks, gradient.data_ptr(), kept.data_ptr(), out.data_ptr(), count, _ENTRIES_PER_CHUNK)
        return out, None


# ---------------------------------------------------------------------------------------------------------- sparse products


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
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return _transformable_product(x, values, support, bias)
    if torch.is_grad_enabled():
        out = _SparseProduct.apply(flat, values, support, bias)
    else:
        out = _product(flat, values, support, bias)
    return out.view(*x.shape[:-1], support.shape[0])


def _transformable_product(x: torch.Tensor, values: torch.Tensor, support: Support, bias: torch.Tensor | None) -> torch.Tensor:
    """The same in operations that torch.func and forward-mode AD know, at the cost of a [..., nonzeros] tensor."""
    terms = x[..., support.columns.long()] * values.to(x.dtype)
    out = torch.zeros_like(x[..., :1]).expand(*x.shape[:-1], support.shape[0]).index_add(-1, support.count_rows().long(), terms)
    return out if bias is None else out + bias


def _product(x: torch.Tensor, values: torch.Tensor, support: Support, bias: torch.Tensor | None) -> torch.Tensor:
    wide = torch.promote_types(values.dtype, torch.float32)
    inputs, weights = x.to(wide), values.to(wide)
    if kernels_serve(inputs, weights):
        return _fast_product(inputs, weights, support, bias).to(x.dtype)
    gpu = gpu_kernels(inputs) if weights.numel() else None
    if gpu is not None and inputs.dtype == torch.float32:
        out = gpu.product(inputs, support.starts, support.columns, weights)
    else:
        out = _torch_product(inputs, weights, support)
    return (out if bias is None else out + bias).to(x.dtype)


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
            dvalues = _ValueGradient.apply(dy, x, ctx.support).to(values.dtype)
        if ctx.needs_input_grad[3]:
            dbias = dy.sum(0)
        return dx, dvalues, None, dbias


class _ValueGradient(torch.autograd.Function):
    """(dy [tokens, rows], x [tokens, width]) -> the entries of dy.T @ x on the support."""

    @staticmethod
    def forward(ctx: Any, dy: torch.Tensor, x: torch.Tensor, support: Support) -> torch.Tensor:
        ctx.save_for_backward(dy, x)
        ctx.support = support
        wide = torch.promote_types(x.dtype, torch.float32)
        dy, x = dy.to(wide), x.to(wide)
        if kernels_serve(dy, x):
            return _fast_value_gradient(dy, x, support)
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


def _fast_product(x: torch.Tensor, values: torch.Tensor, support: Support, bias: torch.Tensor | None) -> torch.Tensor:
    rows, width = support.shape
    x, values = x.contiguous(), values.contiguous()
    out = torch.empty(x.shape[0], rows, dtype=torch.float32)  # whatever the default dtype is meanwhile
    kept_alive = None if bias is None else bias.to(torch.float32).contiguous()
    # Four groups of lanes share each weight that is read, as long as their inputs fit the second-level cache.
    per_chunk = 4 * LANES if x.shape[0] >= 8 * LANES and width <= 4096 else LANES
    run(
        "product", -(-x.shape[0] // per_chunk), x.data_ptr(), out.data_ptr(), x.shape[0], width, rows,
        support.starts.data_ptr(), support.columns.data_ptr(), values.data_ptr(),
        0 if kept_alive is None else kept_alive.data_ptr(), per_chunk,
    )  # fmt: skip
    return out


def _fast_value_gradient(dy: torch.Tensor, x: torch.Tensor, support: Support) -> torch.Tensor:
    dy, x, tokens = dy.contiguous(), x.contiguous(), x.shape[0]
    nonzeros = support.columns.shape[0]
    per_chunk = -(-tokens // (16 * LANES)) * LANES  # at most 16 chunks, each with a row of partial sums
    chunks = -(-tokens // per_chunk)
    partial = torch.empty(chunks, nonzeros, dtype=torch.float32)
    run(
        "value_gradient", chunks, dy.data_ptr(), x.data_ptr(), partial.data_ptr(), tokens, *support.shape,
        support.row_of.data_ptr(), support.columns.data_ptr(), nonzeros, per_chunk,
    )  # fmt: skip
    return partial.sum(0)


# --------------------------------------------------------------------------------------------------------- sparse modules

# Where nonzeros are faster than dense, by `benchmarks/sparse.py` on 2 cores (AVX-512): with the kernels up to this density, or, for one
# matrix, up to this many nonzeros, whose time is less than what a fused block saves; by PyTorch alone up to a lower density, and only
# for matrices of some size.
KERNEL_DENSITY, KERNEL_NONZEROS = 1 / 16, 1 << 14
TORCH_DENSITY, TORCH_ENTRIES = 1 / 64, 1 << 18
GPU_DENSITY = 1 / 100  # where the paper (section 2) sees sparse kernels pay off; not measured here


def pays(shape: tuple[int, ...] | torch.Size, count: int, device: torch.device, max_density: float | None = None) -> bool:
    """Whether a matrix with `count` nonzeros should run as nonzeros: the one place of that choice.

    `max_density` replaces the measured rule: 1.0 takes every matrix, 0.0 none that has a nonzero.
    """
    entries = shape[0] * shape[1]
    if max_density is not None:
        return count <= max_density * entries
    if device.type == "cpu" and kernels() is not None:
        return count <= KERNEL_DENSITY * entries or (count <= KERNEL_NONZEROS and count <= entries / 4)
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
        wanted = values.requires_grad and torch.is_grad_enabled()
        if flat.numel() and kernels_serve(values) and not wanted:
            out, small = torch.empty(flat.shape[0], width, dtype=torch.float32), flat.to(torch.int32)
            run(
                "embedding", flat.shape[0], small.data_ptr(), out.data_ptr(), flat.shape[0], width,
                support.starts.data_ptr(), support.columns.data_ptr(), values.data_ptr(),
            )  # fmt: skip
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
