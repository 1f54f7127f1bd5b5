"""Checkpoints written as nonzeros: `save_pretrained(sparse=True)`, and the look at what is saved before an older save is replaced.

The form of the file is described, and read, in `sparse_file_csp.py`.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from ..files import appearing, scratch_prefix, sweep, write_whole
from ..hub import upload
from ..nonzeros_csp import nonzeros
from ..sparse_file_csp import (
    DTYPES,
    FORMAT,
    INDEX_NAME,
    ORDINARY_FILES,
    SPARSE_FILES,
    VERSION,
    WEIGHTS_NAME,
    Nonzeros,
    Stored,
    digest,
)
from ..sparse_form_csp import dense_state_dict, popped, sparse_matrices
from ..wiring_csp import TABLE_WEIGHT
from .fitting import first_line, skeleton

# A folder is written in this form by default where that takes at most this share of the dense bytes.
PAYS_BELOW = 0.75
_NAME_OF = {dtype: name for name, dtype in DTYPES.items()}
_BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}
_INDEX_TYPES = ((torch.uint8, 1 << 8), (torch.uint16, 1 << 16), (torch.int32, 1 << 31))
_TRAINER_CHECKPOINT = re.compile(r"checkpoint-\d+")


def save(
    model: Any,
    plain: Callable[..., Any],
    save_directory: Any,
    is_main_process: bool = True,
    state_dict: dict[str, torch.Tensor] | None = None,
    push_to_hub: bool = False,
    max_shard_size: int | str = "50GB",
    *,
    sparse: bool | None = None,
    **kwargs: Any,
) -> Any:
    """`save_pretrained` of a CSP model (`SparseForm.save_pretrained` says what it does); plain: transformers' own, of that model."""
    folder, adapter = Path(save_directory), getattr(model, "_hf_peft_config_loaded", False)
    if sparse is None:
        special = kwargs.get("variant") or kwargs.get("distributed_checkpoint") or adapter
        sparse = False if special or _TRAINER_CHECKPOINT.fullmatch(folder.name) else None
    elif sparse and kwargs.get("variant"):
        raise ValueError("Sparse checkpoints have no variants; leave out variant, or sparse=True.")
    if is_main_process:
        require_loadable(model, _names_saved(model, state_dict), folder)
    tensors = None if sparse is False else stored_tensors(model, state_dict, required=bool(sparse))
    if tensors is None or (sparse is None and not _much_smaller(tensors)):
        if not (kwargs.get("variant") or adapter):
            model.config.sparse_weights = False
        with written(folder):
            result = plain(
                save_directory, is_main_process=is_main_process, state_dict=dense_state_dict(model, state_dict), push_to_hub=push_to_hub,
                max_shard_size=max_shard_size, **kwargs,
            )  # fmt: skip
        # A save of a variant or an adapter stands beside the model.
        if is_main_process and any(ORDINARY_FILES.fullmatch(path.name) for path in folder.iterdir()):
            remove_weights(folder, SPARSE_FILES)
        return result
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file; give a folder to save into.")
    if is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        with written(folder):
            _save_sparse(model, plain, folder, tensors, _in_bytes(max_shard_size))
    if push_to_hub and is_main_process:
        _push(model, folder, kwargs)
    return None


def _save_sparse(model: Any, plain: Callable[..., Any], folder: Path, tensors: dict[str, Stored], max_shard_size: int) -> None:
    sweep(folder)
    with tempfile.TemporaryDirectory(prefix=scratch_prefix("saving"), dir=folder) as scratch:
        # Config, code and generation settings by transformers, with one byte for weights, which is thrown away.
        model.config.sparse_weights = True
        plain(scratch, state_dict={"none": torch.zeros(1, dtype=torch.uint8)})
        remove_weights(scratch, ORDINARY_FILES)
        weights = write_sparse(scratch, tensors, max_shard_size)
        move_into(folder, scratch, weights)
        if INDEX_NAME not in weights:  # until here, the index of an earlier save says what is read
            (folder / INDEX_NAME).unlink(missing_ok=True)
        move_into(folder, scratch, ["config.json"])
    remove_weights(folder, SPARSE_FILES, keep=weights)
    remove_weights(folder, ORDINARY_FILES)


