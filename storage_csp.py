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
import platform
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .reading_csp import parse_json, read_object
from .sparse_csp import csr_fault, nonzeros

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
_BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}
_INDEX_TYPES = ((torch.uint8, 1 << 8), (torch.uint16, 1 << 16), (torch.int32, 1 << 31))
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

# ------------------------------------------------------------------------------------------------------------- scratch

# Scratch folders and files of a save tell whose they are: host and process. Those of a killed process are swept by the next save.
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_SCRATCH = re.compile(r"\.(?:saving|partial|writing|circuit)-([0-9a-f]{8})-(\d+)-\w+|\.(?:saving-|partial-|circuit\.)\w{8}")
_ABANDONED = (
    24 * 3600
)  # seconds after which scratch of other hosts, and of versions that did not say whose it is, is taken to be left over


def scratch_prefix(kind: str) -> str:
    """The start of a scratch name of this process; kind: saving, partial, writing or circuit."""
    return f".{kind}-{_HOST}-{os.getpid()}-"


def sweep(folder: str | Path) -> None:
    """Removes what saves that were killed left in a folder. What a process that lives, or may live elsewhere, is writing stays."""
    with contextlib.suppress(OSError):
        for path in list(Path(folder).iterdir()):
            match = _SCRATCH.fullmatch(path.name)
            if match is not None and _is_left_over(path, match[1], match[2]):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _is_left_over(path: Path, host: str | None, process: str | None) -> bool:
    if host == _HOST and process is not None:
        return int(process) != os.getpid() and not lives(int(process))
    return time.time() - path.lstat().st_mtime > _ABANDONED


def lives(process: int) -> bool:
    """Whether a process of this machine runs."""
    if os.name == "nt":  # where signal 0 would end the process
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


# ------------------------------------------------------------------------------------------------------------- writing


def compressed(tensor: Stored) -> Stored:
    """The smaller of a matrix and its nonzeros, bit for bit: -0.0 counts as a nonzero here."""
    if isinstance(tensor, Nonzeros):
        return tensor
    tensor = tensor.detach()
    if tensor.dim() != 2 or tensor.dtype not in _NAME_OF or 0 in tensor.shape:
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
    for dtype in (torch.bfloat16, torch.float16, torch.float32) if values.dtype in _NAME_OF else ():
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


def metadata_sha256(tensors: dict[str, torch.Tensor]) -> str:
    """sha256 of tensors with their names, types and shapes, for the metadata of the file that holds them."""
    return _digest("", tensors)


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
    """Writes the files of a sparse checkpoint; returns their names, the last one first to be read. Each appears whole or not at all.

    Shards are named by a hash of their content, so that those of another save are never overwritten, nor mixed up with them.
    """
    folder, shards = Path(folder), _shards(tensors, max_shard_size)
    tables = [json.dumps({key: _described(tensor) for key, tensor in shard.items()}, sort_keys=True) for shard in shards]
    every = [{key: part for name, t in shard.items() for key, part in _parts(name, t).items()} for shard in shards]
    digests = [_digest(table, parts) for table, parts in zip(tables, every, strict=True)]
    names = [WEIGHTS_NAME]
    if len(shards) > 1:
        stem, end = WEIGHTS_NAME.split(".")
        save = hashlib.sha256("".join(digests).encode()).hexdigest()[:8]
        names = [f"{stem}-{save}-{i:05d}-of-{len(shards):05d}.{end}" for i in range(1, len(shards) + 1)]
    for name, table, parts, digest in zip(names, tables, every, digests, strict=True):
        metadata = {"format": FORMAT, "version": VERSION, "tensors": table, "sha256": digest}
        with _appearing(folder / name) as partial:
            save_file(parts, partial, metadata=metadata)
    if len(shards) > 1:
        index: dict[str, Any] = {"metadata": {"format": FORMAT, "version": VERSION}}
        index["weight_map"] = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        with _appearing(folder / INDEX_NAME) as partial:
            Path(partial).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        names.append(INDEX_NAME)
    return names


@contextlib.contextmanager
def _appearing(path: Path) -> Any:
    handle, partial = tempfile.mkstemp(prefix=scratch_prefix("partial"), dir=path.parent)
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
    if _digest(table, parts) != metadata.get("sha256"):
        raise ValueError(f"{damaged}: its content does not have the sha256 that it was written with; get it again.")
    try:
        entries = parse_json(table, "the table of its tensors")
        return {name: _stored(name, entry, parts) for name, entry in entries.items()} if _complete(entries, parts) else {}
    except (KeyError, TypeError, AttributeError) as error:
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
    shape, dtype = entry["shape"], _DTYPES.get(entry["dtype"])
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
    weight_map = read_object(Path(path), fix="it is damaged, get it again").get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{Path(path).name} is damaged (it has no weight_map); get it again.")
    if not weight_map:
        raise ValueError(f"{Path(path).name} is damaged (it lists nothing); get it again.")
    for name in weight_map.values():
        if not isinstance(name, str) or not SPARSE_FILES.fullmatch(name):
            raise ValueError(f"{Path(path).name} lists {name!r:.80}, which is no shard of a sparse checkpoint.")
    return weight_map


def move_into(folder: str | Path, scratch: str | Path, last: list[str]) -> None:
    """Moves the files of a scratch folder into a folder, those named in `last` at the end, each at once; config.json only if named."""
    names = [path.name for path in Path(scratch).iterdir() if path.name != "config.json" or path.name in last]
    for name in sorted(names, key=lambda name: (name in last, last.index(name) if name in last else 0)):
        target = Path(folder) / name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(Path(scratch) / name, target)
