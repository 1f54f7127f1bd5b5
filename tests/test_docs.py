"""Documents: every link leads somewhere, every citation of the method is there, every command and every piece of code runs alone."""

import hashlib
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from forked import run_forked
from tiny import ROOT

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "circuits" / "FORMAT.md",
]
SOURCES = [
    path
    for folder in ("", "*/", "tests/*/")
    for path in ROOT.glob(f"{folder}*.py")
    if "build" not in path.parts and "runs" not in path.parts
]
IDS = [path.name for path in DOCUMENTS]
READABLE = {path: path.read_text(encoding="utf-8") for path in DOCUMENTS}


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub and the Hub make them."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", READABLE[path]):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), target


def test_citations_of_the_method_resolve():
    known = anchors((ROOT / "docs" / "method.md").read_text(encoding="utf-8"))
    cited = {
        (path.name, a) for path in SOURCES for a in re.findall(r"docs/method\.md#([\w-]+)", path.read_text(encoding="utf-8"))
    }
    assert len(cited) >= 15
    assert {each for each in cited if each[1] not in known} == set()
    for path in SOURCES:
        assert not re.search(r"\bMETHOD\b(?!S)", path.read_text(encoding="utf-8")) or path.name == "test_docs.py", path


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_files_that_are_named_exist(path):
    for name in set(re.findall(r"`((?:[a-z_]+/)+[\w.]+\.(?:py|md|js|json|yaml|ipynb))`", READABLE[path])):
        assert (ROOT / name).exists() or (path.parent / name).exists(), name
    for name in set(re.findall(r"`(\w+\.py)`", READABLE[path])) - {"program.py", "simple.py"}:  # which csp prove writes
        assert list(ROOT.glob(name)) + list(ROOT.glob(f"*/{name}")) + list((path.parent).glob(name)), name


PYTHON = [
    (path.name, i, code)
    for path, text in READABLE.items()
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", text, re.S))
]
BASH = [
    (path.name, line)
    for path, text in READABLE.items() for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.splitlines() if line.strip()
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number", "code"), PYTHON, ids=[f"{name}-{i}" for name, i, _ in PYTHON])
def test_code_runs_alone(name, number, code, tmp_path):
    done = run_forked(["-c", code.replace("runs/", f"{tmp_path}/")], cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [float(line) for line in done.stdout.splitlines() if re.fullmatch(r"\d\.\d+", line)]
    limit = {"runs/tuned": 3.3, "runs/frozen": 3.3}  # 3.89 before; the documents give the figures
    for run, most in limit.items():
        if run in code:
            assert len(losses) == 1
            assert losses[0] < most
    if "for i in range(" in code and "generate" in code:
        assert "for i in range(" in done.stdout


COMMANDS = {line.partition("   #")[0]: name for name, line in BASH if not line.startswith("make ")}
READS = (("csp verify", "csp prune"), ("bridge steer", "bridge train"), ("bridge evaluate", "bridge train"), ("runs/planted", "csp plant"),
         ("runs/found", "csp prune runs/planted"), ("--check", "--simplify"))  # fmt: skip


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """Runs a command line in a folder of its own, with what lines before it wrote; once, however many ask, in whatever worker: (the folder, what it said)."""
    common = tmp_path_factory.getbasetemp()
    common = common.parent if "PYTEST_XDIST_WORKER" in os.environ else common

    def ran(line):
        place = common / f"run-{hashlib.sha256(line.encode()).hexdigest()[:16]}"
        said = place.with_suffix(".said")
        with FileLock(place.with_suffix(".lock")):
            if not said.is_file():
                place.mkdir()
                for needs, writes in READS:
                    if needs in line and writes not in line:
                        shutil.copytree(ran(next(other for other in COMMANDS if writes in other))[0], place, dirs_exist_ok=True)
                said.write_text(run(line, place).stdout)
        return place, said.read_text()

    return ran


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS, ids=[f"{name}-{line[:70]}" for line, name in COMMANDS.items()])
def test_commands_run(line, once):
    assert once(line)[1].strip()


@pytest.mark.slow
def test_the_atlas_has_every_circuit(once):
    folder = once(next(line for line in COMMANDS if "csp atlas" in line))[0] / "atlas"
    text = (folder / "index.html").read_text()
    for place, name in enumerate(FEW):
        assert f'<a href="circuits.html#circuit={place}">{name}</a>' in text
        assert f'href="{name}.certificate.json"' in text
    assert (folder / "circuits.html").stat().st_size < 14e6


FEW = ("else_elif", "if_equals", "single_double_quote")  # whose pages are made here: of all, they take minutes


def few_circuits(folder: Path) -> Path:
    """This repository's model with few of its circuits."""
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copyfile(path, folder / path.name)
    for name in FEW:
        shutil.copytree(ROOT / "circuits" / name, folder / "circuits" / name)
    return folder


def run(line: str, folder: Path):
    words = [word.replace("runs/", f"{folder}/") for word in shlex.split(line, comments=True)]
    assert words[0] in (".venv/bin/csp", ".venv/bin/python"), line
    program = [] if words[0].endswith("python") else ["-m", "sparse_circuits.cli"]
    where = few_circuits(folder / "few") if re.search(r"csp (atlas|publish) \. ", line) else ROOT
    done = run_forked([*program, *words[1:]], cwd=where, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_make_lines_name_targets_that_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {line.split()[1] for _, line in BASH if line.startswith("make ")} <= targets


def test_the_readme_shows_the_path_in_order():
    heads = re.findall(r"^## (.*)$", READABLE[ROOT / "README.md"], re.M)
    assert heads == ["Install", "See it", "Load it", "Find a circuit", "Train it", "Share it", "Where to read on"]
    assert "for *circuit sparsity*" in READABLE[ROOT / "README.md"]


def test_every_extra_is_in_the_readme():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in set(extras) - {"dev", "ecosystem"}:
        assert f"`{extra}`" in READABLE[ROOT / "README.md"], extra
