"""Which model and tokenizer a circuit belongs to."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from typing import Any

import torch

from ..sparse_form_csp import dense_state_dict
from .python_tasks import LINE_END, SPLITS_VERSION
from .sites import require_csp


@torch.no_grad()
def weights_sha256(model: Any) -> str:
    """sha256 of all weights as float32, by name, and of the settings that decide what is computed with them: the same for a model in
    dense and in sparse form, and wherever it was loaded from."""
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper names weights otherwise
    state = dense_state_dict(model) or model.state_dict()
    digest = hashlib.sha256()
    digest.update(repr([(name, _plain(getattr(model.config, name))) for name in _DECISIVE]).encode())
    for name in sorted(state):
        tensor = state[name].detach().to("cpu", torch.float32) + 0.0  # -0.0, which the sparse form drops, becomes 0.0
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


_DECISIVE = (
    "activation_type", "residual_activation_type", "norm_type", "position_embedding_type", "sinusoidal_positions", "sink", "n_head", "d_head",
    "afrac", "enable_bigram_table",
)  # fmt: skip


def _plain(value: Any) -> Any:
    return sorted((key, float(part)) for key, part in value.items()) if isinstance(value, dict) else value


def circuit_sha256(circuit: Any) -> str:
    """sha256 of what a circuit computes: nodes, edges, means, and the model that it is of. Labels and metrics are not in it."""
    digest = hashlib.sha256(
        repr((circuit.task, circuit.model.get("weights"), bool(circuit.settings.get("freeze_norms")))).encode()
    )
    parts = {f"node::{site}": [indices.long()] for site, indices in circuit.nodes.items()}
    parts |= {f"mean::{name}": [mean.float()] for name, mean in circuit.means.items()}
    parts |= {
        f"edge::{name}": [e.source.long(), e.target.long(), e.weight.float()] for name, e in (circuit.edges or {}).items()
    }
    for name in sorted(parts):
        digest.update(f"{name} {circuit.edges is None}\n".encode())
        for tensor in parts[name]:
            digest.update(tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def tokenizer_sha256(tokenizer: Any) -> str:
    """sha256 of the vocabulary: tokens and their ids."""
    vocabulary = sorted((index, token) for token, index in tokenizer.get_vocab().items())
    return hashlib.sha256(repr(vocabulary).encode("utf-8", "surrogatepass")).hexdigest()


def identify(model: Any) -> dict[str, str | None]:
    """Id (a folder's name, never its path), revision and hash of a model."""
    name = str(getattr(model.config, "_name_or_path", "") or "")
    is_hub_id = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    shown = name if is_hub_id else name.replace("\\", "/").rstrip("/").rpartition("/")[2] or None
    return {
        "id": None if shown in (".", "..") else shown,
        "revision": getattr(model.config, "_commit_hash", None),
        "weights": weights_sha256(model),
    }


def refuse_other_model(circuit: Any, model: Any, force: bool = False) -> None:
    """Raises if the circuit was found in another model; with `force`, only if its shape does not fit."""
    widths = {name: site.width for name, site in require_csp(model).node_sites().items()}
    if widths != circuit.widths:
        differ = next((name for name in [*circuit.widths, *widths] if widths.get(name) != circuit.widths.get(name)), "")
        raise ValueError(
            f"The circuit for {circuit.task} has {circuit.widths.get(differ, 'no')} nodes at {differ}, the model {widths.get(differ, 'no')}: "
            f"it belongs to a model of another shape ({circuit.model.get('id') or 'unnamed'})."
        )
    if not force and weights_sha256(model) != circuit.model.get("weights"):
        raise ValueError(
            f"The circuit for {circuit.task} was found in {circuit.model.get('id') or 'another model'}, whose weights are not this "
            f"model's; load that model (in float32), or pass force=True."
        )


def refuse_other_task(circuit: Any, task: Any) -> None:
    """Raises if the circuit is for another task, for another form of it, or was found when files were split in another way."""
    wanted = task.name + (f"_{task.twin}" if task.twin else "")
    if wanted != circuit.task:
        raise ValueError(f"The circuit is for {circuit.task}, the task is {wanted}; verify it on its own task.")
    form = circuit.settings.get("task_form") or LINE_END
    if task.form and task.form != form:
        raise ValueError(
            f"The circuit for {circuit.task} answers in the form {form}, the task asks for {task.form}; load the task with that form."
        )
    if task.origin.startswith("file:") and "steps" in circuit.settings and circuit.settings.get("splits") != SPLITS_VERSION:
        raise ValueError(
            f"The circuit for {circuit.task} was found when pairs of files were split row by row, so that test prompts may have been "
            f"trained on; prune it again."
        )


def versions() -> dict[str, str]:
    names = ("torch", "transformers", "safetensors", "sparse-circuits")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