def _push(model: Any, folder: Path, options: dict[str, Any]) -> None:
    upload(
        folder, options.get("repo_id") or folder.resolve().name, private=options.get("private"), token=options.get("token") or None,
        commit_message=options.get("commit_message") or f"Upload {type(model).__name__}", create_pr=options.get("create_pr") or None,
        revision=options.get("revision"), ignore_patterns=[".saving-*"],
    )  # fmt: skip


def _in_bytes(size: int | str) -> int:
    """Bytes of a size such as 5_000_000 or "5GB"."""
    if isinstance(size, int) and size > 0:
        return size
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B", str(size).upper())
    if match is None:
        raise ValueError(f"max_shard_size={size!r} is no size; give bytes, or a string such as '5GB'.")
    return max(1, int(float(match[1]) * 1000 ** " KMGT".index(match[2] or " ")))


# ------------------------------------------------------------------------------------------------------------- what is saved


def stored_tensors(model: Any, state_dict: dict[str, Any] | None = None, required: bool = True) -> dict[str, Stored] | None:
    """The parameters of a model in either form, by name, each as its nonzeros where that is smaller; tied ones once.

    Weights that are sharded or offloaded give None, or ValueError where they are `required`.
    """
    state = dict(model.state_dict() if state_dict is None else state_dict)
    if any(type(tensor) not in (torch.Tensor, nn.Parameter) or tensor.is_meta for tensor in state.values()):
        if required:
            raise ValueError("Weights that are sharded or offloaded cannot be saved sparse; pass sparse=False.")
        return None
    tensors: dict[str, Stored] = {name: popped(state, name, matrix) for name, matrix in sparse_matrices(model).items()}
    tensors |= {name: compressed(tensor) for name, tensor in state.items()}
    order = [name.removesuffix(".values") for name, _ in model.named_parameters(remove_duplicate=False)]
    tensors = {name: tensors.pop(name) for name in order if name in tensors} | tensors
    if model.config.tie_word_embeddings and "transformer.wte.weight" in tensors:
        tensors.pop("lm_head.weight", None)
    return tensors


def _names_saved(model: Any, state_dict: dict[str, Any] | None) -> dict[str, Any]:
    """The weights that a save would write, by the names of the dense form."""
    state = dict(model.state_dict() if state_dict is None else state_dict)
    for name, matrix in sparse_matrices(model).items():
        values = state.pop(f"{name}.values", None)
        state.pop(f"{name}.row_starts", None), state.pop(f"{name}.columns", None)
        if values is not None:
            state[name] = torch.empty(tuple(matrix.shape), device="meta")
    return state


def _much_smaller(tensors: dict[str, Stored]) -> bool:
    # A table that was never trained would tip the scale, and tools would look in vain for model.safetensors.
    tensors = {n: t for n, t in tensors.items() if not (n.endswith(TABLE_WEIGHT) and _is_zero(t))}
    dense = sum(tensor.dtype.itemsize * torch.Size(tensor.shape).numel() for tensor in tensors.values())
    return any(isinstance(t, Nonzeros) for t in tensors.values()) and stored_bytes(tensors) <= PAYS_BELOW * dense


def _is_zero(tensor: Stored) -> bool:
    return not bool((tensor.values if isinstance(tensor, Nonzeros) else tensor).any())


_FIXES = (
    (re.compile(r"_(orig|mask)$"), "pruned by torch.nn.utils.prune: call prune.remove(module, 'weight') first"),
    (re.compile(r"\.parametrizations\."), "parametrized: call torch.nn.utils.parametrize.remove_parametrizations(module, 'weight') first"),
    (re.compile(r"\.weight_[gv]$"), "under weight_norm: call torch.nn.utils.remove_weight_norm(module) first"),
    (re.compile(r"(^|\.)_orig_mod\."), "compiled: save the model, or the state dict of the model, that torch.compile was given"),
    (re.compile(r"^module\."), "wrapped: save the model inside of the wrapper"),
)  # fmt: skip


