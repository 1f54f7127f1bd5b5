"""Reads models of the public `sparse_pretrain` project, the natural-language ones among them (Hub ids such as jacobcd52/ss_d128_f1): `config.json` with
sections `model_config` and `sparsity_config`, and `pytorch_model.bin` (a state dict) or `model.safetensors`.

Of a model that was trained with bridges there are `sparse_model.bin` and `training_config.yaml` instead; the bridges: `sparse_pretrain_pair.py`.

Facts of the format, where they are not what a name says, from the project's `src/model.py` and `src/config.py`: without flash attention its sinks are made
and never used; AbsTopK keeps at least one entry; its `resid_mid` is our `resid_post_attn`; heads are d_model / d_head; the bias of the logits does not exist.
The `config.json` of bridged models leaves out where AbsTopK acts; `training_config.yaml` says it, and is believed, since it is what the model was trained with
(the project's own pruning code reads `config.json` alone, and so runs another function where AbsTopK was on the residual stream too).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from ..checkpoints.archive import read_archive, require_state_dict
from ..checkpoints.tensors import read_tensors
from ..checkpoints.tokenizers import require_tokenizer_json
from ..configuration_csp import CSPConfig
from ..files import file_sha256, fresh_folder, parse_yaml, read_json, read_text
from ..hub import HUB_ID
from ..training.card import write_card
from ..wiring_csp import NODE_LOCATIONS, location_width
from .openai import complete, loaded_model, refuse_mismatch

logger = logging.get_logger(__name__)

CONFIG_FILE, TRAINED_FILE, BRIDGES_FILE = "config.json", "training_config.yaml", "bridges.bin"
WEIGHTS_FILES = ("pytorch_model.bin", "model.safetensors", "sparse_model.bin")
_LARGEST_CONFIG = 1 << 20  # bytes
_PADDED = 128  # embeddings are often made larger than the tokenizer, up to a multiple of this
_SIZES = ("n_layer", "d_model", "n_ctx", "d_head", "vocab_size")
_FLAGS = {  # and their defaults
    "use_rms_norm": True, "tie_embeddings": False, "use_positional_embeddings": False, "use_bigram_table": True,
    "use_attention_sinks": True, "use_bias": True, "use_flash_attention": True,
}  # fmt: skip
_MODEL = {*_SIZES, *_FLAGS, "d_mlp", "activation", "dropout"}
_SPARSITY = {
    "enable_weight_sparsity", "target_l0_fraction", "sparsity_anneal_start_fraction", "sparsity_anneal_end_fraction", "anneal_type",
    "min_weights_per_neuron", "enable_activation_sparsity", "activation_topk_fraction", "activation_sparsity_locations",
}  # fmt: skip
_LOCATIONS = "attn_in,attn_out,mlp_in,mlp_out,mlp_neuron,attn_v,attn_k,attn_q"
_OURS = {**{name: name for name in NODE_LOCATIONS}, "resid_pre": "resid_pre", "resid_mid": "resid_post_attn"}
_NAMES = (
    (re.compile(r"^_orig_mod\."), ""),
    (re.compile(r"^blocks\.(\d+)\.ln_1\."), r"transformer.h.\1.attn_norm."),
    (re.compile(r"^blocks\.(\d+)\.ln_2\."), r"transformer.h.\1.mlp_norm."),
    (re.compile(r"^blocks\.(\d+)\.attn\.attn_fn\.sink_logit$"), r"transformer.h.\1.attn.sink_bias"),
    (re.compile(r"^blocks\."), "transformer.h."),
    (re.compile(r"^(wte|wpe)\."), r"transformer.\1."),
    (re.compile(r"^ln_f\."), "transformer.final_norm."),
    (re.compile(r"^bigram_table$"), "bigram_table.logit_bias"),
)
_MASK = re.compile(r"^(_orig_mod\.)?blocks\.\d+\.attn\.causal_mask$")


def is_sparse_pretrain(folder: str | Path) -> bool:
    """Whether a folder's config is of this format."""
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        return False
    try:
        found = read_json(path, largest=_LARGEST_CONFIG, fix="download it again")
    except ValueError:
        return False
    return isinstance(found, dict) and "model_config" in found and "sparsity_config" in found


