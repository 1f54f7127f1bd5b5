"""Ways to damage files of torch.save."""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from random import Random
from typing import Any

import torch

Damaged = bytes | str  # str: "folder", "pipe", "missing", "loop": instead of a file


def _members(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(each.filename, archive.read(each)) for each in archive.infolist()]


def zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return out.getvalue()


class _Foreign:
    def __reduce__(self) -> Any:
        return (print, ("a foreign object ran",))


class _Hungry:
    def __init__(self, size: int):
        self.size = size

    def __reduce__(self) -> Any:
        return (bytearray, (self.size,))


def _opcodes(data: bytes) -> list[int]:
    return [place for _, _, place in pickletools.genops(data) if place is not None]


def zip_edit(r: Random, data: bytes, other: bytes) -> Damaged:
    members = _members(data)
    stem = members[0][0].partition("/")[0]
    i = r.randrange(len(members))
    name, content = members[i]
    at = next((j for j, (n, _) in enumerate(members) if n.endswith("data.pkl")), 0)
    kind = r.randrange(13)
    if kind == 0:
        members.append((name, r.choice([content, content[::-1], b""])))
    elif kind == 1:
        members.append((r.choice(["../../evil", "/etc/evil", f"{stem}/../x", "C:\\x", f"{stem}/data/0\0x", "é" * 300]), b"x"))
    elif kind == 2:
        members.append((f"{stem}/data/bomb", b"\0" * 300_000_000))
        return zipped(members, zipfile.ZIP_DEFLATED)
    elif kind == 3:
        members[at] = (
            members[at][0],
            pickle.dumps(
                r.choice([_Foreign(), {"a": _Foreign()}, [1], 5, None, {"a": 1}, {5: torch.ones(1).tolist()}, {}]), protocol=2
            ),
        )
    elif kind == 4:
        members[at] = (members[at][0], pickle.dumps({"a": _Hungry(r.choice([10**9, 10**11, 1 << 62]))}, protocol=2))
    elif kind == 5:
        del members[i]
    elif kind == 6:
        members[i] = (name, flipped(r, content, 1))
    elif kind == 7:
        members[i] = (name, content[: r.randrange(max(1, len(content)))])
    elif kind == 8:
        where = r.choice(_opcodes(members[at][1]))
        changed = bytearray(members[at][1])
        changed[where] ^= 1 << r.randrange(8)
        members[at] = (members[at][0], bytes(changed))
    elif kind == 9:
        return zipped(members, zipfile.ZIP_DEFLATED)
    elif kind == 10:
        out = io.BytesIO()
        torch.save({"transformer.wte.weight": torch.ones(3)}, out, _use_new_zipfile_serialization=r.random() < 0.5)
        return out.getvalue()
    elif kind == 11:
        members[at] = (
            members[at][0],
            r.choice(
                [
                    b"\x80\x02" + b"(" * 100_000,
                    b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
                    b"\x80\x04\x8e" + b"\xff" * 8,
                    b".",
                ]
            ),
        )
    else:
        j = r.randrange(len(members))
        members[i], members[j] = (name, members[j][1]), (members[j][0], content)
    return zipped(members)


def directory_edit(r: Random, data: bytes, other: bytes) -> Damaged:
    """Somewhere in the central directory of a zip, at its end."""
    start = data.find(b"PK\x01\x02")
    start = start if start >= 0 else max(0, len(data) - 100)
    return data[:start] + flipped(r, data[start:], r.choice((1, 1, 2, 5)))


def flipped(r: Random, data: bytes, count: int) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(count):
        changed[r.randrange(len(changed))] ^= 1 << r.randrange(8)
    return bytes(changed)
