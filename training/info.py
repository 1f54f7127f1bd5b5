"""What is in a weight-sparse model: nonzeros, bytes, degrees, dead neurons (`csp info`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ..checkpoints.writing import stored_bytes, stored_tensors
from ..nonzeros_csp import pays
from ..sparse_file_csp import Nonzeros
from ..wiring_csp import LOCATIONS, MATRICES, reading, writing
from .projection import csp_rule


@dataclass(frozen=True)
class TensorInfo:
    """One parameter; `group` is as in the projection, or "dense" for what is never sparse. Bytes are those of a file."""

    name: str
    group: str
    shape: tuple[int, ...]
    dtype: str
    nonzeros: int
    dense_bytes: int
    sparse_bytes: int

    @property
    def entries(self) -> int:
        return torch.Size(self.shape).numel()


@dataclass(frozen=True)
class Degrees:
    """How many nonzero weights each unit of a kind has, over all layers."""

    units: int
    least: int
    median: float
    most: int
    none: int

    @classmethod
    def of(cls, counts: list[torch.Tensor]) -> Degrees:
        every = torch.cat(counts)
        return cls(
            every.numel(), int(every.min()), float(every.double().quantile(0.5)), int(every.max()), int((every == 0).sum())
        )


@dataclass(frozen=True)
class ModelInfo:
    """Everything that `csp info` prints. Memory is in bytes: the weights in either form, and the cache per token at batch 1."""

    tensors: list[TensorInfo]
    degrees: dict[str, Degrees]
    dead_neurons: int
    neurons: int
    memory_dense: int
    memory_sparse: int
    cache_per_token: int
    groups: dict[str, tuple[int, int]] = field(default_factory=dict)  # group -> (nonzeros, entries)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def model_info(model: Any) -> ModelInfo:
    """Counts of a CSP model with its head, in dense or sparse form.

    Degrees, over all layers: a neuron's incoming weights (rows of c_fc) and outgoing ones (columns of the MLP's c_proj), an attention
    channel's (rows of c_attn: q, k and v; columns of its c_proj), a residual channel's reads (columns of c_attn and c_fc) and writes
    (rows of both c_proj). A neuron is dead if it has no incoming or no outgoing weight.

    Raises:
        ValueError: if the model is not ours.
    """
    config: Any = getattr(model, "config", None)
    if getattr(config, "model_type", None) != "csp":
        raise ValueError(f"{type(model).__name__} is no CSP model, whose weights csp info knows how to read.")
    stored = stored_tensors(model) or {}
    rule, parameters = csp_rule(config), dict(model.named_parameters())
    tensors, memory_sparse = [], 0
    for name, tensor in stored.items():
        parameter = parameters[name if name in parameters else f"{name}.values"]
        group = (rule(name, parameter) or ("dense", None))[0]
        count = tensor.values.count_nonzero() if isinstance(tensor, Nonzeros) else tensor.count_nonzero()
        dense = torch.Size(tensor.shape).numel() * tensor.dtype.itemsize
        described = (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        tensors.append(TensorInfo(name, group, *described, int(count), dense, stored_bytes({name: tensor})))
        runs = isinstance(tensor, Nonzeros) and pays(tensor.shape, int(count), torch.device("cpu"))
        memory_sparse += int(count) * (tensor.dtype.itemsize + 4) + 4 * tensor.shape[0] if runs else dense
    degrees, dead, neurons = _degrees(stored, config)
    groups: dict[str, tuple[int, int]] = {}
    for info in tensors:
        nonzeros, entries = groups.get(info.group, (0, 0))
        groups[info.group] = (nonzeros + info.nonzeros, entries + info.entries)
    cache = 2 * config.n_layer * config.n_head * config.d_head * model.dtype.itemsize
    return ModelInfo(tensors, degrees, dead, neurons, sum(t.dense_bytes for t in tensors), memory_sparse, cache, groups)


_UNITS = {"neurons": "neuron", "heads": "attention channel", "wide": "residual channel", "stream": "residual channel"}


def _degrees(stored: dict[str, Any], config: Any) -> tuple[dict[str, Degrees], int, int]:
    """Weights per unit of each kind, over all layers; dead neurons (nothing in, or nothing out); neurons."""
    counts: dict[str, list[torch.Tensor]] = {}
    dead = neurons = 0
    for i in range(config.n_layer):
        prefix = next(p for p in ("transformer.", "") if f"{p}h.{i}.{MATRICES[0].path}.weight" in stored) + f"h.{i}."
        by_path = {matrix.path: _per_row_and_column(stored[f"{prefix}{matrix.path}.weight"]) for matrix in MATRICES}
        own: dict[str, torch.Tensor] = {}
        for matrix in MATRICES:
            rows, columns = by_path[matrix.path]
            into, out_of = (_UNITS[LOCATIONS[location].width] for location in (matrix.writes[0], matrix.reads))
            for kind, count in (
                (f"{into}, writes" if LOCATIONS[matrix.writes[0]].writes else f"{into}, incoming", rows),
                (f"{out_of}, reads" if LOCATIONS[matrix.reads].reads else f"{out_of}, outgoing", columns),
            ):
                count = count[: config.d_model] if kind.startswith("residual") else count
                own[kind] = own[kind] + count if kind in own else count
        for kind, count in own.items():
            counts.setdefault(kind, []).append(count)
        incoming, outgoing = by_path[writing("mlp_neuron").path][0], by_path[reading("mlp_neuron").path][1]
        dead += int(((incoming == 0) | (outgoing == 0)).sum())
        neurons += len(incoming)
    return {kind: Degrees.of(each) for kind, each in counts.items()}, dead, neurons


def _per_row_and_column(tensor: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Nonzeros in each row, and in each column."""
    if not isinstance(tensor, Nonzeros):
        return tensor.count_nonzero(dim=1), tensor.count_nonzero(dim=0)
    real = tensor.values != 0
    rows = torch.arange(tensor.shape[0]).repeat_interleave(tensor.starts.diff().long())[real]
    columns = torch.bincount(tensor.columns[real].long(), minlength=tensor.shape[1])
    return torch.bincount(rows, minlength=tensor.shape[0]), columns


