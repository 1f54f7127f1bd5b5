"""Publishing: a model folder with its circuits becomes a Hub repository, checked before the first byte leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..circuits.circuit import Circuit
from ..circuits.hub import hub_errors
from ..circuits.identity import refuse_other_model, tokenizer_sha256
from ..circuits.report import REPORT, Report
from ..circuits.storage import JSON, TENSORS
from ..circuits.storage import load as load_circuit
from ..modeling_csp import CSPForCausalLM
from ..viewer import Subject, write_page
from .card import model_card

# What goes; everything else in the folder stays and is named.
ROOT_FILES = (
    r"config\.json", r"generation_config\.json", r"[\w.-]+\.safetensors", r"[\w.-]+\.safetensors\.index\.json", r"\w+_csp\.py", r"README\.md",
    r"LICENSE(\.\w+)?", r"(special_tokens_map|tokenizer|tokenizer_config|vocab|added_tokens)\.json", r"merges\.txt", r"recipe\.yaml", r"report\.json",
    r"curves\.png",
)  # fmt: skip
CIRCUIT_FILES = (JSON, TENSORS, REPORT)
CORPUS_BLOCKS = "blocks.safetensors"  # of csp train: text, not weights
SECRET = re.compile(
    rb"\bhf_[A-Za-z0-9]{20,}|\bAKIA[A-Z0-9]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
HOME = re.compile(rb"/home/[\w.-]+|/Users/[\w.-]+|/root/[\w.-]+|[A-Z]:\\+Users\\+[\w.-]+|/tmp/[\w.-]+")


@dataclass(frozen=True)
class Plan:
    """What would be uploaded.

    Args:
        repo_id: where to. files: (path in the repository, bytes), sorted. left_out: paths in the folder that stay. circuits: tasks.
        url: of the commit; "" if nothing was sent.
    """

    repo_id: str
    files: list[tuple[str, int]]
    left_out: list[str]
    circuits: list[str]
    url: str = ""

    @property
    def size(self) -> int:
        return sum(size for _, size in self.files)

    def __str__(self) -> str:
        lines = [f"{size:>14,}  {name}" for name, size in self.files]
        lines.append(f"{self.size:>14,}  bytes in {len(self.files)} files for {self.repo_id}")
        return "\n".join(lines + [f"stays here: {name}" for name in self.left_out])


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
    space: str | None = None,
    message: str = "Model and circuits",
    say: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Publishes a model folder: weights, code, tokenizer, card, and every circuit under circuits/ with its page.

    Everything is put together and checked in a scratch folder first: the model loads in a new process, offline and without this package's
    help, and computes finite logits; circuits belong to it; weights are safetensors; no file has a token or a path of this machine. One
    commit has all files. If the upload breaks off, the same call sends only what is missing.

    Args:
        private: of a repository that is created. revision: branch to commit to (it must exist; default: main).
        dry_run: check everything, send nothing. space: id of a static Space that shows the circuits' pages, updated too.

    Raises:
        FileNotFoundError, ValueError: naming what is missing or wrong, before anything is sent.
        ConnectionError: what the Hub said, in one sentence.
    """
    folder = Path(folder)
    for name in (repo_id, space):
        if name is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            raise ValueError(f"{name!r} is no repository id; write user/name.")
    with tempfile.TemporaryDirectory(prefix="csp-publish-") as scratch:
        staged = Path(scratch) / "repo"
        left_out = _stage(folder, staged)
        model = _require_model(staged, folder)
        circuits = _circuits(staged, model)
        _require_loadable(staged)
        (staged / "README.md").write_text(model_card(staged, model, repo_id, _rows(staged, circuits)), encoding="utf-8")
        subjects = [_subject(staged, model, task, circuit, folder) for task, circuit in circuits.items()]
        for subject, task in zip(subjects, circuits):
            say(f"page of {task}")
            write_page([subject], staged / "circuits" / task / "page.html")
        _refuse_private(staged, folder)
        files = sorted(
            (path.relative_to(staged).as_posix(), path.stat().st_size) for path in staged.rglob("*") if path.is_file()
        )
        plan = Plan(repo_id, files, left_out, list(circuits))
        site = Path(scratch) / "space"
        if space is not None:
            _stage_space(site, space, repo_id, subjects)
        if dry_run:
            return plan
        url = _upload(staged, repo_id, "model", private, revision, token, message)
        if space is not None:
            _upload(site, space, "space", private, None, token, f"Circuits of {repo_id}")
        return Plan(repo_id, files, left_out, list(circuits), url)


