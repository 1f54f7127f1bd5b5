"""Unigram and bigram baselines, counted on the training blocks and scored on held-out ones."""

from __future__ import annotations

import torch


def bigram_log_probabilities(blocks: torch.Tensor, vocab_size: int, strength: float = 128.0) -> torch.Tensor:
    """log P(next | current), float32 [vocab, vocab], from counts within blocks [n, block].

    Smoothed towards the (add-one) unigram distribution with the weight of `strength` observations (Dirichlet prior); 128 was the
    best of 2, 4, ..., 256 on the standard library's held-out files (LOG.md), so the baseline is not a weak one.
    """
    blocks = blocks.long()
    pairs = blocks[:, :-1].reshape(-1) * vocab_size + blocks[:, 1:].reshape(-1)
    counts = torch.bincount(pairs, minlength=vocab_size**2).view(vocab_size, vocab_size).double()
    prior = unigram_log_probabilities(blocks, vocab_size).double().exp()
    probabilities = (counts + strength * prior) / (counts.sum(dim=1, keepdim=True) + strength)
    return probabilities.log().float()


def unigram_log_probabilities(blocks: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """log P(token), float32 [vocab], with one added to every count."""
    counts = torch.bincount(blocks.long().reshape(-1), minlength=vocab_size).double() + 1
    return (counts / counts.sum()).log().float()


def ngram_losses(train: torch.Tensor, held_out: torch.Tensor, vocab_size: int) -> dict[str, float]:
    """Cross-entropy in nats per token of both baselines on the held-out blocks, over the tokens a model predicts in them."""
    current, following = held_out[:, :-1].long(), held_out[:, 1:].long()
    bigram = bigram_log_probabilities(train, vocab_size)[current, following]
    unigram = unigram_log_probabilities(train, vocab_size)[following]
    return {"unigram": -unigram.double().mean().item(), "bigram": -bigram.double().mean().item()}
