"""What benchmarks share: rounds in which the paths take turns, ratios with their range, and the machine's line."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers


def machine(*more: str) -> str:
    """Where and with what was measured."""
    own = [f"torch {torch.__version__}", f"transformers {transformers.__version__}", f"Python {platform.python_version()}"]
    return ", ".join([*own, platform.machine(), f"{os.cpu_count()} cores", f"{torch.get_num_threads()} threads", *more])


def in_turns(paths: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each path, in turns, after one turn unmeasured."""
    times: dict[str, list[float]] = {name: [] for name in paths}
    for turn in range(rounds + 1):
        for name, function in paths.items():
            begun = time.perf_counter()
            function()
            if turn:
                times[name].append(time.perf_counter() - begun)
    return times


def ratio(slow: list[float], fast: list[float], digits: int = 1) -> str:
    """Median of the ratios of each round, and their range."""
    each = [a / b for a, b in zip(slow, fast)]
    return f"{statistics.median(each):.{digits}f} ({min(each):.{digits}f} to {max(each):.{digits}f})"


def rows_of(path: Path) -> list[dict[str, Any]]:
    """What a benchmark that goes on where it was stopped has measured: one JSON a line; none if there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
