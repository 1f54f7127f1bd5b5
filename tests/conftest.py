"""Shared fixtures: the reference data, a model for each feature; no network."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Two workers whose idle threads spin take each other's cores: 2.5 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # each, and what it starts, has its share of the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
if not Path("/dev/nvidiactl").exists():  # Triton reads it when it is imported, which torch may do
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest

from tiny import FEATURES, REFERENCE, without_kernels


@pytest.fixture(scope="session")
def reference() -> Path:
    """Reference checkpoints, training run, tokenizer and configs of the release."""
    return REFERENCE


@pytest.fixture(params=FEATURES.values(), ids=FEATURES.keys())
def features(request) -> dict:
    return dict(request.param)


@pytest.fixture(params=["kernels", "torch"])
def path(request, monkeypatch):
    """The fast path and PyTorch's in turn; the second by making the first unavailable."""
    from sparse_circuits.kernels.run import available

    if request.param == "torch":
        without_kernels(monkeypatch)
    else:
        assert available(), "Numba is part of the test environment"
    return request.param