def config_from_sparse_pretrain(found: Any) -> CSPConfig:
    """Our config of a `config.json`, missing keys at the project's defaults.

    Raises:
        ValueError: naming a key that is unknown, missing, or has a value whose function we do not implement.
    """
    model, sparsity = _sections(found)
    for key in _SIZES:
        value = model.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 24:
            raise ValueError(f"{CONFIG_FILE} sets {key}={value!r:.80}; it must be a whole number of at least 1.")
    flags = {key: model.get(key, default) for key, default in _FLAGS.items()}
    wrong = next((key for key, value in flags.items() if not isinstance(value, bool)), None)
    if wrong is not None:
        raise ValueError(f"{CONFIG_FILE} sets {wrong}={flags[wrong]!r:.80}; it must be true or false.")
    if model.get("activation", "gelu") not in ("gelu", "relu"):
        raise ValueError(
            f"{CONFIG_FILE} sets activation={model['activation']!r:.80}, which is not supported (gelu and relu are); refused."
        )
    if model["d_model"] % model["d_head"]:
        raise ValueError(f"{CONFIG_FILE} has d_model {model['d_model']}, which is no multiple of d_head {model['d_head']}.")
    config = CSPConfig(
        vocab_size=model["vocab_size"], block_size=model["n_ctx"], n_layer=model["n_layer"], d_model=model["d_model"], d_head=model["d_head"],
        n_head=model["d_model"] // model["d_head"], d_mlp=model["d_mlp"] if model.get("d_mlp") is not None else 4 * model["d_model"],
        activation_type=model.get("activation", "gelu"), dropout=model.get("dropout", 0.0), bias=flags["use_bias"],
        norm_type="rms_norm" if flags["use_rms_norm"] else "layer_norm", tie_word_embeddings=flags["tie_embeddings"],
        position_embedding_type="added" if flags["use_positional_embeddings"] else "none",
        sink=flags["use_attention_sinks"] and flags["use_flash_attention"], enable_bigram_table=flags["use_bigram_table"],
        afrac=_activation_sparsity(sparsity), provenance={"target_l0_fraction": sparsity.get("target_l0_fraction")},
    )  # fmt: skip
    _refuse_empty(config)
    return config


def read_settings(folder: Path) -> Any:
    """What `config.json` says, and of its two sections what it leaves out and `training_config.yaml` says.

    Raises:
        ValueError: if they contradict each other, naming the setting.
    """
    found = read_json(folder / CONFIG_FILE, largest=_LARGEST_CONFIG, fix="download it again")
    path = folder / TRAINED_FILE
    if not path.is_file() or not isinstance(found, dict):
        return found
    fix = "download it again"
    trained = parse_yaml(read_text(path, largest=_LARGEST_CONFIG, fix=fix), str(path), fix=fix)
    for section, names, known in (
        ("model_config", ("sparse_model", "model"), _MODEL),
        ("sparsity_config", ("sparsity",), _SPARSITY),
    ):
        there = found.get(section)
        more: Any = next((trained[name] for name in names if name in trained), {}) if isinstance(trained, dict) else None
        if not isinstance(more, dict) or not isinstance(there, dict):
            raise ValueError(f"{path} has no settings as sparse_pretrain writes them ({' or '.join(names)}); {fix}.")
        for key in sorted(known & set(more)):
            if there.setdefault(key, more[key]) != more[key] and more[key] is not None and there[key] is not None:
                raise ValueError(
                    f"{path} says {key}={more[key]!r:.80} and {CONFIG_FILE} {there[key]!r:.80}; they are not of one model."
                )
    return found


def tokenizer_name(folder: str | Path) -> str | None:
    """The Hub id of the tokenizer that a model was trained with, if its `config.json` names one."""
    training = read_json(Path(folder) / CONFIG_FILE, largest=_LARGEST_CONFIG, fix="download it again").get("training_config")
    name = training.get("tokenizer_name") if isinstance(training, dict) else None
    return name if isinstance(name, str) and HUB_ID.fullmatch(name) else None


def _sections(found: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    sections = []
    for name, known in (("model_config", _MODEL), ("sparsity_config", _SPARSITY)):
        section = found.get(name) if isinstance(found, dict) else None
        if not isinstance(section, dict):
            raise ValueError(f"{CONFIG_FILE} has no section {name}; it is no config of a sparse_pretrain model.")
        unknown = sorted(set(section) - known)
        if unknown:
            raise ValueError(
                f"{CONFIG_FILE} has the unknown key {unknown[0]!r:.80} in {name}, which may change what the model computes; refused."
            )
        sections.append(section)
    return sections[0], sections[1]


def _activation_sparsity(sparsity: dict[str, Any]) -> dict[str, float]:
    if not sparsity.get("enable_activation_sparsity", True):
        return {}
    fraction, said = sparsity.get("activation_topk_fraction", 0.25), sparsity.get("activation_sparsity_locations", _LOCATIONS)
    if (
        isinstance(fraction, bool)
        or not isinstance(fraction, (int, float))
        or not 0 < fraction <= 1
        or not isinstance(said, str)
    ):
        raise ValueError(
            f"{CONFIG_FILE} sets activation_topk_fraction={fraction!r:.80} at {said!r:.80}; it must be a fraction, at names with commas."
        )
    locations = {}
    for name in said.split(","):  # as the project splits it: a blank belongs to the name, which then is none
        if name in _OURS:
            locations[_OURS[name]] = float(fraction)
    return locations


def _refuse_empty(config: CSPConfig) -> None:
    for location, fraction in config.afrac.items():
        if int(fraction * location_width(config, location)) < 1:
            raise ValueError(f"{CONFIG_FILE} keeps no entry at {location}, where the project keeps one; refused.")


def read_sparse_pretrain(folder: str | Path) -> tuple[CSPConfig, dict[str, torch.Tensor], Path]:
    """Config, weights under our names, and the file that they came from.

    Raises:
        FileNotFoundError, ValueError: one sentence that names what is missing, truncated, foreign or of the wrong shape.
    """
    folder = Path(folder)
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; the source must be a folder with {CONFIG_FILE} and {WEIGHTS_FILES[0]}."
        )
    config = config_from_sparse_pretrain(read_settings(folder))
    file = next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{folder} has neither {' nor '.join(WEIGHTS_FILES)}; download one of them.")
    tensors = _renamed(_weights(file, 16 * config.parameter_count() + (1 << 26)), config)
    refuse_mismatch(config, tensors, file.name, CONFIG_FILE)
    return config, tensors, file


