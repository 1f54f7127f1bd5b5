"""The notebook runs from top to bottom, in a kernel, offline; what it is kept with is what its code says now."""

import html
import json
import re

import pytest

from tiny import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
nbclient = pytest.importorskip("nbclient", reason="the extra `ecosystem` is part of make test")


def page_in(notebook):
    """The data of the page that the notebook shows."""
    found = [
        out["data"]["text/html"]
        for cell in notebook.cells
        for out in cell.get("outputs", [])
        if "text/html" in out.get("data", {})
    ]
    (frame,) = (text if isinstance(text, str) else "".join(text) for text in found)
    page = html.unescape(re.search(r'srcdoc="([^"]*)"', frame)[1])
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])["circuits"][0]


def said_in(notebook):
    return [
        "".join(out.get("text", "") for out in cell.get("outputs", []) if out.get("name") == "stdout")
        for cell in notebook.cells
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.name for path in NOTEBOOKS])
def test_it_runs(path):
    import nbformat

    kept, notebook = (nbformat.read(path, as_version=4) for _ in range(2))
    nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    for each in (kept, notebook):
        said = "".join(said_in(each))
        assert "single_double_quote loss" in " ".join(said.split())
        assert "as the circuit: Score(loss=0." in said
        assert "prefers: yes" in said
        assert "quotes.html" in said
        assert not any(out["output_type"] == "error" for cell in each.cells for out in cell.get("outputs", []))
    assert said_in(kept)[1] == said_in(notebook)[1] != ""  # a greedy completion
    one, other = page_in(kept), page_in(notebook)
    for part in ("task", "weights", "links", "certified", "simpler"):
        assert one[part] == other[part], f"run {path.name} again, and keep its outputs"
    assert [node["id"] for node in one["nodes"]] == [node["id"] for node in other["nodes"]]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.name for path in NOTEBOOKS])
def test_it_tells_the_circuit_as_the_readme_does(path):
    told = "".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "markdown")
    (five,) = re.findall(r"60 edges in five sentences: (.*?)\n```", (ROOT / "README.md").read_text(), re.S)
    assert " ".join(five.split())[1:] in " ".join(told.split())


def test_there_is_one():
    assert NOTEBOOKS
