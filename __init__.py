"""Weight-sparse transformers whose circuits can be read (Gao et al. 2025, arXiv 2511.13653).

Importing this package imports neither torch nor any model, and registers model type "csp" with transformers' Auto classes as
soon as those are used, so that they load our checkpoints without `trust_remote_code`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import _auto

if TYPE_CHECKING:
    from .circuits import Circuit
    from .configuration_csp import CSPConfig
    from .modeling_csp import CSPForCausalLM, CSPModel
    from .tokenization_csp import CSPTokenizer
    from .training import SparsityConfig, WeightSparsityCallback, project_

__version__ = "0.1.0"
# Of what the remote code (`*_csp.py`) calls here: kernels, checkpoints, files. Code of another version runs without (`configuration_csp.package`).
INTERFACE = 1

_HOME = {
    "Circuit": "circuits",
    "CSPConfig": "configuration_csp",
    "CSPModel": "modeling_csp",
    "CSPForCausalLM": "modeling_csp",
    "CSPTokenizer": "tokenization_csp",
    "SparsityConfig": "training",
    "WeightSparsityCallback": "training",
    "project_": "training",
}
__all__ = [
    "CSPConfig",
    "CSPForCausalLM",
    "CSPModel",
    "CSPTokenizer",
    "Circuit",
    "SparsityConfig",
    "WeightSparsityCallback",
    "project_",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


_auto.register_when_imported()
