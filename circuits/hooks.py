"""Hooks that are taken away again, and that are heard on a compiled model too."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def hooks() -> Iterator[list[Any]]:
    """While the block runs, a list for the handles of hooks, which are removed at its end.

    A model that has been compiled (`model.compile()`, `torch.compile`) runs as it was when it was traced and passes by hooks that are set later;
    so it runs eagerly in here, with the same weights and results.
    """
    handles: list[Any] = []
    try:
        with eagerly():
            yield handles
    finally:
        for handle in reversed(handles):
            handle.remove()


@contextlib.contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """While the block runs, no parameter wants a gradient: where activations are what is differentiated, weights' gradients are not computed in vain."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """While the block runs, whatever has been compiled runs eagerly."""
    if "torch._dynamo" not in sys.modules:  # then nothing is compiled, and asking would import it, which takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
