"""What the commands of `csp` are given: models, corpora, circuits, settings and text, looked at before any work."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..hub import HUB_ID

Model = Annotated[str, typer.Argument(help="Checkpoint folder or Hub id.")]
Corpus = Annotated[
    str | None,
    typer.Option(
        help="For means: stdlib, idioms, a folder or glob, hf:NAME. Default: what the model was trained on, if its folder has it."
    ),
]
Form = Annotated[
    str | None,
    typer.Option(
        help="Of a built-in task: line_end, bare (no line's end after the answer), or published. Default: natural to the model."
    ),
]
Tokens = Annotated[int, typer.Option(help="Tokens of the corpus to average over.", min=1)]


def given_text(text: str) -> str:
    """Text of the command line; '-' reads standard input, escapes such as \\n are understood. As in corpora, without a byte order mark, and with
    Python's line ends.

    Raises:
        ValueError: if it is not UTF-8.
    """
    from ..corpora.sources import plain_text

    buffer = getattr(sys.stdin, "buffer", None) if text == "-" else None
    try:
        if buffer is not None:
            given = buffer.read().decode("utf-8")  # whatever encoding the terminal has
        else:  # bytes of the command line that are no text come as halves of characters
            given = (sys.stdin.read() if text == "-" else text).encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        where = "Standard input" if text == "-" else f"The text {text[:40]!r}"
        raise ValueError(f"{where} is not UTF-8; give text in that encoding.") from None
    given = plain_text(given)
    return given if text == "-" else given.replace("\\n", "\n").replace("\\t", "\t")


def without_options(said: str) -> str:
    """What a function says, without advice to pass an argument that the command at hand does not have."""
    return re.sub(r",? or pass force=True| \(force=True [^)]*\)", "", said)


def require_model(model: str, pairs: bool = False) -> None:
    """Refuses a model that is neither a folder of one nor a repository that the Hub has, or that is in the cache; pairs: a bridged pair will do.

    What can only be a mistyped path is not looked for on the Hub: a path that begins in a folder that is here, or that no Hub id looks like.
    """
    path = Path(model)
    if not path.is_dir():
        if _looks_local(model):
            raise FileNotFoundError(f"{model} is no folder; give a checkpoint folder, or a Hub id such as user/name.")
        from ..hub import require_on_hub

        require_on_hub(model)
        return
    if (path / "bridges.json").is_file():
        if not pairs:
            raise ValueError(f"{model} is a bridged pair; give one of its models, such as {model}/sparse.")
    elif not (path / "config.json").is_file() and not (path / "tokenizer.json").is_file():
        raise FileNotFoundError(
            f"{model} holds neither config.json nor tokenizer.json; give the folder that save_pretrained wrote."
        )


def _looks_local(model: str) -> bool:
    first = model.partition("/")[0]
    return model.count("/") != 1 or not HUB_ID.fullmatch(model) or Path(first).exists()


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a CSP model: what tasks and circuits need, before the model itself is loaded."""

    from ..checkpoints import models

    require_model(model)
    kind = models.model_type(model)
    if kind != "csp":
        raise ValueError(
            f"{model} is a {kind} model; circuits are found in CSP models, such as csp train and csp convert make."
        )
    if Path(model).is_dir() and not (Path(model) / "tokenizer.json").is_file():
        raise FileNotFoundError(
            f"{model} has no tokenizer.json; save the model's tokenizer there, circuits are found on its tokens."
        )
    return models.load_tokenizer(model)


def load(model: str, *, sparse: bool = False) -> tuple[Any, Any]:
    """The model in float32, and its tokenizer; `sparse`: in sparse form as far as that is faster."""
    import torch

    from ..checkpoints.models import require_fit
    from ..modeling_csp import CSPForCausalLM

    tokenizer = load_tokenizer(model)
    loaded = CSPForCausalLM.from_pretrained(model, dtype=torch.float32, sparse=sparse).eval()
    require_fit(tokenizer, loaded)
    return loaded, tokenizer


def require_corpus(corpus: str | None) -> None:
    """Refuses a corpus that cannot be, before anything else is done."""
    if corpus is not None:
        from ..corpora.mixture import check_source

        check_source(corpus)


def circuit_folder(model: str | None, circuit: str) -> Path:
    """The folder of a circuit that is named by its own folder, or by its task under the model's circuits/, here or on the Hub."""
    from ..circuits.storage import find

    if (Path(circuit) / "circuit.json").is_file():
        return Path(circuit)
    looks_like_a_folder = "/" in circuit or "\\" in circuit or circuit in (".", "..") or Path(circuit).exists()
    if looks_like_a_folder or model is None:
        known = "" if model is not None else " (by a name under a model's circuits/ it is found if the model is named too)"
        raise FileNotFoundError(f"{circuit} holds no circuit.json; give the folder that csp prune wrote{known}.")
    return find(model, f"circuits/{circuit}", None, {})


def circuits_of(model: str) -> list[Path]:
    """Folders of the circuits under a model's circuits/.

    Raises:
        FileNotFoundError: if there is none.
    """
    folders = sorted(path.parent for path in Path(model).glob("circuits/*/circuit.json"))
    if not folders:
        raise FileNotFoundError(
            f"{model} has no circuits/<task>/circuit.json; find a circuit with csp prune, into {model}/circuits/<task>."
        )
    return folders


_BLOCK = 128  # tokens of a block of a corpus


def corpus_blocks(model: str, corpus: str | None, tokenizer: Any, tokens: int) -> Any:
    """Token ids [blocks, tokens] of training text: the model's own training blocks, or a corpus."""
    from ..corpora.blocks import sample_blocks, saved_blocks

    folder = (
        Path(model).parent if (Path(model).parent / "bridges.json").is_file() else Path(model)
    )  # a pair has one text for both
    own = saved_blocks(folder) if corpus is None else None
    if own is not None:
        return own[: max(1, tokens // own.shape[1])]
    from ..corpora.mixture import load_corpus

    longest = min(_BLOCK, tokenizer.model_max_length)  # which models with few positions say
    return sample_blocks(load_corpus(corpus or "stdlib"), tokenizer, longest, tokens)


def read_settings(kind: Any, settings: list[str], what: str) -> dict[str, Any]:
    """name=value settings as fields of a dataclass, each of the type of its default."""
    import dataclasses

    fields: dict[str, Any] = {field.name: type(field.default) for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or name not in fields:
            raise ValueError(f"{text!r} is no setting of {what}; write name=value with one of {', '.join(fields)}.")
        values[name] = _read_setting(name, value, fields[name])
    return values


def _read_setting(name: str, text: str, kind: type) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.strip().lower()]
        return kind(text)
    except (ValueError, KeyError, OverflowError):
        raise ValueError(f"{name} is {text[:40]!r}; it must be a {kind.__name__}.") from None
