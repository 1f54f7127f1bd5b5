"""Files: read within limits and refused in one sentence; written whole or not at all; what killed runs left behind is swept.

Part of the package only: the remote code (`*_csp.py`) has what it needs of this in `reading_csp.py` and `storage_csp.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors

from .reading_csp import LARGEST_DOCUMENT, parse_json, read_json, read_object, read_text, too_deep
from .storage_csp import metadata_sha256, scratch_prefix, sweep

__all__ = [
    "LARGEST_DOCUMENT", "appearing", "file_sha256", "fresh_folder", "is_empty", "parse_json", "parse_yaml", "read_json", "read_object", "read_tensors", "read_text",
    "require_fresh", "require_writable", "save_figure", "tensors_with_sha256", "write_whole",
]  # fmt: skip

# ------------------------------------------------------------------------------------------------------------- reading


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


def read_tensors(path: Path, *, fix: str = "get it again") -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and metadata of a safetensors file; where its metadata have a sha256 of the tensors (`tensors_with_sha256`), it must fit.

    Raises:
        FileNotFoundError, ValueError: naming the file and why it cannot be used, with `fix`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {fix}.")
    try:
        with safe_open(str(path), framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:120]
        raise ValueError(f"{path} is damaged or truncated ({reason}); {fix}.") from None
    if "sha256" in metadata and metadata["sha256"] != metadata_sha256(tensors):
        raise ValueError(f"{path} is damaged: its content does not have the sha256 that it was written with; {fix}.")
    return tensors, metadata


def tensors_with_sha256(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """The bytes of a safetensors file that knows its own sha256, which `read_tensors` checks."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return to_safetensors(tensors, {"format": "pt", "sha256": metadata_sha256(tensors)})


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
