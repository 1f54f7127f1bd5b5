"""Tasks: pairs of prompts with one-token answers, in splits and families, and their controls."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from .python_tasks import BARE, GENERATORS, LINE_END, SPLITS, Example, Generator, Values, published_form
from .task_files import pairs_from_file

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

    def prompts(self) -> list[tuple[int, ...]]:
        """Token ids of each prompt, without padding: what a model sees of it."""
        return [tuple(ids[mask.bool()].tolist()) for ids, mask in zip(self.input_ids, self.attention_mask)]

    def without(self, others: Iterable[str | tuple[int, ...]]) -> Pairs:
        """Those pairs of which neither prompt is among `others`, as text or as token ids."""
        known, prompts = set(others), self.prompts()
        return self.at(j for j in range(len(self)) if not known & {*self.texts[2 * j : 2 * j + 2], *prompts[2 * j : 2 * j + 2]})

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
        form: of a built-in task: "line_end": the line ends after the answer, which may be one token with it, such as `')\\n`; "bare": it does
            not, `')`. "" for others, which write their continuations themselves.
    """

    name: str
    tokenizer: Any
    generator: Generator
    twin: str = ""
    families: tuple[str, ...] = FAMILIES
    origin: str = ""
    form: str = ""

    def nonsense(self) -> Task:
        return dataclasses.replace(self, twin="nonsense")

    def constant(self) -> Task:
        return dataclasses.replace(self, twin="constant")

    @property
    def description(self) -> str:
        return (self.generator.__doc__ or "").strip().partition("\n")[0]

    def pairs(
        self,
        count: int,
        split: str = "train",
        family: str = "main",
        seed: int = 0,
        *,
        fewer: bool = False,
        without: Iterable[tuple[int, ...]] = (),
    ) -> Pairs:
        """`count` different pairs of a split, the same for the same seed; with `fewer`, as many as there are.

        The two prompts of a built-in task's pair have equally many tokens, if the tokenizer makes such pairs.

        Args:
            without: prompts, as token ids (`Pairs.prompts`), that no pair may have.

        Raises:
            CannotExpress: if the tokenizer makes no single, different tokens of the answers.
            ValueError: for an unknown split or family, or if the task has fewer different pairs.
        """
        self._require_known(split, family, count)
        values = self._values(split, family, seed)
        even, known = not self.origin and self._can_be_even(split, family), set(without)
        rows: list[tuple[list[int], int, int, str]] = []
        seen: set[frozenset[Any]] = set()  # of texts, and of token ids: a pair in the other order is the same
        failed, reason, expressed = 0, "", False
        while len(rows) < 2 * count:
            examples = in_family(self.generator, values, family)
            texts = frozenset(prompt for prompt, _ in examples)
            found = self._tokenised(*examples) if texts not in seen else "the pairs repeat"
            if not isinstance(found, str):
                expressed, ids = True, frozenset(tuple(row[0]) for row in found)
                fault = _fault(found, ids, seen, known, even)
                if not fault:
                    seen |= {texts, ids}
                    rows, failed = rows + found, 0
                    continue
                found = fault
            failed, reason = failed + 1, found
            if failed > _TRIES:
                if fewer and rows:
                    break
                kind: type[ValueError] = ValueError if expressed else CannotExpress
                raise kind(
                    f"{self.name} gives only {len(rows) // 2} of {count} pairs in {split}/{family} with this tokenizer: {reason}."
                )
        return self._padded(rows)

    def _require_known(self, split: str, family: str, count: int) -> None:
        if split not in SPLITS:
            raise ValueError(f"{split!r} is no split; they are {', '.join(SPLITS)}.")
        if family not in self.families:
            raise ValueError(f"{family!r} is no family of {self.name}; it has {', '.join(self.families)}.")
        if count < 1:
            raise ValueError(f"{count} pairs were asked for; ask for at least 1.")

    def _values(self, split: str, family: str, seed: int | str) -> Values:
        return Values(split, Random(f"{self.name} {split} {family} {seed}"))

    def _can_be_even(self, split: str, family: str) -> bool:
        """Whether the tokenizer makes enough pairs whose prompts are equally long to leave out the others."""
        values = self._values(split, family, "even")
        drawn = [self._tokenised(*in_family(self.generator, values, family)) for _ in range(100)]
        return sum(len(pair[0][0]) == len(pair[1][0]) for pair in drawn if not isinstance(pair, str)) >= 3

    def _tokenised(self, one: Example, two: Example) -> list[tuple[list[int], int, int, str]] | str:
        ids, answers = [], []
        for prompt, continuation in (one, two):
            if self.form == BARE:
                continuation = continuation.split("\n")[0] or continuation
            prefix = self.tokenizer.encode(prompt, add_special_tokens=False)
            whole = self.tokenizer.encode(prompt + continuation, add_special_tokens=False)
            if whole[: len(prefix)] != prefix or len(whole) == len(prefix):
                return f"no token begins at the end of {prompt[-20:]!r} + {continuation!r}"
            ids.append(prefix)
            answers.append(whole[len(prefix)])
        if ids[0] == ids[1]:
            return f"both prompts are {one[0][-20:]!r}"
        if answers[0] == answers[1]:
            return f"both answers begin with the token {self.tokenizer.decode(answers[:1])!r} ({one[1]!r}, {two[1]!r})"
        if self.twin == "nonsense":
            answers.reverse()
        elif self.twin == "constant":
            return [(ids[i], answers[0], answers[1], (one, two)[i][0]) for i in (0, 1)]
        return [(ids[i], answers[i], answers[1 - i], (one, two)[i][0]) for i in (0, 1)]

    def _padded(self, rows: list[tuple[list[int], int, int, str]]) -> Pairs:
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        input_ids, mask = padded([ids for ids, *_ in rows], pad)
        answers = torch.tensor([[right, wrong] for _, right, wrong, _ in rows])
        return Pairs(input_ids, mask, answers, tuple(text for *_, text in rows))


