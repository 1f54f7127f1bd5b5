"""Circuits on disk and on the Hub (circuits/FORMAT.md): written both files or neither, validated before anything is used."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors

from ..files import read_json, scratch_prefix, sweep
from ..hub import upload
from ..wiring_csp import FINAL, located, made_inputs, ordered
from .edges import Edges
from .identity import circuit_sha256
from .masks import PruneConfig
from .python_tasks import FORMS
from .sites import edge_names
from .tasks import NAME

JSON, TENSORS, REPORT = "circuit.json", "circuit.safetensors", "report.json"
PREVIOUS = ".circuit.safetensors.previous"  # there only while a circuit is replaced
FORMAT, VERSION = "sparse_circuits.circuit", 1
LARGEST_JSON, LARGEST_TENSORS = 64 << 20, 4 << 30  # bytes; far above what a circuit of the largest models takes
_LARGEST_WIDTH = 1 << 24
_KEYS = {
    "format": str, "version": int, "task": str, "model": dict, "tokenizer": str, "sites": dict, "edges": (dict, type(None)), "settings": dict,
    "calibration": dict, "metrics": dict, "labels": dict, "versions": dict, "tensors_sha256": str,
}  # fmt: skip


def save(circuit: Any, folder: Path) -> Path:
    """Writes the two files. A kill at any moment leaves the older circuit or the new one."""
    if not NAME.fullmatch(circuit.task):
        raise ValueError(f"{circuit.task!r} cannot name a circuit; use letters, digits, '_', '-' and '.'.")
    tensors = {f"mean::{name}": mean.float().contiguous() for name, mean in circuit.means.items()}
    tensors |= {f"score::{name}": score.float().contiguous() for name, score in circuit.scores.items()}
    for name, (source, target, weight) in (circuit.edges or {}).items():
        tensors |= {
            f"source::{name}": source.to(torch.int32),
            f"target::{name}": target.to(torch.int32),
            f"weight::{name}": weight.float(),
        }
    data = to_safetensors({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, {"format": FORMAT})
    document = {
        "format": FORMAT, "version": VERSION, "task": circuit.task, "model": circuit.model, "tokenizer": circuit.tokenizer,
        "sites": {name: {"width": width, "nodes": circuit.nodes[name].tolist() if name in circuit.nodes else []}
                  for name, width in circuit.widths.items()},
        "edges": None if circuit.edges is None else {name: len(edges.source) for name, edges in circuit.edges.items()},
        "settings": circuit.settings, "calibration": circuit.calibration, "metrics": circuit.metrics, "labels": circuit.labels,
        **({"groups": circuit.groups} if circuit.groups else {}), "versions": circuit.versions, "tensors_sha256": hashlib.sha256(data).hexdigest(),
        "circuit_sha256": circuit_sha256(circuit),
    }  # fmt: skip
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=True)
    _parse(document, data)  # what would be refused on load is not written
    _replace_folder(folder, {TENSORS: data, JSON: (text + "\n").encode()})
    return folder


def _replace_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Writes all files beside the folder, then moves them in; an older circuit stays whole if writing fails."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    scratch = Path(tempfile.mkdtemp(prefix=scratch_prefix("circuit"), dir=folder))
    try:
        for name, data in files.items():
            with open(scratch / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        # JSON decides: until it is replaced, the older tensors stay at hand under another name.
        if (folder / TENSORS).is_file():
            shutil.copyfile(folder / TENSORS, scratch / PREVIOUS)
            os.replace(scratch / PREVIOUS, folder / PREVIOUS)
        for name in files:
            os.replace(scratch / name, folder / name)
        (folder / PREVIOUS).unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"The circuit could not be written to {folder} ({error.strerror or error}); free some disk space, or choose another folder."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def load(folder: Path) -> dict[str, Any]:
    """Reads and checks both files; returns the fields of a `Circuit`.

    Raises:
        FileNotFoundError, ValueError: in one sentence.
    """
    for name, largest in ((JSON, LARGEST_JSON), (TENSORS, LARGEST_TENSORS)):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{folder} has no {name}; a circuit's folder has {JSON} and {TENSORS}.")
        if path.stat().st_size > largest:
            raise ValueError(f"{path} has {path.stat().st_size:,} bytes, more than any circuit ({largest:,}).")
    data = (folder / TENSORS).read_bytes()
    document = read_json(folder / JSON, fix="it is no circuit and may be truncated, copy both files again")
    try:
        return _parse(document, _belonging(document, data, folder / PREVIOUS))
    except ValueError as error:
        raise ValueError(f"{folder} holds no valid circuit: {error}") from None


def _belonging(document: Any, data: bytes, previous: Path) -> bytes:
    """The tensors that the JSON belongs to: after a kill between two moves they lie under the other name."""
    wanted = document.get("tensors_sha256") if isinstance(document, dict) else None
    if hashlib.sha256(data).hexdigest() != wanted and previous.is_file() and previous.stat().st_size <= LARGEST_TENSORS:
        older = previous.read_bytes()
        return older if hashlib.sha256(older).hexdigest() == wanted else data
    return data


def _parse(document: Any, data: bytes) -> dict[str, Any]:
    _check_document(document, data)
    try:
        tensors = parse_safetensors(data)
    except SafetensorError as error:
        raise ValueError(f"{TENSORS} is damaged ({error}).") from None
    widths, nodes = _sites(document["sites"])
    edges = None if document["edges"] is None else _edges(document["edges"], nodes, tensors)
    means = _vectors("mean", tensors, widths)
    lost = [name for name in widths if name not in means]
    if lost:
        raise ValueError(f"there are no means of {lost[0]}.")
    document.setdefault("groups", {})
    for key in ("labels", "groups", "versions"):
        if not isinstance(document[key], dict) or not all(isinstance(value, str) for value in document[key].values()):
            raise ValueError(f"{key} must be text.")
    check_labels(document["labels"], widths)
    check_labels(document["groups"], widths)
    _check_calibration(document["calibration"])
    _check_settings(document["settings"], document["metrics"])
    if (
        not all(isinstance(value, (str, type(None))) for value in document["model"].values())
        or "weights" not in document["model"]
    ):
        raise ValueError("model must have text, and the sha256 of its weights.")
    keys = ("task", "model", "tokenizer", "settings", "calibration", "metrics", "labels", "groups", "versions")
    scores = _vectors("score", tensors, widths)
    if scores and set(scores) != set(widths):
        raise ValueError("there are scores of some sites only.")
    fields = {
        "nodes": nodes,
        "edges": edges,
        "means": means,
        "widths": widths,
        "scores": scores,
        **{k: document[k] for k in keys},
    }
    if document.get("circuit_sha256") not in (None, circuit_sha256(SimpleNamespace(**fields))):  # files of before it have none
        raise ValueError(
            f"what {JSON} says of nodes and settings is not what was written (circuit_sha256 differs); copy both files again."
        )
    return fields


def _check_document(document: Any, data: bytes) -> None:
    """Its kind, its keys, and whether the tensors are those that it belongs to."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT!r}.")
    if document.get("version") != VERSION:
        raise ValueError(f"its version is {document.get('version')!r}, this package reads {VERSION}; update sparse_circuits.")
    for key, kind in _KEYS.items():
        if key not in document or not isinstance(document.get(key), kind) or isinstance(document.get(key), bool):  # type: ignore[arg-type]
            raise ValueError(f"{key} in {JSON} is missing or of the wrong type.")
    if not NAME.fullmatch(document["task"]):
        raise ValueError("its task is no name.")
    if hashlib.sha256(data).hexdigest() != document["tensors_sha256"]:
        raise ValueError(f"{TENSORS} is not the one that {JSON} belongs to (sha256 differs); copy both files again.")


