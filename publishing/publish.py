"""Publishing: a model folder, or that of a bridged pair, with its circuits becomes a Hub repository, checked before the first byte leaves."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..bridges.pair import PARTS, BridgedPair, is_pair
from ..checkpoints.models import in_new_process, load_tokenizer
from ..circuits.circuit import Circuit
from ..circuits.identity import circuit_sha256, refuse_other_model, tokenizer_sha256
from ..circuits.report import REPORT, Verification
from ..circuits.storage import JSON, TENSORS
from ..corpora.blocks import BLOCKS, saved_blocks
from ..hub import require, upload
from ..modeling_csp import CSPForCausalLM
from ..programs.prove import CERTIFICATE, PROGRAM, SIMPLE, STORY, certified, read_certificate
from ..viewer import Subject, write_pages
from .card import LARGEST_PICTURE, dead_end, model_card, pictures
from .places import is_own_file, is_own_folder, scratch_folder, sweep
from .secrets import find_in_file, find_in_text

# What goes; everything else in the folder stays and is named.
ROOT_FILES = (
    r"config\.json", r"generation_config\.json", r"model(-\d{5}-of-\d{5})?\.safetensors", r"model\.safetensors\.index\.json",
    r"sparse_weights\.safetensors", r"\w+_csp\.py", r"README\.md", r"LICENSE(\.\w+)?", r"merges\.txt", r"recipe\.yaml", r"report\.json", r"curves\.png",
    r"(special_tokens_map|tokenizer|tokenizer_config|vocab|added_tokens)\.json",
)  # fmt: skip
PAIR_FILES = (r"bridges\.json", r"bridges\.safetensors", r"README\.md", r"LICENSE(\.\w+)?", r"recipe\.yaml", r"report\.json")
CIRCUIT_FILES = (JSON, TENSORS, REPORT, PROGRAM, SIMPLE, STORY, CERTIFICATE)
# taken away from the repository where this version does not have them: a model may follow a pair, or a pair a model
OBSOLETE = ["circuits/**", "dense/**", "sparse/**", "bridges.json", "*.safetensors", "*.safetensors.index.json", "*_csp.py", "config.json",
            "generation_config.json", "tokenizer*.json", "report.json", "recipe.yaml"]  # fmt: skip
CONTEXT_BLOCKS = 400  # of the text that a model was trained on, for the contexts on pages


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
    """Publishes a model folder: weights, code, tokenizer, card, and every circuit under circuits/ with its page. Or that of a bridged pair: both
    models, the bridges, and circuits of the sparse model, whose pages show what nodes mean to the dense one.

    Everything is put together and checked in a scratch folder first: the model loads in a new process, offline and without this package's
    help, and computes finite logits; circuits belong to it; weights are safetensors; no file has a token or a path of this machine; no link leads out of the folder (but
    the Hub cache's own). One commit has all files, and takes away circuits and weights of an earlier version that this one does not have. If the upload breaks
    off, the same call sends only what is missing.

    Args:
        private: of a repository that is created. revision: branch to commit to (it must exist; default: main).
        dry_run: check everything, send nothing. space: id of a static Space that shows the circuits' pages, updated too.

    Raises:
        FileNotFoundError, ValueError: naming what is missing or wrong, before anything is sent.
        ConnectionError: what the Hub said, in one sentence.
    """
    folder = Path(folder)
    require("detect_secrets", "published folders")
    own = _own_strings(folder, token)
    _require_words(repo_id, space, message, own)
    sweep()
    with scratch_folder() as scratch:
        staged, site = Path(scratch) / "repo", Path(scratch) / "space"
        left_out, circuits = _put_together(folder, staged, site, repo_id, space, own, say)
        files = [(path.relative_to(staged).as_posix(), path.stat().st_size) for path in staged.rglob("*") if path.is_file()]
        files += [(f"{space}: {path.name}", path.stat().st_size) for path in site.glob("*")]
        plan = Plan(repo_id, sorted(files), left_out, circuits)
        if dry_run:
            return plan
        url = upload(
            staged, repo_id, private=private, token=token, revision=revision, commit_message=message, delete_patterns=OBSOLETE
        )
        if space is not None:
            upload(site, space, kind="space", private=private, token=token, commit_message=f"Circuits of {repo_id}")
        return replace(plan, url=url)


def _put_together(
    folder: Path, staged: Path, site: Path, repo_id: str, space: str | None, own: set[str], say: Callable[[str], None]
) -> tuple[list[str], list[str]]:
    """Everything that goes, checked, in the scratch folders; returns what stays, and the tasks of the circuits."""
    left_out = (_stage_pair if is_pair(folder) else _stage)(folder, staged)
    with _named(staged, folder):
        model, tokenizer, pair = _require_models(staged, folder)
    left_out += _leave_card(folder, staged, say)
    circuits = _circuits(staged, model, tokenizer)
    rows = _rows(staged, circuits)  # which names what is wrong with a report
    fine = _refuse_private(staged, own) - {staged / "README.md"}  # before pages are made, which takes minutes
    with _named(staged, folder):
        for part in PARTS if pair else ("",):
            _require_loadable(staged / part)
    (staged / "README.md").write_text(model_card(staged, pair or model, repo_id, rows), encoding="utf-8")
    blocks = _blocks(folder, tokenizer, own, say) if circuits else None
    if circuits and pair is None:
        model = model.to_sparse()  # faster
    subjects = [_subject(staged / "circuits" / task, model, tokenizer, pair, blocks, say) for task in circuits]
    pages = {staged / "circuits" / task / "page.html": [subject] for subject, task in zip(subjects, circuits)}
    if space is not None:
        pages[_stage_space(site, space, repo_id, bool(subjects))] = subjects
    write_pages(pages)
    for place in (staged, site):
        _refuse_private(place, own, fine)
    return left_out, list(circuits)


def _leave_card(folder: Path, staged: Path, say: Callable[[str], None]) -> list[str]:
    """The folder's own card stays here, and another is written, if a link or a command in it would be dead on the Hub, as in a repository's; its
    pictures go along if it does."""
    card = staged / "README.md"
    if not card.is_file():
        return []
    text = card.read_text(encoding="utf-8")
    for name in pictures(text):
        path = folder / name
        if ".." not in path.parts and is_own_file(path, folder) and path.stat().st_size <= LARGEST_PICTURE:
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, staged / name)
    if not (dead := dead_end(text, staged)):
        return []
    say(f"README.md stays here, and a card of its own goes up: {dead[:100]!r} in it would lead nowhere on the Hub")
    card.unlink()
    for name in pictures(text):
        (staged / name).unlink(missing_ok=True)
    return ["README.md"]


def _require_words(repo_id: str, space: str | None, message: str, own: set[str]) -> None:
    """Raises for ids that are none, and for a message that tells a secret."""
    for name in (repo_id, space):
        if name is not None:
            require_repo_id(name)
    if (found := find_in_text(message, own)) is not None:
        raise ValueError(f"The message of the commit has {found.what}; take it out and publish again.")


def require_repo_id(name: str) -> None:
    """Raises ValueError if this is no user/name."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise ValueError(f"{name!r} is no repository id; write user/name.")


def _stage(folder: Path, staged: Path) -> list[str]:
    """Copies what goes; returns what stays."""
    if not is_own_file(folder / "config.json", folder):
        raise FileNotFoundError(f"{folder} has no config.json; give the folder that save_pretrained or csp train wrote.")
    return _copy(folder, staged, ROOT_FILES, {"circuits"}, folder)


def _stage_pair(folder: Path, staged: Path) -> list[str]:
    """The same, of a bridged pair: its own files, those of both models, and the circuits."""
    left_out = _copy(folder, staged, PAIR_FILES, {"circuits", *PARTS}, folder)
    for part in PARTS:
        if not is_own_folder(folder / part, folder):
            raise FileNotFoundError(f"{folder} has no {part}/; give the folder that csp bridge train wrote, whole.")
        names = tuple(each for each in ROOT_FILES if "README" not in each)  # the pair's own card speaks of both
        left_out += [f"{part}/{name}" for name in _copy(folder / part, staged / part, names, set(), folder)]
    return left_out


def _copy(folder: Path, staged: Path, files: tuple[str, ...], folders: set[str], top: Path) -> list[str]:
    """Copies files of these patterns, and circuits if they are among the folders; returns what is in none of both. Nothing is out of `top`."""
    staged.mkdir()
    left_out = []
    for path in sorted(folder.iterdir()):
        if any(re.fullmatch(each, path.name) for each in files) and is_own_file(path, top):
            shutil.copyfile(path, staged / path.name)
        elif path.name not in folders or not is_own_folder(path, top):
            left_out.append(path.name + ("/" if path.is_dir() else ""))
    if "circuits" not in folders:
        return left_out
    for path in sorted((folder / "circuits").glob("*")):
        if is_own_folder(path, top) and is_own_file(path / JSON, top):
            (staged / "circuits" / path.name).mkdir(parents=True)
            for name in CIRCUIT_FILES:
                if is_own_file(path / name, top):
                    shutil.copyfile(path / name, staged / "circuits" / path.name / name)
        elif path.suffix != ".md":
            left_out.append(f"circuits/{path.name}")
    return left_out


def _require_models(staged: Path, folder: Path) -> tuple[CSPForCausalLM, Any, BridgedPair | None]:
    """The model that circuits are of, its tokenizer (None: there is none), and the pair, if it is one."""
    parts = PARTS if is_pair(staged) else ("",)
    for part in parts:
        _require_weights(staged / part, folder / part)
    pair = BridgedPair.from_pretrained(staged) if is_pair(staged) else None
    model = pair.sparse.model if pair else CSPForCausalLM.from_pretrained(staged).eval().float()
    tokenizer = None
    if pair is not None:
        tokenizer = pair.tokenizer
    elif (staged / "tokenizer.json").is_file():
        tokenizer = load_tokenizer(staged, model)
    return model, tokenizer, pair


@contextmanager
def _named(staged: Path, folder: Path) -> Iterator[None]:
    """What is wrong with the scratch folder is said of the user's."""
    try:
        yield
    except (ValueError, OSError) as error:
        text = str(error).replace(str(staged.resolve()), str(folder)).replace(str(staged), str(folder))
        raise (ValueError if isinstance(error, ValueError) else OSError)(text) from None


def _require_weights(staged: Path, folder: Path) -> None:
    weights = sorted(staged.glob("*.safetensors"))
    if not weights:
        raise FileNotFoundError(f"{folder} has no weights in safetensors; save the model with save_pretrained.")
    for path in weights:
        try:
            with safe_open(path, "pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{folder / path.name} is damaged ({error}); save the model again.") from None


def _circuits(staged: Path, model: CSPForCausalLM, tokenizer: Any) -> dict[str, Circuit]:
    """Task -> circuit, each loaded and found in this model."""
    found = {}
    folders = sorted((staged / "circuits").glob("*"))
    if folders and tokenizer is None:
        raise FileNotFoundError(
            "The folder has circuits but no tokenizer.json, whose tokens they are about; save the model's tokenizer there."
        )
    vocabulary = tokenizer_sha256(tokenizer) if folders else None
    for path in folders:
        circuit = Circuit.from_pretrained(path)
        refuse_other_model(circuit, model)
        if circuit.tokenizer != vocabulary:
            raise ValueError(f"The circuit in circuits/{path.name} was found with another tokenizer than the folder's.")
        if circuit.task != path.name:
            raise ValueError(
                f"The circuit in circuits/{path.name} is for {circuit.task}; name its folder so, from_pretrained looks for it there."
            )
        if (path / CERTIFICATE).is_file() and read_certificate(path / CERTIFICATE).get("circuit") != circuit_sha256(circuit):
            raise ValueError(
                f"{CERTIFICATE} in circuits/{path.name} is of another circuit than the one there; run csp prove again."
            )
        found[path.name] = circuit
    return found


def _blocks(folder: Path, tokenizer: Any, own: set[str], say: Callable[[str], None]) -> Any:
    """Text for the contexts on pages: what the model was trained on, if the folder has it, without blocks that hold a token or a path of a machine."""
    if not is_own_file(folder / BLOCKS, folder):
        return None
    blocks = saved_blocks(folder)
    if blocks is None:
        return None
    blocks = blocks[:CONTEXT_BLOCKS]
    texts = [tokenizer.decode(ids) for ids in blocks.tolist()]
    fine = [find_in_text(text, own) is None for text in texts]
    for i in range(len(texts) - 1):  # a secret may begin in one block and end in the next
        if fine[i] and fine[i + 1] and find_in_text(texts[i] + texts[i + 1], own) is not None:
            fine[i] = fine[i + 1] = False
    if not all(fine):
        say(
            f"{fine.count(False)} of {len(fine)} blocks of training text hold what looks like a secret; pages show nothing of them."
        )
    return blocks[torch.tensor(fine)]


def _subject(
    folder: Path, model: CSPForCausalLM, tokenizer: Any, pair: BridgedPair | None, blocks: Any, say: Callable[[str], None]
) -> Subject:
    found = Subject.of(folder, model, tokenizer, blocks, pair=pair)
    missing = [] if found.task is not None else ["prompts (it is no built-in task)"]
    missing += [] if blocks is not None else ["contexts (the folder has no blocks.safetensors of csp train)"]
    if pair is not None and (found.task is None or blocks is None):
        missing.append("what nodes mean to the dense model (it takes both)")
    say(f"page of {found.circuit.task}" + (f", without {' and '.join(missing)}" if missing else ""))
    return found


def _rows(staged: Path, circuits: dict[str, Circuit]) -> list[tuple[str, str, str, str, str]]:
    """(task, edges, loss, verdict, what is certified) of each circuit, for the card."""
    rows = []
    for task, circuit in circuits.items():
        folder = staged / "circuits" / task
        loss = circuit.metrics.get("circuit", {}).get("loss")
        report = Verification.of(folder, circuit)
        verdict = "not verified" if report is None else report.headline
        edges = circuit.num_edges
        rows.append(
            (
                task,
                "not counted" if edges is None else f"{edges:,}",
                "" if loss is None else f"{loss:.3f}",
                verdict,
                certified(folder, circuit),
            )
        )
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
    try:
        in_new_process(_LOAD, str(staged), "1" if (staged / "tokenizer.json").is_file() else "0")
    except ValueError as error:
        raise ValueError(
            f"The folder does not load in a new process ({error}); save the model again with save_pretrained."
        ) from None


def _own_strings(folder: Path, token: str | None) -> set[str]:
    """What must not be in any file: places of this machine, and tokens of this user."""
    from huggingface_hub import get_token

    places = {folder.resolve(), folder.absolute(), Path.cwd(), Path.home()}
    return {*map(str, places), token or "", get_token() or ""} - {"", "/"}


def _refuse_private(place: Path, own: set[str], fine: Set[Path] = frozenset()) -> set[Path]:
    """All files in a folder, `fine` or found to be; raises if a file, or its name, has a token or a path of this machine, naming the file and the line, never the secret (`secrets.py`).

    What pages show of the corpus is no text in their files: it is searched before (`_blocks`).
    """
    files = {path for path in place.rglob("*") if path.is_file()}
    for path in sorted(files - fine):
        name = path.relative_to(place).as_posix()
        if (found := find_in_text(name, own)) is not None:
            raise ValueError(f"The name of a file in {path.parent.name}/ has {found.what}; give it another and publish again.")
        try:
            found = find_in_file(path, own)
        except ValueError as error:
            raise ValueError(f"{name} is damaged: {error}; write it again, or take it out.") from None
        if found is not None:
            raise ValueError(f"{name} has {found}; take it out and publish again (found as: {found.rule}).")
    return files


def _stage_space(site: Path, space: str, repo_id: str, circuits: bool) -> Path:
    """A static Space, but for its one page with all circuits, whose place is returned."""
    if not circuits:
        raise ValueError(
            f"A Space shows circuits, and the folder has none under circuits/; leave out {space}, or csp prune one."
        )
    head = {"title": f"Circuits of {repo_id}", "sdk": "static", "app_file": "index.html", "pinned": False, "models": [repo_id]}
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())
    site.mkdir(parents=True, exist_ok=True)
    (site / "README.md").write_text(
        f"---\n{front}\n---\n\nCircuits of [{repo_id}](https://huggingface.co/{repo_id}).\n", encoding="utf-8"
    )
    return site / "index.html"
