"""Files that others wrote: read within limits, refused in one sentence that names the file, the cause and the fix.

Needed by the config and the tokenizer too, so it imports nothing but Python's own library.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

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
