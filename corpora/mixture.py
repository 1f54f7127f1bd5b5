"""Corpora by name, weighed and mixed, as blocks of tokens: read once, deterministic, split by file or document.

A source is "stdlib" (the interpreter's own library), "idioms" or "idioms:<programs>" (our generator), a folder, a glob or one file of
source code, a folder that `csp corpus build` wrote, or "hf:<dataset>[:<config>][:<split>][#<column>]" (a dataset of the Hub or a local one, through `datasets`; add "@<documents>"
to stop after so many, which then are streamed).
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from ..hub import require
from .blocks import split_blocks
from .idioms import programs
from .installed import LOCK, read_built
from .sources import LARGEST_FILE, SourceFiles, add_text, gathered, read_sources

IDIOMS = 20_000
MOST_IDIOMS = 2_000_000  # programs; some 400 million characters, all of them in memory
_HF = re.compile(r"hf:(?P<name>[^:#@]+)(:(?P<config>[^:#@]*))?(:(?P<split>[^:#@]+))?(#(?P<column>[^@]+))?(@(?P<count>\d+))?")


def load_corpus(source: str) -> SourceFiles:
    """The texts of a source, by name, without copies; what was left out is named in the result.

    Raises:
        FileNotFoundError, ValueError: naming what is not there, or cannot be used, and what would.
    """
    check_source(source)
    if source == "idioms" or source.startswith("idioms:"):
        return SourceFiles(dict(programs(int(source.partition(":")[2] or IDIOMS))))
    if source.startswith("hf:"):
        return _load_dataset(source)
    if (Path(source) / LOCK).is_file():
        return read_built(Path(source))
    if source != "stdlib" and (glob.has_magic(source) or Path(source).is_file()):
        return _read_files(source)
    return read_sources(source)


def check_source(source: str) -> None:
    """Raises, before anything is read, for a source that cannot be: FileNotFoundError or ValueError, or MissingExtra for what an extra brings."""
    if source == "idioms" or source.startswith("idioms:"):
        text = source.partition(":")[2] or str(IDIOMS)
        if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:12]) <= MOST_IDIOMS:
            raise ValueError(
                f"{source[:60]!r} is no corpus; write idioms, or idioms:<programs> with a whole number from 1 to {MOST_IDIOMS:,}."
            )
    elif source.startswith("hf:"):
        if _HF.fullmatch(source) is None:
            raise ValueError(f"{source!r} is no corpus; write hf:<dataset>[:<config>][:<split>][#<column>][@<documents>].")
        require("datasets", "corpora of the Hub and local data files")
    elif source != "stdlib" and glob.has_magic(source):
        if next(glob.iglob(source, recursive=True), None) is None:
            raise FileNotFoundError(f"{source} matches no readable file; give a glob such as 'src/**/*.py', quoted.")
    elif source != "stdlib" and not Path(source).exists():
        raise FileNotFoundError(
            f"{source} is no folder; give 'stdlib', 'idioms', a folder of .py files, a glob, or hf:<dataset>."
        )


def _read_files(pattern: str) -> SourceFiles:
    files = {path: Path(path) for path in sorted(glob.glob(pattern, recursive=True)) if not Path(path).is_dir()}
    return gathered(files, f"{pattern} matches no readable file; give a glob such as 'src/**/*.py', quoted.")


def _load_dataset(source: str) -> SourceFiles:
    match = _HF.fullmatch(source)
    assert match is not None  # check_source has seen to it
    from datasets import load_dataset  # the extra `train`

    column, count = match["column"] or "text", match["count"]
    try:
        data = load_dataset(
            match["name"], match["config"] or None, split=match["split"] or "train", streaming=count is not None
        )
    except Exception as error:  # datasets raises dozens of kinds
        raise ValueError(f"{source} cannot be loaded ({str(error).splitlines()[0][:200]}).") from None
    names = list(data.column_names or [])
    if names and column not in names:
        raise ValueError(f"{source} has no column {column!r}; it has {', '.join(names)}: add #<column>.")
    return _documents((row[column] for row in _first(data, count)), source)


def _first(rows: Iterable[dict], count: str | None) -> Iterator[dict]:
    for i, row in enumerate(tqdm(rows, desc="reading", unit="document", disable=None, delay=2)):
        if count is not None and i >= int(count):
            return
        yield row


def _documents(texts: Iterable[object], source: str) -> SourceFiles:
    found, seen = SourceFiles(), set()  # type: ignore[var-annotated]
    for i, text in enumerate(texts):
        name = f"{source}/{i}"
        if not isinstance(text, str):
            reason: str | None = "no text"
        elif len(text) > LARGEST_FILE:
            reason = "over 1 MB"
        else:
            reason = add_text(name, text, found.texts, seen, "document")
        if reason:
            found.left_out[name] = reason
    if not found.texts:
        raise ValueError(f"{source} holds no text.")
    return found


@dataclass(frozen=True)
class Mixture:
    """Training and held-out blocks [n, block], int32, and what they were made of."""

    train: torch.Tensor
    held_out: torch.Tensor
    said: list[str]


def mix(corpora: dict[str, float], tokenizer: PreTrainedTokenizerBase, block: int, seed: int) -> Mixture:
    """Blocks of several corpora in the proportion of their weights, none repeated: the scarcest decides how many there are.

    Raises:
        ValueError: if a weight is not positive, or there is nothing to mix.
    """
    if not corpora:
        raise ValueError("There is no corpus; give at least one, such as stdlib.")
    for source, weight in corpora.items():
        if not isinstance(weight, (int, float)) or isinstance(weight, bool) or not 0 < weight < float("inf"):
            raise ValueError(f"The weight of corpus {source!r} is {weight!r}; it must be a positive number.")
        check_source(source)  # all, before the first is read
    parts, said = [], []
    for source in corpora:
        texts = load_corpus(source)
        parts.append(split_blocks(texts, tokenizer, block))
        said.append(f"{source}: {texts.summary()}, {parts[-1][0].numel():,} training tokens")
    mixed = []
    for which in (0, 1):
        blocks = [part[which] for part in parts]
        share = min(len(b) / weight for b, weight in zip(blocks, corpora.values()))
        taken = []
        for i, (each, weight) in enumerate(zip(blocks, corpora.values())):
            order = torch.randperm(len(each), generator=torch.Generator().manual_seed(seed + i))
            taken.append(each[order[: max(1, int(share * weight))].sort().values] if len(corpora) > 1 else each)
        mixed.append(torch.cat(taken))
    if len(corpora) > 1:
        said.append(f"mixed {', '.join(f'{source} x {weight:g}' for source, weight in corpora.items())}")
    order = torch.randperm(len(mixed[1]), generator=torch.Generator().manual_seed(seed))
    return Mixture(mixed[0], mixed[1][order], said)