def _sites(found: dict[str, Any]) -> tuple[dict[str, int], dict[str, torch.Tensor]]:
    widths, nodes = {}, {}
    for name, site in found.items():
        layer, _ = located(name)
        if not isinstance(site, dict) or (layer is not None and str(layer) != name.partition(".")[0]):
            raise ValueError(f"{name!r:.80} is no node site.")
        width, indices = site.get("width"), site.get("nodes")
        if not _is_int(width) or not 1 <= width <= _LARGEST_WIDTH:  # type: ignore[operator]
            raise ValueError(f"the width of {name} is {width!r:.40}.")
        if not isinstance(indices, list) or not all(_is_int(i) for i in indices):
            raise ValueError(f"the nodes of {name} are no list of whole numbers.")
        if any(not 0 <= i < width for i in indices):  # type: ignore[operator]
            raise ValueError(f"{name} has {width} nodes, the circuit names one outside of them.")
        if any(b <= a for a, b in itertools.pairwise(indices)):
            raise ValueError(f"the nodes of {name} are not in rising order.")
        widths[name] = width
        if indices:
            nodes[name] = torch.tensor(indices)
    if FINAL not in widths:
        raise ValueError(f"it has no {FINAL} among its sites.")
    order = ordered(widths)
    return {name: widths[name] for name in order}, {name: nodes[name] for name in order if name in nodes}  # type: ignore[misc]