def padded(prompts: Sequence[Sequence[int]], pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, [n, tokens] int64, padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(each)) + list(each) for each in prompts])
    return ids, torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in prompts])


def _fault(found: list[Any], ids: frozenset[Any], seen: set[Any], known: set[Any], even: bool) -> str:
    """Why a pair is not taken; "" if it is."""
    if ids & known:
        return "the others have prompts that are in another split too, give more different prompts"
    if ids in seen:
        return "the pairs repeat"
    return "the prompts of the others are not equally long" if even and len(found[0][0]) != len(found[1][0]) else ""


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


def load_task(name: str | Path, tokenizer: Any, form: str | None = None) -> Task:
    """A task by name, or from a CSV or JSONL file of pairs with columns prompt_a, answer_a, prompt_b, answer_b, or, as in published task
    files, clean, correct_answer, corrupted, incorrect_answer. A file has one family, and no prompt in two splits (circuits/task_files.py).

    Args:
        form: of a built-in task: "line_end", "bare" (see `Task`), or "published": that of the published data. Default: "line_end"; what a given
            model was trained to write `scoring.natural_form` tells.

    Raises:
        ValueError: naming what is wrong with the name, the form or the file.
    """
    path = Path(name)
    if path.suffix in (".csv", ".jsonl"):
        if form:
            raise ValueError(f"{path} says its answers itself; leave out the form {form!r}.")
        own = _named(path.stem)
        generator, origin = pairs_from_file(path, tokenizer)
        return Task(own, tokenizer, generator, families=FAMILIES[:1], origin=origin)
    name = str(name)
    if name not in GENERATORS:
        raise ValueError(f"{name!r} is no task; they are {', '.join(GENERATORS)}, or a .csv or .jsonl file of pairs.")
    return Task(name, tokenizer, GENERATORS[name], form=published_form(name, form or LINE_END))


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