def info_text(info: ModelInfo) -> str:
    """The tables that `csp info` prints."""
    nonzeros, entries = sum(t.nonzeros for t in info.tensors), sum(t.entries for t in info.tensors)
    lines = [f"{entries:,} parameters, {nonzeros:,} nonzero ({nonzeros / entries:.4g})", ""]
    lines += [f"{'group':<44} {'nonzeros':>13} {'of':>15}  density"]
    lines += [f"{name:<44} {some:>13,} {every:>15,}  {some / every:.4g}" for name, (some, every) in info.groups.items()]
    lines += ["", f"{'tensor':<44} {'nonzeros':>13} {'of':>15}  density    on disk, dense and sparse"]
    lines += [
        f"{t.name:<44} {t.nonzeros:>13,} {t.entries:>15,}  {t.nonzeros / max(1, t.entries):<9.4g}  {_size(t.dense_bytes)}  {_size(t.sparse_bytes)}"
        for t in info.tensors
    ]
    dense, sparse = sum(t.dense_bytes for t in info.tensors), sum(t.sparse_bytes for t in info.tensors)
    lines += ["", f"on disk    dense {_size(dense)}, sparse {_size(sparse)} (1/{dense / max(1, sparse):.1f})"]
    lines += [f"in memory  dense {_size(info.memory_dense)}, to_sparse() {_size(info.memory_sparse)}; "
              f"cache {info.cache_per_token:,} bytes per token"]  # fmt: skip
    lines += [
        "",
        f"{'weights per unit, over all layers':<34} {'units':>9} {'least':>6} {'median':>7} {'most':>6} {'without any':>12}",
    ]
    lines += [
        f"{kind:<34} {d.units:>9,} {d.least:>6} {d.median:>7g} {d.most:>6} {d.none:>12,}" for kind, d in info.degrees.items()
    ]
    lines += ["", f"dead neurons (nothing in, or nothing out): {info.dead_neurons:,} of {info.neurons:,}"]
    return "\n".join(lines)


def _size(count: int) -> str:
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= step:
            return f"{count / step:7.2f} {unit}"
    return f"{count:7d} B "
