"""Source files: found, read, deduplicated, split by file into training and held-out."""

from __future__ import annotations

import hashlib
import io
import sysconfig
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LARGEST_FILE = 1_000_000  # bytes; larger source files are data tables, or generated
_NOT_SOURCE = {"site-packages", "dist-packages", "__pycache__"}  # nor hidden folders, such as environments
_TESTS = {"test", "tests", "idle_test", "lib2to3"}  # of the standard library


def standard_library() -> Path:
    """Folder of the running interpreter's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


@dataclass
class SourceFiles:
    """Texts by relative path, and the files that were left out, with the reason."""

    texts: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        said = f"{len(self.texts):,} files, {sum(map(len, self.texts.values())):,} characters"
        return said + (f"; left out {len(self.left_out)}: {', '.join(sorted(self.left_out)[:3])} ..." if self.left_out else "")


def read_sources(corpus: str | Path = "stdlib") -> SourceFiles:
    """Reads every .py file of the standard library ("stdlib"; without its tests) or below a folder, in sorted order.

    Files that are unreadable, not UTF-8, empty, over 1 MB, or a copy of an earlier one are left out and named in the result. Hidden
    folders and site-packages are passed over.

    Raises:
        FileNotFoundError: if the folder does not exist or holds no .py file.
    """
    root = standard_library() if corpus == "stdlib" else Path(corpus)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; give 'stdlib' or a folder of .py files.")
    files = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        hidden = any(part.startswith(".") or part in _NOT_SOURCE for part in parts[:-1])
        if not hidden and not (corpus == "stdlib" and _TESTS & set(parts)):
            files["/".join(parts)] = path
    return gathered(files, f"{root} holds no readable .py file; give 'stdlib' or a folder of .py files.")


def gathered(files: Mapping[str, Path], none: str) -> SourceFiles:
    """The texts of files, by name; what is left out is named in the result.

    Raises:
        FileNotFoundError: saying `none`, if no text is left.
    """
    found, seen = SourceFiles(), set[str]()
    for name, path in files.items():
        reason = read_one(path, name, found.texts, seen)
        if reason:
            found.left_out[name] = reason
    if not found.texts:
        raise FileNotFoundError(none)
    return found


def plain_text(text: str) -> str:
    """Without a byte order mark, and with line ends as Python reads them: models see neither marks nor carriage returns."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def read_one(path: Path, name: str, texts: dict[str, str], seen: set[str]) -> str | None:
    """Adds the file to texts, or says why not."""
    if not path.is_file():
        return "no file"
    try:
        if path.stat().st_size > LARGEST_FILE:
            return "over 1 MB"
        data = path.read_bytes()
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "not UTF-8"
    except OSError:
        return "unreadable"
    if not data.isascii() and _declares_another_encoding(data):
        return "not UTF-8"
    return add_text(name, text, texts, seen, "file")


def _declares_another_encoding(data: bytes) -> bool:
    """Whether a comment in the first two lines, as PEP 263 describes it, says that the source is not UTF-8."""
    try:
        return tokenize.detect_encoding(io.BytesIO(data).readline)[0] not in ("utf-8", "utf-8-sig")
    except SyntaxError:
        return True


def add_text(name: str, text: str, texts: dict[str, str], seen: set[str], kind: str) -> str | None:
    """Adds a text that is neither empty nor a copy to texts, as `plain_text` makes it, or says why not."""
    text = plain_text(text)
    try:
        digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    except UnicodeEncodeError:
        return "no Unicode"  # half of a character, which no tokenizer takes
    if not text.strip() or digest in seen:
        return "empty" if not text.strip() else f"a copy of another {kind}"
    seen.add(digest)
    texts[name] = text
    return None


def held_out(name: str, percent: int = 10) -> bool:
    """Whether a file belongs to the held-out split: decided by a hash of its name, so it never moves; files of a project ("project:NAME/path") all together,
    so that nothing held out stands beside what was trained on."""
    name = name.partition("/")[0] if name.startswith("project:") else name
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100 < percent
