"""A corpus without network: Python source of the standard library and of installed projects under permissive licences, cleaned, and locked."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import io
import json
import re
import sysconfig
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import Distribution
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from ..files import fresh_folder, read_object, write_whole
from ..hub import require
from .sources import SourceFiles, read_one, read_sources

FORMAT, VERSION = "sparse_circuits.corpus", 1  # the version goes up when a rule changes what is kept
LOCK, CARD = "corpus.json", "README.md"
PYTHON = "python"  # the standard library, as a project
LARGEST_TEXTS = 2 << 30  # bytes of one project's texts

PERMISSIVE = {
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "HPND", "ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Python-2.0", "Unlicense",
    "Zlib",
}  # fmt: skip
_CLASSIFIERS = {
    "MIT License": "MIT", "MIT No Attribution License (MIT-0)": "MIT-0", "BSD License": "BSD-3-Clause", "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC", "Python Software Foundation License": "PSF-2.0", "zlib/libpng License": "Zlib", "The Unlicense (Unlicense)": "Unlicense",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0", "Boost Software License 1.0 (BSL-1.0)": "BSL-1.0",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
}  # fmt: skip
_SAID = (  # licences as people write them, whole
    (re.compile(r"(the )?(mit|expat)( licen[cs]e)?( \(mit\))?", re.I), "MIT"),
    (re.compile(r"(the )?apache([ -]2(\.0)?|,? version 2(\.0)?| software)?( licen[cs]e)?(,? version 2(\.0)?| 2(\.0)?)?", re.I), "Apache-2.0"),
    (re.compile(r"(the )?(new |modified |revised )?bsd([ -]3([ -]clause)?)?( licen[cs]e)?|3[ -]clause bsd( licen[cs]e)?", re.I), "BSD-3-Clause"),
    (re.compile(r"(the )?(simplified )?bsd[ -]2([ -]clause)?( licen[cs]e)?|2[ -]clause bsd( licen[cs]e)?", re.I), "BSD-2-Clause"),
    (re.compile(r"isc( licen[cs]e)?", re.I), "ISC"),
    (re.compile(r"psf(-2\.0)?|python software foundation licen[cs]e", re.I), "PSF-2.0"),
)  # fmt: skip
_VENDORED = {
    "_vendor",
    "vendor",
    "vendored",
    "_vendored",
    "third_party",
    "thirdparty",
    "extern",
    "externals",
    "_external",
    "packages_vendored",
}
_TESTS = {"test", "tests", "testing", "_tests", "conftest.py"}
_GENERATED = re.compile(
    r"@generated|\bauto[- ]?(matically )?generated|generated (by|from|with|automatically)|do not edit|don't edit|machine[- ]generated",
    re.I,
)
_WIDE = 1000  # characters of a line
_NAMES = 0.35  # of names, numbers and strings, the share that must be names: under it a file is a table of data
_ALIKE = 0.8  # Jaccard similarity of runs of five words, above which the later of two files is dropped


@dataclass
class Project:
    """An installed project, and what was taken of it.

    Args:
        licence: as SPDX ids. texts: by path. dropped: path -> reason.
    """

    name: str
    version: str
    licence: str
    texts: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Of all that was taken, paths and texts."""
        digest = hashlib.sha256()
        for path in sorted(self.texts):
            digest.update(f"{path}\0{hashlib.sha256(self.texts[path].encode()).hexdigest()}\n".encode())
        return digest.hexdigest()

    def entry(self) -> dict[str, Any]:
        """In the lock file."""
        return {
            "name": self.name, "version": self.version, "licence": self.licence, "files": len(self.texts),
            "characters": sum(map(len, self.texts.values())), "sha256": self.sha256, "dropped": dict(sorted(Counter(self.dropped.values()).items())),
        }  # fmt: skip


def licence_of(metadata: Any) -> tuple[str, bool]:
    """(licence as it is said, whether it is permissive) by a project's metadata: its expression, else its classifiers, else its text.

    Of several that hold together all must be permissive; of alternatives one. What is not known is not permissive.
    """
    expression = metadata.get("License-Expression")
    if expression:
        return expression, _allows(expression)
    told = [c.rpartition("::")[2].strip() for c in metadata.get_all("Classifier") or [] if c.startswith("License ::")]
    told = [each for each in told if each != "OSI Approved"]
    if told:
        ids = [_CLASSIFIERS.get(each, each) for each in told]
        return " AND ".join(ids), all(each in PERMISSIVE for each in ids)
    text = " ".join((metadata.get("License") or "").split("\n")[0].split())
    found = next((spdx for pattern, spdx in _SAID if pattern.fullmatch(text)), None)
    return found or text[:60] or "not said", found is not None


