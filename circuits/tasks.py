"""Tasks: pairs of prompts with one-token answers, in splits and families, and their controls."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from .python_tasks import GENERATORS, SPLITS, Example, Generator, Values

FAMILIES = ("main", "reworded", "in_function", "after_code")  # all but the first are kept out of pruning
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")  # circuits are named by their tasks, folders by circuits
_TRIES = 1000  # in a row without a new pair


class CannotExpress(ValueError):
    """A task that a tokenizer cannot express: its two answers are no tokens of their own, or the same."""


@dataclass(frozen=True)
class Pairs:
    """Tokenised pairs. Prompts 2j and 2j + 1 belong together.

    Args:
        input_ids: [2n, tokens] int64, padded on the left.
        attention_mask: [2n, tokens] int64, 0 on padding.
        answers: [2n, 2] int64: the right answer's token, and the other's.
        texts: the prompts.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    answers: torch.Tensor
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts) // 2

    def to(self, device: torch.device | str) -> Pairs:
        return Pairs(self.input_ids.to(device), self.attention_mask.to(device), self.answers.to(device), self.texts)

    def part(self, start: int, stop: int) -> Pairs:
        """Pairs start to stop."""
        rows = slice(2 * start, 2 * stop)
        return Pairs(self.input_ids[rows], self.attention_mask[rows], self.answers[rows], self.texts[rows])

    def without(self, others: Iterable[str]) -> Pairs:
        """Those pairs of which neither prompt is among `others`."""
        known = set(others)
        return self.at([j for j in range(len(self)) if not known & set(self.texts[2 * j : 2 * j + 2])])

    def at(self, indices: Iterable[int]) -> Pairs:
        """Those pairs, in this order."""
        rows = [row for j in indices for row in (2 * j, 2 * j + 1)]
        return Pairs(
            self.input_ids[rows], self.attention_mask[rows], self.answers[rows], tuple(self.texts[row] for row in rows)
        )

    def batches(self, size: int) -> Iterator[Pairs]:
        for start in range(0, len(self), size):
            yield self.part(start, start + size)


@dataclass(frozen=True)
class Task:
    """A binary next-token task under one tokenizer.

    Args:
        name: what circuits of it are called.
        tokenizer: that of the model.
        generator: (values of a split, wording) -> two examples (prompt, continuation); the answer is the first token of the
            continuation at that place.
        twin: "" for the task itself; "nonsense": the two answers of every pair exchanged; "constant": both prompts ask for the
            first's answer. Twins are controls: a method that finds circuits for them finds circuits anywhere.
        origin: "" for the built-in tasks; "file:" and its sha256, or "function" for others, which may bear the same name.
    """

    name: str
    tokenizer: Any
    generator: Generator
    twin: str = ""
    families: tuple[str, ...] = FAMILIES
    origin: str = ""

    def nonsense(self) -> Task:
        return dataclasses.replace(self, twin="nonsense")

    def constant(self) -> Task:
        return dataclasses.replace(self, twin="constant")

    @property
    def description(self) -> str:
        return (self.generator.__doc__ or "").strip().partition("\n")[0]

    def pairs(self, count: int, split: str = "train", family: str = "main", seed: int = 0, *, fewer: bool = False) -> Pairs:
        """`count` different pairs of a split, the same for the same seed; with `fewer`, as many as there are.

        Raises:
            CannotExpress: if the tokenizer makes no single, different tokens of the answers.
            ValueError: for an unknown split or family, or if the task has fewer different pairs.
        """
        if split not in SPLITS:
            raise ValueError(f"{split!r} is no split; they are {', '.join(SPLITS)}.")
        if family not in self.families:
            raise ValueError(f"{family!r} is no family of {self.name}; it has {', '.join(self.families)}.")
        if count < 1:
            raise ValueError(f"{count} pairs were asked for; ask for at least 1.")
        values = Values(split, Random(f"{self.name} {split} {family} {seed}"))
        rows: list[tuple[list[int], int, int, str]] = []
        seen: set[tuple[str, str]] = set()
        failed, reason = 0, ""
        while len(seen) < count:
            examples = in_family(self.generator, values, family)
            key = (examples[0][0], examples[1][0])
            found = self._tokenised(*examples) if key not in seen else "the pairs repeat"
            if isinstance(found, str):
                failed, reason = failed + 1, found
                if failed > _TRIES:
                    if fewer and seen:
                        break
                    kind: type[ValueError] = ValueError if seen else CannotExpress
                    raise kind(
                        f"{self.name} gives only {len(seen)} of {count} pairs in {split}/{family} with this tokenizer: {reason}."
                    )
                continue
            seen.add(key)
            rows += found
            failed = 0
        return self._padded(rows)

    def _tokenised(self, one: Example, two: Example) -> list[tuple[list[int], int, int, str]] | str:
        ids, answers = [], []
        for prompt, continuation in (one, two):
            prefix = self.tokenizer.encode(prompt, add_special_tokens=False)
            whole = self.tokenizer.encode(prompt + continuation, add_special_tokens=False)
            if whole[: len(prefix)] != prefix or len(whole) == len(prefix):
                return f"no token begins at the end of {prompt[-20:]!r} + {continuation!r}"
            ids.append(prefix)
            answers.append(whole[len(prefix)])
        if answers[0] == answers[1]:
            return f"both answers begin with the token {self.tokenizer.decode(answers[:1])!r} ({one[1]!r}, {two[1]!r})"
        if self.twin == "nonsense":
            answers.reverse()
        elif self.twin == "constant":
            return [(ids[i], answers[0], answers[1], (one, two)[i][0]) for i in (0, 1)]
        return [(ids[i], answers[i], answers[1 - i], (one, two)[i][0]) for i in (0, 1)]

    def _padded(self, rows: list[tuple[list[int], int, int, str]]) -> Pairs:
        longest = max(len(ids) for ids, *_ in rows)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        input_ids = torch.tensor([[pad] * (longest - len(ids)) + ids for ids, *_ in rows])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, *_ in rows])
        answers = torch.tensor([[right, wrong] for _, right, wrong, _ in rows])
        return Pairs(input_ids, mask, answers, tuple(text for *_, text in rows))


