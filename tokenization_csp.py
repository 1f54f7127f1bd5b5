"""Byte-level BPE for Python source, 2,048 tokens by default: the tokenizer of the paper's models, and our own of the same kind.

It ships as a `tokenizer.json` that `AutoTokenizer` loads without remote code, on transformers 4.57 and 5.x.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from .configuration_csp import package, read_object

END_OF_TEXT = "<|endoftext|>"


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
    def _wrap(cls, tokenizer: Any) -> CSPTokenizer:
        end = dict.fromkeys(("bos_token", "eos_token", "pad_token"), END_OF_TEXT)
        return cls(tokenizer_object=tokenizer, padding_side="left", clean_up_tokenization_spaces=False, **end)

    @classmethod
    def from_folder(cls, folder: str | Path) -> CSPTokenizer:
        """From a local folder with `tokenizer.json`, or with `vocab.bpe` + `encoder.json` as in OpenAI's release.

        Raises:
            FileNotFoundError, ValueError: naming the file that is missing or does not fit the other.
        """
        return cls._wrap(_making().read_tokenizer(Path(folder)))

    @classmethod
    def train_on(cls, texts: Iterable[str], vocab_size: int = 2048) -> CSPTokenizer:
        """Trains a byte-level BPE on texts; the last id is `<|endoftext|>`, the first 256 the bytes.

        Raises:
            ValueError: if vocab_size leaves no room for the 256 bytes and the end token, or the texts support fewer merges.
        """
        return cls._wrap(_making().train_tokenizer(texts, vocab_size))

    def _save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """Called between tokenizer_config.json and an upload: names the library's class there, so that no remote code is needed."""
        files = super()._save_pretrained(save_directory, *args, **kwargs)
        path = Path(save_directory) / "tokenizer_config.json"
        config = read_object(path)
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        config["model_input_names"] = self.model_input_names  # without it 4.57 adds token_type_ids
        for key in ("auto_map", "backend", "is_local", "local_files_only"):
            config.pop(key, None)
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return files


def _making() -> Any:
    making = package("checkpoints.tokenizers")
    if making is None:
        raise ImportError("Making a tokenizer takes the package sparse_circuits; AutoTokenizer loads one that is there.")
    return making
