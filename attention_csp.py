"""Attention with a sink, behind transformers' attention interface; and what reaches a model besides ids: caches, masks, packed sequences, keywords.

A sink is one more key, always visible, of value zero, whose logit is learned per head; it takes probability mass away. transformers'
own SDPA drops it in silence, so this model has its own table of functions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as LIBRARY_ATTENTION_FUNCTIONS
from transformers.modeling_utils import AttentionInterface

from .configuration_csp import CSPConfig
from .topk_csp import kernels

# Attention implementations that honour a sink. FlashAttention 2 takes the argument and ignores it.
SINK_ATTENTION = ("eager", "paged|eager", "sdpa", "flex_attention", "kernels-community/vllm-flash-attn3", "flash_attention_4")


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,  # (batch, heads, queries, d_head)
    key: torch.Tensor,  # (batch, heads, keys, d_head)
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    s_aux: torch.Tensor | None = None,  # (heads,): the sink's logit, not scaled
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        logits = logits + attention_mask[:, :, :, : key.shape[-2]]
    if s_aux is not None:
        sink = s_aux.to(logits.dtype).reshape(1, -1, 1, 1).expand(*logits.shape[:3], 1)
        logits = torch.cat([logits, sink], dim=-1)
    weights = F.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32)).to(query.dtype)
    if s_aux is not None:
        weights = weights[..., :-1]  # the sink's value is zero: it only takes mass away
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def sdpa_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """SDPA, with the sink that transformers' has no place for: by a kernel where there is a faster one, else as one more key.

    The extra key: queries get an extra channel of 1; that channel is 0 in every real key and sink / scaling in the sink's key, whose
    other channels are 0. So the sink's logit comes out unscaled, with every SDPA kernel and its gradient.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    causal = attention_mask is None and bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    fast = kernels() if causal and not dropout else None
    out = None if fast is None else fast.causal_attention(query, key, value, s_aux, scaling, _share_kept(module))
    if out is not None:
        return out, None
    library_sdpa = LIBRARY_ATTENTION_FUNCTIONS["sdpa"]
    shared = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal, **kwargs}
    if s_aux is None:
        return library_sdpa(module, query, key, value, attention_mask, **shared)
    d_head, queries = query.shape[-1], query.shape[2]
    causal = causal and queries > 1
    if causal:
        # A dummy first query keeps the pattern square: row i + 1 sees the sink and keys 0..i. (A static cache has more keys.)
        key, value = key[:, :, :queries], value[:, :, :queries]
        query = F.pad(query, (0, 0, 1, 0))
    key, value, query = F.pad(key, (0, 8, 1, 0)), F.pad(value, (0, 8, 1, 0)), F.pad(query, (0, 8))  # 8 keeps alignment
    ones = torch.ones_like(query[..., :1])
    query = torch.cat([query[..., :d_head], ones, query[..., d_head + 1 :]], dim=-1)
    sink = (s_aux / scaling).to(key.dtype).view(1, -1, 1, 1).expand(key.shape[0], -1, -1, -1)
    sink_key = F.pad(sink, (d_head, 7))
    key = torch.cat([sink_key, key[:, :, 1:]], dim=2)
    if attention_mask is not None:
        attention_mask = attention_mask[:, :, :, : key.shape[2] - 1]
        attention_mask = F.pad(attention_mask, (1, 0), value=True if attention_mask.dtype == torch.bool else 0.0)
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling, is_causal=causal
    )
    out = out[:, :, int(causal) :, :d_head]
    return out.transpose(1, 2).contiguous(), None


def _share_kept(module: nn.Module) -> float:
    """The share of the channels of keys and values that AbsTopK leaves."""
    sites: list[Any] = [site for site in (getattr(module, "k", None), getattr(module, "v", None)) if site is not None]
    return sum(site.k / site.width for site in sites) / len(sites) if sites else 1.0


# Our own table: overriding "sdpa" in the library's would change every other model in the process.
ALL_ATTENTION_FUNCTIONS = AttentionInterface()
ALL_ATTENTION_FUNCTIONS["sdpa"] = sdpa_attention_forward
ALL_ATTENTION_FUNCTIONS["paged|eager"] = eager_attention_forward  # of continuous batching: the model itself has asked its cache


def attention_function(config: CSPConfig) -> Callable[..., tuple[torch.Tensor, torch.Tensor | None]]:
    """The attention that the config asks for; refuses by name what would drop the sink."""
    name = config._attn_implementation
    if config.sink and name not in SINK_ATTENTION:
        raise ValueError(
            f"attn_implementation={name!r} ignores attention sinks, which this model has (config.sink=True); "
            f"use one of {', '.join(SINK_ATTENTION)}."
        )
    if name == "eager" or name is None:
        return eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[config._attn_implementation]


