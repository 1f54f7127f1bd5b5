"""The paper's figures, redone on planted models: the rows hold what is known of them, and every figure that they allow is drawn."""

import functools
import json
import math
import sys

import pytest
import torch
from safetensors.torch import save_file

from sparse_circuits.circuits.known import plant
from tiny import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import paper


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Rows of two planted models, one of them called a dense one, and what is known of the first."""
    folder = tmp_path_factory.mktemp("paper")
    known = plant("quote_closing", folder / "sparse-seed0", seed=1)
    plant("quote_closing", folder / "dense-seed0", seed=1)
    generator = torch.Generator().manual_seed(0)
    for run in ("sparse-seed0", "dense-seed0"):
        blocks = {
            name: torch.randint(0, known.model.config.vocab_size, (80, 32), generator=generator)
            for name in ("train", "held_out")
        }
        save_file(blocks, folder / run / "blocks.safetensors")
    words = [
        "measure",
        str(folder / "sparse-seed0"),
        str(folder / "dense-seed0"),
        "--out",
        str(folder / "rows.jsonl"),
        "--steps",
        "10",
    ]
    words += ["--tasks", str(folder / "sparse-seed0" / "task.jsonl"), "--targets", "0.3", "0.15", "--methods", *paper.METHODS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["paper.py", *words])
        patch.setattr(paper, "PruneConfig", functools.partial(paper.PruneConfig, pairs=8, eval_pairs=16))
        paper.main()
        before = (folder / "rows.jsonl").read_text()
        paper.main()
        assert (folder / "rows.jsonl").read_text() == before  # nothing is measured twice
    return folder, known, paper.rows_of(folder / "rows.jsonl")


def test_every_ranking_ends_with_the_planted_circuit(measured):
    _, known, rows = measured
    circuits = [row for row in rows if row["kind"] == "circuit"]
    assert len(circuits) == 2 * len(paper.METHODS) * 2
    for row in circuits:
        assert row["reached"]
        assert row["edges"] <= known.copies[0].num_edges
        if row["target"] == paper.TARGET:
            assert row["edges"] == known.copies[0].num_edges


def test_models_are_measured_as_they_are(measured):
    _, known, rows = measured
    model = next(row for row in rows if row["kind"] == "model")
    blocks = [p for name, p in known.model.named_parameters() if ".h." in name and p.dim() == 2]
    assert model["density"] == sum(int(p.count_nonzero()) for p in blocks) / sum(p.numel() for p in blocks)
    necessity = next(row["necessity"] for row in rows if row.get("necessity"))
    assert necessity["without_edges"] > 0.5 > necessity["model"]


def test_figures_are_drawn_and_said(measured, capsys):
    folder, known, rows = measured
    paper.draw(rows, folder / "figures", paper.FIGURES)
    names = {path.name for path in (folder / "figures").iterdir()}
    assert names == {
        "figure2.png",
        "figure3.png",
        "figure10.png",
        "figure31-sparse-seed0.png",
        "figure31-dense-seed0.png",
        "figure32.png",
    }
    said = capsys.readouterr().out
    assert f"figure 3, sparse-seed0: loss {rows[0]['loss']:.3f}, {known.copies[0].num_edges} edges" in said


def test_means_are_over_tasks_that_every_circuit_reached():
    def row(run, task, edges, reached=True):
        return {
            "kind": "circuit",
            "run": run,
            "task": task,
            "edges": edges,
            "reached": reached,
            "target": 0.15,
            "method": "learned",
        }

    rows = [row("a", "one", 4), row("a", "two", 100), row("a", "three", 0), row("a", "four", 7)]
    rows += [row("b", "one", 16), row("b", "two", 3, reached=False), row("b", "three", 0)]
    kept, found = paper.sizes(rows, lambda row: True, lambda row: 0)
    assert kept == ["one"]
    assert found[0] == pytest.approx({"a": 4, "b": 16})
    assert paper.geometric([2, 8]) == pytest.approx(4)
    assert paper.geometric([0, math.e]) == pytest.approx(math.sqrt(math.e))


def test_a_row_is_known_by_all_that_decides_it(tmp_path):
    rows = paper.Rows(tmp_path / "new" / "rows.jsonl")
    rows.add(kind="circuit", run="a", weights="x", task="t", method="learned", target=0.15, steps=400, edges=3)
    again = paper.Rows(tmp_path / "new" / "rows.jsonl")
    for change, known in (
        ({}, True),
        ({"edges": 9}, True),
        ({"weights": "y"}, False),
        ({"target": 0.3}, False),
        ({"steps": 9}, False),
    ):
        assert (
            again.has(
                **(
                    {
                        "kind": "circuit",
                        "run": "a",
                        "weights": "x",
                        "task": "t",
                        "method": "learned",
                        "target": 0.15,
                        "steps": 400,
                    }
                    | change
                )
            )
            is known
        )
    assert json.loads((tmp_path / "new" / "rows.jsonl").read_text())["edges"] == 3
