"""The notebook runs from top to bottom, in a kernel, offline, and is kept without outputs."""

import pytest

from tiny import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
nbclient = pytest.importorskip("nbclient", reason="the extra `ecosystem` is part of make test")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.name for path in NOTEBOOKS])
def test_it_runs(path):
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()
    said = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))
    assert "single_double_quote loss" in " ".join(said.split())
    assert "as the circuit: Score(loss=0." in said
    assert "prefers:" in said
    assert "quotes.html" in said


def test_there_is_one():
    assert NOTEBOOKS
