"""Recipes: what to train, on what, how long. Presets, files and single settings, put together and checked before any work."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..configuration_csp import require_positive_int
from ..files import parse_yaml, read_text
from ..wiring_csp import NODE_LOCATIONS
from .checks import check_settings

LARGEST_RECIPE = 1 << 20  # bytes
_SINK = {"sink": True, "enable_bigram_table": True}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run.

    Args:
        model: settings of `CSPConfig`; the vocabulary and special tokens come from the tokenizer.
        sparsity: settings of `SparsityConfig`; density 1 is the dense twin.
        arguments: settings of transformers' `TrainingArguments`, all of them.
        corpora: source -> weight (see `corpora.load_corpus`): "stdlib", "idioms", a folder or glob, "hf:<dataset>".
        block: tokens in a training sequence.
        eval_blocks: held-out blocks that evaluations use, at most.
        tokenizer: folder or Hub id; default: the one that ships with this package.
        start: "bigrams" sets the bigram table to the corpus' log-probabilities first; "random" leaves it at zero.
        round_table: round the trained bigram table to eighths, which bfloat16 holds up to 32: half of its file, a third of it in a page. What is
            reported is measured so.
    """

    model: dict[str, Any] = field(default_factory=dict)
    sparsity: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    corpora: dict[str, float] = field(default_factory=lambda: {"stdlib": 1.0})
    block: int = 256
    eval_blocks: int = 200
    tokenizer: str | None = None
    start: str = "bigrams"
    round_table: bool = False

    def __post_init__(self) -> None:
        for name in ("block", "eval_blocks"):
            require_positive_int(name, getattr(self, name))
        if not isinstance(self.round_table, bool):
            raise ValueError(f"round_table is {self.round_table!r:.60}; it must be true or false.")
        check_settings(self.model, self.sparsity, self.arguments, self.corpora, self.tokenizer, self.start)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


_ARGUMENTS = {
    "learning_rate": 0.05, "lr_scheduler_type": "linear", "weight_decay": 0.1, "adam_beta1": 0.9, "adam_beta2": 0.95,
    "adam_epsilon": 0.1, "max_grad_norm": 0.0, "warmup_ratio": 0.01, "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 32, "seed": 0, "save_total_limit": 2, "report_to": "none",
}  # fmt: skip


def _preset(width: int, layers: int, density: float, afrac: float, steps: int, **more: Any) -> dict[str, Any]:
    dense = more.pop("dense_at", ())
    sites = [site for site in NODE_LOCATIONS if site not in dense]
    arguments = {**_ARGUMENTS, "max_steps": steps, **more.pop("arguments", {})}
    return {
        "model": {
            "n_layer": layers, "d_model": width, "d_mlp": 4 * width, "n_head": width // 16, "d_head": 16, "afrac": dict.fromkeys(sites, afrac),
            **_SINK, **more.pop("model", {}),
        },
        "sparsity": {"density": density, **more.pop("sparsity", {})},
        "arguments": arguments,
        **more,
    }  # fmt: skip


def _paper(factor: int) -> dict[str, Any]:
    """The release's sweep, csp_sweep1_<factor>x: width 256 * factor, 8 layers, block density pfrac / factor**2 with pfrac = factor / 8,
    embeddings and biases pfrac / factor, AbsTopK 1/8 except on q and k, no sinks, 512 sequences of 256 tokens a step (docs/method.md#weight-sparse-training)."""
    pfrac = factor / 8
    return _preset(
        256 * factor, 8, pfrac / factor**2, 1 / 8, 244_000, dense_at=("attn_q", "attn_k"), model={"sink": False},
        sparsity={"embedding_density": pfrac / factor, "bias_density": pfrac / factor, "min_alive": 4},
        arguments={"learning_rate": 0.0128, "per_device_train_batch_size": 64, "gradient_accumulation_steps": 8, "bf16": True},
    )  # fmt: skip


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": _preset(64, 2, 1 / 8, 1 / 4, 2_000, block=128, corpora={"idioms": 1.0}),
    "small": _preset(192, 4, 1 / 16, 1 / 4, 9_000, corpora={"stdlib": 0.5, "idioms": 0.5}),
    # csp demo: under ten minutes on two cores. Without checkpoints, which it could not resume in its own folder anyway.
    "demo": _preset(
        96,
        3,
        1 / 8,
        1 / 4,
        1_200,
        block=128,
        eval_blocks=800,
        round_table=True,
        arguments={"save_strategy": "no", "eval_strategy": "no"},
    ),
    **{f"paper-{factor}x": _paper(factor) for factor in (1, 2, 4, 8, 16)},
}


