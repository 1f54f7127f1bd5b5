"""The circuit: which nodes and edges of one model do one task, and everything needed to run the model as the circuit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .._auto import renamed
from .ablation import Scales, ablated
from .edges import Edges, removed_edges
from .export import to_networkx
from .identity import refuse_other_model
from .masks import Nodes, opened
from .storage import find, load, push, save
from .tasks import load_task, tasks


@dataclass
class Circuit:
    """A circuit of one model for one task.

    Args:
        task: its name.
        nodes: site -> sorted node indices; sites without nodes are left out.
        edges: "source site->target site" -> its edges; None: not pruned, all nonzeros between retained nodes count.
        means: site -> what its other nodes are held at, [width]; also for `sites.y_name`.
        widths: site -> number of nodes of the model there.
        model: what it was found in: id, revision, sha256 of the weights.
        tokenizer: sha256 of the vocabulary.
        scores: site -> how important pruning took each node to be (importance), [width]; may be empty.
        settings: of the pruning (`PruneConfig.to_dict`), with what made the means.
        calibration: scale and shift for the logit difference of the answers; empty if not fitted. Never applied unasked.
        metrics: numbers measured when it was found.
        labels: "site:index" -> what a person calls the node.
        groups: "site:index" -> what a person calls the nodes that belong together.
        versions: of the packages that made it.
    """

    task: str
    nodes: Nodes
    edges: dict[str, Edges] | None
    means: dict[str, torch.Tensor]
    widths: dict[str, int]
    model: dict[str, str | None]
    tokenizer: str
    scores: dict[str, torch.Tensor] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def find_task(self, tokenizer: Any, file: str | Path | None = None) -> Any:
        """The task that the circuit is for, in the form that it answers in, its twin if it is a twin's: from `file`, or the built-in one; None if it
        is neither and no file is given.

        Raises:
            ValueError: if the file is another than the circuit was found with.
        """
        twin, origin = str(self.settings.get("twin") or ""), str(self.settings.get("task_origin") or "")
        name = self.task.removesuffix(f"_{twin}") if twin else self.task
        if file is None and (origin or name not in tasks()):
            return None
        form = str(self.settings.get("task_form") or "line_end") if file is None else None  # older files have no entry
        task = load_task(name if file is None else file, tokenizer, form)
        if file is not None and (task.name != name or (origin.startswith("file:") and task.origin != origin)):
            raise ValueError(f"The circuit for {self.task} was found with another task than {file}; give that file.")
        return getattr(task, twin)() if twin in ("nonsense", "constant") else task

    @property
    def num_nodes(self) -> int:
        return sum(len(indices) for indices in self.nodes.values())

    @property
    def num_edges(self) -> int | None:
        """Size of the circuit as the paper counts it; None if edges were never counted (see `edges_in`)."""
        return None if self.edges is None else sum(len(edges.source) for edges in self.edges.values())

    @property
    def fills(self) -> dict[str, torch.Tensor]:
        """Site -> what a closed node is held at, for every node site."""
        return {name: self.means[name] for name in self.widths}

    @contextmanager
    def applied_to(
        self, model: Any, *, edges: bool | None = None, freeze_norms: bool | None = None, force: bool = False
    ) -> Iterator[Any]:
        """While the block runs, `model` is the circuit: everything else is held at its mean.

        Args:
            edges: only the circuit's edges carry values. Default: if it has them.
            freeze_norms: default: as it was pruned.
            force: apply it to a model whose weights are not those it was found in (the shape must fit).

        Raises:
            ValueError: if the model is another one.
        """
        refuse_other_model(self, model, force)
        with self.running(model, edges=edges, freeze_norms=freeze_norms):
            yield model

    @contextmanager
    def running(self, model: Any, *, edges: bool | None = None, freeze_norms: bool | Scales | None = None) -> Iterator[None]:
        """`applied_to` without its look at the model, which hashes every weight: for callers that have had it, prompt after prompt."""
        edges = self.edges is not None if edges is None else edges
        if edges and self.edges is None:
            raise ValueError(f"The circuit for {self.task} has no edges of its own; prune it with edges, or pass edges=False.")
        freeze = bool(self.settings.get("freeze_norms")) if freeze_norms is None else freeze_norms
        removed = removed_edges(model, self.nodes, self.edges or {}) if edges else None
        with ablated(model, opened(self.nodes, self.fills), removed=removed, means=self.means, freeze_norms=freeze):
            yield

    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes circuit.json and circuit.safetensors (circuits/FORMAT.md), both or neither."""
        return save(self, Path(folder))

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        task: str | None = None,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        **hub: Any,
    ) -> Circuit:
        """From a folder, or a Hub repository. `task` stands for the subfolder circuits/<task>, where model repositories keep circuits.

        Raises:
            FileNotFoundError, ValueError: naming what is missing, damaged or of another version.
        """
        return cls(**load(find(source, f"circuits/{task}" if task is not None else subfolder, revision, hub)))

    def push_to_hub(self, repo_id: str, *, subfolder: str | None = None, **hub: Any) -> str:
        """Uploads the circuit to a model repository, by default into circuits/<task>; returns the commit's address."""
        return push(self, repo_id, subfolder or f"circuits/{self.task}", hub)

    def to_networkx(self, model: Any = None) -> Any:
        """A networkx.DiGraph: nodes "site:index" with site, index, layer; edges with weight. A circuit without edges of its own needs the model."""
        return to_networkx(self, model)

    def __repr__(self) -> str:
        size = "" if self.num_edges is None else f", {self.num_edges} edges"
        loss = self.metrics.get("circuit", {}).get("loss")
        return f"Circuit({self.task!r}, {self.num_nodes} nodes{size}" + (f", loss {loss:.3f})" if loss is not None else ")")


__getattr__ = renamed(__name__, {"edges_in": "circuits.edges:edges_in"})
