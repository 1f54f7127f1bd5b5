"""A circuit's parts as a kernel takes them, and prompts on their way through it: `run.py`, hundreds of times as fast where Numba is installed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..kernels import prompt_kernel
from ..kernels.jobs import flat
from .parts import MLP, Answers, Attention, Head, Linear, Parts, Read, Rivals
from .run import places_of, run

_ACTIVATIONS = {"": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}


@dataclass
class Prompts:
    """Prompts on their way: what heads have of their tokens, [n, numbers] float64, and how many tokens they have, [n]."""

    states: torch.Tensor
    counts: torch.Tensor

    def at(self, rows: torch.Tensor) -> Prompts:
        return Prompts(self.states[rows], self.counts[rows])


class Machine:
    """Parts, flat, for prompts of up to `longest` tokens.

    Raises:
        ValueError: without Numba.
    """

    def __init__(self, parts: Parts, longest: int):
        self.kernel: Any = prompt_kernel()
        if self.kernel is None:
            raise ValueError("Circuits run as kernels need Numba: pip install sparse_circuits[fast].")
        self._arrays: list[torch.Tensor] = []
        self._longest, self._fresh = longest, list[float]()  # what a prompt without tokens has
        self._widest = max(longest, len(parts.channels), 1)  # numbers in a row of scratch space
        sublayers = [word for each in parts.sublayers for word in flat(self._sublayer(each, parts))]
        until = max(
            (n + 1 for n, each in enumerate(parts.sublayers) if isinstance(each, Attention) and not each.alone), default=0
        )
        answers, stream, places = (
            self._answers(parts.answers),
            self._numbers(parts.stream),
            self._whole(torch.tensor(sublayers)),
        )
        words = self.kernel.CircuitWords(
            len(parts.channels), stream, places, len(parts.sublayers), until, self._widest, answers
        )
        self._circuit, self._count = torch.tensor(list(flat(words))), len(parts.answers.tokens)
        self._lookup = None if parts.symbols is None else _lookup(parts)

    def begin(self, count: int = 1) -> Prompts:
        fresh = torch.tensor(self._fresh, dtype=torch.float64).expand(count, -1).contiguous()
        return Prompts(fresh, torch.zeros(count, dtype=torch.int64))

    def go(self, on: Prompts, tokens: torch.Tensor, lengths: torch.Tensor, last: bool = False) -> torch.Tensor:
        """Takes prompts some tokens on, in place; logits of the answers [n, answers] if these were the last.

        Args:
            tokens: [n, most], of which a prompt takes the first `lengths` [n], at least one.
        """
        if int((on.counts + lengths).max()) > self._longest:
            raise ValueError(f"The circuit was made ready for prompts of {self._longest} tokens.")
        return self.kernel.go(
            self._circuit, self._count, on.states, on.counts, tokens.contiguous(), lengths.contiguous(), self._lookup, last
        )

    def conclude(self, sources: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
        """`run.conclude`: logits of the answers, of what the first sublayer writes [n, sources] at tokens with these rows of tables [n]."""
        ones = torch.ones(len(rows), dtype=torch.int64)
        states, before = torch.empty(len(rows), 0, dtype=torch.float64), ones * (count - 1)
        return self.kernel.go(
            self._circuit, self._count, states, before, rows[:, None].contiguous(), ones, None, True, sources.contiguous()
        )

    # ---------------------------------------------------------------------------------------------------------- flat

    def _kept(self, x: torch.Tensor) -> int:
        """The address of an array, which lives as long as this does."""
        self._arrays.append(x.contiguous())
        return self._arrays[-1].data_ptr()

    def _numbers(self, x: Any) -> int:
        return self._kept(torch.as_tensor(x, dtype=torch.float64))

    def _whole(self, x: torch.Tensor) -> int:
        return self._kept(x.to(torch.int64))

    def _map(self, map_: Linear) -> Any:
        rows, width = map_.weight.shape
        self._widest = max(self._widest, rows, width)
        count = len(map_.nodes)
        return self.kernel.MapWords(
            count, rows, width, -1 if map_.k is None else map_.k, self._numbers(map_.weight.T), self._numbers(map_.bias), self._numbers(map_.fixed),
            len(map_.fixed), self._whole(torch.zeros(count) if map_.ahead is None else map_.ahead),
            0 if map_.least is None else self._numbers([map_.least]), _ACTIVATIONS[map_.activation],
        )  # fmt: skip

    def _read(self, read: Read, held_square: float = 0.0) -> Any:
        self._widest = max(self._widest, len(read.nodes))
        none = torch.zeros(0)
        rivals = read.rivals or Rivals(none, none, none, none)
        return self.kernel.ReadWords(
            len(read.nodes), len(read.held), self._whole(read.written), self._numbers(read.own), self._numbers(read.held), self._numbers(read.gain),
            self._numbers([read.scale or 0.0, read.width, read.eps, held_square]), int(read.scale is None),
            self._numbers(none if read.square is None else read.square), int(read.passes is not None), self._kept(none if read.passes is None else read.passes),
            int(read.rivals is not None), self._numbers(rivals.gain), self._whole(rivals.room), self._numbers(rivals.size), self._numbers(rivals.bar),
        )  # fmt: skip

    def _head(self, head: Head, scaling: float) -> Any:
        kernel = self.kernel
        kind = kernel.ALONE if head.alone else kernel.KEPT if len(head.queries) else kernel.RUNNING
        place = len(self._fresh)
        if kind == kernel.RUNNING:
            self._fresh += [float("-inf"), 0.0] + [0.0] * len(head.values)
        elif kind == kernel.KEPT:
            self._fresh += [0.0] * (self._longest * (len(head.queries) + 1 + len(head.values)))
        return kernel.HeadWords(
            kind, int(head.shared), self._whole(head.queries), self._whole(head.keys), self._numbers(head.key_constants), len(head.queries),
            self._whole(head.values), len(head.values), self._whole(head.lone), self._numbers(head.lone_queries), len(head.lone), int(head.sink is not None),
            self._numbers([scaling, head.constant, head.sink or 0.0]), place,
        )  # fmt: skip

    def _sublayer(self, each: Attention | MLP, parts: Parts) -> Any:
        places, write, words = self._whole(places_of(each, parts)), self._map(each.write), self.kernel.SublayerWords
        none = _nothing(self.kernel.MapWords)
        if isinstance(each, MLP):
            read, neurons = self._read(each.read), self._map(each.neurons)
            return words(1, 0, 0, 0, 0, 0, 0, 0, 0, read, neurons, none, none, write, places, 0, 0)
        heads = [word for head in each.heads for word in flat(self._head(head, each.scaling))]
        tables = (0, 0, 0) if each.tables is None else tuple(self._numbers(each.tables[kind]) for kind in "qkv")
        maps = (none,) * 3 if each.maps is None else tuple(self._map(each.maps[kind]) for kind in "qkv")
        read = _nothing(self.kernel.ReadWords) if each.read is None else self._read(each.read)
        counts = [len(each.nodes[kind]) for kind in "qkv"]
        self._widest = max(self._widest, *counts)
        return words(
            0, int(each.alone), int(each.tables is not None), *tables, *counts, read, *maps, write, places,
            self._whole(torch.tensor(heads)), len(each.heads),
        )  # fmt: skip

    def _answers(self, answers: Answers) -> Any:
        table = answers.table
        return self.kernel.AnswerWords(
            len(answers.tokens), self._read(answers.read, answers.held_square), self._numbers(answers.weight), self._numbers(answers.held),
            self._numbers(answers.bias), int(table is not None), self._numbers(torch.zeros(0) if table is None else table),
        )  # fmt: skip


def logits_of(parts: Parts, prompts: torch.Tensor) -> torch.Tensor:
    """`run.run`, by kernels where they are: logits of the answers after prompts [n, tokens], all of one length."""
    if prompt_kernel() is None:
        return run(parts, prompts)
    machine, count = Machine(parts, prompts.shape[1]), len(prompts)
    return machine.go(machine.begin(count), prompts, torch.full((count,), prompts.shape[1]), last=True)


def _nothing(words: Any) -> Any:
    """A record of what a sublayer does not have."""
    return words(*[0] * len(words._fields))


def _lookup(parts: Parts) -> torch.Tensor:
    """Rows of tables by place and token, [places, vocab]; -1 where the language has none."""
    symbols = parts.symbols
    assert symbols is not None
    found = torch.full((int(symbols.places.max()) + 1, int(symbols.tokens.max()) + 1), -1)
    found[symbols.places, symbols.tokens] = torch.arange(len(symbols.tokens))
    return found
