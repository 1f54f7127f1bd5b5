"""The commands of `csp` that find, check and read circuits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..hub import require
from .given import (
    Corpus,
    Form,
    Model,
    Tokens,
    circuit_folder,
    corpus_blocks,
    given_text,
    load,
    load_tokenizer,
    read_settings,
    require_corpus,
    require_model,
)


def show_tasks(
    model: Model,
    task: Annotated[list[str] | None, typer.Option(help="Tasks, or files of pairs; default: the 20.")] = None,
    pairs: Annotated[int, typer.Option(help="Held-out pairs of each.", min=1)] = 64,
    form: Form = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Which tasks a model can do: preference and loss between the two answers on held-out pairs, against chance, and whether the answer is its first
    guess. Only those that pass the gate, which asks for preference, are worth pruning for.

    Example: csp tasks runs/tiny
    """
    from ..circuits import load_task, tasks
    from ..circuits.python_tasks import LINE_END
    from ..circuits.scoring import CHANCE, capabilities

    tokenizer = load_tokenizer(model)
    for name in task or ():
        load_task(name, tokenizer, form if name in tasks() else None)
    loaded, tokenizer = load(model)
    found = capabilities(loaded, tokenizer, task, form=form, pairs=pairs)
    if as_json:
        rows = [
            {"task": g.task, "form": g.form, "passes": g.passes, "reason": g.reason, **(g.score.to_dict() if g.score else {})}
            for g in found
        ]
        typer.echo(json.dumps(rows, indent=1))
        return
    names = [each.task + (f" ({each.form})" if each.form not in ("", LINE_END) else "") for each in found]
    width = max(len("(chance)"), *map(len, names))
    typer.echo(f"{'task'.ljust(width)}  prefers    loss  first guess  probability  gate")
    typer.echo(f"{'(chance)'.ljust(width)}  {0.5:7.2f}  {CHANCE:6.3f}")
    for name, each in zip(names, found):
        s = each.score
        numbers = " " * 41 if s is None else f"{s.preference:7.2f}  {s.loss:6.3f}  {s.first_guess:11.2f}  {s.probability:11.2f}"
        typer.echo(f"{name.ljust(width)}  {numbers}  {'passes' if each.passes else each.reason}")
    typer.echo(
        f"{sum(each.passes for each in found)} of {len(found)} tasks pass: the right one of two answers is preferred to the other."
    )


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
    from ..circuits import load_task, mean_activations, prune, task_for
    from ..circuits.conditions import SAMPLED
    from ..circuits.controls import SAMPLES
    from ..circuits.prune import METHODS
    from ..circuits.search import search

    config = prune_config(target, setting or [])
    if method not in METHODS:
        raise ValueError(f"--method is {method!r}; it must be one of {', '.join(METHODS)}.")
    if trials is not None:
        if method != "learned":
            raise ValueError("--trials searches the settings of learned masks; leave out --method.")
        require("optuna", "searches over settings")
    _require_circuit_place(out)
    require_corpus(corpus)
    load_task(task, load_tokenizer(model), form)
    loaded, tokenizer = load(model, sparse=True)
    blocks = corpus_blocks(model, corpus, tokenizer, tokens)
    means = mean_activations(loaded, blocks, samples=SAMPLES if config.ablation in SAMPLED else 0)
    wanted = task_for(loaded, task, tokenizer, form)
    if trials is not None:
        circuit = search(loaded, tokenizer, wanted, means, config, trials=trials, out=out, force=force)
    else:
        circuit = prune(loaded, tokenizer, wanted, means, config, method=method, out=out, force=force)
    typer.echo(f"{_found(circuit, target)} Saved to {out}. A low loss proves little: csp verify checks the circuit.")
    typer.echo(f"Look at it: {page_of(out, loaded, tokenizer, wanted, blocks)}")


def _found(circuit: Any, target: float) -> str:
    """What pruning came to, in words."""
    metrics = circuit.metrics
    pairs, own, whole = "held-out" if metrics.get("held_out", True) else "training", metrics["circuit"], metrics["model"]
    missed = (
        ""
        if metrics["reached"]
        else f"The target of {target:g} was not reached; the best found has loss {metrics['worst_cost']:.3f}. "
    )
    return (
        f"{missed}{circuit.task}: {metrics['nodes']} nodes, {metrics['edges']} edges ({metrics['edges_on_path']} on a path to an answer). On {pairs} pairs it prefers "
        f"the right answer on {own['preference']:.0%} (the model {whole['preference']:.0%}), pairwise loss {own['loss']:.3f} ({whole['loss']:.3f}), and has it as its "
        f"first guess on {own['first_guess']:.0%} ({whole['first_guess']:.0%})."
    )


