"""Registers model type "csp" with transformers' Auto classes, when they are first imported and not before.

Registering at once would import torch and most of transformers (over a second) for anyone who only wants the config or the
command line's help.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType


def _register_config() -> None:
    from transformers import AutoConfig

    from .configuration_csp import CSPConfig

    AutoConfig.register("csp", CSPConfig, exist_ok=True)


def _register_models() -> None:
    modeling = sys.modules.get(f"{__package__}.modeling_csp")
    if "transformers.models.auto.modeling_auto" not in sys.modules:
        return
    if modeling is not None and not hasattr(modeling, "CSPForCausalLM"):
        return  # our model file is itself importing transformers' right now; its own entry below runs when it is done
    from transformers import AutoModel, AutoModelForCausalLM

    from .configuration_csp import CSPConfig
    from .modeling_csp import CSPForCausalLM, CSPModel

    AutoModel.register(CSPConfig, CSPModel, exist_ok=True)
    AutoModelForCausalLM.register(CSPConfig, CSPForCausalLM, exist_ok=True)


_REGISTRATIONS = {
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": _register_models,
    f"{__package__}.modeling_csp": _register_models,
}


class _Loader(importlib.abc.Loader):
    """Runs the real loader, then the registration."""

    def __init__(self, real: importlib.abc.Loader, register: Callable[[], None]):
        self._real, self._register = real, register

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        self._register()

    def __getattr__(self, name: str) -> object:  # get_source and the like, for tools that read modules
        return getattr(self._real, name)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        register = _REGISTRATIONS.get(name)
        if register is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, register)
        return spec


def register_when_imported() -> None:
    for name in list(_REGISTRATIONS):
        if name in sys.modules:
            _REGISTRATIONS.pop(name)()
    if _REGISTRATIONS:
        sys.meta_path.insert(0, _Finder())
