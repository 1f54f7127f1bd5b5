"""What is wrong with a recipe, found before any work: names, types and ranges of settings, and whether a run can begin with them."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import inspect
import math
import typing
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.optimization import get_scheduler

from ..configuration_csp import CSPConfig
from ..modeling_csp import CSPForCausalLM
from .callback import WeightSparsityCallback
from .guards import refuse_optimizer
from .schedules import SparsityConfig

_FROM_TOKENIZER = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
STARTS = ("bigrams", "random")
_OURS = {"warmup_ratio": float}  # an argument of recipes, which newer versions of transformers have no more

# Ranges of the numbers that transformers itself looks at late, or never: name -> (least, most), the bounds included.
_RANGES: dict[str, tuple[float, float]] = {
    "learning_rate": (0, math.inf), "weight_decay": (0, math.inf), "adam_beta1": (0, 1), "adam_beta2": (0, 1), "adam_epsilon": (0, math.inf),
    "max_grad_norm": (0, math.inf), "warmup_ratio": (0, 1), "warmup_steps": (0, math.inf), "label_smoothing_factor": (0, 1),
    "max_steps": (1, 1e12), "per_device_train_batch_size": (1, 1e9), "per_device_eval_batch_size": (1, 1e9),
    "gradient_accumulation_steps": (1, 1e9), "logging_steps": (0, math.inf), "save_steps": (0, math.inf), "eval_steps": (0, math.inf),
    "seed": (0, 2**32 - 1), "data_seed": (0, 2**32 - 1), "save_total_limit": (1, math.inf),
}  # fmt: skip


def check_settings(model: Any, sparsity: Any, arguments: Any, corpora: Any, tokenizer: Any, start: Any) -> None:
    """Raises ValueError for the first setting of a recipe's sections that does not exist or has the wrong type."""
    known = _parameters(CSPConfig.__init__) - {"self", "kwargs"} | set(CSPConfig.attribute_map)
    for section, value in (("model", model), ("sparsity", sparsity), ("arguments", arguments), ("corpora", corpora)):
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise ValueError(f"{section} is {_short(value)}; it needs names and values.")
    _require_known("model", model, known)
    clash = next((name for name in _FROM_TOKENIZER if name in model), None)
    if clash is not None:
        raise ValueError(f"model.{clash} comes from the tokenizer; leave it out.")
    fields: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(SparsityConfig)}
    _require_known("sparsity", sparsity, fields)
    if "density" not in sparsity:
        raise ValueError("sparsity.density is missing; give the fraction of weights that stays nonzero, 1 for a dense model.")
    SparsityConfig(**sparsity)
    check_arguments(arguments)
    for source, weight in corpora.items():
        if not _is_number(weight) or not 0 < weight < math.inf:
            raise ValueError(f"The weight of corpus {source[:60]!r} is {_short(weight)}; it must be a positive number.")
    if not corpora:
        raise ValueError("There is no corpus; give at least one, such as stdlib.")
    if tokenizer is not None and not isinstance(tokenizer, str):
        raise ValueError(f"tokenizer is {_short(tokenizer)}; it must be a folder.")
    if start not in STARTS:
        raise ValueError(f"start is {_short(start)}; it must be one of {', '.join(STARTS)}.")


def check_arguments(arguments: dict[str, Any]) -> None:
    """Raises ValueError for a setting of TrainingArguments that does not exist, has another type or is out of range."""
    if "output_dir" in arguments:
        raise ValueError("arguments.output_dir is the folder given as --out; leave it out.")
    _require_known("arguments", arguments, _argument_types())
    for name, value in arguments.items():
        kinds = _argument_types()[name]
        if kinds and not _fits(value, kinds):
            said = " or ".join(sorted({"None" if kind is type(None) else kind.__name__ for kind in kinds}))
            raise ValueError(f"arguments.{name} is {_short(value)}; it must be {said}.")
        if name == "max_steps" and value < 1:
            raise ValueError(f"arguments.max_steps is {_short(value)}; density and learning rate need the number of steps.")
        least, most = _RANGES.get(name, (-math.inf, math.inf))
        if _is_number(value) and (not math.isfinite(value) or not least <= value <= most):
            raise ValueError(f"arguments.{name} is {_short(value)}; it must be a finite number {_between(least, most)}.")
    if arguments.get("learning_rate") == 0:
        raise ValueError("arguments.learning_rate is 0, at which nothing is learned; give a number above 0.")


def _between(least: float, most: float) -> str:
    return f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"


def _require_known(section: str, given: Iterable[str], known: Iterable[str]) -> None:
    known = sorted(known)
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known[:12])}{', ...' * (len(known) > 12)}"
            raise ValueError(f"{section}.{name[:60]} is no setting; {hint.rstrip('.')}" + ("" if hint.endswith("?") else "."))


def _parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _fits(value: Any, kinds: frozenset[type]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int):
        return int in kinds or float in kinds
    return isinstance(value, tuple(kinds))


@functools.lru_cache(maxsize=1)
def _argument_types() -> dict[str, frozenset[type]]:
    """Name -> types that a TrainingArguments field takes; empty where that cannot be told."""
    hints = typing.get_type_hints(TrainingArguments)
    names = [field.name for field in dataclasses.fields(TrainingArguments) if field.init and field.name != "output_dir"]
    return {name: frozenset(_leaves(hints.get(name))) for name in names} | {
        name: frozenset({kind}) for name, kind in _OURS.items()
    }


def _leaves(hint: Any) -> Iterable[type]:
    inner = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin in (list, dict, tuple):
        yield origin
    elif inner:
        for each in inner:
            yield from _leaves(each)
    elif isinstance(hint, type):
        yield str if issubclass(hint, enum.Enum) else hint


# ------------------------------------------------------------------------------------------------------------- a run


def check_run(arguments: TrainingArguments, config: CSPConfig, block: int, callback: WeightSparsityCallback) -> None:
    """Raises ValueError if a run with these settings would end at its start: before a corpus is read or a weight is made."""
    if config.position_embedding_type != "none" and block > config.block_size:
        raise ValueError(
            f"Sequences of {block} tokens are longer than the position table, model.block_size={config.block_size}; lower block or raise it."
        )
    with torch.device("meta"):
        model = CSPForCausalLM(config)
    callback.refuse_unsupported(arguments, model, arguments.max_steps)
    any_model: Any = nn.Linear(1, 1)
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments, any_model)
        optimizer = kind([nn.Parameter(torch.zeros(1))], **{k: v for k, v in settings.items() if k != "optim_target_modules"})
        schedule: Any = arguments.lr_scheduler_kwargs or {}
        get_scheduler(
            arguments.lr_scheduler_type, optimizer, int(arguments.get_warmup_steps(arguments.max_steps)), arguments.max_steps,
            scheduler_specific_kwargs=dict(schedule),
        )  # fmt: skip
    except (ValueError, TypeError, ImportError, RuntimeError, AssertionError, KeyError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"arguments cannot be used: optimizer and schedule cannot be made ({reason[:200]}).") from None
    refuse_optimizer(optimizer, [])