def _dense(preset: dict[str, Any]) -> dict[str, Any]:
    """The twin of equal shape and depth: nothing sparse, AdamW as usual for dense models."""
    arguments = {**preset["arguments"], "learning_rate": 0.003, "adam_epsilon": 1e-8}
    sparsity = {"density": 1.0, "min_alive": 0, "normalize_gradients": False, "lr_follows_density": False}
    return {
        **preset,
        "model": {**preset["model"], "afrac": {}},
        "sparsity": sparsity,
        "arguments": {**arguments, "max_grad_norm": 1.0},
    }


PRESETS |= {f"dense-{name}": _dense(preset) for name, preset in list(PRESETS.items())}


def make_recipe(
    preset: str = "tiny",
    file: str | Path | Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
    *,
    origin: str | None = None,
) -> Recipe:
    """A preset, over it a YAML file (or what it holds) of the same structure, over it settings such as "model.d_model=128".

    Args:
        origin: what errors call the file; its own name, if it is one.

    Raises:
        ValueError: naming the preset, key or value that does not exist or cannot be read.
    """
    if preset not in PRESETS:
        raise ValueError(f"{preset!r} is no preset; they are {', '.join(PRESETS)}.")
    values = _deep_copy(PRESETS[preset])
    if isinstance(file, Mapping):
        _merge(values, dict(file), origin or "the recipe")
    elif file is not None:
        _merge(values, read_yaml(Path(file)), str(file))
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise ValueError(f"{setting[:60]!r} is no setting; write section.name=value, such as model.d_model=128.")
        value = parse_yaml(text, f"The value of {setting[:60]!r}", fix="quote it as in YAML")
        section, _, name = path.partition(".")
        _merge(values, {section: {name: value} if name else value}, _on_one_line(setting))
    return Recipe(**values)


def _on_one_line(setting: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in setting[:100])


def corpus_setting(sources: Sequence[str] | None) -> list[str]:
    """The setting for sources "source" or "source=weight", as given on a command line."""
    if not sources:
        return []
    weighed = [source.rpartition("=") if source.rpartition("=")[1] else (source, "", "1") for source in sources]
    return ["corpora={" + ", ".join(f"{name!r}: {weight}" for name, _, weight in weighed) + "}"]


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections in a file.

    Raises:
        FileNotFoundError, ValueError: naming the file.
    """
    fix = "give a YAML file with sections such as model and sparsity"
    found = parse_yaml(read_text(path, largest=LARGEST_RECIPE, fix=fix), str(path), fix=fix)
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no settings; it needs sections such as model and sparsity.")
    return found


def _merge(values: dict[str, Any], more: dict[str, Any], origin: str) -> None:
    known = {each.name: each for each in dataclasses.fields(Recipe)}
    for section, value in more.items():
        if section not in known:
            close = difflib.get_close_matches(str(section), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"they are {', '.join(known)}."
            raise ValueError(f"{section!r:.60} in {origin} is no section of a recipe; {hint}")
        if section == "corpora":  # a mixture is given whole
            values[section] = value if isinstance(value, dict) else {str(value): 1.0}
        elif section in ("model", "sparsity", "arguments"):
            if not isinstance(value, dict):
                raise ValueError(f"{section} in {origin} is {value!r:.60}; it needs names and values.")
            values.setdefault(section, {}).update(value)
        else:
            values[section] = value


def _deep_copy(value: Any) -> Any:
    return {key: _deep_copy(each) for key, each in value.items()} if isinstance(value, dict) else value