# ------------------------------------------------------------------------------------------ what reaches a model besides ids

# What `create_causal_mask` calls its arguments changed between 4.57, 5.x and 5.24, where a cache is called `cache`, in outputs too.
# (Names, read once: torch.compile cannot follow a live signature.)
_MASK_ARGUMENTS = tuple(inspect.signature(create_causal_mask).parameters)
_MASK_EMBEDS = "inputs_embeds" if "inputs_embeds" in _MASK_ARGUMENTS else "input_embeds"
_MASK_CACHE = "cache" if "cache" in _MASK_ARGUMENTS else "past_key_values"
MASK_TAKES_POSITION = "cache_position" in _MASK_ARGUMENTS
OUTPUT_CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"

# Keywords that reach a model besides its own arguments: those without effect on what it computes, ...
_HARMLESS = {"cache_position", "output_attentions", "output_hidden_states", "return_dict", "num_items_in_batch", "ignore_index", "shift_labels",
             "token_type_ids", "tokenizer", "assistant_tokenizer"}  # fmt: skip
# ... those that say where packed sequences begin, which FlashAttention reads itself, ...
PACKING = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}
# ... and those of continuous batching (generate_batch), which come with a cache of its own.
_PAGING = {"write_index", "read_index", "logits_indices", "block_table", "logits_processor_args", "is_causal"}


def causal_mask(config, x, attention_mask=None, cache=None, position_ids=None, cache_position=None) -> Any:
    """transformers' `create_causal_mask`, under any version's names; x [batch, tokens, width] is what attention is about to read."""
    arguments = {
        "config": config,
        "attention_mask": attention_mask,
        "position_ids": position_ids,
        _MASK_CACHE: cache,
        _MASK_EMBEDS: x,
    }
    if MASK_TAKES_POSITION:
        arguments["cache_position"] = torch.arange(x.shape[1], device=x.device) if cache_position is None else cache_position
    return create_causal_mask(**arguments)


def one_cache(past_key_values: Any, cache: Any) -> Any:
    """The cache, by either of its names (`cache` from transformers 5.24 on, and for that of continuous batching before)."""
    if past_key_values is not None and cache is not None and past_key_values is not cache:
        raise ValueError("past_key_values and cache are two names of one argument; give one of them.")
    return cache if past_key_values is None else past_key_values


def refuse_unknown_keywords(cache: Any, keywords: dict[str, Any]) -> None:
    """Raises ValueError for a keyword that nothing here reads, which would change the result if it were read."""
    paged = cache is not None and not isinstance(cache, Cache)
    if paged and "kwargs" not in inspect.signature(cache.update).parameters:
        raise ValueError(
            "Continuous batching (generate_batch) takes transformers 5 or later; use generate, or update transformers."
        )
    for name, value in keywords.items():
        if value is None or name in _HARMLESS or name in PACKING or (paged and name in _PAGING):
            continue
        if name == "is_causal" and value is True:
            continue
        raise ValueError(f"{name} is no argument of this model, which would ignore it; leave it out.")


def packed_positions(position_ids: torch.Tensor | None, starts: torch.Tensor, tokens: int) -> torch.Tensor:
    """Positions [1, tokens] that begin anew at each start of a packed sequence (`cu_seq_lens_q`); those that were given must agree."""
    index = torch.arange(tokens, device=starts.device)
    begun = starts[torch.searchsorted(starts, index, right=True).clamp(max=len(starts)) - 1]
    counted = (index - begun).unsqueeze(0)
    if position_ids is None:
        return counted
    if position_ids.shape != counted.shape or not torch.equal(position_ids.to(counted), counted):
        raise ValueError("cu_seq_lens_q and position_ids do not agree on where sequences begin; give one of them.")
    return position_ids


def keep(x: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """The tokens (dimension 1) whose logits are wanted: the last n (0: all), or those of an index or bool tensor."""
    if isinstance(logits_to_keep, int):
        return x[:, -logits_to_keep:] if logits_to_keep else x
    if logits_to_keep.dim() == 1:
        return x[:, logits_to_keep]
    if logits_to_keep.dtype == torch.bool:  # a mask [batch, tokens]: the result is flat
        return x[logits_to_keep]
    index = logits_to_keep.view(*logits_to_keep.shape, *[1] * (x.dim() - 2))  # one list of positions per row
    return torch.take_along_dim(x, index.to(x.device), dim=1)
