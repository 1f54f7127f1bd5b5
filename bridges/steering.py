"""Steering: what one node of the sparse model means for the dense one, through the decoder's column for its channel (docs/method.md#steering)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from ..circuits.hooks import hooks
from ..circuits.means import watching
from ..circuits.reading import parse_node
from ..circuits.sites import evaluating
from ..circuits.tasks import Pairs
from ..wiring_csp import FINAL, located, reads_residual
from .hybrids import stream
from .pair import BridgedPair
from .sides import Side

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
FINALISTS, TRIALS = 16, 20  # of `best_nodes`: nodes, and random directions for each
DRAWS = 1000  # of the bootstrap over prompts
ROWS = 256  # prompts that run at once


class Push(NamedTuple):
    """What is added at strength 1 to what the dense model reads at `point`: amount [prompts, tokens] x direction [dense width]."""

    point: int
    amount: torch.Tensor
    direction: torch.Tensor


class Steering:
    """A pair on prompts, each to be pushed to its counterfactual (its partner) along one sparse node.

    The push is added to the output of the norm through which the dense model reads the node's point, at all tokens: strength x (the node's activation on
    the counterfactual - on the prompt) x its column of the decoder x RMS of the sparse stream / RMS of the dense stream there. The ratio
    is needed because the bridge goes between streams and the node is read after the norm. The method's rule says nothing of the norms' gains. We divide by
    the gain of the node's channel and multiply by the dense norm's, without which the push is not what the counterfactual's stream
    would be read as (a channel with a negative gain would push the wrong way); where gains are 1 the two are the same.
    So strength 1 is the node's own part of the difference between a prompt and its counterfactual; more goes on in its direction.

    Args:
        pair: its models are left as they are.
        prompts: pairs; each prompt's counterfactual is its partner. Pairs of two lengths in tokens are left out: they cannot be laid on one another.
        reference: token ids [n, tokens] over which RMS is taken; as many tokens of each as both models take.
        gains: False: the rule to the letter, without the gains.

    Attributes:
        prompts: the pairs that are steered. left_out: how many pairs are not.

    Raises:
        ValueError: if no pair is left, a prompt is too long for a model, or there is no reference.
    """

    def __init__(self, pair: BridgedPair, prompts: Pairs, reference: torch.Tensor, *, gains: bool = True):
        lengths = prompts.attention_mask.sum(1)
        equal = (lengths[::2] == lengths[1::2]).nonzero().flatten().tolist()
        if not equal:
            raise ValueError(
                "None of these prompts is as long as its counterfactual in tokens, so steering cannot lay them on one another; take another task."
            )
        if int(lengths.max()) > min(pair.dense.longest, pair.sparse.longest):
            raise ValueError(
                f"A prompt has {int(lengths.max())} tokens; the models take {pair.dense.longest} and {pair.sparse.longest}."
            )
        self.pair, self.prompts, self.gains = pair, prompts.at(equal), gains
        self.left_out = len(prompts) - len(equal)
        self.sparse_rms, self.dense_rms = stream_rms(pair, reference)
        with evaluating(pair.sparse.model), torch.no_grad():
            self.differences = _differences(pair.sparse.model, self.prompts)
        with evaluating(pair.dense.model), torch.no_grad():
            self._behind = _behind_blocks(pair.dense.model, self.prompts)

    def moves(self, node: str) -> bool:
        """Whether the node differs between any prompt and its counterfactual."""
        return bool(self.along(node).amount.any())

    def along(self, node: str) -> Push:
        """The push along "site:index", a read of the residual stream ("3.attn.act_in:17").

        Raises:
            ValueError: for a node that is no read of the residual stream.
        """
        point, channel = read_point(self.pair.sparse.model, node)
        amount = self.differences[node.partition(":")[0]][..., channel]
        direction = self.pair.bridges.decoders[point].weight[:, channel].detach()  # type: ignore[index]
        read = self.pair.dense.read(point)
        if isinstance(read, nn.LayerNorm):
            direction = direction - direction.mean()
        scale = 1 / self.dense_rms[point]
        if not node.startswith(FINAL):  # its nodes are the stream itself, the others are read after a norm
            gain = float(self.pair.sparse.read(point).weight.detach()[channel]) if self.gains else 1.0  # type: ignore[index,operator]
            scale *= self.sparse_rms[point] / gain if gain else 0.0
        if self.gains:
            direction = direction * read.weight.detach()  # type: ignore[operator]
        return Push(point, amount, scale * direction)

    def random(self, push: Push, count: int, generator: torch.Generator) -> torch.Tensor:
        """Directions [count, dense width] of the same length."""
        drawn = torch.randn(count, len(push.direction), generator=generator).to(push.direction)
        return drawn / drawn.norm(dim=1, keepdim=True) * push.direction.norm()

    def last_logits(self, push: Push, strength: float, directions: torch.Tensor | None = None) -> Iterator[torch.Tensor]:
        """The dense model's logits [prompts, vocab] after each prompt, pushed along each of some directions (default: the push's own) in turn."""
        directions = push.direction[None] if directions is None else directions
        for some in directions.split(max(1, ROWS // len(self.prompts.texts))):
            yield from self._pushed(push, strength, some)

    def _pushed(self, push: Push, strength: float, directions: torch.Tensor) -> torch.Tensor:
        n, ids, mask = len(directions), self.prompts.input_ids, self.prompts.attention_mask
        pushes = strength * push.amount[None, ..., None] * directions[:, None, None]
        pushed = _added(self.pair.dense, push.point, pushes.flatten(0, 1))
        with evaluating(self.pair.dense.model), torch.no_grad(), pushed, _begun(self._behind[: push.point // 2], n):
            return _last(self.pair.dense.model, ids.repeat(n, 1), mask.repeat(n, 1)).unflatten(0, (n, -1))

    def probabilities(self, push: Push, strength: float, directions: torch.Tensor | None = None) -> torch.Tensor:
        """[directions, prompts, 2]: of the prompt's own answer, and of the counterfactual's."""
        found = []
        for logits in self.last_logits(push, strength, directions):
            found.append(logits.float().softmax(-1).gather(-1, self.prompts.answers.to(logits.device)).cpu())
        return torch.stack(found)


def steer(
    pair: BridgedPair,
    prompts: Pairs,
    node: str,
    reference: torch.Tensor,
    *,
    strengths: Sequence[float] = STRENGTHS,
    others: Sequence[str] = (),
    random_directions: int = 40,
    gains: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Pushes the dense model towards the counterfactuals of prompts along one sparse node, and watches their answers. See `Steering`.

    Args:
        others: more nodes, as controls. random_directions: directions of the push's length, as controls.

    Returns:
        strengths; probability: of the other answer in the dense model, mean over prompts; low, high: 95 % of a bootstrap over prompts; answer: probability of
        the prompt's own answer; random: low, median and high (95 % of the directions' means); others: node -> means; lengths: node -> length of its push
        at strength 1 (`push_length`); prompts, left_out: how many are steered, and how many pairs could not be.

    Raises:
        ValueError: for a node that is no read of the residual stream, no pairs of equal length, no random direction, or strengths that are no numbers.
    """
    if not strengths or not all(math.isfinite(s) for s in strengths):
        raise ValueError(f"strengths are {list(strengths)}; give at least one finite number.")
    if random_directions < 1:
        raise ValueError(
            f"random_directions is {random_directions}; without a random direction there is nothing to compare with."
        )
    steering = Steering(pair, prompts, reference, gains=gains)
    generator = torch.Generator().manual_seed(seed)
    push = steering.along(node)
    own = torch.stack([steering.probabilities(push, s)[0] for s in strengths])
    drawn = steering.random(push, random_directions, generator)
    random = torch.stack([steering.probabilities(push, s, drawn)[..., 1].mean(1) for s in strengths])
    curves, lengths = {}, {node: push_length(push)}
    for other in others:
        theirs = steering.along(other)
        lengths[other] = push_length(theirs)
        curves[other] = [float(steering.probabilities(theirs, s)[..., 1].mean()) for s in strengths]
    low, high = _bootstrap(own[..., 1], generator)
    bands = random.quantile(torch.tensor([0.025, 0.5, 0.975]), dim=1)
    return {
        "node": node, "gains": gains, "strengths": list(strengths), "prompts": len(steering.prompts.texts), "left_out": steering.left_out, "lengths": lengths,
        "probability": own[..., 1].mean(1).tolist(), "low": low, "high": high, "answer": own[..., 0].mean(1).tolist(),
        "random": {"directions": random_directions, "low": bands[0].tolist(), "median": bands[1].tolist(), "high": bands[2].tolist()}, "others": curves,
    }  # fmt: skip


