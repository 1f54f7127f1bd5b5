"""Ways to damage a file: bytes of any file, and what only one format can have.

A mutation takes a random generator, the bytes of the good file and those of a file of another kind, and gives bytes, or the name of what
takes the file's place. `STRUCTURE` names those that a reader of plain text can tell from an edit; what is not in it may be somebody's wish.
"""

from __future__ import annotations

import copy
import json
import struct
from random import Random
from typing import Any

import torch
import yaml
from archives import Damaged, directory_edit, flipped, zip_edit

# ---------------------------------------------------------------------------------------------------------------- bytes


def flip(r: Random, data: bytes, other: bytes) -> Damaged:
    return flipped(r, data, 1)


def flips(r: Random, data: bytes, other: bytes) -> Damaged:
    return flipped(r, data, r.randint(2, 40))


def flip_near_an_end(r: Random, data: bytes, other: bytes) -> Damaged:
    """Where headers and directories are."""
    size = min(len(data), 600)
    if not size:
        return b"\0"
    return flipped(r, data[:size], 1) + data[size:] if r.random() < 0.6 else data[:-size] + flipped(r, data[-size:], 1)


def insert(r: Random, data: bytes, other: bytes) -> Damaged:
    at = r.randint(0, len(data))
    return data[:at] + r.randbytes(r.choice((1, 2, 8, 64))) + data[at:]


def delete(r: Random, data: bytes, other: bytes) -> Damaged:
    at = r.randrange(max(1, len(data)))
    return data[:at] + data[at + r.choice((1, 2, 8, 64)) :]


def truncate(r: Random, data: bytes, other: bytes) -> Damaged:
    return data[: r.randrange(max(1, len(data)))]


def append(r: Random, data: bytes, other: bytes) -> Damaged:
    return data + r.choice((b"\0", b"}", b"\n\n[", r.randbytes(100), data[:50], data))


def zero(r: Random, data: bytes, other: bytes) -> Damaged:
    at, size = r.randrange(max(1, len(data))), r.choice((1, 4, 64, 4096))
    return data[:at] + b"\0" * len(data[at : at + size]) + data[at + size :]


def shuffle_ranges(r: Random, data: bytes, other: bytes) -> Damaged:
    a, b, c = sorted(r.randint(0, len(data)) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def of_another_kind(r: Random, data: bytes, other: bytes) -> Damaged:
    return other


def empty(r: Random, data: bytes, other: bytes) -> Damaged:
    return b""


def noise(r: Random, data: bytes, other: bytes) -> Damaged:
    return r.randbytes(r.choice((1, 7, 8, 9, 100, 5000)))


def replaced(r: Random, data: bytes, other: bytes) -> Damaged:
    return r.choice(("folder", "pipe", "missing", "loop"))


BYTES = [
    flip, flip, flips, flip_near_an_end, flip_near_an_end, insert, delete, truncate, append, zero, shuffle_ranges, of_another_kind, empty, noise,
    replaced,
]  # fmt: skip

# -------------------------------------------------------------------------------------------------------- JSON and YAML

_RAW = {
    "NaN": "NaN", "Infinity": "Infinity", "minus infinity": "-Infinity", "1e999": "1e999", "deep list": "[" * 100_000 + "]" * 100_000,
    "deep object": '{"a":' * 100_000 + "1" + "}" * 100_000, "half deep": "[" * 500 + "]" * 500, "surrogate": '"\\ud800"',
    "many digits": "9" * 5000, "unfinished": "[" * 100_000,
}  # fmt: skip
_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 2147483647, 2147483648, 1 << 40, 1 << 63, 10**30, -(10**30), 0.5, -0.0, 4.0, 1e308, "", "x", "\0", "a\nb", "é",
    "../../etc/passwd", "[]", [], {}, [[]], [None], [1, 2, 3], {"a": 1}, {"": {}}, "y" * 1_000_000, list(range(100_000)),
]  # fmt: skip