def _require_circuit_place(out: Path) -> None:
    """A new folder, or that of a circuit to replace; what a killed save left there does not count."""
    from ..circuits.search import STUDY
    from ..circuits.storage import JSON, PREVIOUS, TENSORS
    from ..files import is_empty, require_writable

    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file; give a folder.")
    held = set() if not out.exists() or is_empty(out) else {path.name for path in out.iterdir()}
    if held - {TENSORS, PREVIOUS} and not held & {JSON, STUDY}:
        raise FileExistsError(f"{out} has other files; choose a new folder, or that of a circuit to replace.")
    require_writable(out)


def page_of(folder: Path, model: Any, tokenizer: Any, task: Any, blocks: Any) -> Path:
    """Writes page.html into a circuit's folder, with the report that is there."""
    from ..viewer import Subject, write_page

    return write_page([replace(Subject.of(folder, model, tokenizer, blocks), task=task)], folder / "page.html")


def prune_config(target: float, settings: list[str]) -> Any:
    """A PruneConfig from name=value settings."""
    from ..circuits import PruneConfig

    return PruneConfig(**{"target_loss": target, **read_settings(PruneConfig, settings, "pruning")})


def verify_circuit(
    model: Model,
    circuit: Annotated[
        str,
        typer.Argument(help="Folder of the circuit, or its name under the model's circuits/; the report is written there too."),
    ],
    task: Annotated[str | None, typer.Option(help="For tasks from files: the file. Default: by the circuit's name.")] = None,
    corpus: Corpus = None,
    tokens: Tokens = 50_000,
    pairs: Annotated[int, typer.Option(help="Held-out pairs of each kind.", min=2)] = 64,
    controls: Annotated[bool, typer.Option(help="Prune the twins and the model with shuffled weights too.")] = True,
    seeds: Annotated[int, typer.Option(help="Prunings that decide on stability; 1 leaves it out.", min=1)] = 3,
) -> None:
    """Is a circuit to be believed? What it prefers and produces, whether it agrees with the unpruned model, survives other ablations, is needed;
    controls, stability, other tasks; and a verdict in levels.

    Example: csp verify runs/tiny runs/quotes
    """
    from ..circuits import Circuit, task_for, tasks, verify
    from ..circuits.report import REPORT
    from ..files import require_writable
    from ..programs.prove import certified

    require_model(model)
    require_corpus(corpus)
    folder = circuit_folder(model, circuit)
    require_writable(folder)
    found = Circuit.from_pretrained(folder)
    proved = certified(folder, found)  # a damaged one is said before there is a report to lose
    wanted = found.find_task(load_tokenizer(model), task)
    if wanted is None:
        raise ValueError(f"{found.task} is no built-in task; give the file that it came from with --task.")
    loaded, tokenizer = load(model, sparse=True)
    blocks = corpus_blocks(model, corpus, tokenizer, tokens)
    others = [] if wanted.origin else [task_for(loaded, name, tokenizer) for name in tasks() if name != wanted.name]
    report = verify(found, loaded, tokenizer, wanted, blocks=blocks, pairs=pairs, controls=controls, seeds=seeds, others=others)
    typer.echo(str(report))
    if proved:
        typer.echo(f"csp prove: right on {proved}")
    report.save(folder)
    typer.echo(f"saved to {folder / REPORT}; look at it: {page_of(folder, loaded, tokenizer, wanted, blocks)}")


