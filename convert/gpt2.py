"""Reads GPT-2-shaped models, pruned ones among them, so that they have circuits too: folders of transformers' GPT2LMHeadModel (config.json with model_type "gpt2",
and model.safetensors, its shards, or pytorch_model.bin), and nanoGPT's checkpoints (`ckpt.pt`).

What makes a weight zero is kept as it is: zeros that SparseGPT or Wanda wrote, and `weight_orig` times `weight_mask` as torch.nn.utils.prune leaves them.
Facts of the formats, from transformers' and nanoGPT's public code: GPT-2's linear maps are stored [inputs, outputs], nanoGPT's [outputs, inputs]; "gelu_new" is
GELU by tanh, nanoGPT's is the exact one; the head is the embedding unless tie_word_embeddings is false; neither has a bias of the logits.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.archive import read_archive, require_state_dict
from ..checkpoints.tensors import read_tensors
from ..configuration_csp import CSPConfig
from ..files import file_sha256, fresh_folder, read_json
from ..training.card import write_card
from .openai import complete, loaded_model, refuse_mismatch
from .sparse_pretrain import save_tokenizer

CONFIG_FILE, NANOGPT_FILE, INDEX_FILE = "config.json", "ckpt.pt", "model.safetensors.index.json"
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
_LARGEST_JSON = 1 << 24  # bytes
_ACTIVATIONS = {
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu": "gelu", "relu": "relu",
}  # fmt: skip
# Settings that change the function unless they have this value.
_NEUTRAL = {
    "layer_norm_epsilon": 1e-5, "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False,
    "quantization_config": None,
}  # fmt: skip
_DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
# What models of other kinds have that ours has no place for.
_OTHERS = {
    "gpt_neox": "rotary positions, and attention and MLP side by side", "gptj": "rotary positions, and attention and MLP side by side",
    "gpt_neo": "attention within a window, and without a scale", "llama": "rotary positions and a gated MLP", "qwen2": "rotary positions and a gated MLP",
    "mistral": "rotary positions and a gated MLP", "gemma2": "rotary positions and a gated MLP", "opt": "positions that begin at 2", "bloom": "positions by ALiBi",
}  # fmt: skip
_NAMES = (
    (re.compile(r"^(?=(h|wte|wpe|ln_f)\.)"), "transformer."),  # of GPT2Model, without a head
    (re.compile(r"\.ln_1\."), ".attn_norm."),
    (re.compile(r"\.ln_2\."), ".mlp_norm."),
    (re.compile(r"^transformer\.ln_f\."), "transformer.final_norm."),
)
_MASK = re.compile(r"(^|\.)h\.\d+\.attn\.(bias|masked_bias)$")
_MATRIX = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")


def is_gpt2(folder: str | Path) -> bool:
    """Whether a folder holds a model of transformers that is none of ours, or a checkpoint of nanoGPT."""
    path = Path(folder)
    if (path / NANOGPT_FILE).is_file():
        return True
    try:
        found = read_json(path / CONFIG_FILE, largest=_LARGEST_JSON, fix="download it again")
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and isinstance(found.get("model_type"), str) and found["model_type"] != "csp"


def config_from_gpt2(found: Any) -> CSPConfig:
    """Our config of a GPT-2's `config.json`, missing keys at transformers' defaults.

    Raises:
        ValueError: naming a setting whose function we do not implement, or what another kind of model has that ours has no place for.
    """
    kind = found.get("model_type") if isinstance(found, dict) else None
    if kind != "gpt2":
        shown = repr(kind).strip("'\"")
        lacks = _OTHERS.get(kind, "nothing that is known to fit") if isinstance(kind, str) else "no model_type"
        raise ValueError(
            f"{CONFIG_FILE} is of a {shown:.40} model, which has {lacks}; GPT-2-shaped models are read (model_type gpt2), so it is refused."
        )
    for key, neutral in _NEUTRAL.items():
        if found.get(key, neutral) != neutral:
            raise ValueError(
                f"{CONFIG_FILE} sets {key}={found[key]!r:.80}, which is not supported (only {neutral!r} is); refused."
            )
    activation = found.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise ValueError(
            f"{CONFIG_FILE} sets activation_function={activation!r:.80}, which is not supported ({', '.join(_ACTIVATIONS)} are); refused."
        )
    sizes = _sizes({
        key: found.get(key, default)
        for key, default in (("n_layer", 12), ("n_head", 12), ("n_embd", 768), ("n_positions", 1024), ("vocab_size", 50257))
    })  # fmt: skip
    inner = found.get("n_inner")
    tied = found.get("tie_word_embeddings", True)
    if not isinstance(tied, bool):
        raise ValueError(f"{CONFIG_FILE} sets tie_word_embeddings={tied!r:.80}; it must be true or false.")
    dropouts = {key: found.get(key, 0.1) for key in _DROPOUTS}
    alike = len(set(map(str, dropouts.values()))) == 1
    return CSPConfig(
        **sizes, d_mlp=4 * sizes["d_model"] if inner is None else inner, activation_type=_ACTIVATIONS[activation], norm_type="layer_norm",
        position_embedding_type="added", tie_word_embeddings=tied, dropout=dropouts["resid_pdrop"] if alike else 0.0,
        provenance={} if alike else {"dropouts": dropouts},
    )  # fmt: skip


def config_from_nanogpt(args: Any) -> CSPConfig:
    """Our config of the `model_args` in a nanoGPT checkpoint.

    Raises:
        ValueError: naming what is missing or unknown.
    """
    known = {"n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout"}
    if not isinstance(args, dict) or not set(args) <= known:
        raise ValueError(f"{NANOGPT_FILE} has no model_args as nanoGPT writes them ({', '.join(sorted(known))}); refused.")
    bias = args.get("bias", False)
    if not isinstance(bias, bool):
        raise ValueError(f"{NANOGPT_FILE} sets bias={bias!r:.80}; it must be True or False.")
    sizes = _sizes(
        {"n_positions" if key == "block_size" else key: args.get(key) for key in sorted(known - {"bias", "dropout"})}
    )
    return CSPConfig(
        **sizes, d_mlp=4 * sizes["d_model"], activation_type="gelu", norm_type="layer_norm", bias=bias, ln_bias=bias, position_embedding_type="added",
        tie_word_embeddings=True, dropout=args.get("dropout", 0.0),
    )  # fmt: skip


def _sizes(found: dict[str, Any]) -> dict[str, int]:
    for key, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 24:
            raise ValueError(f"The model's {key} is {value!r:.80}; it must be a whole number of at least 1.")
    if found["n_embd"] % found["n_head"]:
        raise ValueError(f"The model's n_embd {found['n_embd']} is no multiple of its n_head {found['n_head']}.")
    return {
        "n_layer": found["n_layer"], "n_head": found["n_head"], "d_model": found["n_embd"], "d_head": found["n_embd"] // found["n_head"],
        "block_size": found["n_positions"], "vocab_size": found["vocab_size"],
    }  # fmt: skip


def read_gpt2(folder: str | Path) -> tuple[CSPConfig, dict[str, torch.Tensor], Path]:
    """Config, weights under our names, and the file that they came from (of shards: their index).

    Raises:
        FileNotFoundError, ValueError: one sentence that names what is missing, truncated, foreign or of the wrong shape.
    """
    folder = Path(folder)
    if (file := folder / NANOGPT_FILE).is_file():
        loaded = read_archive(file)
        if not isinstance(loaded, dict) or not isinstance(loaded.get("model"), dict):
            raise ValueError(f"{file} is no checkpoint of nanoGPT: a dict with model and model_args was expected.")
        config, weights, transposed = config_from_nanogpt(loaded.get("model_args")), loaded["model"], False
    else:
        if not (folder / CONFIG_FILE).is_file():
            raise FileNotFoundError(
                f"{folder} has neither {CONFIG_FILE} nor {NANOGPT_FILE}; give the folder of a GPT-2-shaped model."
            )
        config = config_from_gpt2(read_json(folder / CONFIG_FILE, largest=_LARGEST_JSON, fix="download it again"))
        file, weights = _weights(folder, 16 * config.parameter_count() + (1 << 26))
        transposed = True
    tensors = _renamed(weights, config, file.name, transposed)
    refuse_mismatch(config, tensors, file.name, NANOGPT_FILE if file.name == NANOGPT_FILE else CONFIG_FILE)
    return config, tensors, file


def _weights(folder: Path, largest: int) -> tuple[Path, dict[str, Any]]:
    if (index := folder / INDEX_FILE).is_file():
        found = read_json(index, largest=_LARGEST_JSON, fix="download it again")
        places = found.get("weight_map") if isinstance(found, dict) else None
        names = (
            sorted(set(places.values()))
            if isinstance(places, dict) and all(isinstance(each, str) for each in places.values())
            else []
        )
        if not names or any(re.fullmatch(r"[\w.-]+\.safetensors", name) is None for name in names):
            raise ValueError(f"{index} names no shards (files of safetensors in the same folder); download it again.")
        shards = [read_tensors(folder / name, fix="download it again")[0] for name in names]
        return index, {key: tensor for shard in shards for key, tensor in shard.items()}
    file = next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{folder} has neither {' nor '.join(WEIGHTS_FILES)}; download one of them.")
    if file.suffix == ".safetensors":
        return file, read_tensors(file, fix="download it again")[0]
    return file, read_archive(file, largest=largest)


def _renamed(weights: dict[str, Any], config: CSPConfig, file: str, transposed: bool) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in _unmasked(weights, file).items():
        key = key.removeprefix("_orig_mod.")
        if _MASK.search(key) and tensor.dim() != 1:
            continue  # the causal mask of older versions
        if not tensor.is_floating_point():
            raise ValueError(
                f"{file} holds {key!r:.80} with dtype {tensor.dtype}; weights must be floating point (not quantised ones)."
            )
        for pattern, new in _NAMES:
            key = pattern.sub(new, key)
        tensors[key] = tensor.T.contiguous() if transposed and _MATRIX.search(key) and tensor.dim() == 2 else tensor
    complete(
        config, tensors, f"{file}: lm_head.weight differs from the embedding, which is said to be the head too; set tie_word_embeddings to false."
    )  # fmt: skip
    return tensors


def _unmasked(weights: dict[str, Any], file: str) -> dict[str, torch.Tensor]:
    """`X_orig` times `X_mask`, as torch.nn.utils.prune leaves them, as X."""
    require_state_dict(weights, file)
    found = {}
    for key, tensor in weights.items():
        if key.endswith("_orig"):
            mask = weights.get(key.removesuffix("_orig") + "_mask")
            if mask is None or mask.shape != tensor.shape or not bool(((mask == 0) | (mask == 1)).all()):
                raise ValueError(
                    f"{file} holds {key!r:.80} without its mask of zeros and ones; make the pruning permanent (torch.nn.utils.prune.remove)."
                )
            found[key.removesuffix("_orig")] = tensor * mask.to(tensor.dtype)
        elif not (key.endswith("_mask") and key.removesuffix("_mask") + "_orig" in weights):
            found[key] = tensor
    return found


def convert_gpt2(source: str | Path, dest: str | Path, *, tokenizer: str | Path | None = None, name: str = "") -> Path:
    """Turns a GPT-2-shaped model into a self-contained Hub folder of ours, with the same logits.

    Args:
        source: its folder. name: default: the folder's.
        dest: folder to write; new or empty. It appears only when complete.
        tokenizer: folder with tokenizer.json; default: the source's, if it has one.
    """
    with fresh_folder(dest) as partial:
        config, tensors, file = read_gpt2(source)
        name, there = name or Path(source).resolve().name, Path(source if tokenizer is None else tokenizer)
        zeros = sum(int((each == 0).sum()) for each in tensors.values() if each.dim() == 2)
        config.provenance |= {
            "source": f"{'nanoGPT' if file.name == NANOGPT_FILE else 'GPT-2'}/{name}",
            "source_sha256": file_sha256(file),
            "source_file": file.name,
        }
        if tokenizer is not None or (there / "tokenizer.json").is_file():
            save_tokenizer(there, config, partial)
        model = loaded_model(config, tensors)
        model.save_pretrained(partial)
        write_card(partial, model, title=f"{name}, converted", description=(
            f"The GPT-2-shaped model `{name}`, converted without change to its weights, {zeros:,} of whose matrices' entries are zero."
        ))  # fmt: skip
    return Path(dest)
