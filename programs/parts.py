"""What a circuit is once it is written out: tables over tokens, reads of the residual stream, linear maps with their competitors, heads, and answers.

All tensors are float64. A *written* channel is one of the residual stream to which some kept node writes; the others are, at each token, what the token's
embedding and constants make of them.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field

import torch

from .symbols import Symbols


@dataclass(frozen=True)
class Read:
    """Nodes that read the residual stream through a norm, and who competes with them in AbsTopK.

    Args:
        name: of the site. nodes [n]: channels that it reads and the circuit keeps.
        written: [n], place among the written channels, or -1.
        own: [vocab, n], what an unwritten channel holds at each token; 0 for written ones.
        held: [written], what nodes that are held at their means have added to written channels before.
        gain: [n], of the norm; scale: what the norm multiplies with, or None where it is the norm's own.
        square: [vocab], sum of squares over unwritten channels, for a norm of its own; None else.
        width, eps: of the norm.
        rivals: None where none is needed.
        passes: [vocab, n] int8, where it is known from the token alone whether a node passes AbsTopK: 1 it does, 0 it does not, -1 as `rivals` say; or None.
    """

    name: str
    nodes: torch.Tensor
    written: torch.Tensor
    own: torch.Tensor
    held: torch.Tensor
    gain: torch.Tensor
    scale: float | None
    square: torch.Tensor | None
    width: int
    eps: float
    rivals: Rivals | None
    passes: torch.Tensor | None = None


@dataclass(frozen=True)
class Rivals:
    """Who else is at a read's AbsTopK. A node passes if fewer than k channels are larger.

    Args:
        gain: [written], of the norm at written channels.
        room: [vocab, n], how many written channels may be larger than an unwritten node before it is dropped: k less the unwritten ones that are.
        size: [vocab, n], |own * gain| of an unwritten node.
        bar: [vocab, written + 1], what a written node has to exceed if so many other written ones do.
    """

    gain: torch.Tensor
    room: torch.Tensor
    size: torch.Tensor
    bar: torch.Tensor


@dataclass(frozen=True)
class Linear:
    """Nodes that a matrix writes, from `sources`, and who competes with them in AbsTopK.

    Args:
        name: of the site. nodes [n]: those of it that the circuit keeps.
        sources: what is multiplied: names of values, in order.
        weight: [n + m, sources]; the last m rows are rivals that vary. bias: [n + m], with everything that is held at a constant in it.
        fixed: [f], sizes of rivals that are constant, descending.
        k: how many pass, or None where all do. ahead: [n], how many rivals that are not listed are always larger than a node.
        activation: "gelu", "gelu_tanh", "relu" or "".
        least: in place of AbsTopK, the size below which a node is dropped; None: none is (`simplify.py`).
    """

    name: str
    nodes: torch.Tensor
    sources: tuple[str, ...]
    weight: torch.Tensor
    bias: torch.Tensor
    fixed: torch.Tensor
    k: int | None
    activation: str = ""
    ahead: torch.Tensor | None = None
    least: float | None = None


def without_rivals(map_: Linear) -> Linear:
    """The map with every node passing."""
    count, none = len(map_.nodes), torch.zeros(0, dtype=torch.float64)
    return dataclasses.replace(map_, weight=map_.weight[:count], bias=map_.bias[:count], fixed=none, k=None, ahead=None)


@dataclass(frozen=True)
class Head:
    """A head as far as a circuit needs it.

    score(i, j) = scaling * (q_i . k_j + at_key . key_j + constant), with q_i and k_j over `queries`: a key that is not kept is its constant.

    Args:
        index: of the head.
        queries: [a], places among the kept q nodes. keys: [a], places among the kept k nodes, or -1. key_constants: [a], where -1.
        lone: [b], places among the kept k nodes whose query is constant; lone_queries: [b], that constant.
        constant: of the score. sink: its logit, or None.
        values: [c], places among the kept v nodes.
        shared: whether the share of attention that does not go to the sink is needed: what constant values are multiplied with.
    """

    index: int
    queries: torch.Tensor
    keys: torch.Tensor
    key_constants: torch.Tensor
    lone: torch.Tensor
    lone_queries: torch.Tensor
    constant: float
    sink: float | None
    values: torch.Tensor
    shared: bool

    @property
    def alone(self) -> bool:
        """Whether nothing of other tokens comes in: no value varies, and no key. What is left is how much goes to the sink, by the query and the number of tokens."""
        return not len(self.values) and not len(self.lone) and bool((self.keys < 0).all())


@dataclass(frozen=True)
class Attention:
    """Queries, keys and values, either from tables over tokens, in the first layer, or from reads; heads; what is written.

    Args:
        tables: {"q": [vocab, n], "k": ..., "v": ...}, or None. maps: {"q": Linear, ...}, or None.
    """

    layer: int
    scaling: float
    nodes: dict[str, torch.Tensor]
    tables: dict[str, torch.Tensor] | None
    read: Read | None
    maps: dict[str, Linear] | None
    heads: tuple[Head, ...]
    write: Linear

    @functools.cached_property
    def alone(self) -> bool:
        """Whether all heads are."""
        return all(head.alone for head in self.heads)


@dataclass(frozen=True)
class MLP:
    layer: int
    read: Read
    neurons: Linear
    write: Linear


@dataclass(frozen=True)
class Answers:
    """Logits of `tokens` from the last stream: weight [tokens, n] times what is read, the norm's scale, constants, and the bigram table [vocab, tokens]."""

    tokens: tuple[int, ...]
    read: Read
    weight: torch.Tensor
    held: torch.Tensor  # [tokens], what channels that are held at their means add before the scale
    held_square: float
    bias: torch.Tensor
    table: torch.Tensor | None


@dataclass(frozen=True)
class Parts:
    """A circuit, written out.

    Args:
        channels: [written]. stream: [vocab, written], what the embedding puts on them.
        sublayers: those that something kept is written by, in order.
        norms: "own", or "mean": scales held at their mean over a corpus.
        symbols: where positions are added to embeddings: what the rows of tables are then, in place of tokens; `vocab` counts them.
        mean: the written channel that is the mean of the stream, which LayerNorm takes away; None for RMSNorm.
    """

    vocab: int
    channels: torch.Tensor
    stream: torch.Tensor
    sublayers: tuple[Attention | MLP, ...]
    answers: Answers
    norms: str
    labels: dict[str, str] = field(default_factory=dict)
    symbols: Symbols | None = None
    mean: int | None = None

    @functools.cached_property
    def deepest(self) -> int:
        """The last layer at which a token takes in others; -1 if none does. Of tokens before the last nothing matters beyond."""
        return max((each.layer for each in self.sublayers if isinstance(each, Attention) and not each.alone), default=-1)

    def rows(self, tokens: torch.Tensor, place: int) -> torch.Tensor:
        """Rows of tables for tokens [n] that stand at a place."""
        return tokens if self.symbols is None else self.symbols.rows(tokens, place)
