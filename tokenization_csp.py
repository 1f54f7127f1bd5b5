"""Byte-level BPE for Python source, 2,048 tokens by default: the tokenizer of the paper's models, and our own of the same kind.

It ships as a `tokenizer.json` that `AutoTokenizer` loads without remote code, on transformers 4.57 and 5.x.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
# The pattern of tinypython_2k (a tiktoken pattern): words with one leading mark, up to three digits, punctuation with the line
# end that follows, line ends with the blanks before them, blanks.
PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class CSPTokenizer(PreTrainedTokenizerFast):
    """Lossless on any text; `<|endoftext|>` begins, ends and pads; pads on the left. Special text in the input becomes the
    special token unless `split_special_tokens=True` is passed.

    Load with `from_pretrained(folder_or_hub_id)`; from OpenAI's `vocab.bpe` + `encoder.json` with `from_folder(folder)`; train with
    `train_on(texts)`.
    """

    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "left"

    # No __init__ here: transformers 5 rebuilds classes that have one from vocab and merges, and loses the rest of the file.

    @classmethod
    def _wrap(cls, tokenizer: Tokenizer) -> CSPTokenizer:
        end = dict.fromkeys(("bos_token", "eos_token", "pad_token"), END_OF_TEXT)
        return cls(tokenizer_object=tokenizer, padding_side="left", clean_up_tokenization_spaces=False, **end)

    @classmethod
    def from_folder(cls, folder: str | Path) -> CSPTokenizer:
        """From a local folder with `tokenizer.json`, or with `vocab.bpe` + `encoder.json` as in OpenAI's release.

        Raises:
            FileNotFoundError, ValueError: naming the file that is missing or does not fit the other.
        """
        folder = Path(folder)
        if (folder / "tokenizer.json").is_file():
            return cls._wrap(Tokenizer.from_file(str(folder / "tokenizer.json")))
        merges_path, vocab_path = folder / "vocab.bpe", folder / "encoder.json"
        for path in (merges_path, vocab_path):
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path} does not exist; give a folder with tokenizer.json, or vocab.bpe and encoder.json."
                )
        vocab = json.loads(vocab_path.read_text(encoding="utf-8"))
        lines = merges_path.read_text(encoding="utf-8").split("\n")[1:]  # the first line names the version
        merges: list[Any] = [tuple(line.split(" ")) for line in lines if line]
        if not isinstance(vocab, dict) or any(len(pair) != 2 or "".join(pair) not in vocab for pair in merges):
            raise ValueError(f"{merges_path} has merges that {vocab_path} does not know; the two are of different tokenizers.")
        return cls._wrap(_byte_level_bpe(models.BPE(vocab=vocab, merges=merges)))

    @classmethod
    def train_on(cls, texts: Iterable[str], vocab_size: int = 2048) -> CSPTokenizer:
        """Trains a byte-level BPE on texts; the last id is `<|endoftext|>`, the first 256 the bytes.

        Raises:
            ValueError: if vocab_size leaves no room for the 256 bytes and the end token, or the texts support fewer merges.
        """
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
        return cls._wrap(tokenizer)

    def _save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """Called between tokenizer_config.json and an upload: names the library's class there, so that no remote code is needed."""
        files = super()._save_pretrained(save_directory, *args, **kwargs)
        path = Path(save_directory) / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        config["model_input_names"] = self.model_input_names  # without it 4.57 adds token_type_ids
        for key in ("auto_map", "backend", "is_local", "local_files_only"):
            config.pop(key, None)
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return files


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
