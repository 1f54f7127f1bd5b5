"""Texts as blocks of token ids: encoded, packed, split, sampled; and the run's own copy of them on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from ..checkpoints.tensors import read_tensors
from .sources import SourceFiles, held_out

BLOCKS = "blocks.safetensors"  # of csp train: the run's own copy of its text


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
