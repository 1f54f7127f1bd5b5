"""Files: read within limits and refused in one sentence; written whole or not at all; what killed runs left behind is swept."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

# ------------------------------------------------------------------------------------------------------------- scratch

# Scratch folders and files of a save tell whose they are: host and process. Those of a killed process are swept by the next save.
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_SCRATCH = re.compile(r"\.(?:saving|partial|writing|circuit)-([0-9a-f]{8})-(\d+)-\w+|\.(?:saving-|partial-|circuit\.)\w{8}")
# Seconds after which scratch of other hosts, and of versions that did not say whose it is, is taken to be left over.
_ABANDONED = 24 * 3600


def scratch_prefix(kind: str) -> str:
    """The start of a scratch name of this process; kind: saving, partial, writing or circuit."""
    return f".{kind}-{_HOST}-{os.getpid()}-"


def sweep(folder: str | Path) -> None:
    """Removes what saves that were killed left in a folder. What a process that lives, or may live elsewhere, is writing stays."""
    with contextlib.suppress(OSError):
        for path in list(Path(folder).iterdir()):
            match = _SCRATCH.fullmatch(path.name)
            if match is not None and _is_left_over(path, match[1], match[2]):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _is_left_over(path: Path, host: str | None, process: str | None) -> bool:
    if host == _HOST and process is not None:
        return int(process) != os.getpid() and not lives(int(process))
    return time.time() - path.lstat().st_mtime > _ABANDONED


def lives(process: int) -> bool:
    """Whether a process of this machine runs."""
    if os.name == "nt":  # where signal 0 would end the process
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


# ------------------------------------------------------------------------------------------------------------- reading

LARGEST_DOCUMENT = 64 << 20  # bytes; far above any JSON or YAML of ours
DEEPEST = 64  # levels; what is deeper, copies and prints of it cannot follow
_LARGEST_WHOLE = 1 << 127  # still a float; tokenizer_config.json has 10**30 for "no limit"


def read_text(path: Path, *, largest: int = LARGEST_DOCUMENT, fix: str = "get it again") -> str:
    """A UTF-8 text file (a byte-order mark is dropped).

    Raises:
        FileNotFoundError, OSError, ValueError: naming the file and why it cannot be used, with `fix`.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would never end
            raise OSError(
                f"{path} cannot be read (it is {'a folder' if stat.S_ISDIR(found.st_mode) else 'no ordinary file'}); {fix}."
            )
        if found.st_size > largest:
            raise ValueError(f"{path} has {found.st_size:,} bytes, more than the {largest:,} that are read; {fix}.")
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; {fix}.") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no UTF-8 text; {fix}.") from None
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(f"{path} cannot be read ({error.strerror or error}); {fix}.") from None


def read_json(path: Path, *, largest: int = LARGEST_DOCUMENT, fix: str = "get it again") -> Any:
    """What a JSON file holds, by `parse_json`; errors as in `read_text`."""
    return parse_json(read_text(path, largest=largest, fix=fix), str(path), fix=fix)


def read_object(path: Path, *, largest: int = LARGEST_DOCUMENT, fix: str = "get it again") -> dict[str, Any]:
    """The object that a JSON file holds; errors as in `read_json`, also if it holds anything else."""
    found = read_json(path, largest=largest, fix=fix)
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__} where an object {{...}} belongs; {fix}.")
    return found


def parse_json(text: str, name: str, *, fix: str = "get it again") -> Any:
    """What a JSON text holds. Refused: what is nested too deep to be copied or printed, numbers that are not finite, a key given twice (of
    which one would be dropped in silence), and text with half a character (a lone surrogate), which nothing can write again.

    Raises:
        ValueError: naming `name`, why, and `fix`.
    """
    try:
        found = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole, object_pairs_hook=_once
        )
        if "\\u" in text or not text.isascii():
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError(f"{name} is nested too deep to be read; {fix}.") from None
    except UnicodeEncodeError:
        raise ValueError(f"{name} has half a character (a lone surrogate); {fix}.") from None
    except ValueError as error:
        raise ValueError(f"{name} is no JSON that can be used ({str(error)[:100]}); {fix}.") from None
    if too_deep(found):
        raise ValueError(f"{name} is nested too deep to be read; {fix}.")
    return found


