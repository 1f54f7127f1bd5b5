"""Configuration of weight-sparse GPT-2-style transformers (Gao et al. 2025, arXiv 2511.13653).

Every setting of the architecture lives here and is checked here, once, when the config is built. Names follow the
paper's release (`d_model`, `n_head`, `block_size`, ...); transformers' own names (`hidden_size`, ...) work everywhere as
aliases, as constructor arguments too.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from .wiring_csp import LOCATIONS, location_width

NORM_TYPES = ("rms_norm", "layer_norm")
ACTIVATION_TYPES = ("gelu", "gelu_tanh", "relu")
RESIDUAL_ACTIVATION_TYPES = ("identity", "relu")
POSITION_TYPES = ("none", "added", "concatenated")

# Far above any model that there is: what is larger is a damaged file, and would be found out only when memory runs out.
LARGEST = {
    "vocab_size": 1 << 24, "block_size": 1 << 30, "n_layer": 4096, "n_head": 1 << 16, "d_head": 1 << 16, "d_model": 1 << 20,
    "d_mlp": 1 << 24, "d_pos_emb": 1 << 20,
}  # fmt: skip
_MOST_PARAMETERS = 10**13

AUTO_MAP = {
    "AutoConfig": "configuration_csp.CSPConfig",
    "AutoModel": "modeling_csp.CSPModel",
    "AutoModelForCausalLM": "modeling_csp.CSPForCausalLM",
}


INTERFACE = 1  # the version of what this code calls in the package `sparse_circuits`
_AFRAC_EXAMPLE = " from AbsTopK locations to fractions, such as {'attn_in': 0.25}"


@functools.cache
def package(name: str) -> Any:
    """A module of the package `sparse_circuits`, or None: this code stands alone, and does more where the package is installed beside it.

    With the package: kernels, the form of nonzeros in files, and a closer look at what is damaged.
    """
    try:
        version = getattr(importlib.import_module("sparse_circuits"), "INTERFACE", None)
        if version == INTERFACE:
            return importlib.import_module(f"sparse_circuits.{name}")
    except ImportError:
        return None
    warnings.warn(
        f"The installed sparse_circuits has version {version} of what this model's code calls, which takes {INTERFACE}: it runs on PyTorch alone, "
        f"slower; install the version that wrote the model, or load the model without trust_remote_code.", stacklevel=2,
    )  # fmt: skip
    return None


def read_object(path: str | Path, fix: str = "get it again") -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        OSError, ValueError: naming the file.
    """
    if (files := package("files")) is not None:
        return files.read_object(Path(path), fix=fix)
    try:
        found = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON that can be used ({str(error)[:100]}); {fix}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__} where an object {{...}} belongs; {fix}.")
    return found


def _understanding_aliases(init: Callable[..., None]) -> Callable[..., None]:
    """Lets a constructor take transformers' names (`attribute_map`) for its own."""

    @functools.wraps(init)
    def understanding(self: Any, *args: Any, **kwargs: Any) -> None:
        for alias, name in self.attribute_map.items():
            if alias in kwargs:
                value = kwargs.pop(alias)
                if kwargs.setdefault(name, value) != value:
                    raise ValueError(
                        f"{alias}={value!r:.80} and {name}={kwargs[name]!r} name the same setting; give one of them."
                    )
        init(self, *args, **kwargs)

    return understanding


