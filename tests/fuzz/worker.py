"""One try after another, in a process that may be killed: {"door", "seed"} on standard input, an outcome on standard output."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from random import Random
from typing import Any

ROOM = 4 << 30  # bytes of address space for a try, beside what the process has
GROWTH = 1 << 30  # bytes of memory that a try of these tiny files may take


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if "CSP_FUZZ_LOUD" not in os.environ:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.environ.update(
        HF_HUB_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
        CUDA_VISIBLE_DEVICES="",
        OMP_NUM_THREADS="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
    )
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    from doors import DOORS

    doors, ready = {door.name: door for door in DOORS}, {}
    with tempfile.TemporaryDirectory(prefix="csp-fuzz-") as scratch:
        for line in sys.stdin:
            asked = json.loads(line)
            door = doors[asked["door"]]
            if door.name not in ready:
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                ready[door.name] = _prepared(door, Path(scratch) / f"good-{len(ready)}")
                resource.setrlimit(resource.RLIMIT_AS, (_address_space() + ROOM, resource.RLIM_INFINITY))
            answers.write(json.dumps(_try(door, *ready[door.name], asked["seed"], Path(scratch))) + "\n")
            answers.flush()
    with contextlib.suppress(ImportError):
        from doors import _KEPT

        shutil.rmtree(_KEPT.get("scratch", "-"), ignore_errors=True)


def _prepared(door: Any, folder: Path) -> tuple[Path, str]:
    folder.mkdir()
    door.make(folder)
    copy = folder.parent / f"{folder.name}-copy"
    shutil.copytree(folder, copy)
    first = str(door.open(copy))
    shutil.rmtree(copy)
    shutil.copytree(folder, copy)
    assert str(door.open(copy)) == first, f"{door.name} is not the same twice"
    shutil.rmtree(copy)
    return folder, first


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _try(door: Any, good: Path, wanted: str, seed: str, scratch: Path) -> dict[str, Any]:
    r = Random(seed)
    folder = scratch / "try"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    pattern = r.choice(list(door.files))
    path = r.choice(sorted(folder.glob(pattern)))
    name = path.relative_to(folder).as_posix()
    mutation, tells = _damage(r, door, path, name, pattern)
    said = {"file": name, "mutation": mutation}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        found = str(door.open(folder))
        outcome = {"outcome": "fine" if found == wanted else "wrong" if tells else "other"}
    except BaseException as error:
        outcome = {"outcome": "refused" if _is_clean(error) else "bare", "error": f"{type(error).__name__}: {error}"[:600]}
        if outcome["outcome"] == "bare":
            outcome["trace"] = traceback.format_exc()[-2500:]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if grown > GROWTH:
        outcome |= {"outcome": "hung", "error": f"took {grown / 1e9:.1f} GB; {outcome.get('error', '')}"}
    return said | outcome


def _damage(r: Random, door: Any, path: Path, name: str, pattern: str) -> tuple[str, bool]:
    """Puts something else in a file's place; what was done, and whether a reader could tell."""
    import mutations as m

    data, kind = path.read_bytes(), door.files[pattern]
    mutate = r.choice(m.BY_FORMAT[kind])
    other = r.choice(donors())
    try:
        damaged = mutate(r, data, other)
    except (ValueError, KeyError, IndexError, TypeError, UnicodeError):  # what the format has no room for
        damaged, mutate = m.flips(r, data, other), m.flips
    if isinstance(damaged, bytes):
        path.write_bytes(damaged)
        return mutate.__name__, _could_tell(m, door, name, kind, mutate.__name__, data, damaged)
    path.unlink()
    if damaged == "folder":
        path.mkdir()
    elif damaged == "pipe":
        os.mkfifo(path)
    elif damaged == "loop":
        path.symlink_to(path.name)
    return f"{mutate.__name__} by {damaged}", False


def _could_tell(m: Any, door: Any, name: str, kind: str, mutation: str, data: bytes, damaged: bytes) -> bool:
    if mutation in m.FORGED:
        return False
    if any(fnmatch.fnmatch(name, pattern) for pattern in door.tells):
        return True
    if (
        kind == "tensors"
    ):  # an ordinary one has no checksum: bits of weights, and names of the same shape exchanged, cannot be told
        if mutation == "tensors_swapped":
            before, after = m.parsed(data)[0], m.parsed(damaged)[0]
            return any(before[tensor].get("shape") != after[tensor].get("shape") for tensor in before)
        size = int.from_bytes(data[:8], "little") + 8
        return damaged[:size] != data[:size] or len(damaged) != len(data)
    return not _is_well_formed(kind, damaged)


def _is_well_formed(kind: str, damaged: bytes) -> bool:
    """A text that is JSON or YAML, with every key once, may be what somebody wrote."""
    from sparse_circuits.files import parse_json, parse_yaml

    try:
        text = damaged.decode("utf-8-sig")
        if kind == "json":
            parse_json(text, "it")
        elif kind == "yaml":
            parse_yaml(text, "it")
        elif kind == "lines":
            [parse_json(line, "it") for line in text.split("\n") if line.strip()]
    except ValueError:
        return kind == "text" and isinstance(damaged, str)
    return True


def _is_clean(error: BaseException) -> bool:
    """One sentence, as ValueError or OSError, that is no library's bare word."""
    if not isinstance(error, (ValueError, OSError)) or isinstance(error, (UnicodeError, json.JSONDecodeError)):
        return False
    text = str(error).strip()
    return bool(text) and len(text.splitlines()) == 1 and not text.startswith("[Errno") and " " in text and len(text) < 1500


_DONORS: list[bytes] = []


def donors() -> list[bytes]:
    """Files of other kinds."""
    if not _DONORS:
        import io
        import zipfile

        import torch
        from safetensors.torch import save

        from sparse_circuits.checkpoints.tensors import tensors_with_sha256

        out, archive = io.BytesIO(), io.BytesIO()
        torch.save({"a": torch.ones(3)}, out)
        with zipfile.ZipFile(archive, "w") as each:
            each.writestr("a.txt", "text")
        _DONORS.extend([
            out.getvalue(), archive.getvalue(), save({"a": torch.ones(3)}), tensors_with_sha256({"train": torch.ones(2, 3)}), b"{}", b"[1, 2]", b"a: 1\n",
            b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", b"<!doctype html><html></html>", b"\n",
            b'{"format": "sparse_circuits.circuit", "version": 2}',
        ])  # fmt: skip
    return _DONORS


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    main()