def _allows(expression: str) -> bool:
    """Whether an SPDX expression allows use under permissive licences alone."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        canonical = canonicalize_license_expression(expression)
    except InvalidLicenseExpression:
        return False
    terms = [
        re.sub(r"\(|\)", "", term).strip() for term in re.split(r"\bAND\b|\bOR\b", re.sub(r" WITH [\w.-]+", "", canonical))
    ]
    values = iter([str(term in PERMISSIVE) for term in terms])
    told = re.sub(
        r"[\w.+-]+", lambda m: {"AND": "and", "OR": "or"}.get(m[0]) or next(values), re.sub(r" WITH [\w.-]+", "", canonical)
    )
    tree = ast.parse(told, mode="eval").body  # of and, or, True and False alone
    return _value(tree)


def _value(tree: ast.expr) -> bool:
    if isinstance(tree, ast.BoolOp):
        values = [_value(each) for each in tree.values]
        return all(values) if isinstance(tree.op, ast.And) else any(values)
    return isinstance(tree, ast.Constant) and tree.value is True


def projects(path: list[str] | None = None) -> tuple[list[Distribution], dict[str, str]]:
    """Installed projects under permissive licences, by name, and the licences of the others.

    Args:
        path: folders to look in; default: where this interpreter finds packages.
    """
    able, others = {}, {}
    for found in importlib.metadata.distributions() if path is None else importlib.metadata.distributions(path=path):
        name = re.sub(r"[-_.]+", "-", found.metadata["Name"] or "").lower()
        if not name or name in able or name in others:
            continue
        licence, permissive = licence_of(found.metadata)
        if permissive:
            able[name] = found
        else:
            others[name] = licence
    return [able[name] for name in sorted(able)], others


def gather(found: Distribution) -> Project:
    """What is kept of an installed project: source files that a person wrote, once each."""
    name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
    project, seen = Project(name, found.version, licence_of(found.metadata)[0]), set[str]()
    for file in sorted(map(str, found.files or ())):
        path = PurePosixPath(file)
        if path.suffix == ".py" and ".." not in path.parts and not path.is_absolute():
            _take(project, file, Path(str(found.locate_file(file))), seen)
    return project


def standard_library_project() -> Project:
    """The standard library, its tests left out, as a project."""
    sources = read_sources("stdlib")
    project = Project(PYTHON, sysconfig.get_python_version(), "PSF-2.0", dropped=dict(sources.left_out))
    for path, text in sources.texts.items():
        reason = unfit(path, text)
        if reason:
            project.dropped[path] = reason
        else:
            project.texts[path] = text
    return project


def _take(project: Project, name: str, path: Path, seen: set[str]) -> None:
    reason = _by_path(name) or read_one(path, name, project.texts, seen)
    if reason is None:
        reason = unfit(name, project.texts[name])
        if reason:
            del project.texts[name]
    if reason:
        project.dropped[name] = reason


def _by_path(name: str) -> str | None:
    parts = [part.lower() for part in PurePosixPath(name).parts]
    if _VENDORED & set(parts):
        return "a copy of another project"
    if _TESTS & set(parts) or parts[-1].startswith("test_") or parts[-1].endswith("_test.py"):
        return "a test"
    return None


def unfit(name: str, text: str) -> str | None:
    """Why a text is no source that a person wrote; None if it may be."""
    if _GENERATED.search(text[:2000]):
        return "generated"
    if any(len(line) > _WIDE for line in text.split("\n")):
        return f"a line of over {_WIDE:,} characters"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "not Python 3"
    counts = Counter(token.type for token in tokenize.generate_tokens(io.StringIO(text).readline))
    told = counts[tokenize.NAME] + counts[tokenize.NUMBER] + counts[tokenize.STRING]
    if told == 0:
        return "comments alone"
    return "a table of data" if counts[tokenize.NAME] < _NAMES * told else None


def drop_alike(found: Iterable[Project]) -> None:
    """Drops files that are nearly another's, of all projects together, the first of them kept: MinHash over runs of five words."""
    require("datasketch", "corpora of installed projects")
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=_ALIKE, num_perm=64)
    files = [(project, path) for project in found for path in sorted(project.texts)]
    for i, (project, path) in enumerate(tqdm(files, desc="near-duplicates", unit="file", disable=None, delay=2)):
        words = re.findall(r"\w+", project.texts[path])
        runs = {" ".join(words[j : j + 5]).encode() for j in range(max(1, len(words) - 4))}
        sketch = MinHash(num_perm=64, seed=1)
        sketch.update_batch(sorted(runs))
        if index.query(sketch):
            project.dropped[path] = "nearly a copy of another file"
            del project.texts[path]
        else:
            index.insert(str(i), sketch)


