"""Whether a checkpoint and a config are of one model: looked at before anything of their size is made, and before a save replaces another.

transformers only warns of weights that are missing, and makes them at random; here they are refused by name.
"""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from transformers import GenerationConfig, PretrainedConfig

from ..configuration_csp import CSPConfig
from ..files import read_object
from ..sparse_file_csp import NOT_ONE, NotOneModel, fitting, require_layers

INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"[\w.-]{1,200}\.safetensors")
_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
# What decides what a model computes and is not seen in the shapes of its weights, or not alone: a config.json beside weights must have it.
DECISIVE = (
    "n_layer", "n_head", "d_head", "d_model", "activation_type", "residual_activation_type", "norm_type", "position_embedding_type",
    "sinusoidal_positions", "sink", "afrac", "enable_bigram_table",
)  # fmt: skip
# Options of from_pretrained that make other weights of a checkpoint's.
_TRANSLATED = ("quantization_config", "gguf_file", "key_mapping", "variant", "state_dict")


class Described(NamedTuple):
    """A tensor of a file that was not read."""

    shape: tuple[int, ...]
    dtype: torch.dtype | str


# ------------------------------------------------------------------------------------------------------------- loading


def skeleton(cls: Any, config: Any, args: Any = ()) -> Any:
    with torch.device("meta"):
        return cls(config, *args)


def require_ordinary(cls: Any, path: Any, args: Any, options: dict[str, Any]) -> None:
    """Raises if the ordinary checkpoint in a local folder is damaged or does not fit its config, by its headers alone.

    What is not there, or is of a kind that is not looked at here, is transformers' to explain.
    """
    if path is None or not Path(path).is_dir():
        return
    folder = Path(path) / (options.get("subfolder") or "")
    require_settings(folder)
    if any(options.get(name) is not None for name in _TRANSLATED) or options.get("use_safetensors") is False:
        return
    files = weight_files(folder)
    if files is None or (folder / "adapter_config.json").is_file():
        return
    found = headers(files)
    config = options.get("config")
    if not isinstance(config, PretrainedConfig):
        own = {k: v for k, v in options.items() if k not in ("config", "dtype", "torch_dtype", "output_loading_info")}
        config, _ = cls.config_class.from_pretrained(config or path, return_unused_kwargs=True, **own)
    require_generation(folder, config)
    if getattr(config, "quantization_config", None) is not None:
        return
    try:
        require_layers(config, found)
        if options.get("attn_implementation") is not None:
            config = copy.deepcopy(config)
            config._attn_implementation = options["attn_implementation"]
        model = skeleton(cls, config, args)
    except TypeError:  # a class of one's own, which is made in another way
        return
    fitting(model, found, any_shape=bool(options.get("ignore_mismatched_sizes")))


def weight_files(folder: Path) -> list[Path] | None:
    """The safetensors files of an ordinary checkpoint, in the order in which transformers looks for them."""
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    if not (folder / INDEX).exists():
        return None
    index = read_object(folder / INDEX)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not isinstance(index.get("metadata", {}), dict):
        raise ValueError(f"{folder / INDEX} lists no weights; get it again.")
    for name in weight_map.values():
        if not isinstance(name, str) or not _SHARD.fullmatch(name):
            raise ValueError(f"{folder / INDEX} lists {name!r:.60}, which is no file of a checkpoint; get it again.")
    files = [folder / name for name in sorted(set(weight_map.values()))]
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; the checkpoint is incomplete, get it again.")
        for name in headers([path]):
            if weight_map.get(name) != path.name:
                raise ValueError(f"{path} holds {name:.200}, which its index does not list there; get the checkpoint again.")
    lost = sorted(set(weight_map) - set(headers(files)))
    if lost:
        raise ValueError(f"{folder / INDEX} lists {lost[0]:.200}, which no file holds; get the checkpoint again.")
    return files


def headers(files: list[Path]) -> dict[str, Described]:
    """Names, shapes and types in safetensors files.

    Raises:
        ValueError: naming the file that is damaged, or holds a name again.
    """
    found: dict[str, Described] = {}
    for path in files:
        if not path.is_file():
            raise OSError(f"{path} is no file; get it again.")
        try:
            with safe_open(str(path), framework="pt") as opened:
                names = list(opened.keys())
                own = {name: opened.get_slice(name) for name in names}
                described = {
                    n: Described(tuple(s.get_shape()), _TYPES.get(s.get_dtype(), s.get_dtype())) for n, s in own.items()
                }
        except _DAMAGE as error:
            raise ValueError(f"{path} is damaged or truncated ({first_line(error)}); get it again.") from None
        again = sorted(set(described) & set(found))
        if again:
            raise ValueError(f"{path} holds {again[0]:.200} again, which another file holds; get the checkpoint again.")
        found |= described
    return found


