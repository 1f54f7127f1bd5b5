"""What Python hands to the page: viewer/contract.json, checked here before a page is written and in contract.js when it is opened.

A type is "string", "int", "number" (finite), "bool", the name of a record, "[T]" (list), "{T}" (keys are strings), or "T?" (or null). Records have
exactly the fields listed.
"""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
VERSION = 1


@functools.cache
def records() -> dict[str, dict[str, str]]:
    """Record -> field -> type."""
    return json.loads((HERE / "contract.json").read_text(encoding="utf-8"))


def check(value: Any, kind: str = "Page", where: str = "page") -> None:
    """Raises ValueError naming the first place where `value` is not of that kind."""
    if kind.endswith("?"):
        if value is not None:
            check(value, kind[:-1], where)
    elif kind[0] == "[":
        _require(isinstance(value, (list, tuple)), where, kind)
        fits = _PLAIN.get(kind[1:-1])
        if fits is not None and all(map(fits, value)):  # millions of numbers
            return
        for i, each in enumerate(value):
            check(each, kind[1:-1], f"{where}[{i}]")
    elif kind[0] == "{":
        _require(isinstance(value, dict) and all(isinstance(key, str) for key in value), where, kind)
        for key, each in value.items():
            check(each, kind[1:-1], f"{where}.{key}")
    elif kind in records():
        fields = records()[kind]
        _require(isinstance(value, dict) and set(value) == set(fields), where, kind)
        for name, each in fields.items():
            check(value[name], each, f"{where}.{name}")
    else:
        _require(_PLAIN[kind](value), where, kind)


_PLAIN = {
    "string": lambda v: isinstance(v, str),
    "bool": lambda v: isinstance(v, bool),
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v),
}


def _require(holds: bool, where: str, kind: str) -> None:
    if not holds:
        raise ValueError(f"{where[:200]} does not fit the page's contract; it must be {kind}.")


def inline_json(value: Any) -> str:
    """JSON that can stand in a script element: no character of it can end the element or begin another, lone surrogates included."""
    text = json.dumps(_short(value), separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _short(value: Any) -> Any:
    """Whole numbers without their .0: the page knows one kind of number."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 1 << 53 else value
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, (list, tuple)) else value
