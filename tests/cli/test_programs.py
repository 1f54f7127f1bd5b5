"""csp prove and csp circuits, as they are used, on the circuit that ships."""

import json

import pytest
from typer.testing import CliRunner

from sparse_circuits import Circuit
from sparse_circuits.circuits.report import Verification
from sparse_circuits.cli.app import app
from sparse_circuits.programs.prove import certified
from tiny import ROOT

TASK = "single_double_quote"


def csp(*words, fails=False):
    done = CliRunner().invoke(app, list(map(str, words)))
    assert (done.exit_code != 0) == fails, done.output
    return done.output


def test_a_circuit_is_proved_and_checked(tmp_path):
    said = csp("prove", ROOT, TASK, "--most", "10000", "--corpus", "idioms:200", "--tokens", "2000", "--out", tmp_path)
    assert (
        "9,690 of 9,690 prompts (100.0000%), where one answer always would be on 50.0%: every prompt whose values are those of test pools, in 2 of 4 templates"
        in said
    )
    assert "All of it is so" in csp("prove", ROOT, TASK, "--check", "--out", tmp_path)
    document = json.loads((tmp_path / "certificate.json").read_text())
    whole = {**document["restricted"], "of": document["restricted"]["templates"]}  # as if nothing had been left out
    (tmp_path / "certificate.json").write_text(json.dumps({**document, "restricted": whole}))
    assert "restricted is" in csp("prove", ROOT, TASK, "--check", "--out", tmp_path, fails=True)
    (tmp_path / "certificate.json").write_text(json.dumps({**document, "right": 1}))
    assert "right is 1 in the certificate, and 9690 in truth" in csp(
        "prove", ROOT, TASK, "--check", "--out", tmp_path, fails=True
    )


def test_circuits_are_listed(tmp_path):
    head, *rows = csp("circuits", ROOT).splitlines()
    assert head.split("  ")[0] == "circuit"
    found = json.loads(csp("circuits", ROOT, "--json"))
    folders = sorted(path.parent for path in (ROOT / "circuits").glob("*/circuit.json"))
    assert [row.split()[0] for row in rows] == [each["circuit"] for each in found] == [folder.name for folder in folders]
    for folder, row, each in zip(folders, rows, found):
        circuit = Circuit.from_pretrained(folder)
        assert each["edges"] == f"{circuit.num_edges:,}"
        assert Verification.of(folder, circuit).headline == each["levels"]
        assert certified(folder, circuit) == each["certified: right on"]
        assert each["levels"] in row
    assert "find a circuit with csp prune" in csp("circuits", tmp_path, fails=True)


@pytest.mark.parametrize("words", [("prove", ROOT, "nothing"), ("prove", ROOT, TASK, "--check", "--out", "nowhere")])
def test_what_is_missing_is_named(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "csp: " in csp(*words, fails=True)


def test_a_circuit_for_a_task_of_ones_own_is_refused(tmp_path):
    circuit = Circuit.from_pretrained(ROOT, TASK)
    circuit.task = "own"
    circuit.save_pretrained(tmp_path / "own")
    assert "is no built-in task" in csp("prove", ROOT, tmp_path / "own", fails=True)
