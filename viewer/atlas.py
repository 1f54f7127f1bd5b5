"""All circuits of a model on one page: tasks against nodes, each circuit a click away. A folder of plain files that any static host serves."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..circuits.circuit import Circuit
from ..files import write_whole
from ..wiring_csp import ordered
from .contract import HERE
from .page import content_hash

INDEX, PAGE = "index.html", "circuits.html"


@dataclass(frozen=True)
class Entry:
    """What the atlas says of one circuit.

    Args:
        task: its name; it is shown by the page of all circuits beside the index, in the order of the entries.
        levels: what `csp verify` found, in words. certified: what `csp prove` counted, in words.
        files: further files beside the page: name -> what the link says.
    """

    task: str
    circuit: Circuit
    levels: str = ""
    certified: str = ""
    files: Mapping[str, str] | None = None


def atlas(entries: Sequence[Entry], title: str) -> str:
    """The index page as text; everything from circuits is escaped, nothing is fetched.

    Raises:
        ValueError: if there is no circuit, or they are not of one model.
    """
    if not entries:
        raise ValueError("There is no circuit; find one with csp prune, into the model's circuits/<task>.")
    if len({entry.circuit.model.get("weights") for entry in entries}) > 1:
        raise ValueError("The circuits are of different models; an atlas is of one.")
    style, code = ((HERE / name).read_text(encoding="utf-8") for name in ("atlas.css", "atlas.js"))
    code = f'"use strict";\n{code}'
    policy = f"default-src 'none'; script-src '{content_hash(code)}'; style-src '{content_hash(style)}'; base-uri 'none'; form-action 'none'"
    places = _places(entries)
    shared = sum(len(tasks) > 1 for tasks in places.values())
    said = f"{len(entries)} circuits, {len(places):,} nodes, {shared:,} of them in more than one"
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{html.escape(title)}: circuits</title>
<style>{style}</style>
<body>
<h1>{html.escape(title)}</h1>
<p class="soft">{said}. Levels are those of csp verify; certified is on how many of a task's prompts, all of them run, the circuit is right.</p>
<h2>Circuits</h2>
<div class="wide">{_table(entries)}</div>
<h2>Nodes</h2>
<p><input id="search" type="search" placeholder="site, index or label" aria-label="Search nodes"> <label><input id="shared" type="checkbox"{" checked" if shared else ""}> in more than one
circuit</label> <span id="count" class="soft" role="status"></span></p>
<div class="wide">{_matrix(entries, places)}</div>
<script>{code}</script>
</body>
</html>
"""


def _places(entries: Sequence[Entry]) -> dict[str, set[str]]:
    """Node "site:index" -> tasks whose circuits have it, sites in forward order."""
    found: dict[str, set[str]] = {}
    sites = ordered({site for entry in entries for site in entry.circuit.nodes})
    for site in sites:
        indices = sorted({int(i) for entry in entries if site in entry.circuit.nodes for i in entry.circuit.nodes[site]})
        for i in indices:
            found[f"{site}:{i}"] = {
                entry.task for entry in entries if site in entry.circuit.nodes and bool((entry.circuit.nodes[site] == i).any())
            }
    return found


def _table(entries: Sequence[Entry]) -> str:
    rows = []
    for place, entry in enumerate(entries):
        more = " ".join(
            f'<a href="{html.escape(name, quote=True)}">{html.escape(said)}</a>' for name, said in (entry.files or {}).items()
        )
        edges = "" if entry.circuit.num_edges is None else f"{entry.circuit.num_edges:,}"
        rows.append(
            f'<tr><td><a href="{PAGE}#circuit={place}">{html.escape(entry.task)}</a></td><td class="number">{entry.circuit.num_nodes:,}</td>'
            f'<td class="number">{edges}</td><td>{html.escape(entry.levels)}</td><td>{html.escape(entry.certified)}</td><td>{more}</td></tr>'
        )
    head = "<tr><th>circuit</th><th>nodes</th><th>edges</th><th>levels</th><th>certified: right on</th><th></th></tr>"
    return f'<table id="circuits"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'


def _matrix(entries: Sequence[Entry], places: Mapping[str, set[str]]) -> str:
    heads = "".join(
        f'<th class="task" scope="col"><a href="{PAGE}#circuit={place}">{html.escape(entry.task)}</a></th>'
        for place, entry in enumerate(entries)
    )
    rows = []
    for node, tasks in sorted(places.items(), key=lambda each: -len(each[1])):
        labels = "; ".join(dict.fromkeys(entry.circuit.labels[node] for entry in entries if node in entry.circuit.labels))
        cells = "".join(
            f'<td class="cell{" on" if entry.task in tasks else ""}" title="{html.escape(f"{node}, {entry.task}" if entry.task in tasks else "", quote=True)}"></td>'
            for entry in entries
        )
        words = html.escape(f"{node} {labels} {' '.join(sorted(tasks))}".lower(), quote=True)
        rows.append(
            f'<tr data-circuits="{len(tasks)}" data-text="{words}"><th scope="row">{html.escape(node)}</th><td>{html.escape(labels)}</td>{cells}</tr>'
        )
    return f'<table id="nodes"><thead><tr><th>node</th><th>label</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def write_atlas(entries: Sequence[Entry], title: str, folder: str | Path) -> Path:
    """Writes index.html into a folder; the page of the circuits is the caller's."""
    return write_whole(Path(folder) / INDEX, atlas(entries, title))