def build(
    out: str | Path, *, lock: str | Path | None = None, path: list[str] | None = None, stdlib: bool = True
) -> dict[str, Any]:
    """Gathers the corpus into a new folder: texts by project, the lock file, a card. Returns what the lock file says.

    Args:
        lock: an earlier lock file: the corpus must come out the same, text by text.
        path: where to look for installed projects.

    Raises:
        FileExistsError, FileNotFoundError, ValueError: if `out` is in use; if nothing is found; if it is not what the lock says, naming the first difference.
    """
    wanted = None if lock is None else read_lock(Path(lock))
    able, others = projects(path)
    found = [standard_library_project()] if stdlib else []
    found += [gather(each) for each in tqdm(able, desc="projects", unit="project", disable=None, delay=2)]
    drop_alike(found)
    found = [project for project in found if project.texts]
    if not found:
        raise FileNotFoundError(
            "There is no installed project under a permissive licence that has Python source; install some, or name a corpus."
        )
    said = {
        "format": FORMAT, "version": VERSION, "python": sysconfig.get_python_version(), "projects": [project.entry() for project in found],
        "not_taken": dict(sorted(others.items())),
    }  # fmt: skip
    if wanted is not None:
        _require_same(wanted, said)
    with fresh_folder(out) as folder:
        for project in found:
            lines = [json.dumps({"path": each, "text": project.texts[each]}) + "\n" for each in sorted(project.texts)]
            write_whole(folder / f"{project.name}.jsonl", "".join(lines))
        write_whole(folder / LOCK, json.dumps(said, indent=1) + "\n")
        write_whole(folder / CARD, card(said))
    return said


def read_lock(path: Path) -> dict[str, Any]:
    """What a lock file says.

    Raises:
        FileNotFoundError, ValueError: if it is none, or of another version of the rules.
    """
    said = read_object(path, fix="give the corpus.json of csp corpus build")
    entries = said.get("projects")
    if (
        said.get("format") != FORMAT
        or not isinstance(entries, list)
        or not all(isinstance(e, dict) and isinstance(e.get("name"), str) for e in entries)
    ):
        raise ValueError(f"{path} is no lock file of a corpus; give the corpus.json of csp corpus build.")
    if said.get("version") != VERSION:
        raise ValueError(
            f"{path} is of version {said.get('version')!r:.20} of the rules, this package has {VERSION}; build the corpus again."
        )
    return said


def _require_same(wanted: Mapping[str, Any], said: Mapping[str, Any]) -> None:
    before, now = ({each["name"]: each for each in of["projects"]} for of in (wanted, said))
    for name in sorted({*before, *now}):
        a, b = before.get(name), now.get(name)
        if a is None or b is None:
            raise ValueError(
                f"{name} is {'not in the lock' if a is None else 'in the lock, but not installed'}; install exactly what the lock names."
            )
        if a.get("sha256") != b["sha256"]:
            was, is_ = a.get("version"), b["version"]
            raise ValueError(
                f"{name} {is_} has other texts than the lock's {was}; install {name}=={was} ({'' if was == is_ else 'and '}nothing beside what the lock names)."
            )


def read_built(folder: Path) -> SourceFiles:
    """The texts of a built corpus, as "project:NAME/path": held out by project (`sources.held_out`). The standard library's are named as the source
    "stdlib" names them, and so held out by file, the same ones.

    Raises:
        FileNotFoundError, ValueError: if a project's file is missing, or not what the lock says.
    """
    found = SourceFiles()
    for entry in read_lock(folder / LOCK)["projects"]:
        project = Project(str(entry["name"]), str(entry.get("version")), str(entry.get("licence")))
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", project.name):
            raise ValueError(f"{folder / LOCK} names a project {project.name!r:.40}, which cannot be; build the corpus again.")
        project.texts = dict(_lines(folder / f"{project.name}.jsonl"))
        if project.sha256 != entry.get("sha256"):
            raise ValueError(f"{folder / project.name}.jsonl is not what {LOCK} says; build the corpus again.")
        own = "" if project.name == PYTHON else f"project:{project.name}/"
        found.texts |= {own + path: text for path, text in project.texts.items()}
    return found


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; build the corpus again.")
    if path.stat().st_size > LARGEST_TEXTS:
        raise ValueError(f"{path} is larger than any corpus; build it again.")
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                row = json.loads(line)
                yield str(row["path"]), str(row["text"])
            except (ValueError, TypeError, KeyError):
                raise ValueError(f"{path} is damaged; build the corpus again.") from None


def card(said: Mapping[str, Any]) -> str:
    """What the corpus is, for people: projects, versions, licences, sizes, and what was dropped."""
    entries = said["projects"]
    dropped = Counter[str]()
    for each in entries:
        dropped.update(each["dropped"])
    rows = [f"| {e['name']} | {e['version']} | {e['licence']} | {e['files']:,} | {e['characters']:,} |" for e in entries]
    total = f"{len(entries)} projects, {sum(e['files'] for e in entries):,} files, {sum(e['characters'] for e in entries):,} characters"
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common())
    others = ", ".join(f"{name} ({licence})" for name, licence in said["not_taken"].items())
    return (
        f"# Python source of installed projects\n\nMade by `csp corpus build` on Python {said['python']}: {total}. Licences are what the projects' metadata say.\n\n"
        f"Dropped files: {reasons or 'none'}.\n\nNot taken for their licences: {others or 'none'}.\n\n"
        "| project | version | licence | files | characters |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )
