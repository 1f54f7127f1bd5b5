"""Packages that extras bring: asked for in one way, before any work."""

from __future__ import annotations

import importlib.util

_EXTRA_OF = {
    "datasets": "train",
    "detect_secrets": "publish",
    "matplotlib": "train",
    "optuna": "search",
    "starlette": "serve",
    "transformer_lens": "lens",
    "uvicorn": "serve",
}


class MissingExtra(ImportError):
    """A package that an extra brings is not installed."""


def missing(module: str) -> str | None:
    """What to install for a package that is not there, as a command; None if it is."""
    if importlib.util.find_spec(module) is not None:
        return None
    return f'pip install "sparse-circuits[{_EXTRA_OF[module]}]"'


def require(module: str, what: str) -> None:
    """Raises MissingExtra, in one sentence, if a package is not installed; what: for which it is needed, such as "corpora of the Hub"."""
    command = missing(module)
    if command is not None:
        raise MissingExtra(f"{module} is missing, which {what} need: {command}")
