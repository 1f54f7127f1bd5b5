"""What an extra brings is asked for in one way, before any work; and what is given to a command is looked at before the model is loaded."""

import importlib
import os
import re
import subprocess
import sys
import time

import pytest
import typer
from typer.testing import CliRunner

import sparse_circuits.modeling_csp as modeling
from sparse_circuits import hub as extras
from sparse_circuits.cli.app import app
from tiny import ROOT

RUNNER = CliRunner()
QUOTES = "single_double_quote"


@pytest.fixture
def untouched(monkeypatch):
    """No model may be loaded, no corpus be read."""

    def fail(*args, **kwargs):
        raise AssertionError("work was done before the input was looked at")

    monkeypatch.setattr(modeling.CSPForCausalLM, "from_pretrained", fail)
    for module, name in (
        ("corpora.mixture", "load_corpus"),
        ("corpora.sources", "read_sources"),
        ("corpora.idioms", "programs"),
    ):
        monkeypatch.setattr(importlib.import_module(f"sparse_circuits.{module}"), name, fail)


def said(*words):
    """The one line that a command ends with."""
    result = RUNNER.invoke(app, [str(word) for word in words])
    assert result.exit_code == 2, (result.output, result.exception)
    lines = [line for line in result.stderr.splitlines() if line.strip() and "Loading weights" not in line]
    assert len(lines) == 1, lines
    assert lines[0].startswith("csp: ")
    return lines[0]


DOORS = {
    "optuna": [("prune", ROOT, QUOTES, "--out", "{out}", "--trials", 2)],
    "uvicorn": [("view", ROOT, QUOTES, "--serve")],
    "starlette": [("view", ROOT, QUOTES, "--serve")],
    "datasets": [
        ("train", "--out", "{out}", "--corpus", "hf:some/data"),
        ("prune", ROOT, QUOTES, "--out", "{out}", "--corpus", "hf:some/data"),
        ("tokenize", "train", "--out", "{out}", "--corpus", "hf:some/data"),
    ],
    "detect_secrets": [("publish", ROOT, "--repo-id", "me/x", "--dry-run")],
}


