"""OpenAI's circuits (`viz_data.pt`) become ours. The file is read without unpickling objects; means come from a corpus."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.archive import read_archive
from ..circuits.circuit import Circuit
from ..circuits.identity import identify, tokenizer_sha256, versions
from ..circuits.means import Means
from ..circuits.python_tasks import GENERATORS, published_form
from ..circuits.sites import require_csp
from .download import download, kept_beside
from .openai import store_address

CIRCUIT_FILE, _LARGEST = "viz_data.pt", 1 << 32  # bytes


@contextlib.contextmanager
def from_store(source: str, dest: Path) -> Iterator[str | Path]:
    """The file of a circuit: for `openai:MODEL/TASK/SWEEP/K` downloaded from the public store, beside `dest`, where it is kept if that breaks off."""
    if not source.startswith("openai:"):
        yield source
        return
    scratch = kept_beside(dest)
    scratch.mkdir(parents=True, exist_ok=True)
    download(f"{store_address(source, 'viz')}/{CIRCUIT_FILE}", scratch / CIRCUIT_FILE, _LARGEST)
    yield scratch / CIRCUIT_FILE
    shutil.rmtree(scratch, ignore_errors=True)


def convert_openai_circuit(
    path: str | Path, model: Any, tokenizer: Any, means: Means, *, task: str, form: str = "published"
) -> Circuit:
    """A circuit of the release, for the converted model that it was found in.

    The release stores retained channels only: edges are all nonzeros between them (`Circuit.edges` is None), neither means nor
    calibration are there, and every stored task loss is a sum over the two sides of a pair, twice ours; they are halved here.

    Args:
        path: viz_data.pt.
        model: the converted model.
        means: of this model on a corpus like its own (`circuits.mean_activations`).
        task: name of the circuit.
        form: in which the circuit answers, if it is one of the 20 tasks: "published", that of the published data; "line_end"; or "bare".

    Raises:
        FileNotFoundError, ValueError: naming what is missing, damaged, or does not fit the model.
    """
    path = Path(path)
    data = _read(path)
    sites = require_csp(model).node_sites()
    widths = {name: site.width for name, site in sites.items()}
    _refuse_other_shape(data, model, path)
    found = data["circuit_data"]
    unknown = sorted(set(found) - set(widths))
    if unknown:
        raise ValueError(
            f"{path} has nodes at {unknown[0]!r}, which this model does not have; convert the model that it belongs to."
        )
    nodes = {name: _indices(found[name], name, widths[name], path) for name in widths if name in found}
    nodes = {name: indices for name, indices in nodes.items() if len(indices)}
    settings = _settings(data, means, task, form)
    return Circuit(
        task=task, nodes=nodes, edges=None, means=means.values, widths=widths, model=identify(model), tokenizer=tokenizer_sha256(tokenizer),
        settings=settings, metrics=_metrics(data, nodes), versions=versions(),
    )  # fmt: skip


def _metrics(data: dict[str, Any], nodes: dict[str, Any]) -> dict[str, Any]:
    importances = data.get("importances") if isinstance(data.get("importances"), dict) else {}
    metrics: dict[str, Any] = {"nodes": sum(map(len, nodes.values()))}
    for theirs, ours in (("loss", "circuit"), ("interv_loss", "ablated_in_release")):
        value = _number(importances.get(theirs))  # type: ignore[union-attr]
        if value is not None:
            metrics[ours] = {"loss": value / 2}
    return metrics


def _settings(data: dict[str, Any], means: Means, task: str, form: str) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "origin": "openai circuit_sparsity",
        "means": {"tokens": means.count, "corpus_sha256": means.corpus},
    }
    if task in GENERATORS:
        settings["task_form"] = published_form(task, form)
    prune_config = data.get("prune_config")
    if isinstance(prune_config, dict):
        settings["prune_config"] = {
            str(key): value for key, value in prune_config.items() if isinstance(value, (str, int, float, bool, type(None)))
        }
    return settings


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the viz_data.pt of a circuit.")
    data = read_archive(path)
    if not isinstance(data, dict) or not isinstance(data.get("circuit_data"), dict):
        raise ValueError(f"{path} has no circuit_data; it is no viz_data.pt of the release.")
    return data


def _refuse_other_shape(data: dict[str, Any], model: Any, path: Path) -> None:
    """The file has its model's config; what it says of the shape must fit."""
    importances = data.get("importances")
    theirs = importances.get("beeg_model_config") if isinstance(importances, dict) else None
    theirs = dataclasses.asdict(theirs) if dataclasses.is_dataclass(theirs) and not isinstance(theirs, type) else theirs
    if not isinstance(theirs, dict):
        return
    for name in ("n_layer", "d_model", "n_head", "d_head", "vocab_size"):
        if isinstance(theirs.get(name), int) and theirs[name] != getattr(model.config, name):
            raise ValueError(
                f"{path} belongs to a model with {name} {theirs[name]}, this one has {getattr(model.config, name)}."
            )


def _indices(value: Any, name: str, width: int, path: Path) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or value.dim() != 1 or value.is_floating_point() or value.dtype == torch.bool:
        raise ValueError(f"{path} has no list of channels at {name}.")
    indices = value.long().unique()
    if len(indices) and (int(indices[0]) < 0 or int(indices[-1]) >= width):
        raise ValueError(
            f"{path} names channel {int(indices[-1])} at {name}, which has {width}; convert the model that it belongs to."
        )
    return indices


def _number(value: Any) -> float | None:
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    return (
        float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf") else None
    )
