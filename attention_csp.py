"""Attention with a sink: eager, and SDPA in two ways, behind transformers' attention interface.

A sink is one more key, always visible, of value zero, whose logit is learned per head; it takes probability mass away. transformers'
own SDPA drops it in silence, so this model has its own table of functions.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as LIBRARY_ATTENTION_FUNCTIONS
from transformers.modeling_utils import AttentionInterface

from .configuration_csp import CSPConfig
from .sparse_csp import kernels_serve, run

# Attention implementations that honour a sink. FlashAttention 2 takes the argument and ignores it.
SINK_ATTENTION = ("eager", "paged|eager", "sdpa", "flex_attention", "kernels-community/vllm-flash-attn3", "flash_attention_4")
# Up to how many nonzero channels of a head's keys and values, on average, our kernel beats PyTorch's: measured, `benchmarks/sparse.py`.
KERNEL_CHANNELS = 24
KERNEL_QUERIES = 16  # and from how many queries on


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
    """SDPA, with the sink that transformers' has no place for: by our CPU kernel where that is faster, else as one more key.

    The extra key: queries get an extra channel of 1; that channel is 0 in every real key and sink / scaling in the sink's key, whose
    other channels are 0. So the sink's logit comes out unscaled, with every SDPA kernel and its gradient.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    causal = attention_mask is None and bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    if causal and not dropout and _kernel_pays(module, query, key, value):
        out = _FastAttention.apply(query, key[:, :, : query.shape[2]], value[:, :, : query.shape[2]], s_aux, scaling)
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


def _kernel_pays(module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    if query.shape[2] < KERNEL_QUERIES or key.shape[1] != query.shape[1] or not kernels_serve(query, key, value):
        return False
    sites = [site for site in (getattr(module, "k", None), getattr(module, "v", None)) if site is not None]
    share = sum(site.k / site.width for site in sites) / len(sites) if sites else 1.0
    return share * query.shape[-1] <= KERNEL_CHANNELS


def float_bits(x: float) -> int:
    """The bits of a float32, in which form the kernels take it."""
    return int(struct.unpack("i", struct.pack("f", x))[0])


def fast_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sink: torch.Tensor | None, scaling: float, lse: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Causal attention [batch, heads, tokens, d_head] -> out [batch, tokens, heads, d_head], and the log of the softmax' denominator,
    sink included, [batch, heads, tokens]. The channels of the query must lie side by side. Keys and values are taken by their nonzeros, which AbsTopK makes few."""
    batch, heads, tokens, d_head = query.shape
    out = torch.empty(batch, tokens, heads, d_head, dtype=torch.float32)
    sums = torch.empty(batch, heads, tokens, dtype=torch.float32) if lse else None
    run(
        "attention", batch * heads, query.data_ptr(), key.data_ptr(), value.data_ptr(), out.data_ptr(),
        0 if sums is None else sums.data_ptr(), 0 if sink is None else sink.data_ptr(), heads, tokens, key.shape[2], d_head,
        *query.stride()[:3], *key.stride(), *value.stride(), out.stride(0), out.stride(2), out.stride(1), float_bits(scaling),
    )  # fmt: skip
    return out, sums


class _FastAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, sink: Any, scaling: float) -> torch.Tensor:
        if query.stride(-1) != 1:
            query = query.contiguous()
        wanted = any(ctx.needs_input_grad)
        sink32 = None if sink is None else sink.detach().to(torch.float32).contiguous()
        out, lse = fast_attention(query, key, value, sink32, scaling, lse=wanted)
        ctx.scaling = scaling
        ctx.save_for_backward(query, key, value, sink32, out, lse)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        query, key, value, sink, out, lse = ctx.saved_tensors
        dout = gradients[0].contiguous()
        batch, heads, tokens, d_head = query.shape
        dq, dk, dv = (torch.empty_like(out) for _ in range(3))
        run(
            "attention_gradient", batch * heads, query.data_ptr(), key.data_ptr(), value.data_ptr(), dout.data_ptr(), out.data_ptr(),
            lse.data_ptr(), dq.data_ptr(), dk.data_ptr(), dv.data_ptr(), heads, tokens, d_head,
            *query.stride()[:3], *key.stride(), *value.stride(), float_bits(ctx.scaling),
        )  # fmt: skip
        dsink = None
        if ctx.needs_input_grad[3]:
            share = (sink.view(1, -1, 1) - lse).exp()  # of the sink in each query's softmax, [batch, heads, tokens]
            dsink = -(share * (dout * out).sum(-1).transpose(1, 2)).sum((0, 2))
        return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2), dsink, None


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