class CSPConfig(PretrainedConfig):
    """Settings of a `CSPModel`.

    Args:
        vocab_size (int, default 2048): number of token ids.
        block_size (int, default 1024): longest sequence the position table covers; without positions, a nominal length only.
        n_layer (int, default 4): blocks, each an attention and an MLP sublayer.
        n_head (int, default 16): attention heads.
        d_head (int, default 16): channels per head. `n_head * d_head` need not equal `d_model`.
        d_model (int, default 256): width of the residual stream.
        d_mlp (int, default `4 * d_model`): neurons per MLP.
        activation_type ("gelu" | "gelu_tanh" | "relu", default "gelu"): MLP non-linearity; gelu is the exact (erf) one, gelu_tanh GPT-2's
            approximation by tanh.
        residual_activation_type ("identity" | "relu", default "identity"): applied to the residual stream after each sublayer.
        norm_type ("rms_norm" | "layer_norm", default "rms_norm"): RMSNorm uses eps 2**-23, LayerNorm 1e-5, at every dtype.
        ln_bias (bool, default True): whether LayerNorm has a bias. RMSNorm never has one.
        bias (bool, default True): whether the linear maps of the blocks have biases.
        dropout (float, default 0.0): on embeddings, sublayer outputs and attention probabilities.
        position_embedding_type ("none" | "added" | "concatenated", default "none"): "added" sums a position vector into the
            residual stream; "concatenated" appends a separately normalised one to the input of every sublayer
            (`cat_pos_emb` in the release), so that it never enters the residual stream.
        d_pos_emb (int, optional): width of concatenated positions; required for them and refused otherwise.
        sinusoidal_positions (bool, default False): frozen sinusoids in place of a learned position table.
        sink (bool, default False): one learned logit per head for an always-visible key of zero value.
        afrac (dict[str, float], default {}): AbsTopK location -> fraction of its channels kept at each token, in [0, 1].
            Locations: the rows of `wiring_csp.LOCATIONS`, resid_pre to resid_post_mlp.
            `k = int(fraction * width)`; q, k and v pool all heads. A location that is absent is left dense.
        enable_bigram_table (bool, default False): adds `table[current token]` to the logits (dense, vocab_size x vocab_size).
        learnable_bigram_table (bool, default True): whether the table is trained.
        bigram_padding_idx (int, optional): a row of the table that gets no gradient. The release looks its table up with
            `padding_idx=-1`, which freezes the last row; our default trains every row.
        initializer_range (float, default 0.02): std of the initial weights; both `c_proj` use it over sqrt(2 n_layer).
        tie_word_embeddings (bool, default False): share `wte` and `lm_head`.
        use_cache (bool, default True): return a key-value cache.
        bos_token_id, eos_token_id, pad_token_id (int, optional): ids below vocab_size.
        tokenizer_name (str, optional): provenance of the tokenizer, e.g. "tinypython_2k".
        sparse_weights (bool, default False): whether the checkpoint beside this file holds only the nonzeros; `save_pretrained` sets it.
        provenance (dict, optional): where the weights come from (source name, sha256, densities, recipe); never read by the model.

    Raises:
        ValueError: naming the setting that cannot work and what would.
    """

    model_type = "csp"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {
        "hidden_size": "d_model", "n_embd": "d_model", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "head_dim": "d_head",
        "intermediate_size": "d_mlp", "hidden_act": "activation_type", "max_position_embeddings": "block_size", "n_positions": "block_size",
    }  # fmt: skip
    # What FSDP2 through transformers' DistributedConfig shards, by our module names.
    base_model_fsdp_plan = {
        "wte": "free_full_weight", "wpe": "free_full_weight", "h.*": "free_full_weight", "final_norm": "keep_full_weight",
    }  # fmt: skip

    @_understanding_aliases
    def __init__(
        self,
        vocab_size: int = 2048, block_size: int = 1024,
        n_layer: int = 4, n_head: int = 16, d_head: int = 16, d_model: int = 256, d_mlp: int | None = None,
        activation_type: str = "gelu", residual_activation_type: str = "identity", norm_type: str = "rms_norm",
        ln_bias: bool = True, bias: bool = True, dropout: float = 0.0,
        position_embedding_type: str = "none", d_pos_emb: int | None = None, sinusoidal_positions: bool = False,
        sink: bool = False, afrac: dict[str, float] | None = None,
        enable_bigram_table: bool = False, learnable_bigram_table: bool = True, bigram_padding_idx: int | None = None,
        initializer_range: float = 0.02, tie_word_embeddings: bool = False, use_cache: bool = True,
        bos_token_id: int | None = None, eos_token_id: int | None = None, pad_token_id: int | None = None,
        tokenizer_name: str | None = None, sparse_weights: bool = False, provenance: dict[str, Any] | None = None,
        **kwargs: Any,
    ):  # fmt: skip
        own = dict(locals())
        for name in ("self", "kwargs", "__class__"):
            own.pop(name, None)
        _refuse_foreign(kwargs, own)
        if own["d_mlp"] is None:
            own["d_mlp"] = 4 * own["d_model"] if isinstance(own["d_model"], int) else None
        for name in ("afrac", "provenance"):
            if not isinstance(own[name], (dict, type(None))):
                raise ValueError(f"{name} is {own[name]!r:.80}; it must be a dict" + _AFRAC_EXAMPLE * (name == "afrac") + ".")
            own[name] = dict(own[name] or {})
        for name, value in own.items():
            setattr(self, name, value)
        self._refuse_impossible()
        auto_map = kwargs.pop("auto_map", None)
        special = {name: own[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")}
        super().__init__(**special, **kwargs)
        # Complete, so that a model built from a bare config saves a folder that every Auto class can load.
        self.auto_map = auto_map or dict(AUTO_MAP)

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs: Any):
        """transformers' own, on a file that can be read."""
        path = Path(pretrained_model_name_or_path)
        if path.is_dir():
            path = path / (kwargs.get("subfolder") or "") / (kwargs.get("_configuration_file") or "config.json")
        if path.exists():
            read_object(path)
        return super().get_config_dict(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs: Any):  # type: ignore[override]
        """transformers' own; errors name the file."""
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except ValueError as error:
            named = str(pretrained_model_name_or_path) in str(error)
            raise error if named else ValueError(f"{pretrained_model_name_or_path}: {error}") from error

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        """transformers' own; what it cannot make anything of is named in one sentence."""
        try:
            return super().from_dict(config_dict, **kwargs)
        except (TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            raise ValueError(
                f"The config cannot be used ({type(error).__name__}: {str(error)[:120]}); correct config.json."
            ) from error

    def location_width(self, location: str) -> int:
        """Channels at an AbsTopK location, over all heads for q, k and v."""
        return location_width(self, location)

    def _refuse_impossible(self) -> None:
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "d_head", "d_model", "d_mlp"):
            require_positive_int(name, getattr(self, name))
        self._refuse_immense()
        _require_choice("activation_type", self.activation_type, ACTIVATION_TYPES)
        _require_choice("residual_activation_type", self.residual_activation_type, RESIDUAL_ACTIVATION_TYPES)
        _require_choice("norm_type", self.norm_type, NORM_TYPES)
        _require_choice("position_embedding_type", self.position_embedding_type, POSITION_TYPES)
        for name in ("ln_bias", "bias", "sinusoidal_positions", "sink", "enable_bigram_table", "learnable_bigram_table"):
            _require_bool(name, getattr(self, name))
        for name in ("tie_word_embeddings", "use_cache", "sparse_weights"):
            _require_bool(name, getattr(self, name))
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout!r:.80}; it must be at least 0 and less than 1.")
        if not _is_number(self.initializer_range) or not 0 <= self.initializer_range < float("inf"):
            raise ValueError(f"initializer_range is {self.initializer_range!r:.80}; it must be a finite number of at least 0.")
        self._refuse_impossible_positions()
        self._refuse_impossible_afrac()
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "bigram_padding_idx"):
            self._require_token_id(name, getattr(self, name))
        if not self.learnable_bigram_table and not self.enable_bigram_table:
            raise ValueError(
                "learnable_bigram_table=False has no table to freeze; set enable_bigram_table=True or leave it out."
            )
        if self.bigram_padding_idx is not None and not self.enable_bigram_table:
            raise ValueError("bigram_padding_idx is set without a bigram table; set enable_bigram_table=True or leave it out.")

    def parameter_count(self) -> int:
        """Weights of the model with its head, biases and norms left out."""
        width, wide = self.n_head * self.d_head, self.d_model + (self.d_pos_emb or 0)
        layer = wide * 3 * width + width * self.d_model + wide * self.d_mlp + self.d_mlp * self.d_model
        positions = 0 if self.position_embedding_type == "none" else self.block_size * (self.d_pos_emb or self.d_model)
        table = self.vocab_size**2 if self.enable_bigram_table else 0
        return 2 * self.vocab_size * self.d_model + positions + table + self.n_layer * layer

    def _refuse_immense(self) -> None:
        for name, largest in LARGEST.items():
            value = getattr(self, name)
            if isinstance(value, int) and value > largest:
                raise ValueError(
                    f"{name} is {value:.3g}; no model has more than {largest:,}, so the config is damaged or mistyped."
                )
        if isinstance(self.d_pos_emb, (int, type(None))) and self.parameter_count() > _MOST_PARAMETERS:
            raise ValueError(
                f"The config's sizes make {self.parameter_count():.3g} weights, more than the {_MOST_PARAMETERS:.0e} of any model; "
                f"check n_layer, n_head, d_head, d_model, d_mlp and vocab_size."
            )

    def _refuse_impossible_positions(self) -> None:
        if self.position_embedding_type == "concatenated":
            if self.d_pos_emb is None:
                raise ValueError("position_embedding_type='concatenated' needs d_pos_emb, the width of the position vectors.")
            require_positive_int("d_pos_emb", self.d_pos_emb)
        elif self.d_pos_emb is not None:
            raise ValueError(
                f"d_pos_emb={self.d_pos_emb!r:.80} only has a meaning with position_embedding_type='concatenated', "
                f"not {self.position_embedding_type!r}; leave it out."
            )
        if self.sinusoidal_positions and self.position_embedding_type == "none":
            raise ValueError("sinusoidal_positions=True needs position_embedding_type 'added' or 'concatenated'.")

    def _refuse_impossible_afrac(self) -> None:
        for location, fraction in self.afrac.items():
            if location not in LOCATIONS:
                raise ValueError(
                    f"afrac names {location!r:.80}, which is no AbsTopK location; they are {', '.join(LOCATIONS)}."
                )
            if not _is_number(fraction) or not 0 <= fraction <= 1:
                raise ValueError(f"afrac[{location!r:.80}] is {fraction!r:.80}; it must be a fraction in [0, 1].")

    def _require_token_id(self, name: str, value: Any) -> None:
        if value is None:
            return
        ids = value if isinstance(value, (list, tuple)) and name == "eos_token_id" else [value]
        for one in ids:
            if isinstance(one, bool) or not isinstance(one, int) or not 0 <= one < self.vocab_size:
                raise ValueError(
                    f"{name} is {value!r:.80}; it must be a token id from 0 to vocab_size - 1 = {self.vocab_size - 1}."
                )


def _refuse_foreign(kwargs: dict[str, Any], own: dict[str, Any]) -> None:
    """Unknown keys belong to transformers (it has dozens), unless they would run code, or look like one of ours."""
    for name in ("_attn_implementation_internal", "_experts_implementation_internal"):
        if kwargs.get(name) is not None:
            raise ValueError(
                f"{name} is no setting: transformers before 5.3 would run code that it names (docs/security.md); leave it out."
            )
    base = set(dir(PretrainedConfig)) | {"architectures", "transformers_version", "auto_map", "torch_dtype", "dtype"}
    known = [*own, *CSPConfig.attribute_map]
    for key in kwargs:
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if close and key not in base and not key.startswith("_") and not key.endswith("_token_id"):
            raise ValueError(f"{key!r:.80} is no setting of CSPConfig; did you mean {close[0]!r}?")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300  # beyond, an int is no float


def require_positive_int(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r:.80}; it must be a whole number of at least 1.")


def _require_bool(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r:.80}; it must be True or False.")


def _require_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r:.80}; it must be one of {', '.join(map(repr, choices))}.")


CSPConfig.register_for_auto_class()
