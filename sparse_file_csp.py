"""Checkpoints that hold only the nonzeros, read and checked; the package writes them (`checkpoints/writing.py`).

The file is `sparse_weights.safetensors` (sharded: with an index, as transformers' own). A matrix W becomes three tensors, in CSR:
`values::W`, `columns::W` and `counts::W` (nonzeros in each row), with the narrowest index types; where that is not smaller, and for
vectors, `dense::W`. No tensor bears a parameter's name, so nothing that expects an ordinary checkpoint finds half of one. Values
are stored in a narrower type where that loses no bit. The metadata hold a table of shapes and types and a sha256 of everything.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import logging

from .configuration_csp import read_object
from .nonzeros_csp import csr_fault

logger = logging.get_logger(__name__)

WEIGHTS_NAME = "sparse_weights.safetensors"
INDEX_NAME = "sparse_weights.safetensors.index.json"
FORMAT, VERSION = "csp-sparse", "1"
DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SPARSE_FILES = re.compile(r"sparse_weights(-[0-9a-f]{8}-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
ORDINARY_FILES = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")


@dataclass(frozen=True)
class Nonzeros:
    """A matrix by its nonzeros, row by row: values [n], int32 columns [n], int32 starts [rows + 1]."""

    values: torch.Tensor
    starts: torch.Tensor
    columns: torch.Tensor
    shape: tuple[int, int]

    def to_dense(self) -> torch.Tensor:
        rows = torch.arange(self.shape[0]).repeat_interleave(self.starts.diff().long())
        dense = self.values.new_zeros(self.shape)
        dense[rows, self.columns.long()] = self.values
        return dense

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype


Stored = torch.Tensor | Nonzeros


def read_sparse(files: list[str | Path], weight_map: dict[str, str] | None = None) -> dict[str, Stored]:
    """All tensors of the files of a sparse checkpoint, checked; with the index' `weight_map`, if there is one.

    Raises:
        ValueError: naming the file and what is wrong with it: not a sparse checkpoint, of a newer version, truncated, of other content
            than its hash, or inconsistent in itself.
    """
    tensors: dict[str, Stored] = {}
    for path in files:
        for name, tensor in _read_file(Path(path)).items():
            if name in tensors:
                raise ValueError(f"{Path(path).name} holds {name} again, which another shard holds; the checkpoint is damaged.")
            tensors[name] = tensor
            if weight_map is not None and weight_map.get(name) != Path(path).name:
                raise ValueError(
                    f"{Path(path).name} holds {name}, which its index does not list there; get the checkpoint again."
                )
    lost = sorted(set(weight_map or ()) - set(tensors))
    if lost:
        raise ValueError(f"The index lists {lost[0]}, which no shard holds; get the checkpoint again.")
    return tensors


def _read_file(path: Path) -> dict[str, Stored]:
    damaged = f"{path.name} is damaged"
    if path.exists() and not path.is_file():  # a pipe would never end
        raise OSError(f"{path} is no file; get it again.")
    try:
        with safe_open(str(path), framework="pt") as opened:
            metadata = opened.metadata() or {}
            parts = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; the checkpoint is incomplete, get it again.") from None
    except (SafetensorError, OSError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{damaged} or truncated ({str(error).splitlines()[0][:120]}); get it again.") from None
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path.name} is no sparse checkpoint of this package (its metadata lack format={FORMAT!r}).")
    if metadata.get("version") != VERSION:
        raise ValueError(
            f"{path.name} has version {metadata.get('version')!r:.40} of the format, this package reads {VERSION!r}; "
            f"install a newer sparse_circuits."
        )
    table = metadata.get("tensors", "")
    if digest(table, parts) != metadata.get("sha256"):
        raise ValueError(f"{damaged}: its content does not have the sha256 that it was written with; get it again.")
    try:
        entries = json.loads(table)
        return {name: _stored(name, entry, parts) for name, entry in entries.items()} if _complete(entries, parts) else {}
    except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{damaged}: its table of tensors cannot be read ({type(error).__name__}: {str(error)[:100]})."
        ) from None
    except ValueError as error:
        raise ValueError(f"{damaged}: {error}") from None


def _complete(entries: dict[str, Any], parts: dict[str, torch.Tensor]) -> bool:
    kinds = {True: ("values", "columns", "counts"), False: ("dense",)}
    expected = {f"{kind}::{name}" for name, entry in entries.items() for kind in kinds["nonzeros" in entry]}
    if expected != set(parts):
        odd = sorted(expected ^ set(parts))[0]
        raise ValueError(f"its table and its tensors differ, in {odd} first.")
    return True


def _stored(name: str, entry: dict[str, Any], parts: dict[str, torch.Tensor]) -> Stored:
    shape, dtype = entry["shape"], DTYPES.get(entry["dtype"])
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 1 << 31 for size in shape):
        raise ValueError(f"the shape of {name} is {shape!r:.60}.")
    if "nonzeros" not in entry:
        dense = parts[f"dense::{name}"]
        if list(dense.shape) != shape:
            raise ValueError(f"{name} is {list(dense.shape)} and should be {shape}.")
        return dense if dtype is None else dense.to(dtype)
    values, columns, counts = (parts[f"{kind}::{name}"] for kind in ("values", "columns", "counts"))
    if dtype is None or not values.is_floating_point():
        raise ValueError(f"the values of {name} are {entry['dtype']!r:.40}, which no weights are.")
    if len(shape) != 2 or any(part.dim() != 1 or part.is_floating_point() for part in (columns, counts)) or values.dim() != 1:
        raise ValueError(f"{name} is not stored as a matrix's nonzeros.")
    rows, width = shape
    if counts.shape[0] != rows or values.shape != columns.shape or values.shape[0] != entry["nonzeros"]:
        raise ValueError(f"{name} has {values.shape[0]} values, {columns.shape[0]} columns and {counts.shape[0]} rows.")
    counts = counts.to(torch.int64)
    if bool(((counts < 0) | (counts > width)).any()):  # before they are summed, which could wrap around
        raise ValueError(f"the rows of {name} do not add up to its {values.shape[0]} nonzeros.")
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    fault = csr_fault(starts, columns, (rows, width))
    if fault:
        raise ValueError(f"{name}: {fault}")
    return Nonzeros(values.to(dtype), starts.to(torch.int32), columns.to(torch.int32), (rows, width))


def read_index(path: str | Path) -> dict[str, str]:
    """Tensor -> shard, as an index lists them; plain names only, so that a file cannot point elsewhere."""
    weight_map = read_object(path, fix="it is damaged, get it again").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{Path(path).name} is damaged (it lists no weights); get it again.")
    for name in weight_map.values():
        if not isinstance(name, str) or not SPARSE_FILES.fullmatch(name):
            raise ValueError(f"{Path(path).name} lists {name!r:.80}, which is no shard of a sparse checkpoint.")
    return weight_map


def digest(table: str, tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(table.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        if tensor.numel():
            raw: Any = tensor.contiguous().view(-1).view(torch.uint8).numpy()
            digest.update(raw)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------- whether tensors are a model's own

_LAYER = re.compile(r"(?:transformer\.)?h\.(\d{1,9})\.")
_BASE_PARTS = ("h", "wte", "wpe", "final_norm")  # of the base model
NOT_ONE = "config.json and the weights are not of one model"


class NotOneModel(ValueError):
    """A checkpoint and a config that do not fit."""


def require_layers(config: Any, names: Any) -> None:
    """Raises if the tensors are of more or fewer layers than the config asks for, which would be slow to build."""
    found = {int(match[1]) for name in names if (match := _LAYER.match(name))}
    if found and found != set(range(config.n_layer)):
        raise NotOneModel(
            f"The checkpoint has {len(found)} layers{'' if max(found) < len(found) else f', numbered up to {max(found)}'}, its config asks for {config.n_layer}; {NOT_ONE}."
        )


def fitting(model: Any, tensors: Mapping[str, Any], strict: bool = False, any_shape: bool = False) -> dict[str, Any]:
    """A checkpoint's tensors for a model that is only a skeleton, before anything of their size is made.

    What belongs to the base model must be there, exactly; so must the head, if the model is of the class that was saved, or if `strict`.
    Otherwise the head is transformers' to make anew, as ever when a task changes.

    Raises:
        ValueError: naming a tensor that is missing, not asked for, or of another shape (unless `any_shape`) or kind than the config's.
    """
    expected, prefix = model.state_dict(), model.base_model_prefix + "."
    is_base = not hasattr(model, model.base_model_prefix)
    tensors = dict(tensors)
    if is_base and any(name.startswith(prefix) for name in tensors):  # saved with a head
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    elif not is_base and not any(name.startswith(prefix) for name in tensors):  # saved without one
        tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    if model.config.tie_word_embeddings and "lm_head.weight" in expected and f"{prefix}wte.weight" in tensors:
        tensors["lm_head.weight"] = tensors[f"{prefix}wte.weight"]
    strict = strict or is_base or type(model).__name__ in (model.config.architectures or ())
    for name in sorted(set(expected) ^ set(tensors)):
        if strict or name.startswith(prefix):
            raise NotOneModel(
                f"The checkpoint {'lacks ' + name if name in expected else f'holds {name:.200}, which its config does not ask for'}; {NOT_ONE}."
            )
    unused = sorted(set(tensors) - set(expected))
    if unused:
        logger.warning(f"{type(model).__name__} does not use {', '.join(unused)} of the checkpoint, which is of another head.")
    for name in sorted(set(expected) & set(tensors)):
        if tuple(tensors[name].shape) != tuple(expected[name].shape) and not any_shape:
            raise NotOneModel(
                f"{name} is {tuple(tensors[name].shape)} in the checkpoint and {tuple(expected[name].shape)} by its config; {NOT_ONE}."
            )
        if not getattr(tensors[name].dtype, "is_floating_point", False):
            raise NotOneModel(f"{name} is {tensors[name].dtype} in the checkpoint, which no weights are.")
    return {name: tensor for name, tensor in tensors.items() if name in expected}


def require_complete(model: Any, info: dict[str, Any], path: Any) -> None:
    """Raises if transformers had to make weights of a checkpoint anew, by what it says after loading."""
    prefix = model.base_model_prefix + "."
    strict = type(model).__name__ in (model.config.architectures or ())
    is_base = not hasattr(model, model.base_model_prefix)
    for kind, said in (("missing_keys", "lack"), ("unexpected_keys", "hold")):
        for name in sorted(info.get(kind) or ()):
            ours = name.removeprefix(prefix).split(".")[0] in _BASE_PARTS
            if ours or (strict and not is_base) or (is_base and kind == "missing_keys"):
                extra = "" if said == "lack" else ", which its config does not ask for"
                raise ValueError(f"The weights in {path} {said} {name:.200}{extra}; {NOT_ONE}.")
