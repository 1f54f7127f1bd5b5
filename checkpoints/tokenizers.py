"""Tokenizers made (byte-level BPE for Python source), and files of tokenizers that others wrote, looked at before a library reads them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from ..files import read_object, read_text
from ..tokenization_csp import END_OF_TEXT

# The pattern of tinypython_2k (a tiktoken pattern): words with one leading mark, up to three digits, punctuation with the line
# end that follows, line ends with the blanks before them, blanks.
PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def read_tokenizer(folder: Path) -> Tokenizer:
    """What `CSPTokenizer.from_folder` wraps."""
    if (folder / "tokenizer.json").is_file():
        require_tokenizer_json(folder / "tokenizer.json", whole=True)
        with one_sentence(str(folder / "tokenizer.json")):
            return Tokenizer.from_file(str(folder / "tokenizer.json"))
    merges_path, vocab_path = folder / "vocab.bpe", folder / "encoder.json"
    for path in (merges_path, vocab_path):
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; give a folder with tokenizer.json, or vocab.bpe and encoder.json.")
    vocab = read_object(vocab_path, fix="download it again")
    lines = read_text(merges_path, fix="download it again").split("\n")[1:]  # the first line names the version
    merges: list[Any] = [tuple(line.split(" ")) for line in lines if line]
    if any(len(pair) != 2 or "".join(pair) not in vocab for pair in merges):
        raise ValueError(f"{merges_path} has merges that {vocab_path} does not know; the two are of different tokenizers.")
    _require_ids(list(vocab.values()), str(vocab_path), slack=0)
    _require_made(vocab, merges, merges_path, vocab_path)
    with one_sentence(str(vocab_path)):
        return _byte_level_bpe(models.BPE(vocab=vocab, merges=merges))


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """What `CSPTokenizer.train_on` wraps."""
    if vocab_size < 257:
        raise ValueError(f"vocab_size is {vocab_size}; it must be at least 257: the 256 bytes and {END_OF_TEXT}.")
    tokenizer = _byte_level_bpe(models.BPE(), special=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(_nonempty(texts), trainer)
    if tokenizer.get_vocab_size() < vocab_size - 1:
        raise ValueError(
            f"The texts only support {tokenizer.get_vocab_size() + 1} tokens, not {vocab_size}; give more text or a smaller size."
        )
    _add_end_of_text(tokenizer)
    return tokenizer


def _byte_level_bpe(model: models.BPE, *, special: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(model)
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if special:
        _add_end_of_text(tokenizer)
    return tokenizer


def _add_end_of_text(tokenizer: Tokenizer) -> None:
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])


def _nonempty(texts: Iterable[str]) -> Iterator[str]:
    seen = False
    for text in texts:
        seen = seen or bool(text)
        yield text
    if not seen:
        raise ValueError("There is no text to train a tokenizer on; check the corpus.")


# ------------------------------------------------------------------------------------------------------- files of others

_LARGEST = 256 << 20  # bytes of a tokenizer.json
_SLACK = 100_000  # ids that no token has, at most; the library makes room for every id up to the largest


@contextlib.contextmanager
def one_sentence(name: str) -> Iterator[None]:
    """Makes a ValueError in one sentence of what libraries say of a damaged file, which is of all kinds, down to plain Exception and panics."""
    try:
        yield
    except BaseException as error:
        foreign = isinstance(error, (UnicodeError, json.JSONDecodeError))  # ValueErrors that name no file
        if (
            not foreign
            and isinstance(error, (ValueError, OSError))
            and str(error).strip()
            and len(str(error).strip().splitlines()) == 1
        ):
            raise
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # Ctrl-C, say
            raise
        reason = next(iter(str(error).strip().splitlines()), "")[:120] or type(error).__name__
        raise ValueError(f"{name} cannot be used ({reason}); get the file again.") from None


def require_tokenizer_json(path: Path, *, whole: bool = False) -> None:
    """Raises if a tokenizer.json would take the library gigabytes or an end in a panic; whole: also if an id below the largest has no token."""
    found = read_object(path, largest=_LARGEST)
    model, added = found.get("model"), found.get("added_tokens") or []
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, dict):
        ids = list(vocab.values())
    elif isinstance(vocab, list):
        ids = list(range(len(vocab)))
    else:
        raise ValueError(f"{path} has no vocabulary; get it again.")
    if not isinstance(added, list) or not all(
        isinstance(each, dict) and isinstance(each.get("content"), str) for each in added
    ):
        raise ValueError(f"{path} has added_tokens that are no tokens; get it again.")
    known = vocab if isinstance(vocab, dict) else {}
    for each in added:
        if known.get(each["content"], each.get("id")) != each.get("id"):
            raise ValueError(f"{path} gives {each['content']!r:.40} two ids; get it again.")
    _require_ids(
        ids + [each.get("id") for each in added if each["content"] not in known], str(path), slack=0 if whole else _SLACK
    )
    padding = found.get("padding")
    fixed = padding.get("strategy") if isinstance(padding, dict) else None
    if isinstance(fixed, dict) and not all(isinstance(size, int) and 0 <= size <= 1 << 20 for size in fixed.values()):
        raise ValueError(f"{path} pads every text to {fixed!r:.60} tokens; get it again.")


def _require_ids(ids: list[Any], name: str, slack: int) -> None:
    wrong = [index for index in ids if isinstance(index, bool) or not isinstance(index, int) or index < 0]
    if wrong or not ids:
        raise ValueError(f"{name} has {f'the token id {wrong[0]!r:.40}' if ids else 'no tokens'}; get it again.")
    if len(set(ids)) < len(ids):
        raise ValueError(f"{name} gives one id to two tokens; get it again.")
    if max(ids) >= len(ids) + slack:
        raise ValueError(f"{name} has {len(ids)} tokens and the id {max(ids):.3g}; ids count from 0, so get it again.")


def _require_made(vocab: dict[str, Any], merges: list[Any], merges_path: Path, vocab_path: Path) -> None:
    """Every token must be a byte, special, or made by a merge, each by one: else a line of one of the files is lost."""
    made = {"".join(pair) for pair in merges}
    if len(set(merges)) < len(merges):
        raise ValueError(f"{merges_path} has a merge twice; download it again.")
    odd = next((token for token in vocab if len(token) > 1 and token not in made and not token.startswith("<|")), None)
    if odd is not None:
        raise ValueError(
            f"{vocab_path} has {odd!r:.40}, which no merge of {merges_path} makes; the two are of different tokenizers."
        )
    lost = next((byte for byte in pre_tokenizers.ByteLevel.alphabet() if byte not in vocab), None)
    if lost is not None and len(vocab) >= 256:
        raise ValueError(f"{vocab_path} lacks the byte {lost!r}; download it again.")
