"""Mean activations over a corpus: what stands in for a node that is not in a circuit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from ..wiring_csp import MATRICES
from .hooks import hooks
from .sites import evaluating, require_csp

MOST_SAMPLES = 1 << 29  # bytes of sampled activations: of large models fewer tokens are kept


@dataclass(frozen=True)
class Means:
    """What nodes do over a corpus.

    Args:
        values: site -> mean activation [width], float32; also of what attention makes of v (`sites.y_name`), for edges.
        low, high: smallest and largest activation seen, [width].
        count: tokens that were averaged.
        corpus: sha256 of the token ids, in order.
        samples: activations at random tokens, the same tokens at every site, [samples, width]; None if none were asked for.
    """

    values: dict[str, torch.Tensor]
    low: dict[str, torch.Tensor]
    high: dict[str, torch.Tensor]
    count: int
    corpus: str
    samples: dict[str, torch.Tensor] | None = None


def corpus_sha256(blocks: torch.Tensor) -> str:
    """sha256 of token ids [n, tokens]."""
    return hashlib.sha256(blocks.cpu().to(torch.int32).contiguous().numpy().tobytes()).hexdigest()


@contextmanager
def telling(model: Any, take: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """While the block runs, `take` is called with each activation [batch, tokens, width] at every node site, and with y (`sites.y_name`), as the model
    makes it; nothing is kept."""

    def tell(name: str) -> Any:
        return lambda module, args, out: take(name, out.detach())

    def tell_input(name: str) -> Any:
        return lambda module, args: take(name, args[0].detach())

    with hooks() as handles:
        for name, site in require_csp(model).node_sites().items():
            handles.append(site.register_forward_hook(tell(name)))
        for i, block in enumerate(model.transformer.h):
            for matrix in MATRICES:
                if matrix.inputs:
                    hook = tell_input(matrix.inputs_name(i))
                    handles.append(block.get_submodule(matrix.path).register_forward_pre_hook(hook))
        yield


@contextmanager
def watching(model: Any) -> Iterator[dict[str, torch.Tensor]]:
    """While the block runs, a dict of the last activations [batch, tokens, width] at every node site, and of y (`sites.y_name`)."""
    seen: dict[str, torch.Tensor] = {}
    with telling(model, seen.__setitem__):
        yield seen


@torch.no_grad()
def mean_activations(model: Any, blocks: torch.Tensor, batch: int = 16, *, samples: int = 0, seed: int = 0) -> Means:
    """Mean of every node over all tokens of blocks [n, tokens] of token ids, as sums in float64, streaming.

    The same, up to float64 rounding, for every batch size. AbsTopK is applied, as the model does it.

    Args:
        samples: how many tokens' activations to keep beside the means, for resampling, drawn by `seed`; of models of over 60,000 nodes fewer than
            2,048, as half a gigabyte has room for.

    Raises:
        ValueError: if there are no tokens, or ids that the model does not have.
    """
    if blocks.dim() != 2 or blocks.numel() == 0:
        raise ValueError(f"blocks has the shape {tuple(blocks.shape)}; it must be [blocks, tokens] with at least one of each.")
    if int(blocks.min()) < 0 or int(blocks.max()) >= require_csp(model).config.vocab_size:
        raise ValueError(
            f"blocks has the token id {int(blocks.max())}, the model {model.config.vocab_size} tokens; use its own tokenizer."
        )
    sums: dict[str, torch.Tensor] = {}
    low: dict[str, torch.Tensor] = {}
    high: dict[str, torch.Tensor] = {}

    def add(name: str, activation: torch.Tensor) -> None:
        flat = activation.flatten(0, -2)
        total, least, most = flat.sum(0, dtype=torch.float64).cpu(), flat.amin(0).float().cpu(), flat.amax(0).float().cpu()
        sums[name] = sums[name] + total if name in sums else total
        low[name] = torch.minimum(low[name], least) if name in low else least
        high[name] = torch.maximum(high[name], most) if name in high else most

    with evaluating(model), torch.no_grad(), telling(model, add):
        for ids in tqdm(blocks.split(batch), desc="means", unit="batch", disable=None, delay=2):
            model(input_ids=ids.long().to(model.device), use_cache=False, logits_to_keep=1)
    count = blocks.numel()
    corpus = corpus_sha256(blocks)
    samples = min(samples, max(1, MOST_SAMPLES // (4 * sum(len(total) for total in sums.values()))))
    kept = sample_activations(model, blocks, samples, seed, batch) if samples else None
    return Means({name: (total / count).float() for name, total in sums.items()}, low, high, count, corpus, kept)


@torch.no_grad()
def sample_activations(model: Any, blocks: torch.Tensor, count: int, seed: int = 0, batch: int = 16) -> dict[str, torch.Tensor]:
    """Site -> activations [count, width] at `count` random tokens of the blocks, the same tokens at every site (for resampling)."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(0, blocks.numel(), (count,), generator=generator).sort().values
    found: dict[str, torch.Tensor] = {}
    here, start, done = chosen, 0, 0

    def keep(name: str, activation: torch.Tensor) -> None:
        own = activation.flatten(0, -2)[here.to(activation.device)]
        if name not in found:  # whole from the first: lists of parts would take twice the memory when they are put together
            found[name] = torch.empty(count, own.shape[1])
        found[name][done : done + len(here)] = own

    with evaluating(model), torch.no_grad(), telling(model, keep):
        for ids in blocks.split(batch):
            here = chosen[(chosen >= start) & (chosen < start + ids.numel())] - start
            start += ids.numel()
            if len(here):
                model(input_ids=ids.long().to(model.device), use_cache=False, logits_to_keep=1)
                done += len(here)
    return found
