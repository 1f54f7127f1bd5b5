"""Checkpoints that hold only the nonzeros, and models that load and run them.

The file is `sparse_weights.safetensors` (sharded: with an index, as transformers' own). A matrix W becomes three tensors, in CSR:
`values::W`, `columns::W` and `counts::W` (nonzeros in each row), with the narrowest index types; where that is not smaller, and for
vectors, `dense::W`. No tensor bears a parameter's name, so nothing that expects an ordinary checkpoint finds half of one. Values
are stored in a narrower type where that loses no bit. The metadata hold a table of shapes and types and a sha256 of everything.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .sparse_csp import nonzeros

WEIGHTS_NAME = "sparse_weights.safetensors"
INDEX_NAME = "sparse_weights.safetensors.index.json"
FORMAT, VERSION = "csp-sparse", "1"
# A folder is written in this form by default where that takes at most this share of the dense bytes.
PAYS_BELOW = 0.75

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_NAME_OF = {dtype: name for name, dtype in _DTYPES.items()}
_BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}
_INDEX_TYPES = ((torch.uint8, 1 << 8), (torch.uint16, 1 << 16), (torch.int32, 1 << 31))
SPARSE_FILES = re.compile(r"sparse_weights(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
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


# ------------------------------------------------------------------------------------------------------------- writing


def compressed(tensor: Stored) -> Stored:
    """The smaller of a matrix and its nonzeros, bit for bit: -0.0 counts as a nonzero here."""
    if isinstance(tensor, Nonzeros):
        return tensor
    tensor = tensor.detach()
    if tensor.dim() != 2 or not tensor.is_floating_point() or 0 in tensor.shape:
        return tensor.cpu().contiguous()
    wanted = tensor.contiguous().view(_BITS[tensor.element_size()]) != 0
    if int(wanted.sum()) * (tensor.element_size() + 1) >= tensor.numel() * tensor.element_size():
        return tensor.cpu().contiguous()
    values, starts, columns = (part.cpu() for part in nonzeros(tensor, wanted))
    sparse = Nonzeros(values, starts, columns, (tensor.shape[0], tensor.shape[1]))
    small = sum(part.nbytes for part in _parts("", sparse).values()) < _narrowed(tensor).nbytes
    return sparse if small else tensor.cpu().contiguous()


def _narrowed(values: torch.Tensor) -> torch.Tensor:
    """In the smallest type that gives back every bit."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        if dtype.itemsize < values.element_size():
            narrow, bits = values.to(dtype), _BITS[values.element_size()]
            if torch.equal(narrow.to(values.dtype).view(bits), values.view(bits)):
                return narrow
    return values


def _index(values: torch.Tensor, limit: int) -> torch.Tensor:
    """Whole numbers below `limit` in the narrowest type."""
    return values.to(next(dtype for dtype, end in _INDEX_TYPES if limit <= end)).contiguous()


def _parts(name: str, tensor: Stored) -> dict[str, torch.Tensor]:
    if isinstance(tensor, torch.Tensor):
        return {f"dense::{name}": _narrowed(tensor) if tensor.is_floating_point() else tensor}
    counts = tensor.starts.diff()
    return {
        f"values::{name}": _narrowed(tensor.values.contiguous()),
        f"columns::{name}": _index(tensor.columns, tensor.shape[1]),
        f"counts::{name}": _index(counts, int(counts.max()) + 1),
    }


def _described(tensor: Stored) -> dict[str, Any]:
    entry = {"shape": list(tensor.shape), "dtype": _NAME_OF.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))}
    return entry | ({"nonzeros": tensor.values.shape[0]} if isinstance(tensor, Nonzeros) else {})


