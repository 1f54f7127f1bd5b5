"""Models and tokenizers in folders that others wrote: looked at before transformers reads them, so that damage is one sentence.

What the `csp` command and bridged pairs load goes through here. The package only; checks that remote code needs too are in `fitting_csp.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..files import read_object
from .tokenizers import one_sentence, require_tokenizer_json

_TOKENIZER_DOCUMENTS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json")
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


def load_tokenizer(source: str | Path, model: Any = None, **options: Any) -> Any:
    """AutoTokenizer's, of a folder or Hub id, for a model if one is given.

    Raises:
        ValueError, OSError: in one sentence: the files are damaged, or the tokenizer is of another model.
    """
    from transformers import AutoTokenizer

    folder = Path(source)
    if folder.is_dir():
        require_tokenizer_files(folder)
    with one_sentence(f"The tokenizer in {source}"):
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        tokenizer.encode("def f(x):")  # damage may show only when it is used
    if model is not None:
        require_fit(tokenizer, model)
    return tokenizer


def require_tokenizer_files(folder: Path) -> None:
    """Raises if a tokenizer's files in a folder cannot be read, or would take gigabytes."""
    if (folder / "tokenizer.json").exists():
        require_tokenizer_json(folder / "tokenizer.json")
    for name in _TOKENIZER_DOCUMENTS:
        if (folder / name).exists():
            found = read_object(folder / name)
            if name != "config.json":
                _require_special(folder / name, found)


def _require_special(path: Path, found: dict[str, Any]) -> None:
    wrong = [name for name in _SPECIAL if not isinstance(found.get(name), (str, dict, type(None)))]
    wrong += [name for name in ("tokenizer_class", "padding_side") if not isinstance(found.get(name), (str, type(None)))]
    limit = found.get("model_max_length")
    wrong += (
        ["model_max_length"]
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, (int, float)) or limit < 1)
        else []
    )
    wrong += [name for name in ("extra_special_tokens",) if not isinstance(found.get(name), (dict, list, type(None)))]
    added = found.get("added_tokens_decoder") or {}
    if not isinstance(added, dict) or not all(key.isascii() and key.isdigit() and len(key) < 8 for key in added):
        wrong.append("added_tokens_decoder")
    if path.name == "added_tokens.json":
        wrong += [name for name, index in found.items() if not isinstance(index, int) or not 0 <= index < 10**7]
    if wrong:
        raise ValueError(f"{path} sets {wrong[0]:.40} to {found.get(wrong[0])!r:.40}, which no tokenizer has; get it again.")


def require_fit(tokenizer: Any, model: Any) -> None:
    """Raises if a tokenizer has ids that a model (or config) has no token for."""
    size = getattr(model, "config", model).vocab_size
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= size:
        raise ValueError(
            f"The tokenizer has {largest + 1} tokens and the model {size}, so they are not of one model; give the tokenizer that belongs to the model."
        )


def model_type(source: str | Path, **options: Any) -> str:
    """The type of the model in a folder or Hub id, whose config can be read."""
    from transformers import AutoConfig

    from .fitting import require_settings

    if Path(source).is_dir():
        require_settings(Path(source))
    try:
        with one_sentence("The config"):
            return AutoConfig.from_pretrained(source, **options).model_type
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _require_possible(folder: Path) -> None:
    """Raises if a local config asks for a model that is immense, or for other layers than its weights have: before it is built, which could take hours."""
    if not (folder / "config.json").is_file():
        return
    from transformers import AutoConfig

    from ..configuration_csp import LARGEST, CSPConfig
    from .fitting import explained, headers, require_generation, require_layers, weight_files

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.model_type == "csp":  # which looks for itself
        return
    for name, alias in {own: alias for alias, own in CSPConfig.attribute_map.items()}.items():
        value = getattr(config, alias, None)
        if isinstance(value, int) and not 0 <= value <= LARGEST[name] if name in LARGEST else False:
            raise ValueError(f"{folder / 'config.json'} sets {alias} to {value:.3g}, which no model has; get it again.")
    with explained(folder):
        require_generation(folder, config)
        files = weight_files(folder)
        if files is not None and config.model_type == "gpt2":
            require_layers(config, headers(files))


def load_model(source: str | Path, **options: Any) -> Any:
    """AutoModelForCausalLM's, of a folder or Hub id, in eval mode; whole, or not at all.

    Raises:
        ValueError, OSError: in one sentence: the files are damaged, or not of one model.
    """
    from transformers import AutoModelForCausalLM

    from .fitting import explained

    model_type(source, **{name: options[name] for name in ("trust_remote_code", "local_files_only") if name in options})
    _require_possible(Path(source))
    try:
        with explained(source):
            loaded: Any = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **options)
    except (
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        ZeroDivisionError,
    ) as error:  # of other models' classes, which look at less
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{source} cannot be loaded ({type(error).__name__}: {reason}); correct its config.json, or get it again."
        ) from error
    model, info = loaded
    for kind, said in (("missing_keys", "lack"), ("mismatched_keys", "have another shape for")):
        for name in sorted(map(str, info.get(kind) or ())):
            raise ValueError(f"The weights in {source} {said} {name:.200}; get them again.")
    return model.eval()


def in_new_process(code: str, *words: str) -> str:
    """What a program prints that knows nothing of this process: offline, in an empty folder, with remote code copied anew.

    Raises:
        ValueError: with the last line of its errors, if it fails.
    """
    with tempfile.TemporaryDirectory() as empty:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": empty}
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=empty, env=environment)
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or ["no reason given"])[-1][:300])
    return done.stdout
