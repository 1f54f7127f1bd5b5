"""A dense and a sparse model with their bridges, as one thing that is saved, loaded and published."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.models import load_model, load_tokenizer, require_fit
from ..checkpoints.tensors import read_tensors, tensors_with_sha256
from ..circuits.identity import tokenizer_sha256
from ..files import fresh_folder, read_object
from ..hub import hub_errors, upload
from .bridge import BridgeConfig, Bridges
from .sides import Side, side_of

FORMAT, VERSION = "sparse_circuits.bridges", 1
CONFIG, TENSORS = "bridges.json", "bridges.safetensors"
PARTS = ("dense", "sparse")  # folders of the two models
LARGEST_CONFIG = 1 << 20  # bytes
_AGAIN = "copy the folder again"


class BridgedPair:
    """Two models of equal depth and vocabulary with bridges between their residual streams.

    Args:
        dense: the model to be explained: one of ours, or transformers' GPT-2.
        sparse: a CSP model.
        bridges: of their widths; None: new ones.
        tokenizer: of both.

    Raises:
        ValueError: naming what does not match.
    """

    def __init__(
        self, dense: Any, sparse: Any, tokenizer: Any, bridges: Bridges | None = None, config: BridgeConfig | None = None
    ):
        self.dense, self.sparse, self.tokenizer = side_of(dense), side_of(sparse), tokenizer
        self.config = config or BridgeConfig()
        require_match(self.dense, self.sparse)
        points = self.dense.sublayers + 1
        self.bridges = bridges or Bridges(self.dense.width, self.sparse.width, points, self.config.active)
        wanted = (points, self.sparse.width, self.dense.width)
        found = (self.bridges.points, *self.bridges.encoders[0].weight.shape)  # type: ignore[misc]
        if found != wanted:
            raise ValueError(f"The bridges have (points, sparse width, dense width) {found}, the models need {wanted}.")

    def save_pretrained(self, folder: str | Path, files: Mapping[str, str | Path] | None = None) -> Path:
        """Writes a new folder with dense/ and sparse/ (each loads by itself, from there) and the bridges; whole or not at all.

        Args:
            files: name -> text, or file to copy, that goes along.
        """
        for name in files or {}:
            if Path(name).name != name or name in (CONFIG, TENSORS, *PARTS):
                raise ValueError(f"{name!r} cannot go along with a pair; give the name of a file that the pair has not.")
        with fresh_folder(folder) as scratch:
            for name, side in zip(PARTS, (self.dense, self.sparse)):
                side.model.save_pretrained(scratch / name)
                self.tokenizer.save_pretrained(scratch / name)
            data = tensors_with_sha256(self.bridges.state_dict())
            (scratch / TENSORS).write_bytes(data)
            document = {
                "format": FORMAT, "version": VERSION, "config": self.config.to_dict(), "points": self.bridges.points, "dense_width": self.dense.width,
                "sparse_width": self.sparse.width, "keep": self.bridges.keep, "tokenizer": tokenizer_sha256(self.tokenizer),
                "tensors_sha256": hashlib.sha256(data).hexdigest(),
            }  # fmt: skip
            (scratch / CONFIG).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            for name, content in (files or {}).items():
                if isinstance(content, Path):
                    shutil.copyfile(content, scratch / name)
                else:
                    (scratch / name).write_text(content, encoding="utf-8")
        return Path(folder)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None, **hub: Any) -> BridgedPair:
        """From a folder or a Hub id. Models come as float32, in eval mode.

        Raises:
            FileNotFoundError, ValueError: naming what is missing, damaged or does not match.
        """
        folder = _folder(source, revision, hub).resolve()  # "a/b" would be taken for a Hub id where a folder is missing
        document = _document(folder)
        tokenizer = load_tokenizer(folder / "sparse", local_files_only=True)
        for name in PARTS:
            own = load_tokenizer(folder / name, local_files_only=True)
            if tokenizer_sha256(own) != document["tokenizer"]:
                raise ValueError(f"The tokenizer in {folder / name} is not the one that the bridges were trained with.")
        dense, sparse = (_model(folder / name) for name in PARTS)
        require_fit(tokenizer, dense)
        _require_fit(folder, document, side_of(dense), side_of(sparse))
        bridges = Bridges(document["dense_width"], document["sparse_width"], document["points"])
        bridges.keep = document["keep"]
        bridges.load_state_dict(_tensors(folder / TENSORS, bridges))
        return cls(dense, sparse, tokenizer, bridges, BridgeConfig(**document["config"]))

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Uploads the whole folder in one commit; returns the commit's address."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = self.save_pretrained(Path(scratch) / "pair")
            BridgedPair.from_pretrained(folder)
            return upload(folder, repo_id, private=private, token=token, commit_message="Dense and sparse model with bridges")


def is_pair(source: str | Path, **hub: Any) -> bool:
    """Whether a folder (always, if it is a Path) or Hub repository is that of a bridged pair. The Hub is asked for one small file; where it does not
    have it or does not answer, this is no pair: who loads it as a model next is told what is wrong."""
    if isinstance(source, Path) or Path(source).is_dir() or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source):
        return (Path(source) / CONFIG).is_file()
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(source, CONFIG, **hub)
    except (OSError, ValueError):
        return False
    return True


def _model(folder: Path) -> Any:
    return load_model(folder, dtype=torch.float32, local_files_only=True, use_safetensors=True)


def _tensors(path: Path, bridges: Bridges) -> dict[str, torch.Tensor]:
    """The bridges' weights, finite and of their shapes."""
    found, _ = read_tensors(path, fix=_AGAIN)
    wanted = bridges.state_dict()
    for name in sorted(set(found) ^ set(wanted)):
        raise ValueError(
            f"{path} does not hold these bridges (it {'lacks' if name in wanted else 'has'} {name:.100}); {_AGAIN}."
        )
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape or tensor.dtype != wanted[name].dtype or not bool(tensor.isfinite().all()):
            raise ValueError(
                f"{path} does not hold these bridges ({name} is not {list(wanted[name].shape)} finite float32); {_AGAIN}."
            )
    return found


