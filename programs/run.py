"""Parts, run on many prompts at once, a token at a time: prompts that begin alike share what they have in common."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..modeling_csp import activate
from .parts import MLP, Answers, Attention, Head, Linear, Parts, Read

Seen = dict[str, list[torch.Tensor]]
Blocks = tuple[torch.Tensor, ...]  # of a growing sequence: putting them together at each token would copy all of it each time
SMALL = 1 << 16  # numbers that are sooner copied than left in two blocks


@dataclass
class State:
    """What is left of prompts [n] of so many tokens: keys and values of each attention, by layer, in blocks [n, tokens of the block, ...]."""

    count: int
    keys: dict[int, Blocks]
    values: dict[int, Blocks]
    tokens: int = 0

    def at(self, rows: torch.Tensor) -> State:
        """Those prompts, each as often as it is named; all of their tokens in one block."""

        def taken(blocks: dict[int, Blocks]) -> dict[int, Blocks]:
            return {layer: (torch.cat(each, 1)[rows],) for layer, each in blocks.items()}

        return State(len(rows), taken(self.keys), taken(self.values), self.tokens)


def _longer(blocks: Blocks, of_token: torch.Tensor) -> Blocks:
    """With one token more [n, ...]; of few prompts in one block, since each block costs a round of calls."""
    if not blocks or blocks[-1].numel() > SMALL:
        return (*blocks, of_token[:, None])
    return (*blocks[:-1], torch.cat([blocks[-1], of_token[:, None]], 1))


def begin(count: int = 1) -> State:
    return State(count, {}, {})


def step(
    parts: Parts, state: State, tokens: torch.Tensor, last: bool = False, seen: Seen | None = None
) -> tuple[State, torch.Tensor | None]:
    """Prompts with one token more, [n]; after the last the logits of the answers, [n, answers]."""
    tokens = parts.rows(tokens, state.tokens)
    stream = parts.stream[tokens]
    keys, values = dict(state.keys), dict(state.values)
    for each in parts.sublayers:
        if not last and each.layer > parts.deepest - isinstance(each, MLP):
            break
        if isinstance(each, Attention) and not (each.alone and seen is None):
            q, k, v = _asked(each, "qkv", tokens, stream, seen)
            keys[each.layer] = _longer(keys.get(each.layer, ()), k)
            values[each.layer] = _longer(values.get(each.layer, ()), v)
            if not last and each.layer == parts.deepest:
                break
            if seen is not None:
                seen.setdefault(f"{each.layer}:queries", []).append(q)
            written = linear(each.write, _attend(each, q, keys[each.layer], values[each.layer]), seen)
        else:
            written = written_alone(each, tokens, stream, state.tokens + 1, seen)
        stream = stream.index_add(1, places_of(each, parts), written)
    after = State(len(tokens), keys, values, state.tokens + 1)
    return after, answer(parts.answers, tokens, stream, seen) if last else None


def run(parts: Parts, prompts: torch.Tensor, seen: Seen | None = None) -> torch.Tensor:
    """Logits of the answers after prompts [n, tokens], all of one length.

    Args:
        seen: takes what each map was given, by its site, what queries were ("<layer>:queries"), and scales of norms ("<site>:scale"), a tensor a token.
    """
    state = begin(len(prompts))
    for i in range(prompts.shape[1]):
        state, logits = step(parts, state, prompts[:, i], i == prompts.shape[1] - 1, seen)
    assert logits is not None
    return logits


def conclude(parts: Parts, sources: torch.Tensor, tokens: torch.Tensor, count: int) -> torch.Tensor:
    """Logits of the answers [n, answers] after prompts of `count` tokens that end with tokens [n] (rows of tables), where the first sublayer alone takes in other tokens, and
    has made `sources` [n, sources] of them."""
    stream = parts.stream[tokens].index_add(1, places_of(parts.sublayers[0], parts), linear(parts.sublayers[0].write, sources))
    for each in parts.sublayers[1:]:
        stream = stream.index_add(1, places_of(each, parts), written_alone(each, tokens, stream, count))
    return answer(parts.answers, tokens, stream)


def written_alone(
    each: Attention | MLP, tokens: torch.Tensor, stream: torch.Tensor, count: int | torch.Tensor, seen: Seen | None = None
) -> torch.Tensor:
    """What a sublayer that takes in no other token writes [n, nodes], at the last of `count` tokens (one number, or [n]): an MLP, or attention that is `alone`."""
    if isinstance(each, MLP):
        return linear(each.write, linear(each.neurons, read_tokens(each.read, tokens, stream, seen), seen), seen)
    (q,) = _asked(each, "q", tokens, stream, seen)
    shares = [share_alone(head, each.scaling, q, count) for head in each.heads if head.shared]
    nothing = torch.zeros(len(tokens), len(each.nodes["v"]), dtype=stream.dtype)
    return linear(each.write, torch.cat([nothing, *shares], 1), seen)


def share_alone(head: Head, scaling: float, q: torch.Tensor, count: int | torch.Tensor) -> torch.Tensor:
    """[n, 1]: what a head that is `alone` gives to all of `count` tokens together; the sink has the rest."""
    if head.sink is None:
        return torch.ones(len(q), 1, dtype=q.dtype)
    score = scaling * (q[:, head.queries] @ head.key_constants + head.constant)
    return (score + torch.as_tensor(count, dtype=q.dtype).log() - head.sink).sigmoid()[:, None]


def places_of(each: Attention | MLP, parts: Parts) -> torch.Tensor:
    """Where a sublayer writes, among the written channels."""
    return torch.searchsorted(parts.channels, each.write.nodes)


def _asked(
    each: Attention, kinds: str, tokens: torch.Tensor, stream: torch.Tensor, seen: Seen | None
) -> tuple[torch.Tensor, ...]:
    """Queries, keys or values of tokens."""
    if each.tables is not None:
        return tuple(each.tables[kind][tokens] for kind in kinds)
    assert each.read is not None
    assert each.maps is not None
    values = read_tokens(each.read, tokens, stream, seen)
    return tuple(linear(each.maps[kind], values, seen) for kind in kinds)


def read_tokens(read: Read, tokens: torch.Tensor, stream: torch.Tensor, seen: Seen | None = None) -> torch.Tensor:
    """What the nodes of a read hold, [n, nodes], at tokens [n] with written channels [n, written]."""
    there = stream + read.held
    is_written = read.written >= 0
    raw = _at_nodes(read, there, read.own[tokens])
    if read.scale is None:
        assert read.square is not None
        scale = ((read.square[tokens] + there.square().sum(1)) / read.width + read.eps).rsqrt()[:, None]
    else:
        scale = torch.tensor(read.scale, dtype=stream.dtype)
    if seen is not None:
        seen.setdefault(f"{read.name}:scale", []).append(scale.expand(len(tokens), 1))
    out = raw * read.gain * scale
    known = None if read.passes is None else read.passes[tokens]
    if read.rivals is None:
        return out if known is None else torch.where(known == 1, out, 0.0)
    sizes = (there * read.rivals.gain).abs()  # [n, written]
    mine = _at_nodes(read, sizes, read.rivals.size[tokens])
    larger = (sizes[:, None, :] > mine[:, :, None]).sum(2)
    bars = read.rivals.bar[tokens].gather(1, larger)
    passes = torch.where(is_written, mine > bars, larger < read.rivals.room[tokens])
    if known is not None:
        passes = (known == 1) | ((known < 0) & passes)
    return torch.where(passes, out, 0.0)


def _at_nodes(read: Read, written: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """By node [n, nodes]: what is at its written channel, of [n, written], or `other` where it has none."""
    return torch.where(read.written >= 0, written[:, read.written.clamp(min=0)], other) if written.shape[1] else other


def linear(map_: Linear, values: torch.Tensor, seen: Seen | None = None) -> torch.Tensor:
    """What kept nodes hold, [n, nodes], from their sources, [n, sources]."""
    if seen is not None:
        seen.setdefault(map_.name, []).append(values)
    out = activate(map_.activation, values @ map_.weight.T + map_.bias)
    count = len(map_.nodes)
    if map_.k is None:
        return out if map_.least is None else torch.where(out.abs() >= map_.least, out, 0.0)
    sizes = out.abs()
    mine = sizes[:, :count]
    larger = torch.zeros(mine.shape, dtype=torch.int64)
    for i in range(count):
        larger[:, i] = (sizes > mine[:, i : i + 1]).sum(1)
    larger += torch.searchsorted(-map_.fixed, (-mine).contiguous())
    larger += 0 if map_.ahead is None else map_.ahead
    return torch.where(larger < map_.k, out[:, :count], 0.0)


def _attend(each: Attention, q: torch.Tensor, keys: Blocks, values: Blocks) -> torch.Tensor:
    """Sources of what attention writes, [n, sources]: what it makes of each kept value, then shares of heads."""
    out = torch.zeros(len(q), values[0].shape[2], dtype=q.dtype)
    shares, count = [], sum(block.shape[1] for block in keys)
    for head in each.heads:
        if head.alone:
            shares += [share_alone(head, each.scaling, q, count)] if head.shared else []
            continue
        weights = attention_weights(head, each.scaling, q, keys)
        if len(head.values):
            parts = weights.split([block.shape[1] for block in values], 1)
            out[:, head.values] = sum(  # type: ignore[assignment]
                torch.einsum("nt,ntv->nv", weight, block[:, :, head.values]) for weight, block in zip(parts, values)
            )
        if head.shared:
            shares.append(weights.sum(1, keepdim=True))
    return torch.cat([out, *shares], 1)


def attention_weights(head: Head, scaling: float, q: torch.Tensor, keys: Blocks) -> torch.Tensor:
    """[n, tokens]; they sum to 1 less what the sink takes."""
    scores = torch.cat([attention_scores(head, scaling, q, block) for block in keys], 1)
    if head.sink is None:
        return scores.softmax(1)
    return torch.cat([scores, torch.full((len(scores), 1), head.sink, dtype=scores.dtype)], 1).softmax(1)[:, :-1]


def attention_scores(head: Head, scaling: float, q: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Logits of attention [n, tokens], of queries [n, ...] and keys [n, tokens, ...]."""
    if len(head.queries):
        asked = torch.where(
            head.keys >= 0, keys[:, :, head.keys.clamp(min=0)] if keys.shape[2] else head.key_constants, head.key_constants
        )
        scores = torch.einsum("na,nta->nt", q[:, head.queries], asked.expand(len(q), keys.shape[1], -1))
    else:
        scores = torch.zeros(keys.shape[:2], dtype=q.dtype)
    if len(head.lone):
        scores = scores + keys[:, :, head.lone] @ head.lone_queries
    return scaling * (scores + head.constant)


def answer(answers: Answers, tokens: torch.Tensor, stream: torch.Tensor, seen: Seen | None = None) -> torch.Tensor:
    read = answers.read
    there = stream + read.held
    raw = _at_nodes(read, there, read.own[tokens])
    scale = torch.full((len(tokens), 1), read.scale or 0.0, dtype=stream.dtype)
    if read.scale is None:
        scale = ((raw.square().sum(1, keepdim=True) + answers.held_square) / read.width + read.eps).rsqrt()
    if seen is not None:
        seen.setdefault(f"{read.name}:scale", []).append(scale)
        seen.setdefault(read.name, []).append(raw)
    out = (raw @ answers.weight.T + answers.held) * scale + answers.bias
    return out if answers.table is None else out + answers.table[tokens]