@pytest.mark.parametrize(("module", "words"), [(module, words) for module, every in DOORS.items() for words in every])
def test_a_missing_extra_is_said_in_one_way_before_any_work(module, words, untouched, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    line = said(*(str(word).format(out=tmp_path / "out") for word in words))
    assert re.search(rf'csp: {module} is missing, which .+ need: pip install "sparse-circuits\[\w+\]"$', line)
    assert not (tmp_path / "out").exists()


def test_the_adapter_for_transformer_lens_says_so_too(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("transformer_lens.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformer_lens", None)
    monkeypatch.delitem(sys.modules, "sparse_circuits.convert.transformer_lens", raising=False)
    with pytest.raises(extras.MissingExtra, match=r"sparse-circuits\[lens\]"):
        importlib.import_module("sparse_circuits.convert.transformer_lens")


def test_every_extra_is_one_of_the_packages():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for module, extra in extras._EXTRA_OF.items():
        (line,) = re.findall(rf"^{extra} = (?s:\[.*?\])", text, re.M)
        assert module.replace("_", "-") in line.replace("_", "-")


WRONG = [
    (("verify", ROOT, "runs/nowhere"), "holds no circuit.json"),
    (("verify", "runs/nowhere", "x"), "is no folder"),
    (("verify", ROOT, "nonesuch"), "circuits/nonesuch"),
    (("verify", ROOT, QUOTES, "--corpus", "/no/where"), "is no folder"),
    (("verify", ROOT, QUOTES, "--corpus", "idioms:x"), "is no corpus"),
    (("export", QUOTES, "--out", "{out}"), "if the model is named too"),
    (("export", QUOTES, "--out", "{out}", "--to", "pdf"), "is no format"),
    (("export", QUOTES, "--out", "{out}", "--to", "mib"), "name it with --model"),
    (("export", QUOTES, "--model", ROOT, "--out", "{out}", "--to", "neuronpedia"), "give --prompt and --scan"),
    (("export", QUOTES, "--model", ROOT, "--out", "{file}/x"), "cannot be written to"),
    (("prune", ROOT, QUOTES, "--out", "{out}", "--method", "x"), "--method is 'x'"),
    (("prune", ROOT, QUOTES, "--out", "{out}", "--set", "steps=x"), "steps is 'x'"),
    (("prune", ROOT, QUOTES, "--out", "{out}", "--set", "x=1"), "is no setting of pruning"),
    (("prune", ROOT, "nonesuch", "--out", "{out}"), "is no task"),
    (("prune", ROOT, QUOTES, "--out", "{file}"), "is a file"),
    (("prune", ROOT, QUOTES, "--out", "{file}/x"), "cannot be written to"),
    (("prune", ROOT, QUOTES, "--out", "{full}"), "has other files"),
    (("prune", ROOT, QUOTES, "--out", "{out}", "--corpus", "/no/where"), "is no folder"),
    (("prune", ROOT, QUOTES, "--out", "{out}", "--trials", 2, "--method", "attribution"), "leave out --method"),
    (("tasks", ROOT, "--task", "nonesuch"), "is no task"),
    (("tasks", "runs/nowhere"), "is no folder"),
    (("node", ROOT, "0.mlp.post_act:5", "--corpus", "/no/where"), "is no folder"),
    (("view", ROOT, "nonesuch"), "circuits/nonesuch"),
    (("view", ROOT, QUOTES, "--out", "{full}"), "is a folder"),
    (("view", ROOT, QUOTES, "--out", "{file}/x.html"), "cannot be written to"),
    (("view", ROOT, QUOTES, "--corpus", "/no/where"), "is no folder"),
    (("generate", "runs/nowhere", "x"), "is no folder"),
    (("info", "~/nowhere"), "is no folder"),
    (("info", "a/b/c"), "is no folder"),
    (("info", "runs\\nowhere"), "is no folder"),
    (("train", "--out", "{out}", "--corpus", "/no/where"), "is no folder"),
    (("train", "--out", "{file}/x"), "cannot be written to"),
    (("bridge", "train", ROOT, "--out", "{out}", "--set", "sparsity.foo=1"), "foo is no setting"),
    (("bridge", "evaluate", "runs/nowhere"), "is no folder"),
    (("bridge", "steer", "runs/nowhere", "--out", "{out}"), "is no folder"),
    (("bridge", "steer", ROOT, "--out", "{out}", "--corpus", "/no/where"), "is no folder"),
    (("tokenize", "train", "--out", "{out}", "--corpus", "/no/where"), "is no folder"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_wrong_input_is_named_before_the_model_is_loaded(words, message, untouched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("")
    places = {"out": tmp_path / "out", "file": tmp_path / "file", "full": tmp_path / "full"}
    begun = time.monotonic()
    assert message in said(*(str(word).format(**places) for word in words))
    assert time.monotonic() - begun < 20
    assert not (tmp_path / "out").exists()


def test_what_functions_say_of_arguments_is_said_of_options(tmp_path):
    line = said("prune", ROOT, "var_swap", "--out", tmp_path / "x", "--corpus", "idioms:200", "--tokens", 2000)
    assert "(--force prunes anyway)" in line
    assert "force=True" not in line


def test_a_repository_that_the_hub_does_not_have_is_one_sentence(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "not in the cache of the Hub, which is switched off" in said("info", "nobody/nothing")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *a, **k: (_ for _ in ()).throw(ConnectionError("no route")))
    begun = time.monotonic()
    assert "no connection to the Hub (no route); check the network" in said("info", "nobody/nothing")
    assert time.monotonic() - begun < 10  # asked once


def test_the_version():
    result = RUNNER.invoke(app, ["--version"])
    assert result.exit_code == 0
    assert re.fullmatch(r"sparse_circuits \d+\.\d+\.\d+\n", result.stdout)


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (FloatingPointError("x"), 2), (extras.MissingExtra("x"), 2)]
)
def test_every_end_has_its_exit_code(error, code):
    from sparse_circuits.cli.app import command

    own = typer.Typer()
    own.command("other")(lambda: None)

    def run() -> None:
        raise error

    command(own, "run")(run)
    result = RUNNER.invoke(own, ["run"])
    assert result.exit_code == code
    assert result.stderr.startswith("csp: ")


def test_threads_that_wait_sleep_under_the_command():
    """benchmarks/busy.py measures why; it must be said before PyTorch is loaded, and a user's own setting stands."""
    code = "import sys, os, sparse_circuits.cli.app; assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
    for given, wanted in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"} | given
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == wanted