def _require_fit(folder: Path, document: dict[str, Any], dense: Side, sparse: Side) -> None:
    """Before anything of these sizes is made."""
    require_match(dense, sparse)
    wanted = {"points": dense.sublayers + 1, "dense_width": dense.width, "sparse_width": sparse.width}
    for name, value in wanted.items():
        if document[name] != value:
            raise ValueError(f"{folder / CONFIG} says {name} {document[name]}, its models have {value}; copy the folder again.")
    if document["keep"] > sparse.width:
        raise ValueError(f"{folder / CONFIG} says keep {document['keep']}, of {sparse.width} channels; copy the folder again.")


def require_match(dense: Side, sparse: Side) -> None:
    """Raises if two models cannot be bridged."""
    if sparse.model.config.model_type != "csp":
        raise ValueError("The sparse side must be a CSP model; give the other model as the dense side.")
    if dense.sublayers != sparse.sublayers:
        raise ValueError(
            f"The dense model has {dense.sublayers} sublayers, the sparse one {sparse.sublayers}; bridges need as many (the same number of layers)."
        )
    if dense.model.config.vocab_size != sparse.model.config.vocab_size:
        raise ValueError(
            f"The dense model has {dense.model.config.vocab_size} tokens, the sparse one {sparse.model.config.vocab_size}; they must share a tokenizer."
        )


def _folder(source: str | Path, revision: str | None, hub: dict[str, Any]) -> Path:
    if Path(source).is_dir():
        return Path(source)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) or str(source).startswith("."):
        raise FileNotFoundError(f"{source} is no folder; give that of a bridged pair, or a Hub id such as user/name.")
    from huggingface_hub import snapshot_download

    with hub_errors(str(source), "read from the Hub"):
        return Path(snapshot_download(str(source), revision=revision, **hub))


_FIELDS: dict[str, Any] = {
    "points": int,
    "dense_width": int,
    "sparse_width": int,
    "keep": int,
    "tokenizer": str,
    "config": dict,
}


def _document(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file() or not (folder / TENSORS).is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG} with {TENSORS}; it is no bridged pair.")
    for part in PARTS:
        for name in ("config.json", "tokenizer.json"):
            if not (folder / part / name).is_file():
                raise FileNotFoundError(f"{folder} has no {part}/{name}; copy the pair again, whole.")
    try:
        document = read_object(path, largest=LARGEST_CONFIG, fix=_AGAIN)
        if document.get("format") != FORMAT or document.get("version") != VERSION:
            raise ValueError(f"format {document.get('format')!r:.60}, version {document.get('version')!r:.20}")
        for name, kind in _FIELDS.items():
            value = document.get(name)
            if not isinstance(value, kind) or isinstance(value, bool) or (kind is int and not 1 <= value <= 1 << 20):
                raise ValueError(f"{name} is {value!r:.40}")
        BridgeConfig(**document["config"])
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} describes no bridges that this package reads ({str(error)[:120]}).") from None
    if os.path.getsize(folder / TENSORS) > 8 * (document["dense_width"] + 1) * (document["sparse_width"] + 1) * document[
        "points"
    ] * 2 + (1 << 20):
        raise ValueError(f"{folder / TENSORS} is larger than bridges of this shape can be.")
    wanted = document.get("tensors_sha256")  # pairs of before it have none
    if wanted is not None and hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest() != wanted:
        raise ValueError(f"{folder / TENSORS} does not hold these bridges (its sha256 is not the one in {CONFIG}); {_AGAIN}.")
    return document