def _places(found: Any, path: tuple = ()) -> list[tuple]:
    places = [path] if path else []
    if isinstance(found, dict):
        places += [each for key, value in found.items() for each in _places(value, (*path, key))]
    elif isinstance(found, list):
        picked = range(len(found)) if len(found) < 20 else (0, 1, len(found) // 2, len(found) - 1)
        places += [each for i in picked for each in _places(found[i], (*path, i))]
    return places


def _parent(found: Any, place: tuple) -> Any:
    for key in place[:-1]:
        found = found[key]
    return found


def drop(r: Random, found: Any, place: tuple) -> None:
    del _parent(found, place)[place[-1]]


def other_type(r: Random, found: Any, place: tuple) -> None:
    parent = _parent(found, place)
    old = parent[place[-1]]
    parent[place[-1]] = r.choice([v for v in _VALUES if type(v) is not type(old)])


def other_value(r: Random, found: Any, place: tuple) -> None:
    parent = _parent(found, place)
    old = parent[place[-1]]
    if isinstance(old, int) and not isinstance(old, bool) and r.random() < 0.7:
        parent[place[-1]] = r.choice([0, -old, old + 1, old - 1, old * 2, 2147483648, 1 << 40, 10**30, -(10**30), 1_000_000])
    elif isinstance(old, str) and r.random() < 0.5:
        parent[place[-1]] = r.choice([old + "x", old[:-1], old.upper(), old * 1000, old + "\0"])
    else:
        parent[place[-1]] = copy.deepcopy(r.choice(_VALUES))


def other_length(r: Random, found: Any, place: tuple) -> None:
    old = _parent(found, place)[place[-1]]
    if isinstance(old, list):
        old[:] = r.choice([[*old, *old], old[:-1], [*old, *old[:1]], old[1:], [*old, None], list(reversed(old))])
    elif isinstance(old, dict):
        old[r.choice(["more", "", "__class__", "0"])] = r.choice(_VALUES[:30])
    else:
        _parent(found, place)[place[-1]] = [old]


def renamed(r: Random, found: Any, place: tuple) -> None:
    parent = _parent(found, place)
    if isinstance(parent, dict):
        parent[str(place[-1]) + r.choice(("x", " ", "\0", "_"))] = parent.pop(place[-1])


def exchanged(r: Random, found: Any, place: tuple) -> None:
    parent = _parent(found, place)
    keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
    one, two = place[-1], r.choice(keys)
    parent[one], parent[two] = parent[two], parent[one]


IN_DOCUMENTS = [drop, other_type, other_type, other_value, other_value, other_length, renamed, exchanged]


def _edited(r: Random, found: Any) -> tuple[str, Any]:
    found = copy.deepcopy(found)
    for _ in range(r.choice((1, 1, 1, 2, 4))):
        places = _places(found)
        if not places:
            break
        edit = r.choice(IN_DOCUMENTS)
        edit(r, found, r.choice(places))
    return edit.__name__ if places else "nothing", found


def json_edit(r: Random, data: bytes, other: bytes) -> Damaged:
    return json.dumps(_edited(r, json.loads(data))[1], ensure_ascii=r.random() < 0.5).encode("utf-8", "surrogatepass")


def json_raw(r: Random, data: bytes, other: bytes) -> Damaged:
    """What no writer of JSON would write."""
    found = json.loads(data)
    kind = r.choice([*_RAW, "twice", "twice", "comment", "bare", "bom", "utf-16", "surrogate key"])
    if kind in _RAW:
        places = _places(found)
        if not places:
            return _RAW[kind].encode()
        place = r.choice(places)
        _parent(found, place)[place[-1]] = "@@HERE@@"
        return json.dumps(found).replace('"@@HERE@@"', _RAW[kind]).encode()
    text = json.dumps(found)
    if kind == "twice" and isinstance(found, dict) and found:
        key = r.choice(list(found))
        text = text[:-1] + f", {json.dumps(key)}: {json.dumps(r.choice(_VALUES[:30]))}}}"
    elif kind == "surrogate key" and isinstance(found, dict):
        text = text[:-1] + f'{", " * bool(found)}"\\udc00": 1}}'
    elif kind == "comment":
        text = "// a comment\n" + text
    elif kind == "bare":
        text = r.choice(["null", "5", "true", '"text"', "[]", "{}", "[1]", "[{}]", "NaN"])
    elif kind == "utf-16":
        return text.encode("utf-16")
    return (b"\xef\xbb\xbf" if kind == "bom" else b"") + text.encode()


def lines_edit(r: Random, data: bytes, other: bytes) -> Damaged:
    """One line of a file of JSON lines."""
    lines = data.decode().strip().split("\n")
    i = r.randrange(len(lines))
    changed = r.choice((json_edit, json_raw))(r, lines[i].encode(), other)
    assert isinstance(changed, bytes)
    return b"\n".join([*(line.encode() for line in lines[:i]), changed, *(line.encode() for line in lines[i + 1 :])])


def csv_edit(r: Random, data: bytes, other: bytes) -> Damaged:
    lines = data.decode().split("\n")
    i = r.randrange(len(lines))
    cells = lines[i].split(",")
    lines[i] = r.choice([
        ",".join(cells[:-1]), ",".join([*cells, *cells]), lines[i] + '"', '"' + lines[i], lines[i].replace(",", ";"), "\0", "x" * 200_000, "",
        ",".join(reversed(cells)), '"' + "\n" * 50, "\ud800",
    ])  # fmt: skip
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def yaml_edit(r: Random, data: bytes, other: bytes) -> Damaged:
    return yaml.safe_dump(_edited(r, yaml.safe_load(data))[1], sort_keys=False, allow_unicode=True).encode(
        "utf-8", "surrogatepass"
    )


_BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 8)}]\n" for i in range(12)
)