def show_node(
    model: Model,
    node: Annotated[str, typer.Argument(help="SITE:INDEX, such as 0.mlp.post_act:17.")],
    corpus: Corpus = None,
    tokens: Tokens = 50_000,
    contexts: Annotated[int, typer.Option(help="Contexts at each end.", min=1)] = 5,
    explains: Annotated[
        str | None,
        typer.Option(
            help="Score an explanation: a ready predicate (a wrong name lists them), the token is 'x', FILE.py:FUNCTION, or best."
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="For --explains: of what the node does for this task, how much the explanation keeps.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a node reads and writes, where it is largest and smallest, and what ablating it costs; or how well an explanation of it holds.

    Example: csp node runs/tiny 0.mlp.post_act:17 --explains "opens a string"
    """
    from ..circuits import task_for
    from ..circuits.hypotheses import explain_node, rule_of
    from ..circuits.reading import describe, parse_node, read_node

    require_corpus(corpus)
    if task is not None and explains is None:
        raise ValueError("--task says what an explanation keeps; give one with --explains, or best.")
    if explains not in (None, "best"):
        rule_of(str(explains))
    loaded, tokenizer = load(model, sparse=True)
    parse_node(loaded, node)
    blocks = corpus_blocks(model, corpus, tokenizer, tokens)
    if explains is None:
        found = read_node(loaded, tokenizer, node, blocks, contexts=contexts)
        typer.echo(json.dumps(found, indent=1) if as_json else describe(found))
        return
    wanted = None if task is None else task_for(loaded, task, tokenizer)
    scored = explain_node(loaded, tokenizer, node, blocks, None if explains == "best" else explains, task=wanted)
    typer.echo(json.dumps(scored, indent=1) if as_json else f"{node} {scored['said']}")


def explain_nodes(
    model: Model,
    circuit: Annotated[str, typer.Argument(help="Folder of the circuit, or its name under the model's circuits/.")],
    task: Annotated[str | None, typer.Option(help="For tasks from files: the file. Default: by the circuit's name.")] = None,
    corpus: Corpus = None,
    tokens: Tokens = 50_000,
    write: Annotated[
        bool, typer.Option(help="Put labels that say something into the circuit file, for nodes that have none.")
    ] = True,
) -> None:
    """The best of the ready explanations for each node of a circuit, with its score; those that say something become labels.

    Example: csp explain runs/tiny runs/quotes
    """
    from ..circuits import Circuit
    from ..circuits.hypotheses import explain_circuit, is_measured, labels_of
    from ..circuits.identity import refuse_other_model
    from ..files import require_writable

    require_model(model)
    require_corpus(corpus)
    folder = circuit_folder(model, circuit)
    found = Circuit.from_pretrained(folder)
    wanted = found.find_task(load_tokenizer(model), task)
    if wanted is None:
        raise ValueError(
            f"{found.task} is no built-in task; give the file that it came from with --task: explanations are held to what they keep of it."
        )
    if write:
        require_writable(folder)
    loaded, tokenizer = load(model, sparse=True)
    refuse_other_model(found, loaded)
    scored = explain_circuit(loaded, tokenizer, found, corpus_blocks(model, corpus, tokenizer, tokens), wanted)
    for node, each in scored.items():
        typer.echo(f"{node} {each['said']}")
    persons = {node: text for node, text in found.labels.items() if not is_measured(text)}
    labels = {node: text for node, text in labels_of(scored).items() if node not in persons}
    if write:
        found.labels = persons | labels
        found.save_pretrained(folder)
    typer.echo(
        f"{len(labels_of(scored))} of {len(scored)} nodes have an explanation that says something"
        + (f"; {len(labels)} labels written to {folder}" if write else "")
    )


def export_circuit(
    circuit: Annotated[str, typer.Argument(help="Folder of the circuit, or its name under the circuits/ of --model.")],
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
    from ..circuits import Circuit
    from ..circuits.export import save_graphml, save_json
    from ..convert.mib import to_mib
    from ..convert.neuronpedia import to_attribution_graph
    from ..files import require_writable

    if to not in ("graphml", "mib", "neuronpedia"):
        raise ValueError(f"{to!r} is no format; choose graphml, mib or neuronpedia.")
    if to != "graphml" and model is None:
        raise ValueError(f"{to} describes the circuit within its model; name it with --model.")
    if to == "neuronpedia" and (prompt is None or scan is None):
        raise ValueError("A Neuronpedia graph is of one prompt and one of its models; give --prompt and --scan.")
    if model is not None:
        require_model(model)
    found = Circuit.from_pretrained(circuit_folder(model, circuit))
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder; name a file.")
    require_writable(out.parent)
    if to == "graphml":
        save_graphml(found, out, load(model)[0] if model is not None else None)
    elif to == "mib":
        save_json(to_mib(found, load(str(model))[0]), out)
    else:
        text = given_text(prompt or "")
        graph = to_attribution_graph(found, *load(str(model)), text, scan=str(scan), slug=found.task.replace("_", "-"))
        save_json(graph, out)
    typer.echo(f"Wrote {out}")


def import_circuit(
    source: str, dest: Path, model: str, task: str, corpus: str | None, tokens: int, form: str = "published"
) -> Path:
    """A circuit of OpenAI's release, with means over a corpus, as a folder of ours; source: its viz_data.pt, or openai:MODEL/TASK/SWEEP/K."""
    from ..circuits import mean_activations
    from ..convert import convert_openai_circuit
    from ..convert.openai_circuit import from_store
    from ..files import fresh_folder, require_fresh

    require_fresh(dest)
    require_corpus(corpus)
    loaded, tokenizer = load(model)
    with from_store(source, dest) as path, fresh_folder(dest) as folder:
        means = mean_activations(loaded, corpus_blocks(model, corpus, tokenizer, tokens))
        convert_openai_circuit(path, loaded, tokenizer, means, task=task, form=form).save_pretrained(folder)
    return dest
