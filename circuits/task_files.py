"""Tasks from files: CSV or JSONL with one pair a row, split so that no prompt is in two splits.

Rows that share a prompt hang together, and go to one split together: 60 % of such groups train, 20 % validation, 20 % test, by a hash of
the group's smallest prompt, so that neither the order of rows nor that of the prompts in a row matters.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from ..corpora.sources import plain_text
from ..files import parse_json, read_text
from .python_tasks import SPLITS, Example, Generator, Values

# Names of (prompt, answer, prompt, answer): ours, and those of the task files that the community publishes.
COLUMNS = ("prompt_a", "answer_a", "prompt_b", "answer_b")
PUBLISHED_COLUMNS = ("clean", "correct_answer", "corrupted", "incorrect_answer")
_WANTED = f"{', '.join(COLUMNS)}, or {', '.join(PUBLISHED_COLUMNS)}"

Pair = tuple[Example, Example]


def pairs_from_file(path: Path, tokenizer: Any) -> tuple[Generator, str]:
    """A generator of the file's pairs by split, and what the file is: "file:" and its sha256.

    Raises:
        FileNotFoundError, ValueError: naming what is wrong with the file.
    """
    text = read_text(path, fix=f"give a .csv or .jsonl file in UTF-8 with {_WANTED}")
    pairs = _different(_pairs(path, _csv_rows(path, text) if path.suffix == ".csv" else list(_json_lines(path, text))))
    groups = _groups(pairs, tokenizer)
    by_split: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    for smallest, group in groups.items():
        by_split[SPLITS[(0, 0, 0, 1, 2)[Random(smallest).getrandbits(32) % 5]]] += group

    def generator(values: Values, wording: int) -> Pair:
        """Pairs from a file."""
        pool = by_split[values.split]
        if not pool:
            raise ValueError(
                f"{path} has {len(pairs)} pairs, which shared prompts bind into {len(groups)} groups, none of which falls into {values.split}; "
                f"give more pairs with prompts of their own."
            )
        return values.random.choice(pool)

    return generator, f"file:{hashlib.sha256(text.encode()).hexdigest()}"


def _pairs(path: Path, rows: list[dict[str, Any]]) -> list[Pair]:
    if not rows:
        raise ValueError(f"{path} has no pairs; write one a row, with {_WANTED}.")
    found, first = [], _form(path, rows[0])
    for i, row in enumerate(rows, 1):
        lost = [name for name in first if not isinstance(row.get(name), str) or not row[name]]
        if lost and _form(path, row, i) != first:
            raise ValueError(f"Row {i} of {path} has other columns than the rows before; write all rows with {_WANTED}.")
        if lost:
            raise ValueError(f"Row {i} of {path} has no text in {lost[0]}; each row needs {_WANTED}.")
        cells = [plain_text(row[name]) for name in first]
        if any("\ud800" <= c <= "\udfff" for cell in cells for c in cell):
            raise ValueError(f"Row {i} of {path} has half of a character (a lone surrogate); write the whole character.")
        found.append(((cells[0], cells[1]), (cells[2], cells[3])))
    return found


def _form(path: Path, row: dict[str, Any], i: int = 1) -> tuple[str, ...]:
    """Which of the two forms a row has."""
    ours, theirs = (sum(name in row for name in names) for names in (COLUMNS, PUBLISHED_COLUMNS))
    if ours and theirs and (ours == theirs or max(ours, theirs) < len(COLUMNS)):
        raise ValueError(f"Row {i} of {path} mixes two forms; keep the columns of one: {_WANTED}.")
    if not ours and not theirs:
        has = " ".join(", ".join(str(name) for name in row if name).split())[:100] or "none"
        raise ValueError(f"Row {i} of {path} has no columns of a pair (it has {has}); each row needs {_WANTED}.")
    return COLUMNS if ours > theirs else PUBLISHED_COLUMNS


def _different(pairs: list[Pair]) -> list[Pair]:
    """Each pair once: one in both orders is one pair, as it stands first."""
    return list({frozenset(pair): pair for pair in reversed(pairs)}.values())[::-1]


def _groups(pairs: list[Pair], tokenizer: Any) -> dict[str, list[Pair]]:
    """Smallest prompt -> pairs that hang together by prompts, those that are the same tokens among them."""
    parent: dict[Any, Any] = {}

    def root(key: Any) -> Any:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for (a, _), (b, _) in pairs:
        for prompt in (a, b):
            parent[root(tuple(tokenizer.encode(prompt, add_special_tokens=False)))] = root(prompt)
        parent[root(a)] = root(b)
    members: dict[Any, list[Pair]] = {}
    for pair in pairs:
        members.setdefault(root(pair[0][0]), []).append(pair)
    return {min(prompt for pair in group for prompt, _ in pair): group for group in members.values()}


def _csv_rows(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))  # cells may hold line breaks
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV ({error}); write one row per pair with {_WANTED}.") from None
    return [{(name or "").strip(): cell for name, cell in row.items()} for row in rows]


def _json_lines(path: Path, text: str) -> Iterator[dict[str, Any]]:
    for i, line in enumerate(text.split("\n"), 1):
        if line.strip():
            row = parse_json(line, f"Line {i} of {path}", fix=f"write one object per line with {_WANTED}")
            if not isinstance(row, dict):
                raise ValueError(f"Line {i} of {path} is no object; write one per line with {_WANTED}.")
            yield row
