"""The commands of `csp` that find, check and read circuits."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

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
    from .training.corpus import plain_text

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


def require_model(model: str) -> None:
    """Refuses what can only be a mistyped path before transformers takes it for a Hub id."""
    path = Path(model)
    if not path.is_dir() and (path.is_absolute() or model.startswith(".") or model.count("/") != 1):
        raise FileNotFoundError(f"{model} is no folder; give a checkpoint folder, or a Hub id such as user/name.")
    if (path / "bridges.json").is_file():
        raise ValueError(f"{model} is a bridged pair; give one of its models, such as {model}/sparse.")
    if path.is_dir() and not (path / "config.json").is_file() and not (path / "tokenizer.json").is_file():
        raise FileNotFoundError(
            f"{model} holds neither config.json nor tokenizer.json; give the folder that save_pretrained wrote."
        )


def load(model: str) -> tuple[Any, Any]:
    """The model in float32, and its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from .modeling_csp import CSPForCausalLM

    require_model(model)
    kind = AutoConfig.from_pretrained(model).model_type
    if kind != "csp":
        raise ValueError(
            f"{model} is a {kind} model; circuits are found in CSP models, such as csp train and csp convert make."
        )
    if Path(model).is_dir() and not (Path(model) / "tokenizer.json").is_file():
        raise FileNotFoundError(
            f"{model} has no tokenizer.json; save the model's tokenizer there, circuits are found on its tokens."
        )
    return CSPForCausalLM.from_pretrained(model, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(model)


def corpus_blocks(model: str, corpus: str | None, tokenizer: Any, tokens: int) -> Any:
    """Token ids [blocks, tokens] of training text: the model's own training blocks, or a corpus."""
    from .training.corpus import sample_blocks, saved_blocks

    folder = (
        Path(model).parent if (Path(model).parent / "bridges.json").is_file() else Path(model)
    )  # a pair has one text for both
    own = saved_blocks(folder) if corpus is None else None
    if own is not None:
        return own[: max(1, tokens // own.shape[1])]
    from .training.corpora import load_corpus

    return sample_blocks(load_corpus(corpus or "stdlib"), tokenizer, 128, tokens)


def show_tasks(
    model: Model,
    task: Annotated[list[str] | None, typer.Option(help="Tasks, or files of pairs; default: the 20.")] = None,
    pairs: Annotated[int, typer.Option(help="Held-out pairs of each.", min=1)] = 64,
    form: Form = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Which tasks a model can do: loss and accuracy on held-out pairs, against chance. Only those are worth pruning for.

    Example: csp tasks runs/tiny
    """
    from .circuits.python_tasks import LINE_END
    from .circuits.scoring import CHANCE, gates

    loaded, tokenizer = load(model)
    found = gates(loaded, tokenizer, task, form=form, pairs=pairs)
    if as_json:
        rows = [
            {"task": g.task, "form": g.form, "passes": g.passes, "reason": g.reason, **(g.score.to_dict() if g.score else {})}
            for g in found
        ]
        typer.echo(json.dumps(rows, indent=1))
        return
    names = [each.task + (f" ({each.form})" if each.form not in ("", LINE_END) else "") for each in found]
    width = max(map(len, names))
    typer.echo(f"{'task'.ljust(width)}    loss  accuracy  gate        (chance: loss {CHANCE:.3f}, accuracy 0.50)")
    for name, each in zip(names, found):
        numbers = f"{each.score.loss:8.3f}  {each.score.accuracy:8.2f}" if each.score else " " * 18
        typer.echo(f"{name.ljust(width)}{numbers}  {'passes' if each.passes else each.reason}")
    typer.echo(f"{sum(each.passes for each in found)} of {len(found)} tasks pass")


def prune_task(
    model: Model,
    task: Annotated[str, typer.Argument(help="Task (see csp tasks), or a .csv or .jsonl file of pairs.")],
    out: Annotated[Path, typer.Option(help="Folder of the circuit; always has the best so far.")],
    corpus: Corpus = None,
    tokens: Tokens = 50_000,
    target: Annotated[float, typer.Option(help="Task loss in nats that the circuit must reach.")] = 0.15,
    setting: Annotated[list[str] | None, typer.Option("--set", help="Any field of PruneConfig, such as steps=800.")] = None,
    trials: Annotated[
        int | None, typer.Option(help="Search over settings with Optuna; goes on with a search in the folder.", min=1)
    ] = None,
    method: Annotated[str, typer.Option(help="learned, or attribution (the baseline).")] = "learned",
    form: Form = None,
    force: Annotated[bool, typer.Option(help="Prune although the model cannot do the task.")] = False,
) -> None:
    """Find the smallest circuit for a task: nodes by learned masks, then nodes and edges one by one, with exact checks.

    Example: csp prune runs/tiny single_double_quote --out runs/quotes
    """
    from .circuits import mean_activations, prune, task_for
    from .circuits.search import STUDY, search

    if out.exists() and any(out.iterdir()) and not any((out / name).is_file() for name in ("circuit.json", STUDY)):
        raise FileExistsError(f"{out} has other files; choose a new folder, or that of a circuit to replace.")
    loaded, tokenizer = load(model)
    config = prune_config(target, setting or [])
    blocks = corpus_blocks(model, corpus, tokenizer, tokens)
    means = mean_activations(loaded, blocks)
    if trials is not None and method != "learned":
        raise ValueError("--trials searches the settings of learned masks; leave out --method.")
    wanted = task_for(loaded, task, tokenizer, form)
    if trials is not None:
        circuit = search(loaded, tokenizer, wanted, means, config, trials=trials, out=out, force=force)
    else:
        circuit = prune(loaded, tokenizer, wanted, means, config, method=method, out=out, force=force)
    metrics = circuit.metrics
    pairs = "held-out" if metrics.get("held_out", True) else "training"
    if not metrics["reached"]:
        typer.echo(f"The target of {target:g} was not reached; the best found has loss {metrics['circuit']['loss']:.3f}.")
    typer.echo(
        f"{circuit.task}: {metrics['nodes']} nodes, {metrics['edges']} edges, loss {metrics['circuit']['loss']:.3f} on {pairs} pairs "
        f"(the model {metrics['model']['loss']:.3f}); saved to {out}. Low loss proves little: csp verify checks it."
    )
    typer.echo(f"Look at it: {page_of(out, loaded, tokenizer, wanted, blocks)}")


def page_of(folder: Path, model: Any, tokenizer: Any, task: Any, blocks: Any) -> Path:
    """Writes page.html into a circuit's folder, with the report that is there."""
    from .circuits import Circuit, Report
    from .viewer import Subject, write_page

    circuit = Circuit.from_pretrained(folder)
    return write_page([Subject(circuit, model, tokenizer, task, blocks, Report.of(folder, circuit))], folder / "page.html")


def prune_config(target: float, settings: list[str]) -> Any:
    """A PruneConfig from name=value settings."""
    from .circuits import PruneConfig

    return PruneConfig(**{"target_loss": target, **read_settings(PruneConfig, settings, "pruning")})


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


def verify_circuit(
    model: Model,
    circuit: Annotated[Path, typer.Argument(help="Folder of the circuit; the report is written there too.")],
    task: Annotated[str | None, typer.Option(help="For tasks from files: the file. Default: by the circuit's name.")] = None,
    corpus: Corpus = None,
    tokens: Tokens = 50_000,
    pairs: Annotated[int, typer.Option(help="Held-out pairs of each kind.", min=2)] = 64,
    controls: Annotated[bool, typer.Option(help="Prune the twins and the model with shuffled weights too.")] = True,
    seeds: Annotated[int, typer.Option(help="Prunings that decide on stability; 1 leaves it out.", min=1)] = 3,
) -> None:
    """Is a circuit to be believed? Sufficiency, agreement with the unpruned model, necessity, controls, stability, and a verdict.

    Example: csp verify runs/tiny runs/quotes
    """
    from .circuits import Circuit, verify
    from .circuits.report import REPORT

    found = Circuit.from_pretrained(circuit)
    loaded, tokenizer = load(model)
    wanted = found.find_task(tokenizer, task)
    if wanted is None:
        raise ValueError(f"{found.task} is no built-in task; give the file that it came from with --task.")
    blocks = corpus_blocks(model, corpus, tokenizer, tokens)
    report = verify(found, loaded, tokenizer, wanted, blocks=blocks, pairs=pairs, controls=controls, seeds=seeds)
    typer.echo(str(report))
    report.save(circuit)
    typer.echo(f"saved to {circuit / REPORT}; look at it: {page_of(circuit, loaded, tokenizer, wanted, blocks)}")


def show_node(
    model: Model,
    node: Annotated[str, typer.Argument(help="SITE:INDEX, such as 0.mlp.post_act:17.")],
    corpus: Corpus = None,
    tokens: Tokens = 50_000,
    contexts: Annotated[int, typer.Option(help="Contexts at each end.", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a node reads and writes, where it is largest and smallest, and what ablating it costs.

    Example: csp node runs/tiny 0.mlp.post_act:17
    """
    from .circuits.reading import describe, read_node

    loaded, tokenizer = load(model)
    found = read_node(loaded, tokenizer, node, corpus_blocks(model, corpus, tokenizer, tokens), contexts=contexts)
    typer.echo(json.dumps(found, indent=1) if as_json else describe(found))


def export_circuit(
    circuit: Annotated[Path, typer.Argument(help="Folder of the circuit.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    to: Annotated[str, typer.Option(help="graphml, mib, or neuronpedia.")] = "graphml",
    model: Annotated[
        str | None, typer.Option(help="Its model: for mib, neuronpedia, and circuits without edges of their own.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="For neuronpedia: the prompt that the graph is about.")] = None,
    scan: Annotated[str | None, typer.Option(help="For neuronpedia: its id of the model.")] = None,
) -> None:
    """Write a circuit as a file of other tools.

    Example: csp export runs/quotes --out quotes.graphml
    """
    from .circuits import Circuit
    from .circuits.export import save_graphml, save_json, to_attribution_graph, to_mib

    if to not in ("graphml", "mib", "neuronpedia"):
        raise ValueError(f"{to!r} is no format; choose graphml, mib or neuronpedia.")
    found = Circuit.from_pretrained(circuit)
    if to == "graphml":
        save_graphml(found, out, load(model)[0] if model is not None else None)
    elif model is None:
        raise ValueError(f"{to} describes the circuit within its model; name it with --model.")
    elif to == "mib":
        save_json(to_mib(found, load(model)[0]), out)
    elif prompt is None or scan is None:
        raise ValueError("A Neuronpedia graph is of one prompt and one of its models; give --prompt and --scan.")
    else:
        graph = to_attribution_graph(found, *load(model), given_text(prompt), scan=scan, slug=found.task.replace("_", "-"))
        save_json(graph, out)
    typer.echo(f"Wrote {out}")


def import_circuit(
    source: str, dest: Path, model: str, task: str, corpus: str | None, tokens: int, form: str = "published"
) -> Path:
    """A circuit of OpenAI's release, with means over a corpus, as a folder of ours."""
    from .circuits import mean_activations
    from .convert import convert_openai_circuit
    from .training.folder import fresh_folder

    loaded, tokenizer = load(model)
    with fresh_folder(dest) as folder:
        means = mean_activations(loaded, corpus_blocks(model, corpus, tokenizer, tokens))
        convert_openai_circuit(source, loaded, tokenizer, means, task=task, form=form).save_pretrained(folder)
    return dest
