"""Tensors in safetensors files that know their own sha256."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors

from ..sparse_file_csp import digest


def metadata_sha256(tensors: dict[str, torch.Tensor]) -> str:
    """sha256 of tensors with their names, types and shapes, for the metadata of the file that holds them."""
    return digest("", tensors)


def read_tensors(path: Path, *, fix: str = "get it again") -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and metadata of a safetensors file; where its metadata have a sha256 of the tensors (`tensors_with_sha256`), it must fit.

    Raises:
        FileNotFoundError, ValueError: naming the file and why it cannot be used, with `fix`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {fix}.")
    try:
        with safe_open(str(path), framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:120]
        raise ValueError(f"{path} is damaged or truncated ({reason}); {fix}.") from None
    if "sha256" in metadata and metadata["sha256"] != metadata_sha256(tensors):
        raise ValueError(f"{path} is damaged: its content does not have the sha256 that it was written with; {fix}.")
    return tensors, metadata


def tensors_with_sha256(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """The bytes of a safetensors file that knows its own sha256, which `read_tensors` checks."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return to_safetensors(tensors, {"format": "pt", "sha256": metadata_sha256(tensors)})
