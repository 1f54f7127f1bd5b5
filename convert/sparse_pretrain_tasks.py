"""Tasks of `sparse_pretrain` as files of pairs, which `csp prune --task FILE` and `load_task` read.

There a task is an object that draws examples (its `src/pruning/tasks.py`: `get_task(name, tokenizer, seed=, split=)`): `generate_example()` gives `positive_ids`,
the prompt, `correct_token` and `incorrect_token`, and, where the answer is not asked for after the last token, `eval_position`. Pairs are made of examples whose
two answers are exchanged, as equally long as there are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_whole

_TRIES = 50  # examples that are drawn for each pair that is wanted

Prompt = tuple[int, ...]


def task_file(task: Any, tokenizer: Any, path: str | Path, pairs: int = 500) -> Path:
    """Writes a task as a JSONL file of at most so many different pairs; fewer, if its examples give no more.

    Args:
        task: of sparse_pretrain, or anything else with its `generate_example`. tokenizer: the one that it was made with.
        path: of the file, NAME.jsonl; circuits are called NAME.

    Raises:
        ValueError: if no two examples have each other's answers (a task that always asks for one token), or if the tokenizer does not read a prompt's text as the
            tokens that it has.
    """
    path = Path(path)
    if path.suffix != ".jsonl":
        raise ValueError(f"{path} must be called NAME.jsonl, as files of pairs are.")
    waiting: dict[tuple[int, int], dict[Prompt, None]] = {}
    seen: set[Prompt] = set()  # each prompt stands in one pair, since pairs that share prompts go to one split together
    rows: list[dict[str, str]] = []
    for _ in range(_TRIES * pairs):
        prompt, right, wrong = _example(task.generate_example())
        if prompt in seen:
            continue
        seen.add(prompt)
        others = waiting.setdefault((wrong, right), {})
        partner = _partner(others, prompt)
        if partner is None:
            waiting.setdefault((right, wrong), {})[prompt] = None
            continue
        del others[partner]
        one, two = _text(tokenizer, prompt, right), _text(tokenizer, partner, wrong)
        rows.append({"prompt_a": one[0], "answer_a": one[1], "prompt_b": two[0], "answer_b": two[1]})
        if len(rows) == pairs:
            break
    if not rows:
        raise ValueError(
            "No two examples of this task have each other's answers, so it makes no pairs; it may always ask for one token."
        )
    return write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _example(example: Any) -> tuple[Prompt, int, int]:
    ids = [int(each) for each in example.positive_ids]
    at = int(getattr(example, "eval_position", -1))
    return tuple(ids[: at + 1] if at >= 0 else ids), int(example.correct_token), int(example.incorrect_token)


def _partner(prompts: dict[Prompt, None], prompt: Prompt) -> Prompt | None:
    """The waiting prompt that is equally long, else the one that has waited longest, once many wait."""
    same = next((each for each in prompts if len(each) == len(prompt)), None)
    return same if same is not None or len(prompts) < _TRIES else next(iter(prompts))


def _text(tokenizer: Any, prompt: Sequence[int], answer: int) -> tuple[str, str]:
    """A prompt's and its answer's text, which the tokenizer reads as the same tokens."""
    text, whole = tokenizer.decode(list(prompt)), tokenizer.decode([*prompt, answer])
    if (
        not whole.startswith(text)
        or tokenizer.encode(text, add_special_tokens=False) != list(prompt)
        or tokenizer.encode(whole, add_special_tokens=False) != [*prompt, answer]
    ):
        raise ValueError(
            f"The tokenizer does not read {whole[-60:]!r} as the tokens that the example has; give the task's own tokenizer."
        )
    return text, whole[len(text) :]
