"""A checkpoint of whatever kind is read here, by what lies in its folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..hub import HUB_ID
from . import gpt2, sparse_pretrain
from .download import is_url
from .openai import convert_openai_checkpoint
from .sparse_pretrain_pair import convert_sparse_pretrain_pair

_TOKENIZER = ["tokenizer*.json", "special_tokens_map.json", "vocab.json", "merges.txt"]
_MODEL = ["config.json", "pytorch_model.bin", "model*.safetensors*", "sparse_model.bin", "bridges.bin", "training_config.yaml"]


def convert_checkpoint(
    source: str | Path, dest: str | Path, *, tokenizer: str | Path | None = None, dense: str | Path | None = None
) -> Path:
    """Turns a checkpoint into a self-contained Hub folder.

    Args:
        source: a folder of OpenAI's circuit_sparsity release, of sparse_pretrain, of a GPT-2-shaped model or of nanoGPT; a Hub id of one of the latter kinds;
            for OpenAI's also the address of a folder, or `openai:NAME`.
        dest: folder to write; new or empty. It appears only when complete.
        tokenizer: folder or Hub id of the tokenizer, if it does not lie beside the weights. Default for a sparse_pretrain model that comes from the Hub: the
            one that its config names.
        dense: for a sparse_pretrain model with bridges: folder or Hub id of the dense model that they lead to. What is written is the bridged pair then.

    Raises:
        FileNotFoundError, ValueError: one sentence that names what is missing, damaged, or cannot be expressed.
    """
    text = str(source)
    if dense is None and (is_url(text) or text.startswith("openai:")):
        return convert_openai_checkpoint(text, dest, tokenizer=tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        folder, remote = _found(source, Path(scratch) / "source", [*_MODEL, *_TOKENIZER])
        if tokenizer is None and remote and sparse_pretrain.is_sparse_pretrain(folder):
            tokenizer = sparse_pretrain.tokenizer_name(folder)
        if tokenizer is not None:
            tokenizer = _found(tokenizer, Path(scratch) / "tokenizer", _TOKENIZER)[0]
        if dense is not None:
            dense = _found(dense, Path(scratch) / "dense", _MODEL)[0]
            return convert_sparse_pretrain_pair(folder, dest, dense, tokenizer=tokenizer)
        named = {"name": text.rpartition("/")[2]} if remote else {}
        return _reader(folder)(folder, dest, tokenizer=tokenizer, **named)


def _reader(folder: Path) -> Callable[..., Path]:
    if sparse_pretrain.is_sparse_pretrain(folder):
        return sparse_pretrain.convert_sparse_pretrain
    return gpt2.convert_gpt2 if gpt2.is_gpt2(folder) else convert_openai_checkpoint


def _found(source: str | Path, scratch: Path, wanted: list[str]) -> tuple[Path, bool]:
    """(folder, whether it was downloaded) of a folder or a Hub id, of which the wanted files are."""
    if Path(source).exists() or HUB_ID.fullmatch(str(source)) is None:
        return Path(source), False
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {"allow_patterns": wanted, "local_dir": scratch}
    try:
        return Path(snapshot_download(str(source), **options)), True
    except Exception as error:  # the client has dozens of kinds
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise FileNotFoundError(f"{source} is no folder, and could not be read from the Hub ({reason[:160]}).") from None
