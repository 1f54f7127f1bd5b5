"""Source files as token blocks: found, read, deduplicated, split by file, packed."""

from __future__ import annotations

import hashlib
import io
import sysconfig
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from ..checkpoints.tensors import read_tensors

LARGEST_FILE = 1_000_000  # bytes; larger source files are data tables, or generated
BLOCKS = "blocks.safetensors"  # of csp train: the run's own copy of its text
_NOT_SOURCE = {"site-packages", "dist-packages", "__pycache__"}  # nor hidden folders, such as environments
_TESTS = {"test", "tests", "idle_test", "lib2to3"}  # of the standard library


def standard_library() -> Path:
    """Folder of the running interpreter's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


@dataclass
class SourceFiles:
    """Texts by relative path, and the files that were left out, with the reason."""

    texts: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        said = f"{len(self.texts):,} files, {sum(map(len, self.texts.values())):,} characters"
        return said + (f"; left out {len(self.left_out)}: {', '.join(sorted(self.left_out)[:3])} ..." if self.left_out else "")


def read_sources(corpus: str | Path = "stdlib") -> SourceFiles:
    """Reads every .py file of the standard library ("stdlib"; without its tests) or below a folder, in sorted order.

    Files that are unreadable, not UTF-8, empty, over 1 MB, or a copy of an earlier one are left out and named in the result. Hidden
    folders and site-packages are passed over.

    Raises:
        FileNotFoundError: if the folder does not exist or holds no .py file.
    """
    root = standard_library() if corpus == "stdlib" else Path(corpus)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; give 'stdlib' or a folder of .py files.")
    found = SourceFiles()
    seen: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        parts = path.relative_to(root).parts
        if any(part.startswith(".") or part in _NOT_SOURCE for part in parts[:-1]):
            continue
        if corpus == "stdlib" and _TESTS & set(parts):
            continue
        reason = read_one(path, name, found.texts, seen)
        if reason:
            found.left_out[name] = reason
    if not found.texts:
        raise FileNotFoundError(f"{root} holds no readable .py file; give 'stdlib' or a folder of .py files.")
    return found


def plain_text(text: str) -> str:
    """Without a byte order mark, and with line ends as Python reads them: models see neither marks nor carriage returns."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def read_one(path: Path, name: str, texts: dict[str, str], seen: set[str]) -> str | None:
    """Adds the file to texts, or says why not."""
    if not path.is_file():
        return "no file"
    try:
        if path.stat().st_size > LARGEST_FILE:
            return "over 1 MB"
        data = path.read_bytes()
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "not UTF-8"
    except OSError:
        return "unreadable"
    if not data.isascii() and _declares_another_encoding(data):
        return "not UTF-8"
    return add_text(name, text, texts, seen, "file")


def _declares_another_encoding(data: bytes) -> bool:
    """Whether a comment in the first two lines, as PEP 263 describes it, says that the source is not UTF-8."""
    try:
        return tokenize.detect_encoding(io.BytesIO(data).readline)[0] not in ("utf-8", "utf-8-sig")
    except SyntaxError:
        return True


def add_text(name: str, text: str, texts: dict[str, str], seen: set[str], kind: str) -> str | None:
    """Adds a text that is neither empty nor a copy to texts, as `plain_text` makes it, or says why not."""
    text = plain_text(text)
    try:
        digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    except UnicodeEncodeError:
        return "no Unicode"  # half of a character, which no tokenizer takes
    if not text.strip() or digest in seen:
        return "empty" if not text.strip() else f"a copy of another {kind}"
    seen.add(digest)
    texts[name] = text
    return None


def held_out(name: str, percent: int = 10) -> bool:
    """Whether a file belongs to the held-out split: decided by a hash of its name, so it never moves."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100 < percent


class TokenBlocks(Dataset):
    """Blocks [n, block] of token ids, as the stock Trainer with `default_data_collator` takes them."""

    def __init__(self, blocks: torch.Tensor):
        self.blocks = blocks.long()

    def __len__(self) -> int:
        return self.blocks.shape[0]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.blocks[index], "labels": self.blocks[index]}


def encode_files(texts: dict[str, str], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """Token ids of each file, `<|endoftext|>` first."""
    for text in tqdm(texts.values(), desc="tokenizing", unit="file", disable=None, delay=2):
        yield [tokenizer.eos_token_id, *tokenizer.encode(text, split_special_tokens=True, verbose=False)]


def pack(files: Iterator[list[int]], block: int) -> torch.Tensor:
    """Files one after the other, cut into blocks [n, block]; what is left at the end is dropped.

    Raises:
        ValueError: if there is less than one block.
    """
    ids = torch.tensor([token for file in files for token in file], dtype=torch.int32)
    if len(ids) < block:
        raise ValueError(f"The corpus has {len(ids)} tokens, fewer than one block of {block}; give more text.")
    return ids[: len(ids) // block * block].view(-1, block)


def split_blocks(
    sources: SourceFiles, tokenizer: PreTrainedTokenizerBase, block: int, percent: int = 10
) -> tuple[torch.Tensor, torch.Tensor]:
    """Training and held-out blocks [n, block], int32, split by file."""
    train = {name: text for name, text in sources.texts.items() if not held_out(name, percent)}
    rest = {name: text for name, text in sources.texts.items() if held_out(name, percent)}
    if not rest or not train:
        raise ValueError(
            f"{len(sources.texts)} files are too few to split by file into training and held-out; give more files."
        )
    return pack(encode_files(train, tokenizer), block), pack(encode_files(rest, tokenizer), block)


def sample_blocks(
    sources: SourceFiles, tokenizer: PreTrainedTokenizerBase, block: int, tokens: int, seed: int = 0
) -> torch.Tensor:
    """Blocks [n, block], int32, of about `tokens` tokens: files that training may see, in random order, as many as it takes."""
    names = sorted(name for name in sources.texts if not held_out(name)) or sorted(sources.texts)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen: list[list[int]] = []
    for ids in encode_files({names[i]: sources.texts[names[i]] for i in order}, tokenizer):
        chosen.append(ids)
        if sum(map(len, chosen)) >= max(tokens, block):
            break
    return pack(iter(chosen), block)[: max(1, tokens // block)]


def saved_blocks(folder: Path) -> torch.Tensor | None:
    """The training blocks [n, tokens] that `csp train` left in a model's folder; None if there are none.

    Raises:
        ValueError: if the file is damaged.
    """
    if not (folder / BLOCKS).exists():
        return None
    found, _ = read_tensors(folder / BLOCKS, fix=_OTHER_TEXT)
    return require_blocks(found, folder / BLOCKS, ("train",))["train"]


_OTHER_TEXT = "remove it, or give another text"


def require_blocks(
    found: dict[str, torch.Tensor], path: Path, names: tuple[str, ...] = ("train", "held_out")
) -> dict[str, torch.Tensor]:
    """Blocks of token ids as `csp train` writes them, or ValueError."""
    for name in names:
        blocks = found.get(name)
        if (
            blocks is None
            or blocks.dim() != 2
            or blocks.is_floating_point()
            or blocks.dtype == torch.bool
            or not blocks.numel()
        ):
            raise ValueError(f"{path} is damaged (it has no blocks of token ids under {name!r}); {_OTHER_TEXT}.")
        if int(blocks.min()) < 0:
            raise ValueError(f"{path} is damaged (it has negative token ids); {_OTHER_TEXT}.")
    return found
