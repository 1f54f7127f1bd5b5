"""Reading a model by hand: what one node reads and writes, where it is active, what it is good for. Plain data."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..wiring_csp import FINAL, reads_residual, writes_residual
from .ablation import ablated, holding
from .means import telling, watching
from .sites import dense, edge_maps, evaluating, require_csp

if TYPE_CHECKING:
    from .circuit import Circuit

BEFORE, AFTER = 12, 4  # tokens of a context around the one that it is about


@torch.no_grad()
def read_node(
    model: Any, tokenizer: Any, node: str, blocks: torch.Tensor, *, contexts: int = 5, edges: int = 20, batch: int = 16
) -> dict[str, Any]:
    """What a node does.

    Args:
        node: "site:index".
        blocks: token ids [n, tokens] of a corpus.
        contexts: how many places with its largest, and as many with its smallest activations.
        edges: how many of its weights each way, largest magnitude first.

    Returns:
        node, reads and writes ("site:index" and weight; embeddings and unembeddings as tokens), mean, active (fraction of tokens where it
        is not 0), largest and smallest (token, activation, text before and after), loss and loss_ablated: of the model on the blocks, in
        nats per token, the second with the node at its mean.

    Raises:
        ValueError: if the model has no such node.
    """
    site, index = parse_node(model, node)
    activations = activations_of(model, [node], blocks, batch)[node]
    flat = activations.flatten()
    order = flat.argsort(stable=True)
    mean = float(flat.double().mean())
    loss, ablated_loss = _losses(model, site, index, mean, blocks, batch)
    reads, writes = read_weights(model, site, index, edges)
    if reads_residual(site) and index < model.config.d_model:
        reads += _tokens(model, tokenizer, model.transformer.wte.weight, index, edges)
    if site == FINAL:
        writes += _tokens(model, tokenizer, model.lm_head.weight, index, edges)
    return {
        "node": node, "reads": reads, "writes": writes,
        "mean": mean, "active": float((flat != 0).double().mean()), "tokens": flat.numel(),
        "largest": [_context(tokenizer, blocks, flat, int(at)) for at in order.flip(0)[:contexts]],
        "smallest": [_context(tokenizer, blocks, flat, int(at)) for at in order[:contexts]],
        "loss": loss, "loss_ablated": ablated_loss,
    }  # fmt: skip


def parse_node(model: Any, node: str, sites: Mapping[str, Any] | None = None) -> tuple[str, int]:
    """(site, index) of "site:index".

    Args:
        sites: what the model's `node_sites()` gives, for who parses many.

    Raises:
        ValueError: if the model has no such node.
    """
    site, _, number = node.rpartition(":")
    sites = require_csp(model).node_sites() if sites is None else sites
    if site not in sites:
        raise ValueError(
            f"{node!r:.80} names no node: write SITE:INDEX with a site such as {', '.join(list(sites)[:3])}, {FINAL}."
        )
    if not (number.isascii() and number.isdigit() and len(number) < 10) or int(number) >= sites[site].width:
        raise ValueError(f"{node!r:.80} names no node: {site} has the nodes 0 to {sites[site].width - 1}.")
    return site, int(number)


def activations_of(model: Any, nodes: Sequence[str], blocks: torch.Tensor, batch: int = 16) -> dict[str, torch.Tensor]:
    """Node -> its activations on blocks [n, tokens], in one pass.

    Raises:
        ValueError: if the model has no such node.
    """
    places = {node: parse_node(model, node) for node in nodes}
    found: dict[str, list[torch.Tensor]] = {node: [] for node in nodes}

    def take(name: str, activation: torch.Tensor) -> None:
        for node, (site, index) in places.items():
            if site == name:
                found[node].append(activation[..., index].float().cpu())

    with evaluating(model), torch.no_grad(), telling(model, take):
        for ids in blocks.split(batch):
            model(input_ids=ids.long().to(model.device), use_cache=False, logits_to_keep=1)
    return {node: torch.cat(parts) for node, parts in found.items()}


def _losses(model: Any, site: str, index: int, mean: float, blocks: torch.Tensor, batch: int) -> tuple[float, float]:
    width = model.node_sites()[site].width
    closed = holding(torch.arange(width) != index, torch.full((width,), mean))
    sums = [0.0, 0.0]
    for ids in blocks.split(batch):
        ids = ids.long().to(model.device)
        for i, changes in enumerate(({}, {site: closed})):
            with ablated(model, changes):
                sums[i] += float(model(input_ids=ids, labels=ids, use_cache=False).loss) * len(ids)
    return sums[0] / len(blocks), sums[1] / len(blocks)


def _largest(weights: torch.Tensor, names: list[str], count: int) -> list[dict[str, Any]]:
    nonzero = weights.nonzero()[:, 0]
    order = nonzero[weights[nonzero].abs().argsort(descending=True, stable=True)][:count]
    return [{"node": names[int(i)], "weight": float(weights[i])} for i in order]


def read_weights(model: Any, site: str, index: int, count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Weights into and out of a node, largest magnitude first, as {"node", "weight"}.

    A read of the residual stream is linked with weight 1 to what is written to its channel before it, a write with the reads after it.
    """
    maps, names = edge_maps(model).values(), list(model.node_sites())
    reads: list[dict[str, Any]] = []
    writes: list[dict[str, Any]] = []
    for part in maps:
        if part.target == site:
            row = part.weight()[index].float().cpu()
            reads += _largest(row, [f"{part.source}:{i}" for i in range(len(row))], count)
        if part.source == site:
            column = part.weight()[:, index].float().cpu()
            writes += _largest(column, [f"{part.target}:{i}" for i in range(len(column))], count)
    if not any(part.target == site for part in maps):
        if index >= model.config.d_model:
            reads.append({"node": f"position channel {index - model.config.d_model}", "weight": 1.0})
        else:
            before = [name for name in names[: names.index(site)] if writes_residual(name)]
            reads += [{"node": f"{name}:{index}", "weight": 1.0} for name in before]
    if writes_residual(site):
        after = [name for name in names[names.index(site) + 1 :] if reads_residual(name)]
        writes += [{"node": f"{name}:{index}", "weight": 1.0} for name in after]
    return reads, sorted(writes, key=lambda each: -abs(each["weight"]))[:count]