def _weights(path: Path, largest: int) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return read_tensors(path, fix="download it again")[0]
    loaded = read_archive(path, largest=largest)
    require_state_dict(loaded, path)
    return loaded


def _renamed(weights: dict[str, torch.Tensor], config: CSPConfig) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in weights.items():
        if _MASK.match(key):
            continue  # the causal mask of models without flash attention
        for pattern, new in _NAMES:
            key = pattern.sub(new, key)
        if key.endswith("sink_bias") and not config.sink:
            config.provenance["sinks_without_effect"] = True  # they are never used without flash attention
            continue
        if not tensor.is_floating_point():
            raise ValueError(f"{key} has dtype {tensor.dtype}; weights must be floating point.")
        tensors[key] = tensor
    complete(config, tensors, "tie_embeddings is true but lm_head.weight differs from wte.weight; set it to false.")
    return tensors


def convert_sparse_pretrain(
    source: str | Path, dest: str | Path, *, tokenizer: str | Path | None = None, name: str = ""
) -> Path:
    """Turns such a model into a self-contained Hub folder.

    Args:
        source: its folder. name: default: the folder's.
        dest: folder to write; new or empty. It appears only when complete.
        tokenizer: folder with tokenizer.json. These models keep theirs elsewhere (`tokenizer_name`); without one the folder has no tokenizer.
    """
    with fresh_folder(dest) as partial:
        name = name or Path(source).resolve().name
        config, tensors, file = read_sparse_pretrain(source)
        if (Path(source) / BRIDGES_FILE).is_file():
            logger.warning(f"{name} has bridges, which are left out; name its dense model (--dense) to have the bridged pair.")
        config.provenance |= {"source": f"sparse_pretrain/{name}", "source_sha256": file_sha256(file), "source_file": file.name}
        if tokenizer is not None:
            save_tokenizer(Path(tokenizer), config, partial)
        model = loaded_model(config, tensors)
        model.save_pretrained(partial)
        write_card(
            partial,
            model,
            title=f"{name}, converted",
            description=f"The model `{name}` of the sparse_pretrain project, converted without change to its weights.",
        )
    return Path(dest)


def save_tokenizer(folder: Path, config: CSPConfig, dest: Path) -> None:
    """Copies a tokenizer.json tokenizer into a converted folder, padding on the left with a token that it has, whose ids the config then knows.

    Raises:
        FileNotFoundError, ValueError: if there is none, or one of another size than the model's vocabulary.
    """
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(
            f"{folder} has no tokenizer.json; give the folder of the tokenizer that the model was trained with."
        )
    require_tokenizer_json(folder / "tokenizer.json")
    try:
        found = PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:  # of all kinds
        raise ValueError(
            f"{folder} holds no tokenizer that transformers reads ({type(error).__name__}); get it again."
        ) from None
    if not len(found) <= config.vocab_size < len(found) + _PADDED:
        raise ValueError(f"The tokenizer has {len(found)} tokens and the model {config.vocab_size}; give the right one.")
    end = found.eos_token or found.pad_token or found.unk_token
    if end is None:
        raise ValueError(
            f"The tokenizer in {folder} has no special token that could pad; give the one that the model was trained with."
        )
    found.padding_side, found.model_max_length = "left", config.block_size
    found.pad_token, found.eos_token, found.bos_token = found.pad_token or end, found.eos_token or end, found.bos_token or end
    config.bos_token_id, config.eos_token_id, config.pad_token_id = found.bos_token_id, found.eos_token_id, found.pad_token_id
    found.save_pretrained(dest)
