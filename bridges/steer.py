"""Steering: what one node of the sparse model means for the dense one, through the decoder's column for its channel (METHOD, section 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..circuits.means import watching
from ..circuits.reading import parse_node
from ..circuits.sites import evaluating
from ..circuits.tasks import Pairs
from .hybrids import stream
from .pair import BridgedPair
from .sides import Side

STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
DRAWS = 1000  # of the bootstrap over prompts


def steer(
    pair: BridgedPair,
    prompts: Pairs,
    node: str,
    reference: torch.Tensor,
    *,
    strengths: Sequence[float] = STRENGTHS,
    others: Sequence[str] = (),
    random_directions: int = 40,
    seed: int = 0,
) -> dict[str, Any]:
    """Pushes the dense model, on each prompt, towards its counterfactual along one sparse node, and watches the counterfactual's answer.

    The push is added to the output of the norm through which the dense model reads the point, at all tokens: strength x (the node's activation on
    the counterfactual - on the prompt) x its column of the decoder x RMS of the sparse stream / RMS of the dense stream there. The ratio is needed because the
    bridge goes between streams and the node is read after the norm; the norms' gains are left out, as in METHOD's rule.

    Args:
        prompts: pairs; each prompt's counterfactual is its partner, of the same number of tokens.
        node: "site:index" of a read of the residual stream ("3.attn.act_in:17").
        reference: token ids [n, tokens] over which RMS is taken.
        others: more nodes, as controls. random_directions: directions of the column's norm, as controls.

    Returns:
        strengths; probability: of the other answer in the dense model, mean over prompts; low, high: 95 % of a bootstrap over prompts; random: low, mean and
        high (95 % of the directions' means); others: node -> means.

    Raises:
        ValueError: for a node that is no read of the residual stream, or pairs of unequal length.
    """
    lengths = prompts.attention_mask.sum(1)
    if not torch.equal(lengths[::2], lengths[1::2]):
        raise ValueError("Steering needs prompts as long as their counterfactuals, in tokens; this task has others.")
    point, channel = read_point(pair.sparse.model, node)
    generator = torch.Generator().manual_seed(seed)
    with evaluating(pair.dense.model), evaluating(pair.sparse.model), torch.no_grad():
        scales = rms_ratios(pair, reference)
        column = pair.bridges.decoders[point].weight[:, channel].detach()  # type: ignore[index]
        difference = _differences(pair.sparse.model, prompts, node)
        own = torch.stack(
            [_probabilities(pair.dense, prompts, point, s * scales[point] * difference, column) for s in strengths]
        )
        random = []
        for _ in range(random_directions):
            drawn = torch.randn(len(column), generator=generator).to(column)
            drawn = drawn / drawn.norm() * column.norm()
            random.append(
                [
                    float(_probabilities(pair.dense, prompts, point, s * scales[point] * difference, drawn).mean())
                    for s in strengths
                ]
            )
        curves = {}
        for other in others:
            at, index = read_point(pair.sparse.model, other)
            theirs, moved = pair.bridges.decoders[at].weight[:, index].detach(), _differences(pair.sparse.model, prompts, other)  # type: ignore[index]
            curves[other] = [
                float(_probabilities(pair.dense, prompts, at, s * scales[at] * moved, theirs).mean()) for s in strengths
            ]
    low, high = _bootstrap(own, generator)
    bands = torch.tensor(random).quantile(torch.tensor([0.025, 0.5, 0.975]), dim=0) if random else torch.zeros(3, 0)
    return {
        "node": node, "strengths": list(strengths), "prompts": len(prompts.texts), "probability": own.mean(1).tolist(), "low": low, "high": high,
        "random": {"directions": random_directions, "low": bands[0].tolist(), "median": bands[1].tolist(), "high": bands[2].tolist()}, "others": curves,
    }  # fmt: skip


def best_nodes(
    pair: BridgedPair, prompts: Pairs, reference: torch.Tensor, candidates: Sequence[str], strength: float = 1.0
) -> list[tuple[str, float]]:
    """(node, probability of the other answer at that strength), best first. Choose on other prompts than those that are reported."""
    found = []
    with evaluating(pair.dense.model), evaluating(pair.sparse.model), torch.no_grad():
        scales = rms_ratios(pair, reference)
        for node in candidates:
            point, channel = read_point(pair.sparse.model, node)
            difference = _differences(pair.sparse.model, prompts, node)
            if bool(difference.any()):
                column = pair.bridges.decoders[point].weight[:, channel].detach()  # type: ignore[index]
                found.append(
                    (
                        node,
                        float(_probabilities(pair.dense, prompts, point, strength * scales[point] * difference, column).mean()),
                    )
                )
    return sorted(found, key=lambda each: -each[1])


def read_nodes(model: Any) -> list[str]:
    """Every node of the sparse model that reads the residual stream, positions aside."""
    return [f"{site}:{i}" for site in model.node_sites() if site.endswith("act_in") for i in range(model.config.d_model)]


def read_point(model: Any, node: str) -> tuple[int, int]:
    """(residual point, channel) of a read of the residual stream.

    Raises:
        ValueError: for any other node.
    """
    site, index = parse_node(model, node)
    if not site.endswith("act_in") or index >= model.config.d_model:
        raise ValueError(f"{node} does not read the residual stream; steer along a node such as 0.mlp.act_in:3.")
    layer, _, kind = site.partition(".")
    return 2 * int(layer) + kind.startswith("mlp"), index


def rms_ratios(pair: BridgedPair, reference: torch.Tensor, batch: int = 8) -> list[float]:
    """RMS of the sparse over that of the dense stream, at each point, over token ids [n, tokens]."""
    squares = torch.zeros(2, pair.bridges.points, dtype=torch.float64)
    for ids in reference.split(batch):
        ids = ids.long().to(pair.dense.model.device)
        for row, side in enumerate((pair.sparse, pair.dense)):
            for i, x in enumerate(stream(side, ids)[0]):
                squares[row, i] += float(x.double().square().mean()) * len(ids)
    return (squares[0] / squares[1].clamp_min(1e-300)).sqrt().tolist()


def _differences(model: Any, prompts: Pairs, node: str) -> torch.Tensor:
    """[prompts, tokens]: the node on the counterfactual minus on the prompt; 0 on padding."""
    site, index = parse_node(model, node)
    with watching(model) as seen:
        model(
            input_ids=prompts.input_ids.to(model.device),
            attention_mask=prompts.attention_mask.to(model.device),
            use_cache=False,
            logits_to_keep=1,
        )
        values = seen[site][..., index]
    partner = torch.arange(len(values)) ^ 1
    return (values[partner] - values) * prompts.attention_mask.to(values)


def _probabilities(side: Side, prompts: Pairs, point: int, push: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Probability [prompts] of the other answer while push [prompts, tokens] x direction [width] is added to what is read at a point."""
    mask = prompts.attention_mask.to(side.model.device)
    with _added(side, point, push[..., None] * direction):
        logits = side.model(
            input_ids=prompts.input_ids.to(side.model.device), attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp_min(0), use_cache=False,
            logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip
    return logits.float().softmax(-1).gather(1, prompts.answers[:, 1:].to(logits.device))[:, 0].cpu()


@contextmanager
def _added(side: Side, point: int, push: torch.Tensor) -> Iterator[None]:
    handle = side.read(point).register_forward_hook(lambda module, args, out: out + push.to(out))
    try:
        yield
    finally:
        handle.remove()


def _bootstrap(values: torch.Tensor, generator: torch.Generator) -> tuple[list[float], list[float]]:
    """95 % of the means over resampled pairs; values [strengths, prompts]. The two prompts of a pair are drawn together."""
    pairs = values.unflatten(1, (-1, 2)).mean(2)
    draws = torch.randint(0, pairs.shape[1], (DRAWS, pairs.shape[1]), generator=generator)
    means = pairs[:, draws].mean(2)
    return means.quantile(0.025, dim=1).tolist(), means.quantile(0.975, dim=1).tolist()
