"""What happens when modules are imported: model type "csp" is registered with transformers' Auto classes when those are first imported and
not before; and modules that have moved are still found by their old names, with a warning, for one version.

Registering at once would import torch and most of transformers (over a second) for anyone who only wants the config or the
command line's help.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


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


# Old name -> where its contents are now.
_MOVED = {
    "archive": ("checkpoints.archive",), "extras": ("hub",), "hooks": ("circuits.hooks",), "loading": ("checkpoints.models",),
    "sparse_csp": ("topk_csp", "nonzeros_csp"), "storage_csp": ("sparse_file_csp", "checkpoints.writing", "files"),
    "fitting_csp": ("sparse_file_csp", "checkpoints.fitting", "checkpoints.writing"), "inputs_csp": ("attention_csp",),
    "reading_csp": ("files",), "circuits.hub": ("hub",), "training.corpus": ("corpora.blocks", "corpora.sources"),
    "training.corpora": ("corpora.mixture",), "training.idioms": ("corpora.idioms",), "training.ngrams": ("corpora.ngrams",),
    "training.folder": ("training.card",), "convert.publish": ("publishing.publish",), "convert.card": ("publishing.card",),
    "convert.secrets": ("publishing.secrets",), "convert.places": ("publishing.places",),
}  # fmt: skip


class _Moved(importlib.abc.Loader):
    """Makes a module that looks its names up where they are now."""

    def __init__(self, homes: tuple[str, ...]):
        self._homes = homes

    def exec_module(self, module: ModuleType) -> None:
        said = f"{module.__name__} is now {' and '.join(f'{__package__}.{home}' for home in self._homes)}; the old name goes in 0.2."
        warnings.warn(said, FutureWarning, stacklevel=2)

        def look_up(name: str) -> Any:
            for home in self._homes:
                found = importlib.import_module(f".{home}", __package__)
                if hasattr(found, name):
                    return getattr(found, name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__getattr__ = look_up  # type: ignore[method-assign]


def renamed(module: str, names: dict[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` that finds what has another name now, with a warning.

    Args:
        names: old name -> "name" in the same module, or "module:name" elsewhere in the package.
    """

    def look_up(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, own = names[name].rpartition(":")
        where = f"{__package__}.{home}" if home else module
        warnings.warn(f"{module}.{name} is now {where}.{own}; the old name goes in 0.2.", FutureWarning, stacklevel=2)
        return getattr(importlib.import_module(where), own)

    return look_up


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
        own = name.removeprefix(f"{__package__}.")
        if own in _MOVED and own != name:
            return importlib.machinery.ModuleSpec(name, _Moved(_MOVED[own]))
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
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
