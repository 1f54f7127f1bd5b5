"""Files: whole or not at all, whoever writes them and whenever they are killed; leftovers of killed saves are swept; documents within limits."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparse_circuits import CSPForCausalLM
from sparse_circuits.circuits import mean_activations
from sparse_circuits.circuits.export import save_graphml
from sparse_circuits.cli.app import app
from sparse_circuits.files import (
    appearing,
    fresh_folder,
    is_empty,
    parse_json,
    parse_yaml,
    read_text,
    scratch_prefix,
    sweep,
    write_whole,
)
from sparse_circuits.training.card import write_card
from sparse_circuits.training.metrics import write_curves
from tiny import ROOT, tiny_model

GONE = 2**22 - 1  # no process has it: the largest that Linux allows is 2**22


def scratch_of(process, kind="saving"):
    return re.sub(r"-\d+-$", f"-{process}-abcdefgh", scratch_prefix(kind))


@pytest.mark.parametrize("kind", ["saving", "partial", "writing", "circuit"])
def test_what_killed_processes_left_is_swept_and_what_lives_is_not(kind, tmp_path):
    live = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        kept = [scratch_of(live.pid, kind), scratch_of(os.getpid(), kind), ".mine", "saving-x", f".{kind}", "model.safetensors"]
        kept.append(
            re.sub(r"-[0-9a-f]{8}-", "-00000000-", scratch_of(GONE, kind), count=1)
        )  # of another machine, which may still be at it
        swept = [scratch_of(GONE, kind)]
        for name in (*kept, *swept):
            (tmp_path / name).mkdir()
            (tmp_path / name / "part").write_text("x")
        old = {"saving": ".saving-abcdefgh", "partial": ".partial-abcdefgh", "circuit": ".circuit.abcdefgh"}.get(
            kind
        )  # of earlier versions
        for name in (old, re.sub(r"-[0-9a-f]{8}-", "-11111111-", scratch_of(GONE, kind), count=1)):
            if name:
                (tmp_path / name).mkdir()
                os.utime(tmp_path / name, (time.time() - 2 * 86400,) * 2)
        sweep(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    finally:
        live.kill()


def test_a_link_is_swept_and_not_followed(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    (tmp_path / scratch_of(GONE)).symlink_to(tmp_path / "precious")
    sweep(tmp_path)
    assert (tmp_path / "precious" / "file").is_file()
    assert not (tmp_path / scratch_of(GONE)).is_symlink()


WRITERS = {
    "text": lambda folder: write_whole(folder / "x.txt", "new"),
    "card": lambda folder: write_card(folder, tiny_model(), title="T", description="D"),
    "curves": lambda folder: write_curves([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], folder / "curves.png"),
    "graphml": lambda folder: save_graphml(toy(), folder / "x.graphml"),
    "recipe": lambda folder: __import__("sparse_circuits.training.train", fromlist=["x"]).prepare_folder(
        {"a": 1}, folder / "run", False
    ),
}


def toy():
    from toy import toy_blocks, toy_circuit, toy_model

    model = toy_model()
    return toy_circuit(model, mean_activations(model, toy_blocks(4)))


@pytest.mark.parametrize("writer", WRITERS)
def test_a_write_that_fails_leaves_the_older_file(writer, tmp_path, monkeypatch):
    WRITERS[writer](tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before
    if writer == "recipe":
        (tmp_path / "run" / "recipe.yaml").unlink()
        before = {}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match=r"No space left on device.*free some disk space"):
        WRITERS[writer](tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_safetensors_that_say_a_disk_is_full_are_an_os_error(tmp_path):
    from safetensors import SafetensorError

    with pytest.raises(OSError, match="could not be written"), appearing(tmp_path / "x"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device")
    assert is_empty(tmp_path)


_KILLED = """
import os, signal, sys
import sparse_circuits.circuits.storage as storage
from toy import *
from sparse_circuits.circuits import mean_activations
moves = [0]
real = os.replace
def replace(a, b):
    if moves[0] == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    moves[0] += 1
    real(a, b)