def push_length(push: Push) -> float:
    """Of the largest push at any token, mean over prompts, in units of what the dense model reads (RMS 1, but for the gain)."""
    return float(push.amount.abs().amax(1).mean() * push.direction.norm())


def best_nodes(steering: Steering, candidates: Sequence[str], *, strength: float = 1.0, seed: int = 0) -> list[str]:
    """Nodes along which a push does most for the counterfactuals' answers, best first. Choose on other prompts than those that are reported.

    The first few by probability are put in order by how far they are above random directions of the same length: a push that is large
    enough to break the model raises everything.
    """
    found = []
    for node in filter(steering.moves, candidates):
        found.append((float(steering.probabilities(steering.along(node), strength)[..., 1].mean()), node))
    found.sort(reverse=True)
    generator, margins = torch.Generator().manual_seed(seed), []
    for probability, node in found[:FINALISTS]:
        push = steering.along(node)
        drawn = steering.probabilities(push, strength, steering.random(push, TRIALS, generator))
        margins.append((probability - float(drawn[..., 1].mean(1).max()), node))
    return [node for _, node in sorted(margins, reverse=True)] + [node for _, node in found[FINALISTS:]]


def read_nodes(model: Any) -> list[str]:
    """Every node of the sparse model that reads the residual stream through a norm, positions aside: the candidates for steering. Those of
    final_resid can be steered along too, but what they write is the logits themselves."""
    return [
        f"{site}:{i}"
        for site in model.node_sites()
        if site != FINAL and reads_residual(site)
        for i in range(model.config.d_model)
    ]