def _tokens(model: Any, tokenizer: Any, matrix: Any, index: int, count: int) -> list[dict[str, Any]]:
    """Tokens with the largest weights of a residual channel in the embedding or the unembedding."""
    column = dense(matrix)[:, index].float().cpu()
    return _largest(column, [f"token {tokenizer.decode([i])!r}" for i in range(len(column))], count)


def _context(tokenizer: Any, blocks: torch.Tensor, flat: torch.Tensor, at: int) -> dict[str, Any]:
    row, column = divmod(at, blocks.shape[1])
    ids = blocks[row].tolist()
    return {
        "token": tokenizer.decode([ids[column]]), "activation": float(flat[at]),
        "before": tokenizer.decode(ids[max(0, column - BEFORE) : column]), "after": tokenizer.decode(ids[column + 1 : column + 1 + AFTER]),
    }  # fmt: skip


def observed(
    model: Any, ids: torch.Tensor, circuit: Circuit | None = None
) -> tuple[dict[str, torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """What the model, or the circuit in it, does on one prompt.

    Args:
        ids: [1, tokens].
        circuit: of this model, which the caller has checked.

    Returns:
        site -> activations [tokens, width]; attention probabilities of each layer [heads, tokens, tokens]; logits of the last token.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the others keep the probabilities to themselves
    applied = contextlib.nullcontext() if circuit is None else circuit.running(model)
    try:
        with applied, watching(model) as seen:
            out = model(input_ids=ids.to(model.device), use_cache=False, output_attentions=True)
    finally:
        model.set_attn_implementation(before)
    return (
        {name: each[0].float().cpu() for name, each in seen.items()},
        [a[0].float().cpu() for a in out.attentions],
        out.logits[0, -1].float().cpu(),
    )


def describe(found: dict[str, Any]) -> str:
    """A node for the terminal."""
    lines = [f"{found['node']}: mean {found['mean']:.4f}, not 0 at {found['active']:.1%} of {found['tokens']:,} tokens"]
    lines.append(f"loss {found['loss']:.4f} nats per token, {found['loss_ablated']:.4f} with the node at its mean")
    for title in ("reads", "writes"):
        lines.append(f"{title}:")
        lines += [f"  {each['weight']:+9.4f}  {each['node']}" for each in found[title]] or ["  nothing"]
    for title in ("largest", "smallest"):
        lines.append(f"{title}:")
        lines += [f"  {c['activation']:+9.4f}  {(c['before'] + '[[' + c['token'] + ']]' + c['after'])!r}" for c in found[title]]
    return "\n".join(lines)
