"""Reads checkpoints of OpenAI's `circuit_sparsity` release: `beeg_config.json` + `final_model.pt` become a Hub folder.

The release's loader never refuses a key that it does not know. This one refuses by name whatever would change the function,
and writes nothing until everything has been checked.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from ..checkpoints.archive import read_archive, require_state_dict
from ..configuration_csp import CSPConfig
from ..files import file_sha256, fresh_folder, read_json
from ..modeling_csp import CSPForCausalLM
from ..tokenization_csp import CSPTokenizer
from ..training.card import write_card
from .download import download, file_url, folder_name, is_url, kept_beside

logger = logging.get_logger(__name__)

STORE = "https://openaipublic.blob.core.windows.net/circuit-sparsity"  # CSP_OPENAI_STORE names a mirror
CONFIG_FILE = "beeg_config.json"
WEIGHTS_FILE = "final_model.pt"

# Keys that do not change what the model computes, or that only say how it was trained (the latter are kept as provenance).
_WITHOUT_EFFECT = {
    "debug_exact_topk", "sparse_matmul_impl", "grad_checkpointing", "debug_nans", "enable_sparse_kernels", "flash",
}  # fmt: skip
_PROVENANCE = ("pfrac", "expansion_factor", "expansion_factor_mlp")
# Keys that change the function unless they have this value.
_NEUTRAL: dict[str, Any] = {
    "n_embd": None, "use_tied_aux_matrix": False, "bigram_table_rank": None, "unembed_rank": None, "afrac_ste": False,
    "afrac_ste_only_non_neurons": False, "afrac_approx": False, "rtopk": False, "mup": False, "enable_fp8_linear": False,
    "scale_invariance": False, "ignore_dw_grad": False, "mup_width_multiplier": None,
}  # fmt: skip
_READ = {
    "block_size", "vocab_size", "n_layer", "n_head", "d_head", "d_model", "d_mlp", "n_mlp", "dropout", "bias", "ln_bias",
    "rms_norm", "residual_activation_type", "activation_type", "tied_unembed", "enable_bigram_table",
    "learnable_bigram_table", "d_pos_emb", "dropout_cat_pos_emb", "sinusoidal_cat_pos_emb", "sink", "afrac",
    "afrac_loctypes", "tokenizer_name",
}  # fmt: skip
_DEFAULT_LOCATIONS = "attn_in,attn_out,mlp_in,mlp_out"


def config_from_openai(beeg: dict[str, Any]) -> CSPConfig:
    """The `CSPConfig` of a `beeg_config.json`, its missing keys at the release's defaults.

    Raises:
        ValueError: naming a key that is unknown, missing, or has a value whose function we do not implement.
    """
    _refuse_unknown(beeg)
    _refuse_mistyped(beeg)
    d_mlp = next((beeg[key] for key in ("d_mlp", "n_mlp") if beeg.get(key) is not None), 4 * beeg["d_model"])
    d_head = beeg["d_head"] if beeg.get("d_head") is not None else beeg["d_model"] // beeg["n_head"]
    bigram = beeg.get("enable_bigram_table", False)
    concatenated = beeg.get("d_pos_emb") is not None
    if beeg.get("dropout_cat_pos_emb") and beeg.get("dropout"):
        raise ValueError(
            "dropout_cat_pos_emb=true with dropout > 0 is not supported; set dropout to 0 to convert for inference."
        )
    return CSPConfig(
        vocab_size=beeg["vocab_size"],
        block_size=beeg["block_size"],
        n_layer=beeg["n_layer"],
        n_head=beeg["n_head"],
        d_head=d_head,
        d_model=beeg["d_model"],
        d_mlp=d_mlp,
        activation_type=beeg.get("activation_type", "gelu"),
        residual_activation_type=beeg.get("residual_activation_type", "identity"),
        norm_type="rms_norm" if beeg.get("rms_norm", False) else "layer_norm",
        ln_bias=beeg.get("ln_bias", True),
        bias=beeg.get("bias", True),
        dropout=beeg.get("dropout", 0.0),
        position_embedding_type="concatenated" if concatenated else "added",
        d_pos_emb=beeg.get("d_pos_emb"),
        sinusoidal_positions=concatenated and beeg.get("sinusoidal_cat_pos_emb", False),
        # The release builds no sink without flash attention, whatever the config says.
        sink=beeg.get("sink", False) and beeg.get("flash", False),
        afrac=_activation_sparsity(beeg),
        enable_bigram_table=bigram,
        learnable_bigram_table=beeg.get("learnable_bigram_table", False) if bigram else True,
        bigram_padding_idx=beeg["vocab_size"] - 1 if bigram else None,  # the release looks it up with padding_idx=-1
        tie_word_embeddings=beeg.get("tied_unembed", True),
        tokenizer_name=beeg.get("tokenizer_name"),
        provenance={key: beeg[key] for key in _PROVENANCE if beeg.get(key) is not None},
    )


def _refuse_unknown(beeg: dict[str, Any]) -> None:
    if not isinstance(beeg, dict):
        raise ValueError(f"{CONFIG_FILE} must hold a JSON object, not {type(beeg).__name__}.")
    known = _READ | _WITHOUT_EFFECT | set(_PROVENANCE) | set(_NEUTRAL)
    unknown = sorted(set(beeg) - known)
    if unknown:
        raise ValueError(
            f"{CONFIG_FILE} has the unknown key {unknown[0]!r:.80}, which may change what the model computes; refused."
        )
    for key, neutral in _NEUTRAL.items():
        if key in beeg and beeg[key] != neutral and not (neutral is False and beeg[key] is None):
            raise ValueError(
                f"{CONFIG_FILE} sets {key}={beeg[key]!r:.80}, which is not supported (only {neutral!r:.80} is); refused."
            )


_SIZES = ("block_size", "vocab_size", "n_layer", "n_head", "d_model")
_OPTIONAL_SIZES = ("d_head", "d_mlp", "n_mlp", "d_pos_emb")
_FLAGS = (
    "bias", "ln_bias", "rms_norm", "tied_unembed", "enable_bigram_table", "learnable_bigram_table", "dropout_cat_pos_emb",
    "sinusoidal_cat_pos_emb", "sink", "flash",
)  # fmt: skip


def _refuse_mistyped(beeg: dict[str, Any]) -> None:
    missing = [key for key in _SIZES if beeg.get(key) is None]
    if missing:
        raise ValueError(f"{CONFIG_FILE} lacks {', '.join(missing)}; it is no config of a circuit_sparsity model.")
    for key in (*_SIZES, *_OPTIONAL_SIZES):
        value = beeg.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{CONFIG_FILE} sets {key}={value!r:.80}; it must be a whole number of at least 1.")
    for key in _FLAGS:
        if not isinstance(beeg.get(key, False), bool):
            raise ValueError(f"{CONFIG_FILE} sets {key}={beeg[key]!r:.80}; it must be true or false.")
    if not isinstance(beeg.get("afrac_loctypes", ""), str):
        raise ValueError(
            f"{CONFIG_FILE} sets afrac_loctypes={beeg['afrac_loctypes']!r:.80}; it must be a string of names with commas."
        )


def _activation_sparsity(beeg: dict[str, Any]) -> dict[str, float]:
    if beeg.get("afrac") is None:
        return {}
    locations = beeg.get("afrac_loctypes", _DEFAULT_LOCATIONS)
    return {location.strip(): beeg["afrac"] for location in locations.split(",") if location.strip()}


# --------------------------------------------------------------------------------------------------------- the weights


_RENAMED = (
    (re.compile(r"\.ln_1\."), ".attn_norm."),
    (re.compile(r"\.ln_p1\."), ".attn_pos_norm."),
    (re.compile(r"\.ln_2\."), ".mlp_norm."),
    (re.compile(r"\.ln_p2\."), ".mlp_pos_norm."),
    (re.compile(r"\.attn_imp\.sink_logit$"), ".sink_bias"),
    (re.compile(r"^transformer\.ln_f\."), "transformer.final_norm."),
    (re.compile(r"^bigram_table$"), "bigram_table.logit_bias"),
)
_LARGEST_CONFIG = 1 << 20  # bytes
_CAUSAL_BUFFER = re.compile(r"^transformer\.h\.\d+\.attn\.bias$")


def read_openai_checkpoint(
    source: str | Path, *, weights_file: str = WEIGHTS_FILE, drop_zero_positions: bool = True
) -> tuple[CSPConfig, dict[str, torch.Tensor]]:
    """Config and weights, under our names and checked against each other, of a local folder in OpenAI's layout.

    An added position table that is exactly zero (most of the paper's models) is left out unless `drop_zero_positions=False`: the
    config then says "none", and provenance["zero_positions_dropped"] that it was so. Weights keep their dtype.

    Raises:
        FileNotFoundError, ValueError: one sentence that names what is missing, truncated, foreign or of the wrong shape.
    """
    source = Path(source)
    config = _read_config(source)
    weights = _load_tensors(source / weights_file)
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in weights.items():
        if _CAUSAL_BUFFER.match(key) and tensor.dim() == 4:
            continue  # the causal mask of models built without flash attention, not a bias
        for pattern, new in _RENAMED:
            key = pattern.sub(new, key)
        tensors[key] = tensor
    wpe = tensors.get("transformer.wpe.weight")
    if drop_zero_positions and config.position_embedding_type == "added" and wpe is not None and not wpe.any():
        del tensors["transformer.wpe.weight"]
        config.position_embedding_type = "none"
        config.provenance["zero_positions_dropped"] = True
    complete(config, tensors, "tied_unembed is true but lm_head.weight differs from transformer.wte.weight; set it to false.")
    refuse_mismatch(config, tensors)
    return config, tensors


def _read_config(source: Path) -> CSPConfig:
    path = source / CONFIG_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; the source must be a folder with {CONFIG_FILE} and {WEIGHTS_FILE}.")
    return config_from_openai(read_json(path, largest=_LARGEST_CONFIG, fix="download it again"))


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; the source must be a folder with {CONFIG_FILE} and {WEIGHTS_FILE}.")
    loaded = read_archive(path)
    require_state_dict(loaded, path)
    bad = [key for key, value in loaded.items() if not value.is_floating_point()]
    if bad:
        raise ValueError(f"{path} holds {bad[0]!r:.80} with dtype {loaded[bad[0]].dtype}; weights must be floating point.")
    return loaded


def _largest_weights(config: CSPConfig) -> int:
    """Bytes that weights of this shape can take: as float64, the head twice, with a causal mask in every layer."""
    return 16 * config.parameter_count() + 8 * config.n_layer * min(config.block_size, 1 << 16) ** 2 + (1 << 26)


def complete(config: CSPConfig, tensors: dict[str, torch.Tensor], fault: str) -> None:
    """Fills in what a format may leave out, and drops the second copy of tied weights; fault: what is said if the copies differ.

    Raises:
        ValueError: if they do.
    """
    wte = tensors.get("transformer.wte.weight")
    if wte is not None:
        tensors.setdefault("final_logits_bias", torch.zeros(config.vocab_size, dtype=wte.dtype))
    if config.tie_word_embeddings:
        head = tensors.pop("lm_head.weight", None)
        if head is not None and wte is not None and not torch.equal(head, wte):
            raise ValueError(fault)


def refuse_mismatch(
    config: CSPConfig, tensors: dict[str, torch.Tensor], weights_file: str = WEIGHTS_FILE, config_file: str = CONFIG_FILE
) -> None:
    """Raises ValueError if weights, under our names, are not exactly those of a model of this config; the files are named in what it says."""
    layers = {int(match[1]) for name in tensors if (match := re.match(r"transformer\.h\.(\d{1,9})\.", name))}
    if layers and len(layers) < config.n_layer:  # before that many are built
        raise ValueError(f"{weights_file} has {len(layers)} layers, but {config_file} asks for {config.n_layer}.")
    with torch.device("meta"):
        expected = {name: tuple(p.shape) for name, p in CSPForCausalLM(config).named_parameters()}
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight", None)
    for name in sorted(expected.keys() - tensors.keys()):
        raise ValueError(f"{weights_file} lacks {name} (in our names), which {config_file} asks for.")
    for name in sorted(tensors.keys() - expected.keys()):
        raise ValueError(f"{weights_file} holds {name}, which the model of {config_file} does not have; refused.")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"{name} has shape {list(tensors[name].shape)}, but {config_file} asks for {list(shape)}.")


# ----------------------------------------------------------------------------------------------------------- conversion


def convert_openai_checkpoint(source: str | Path, dest: str | Path, *, tokenizer: str | Path | None = None) -> Path:
    """Turns a released checkpoint into a self-contained Hub folder.

    Args:
        source: folder, or http(s) URL of one, with `beeg_config.json` and `final_model.pt`; or `openai:NAME`, the model of that name in the public store. What
            broke off while it was downloaded is kept beside dest, and a second call goes on with it.
        dest: folder to write; it must not exist yet or be empty. It appears only when complete.
        tokenizer: folder with `vocab.bpe` and `encoder.json` or `tokenizer.json`; default: those beside a local checkpoint, if any.
            Without one the folder has no tokenizer, which is said in a warning.

    Returns:
        dest: config.json, weights as safetensors, the code files, tokenizer files if there were any, README.md.
    """
    address, scratch = store_address(str(source), "models"), kept_beside(dest)
    with fresh_folder(dest) as partial:
        if is_url(address):
            urls = {file: file_url(address, file) for file in (CONFIG_FILE, WEIGHTS_FILE)}
            name, folder = folder_name(address), scratch
            scratch.mkdir(exist_ok=True)
            download(urls[CONFIG_FILE], folder / CONFIG_FILE, _LARGEST_CONFIG)
            largest = _largest_weights(_read_config(folder))  # which is known before the large file is asked for
            download(urls[WEIGHTS_FILE], folder / WEIGHTS_FILE, largest)
        else:
            name, folder = Path(source).resolve().name, Path(source)
        config, tensors = read_openai_checkpoint(folder)
        vocabulary = _find_tokenizer(folder if tokenizer is None else Path(tokenizer), required=tokenizer is not None)
        config.provenance.update(
            source=f"circuit_sparsity/{name}", source_sha256=file_sha256(folder / WEIGHTS_FILE), source_file=WEIGHTS_FILE
        )
        _write(config, tensors, vocabulary, name, partial)
    shutil.rmtree(scratch, ignore_errors=True)
    return Path(dest)


def store_address(source: str, folder: str) -> str:
    """The address in the public store that `openai:NAME` stands for, NAME's parts being plain; another source as it is.

    Raises:
        ValueError: if it is no name.
    """
    if not source.startswith("openai:"):
        return source
    name = source.removeprefix("openai:")
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name) is None or ".." in name:
        raise ValueError(f"{source!r:.80} names nothing in OpenAI's store; give openai:NAME, such as openai:csp_yolo2.")
    return f"{os.environ.get('CSP_OPENAI_STORE', STORE).rstrip('/')}/{folder}/{name}"


def _write(config: CSPConfig, tensors: dict, vocabulary: CSPTokenizer | None, name: str, folder: Path) -> None:
    if vocabulary is not None:
        if len(vocabulary) != config.vocab_size:
            raise ValueError(
                f"The tokenizer has {len(vocabulary)} tokens and the model {config.vocab_size}; give the right one."
            )
        config.bos_token_id = config.eos_token_id = config.pad_token_id = vocabulary.eos_token_id
        vocabulary.model_max_length = config.block_size
        vocabulary.save_pretrained(folder)
    else:
        logger.warning(
            f"No tokenizer beside {name}: the converted folder has none; convert with tokenizer=FOLDER (--tokenizer) to add it."
        )
    model = loaded_model(config, tensors)
    model.save_pretrained(folder)
    write_card(folder, model, title=f"{name}, converted", description=(
        f"The weight-sparse transformer `{name}` of OpenAI's circuit_sparsity release (Gao et al. 2025, arXiv 2511.13653), "
        f"converted without change to its weights."
    ))  # fmt: skip


def loaded_model(config: CSPConfig, tensors: dict[str, torch.Tensor]) -> CSPForCausalLM:
    """A model of this config with these weights, in their dtype.

    Raises:
        ValueError: if they do not fit.
    """
    config.dtype = tensors["transformer.wte.weight"].dtype
    with torch.device("meta"):  # the tensors themselves become its parameters: no second copy
        model = CSPForCausalLM(config)
    tensors = {name: tensor.to(config.dtype) for name, tensor in tensors.items()}  # type: ignore[arg-type]
    missing, unexpected = model.load_state_dict(tensors, strict=False, assign=True)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"Weights do not fit the model: missing {missing}, unexpected {unexpected}.")
    model.tie_weights()
    return model


def _find_tokenizer(folder: Path, *, required: bool) -> CSPTokenizer | None:
    if not required and not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.bpe")):
        return None
    return CSPTokenizer.from_folder(folder)
