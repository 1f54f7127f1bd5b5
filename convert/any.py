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

_FROM_HUB = [
    "config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "pytorch_model.bin",
    "model*.safetensors*",
]


def convert_checkpoint(source: str | Path, dest: str | Path, *, tokenizer: str | Path | None = None) -> Path:
    """Turns a checkpoint into a self-contained Hub folder.

    Args:
        source: a folder of OpenAI's circuit_sparsity release, of sparse_pretrain, of a GPT-2-shaped model or of nanoGPT; a Hub id of one of the latter kinds;
            for OpenAI's also the address of a folder, or `openai:NAME`.
        dest: folder to write; new or empty. It appears only when complete.
        tokenizer: folder of the tokenizer, if it does not lie beside the weights.

    Raises:
        FileNotFoundError, ValueError: one sentence that names what is missing, damaged, or cannot be expressed.
    """
    text = str(source)
    if is_url(text) or text.startswith("openai:"):
        return convert_openai_checkpoint(text, dest, tokenizer=tokenizer)
    if Path(source).exists() or HUB_ID.fullmatch(text) is None:
        return _reader(Path(source))(source, dest, tokenizer=tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        folder = _downloaded(text, Path(scratch))
        return _reader(folder)(folder, dest, tokenizer=tokenizer, name=text.rpartition("/")[2])


def _reader(folder: Path) -> Callable[..., Path]:
    if sparse_pretrain.is_sparse_pretrain(folder):
        return sparse_pretrain.convert_sparse_pretrain
    return gpt2.convert_gpt2 if gpt2.is_gpt2(folder) else convert_openai_checkpoint


def _downloaded(repo_id: str, scratch: Path) -> Path:
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {"allow_patterns": _FROM_HUB, "local_dir": scratch / "model"}
    try:
        return Path(snapshot_download(repo_id, **options))
    except Exception as error:  # the client has dozens of kinds
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise FileNotFoundError(f"{repo_id} is no folder, and could not be read from the Hub ({reason[:160]}).") from None
