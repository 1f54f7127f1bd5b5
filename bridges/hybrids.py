"""Hybrid passes: one model up to a residual point, the other from there on; all points in one pass whose batch grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from .bridge import Bridges
from .sides import Side

CHUNK = 1 << 21  # logits at a time


def stream(side: Side, ids: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The residual stream [batch, tokens, width] at each of the 2L + 1 points, and the logits: a plain pass."""
    x, context = side.embed(ids)
    points = [x]
    for i in range(side.sublayers):
        points.append(side.sublayer(i, points[-1], context))
    return points, side.logits(points[-1], ids)


def tails(side: Side, injected: Sequence[torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """Logits [points, batch, tokens, vocab] of the model run on from each point, given the stream there."""
    ends = tail_ends(side, injected, ids)
    return torch.stack([side.logits(x, ids) for x in ends])


def tail_ends(side: Side, injected: Sequence[torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """The stream [points, batch, tokens, width] at the last point, of the model run on from each point.

    What is injected at point i joins the batch of those from before: each sublayer runs once, on all that have reached it. With 2L sublayers that
    is L (2L + 1) sublayer runs of one batch, (2L + 1) / 2 plain passes.
    """
    _, context = side.embed(ids)
    x = injected[0]
    for i in range(side.sublayers):
        x = torch.cat([side.sublayer(i, x, context), injected[i + 1]])
    return x.unflatten(0, (len(injected), len(ids)))


def tails_kl(side: Side, injected: Sequence[torch.Tensor], ids: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """KL(target || hybrid) [points] in nats, as `kl` of `tails`, some rows at a time; their logits are made again on the way back.

    All logits at once are the cost of a step: allocators hand blocks of over 32 MB back to the system, which then clears their pages anew.
    """
    rows = max(1, CHUNK // target[0].numel())
    shares, entropy = _shares(target)

    def part(x: torch.Tensor, start: int) -> torch.Tensor:
        here = slice(start, start + rows)
        return _Divergence.apply(side.logits(x, ids[here]), shares[here], entropy[here]).sum()  # type: ignore[no-untyped-call]

    found = []
    for end in tail_ends(side, injected, ids):
        parts = [checkpoint(part, x, i * rows, use_reentrant=False) for i, x in enumerate(end.split(rows))]
        found.append(torch.stack(parts).sum() / ids.numel())
    return torch.stack(found)


@torch.no_grad()
def _shares(target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(probabilities, their entropy in nats) of logits [..., vocab]."""
    logs = target.log_softmax(-1)
    shares = logs.exp()
    return shares, -torch.linalg.vecdot(shares, logs)


class _Divergence(torch.autograd.Function):
    """logsumexp(q) - sum p q - H(p) over the last dimension, and its gradient softmax(q) - p in one go."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, shares: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
        total = logits.logsumexp(-1)
        ctx.save_for_backward(logits, shares, total)
        return total - torch.linalg.vecdot(shares, logits) - entropy

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        logits, shares, total = ctx.saved_tensors
        return grads[0][..., None] * ((logits - total[..., None]).exp_() - shares), None, None


def switched(dense: Side, sparse: Side, bridges: Bridges, ids: torch.Tensor, path: Sequence[bool]) -> torch.Tensor:
    """Logits of a pass that may change models at every point.

    Args:
        path: for each of the 2L + 1 points, whether the pass is in the sparse model from there on (to the unembedding, at the last).
            It starts in the dense model, so path[0] True goes over at once.
    """
    (x, in_dense), (_, in_sparse) = dense.embed(ids), sparse.embed(ids)
    now_sparse = False
    for i, to_sparse in enumerate(path):
        if to_sparse != now_sparse:
            x = bridges.encode(i, x) if to_sparse else bridges.decode(i, x)
            now_sparse = to_sparse
        if i < len(path) - 1:
            x = sparse.sublayer(i, x, in_sparse) if now_sparse else dense.sublayer(i, x, in_dense)
    return (sparse if now_sparse else dense).logits(x, ids)


def plain_passes(sublayers: int) -> tuple[float, int]:
    """What a bridged step runs, for models of equal size: (sublayers, heads) in forward passes' worth. Sublayers are shared by hybrids, heads
    (norm, unembedding, softmax over the vocabulary) cannot be: each hybrid has its own."""
    points = sublayers + 1
    return 2 + 2 * points / 2, 2 + 2 * points


def nmse(found: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared error over the target's variance around its mean over batch and tokens; the denominator is a constant. 1: as good as the mean."""
    wide = target.detach().to(torch.promote_types(target.dtype, torch.float32))
    variance = (wide - wide.mean((0, 1), keepdim=True)).square().mean()
    return (found - target).square().mean() / variance.clamp_min(torch.finfo(wide.dtype).tiny)


def kl(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """KL(target || logits) in nats, mean over batch and tokens; both are logits [..., tokens, vocab], leading dimensions of the second are kept."""
    return _Divergence.apply(logits, *_shares(target)).mean((-1, -2))  # type: ignore[no-untyped-call]


def next_token_loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats per token; leading dimensions of logits [..., batch, tokens, vocab] are kept."""
    lead = logits.shape[:-3]
    flat = logits.reshape(-1, *logits.shape[-3:])[:, :, :-1]
    losses = [F.cross_entropy(each.flatten(0, 1), ids[:, 1:].flatten()) for each in flat]
    return torch.stack(losses).view(lead)


def said_cost(sublayers: int) -> str:
    """What a step of bridge training runs, in words."""
    passes, heads = plain_passes(sublayers)
    return f"A step runs the sublayers of {passes:g} plain forward passes and {heads} unembeddings, and one backward pass"