def read_point(model: Any, node: str) -> tuple[int, int]:
    """(residual point, channel) of a read of the residual stream.

    Raises:
        ValueError: for any other node.
    """
    site, index = parse_node(model, node)
    if not reads_residual(site) or index >= model.config.d_model:
        raise ValueError(f"{node} does not read the residual stream; steer along a node such as 0.mlp.act_in:3.")
    if site == FINAL:
        return 2 * model.config.n_layer, index
    layer, location = located(site)
    return 2 * (layer or 0) + (location == "mlp_in"), index


def stream_rms(pair: BridgedPair, reference: torch.Tensor, batch: int = 8) -> tuple[list[float], list[float]]:
    """RMS of the sparse and of the dense stream at each point, over token ids [n, tokens]; without its mean, where a LayerNorm reads it.

    Raises:
        ValueError: if there are no tokens.
    """
    if not reference.numel():
        raise ValueError("The scales of the two streams are taken over some text, and there is none; give a corpus.")
    squares = torch.zeros(2, pair.bridges.points, dtype=torch.float64)
    with evaluating(pair.dense.model), evaluating(pair.sparse.model), torch.no_grad():
        for ids in reference[:, : min(pair.dense.longest, pair.sparse.longest)].split(batch):
            ids = ids.long().to(pair.dense.model.device)
            for row, side in enumerate((pair.sparse, pair.dense)):
                for i, x in enumerate(stream(side, ids)[0]):
                    x = x.double()
                    if isinstance(side.read(i), nn.LayerNorm):
                        x = x - x.mean(-1, keepdim=True)
                    squares[row, i] += float(x.square().mean()) * len(ids)
    found = (
        (squares / len(reference)).sqrt().clamp_min(1e-150)
    )  # a stream that is 0 everywhere: nothing to push, nothing to divide by
    return found[0].tolist(), found[1].tolist()


def _differences(model: Any, prompts: Pairs) -> dict[str, torch.Tensor]:
    """Read -> [prompts, tokens, width]: its nodes on the counterfactual minus on the prompt; 0 on padding."""
    mask = prompts.attention_mask.to(model.device)
    with watching(model) as seen:
        _last(model, prompts.input_ids, prompts.attention_mask)
        partner = torch.arange(len(mask)) ^ 1
        return {
            site: (values[partner] - values) * mask[..., None].to(values)
            for site, values in seen.items()
            if reads_residual(site)
        }


def _last(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Logits [prompts, vocab] at the last token of prompts that are padded on the left."""
    mask = mask.to(model.device)
    places = (mask.cumsum(1) - 1).clamp_min(0)
    return model(
        input_ids=ids.to(model.device), attention_mask=mask, position_ids=places, use_cache=False, logits_to_keep=1
    ).logits[:, -1]


def _behind_blocks(model: Any, prompts: Pairs) -> list[tuple[nn.Module, Any]]:
    """Each block of a model that has a list of them, with what it gives on the prompts: what lies before a push is not run again."""
    found: list[tuple[nn.Module, Any]] = []
    with hooks() as handles:
        for block in getattr(getattr(model, "transformer", None), "h", ()):
            handles.append(block.register_forward_hook(lambda module, args, out: found.append((module, out))))
        _last(model, prompts.input_ids, prompts.attention_mask)
    return found


@contextmanager
def _begun(blocks: Sequence[tuple[nn.Module, Any]], times: int) -> Iterator[None]:
    """While the block runs, these blocks give what they gave, so many times."""

    def again(out: Any) -> Any:
        return out.repeat(times, 1, 1) if isinstance(out, torch.Tensor) else tuple(map(again, out))

    try:
        for module, out in blocks:
            module.forward = lambda *args, out=out, **more: again(out)
        yield
    finally:
        for module, _ in blocks:
            del module.forward


@contextmanager
def _added(side: Side, point: int, push: torch.Tensor) -> Iterator[None]:
    with hooks() as handles:
        handles.append(side.read(point).register_forward_hook(lambda module, args, out: out + push.to(out)))
        yield


def _bootstrap(values: torch.Tensor, generator: torch.Generator) -> tuple[list[float], list[float]]:
    """95 % of the means over resampled pairs; values [strengths, prompts]. The two prompts of a pair are drawn together."""
    pairs = values.unflatten(1, (-1, 2)).mean(2)
    draws = torch.randint(0, pairs.shape[1], (DRAWS, pairs.shape[1]), generator=generator)
    means = pairs[:, draws].mean(2)
    return means.quantile(0.025, dim=1).tolist(), means.quantile(0.975, dim=1).tolist()
