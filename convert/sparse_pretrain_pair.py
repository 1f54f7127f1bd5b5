"""Reads the bridges of `sparse_pretrain`: beside `sparse_model.bin` of a model that was trained with them a `bridges.bin`, a state dict with an encoder
(dense stream to sparse, linear, then AbsTopK) and a decoder (back, linear) for each of 2L + 1 points, as ours are placed.

The dense model is elsewhere: `config.json` names it (`bridges_config.d_dense`). Not read, by name: encoders with learned thresholds, and pairs whose sparse
model has AbsTopK on the residual stream, of which the project itself has two readings: its training decodes from before AbsTopK, and leaves it out where it
runs a hybrid on.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import torch

from ..bridges import BridgeConfig, BridgedPair, Bridges
from ..checkpoints.archive import read_archive, require_state_dict
from ..checkpoints.models import load_tokenizer
from ..configuration_csp import CSPConfig
from . import gpt2
from .openai import loaded_model
from .sparse_pretrain import BRIDGES_FILE, is_sparse_pretrain, read_settings, read_sparse_pretrain, save_tokenizer

_NAME = re.compile(r"^(?:_orig_mod\.)?bridges\.(\d{1,4})\.(encoder|decoder)\.linear\.(weight|bias)$")


def convert_sparse_pretrain_pair(
    source: str | Path, dest: str | Path, dense: str | Path, *, tokenizer: str | Path | None
) -> Path:
    """Turns such a model, its bridges and its dense model into the folder of a bridged pair.

    Args:
        source: folder with config.json, sparse_model.bin and bridges.bin. dense: that of the dense model, of sparse_pretrain or GPT-2-shaped.
        dest: folder to write; new or empty. It appears only when complete.
        tokenizer: folder with the tokenizer.json of both.

    Raises:
        FileNotFoundError, ValueError: one sentence that names what is missing, damaged, or cannot be expressed.
    """
    source = Path(source)
    if tokenizer is None:
        raise FileNotFoundError(
            "A bridged pair has the tokenizer of both models with it; name its folder or Hub id (--tokenizer)."
        )
    if not (source / BRIDGES_FILE).is_file():
        raise FileNotFoundError(f"{source} has no {BRIDGES_FILE}, so there is no pair to be made; leave out the dense model.")
    sparse, sparse_weights, _ = read_sparse_pretrain(source)
    stream = sorted({"resid_pre", "resid_post_attn"} & set(sparse.afrac))
    if stream:
        raise ValueError(
            f"{source} has AbsTopK on the residual stream ({', '.join(stream)}), for which its project trains decoders on what hybrids do not run on; "
            f"convert the sparse model alone, without a dense one."
        )
    other, dense_weights, _ = _read_dense(Path(dense))
    active = _active(source)
    bridges = Bridges(other.d_model, sparse.d_model, 2 * sparse.n_layer + 1)
    bridges.keep = max(1, int(active * sparse.d_model))
    bridges.load_state_dict(_weights(source / BRIDGES_FILE, bridges))
    with tempfile.TemporaryDirectory() as scratch:
        for config in (sparse, other):
            save_tokenizer(Path(tokenizer), config, Path(scratch))
        found = load_tokenizer(Path(scratch), local_files_only=True)
        pair = BridgedPair(
            loaded_model(other, dense_weights).float().eval(), loaded_model(sparse, sparse_weights).float().eval(), found, bridges,
            BridgeConfig(active=active),
        )  # fmt: skip
        return pair.save_pretrained(dest)


def _read_dense(folder: Path) -> tuple[CSPConfig, dict[str, torch.Tensor], Path]:
    return read_sparse_pretrain(folder) if is_sparse_pretrain(folder) else gpt2.read_gpt2(folder)


def _active(folder: Path) -> float:
    section = read_settings(folder).get("bridges_config")
    active: Any = section.get("encoder_afrac", 0.25) if isinstance(section, dict) else 0.25
    if isinstance(active, bool) or not isinstance(active, (int, float)) or not 0 < active <= 1:
        raise ValueError(f"{folder} sets encoder_afrac={active!r:.80}; it must be a fraction above 0 and at most 1.")
    return float(active)


def _weights(path: Path, bridges: Bridges) -> dict[str, torch.Tensor]:
    """The bridges' weights under our names, finite and of their shapes."""
    wanted = bridges.state_dict()
    loaded = read_archive(path, largest=16 * sum(each.numel() for each in wanted.values()) + (1 << 26))
    require_state_dict(loaded, path)
    found = {}
    for key, tensor in loaded.items():
        match = _NAME.match(key)
        if match is None:
            what = "which is of an encoder with learned thresholds" if key.endswith("log_eps") else "which no bridge has"
            raise ValueError(f"{path} holds {key!r:.80}, {what}; refused.")
        found[f"{match[2]}s.{int(match[1])}.{match[3]}"] = tensor
    for name in sorted(set(found) ^ set(wanted)):
        raise ValueError(
            f"{path} {'lacks' if name in wanted else 'has'} {name}, which does not fit the two models; give the dense model that it is of."
        )
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            raise ValueError(
                f"{path} has {name} of shape {list(tensor.shape)}, the two models need {list(wanted[name].shape)}; give the dense model that it is of."
            )
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise ValueError(f"{path} has {name} with what are no finite numbers; download it again.")
    return {name: tensor.float() for name, tensor in found.items()}
