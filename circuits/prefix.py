"""What a candidate circuit has in common with the last one up to some layer is not computed again: the model begins where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ..wiring_csp import located
from .edges import Edges
from .hooks import hooks

LARGEST = 1 << 29  # bytes of streams that are kept


def signatures(model: Any, nodes: Mapping[str, torch.Tensor], edges: Mapping[str, Edges] | None) -> list[bytes]:
    """For each layer, what decides what it computes from a given stream: its open nodes, and edges if they are listed (they lie within a layer)."""
    found = [bytearray(b"all edges " if edges is None else b"") for _ in model.transformer.h]

    def add(site: str, name: str, *parts: torch.Tensor) -> None:
        layer, _ = located(site)
        if layer is not None:
            found[layer] += f"{name} {[len(part) for part in parts]} ".encode() + b"".join(
                part.cpu().numpy().tobytes() for part in parts
            )

    for name in sorted(nodes):
        if len(nodes[name]):
            add(name, name, nodes[name])
    for name in sorted(edges or {}):
        add(name.partition("->")[0], name, *(edges or {})[name][:2])
    return [bytes(each) for each in found]


class Prefix:
    """The streams behind the blocks of one run, which later ones begin from. For runs on the same prompts under the same fills, scales and dtype."""

    def __init__(self, model: Any):
        self.blocks = list(model.transformer.h)
        self._kept: tuple[list[bytes], list[torch.Tensor]] = ([], [])
        self._last = self._kept

    @contextmanager
    def running(self, layers: list[bytes]) -> Iterator[None]:
        """While the block runs, the model (without gradients, once) takes up the kept run at the first layer that differs from it."""
        known, streams = self._kept
        same = next((i for i, pair in enumerate(zip(layers, known)) if pair[0] != pair[1]), min(len(layers), len(known)))
        found = list(streams[:same])
        with hooks() as handles:
            handles += [
                block.register_forward_hook(lambda module, args, out: found.append(out)) for block in self.blocks[same:]
            ]
            try:
                for block, stream in zip(self.blocks, streams[:same]):
                    block.forward = lambda *args, stream=stream, **more: stream
                yield
            finally:
                for block in self.blocks[:same]:
                    del block.forward
        whole = len(found) == len(self.blocks) and sum(each.nbytes for each in found) <= LARGEST
        self._last = (layers, found) if whole else ([], [])

    def keep(self) -> None:
        """The last run is what later ones begin from."""
        self._kept = self._last
