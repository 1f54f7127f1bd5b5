"""The released code's way: dense products, `torch.topk` and scatter, the sink through a materialised mask, no cache. What we are measured against."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

import sparse_circuits.modeling_csp as modeling_csp
from sparse_circuits import CSPForCausalLM


def plain_abs_topk(x: torch.Tensor, k: int) -> torch.Tensor:
    index = torch.topk(x.abs(), k, dim=-1, sorted=False).indices
    return torch.zeros_like(x).scatter_(-1, index, x.gather(-1, index))


class Plain:
    """The released code's way through the network, on the weights of a dense model; every step is timed."""

    def __init__(self, model: CSPForCausalLM):
        self.model, self.seconds = model, defaultdict(float)

    def timed(self, kind: str, function: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
        begun = time.perf_counter()
        out = function(*args)
        self.seconds[kind] += time.perf_counter() - begun
        return out

    def topk(self, x: torch.Tensor) -> torch.Tensor:
        return self.timed("AbsTopK", plain_abs_topk, x, x.shape[-1] // 4)

    def linear(self, x: torch.Tensor, layer: Any) -> torch.Tensor:
        return self.timed("products", F.linear, x, layer.weight, layer.bias)

    def attention(self, qkv: list[torch.Tensor], sink: torch.Tensor, d_head: int) -> torch.Tensor:
        q, k, v = (x.view(*x.shape[:2], -1, d_head).transpose(1, 2) for x in qkv)
        batch, heads, tokens, _ = q.shape
        mask = torch.full((tokens, tokens), -torch.inf).triu(1).expand(heads, tokens, tokens)
        mask = torch.cat([sink.view(heads, 1, 1).expand(heads, tokens, 1), mask], dim=-1)
        k, v = (torch.cat([x.new_zeros(batch, heads, 1, d_head), x], dim=2) for x in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None])
        return y.transpose(1, 2).reshape(batch, tokens, -1)

    def __call__(self, ids: torch.Tensor, embeds: torch.Tensor | None = None) -> torch.Tensor:
        base = self.model.transformer
        x = self.timed("rest", base.wte, ids) if embeds is None else embeds
        positions = base.wpe(torch.arange(ids.shape[1]))[None]
        for block in base.h:
            a = self.timed("rest", modeling_csp.with_positions, block.attn_norm(x), block.attn_pos_norm, positions)
            qkv = self.linear(self.topk(a), block.attn.c_attn).chunk(3, dim=-1)
            qkv = [self.topk(part) for part in qkv]
            y = self.timed("attention", self.attention, qkv, block.attn.sink_bias, block.attn.d_head)
            x = x + self.topk(self.linear(y, block.attn.c_proj))
            m = self.timed("rest", modeling_csp.with_positions, block.mlp_norm(x), block.mlp_pos_norm, positions)
            h = self.timed("rest", F.gelu, self.linear(self.topk(m), block.mlp.c_fc))
            x = x + self.topk(self.linear(self.topk(h), block.mlp.c_proj))
        logits = self.linear(self.timed("rest", base.final_norm, x), self.model.lm_head)
        return logits + self.model.final_logits_bias + self.model.bigram_table(ids)


def plain_attention(module, query, key, value, attention_mask, scaling=None, s_aux=None, **kwargs):
    batch, heads, tokens, _ = query.shape
    mask = torch.full((tokens, tokens), -torch.inf, device=query.device).triu(1).expand(heads, tokens, tokens)
    if s_aux is not None:
        mask = torch.cat([s_aux.view(heads, 1, 1).expand(heads, tokens, 1), mask], dim=-1)
        key, value = (F.pad(x, (0, 0, 1, 0)) for x in (key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[None].expand(batch, -1, -1, -1), scale=scaling)
    return out.transpose(1, 2).contiguous(), None