_CONFIG_TYPES: dict[str, Any] = {
    "model_type": str, "architectures": list, "auto_map": dict, "dtype": str, "torch_dtype": str, "transformers_version": str, "sparse_weights": bool,
}  # fmt: skip


def require_settings(folder: Path) -> None:
    """Raises if a folder's config.json leaves out what decides what a model computes: its defaults would be another model."""
    path = folder / "config.json"
    if not path.exists():
        return
    found = read_object(path)
    for name, kind in _CONFIG_TYPES.items():
        if not isinstance(found.get(name), (kind, type(None))):
            raise ValueError(f"{path} sets {name} to {found[name]!r:.40}, which cannot be used; get the file again.")
    if not all(isinstance(name, str) for name in found.get("architectures") or ()):
        raise ValueError(f"{path} names architectures that are no names; get the file again.")
    for name in ("dtype", "torch_dtype"):
        kind = getattr(torch, found.get(name) or "float32", None)
        if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
            raise ValueError(f"{path} sets {name} to {found[name]!r:.40}, which weights cannot be; get the file again.")
    aliases: dict[str, str] = {}
    if found.get("model_type") == "csp":
        aliases = {own: alias for alias, own in CSPConfig.attribute_map.items()}
    for name in DECISIVE if aliases else ():
        if name not in found and aliases.get(name) not in found:
            raise ValueError(
                f"{path} lacks {name}, which decides what the model computes; write it there, or get the file again."
            )


_TEXT, _FLAG = ("cache_implementation", "transformers_version", "watermarking_config"), ("do_sample", "use_cache")
_WHOLE = (
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "num_beams", "num_return_sequences", "no_repeat_ngram_size", "top_k",
    "num_beam_groups", "encoder_no_repeat_ngram_size", "prompt_lookup_num_tokens", "num_assistant_tokens",
)  # fmt: skip
_NUMBER = (
    "temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "length_penalty", "max_time", "epsilon_cutoff", "eta_cutoff",
    "encoder_repetition_penalty", "diversity_penalty", "guidance_scale", "penalty_alpha",
)  # fmt: skip


def require_generation(folder: Path, config: Any) -> None:
    """Raises if a folder's generation_config.json, if it has one, cannot be used with this model."""
    path = folder / "generation_config.json"
    if not path.exists():
        return
    found = read_object(path)
    size = config.vocab_size if config.model_type == "csp" else 1 << 31  # others have defaults that their vocabulary lacks
    for name, value in found.items():
        wrong = value is not None and (
            (name in _WHOLE and not (_is_whole(value) and 0 <= value < 1 << 31))
            or (name in _NUMBER and (isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e9))
            or (name in _FLAG and not isinstance(value, bool))
            or (name in _TEXT[:2] and not isinstance(value, str))
            or (name in ("bos_token_id", "eos_token_id", "pad_token_id") and not _are_ids(value, size))
        )
        if wrong:
            raise ValueError(
                f"{path} sets {name:.40} to {value!r:.40}, which cannot be used; correct it, or get the file again."
            )
    try:
        GenerationConfig(**found)
    except Exception as error:  # each of its dozens of settings is used in its own way
        raise ValueError(f"{path} cannot be used ({first_line(error)}); correct it, or get the file again.") from None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_ids(value: Any, size: int) -> bool:
    ids = value if isinstance(value, list) else [value]
    return bool(ids) and all(_is_whole(one) and 0 <= one < size for one in ids)


_DAMAGE = (SafetensorError, OSError, ValueError, RuntimeError, OverflowError, MemoryError, pickle.UnpicklingError, EOFError)


@contextlib.contextmanager
def explained(path: Any) -> Iterator[None]:
    """Makes one sentence, a ValueError or OSError, of what transformers, torch and safetensors say of a checkpoint that they cannot load.

    Errors of the code that calls stay what they are.
    """
    try:
        yield
    except NotOneModel as error:
        raise ValueError(f"{path}: {error}") from None
    except (SafetensorError, pickle.UnpicklingError, EOFError, RecursionError, json.JSONDecodeError, UnicodeError) as error:
        raise ValueError(f"{path} holds damaged or truncated weights ({first_line(error)}); get them again.") from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error) or "not enough memory" in str(error):
            raise OSError(f"The weights in {path} need more memory than there is; load them on a larger machine.") from error
        if "size mismatch" in str(error) or "mismatched" in str(error) or "ignore_mismatched_sizes" in str(error):
            raise ValueError(
                f"{path} holds weights of other shapes than its config asks for; {NOT_ONE} (ignore_mismatched_sizes=True makes those anew)."
            ) from error
        raise


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")[:120] or type(error).__name__
