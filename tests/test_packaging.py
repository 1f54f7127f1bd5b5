"""The wheel, in an environment that has nothing else of ours: everything is in it that its commands need."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from tiny import ROOT

LEFT_OUT = {".git", ".venv", ".venv-compat", ".venv-newest", ".venv-beside", "build", "runs", "tests"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=lambda place, names: LEFT_OUT & set(names), symlinks=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder / "out",
        folder / "source",
    ]
    subprocess.run(command, check=True, capture_output=True)
    (found,) = (folder / "out").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """An interpreter that sees the wheel and the packages that it needs."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")  # whose own .pth files are not followed from here
    return folder / "bin" / "python"


def run(python, folder, *words):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([python, *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_module_and_what_it_reads_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    rooms = [path.parent.name for path in ROOT.glob("*/__init__.py")]
    wanted = [*ROOT.glob("*.py"), *(path for room in rooms for path in (ROOT / room).glob("*.*"))]
    left_out = {"setup.py", "page.png", "FORMAT.md"}
    for path in wanted:
        if path.name not in left_out and path.suffix in (".py", ".js", ".css", ".html", ".json", ".yaml"):
            assert f"sparse_circuits/{path.relative_to(ROOT).as_posix()}" in names, path
    assert {"sparse_circuits/py.typed", "sparse_circuits/tokenizer.json"} <= names
    assert not [
        name for name in names if "/tests/" in name or "/benchmarks/" in name or name.endswith((".safetensors", ".png"))
    ]


def test_a_model_loads_and_a_page_is_made(python, tmp_path):
    code = "import sparse_circuits; from transformers import AutoModelForCausalLM as A; import sys; print(sparse_circuits.__file__, type(A.from_pretrained(sys.argv[1])))"
    assert "environment" in run(python, tmp_path, "-c", code, ROOT)
    page = tmp_path / "page.html"
    run(
        python,
        tmp_path,
        "-m",
        "sparse_circuits.cli",
        "view",
        ROOT,
        "single_double_quote",
        "--corpus",
        "idioms:100",
        "--tokens",
        500,
        "--out",
        page,
    )
    assert "<!doctype html>" in page.read_text(encoding="utf-8")


def test_the_packaged_recipe_of_bridges_trains(python, tmp_path):
    (recipe,) = python.parent.parent.glob("lib/python*/site-packages/sparse_circuits/bridges/wide.yaml")
    settings = [
        "--set",
        "arguments.eval_strategy='no'",
        "--set",
        "model.d_model=64",
        "--set",
        "model.n_head=4",
        "--set",
        "model.d_mlp=64",
        "--set",
        "model.n_layer=4",
    ]
    settings += ["--set", "sparsity.density=0.5", "--set", "arguments.per_device_train_batch_size=2", "--set", "eval_blocks=2"]
    run(
        python,
        tmp_path,
        "-m",
        "sparse_circuits.cli",
        "bridge",
        "train",
        ROOT,
        "--recipe",
        recipe,
        "--steps",
        2,
        "--corpus",
        "idioms:200",
        *settings,
        "--out",
        "out",
    )
    assert (tmp_path / "out" / "pair" / "bridges.json").is_file()