def too_deep(found: Any) -> bool:
    """Whether lists and dicts in it have more than `DEEPEST` levels."""
    level = [found]
    for _ in range(DEEPEST + 1):
        parts = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list)))
        level = [each for part in parts for each in part if isinstance(each, (dict, list))]
        if not level:
            return False
    return True


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is no finite number")
    return value


def _whole(text: str) -> int:
    value = int(text) if len(text) < 64 else _LARGEST_WHOLE
    if abs(value) >= _LARGEST_WHOLE:
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice!r:.60} is there twice")
    return found


LARGEST_YAML = 1 << 17  # characters; more takes this reader, which is slow, longer than anyone waits


class _Yaml(yaml.SafeLoader):
    """YAML as people write it: numbers as in YAML 1.2 (1e-3 is one, 1:30 and 010 are not 90 and 8), a key once, no aliases, which can explode."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name); write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.YAMLError(f"{key.value!r:.60} is there twice")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
_Yaml.yaml_implicit_resolvers = {
    mark: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
    for mark, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml.add_implicit_resolver(_NUMBERS[0], re.compile(r"[-+]?[0-9][0-9_]*\Z"), list("-+0123456789"))
_Yaml.add_implicit_resolver(
    _NUMBERS[1],
    re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z|[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z"),
    list("-+.0123456789"),
)
_Yaml.add_constructor(_NUMBERS[0], lambda loader, node: int(node.value.replace("_", "")))


def parse_yaml(text: str, name: str, *, fix: str = "write it as YAML") -> Any:
    """What a YAML text holds.

    Raises:
        ValueError: naming `name`, why, and `fix`.
    """
    if len(text) > LARGEST_YAML:
        raise ValueError(f"{name} has {len(text):,} characters, more than the {LARGEST_YAML:,} that are read; {fix}.")
    try:
        found = yaml.load(text, Loader=_Yaml)  # a SafeLoader
        if too_deep(found):
            raise RecursionError
        return found
    except RecursionError:
        raise ValueError(f"{name} is nested too deep to be read; {fix}.") from None
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = getattr(error, "problem", None) or next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{name} cannot be read as YAML ({str(reason)[:100]}); {fix}.") from None


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, read piece by piece."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def appearing(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place when the block ends well: a kill leaves the older file or the new one.

    Raises:
        OSError: naming the file, where it cannot be written; the older one is as it was.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        with tempfile.TemporaryDirectory(prefix=scratch_prefix("writing"), dir=path.parent) as scratch:
            partial = Path(scratch) / path.name
            yield partial
            _flush(partial)
            os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{path} could not be written ({reason}); free some disk space, or choose another place.") from error


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Writes a file, or leaves the older one as it was; errors as in `appearing`."""
    with appearing(path) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return Path(path)


def save_figure(figure: Any, path: str | Path, dpi: int) -> None:
    """A matplotlib figure as a PNG, whole or not at all, without a word of the machine in it."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=dpi, format="png")
    write_whole(path, picture.getvalue())


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def fresh_folder(dest: str | Path) -> Iterator[Path]:
    """A scratch folder beside `dest` that becomes `dest` when the block ends well and vanishes when it does not.

    Raises:
        FileExistsError: if dest exists and is not an empty folder.
    """
    dest = Path(dest)
    require_fresh(dest)
    dest.parent.mkdir(parents=True, exist_ok=True)
    sweep(dest.parent)
    partial = Path(tempfile.mkdtemp(prefix=scratch_prefix("writing"), dir=dest.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if dest.exists():
            sweep(dest)
            dest.rmdir()
        os.replace(partial, dest)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def require_fresh(dest: Path, fix: str = "remove it or choose another folder") -> None:
    """Raises FileExistsError if dest exists and is no empty folder; what killed runs left in it does not count."""
    if dest.exists() and (not dest.is_dir() or not is_empty(dest)):
        raise FileExistsError(f"{dest} exists and is not empty; {fix}.")


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing, once leftovers are swept."""
    sweep(folder)
    return not any(folder.iterdir())


def require_writable(folder: Path) -> None:
    """Raises OSError if nothing can be written to a folder that is there or will be made: before work is done, not after.

    (Asking for permission is not enough: a file system may be mounted read-only, a parent may be a file.)
    """
    existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OSError(f"{folder} cannot be written to ({error.strerror or error}); choose another place.") from None