os.replace = replace
model = toy_model()
toy_circuit(model, mean_activations(model, toy_blocks(4))).save_pretrained(sys.argv[1])
"""


@pytest.mark.parametrize("move", [0, 1])
def test_a_kill_inside_the_first_save_of_a_circuit_does_not_lock_its_folder(move, tmp_path):
    path = f"{ROOT / 'tests' / 'circuits'}{os.pathsep}{ROOT / 'tests'}"
    environment = {**os.environ, "PYTHONPATH": path + os.pathsep + os.environ.get("PYTHONPATH", "")}
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "c"), str(move)], env=environment)
    assert done.returncode == -signal.SIGKILL
    assert list((tmp_path / "c").iterdir())  # something was left
    words = ["prune", str(ROOT), "var_swap", "--out", str(tmp_path / "c"), "--corpus", "idioms:200", "--tokens", "2000"]
    said = CliRunner().invoke(app, words).stderr
    assert "has other files" not in said
    assert "cannot do var_swap" in said  # it got as far as the task


def test_sigterm_ends_a_command_with_one_line_and_no_leftovers(tmp_path):
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "sparse_circuits.cli", "demo", "--out", str(out), "--steps", "100000"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 120
    while time.time() < deadline and not any(tmp_path.iterdir()):
        time.sleep(0.2)
    time.sleep(1)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 128 + signal.SIGTERM
    assert said.strip().splitlines()[-1] == "csp: stopped; nothing half-done is left."
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_fresh_folder_counts_leftovers_as_nothing(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / scratch_of(GONE)).mkdir()
    with fresh_folder(tmp_path / "run") as folder:
        (folder / "x").write_text("x")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["x"]
    with pytest.raises(FileExistsError, match="is not empty"), fresh_folder(tmp_path / "run"):
        pass


def test_a_saved_model_sweeps_its_folder(tmp_path):
    model = CSPForCausalLM.from_pretrained(ROOT)
    (tmp_path / scratch_of(GONE)).mkdir()
    model.save_pretrained(tmp_path)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


BAD_JSON = [
    '{"a": 1, "a": 2}',
    '{"a": 1e999}',
    '["\\ud800"]',
    "[" * 100_000,
    "NaN",
    "-Infinity",
    "{",
    "1" * 5000,
    '{"\\udc00": 1}',
    "",
]


@pytest.mark.parametrize("text", BAD_JSON, ids=range(len(BAD_JSON)))
def test_json_that_cannot_be_used_is_one_sentence(text):
    with pytest.raises(ValueError, match=r"^x\.json .+; get it again\.$") as caught:
        parse_json(text, "x.json")
    assert len(str(caught.value)) < 250


def test_json_that_can_is_what_json_says():
    value = {"a": [1, 2.5, None, True, "\U0001f600é"], "b": {"c": -1e-300}}
    assert parse_json(json.dumps(value), "x") == parse_json(json.dumps(value, ensure_ascii=False), "x") == value


@pytest.mark.parametrize("text", ["a: &x 1\nb: *x", "a: 1\na: 2", "[" * 100_000, "a: [", "\x00", "!!python/object:os.system x"])
def test_yaml_that_cannot_be_used_is_one_sentence(text):
    with pytest.raises(ValueError, match=r"^x\.yaml .+; write it as YAML\.$") as caught:
        parse_yaml(text, "x.yaml")
    assert len(str(caught.value)) < 250


def test_text_is_read_within_limits(tmp_path):
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfabc")
    assert read_text(tmp_path / "x") == "abc"
    with pytest.raises(ValueError, match="6 bytes, more than the 5"):
        read_text(tmp_path / "x", largest=5)
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="is no UTF-8 text"):
        read_text(tmp_path / "x")
    with pytest.raises(OSError, match="cannot be read"):
        read_text(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_text(Path(tmp_path / "none"))
