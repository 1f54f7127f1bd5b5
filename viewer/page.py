"""One HTML file from the data and the source files in this folder: no network, no build step."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_whole
from ..wiring_csp import FINAL, LOCATIONS
from .contract import HERE, check, inline_json, records
from .data import Subject, circuit_data, page_data

# In order: what is shared, then one file for each panel.
SCRIPTS = (
    "contract.js", "dom.js", "state.js", "layout.js", "words.js", "graph.js", "flow.js", "node.js", "story.js", "steering.js", "contexts.js", "prompts.js", "attention.js", "curves.js", "report.js",
    "labels.js", "filters.js", "compare.js", "tokenizer.js", "model.js", "here.js", "live.js", "main.js",
)  # fmt: skip


def script() -> str:
    """The page's scripts, one after the other."""
    return '"use strict";\n' + "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)


def render(data: dict[str, Any]) -> str:
    """The page as text.

    Scripts and styles are inlined and named by hash in a content security policy that allows nothing else: nothing is fetched (a live page
    talks to its own server), and nothing that data could smuggle in would run.
    """
    check(data)
    style = (HERE / "style.css").read_text(encoding="utf-8")
    code = script()
    policy = (
        f"default-src 'none'; script-src '{content_hash(code)}'; style-src '{content_hash(style)}'; base-uri 'none'; form-action 'none'; "
        f"connect-src {chr(39) + 'self' + chr(39) if data['live'] else chr(39) + 'none' + chr(39)}; worker-src blob:"
    )
    title = ", ".join(dict.fromkeys(circuit["task"] for circuit in data["circuits"]))
    parts = {
        "POLICY": policy, "TITLE": html.escape(f"Circuit: {title}"), "STYLE": style, "SCRIPT": code, "DATA": inline_json(data),
        "CONTRACT": inline_json({"records": records(), "wiring": wiring()}),
    }  # fmt: skip
    text = (HERE / "page.html").read_text(encoding="utf-8")
    head, *rest = text.split("@@")  # @@NAME@@, replaced once: what is put in is not searched again
    return head + "".join(parts[part] if i % 2 == 0 else part for i, part in enumerate(rest))


def wiring() -> dict[str, dict[str, Any]]:
    """What the page knows of node sites, by their path in a layer: title of the row; whether they are channels of the residual stream, or of
    heads; the site whose channels theirs meet in the attention scores."""
    found = {
        location.path: {
            "title": location.title, "residual": location.reads or location.writes, "heads": location.width == "heads",
            "meets": LOCATIONS["attn_k"].path if name == "attn_q" else "",
        }
        for name, location in LOCATIONS.items() if location.node
    }  # fmt: skip
    return {**found, FINAL: {"title": "last residual", "residual": True, "heads": False, "meets": ""}}


def content_hash(text: str) -> str:
    """How a content security policy names a script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def write_pages(pages: Mapping[Path, Sequence[Subject]]) -> None:
    """Several pages, without models; what a circuit's data are is found out once, on however many pages it is."""
    shown = {id(subject): subject for subjects in pages.values() for subject in subjects}
    made = {name: circuit_data(subject) for name, subject in shown.items()}
    for out, subjects in pages.items():
        write_whole(out, render(page_data(subjects, made=made)))


def write_page(subjects: Sequence[Subject], out: str | Path, *, runs: bool = False) -> Path:
    """Writes the page of these circuits; an older page stays whole if writing fails.

    Args:
        runs: put the models into the page, where they are small enough (`data.LARGEST_MODEL`), so that it runs them.
    """
    return write_whole(Path(out), render(page_data(subjects, runs=runs)))


if __name__ == "__main__":  # for the linter (`make check`)
    print(script())