def require_loadable(model: Any, tensors: Mapping[str, Any], folder: Any) -> None:
    """Raises if tensors that are to be saved are not those that a model of this class and config loads; before an older save is replaced.

    Raises:
        ValueError: naming a tensor and what made it what it is.
    """
    if getattr(model, "_hf_peft_config_loaded", False) or getattr(model, "hf_quantizer", None) is not None:
        return  # adapters and quantized weights have names of their own
    try:
        expected = skeleton(type(model), copy.deepcopy(model.config)).state_dict()
    except TypeError:  # a class of one's own, which is made in another way
        return
    lost = [name for name in expected if name not in tensors and name != "lm_head.weight"]
    if "lm_head.weight" in expected and "lm_head.weight" not in tensors and not model.config.tie_word_embeddings:
        lost.append("lm_head.weight")
    for name in (*sorted(set(tensors) - set(expected)), *lost):
        why = next((fix for pattern, fix in _FIXES if pattern.search(name)), None)
        said = f"{name} is no weight of a {type(model).__name__}" if name in tensors else f"{name} is not among the weights"
        fix = f"it is {why}" if why else "give the state dict of this model, or save the model that it belongs to"
        raise ValueError(f"Not saved to {folder}: {said}, so that nothing could load it again; {fix}.")
    for name, tensor in tensors.items():
        plain = type(tensor) in (torch.Tensor, nn.Parameter) and tensor.numel()
        if plain and tuple(tensor.shape) != tuple(expected[name].shape):
            raise ValueError(
                f"Not saved to {folder}: {name} is {tuple(tensor.shape)} and {tuple(expected[name].shape)} by the config; change the config along with it."
            )


@contextlib.contextmanager
def written(folder: Any) -> Iterator[None]:
    """Makes an OSError in one sentence of a write that failed, as safetensors says it of a full disk."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(
            f"The weights could not be written to {folder} ({first_line(error)}); free some disk space, or choose another folder."
        ) from error


# ------------------------------------------------------------------------------------------------------------- the files


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
    digests = [digest(table, parts) for table, parts in zip(tables, every, strict=True)]
    names = [WEIGHTS_NAME]
    if len(shards) > 1:
        stem, end = WEIGHTS_NAME.split(".")
        save = hashlib.sha256("".join(digests).encode()).hexdigest()[:8]
        names = [f"{stem}-{save}-{i:05d}-of-{len(shards):05d}.{end}" for i in range(1, len(shards) + 1)]
    for name, table, parts, sha256 in zip(names, tables, every, digests, strict=True):
        metadata = {"format": FORMAT, "version": VERSION, "tensors": table, "sha256": sha256}
        with appearing(folder / name) as partial:
            save_file(parts, partial, metadata=metadata)
    if len(shards) > 1:
        index: dict[str, Any] = {"metadata": {"format": FORMAT, "version": VERSION}}
        index["weight_map"] = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        write_whole(folder / INDEX_NAME, json.dumps(index, indent=2, sort_keys=True) + "\n")
        names.append(INDEX_NAME)
    return names


def remove_weights(folder: str | Path, pattern: re.Pattern[str], keep: tuple[str, ...] | list[str] = ()) -> None:
    """Removes weight files of an earlier save, so that a folder never holds two models."""
    for path in Path(folder).iterdir():
        if pattern.fullmatch(path.name) and path.name not in keep:
            path.unlink()


def move_into(folder: str | Path, scratch: str | Path, last: list[str]) -> None:
    """Moves the files of a scratch folder into a folder, those named in `last` at the end, each at once; config.json only if named."""
    names = [path.name for path in Path(scratch).iterdir() if path.name != "config.json" or path.name in last]
    for name in sorted(names, key=lambda name: (name in last, last.index(name) if name in last else 0)):
        target = Path(folder) / name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(Path(scratch) / name, target)
