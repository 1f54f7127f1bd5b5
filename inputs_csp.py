"""What reaches a model besides ids: caches by either name, masks, packed sequences, keywords. Honoured, or refused by name."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast

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