def yaml_raw(r: Random, data: bytes, other: bytes) -> Damaged:
    text = data.decode()
    return r.choice([
        _BOMB, "a: &a [*a]\n", "model: !!python/object/apply:os.getcwd []\n", text + "model: {n_layer: 3}\n", text + "\tblock: 4\n", "[" * 100_000,
        "{a: " * 2000, "- 1\n- 2\n", "block: 1e999\n", "block: .nan\n", "block: 2026-01-01\n", "? [a, b]\n: c\n", "block: !!int abc\n", "{[]: 1}",
        "? {a: b}\n: 1\n", "--- 1\n--- 2\n", "block: 0x7fffffffffffffffffff\n", "block: " + "9" * 5000 + "\n", "<<: [1]\n", "<<: 5\n", "=\n", "model: !!set {a}\n",
        "model: !!binary ////\n", "block: !!timestamp x\n", "\ufeff" + text, "%YAML 9.9\n---\n" + text, "model: {1: 2, null: 3}\n", "null: 1\n", "~: 1\n",
    ]).encode("utf-8", "surrogatepass")  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- safetensors


def parsed(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def built(header: dict[str, Any] | str, body: bytes, size: int | None = None) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


def header_edit(r: Random, data: bytes, other: bytes) -> Damaged:
    header, body = parsed(data)
    names = [name for name in header if name != "__metadata__"]
    one = header[r.choice(names)]
    kind = r.randrange(12)
    if kind == 0:
        return built(
            header,
            body,
            r.choice(
                [
                    0,
                    1,
                    len(json.dumps(header)) + 1,
                    len(json.dumps(header)) - 1,
                    1 << 20,
                    1 << 31,
                    1 << 40,
                    (1 << 63),
                    (1 << 64) - 1,
                ]
            ),
        )
    if kind == 1:
        one["data_offsets"] = r.choice(
            [
                [0, 1 << 40],
                [-4, 4],
                [8, 0],
                [0, 0],
                [0],
                [],
                "0",
                None,
                [0.5, 4],
                header[r.choice(names)]["data_offsets"],
                [0, 1 << 64],
            ]
        )
    elif kind == 2:
        one["dtype"] = r.choice(
            ["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "U16", "BOOL", "F8_E4M3", "C64", "X9", 5, None]
        )
    elif kind == 3:
        shape = one["shape"]
        one["shape"] = r.choice(
            [
                list(reversed(shape)),
                [*shape, 1],
                [1, *shape],
                shape[:-1],
                [0],
                [-1],
                [1 << 40, 1 << 40],
                [(1 << 63) - 1] * 3,
                [1.5],
                "4",
                None,
                [],
            ]
        )
    elif kind == 4:
        return built(header, body + b"\0" * r.choice((1, 8, 4096)))
    elif kind == 5:
        header.setdefault("__metadata__", {})[r.choice(["format", "sha256", "version", "tensors", "x"])] = r.choice(
            [5, None, "", "x", "[" * 100_000, "0" * 64, {"a": 1}]
        )
    elif kind == 6:
        header["__metadata__"] = r.choice([None, {}, [], 5, "x", {"format": "tf"}, {"format": "pt"}])
    elif kind == 7:
        text = json.dumps(header)
        key = r.choice(names)
        return built(text[:-1] + f", {json.dumps(key)}: {json.dumps(header[r.choice(names)])}}}", body)
    elif kind == 8:
        name = r.choice(names)
        header[name + r.choice(("x", "\0", ".y"))] = header.pop(name)
    elif kind == 9:
        return built(json.dumps(header).replace('"shape"', '"shape": [' + "[" * 50_000 + '"', 1), body)
    elif kind == 10:
        del header[r.choice(names)]
    else:
        header["extra"] = {"dtype": "F32", "shape": [0], "data_offsets": [len(body), len(body)]}
    return built(header, body)


def tensors_swapped(r: Random, data: bytes, other: bytes) -> Damaged:
    """Two tensors of a file bear each other's names."""
    header, body = parsed(data)
    names = [name for name in header if name != "__metadata__"]
    a, b = r.choice(names), r.choice(names)
    header[a], header[b] = header[b], header[a]
    return built(header, body)


def tensors_edit(r: Random, data: bytes, other: bytes) -> Damaged:
    """A well-formed file with other tensors; where it knows a sha256, with the old one, or with that of the new content."""
    from safetensors.torch import load, save

    from sparse_circuits.sparse_file_csp import digest as _digest

    tensors = dict(load(data))
    metadata = dict(parsed(data)[0].get("__metadata__") or {})
    name = r.choice(list(tensors))
    t = tensors[name]
    kind = r.randrange(9)
    if kind == 0:
        tensors[name] = t.to(
            r.choice([torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.uint8, torch.bool, torch.int64])
        )
    elif kind == 1:
        tensors.pop(name)
    elif kind == 2:
        tensors[r.choice(["extra", name + "_orig", "transformer." + name, "h.9.attn.c_attn.weight"])] = torch.ones(3)
    elif kind == 3:
        tensors[name] = t.reshape(-1).repeat(2)
    elif kind == 4:
        tensors[name] = t.t().contiguous() if t.dim() == 2 else t.unsqueeze(0)
    elif kind == 5:
        tensors[name] = t[:0] if t.dim() else t.reshape(1)
    elif kind == 6:
        tensors[name] = torch.full_like(t, float("nan")) if t.is_floating_point() else torch.full_like(t, 100)
    elif kind == 7 and not t.is_floating_point() and t.dtype != torch.bool:
        tensors[name] = t.to(torch.int64) * r.choice([-1, 1 << 40, 1000])
    else:
        tensors = {f"{key}x": value for key, value in tensors.items()}
    if "sha256" in metadata and r.random() < 0.7:
        metadata["sha256"] = _digest(metadata.get("tensors", ""), {key: value.contiguous() for key, value in tensors.items()})
    return save({key: value.contiguous() for key, value in tensors.items()}, metadata or None)


def table_edit(r: Random, data: bytes, other: bytes) -> Damaged:
    """The table of a sparse checkpoint, with a sha256 that fits it."""
    from safetensors.torch import load, save

    from sparse_circuits.sparse_file_csp import digest as _digest

    metadata = dict(parsed(data)[0].get("__metadata__") or {})
    if "tensors" not in metadata:
        return header_edit(r, data, other)
    changed = r.choice((json_edit, json_raw))(r, metadata["tensors"].encode(), other)
    assert isinstance(changed, bytes)
    table = changed.decode("utf-8", "replace")
    tensors = dict(load(data))
    return save(tensors, {**metadata, "tensors": table, "sha256": _digest(table, tensors)})


# ----------------------------------------------------------------------------------------------------------------- zips


BY_FORMAT = {
    "json": [*BYTES, *[json_edit] * 12, *[json_raw] * 8],
    "lines": [*BYTES, *[lines_edit] * 14],
    "csv": [*BYTES, *[csv_edit] * 10],
    "text": [*BYTES, csv_edit],
    "yaml": [*BYTES, *[yaml_edit] * 12, *[yaml_raw] * 8],
    "tensors": [*BYTES, *[header_edit] * 8, *[tensors_edit] * 7, tensors_swapped, *[table_edit] * 3],
    "zip": [*BYTES, *[flip] * 3, *[zip_edit] * 10, *[directory_edit] * 3],
}
FORGED = {"tensors_edit", "table_edit", "zip_edit"}  # with a checksum that fits the new content: nothing in the file tells
