"""Running kernels: whether they can serve, and their compilation, threads and scratch space. Imports no Numba until one runs."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .jobs import FIRST

LANES = 16  # tokens that a product handles side by side
ONCE = (
    "While a model trains with WeightSparsityCallback, what AbsTopK left is kept for one derivative at a time; for second ones, or many at once, call "
    "sparse_circuits.training.products.detach(model) first."
)
Kernel = Callable[[Any], None]


@functools.lru_cache(maxsize=1)
def available() -> bool:
    """Whether the CPU kernels can be used: Numba is installed, works, and is wanted."""
    if os.environ.get("CSP_KERNELS", "auto") == "torch" or importlib.util.find_spec("numba") is None:
        return False
    try:
        import numba  # noqa: F401
    except ImportError as error:
        warnings.warn(f"Numba cannot be used ({error}); PyTorch serves instead, slower.", stacklevel=2)
        return False
    return True


def serve(*tensors: torch.Tensor, halves: bool = False) -> bool:
    """Whether the CPU kernels can take these tensors: float32 (if `halves`, bfloat16 and float16 too) on CPU, plain, not empty. (Nothing may be traced
    meanwhile: who calls looks.)"""
    for x in tensors:
        if (
            not (x.dtype == torch.float32 or (halves and x.dtype in (torch.bfloat16, torch.float16)))
            or x.device.type != "cpu"
            or x.numel() == 0
        ):
            return False
        if (type(x) is not torch.Tensor and type(x) is not nn.Parameter) or is_batched(x):
            return False
    return available()


def is_batched(x: torch.Tensor) -> bool:
    """Whether a tensor stands for many, as gradients do under `is_grads_batched`: it has no memory of its own."""
    return bool(torch._C._functorch.is_legacy_batchedtensor(x))


@functools.cache
def _entry(kernel: Kernel) -> tuple[Any, int]:
    """A kernel as a C function, and its address. The first use compiles for seconds; later processes find the result on disk."""
    import numba
    import numba.core.config as settings

    signature = numba.types.void(numba.types.CPointer(numba.types.int64))
    options: dict[str, Any] = {"nopython": True, "error_model": "numpy", "fastmath": {"contract"}}
    before, folder = settings.CACHE_DIR, _cache_folder()  # type: ignore[attr-defined]
    try:
        settings.CACHE_DIR = folder or before  # type: ignore[attr-defined]
        function = numba.cfunc(signature, cache=folder is not None, **options)(kernel)
    finally:
        settings.CACHE_DIR = before  # type: ignore[attr-defined]
    address: Any = function.address
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address), address


@functools.cache
def _cache_folder() -> str | None:
    """Where compiled kernels are kept: beside this file, or in the user's cache; None where neither can be written. The name has a hash
    of all kernels' sources, since Numba itself notices changes of a kernel's own file only, not of those that it is made from."""
    here = Path(__file__).resolve().parent
    sources = b"".join(path.read_bytes() for path in sorted(here.glob("*.py")))
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


def run(kernel: Kernel, chunks: int, record: Iterable[int]) -> None:
    """Runs the chunks of a kernel on as many threads as PyTorch may use; returns when all are done.

    Args:
        record: the kernel's job (`jobs.py`), flat.
    """
    function, address = _entry(kernel)
    fields = tuple(record)
    job = _words(FIRST + len(fields))(0, chunks, *fields)
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