def in_family(generator: Generator, values: Values, family: str) -> tuple[Example, Example]:
    """Two examples, worded as the family wants: another wording, inside of a function, or after other code."""
    one, two = generator(values, 1 if family == "reworded" else 0)
    if family == "in_function":
        head = f"def {values.function()}({values.name()}):\n"
        return tuple((_indented(head, prompt), text) for prompt, text in _deeper(one, two))  # type: ignore[return-value]
    if family == "after_code":
        name, quote = values.name(), values.quote()
        head = f"{name} = {quote}{values.word()}{quote}\nprint({name})\n"
        return (head + one[0], one[1]), (head + two[0], two[1])
    return one, two


def _indented(head: str, prompt: str) -> str:
    lines = prompt.split("\n")
    return head + "\n".join("    " + line if line else line for line in lines)


def _deeper(*examples: Example) -> list[Example]:
    """Continuations that are an indentation move with the code around them."""
    return [(prompt, "    " + text if prompt.endswith("\n") else text) for prompt, text in examples]


def tasks() -> dict[str, str]:
    """Name -> description of the 20 built-in tasks."""
    return {name: (generator.__doc__ or "").strip().partition("\n")[0] for name, generator in GENERATORS.items()}


def load_task(name: str | Path, tokenizer: Any) -> Task:
    """A task by name, or from a CSV or JSONL file of pairs with columns prompt_a, answer_a, prompt_b, answer_b.

    Rows of a file are split by a hash of the row: 60 % train, 20 % validation, 20 % test; a file has one family.

    Raises:
        ValueError: naming what is wrong with the name or the file.
    """
    path = Path(name)
    if path.suffix in (".csv", ".jsonl"):
        return _from_file(path, tokenizer)
    if str(name) not in GENERATORS:
        raise ValueError(f"{str(name)!r} is no task; they are {', '.join(GENERATORS)}, or a .csv or .jsonl file of pairs.")
    return Task(str(name), tokenizer, GENERATORS[str(name)])


def make_task(
    name: str,
    generator: Callable[[Values, int], tuple[Example, Example]],
    tokenizer: Any,
    families: tuple[str, ...] = FAMILIES[:1],
) -> Task:
    """A task of your own: a function (values, wording) -> ((prompt, continuation), (prompt, continuation)).

    Splits share no value only as far as the function takes its values from `values`. Paraphrase families are for functions that heed `wording`
    ("reworded"), and for Python ("in_function", "after_code").

    Example:
        ```python
        def greater(v, wording):
            x = v.name()
            return (f"if {x} >", " 0:"), (f"{x} =", " 0")
        task = make_task("greater", greater, tokenizer)
        ```
    """
    for family in families:
        if family not in FAMILIES:
            raise ValueError(f"{family!r} is no family; they are {', '.join(FAMILIES)}.")
    return Task(_named(name), tokenizer, generator, families=families, origin="function")


def _named(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a task; use letters, digits, '_', '-' and '.'.")
    return name


COLUMNS = ("prompt_a", "answer_a", "prompt_b", "answer_b")


def _from_file(path: Path, tokenizer: Any) -> Task:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; give a .csv or .jsonl file with {', '.join(COLUMNS)}.") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8; save it as such.") from None
    rows = []
    lines = _csv_rows(path, text) if path.suffix == ".csv" else list(_json_lines(path, text))
    for i, row in enumerate(lines, 1):
        lost = [column for column in COLUMNS if not isinstance(row.get(column), str) or not row[column]]
        if lost:
            raise ValueError(f"Row {i} of {path} has no text in {lost[0]}; each row needs {', '.join(COLUMNS)}.")
        rows.append(tuple(row[column] for column in COLUMNS))
    by_split: dict[str, list[tuple[str, ...]]] = {split: [] for split in SPLITS}
    for pair in dict.fromkeys(rows):
        by_split[SPLITS[(0, 0, 0, 1, 2)[_stable(pair) % 5]]].append(pair)

    def generator(values: Values, wording: int) -> tuple[Example, Example]:
        """Pairs from a file."""
        pool = by_split[values.split]
        if not pool:
            raise ValueError(f"{path} has {len(rows)} pairs, none of which falls into {values.split}; give more.")
        a, answer_a, b, answer_b = values.random.choice(pool)
        return (a, answer_a), (b, answer_b)

    origin = f"file:{hashlib.sha256(text.encode()).hexdigest()}"
    return Task(_named(path.stem), tokenizer, generator, families=FAMILIES[:1], origin=origin)


def _csv_rows(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        return list(csv.DictReader(io.StringIO(text, newline="")))  # cells may hold line breaks
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV ({error}); write one row per pair with {', '.join(COLUMNS)}.") from None


def _stable(row: tuple[str, ...]) -> int:
    return Random("\0".join(row)).getrandbits(32)


def _json_lines(path: Path, text: str) -> Iterator[dict[str, Any]]:
    for i, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                raise ValueError(
                    f"Line {i} of {path} is no JSON; write one object per line with {', '.join(COLUMNS)}."
                ) from None
            if not isinstance(row, dict):
                raise ValueError(f"Line {i} of {path} is no object; write one per line with {', '.join(COLUMNS)}.")
            yield row