def _stage(folder: Path, staged: Path) -> list[str]:
    """Copies what goes; returns what stays."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json; give the folder that save_pretrained or csp train wrote.")
    staged.mkdir()
    left_out = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != CORPUS_BLOCKS and any(re.fullmatch(each, path.name) for each in ROOT_FILES):
            shutil.copyfile(path, staged / path.name)
        elif path.name != "circuits" or not path.is_dir():
            left_out.append(path.name + ("/" if path.is_dir() else ""))
    for path in sorted((folder / "circuits").glob("*")):
        if (path / JSON).is_file():
            (staged / "circuits" / path.name).mkdir(parents=True)
            for name in CIRCUIT_FILES:
                if (path / name).is_file():
                    shutil.copyfile(path / name, staged / "circuits" / path.name / name)
        elif path.suffix != ".md":
            left_out.append(f"circuits/{path.name}")
    return left_out


def _require_model(staged: Path, folder: Path) -> CSPForCausalLM:
    weights = sorted(staged.glob("*.safetensors"))
    if not weights:
        raise FileNotFoundError(f"{folder} has no weights in safetensors; save the model with save_pretrained.")
    for path in weights:
        try:
            with safe_open(path, "pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{folder / path.name} is damaged ({error}); save the model again.") from None
    return CSPForCausalLM.from_pretrained(staged).eval().float()


def _circuits(staged: Path, model: CSPForCausalLM) -> dict[str, Circuit]:
    """Task -> circuit, each loaded and found in this model."""
    found = {}
    vocabulary = tokenizer_sha256(_tokenizer(staged)) if (staged / "tokenizer.json").is_file() else None
    for path in sorted((staged / "circuits").glob("*")):
        circuit = load_circuit(path)
        refuse_other_model(circuit, model)
        if vocabulary is not None and circuit.tokenizer != vocabulary:
            raise ValueError(f"The circuit in circuits/{path.name} was found with another tokenizer than the folder's.")
        if circuit.task != path.name:
            raise ValueError(
                f"The circuit in circuits/{path.name} is for {circuit.task}; name its folder so, from_pretrained looks for it there."
            )
        found[path.name] = circuit
    return found


def _tokenizer(staged: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(staged)


def _subject(staged: Path, model: CSPForCausalLM, task: str, circuit: Circuit, folder: Path) -> Subject:
    """With prompts if the task is built in, and contexts if the folder has the text that the model was trained on."""
    from ..circuits.tasks import load_task, tasks

    tokenizer = _tokenizer(staged)
    blocks = None
    if (folder / CORPUS_BLOCKS).is_file():
        with safe_open(folder / CORPUS_BLOCKS, "pt") as file:
            blocks = file.get_slice("train")[:400]
    report = Report.load(staged / "circuits" / task) if (staged / "circuits" / task / REPORT).is_file() else None
    return Subject(circuit, model, tokenizer, load_task(task, tokenizer) if task in tasks() else None, blocks, report)


def _rows(staged: Path, circuits: dict[str, Circuit]) -> list[tuple[str, str, str, str]]:
    """(task, edges, loss, verdict) of each circuit, for the card."""
    rows = []
    for task, circuit in circuits.items():
        folder = staged / "circuits" / task
        loss = circuit.metrics.get("circuit", {}).get("loss")
        verdict = "not verified"
        if (folder / REPORT).is_file():
            verdict = "supported" if Report.load(folder).supported else "not supported"
        edges = circuit.num_edges
        rows.append((task, "not counted" if edges is None else f"{edges:,}", "" if loss is None else f"{loss:.3f}", verdict))
    return rows


# Runs where this package may not be importable: what it uses comes from the folder, as remote code.
_LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
with torch.no_grad():
    logits = model(torch.arange(min(8, model.config.vocab_size))[None]).logits
assert logits.isfinite().all(), "its logits are not finite"
if sys.argv[2] == "1":
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    assert len(tokenizer) <= model.config.vocab_size, "its tokenizer has more tokens than the model"
"""


def _require_loadable(staged: Path) -> None:
    with tempfile.TemporaryDirectory() as empty:
        has_tokenizer = "1" if (staged / "tokenizer.json").is_file() else "0"
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": empty}
        done = subprocess.run(
            [sys.executable, "-c", _LOAD, str(staged), has_tokenizer],
            capture_output=True,
            text=True,
            cwd=empty,
            env=environment,
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:300]
        raise ValueError(f"The folder does not load in a new process ({reason}); save the model again with save_pretrained.")


def _texts(staged: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file that may hold text; of safetensors the header."""
    for path in sorted(staged.rglob("*")):
        if path.is_file():
            if path.suffix == ".safetensors":
                with open(path, "rb") as file:
                    yield path, file.read(int.from_bytes(file.read(8), "little"))
            else:
                yield path, path.read_bytes()


def _refuse_private(staged: Path, folder: Path) -> None:
    """Raises if a file has a token, or a path of this machine, naming the file and the line, never the secret.

    Pages hold text of the corpus, where such words may stand rightfully: they are searched for tokens, and for this machine's own paths.
    """
    own = {str(folder.resolve()), str(Path.cwd()), str(Path.home()), os.environ.get("HF_TOKEN", "")} - {"", "/"}
    for path, text in _texts(staged):
        found = SECRET.search(text)
        kind = "what looks like a secret token" if found else "a path of this machine"
        if not found and path.suffix not in (".html", ".py") and path.name != "tokenizer.json":
            found = HOME.search(text)
        if not found:
            found = next((m for each in own if (m := re.search(re.escape(each.encode()) + rb"(?![\w.-])", text))), None)
        if found:
            line = text[: found.start()].count(b"\n") + 1
            raise ValueError(f"{path.relative_to(staged)} has {kind} in line {line}; take it out and publish again.")


def _stage_space(site: Path, space: str, repo_id: str, subjects: list[Subject]) -> None:
    """A static Space: one page with all circuits."""
    if not subjects:
        raise ValueError(
            f"A Space shows circuits, and the folder has none under circuits/; leave out {space}, or csp prune one."
        )
    write_page(subjects, site / "index.html")
    head = {"title": f"Circuits of {repo_id}", "sdk": "static", "app_file": "index.html", "pinned": False, "models": [repo_id]}
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())
    (site / "README.md").write_text(
        f"---\n{front}\n---\n\nCircuits of [{repo_id}](https://huggingface.co/{repo_id}).\n", encoding="utf-8"
    )


def _upload(
    folder: Path, repo_id: str, kind: str, private: bool | None, revision: str | None, token: str | None, message: str
) -> str:
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with hub_errors(repo_id, "published to"):
        api.create_repo(
            repo_id, repo_type=kind, private=private, exist_ok=True, space_sdk="static" if kind == "space" else None
        )
        done = api.upload_folder(repo_id=repo_id, repo_type=kind, folder_path=folder, revision=revision, commit_message=message)
    return str(done.commit_url)