def _edges(found: dict[str, Any], nodes: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> dict[str, Edges]:
    edges = {}
    for name, count in found.items():
        source_site, _, target_site = name.partition("->")
        parts = [tensors.get(f"{kind}::{name}") for kind in ("source", "target", "weight")]
        if source_site not in nodes or target_site not in nodes or name not in edge_names(source_site):
            raise ValueError(f"its edges {name!r:.80} connect no two sites with nodes.")
        if not _is_int(count) or count < 1:
            raise ValueError(f"its edges {name} are {count!r:.40}; sites without edges are left out.")
        for part, dtype in zip(parts, (torch.int32, torch.int32, torch.float32)):
            if part is None or part.dtype != dtype or part.shape != (count,):
                raise ValueError(f"the edges {name} have no {count} entries of {dtype}.")
        source, target, weight = parts[0].long(), parts[1].long(), parts[2]  # type: ignore[union-attr]
        if not torch.isin(source, nodes[source_site]).all() or not torch.isin(target, nodes[target_site]).all():
            raise ValueError(f"an edge of {name} leaves the circuit's nodes.")
        if len(torch.stack([source, target]).unique(dim=1).T) != count:
            raise ValueError(f"an edge of {name} is there twice.")
        if not weight.isfinite().all():  # type: ignore[union-attr]
            raise ValueError(f"a weight of {name} is not finite.")
        edges[name] = Edges(source, target, weight)  # type: ignore[arg-type]
    return edges


def _vectors(kind: str, tensors: dict[str, torch.Tensor], widths: dict[str, int]) -> dict[str, torch.Tensor]:
    found, made = {}, made_inputs(widths) if kind == "mean" else {}
    for name, tensor in tensors.items():
        head, _, site = name.partition("::")
        if head != kind:
            continue
        wanted = widths.get(made.get(site, site))
        if wanted is None or tensor.dtype != torch.float32 or tensor.shape != (wanted,) or not tensor.isfinite().all():
            raise ValueError(f"{name} is not {wanted} finite numbers of float32.")
        found[site] = tensor
    return found


def _check_calibration(found: dict[str, Any]) -> None:
    if found and set(found) != {"scale", "shift"}:
        raise ValueError("calibration must be empty, or scale and shift.")
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in found.values()):
        raise ValueError("calibration must be numbers.")


def _check_settings(settings: dict[str, Any], metrics: dict[str, Any]) -> None:
    """What is used again must be usable."""
    fields: dict[str, Any] = {field.name: type(field.default) for field in dataclasses.fields(PruneConfig)}
    for name, kind in fields.items():
        value = settings.get(name, kind())
        wanted = (int, float) if kind is float else kind
        if not isinstance(value, wanted) or isinstance(value, bool) != (kind is bool):  # type: ignore[arg-type]
            raise ValueError(f"settings has {name} {value!r:.40}, which is no {kind.__name__}.")
    PruneConfig(**{name: settings[name] for name in fields if name in settings})
    if settings.get("task_form", "") not in ("", *FORMS):
        raise ValueError(f"settings has task_form {settings['task_form']!r:.40}, which is none of {', '.join(FORMS)}.")
    if not isinstance(settings.get("means", {}), dict) or not _is_int(settings.get("means", {}).get("tokens", 0)):
        raise ValueError("settings has no usable means.")
    if not isinstance(metrics.get("circuit", {}), dict) or not isinstance(
        metrics.get("circuit", {}).get("loss", 0.0), (int, float)
    ):
        raise ValueError("metrics has no usable circuit.")


def check_labels(labels: dict[str, str], widths: dict[str, int]) -> None:
    """Raises ValueError for the first label that names no node."""
    for place in labels:
        site, _, index = place.rpartition(":")
        known = site in widths and index.isascii() and index.isdigit() and len(index) < 9
        if (
            not known or int(index) >= widths[site] or str(int(index)) != index
        ):  # one way to write a node, or it would have two labels
            raise ValueError(f"the label {place!r:.80} names no node; write site:index.")
        if not labels[place].isprintable() and any("\ud800" <= each <= "\udfff" for each in labels[place]):
            raise ValueError(f"the label of {place} has half a character (a lone surrogate); write it again.")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# -------------------------------------------------------------------------------------------------------------------- Hub


def find(source: str | Path, subfolder: str | None, revision: str | None, hub: dict[str, Any]) -> Path:
    """The folder of a circuit: here, or downloaded from the Hub."""
    if subfolder is not None and (".." in Path(subfolder).parts or Path(subfolder).is_absolute()):
        raise ValueError(f"{subfolder!r} is no subfolder.")
    local = Path(source)
    if local.is_dir():
        folder = local / subfolder if subfolder else local
        if not (folder / JSON).is_file():
            others = sorted(path.parent.name for path in local.glob(f"circuits/*/{JSON}"))
            raise FileNotFoundError(
                f"{folder} holds no {JSON}"
                + (f"; {local} has circuits for {', '.join(others)}." if others else "; give the folder of a circuit.")
            )
        return folder
    if local.is_absolute() or str(source).count("/") != 1 or str(source).startswith((".", "~")):
        raise FileNotFoundError(f"{source} is no folder; give a circuit's folder, or a Hub id such as user/name with a task.")
    from huggingface_hub import snapshot_download

    prefix = f"{subfolder}/" if subfolder else ""
    try:
        root = snapshot_download(
            str(source), revision=revision, allow_patterns=[prefix + name for name in (JSON, TENSORS, REPORT)], **hub
        )
    except Exception as error:  # the client has dozens of kinds
        raise FileNotFoundError(
            f"{source} could not be read from the Hub ({next(iter(str(error).strip().splitlines()), type(error).__name__)})."
        ) from None
    folder = Path(root) / subfolder if subfolder else Path(root)
    if not (folder / JSON).is_file():
        raise FileNotFoundError(f"{source} has no {prefix}{JSON} at this revision; name a task that it has a circuit for.")
    return folder


def push(circuit: Any, repo_id: str, subfolder: str, hub: dict[str, Any]) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save(circuit, folder)
        load(folder)
        return upload(folder, repo_id, path_in_repo=subfolder, **{"commit_message": f"Circuit for {circuit.task}", **hub})