def _digest(table: str, tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(table.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        if tensor.numel():
            raw: Any = tensor.contiguous().view(-1).view(torch.uint8).numpy()
            digest.update(raw)
    return digest.hexdigest()


def stored_bytes(tensors: dict[str, Stored]) -> int:
    """Bytes that the tensors take in a file."""
    return sum(part.nbytes for name, tensor in tensors.items() for part in _parts(name, tensor).values())


def _shards(tensors: dict[str, Stored], limit: int) -> list[dict[str, Stored]]:
    shards: list[dict[str, Stored]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        bytes_here = stored_bytes({name: tensor})
        if shards[-1] and size + bytes_here > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += bytes_here
    return shards


def write_sparse(folder: str | Path, tensors: dict[str, Stored], max_shard_size: int = 50 * 10**9) -> list[str]:
    """Writes the files of a sparse checkpoint; returns their names, the last one first to be read. Each appears whole or not at all."""
    folder, shards = Path(folder), _shards(tensors, max_shard_size)
    names = [WEIGHTS_NAME]
    if len(shards) > 1:
        stem, end = WEIGHTS_NAME.split(".")
        names = [f"{stem}-{i:05d}-of-{len(shards):05d}.{end}" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        table = json.dumps({key: _described(tensor) for key, tensor in shard.items()}, sort_keys=True)
        parts = {key: part for stored, tensor in shard.items() for key, part in _parts(stored, tensor).items()}
        metadata = {"format": FORMAT, "version": VERSION, "tensors": table, "sha256": _digest(table, parts)}
        with _appearing(folder / name) as partial:
            save_file(parts, partial, metadata=metadata)
    if len(shards) > 1:
        index = {"metadata": {"format": FORMAT, "version": VERSION}, "weight_map": {}}
        index["weight_map"] = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}  # type: ignore[assignment]
        with _appearing(folder / INDEX_NAME) as partial:
            Path(partial).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        names.append(INDEX_NAME)
    return names


@contextlib.contextmanager
def _appearing(path: Path) -> Any:
    handle, partial = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
    os.close(handle)
    try:
        yield partial
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def remove_weights(folder: str | Path, pattern: re.Pattern[str], keep: tuple[str, ...] | list[str] = ()) -> None:
    """Removes weight files of an earlier save, so that a folder never holds two models."""
    for path in Path(folder).iterdir():
        if pattern.fullmatch(path.name) and path.name not in keep:
            path.unlink()


# ------------------------------------------------------------------------------------------------------------- reading


def read_sparse(files: list[str | Path]) -> dict[str, Stored]:
    """All tensors of the files of a sparse checkpoint, checked.

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
    return tensors


def _read_file(path: Path) -> dict[str, Stored]:
    damaged = f"{path.name} is damaged"
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
            f"{path.name} has version {metadata.get('version')!r} of the format, this package reads {VERSION!r}; "
            f"install a newer sparse_circuits."
        )
    table = metadata.get("tensors", "")
    if _digest(table, parts) != metadata.get("sha256"):
        raise ValueError(f"{damaged}: its content does not have the sha256 that it was written with; get it again.")
    try:
        entries = json.loads(table)
        return {name: _stored(name, entry, parts) for name, entry in entries.items()} if _complete(entries, parts) else {}
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{damaged}: its table of tensors cannot be read ({type(error).__name__}: {error}).") from None
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
    shape, dtype = entry["shape"], _DTYPES.get(entry["dtype"])
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 1 << 31 for size in shape):
        raise ValueError(f"the shape of {name} is {shape!r}.")
    if "nonzeros" not in entry:
        dense = parts[f"dense::{name}"]
        if list(dense.shape) != shape:
            raise ValueError(f"{name} is {list(dense.shape)} and should be {shape}.")
        return dense if dtype is None else dense.to(dtype)
    values, columns, counts = (parts[f"{kind}::{name}"] for kind in ("values", "columns", "counts"))
    if dtype is None or not values.is_floating_point():
        raise ValueError(f"the values of {name} are {entry['dtype']!r}, which no weights are.")
    if len(shape) != 2 or any(part.dim() != 1 or part.is_floating_point() for part in (columns, counts)) or values.dim() != 1:
        raise ValueError(f"{name} is not stored as a matrix's nonzeros.")
    columns, counts = columns.to(torch.int64), counts.to(torch.int64)
    rows, width = shape
    if counts.shape[0] != rows or values.shape != columns.shape or values.shape[0] != entry["nonzeros"]:
        raise ValueError(f"{name} has {values.shape[0]} values, {columns.shape[0]} columns and {counts.shape[0]} rows.")
    if bool((counts < 0).any()) or int(counts.sum()) != values.shape[0]:
        raise ValueError(f"the rows of {name} do not add up to its {values.shape[0]} nonzeros.")
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    if columns.numel():
        if int(columns.min()) < 0 or int(columns.max()) >= width:
            raise ValueError(f"a column index of {name} is outside of its {width} columns.")
        rising = columns[1:] > columns[:-1]
        firsts = starts[1:-1][(starts[1:-1] > 0) & (starts[1:-1] < values.shape[0])]
        rising[firsts - 1] = True
        if not bool(rising.all()):
            raise ValueError(f"the columns of {name} do not rise within each row.")
    return Nonzeros(values.to(dtype), starts.to(torch.int32), columns.to(torch.int32), (rows, width))


def files_from_index(path: str | Path) -> list[str]:
    """Names of the shards that an index lists; plain names only, so that a file cannot point elsewhere."""
    try:
        names = sorted(set(json.loads(Path(path).read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{Path(path).name} is damaged ({type(error).__name__}); get it again.") from None
    for name in names:
        if not isinstance(name, str) or not SPARSE_FILES.fullmatch(name):
            raise ValueError(f"{Path(path).name} lists {name!r}, which is no shard of a sparse checkpoint.")
    return names


def move_into(folder: str | Path, scratch: str | Path, last: list[str]) -> None:
    """Moves every file of a scratch folder into a folder, those named in `last` at the end, each at once."""
    names = [path.name for path in Path(scratch).iterdir()]
    for name in sorted(names, key=lambda name: (name in last, last.index(name) if name in last else 0)):
        target = Path(folder) / name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(Path(scratch) / name, target)
