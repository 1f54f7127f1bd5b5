"""Labels and groups that a person wrote on the page come back into the circuit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..circuits.circuit import Circuit
from ..circuits.storage import check_labels
from ..files import read_json

FORMAT = "sparse_circuits.labels"
LARGEST_FILE = 16 << 20  # bytes
LARGEST_NAME = 200  # characters


def read_labels(path: str | Path, circuit: Circuit) -> dict[str, dict[str, str]]:
    """What the page's export wrote, for this circuit: "labels" and "groups", each "site:index" -> text.

    Raises:
        FileNotFoundError, ValueError: naming what is missing, or that it belongs to another circuit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; export labels from the circuit's page.")
    found = read_json(path, largest=LARGEST_FILE, fix="export labels from the circuit's page again")
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path} is no file of labels; export them from the circuit's page.")
    if (found.get("task"), found.get("weights")) != (circuit.task, circuit.model.get("weights")):
        raise ValueError(f"{path} has the labels of another circuit ({found.get('task')!r:.80}) or another model.")
    return {kind: found.get(kind, {}) for kind in ("labels", "groups")}


def set_labels(circuit: Circuit, labels: Any, groups: Any) -> None:
    """Replaces the labels and groups of a circuit's nodes, which the page shows; those of other nodes are kept, or replaced if given.

    Raises:
        ValueError: if they are no text, or name no node.
    """
    for names in (labels, groups):
        if not isinstance(names, dict) or not all(
            isinstance(text, str) and len(text) <= LARGEST_NAME for text in names.values()
        ):
            raise ValueError(f"Labels and groups must be text of at most {LARGEST_NAME} characters, by node.")
        check_labels(names, circuit.widths)
    inside = {f"{site}:{int(i)}" for site, indices in circuit.nodes.items() for i in indices}
    circuit.labels = {n: t for n, t in circuit.labels.items() if n not in inside} | {n: t for n, t in labels.items() if t}
    circuit.groups = {n: t for n, t in circuit.groups.items() if n not in inside} | {n: t for n, t in groups.items() if t}
