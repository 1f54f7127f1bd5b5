"""The two models of a bridge, as residual streams with sublayers between: the same view of ours and of GPT-2.

A model with L layers has 2L sublayers (attention, MLP, attention, ...) and 2L + 1 residual points: before each sublayer, and before the last norm.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from ..attention_csp import causal_mask


class Side(Protocol):
    """A causal model, cut at its residual points. Batches may grow on the way: nothing that is kept depends on their size."""

    model: Any
    width: int
    sublayers: int
    longest: int  # tokens in a sequence

    def embed(self, ids: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Residual stream [batch, tokens, width] at point 0 of token ids [batch, tokens], and what sublayers need besides."""

    def sublayer(self, i: int, x: torch.Tensor, context: Any) -> torch.Tensor:
        """From point i to point i + 1."""

    def logits(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, vocab] of the residual stream at the last point."""

    def read(self, i: int) -> nn.Module:
        """The norm through which sublayer i (or the unembedding: i = 2L) reads point i."""


class CSPSide:
    """One of our models, sparse or dense."""

    def __init__(self, model: Any):
        self.model, self.width, self.sublayers = model, model.config.d_model, 2 * model.config.n_layer
        self.longest = model.config.block_size

    def embed(self, ids: torch.Tensor) -> tuple[torch.Tensor, Any]:
        body = self.model.transformer
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        x, positions = body.with_positions(body.wte(ids), places)
        return x, (positions, causal_mask(self.model.config, x[:1]))

    def sublayer(self, i: int, x: torch.Tensor, context: Any) -> torch.Tensor:
        positions, mask = context
        block = self.model.transformer.h[i // 2]
        return block.feed(x, positions) if i % 2 else block.attend(x, positions, mask)

    def logits(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.model.unembed(self.model.transformer.final(x), ids)

    def read(self, i: int) -> nn.Module:
        body = self.model.transformer
        if i == self.sublayers:
            return body.final_norm
        return body.h[i // 2].mlp_norm if i % 2 else body.h[i // 2].attn_norm


class GPT2Side:
    """transformers' GPT-2: its blocks' own modules in the order in which its block calls them (checked against its forward pass in the tests)."""

    def __init__(self, model: Any):
        self.model, self.width, self.sublayers = model, model.config.n_embd, 2 * model.config.n_layer
        self.longest = model.config.n_positions

    def embed(self, ids: torch.Tensor) -> tuple[torch.Tensor, Any]:
        body = self.model.transformer
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        x = body.drop(body.wte(ids) + body.wpe(places))
        return x, causal_mask(self.model.config, x[:1])

    def sublayer(self, i: int, x: torch.Tensor, context: Any) -> torch.Tensor:
        block = self.model.transformer.h[i // 2]
        return x + (block.mlp(block.ln_2(x)) if i % 2 else block.attn(block.ln_1(x), attention_mask=context)[0])

    def logits(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.model.lm_head(self.model.transformer.ln_f(x))

    def read(self, i: int) -> nn.Module:
        body = self.model.transformer
        if i == self.sublayers:
            return body.ln_f
        return body.h[i // 2].ln_2 if i % 2 else body.h[i // 2].ln_1


def side_of(model: Any) -> Side:
    """The view of a model that bridges need.

    Raises:
        ValueError: for a model that is neither ours nor GPT-2.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind == "csp" and hasattr(model, "lm_head"):
        if model.is_sparse:
            raise ValueError("Bridges run on dense matrices; load the model without sparse=True, or call to_dense().")
        return CSPSide(model)
    if kind == "gpt2" and hasattr(model, "lm_head"):
        return GPT2Side(model)
    raise ValueError(
        f"{type(model).__name__} cannot be bridged: bridges know CSP language models and transformers' GPT-2; give a Side of your own for others."
    )
