"""The commands of `csp` that show circuits, take back what a person wrote on the page, and publish."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..hub import require
from .given import Corpus, Model, Tokens, circuit_folder, circuits_of, corpus_blocks, load, require_corpus, require_model

Circuits = Annotated[list[str], typer.Argument(help="Folders of circuits of the model, or names under its circuits/ folder.")]


def view_circuits(
    model: Annotated[
        str,
        typer.Argument(help="Checkpoint folder or Hub id; of a bridged pair: nodes show what they mean to its dense model."),
    ],
    circuits: Circuits,
    out: Annotated[
        Path | None, typer.Option(help="File of the page. Default: page.html in the first circuit's folder.")
    ] = None,
    beside: Annotated[
        tuple[str, str] | None, typer.Option(help="MODEL CIRCUIT: one of another model too, such as the dense twin.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="For a task from a file: the file.")] = None,
    corpus: Corpus = None,
    tokens: Tokens = 50_000,
    contexts: Annotated[int, typer.Option(help="Contexts at each end of every node.", min=0)] = 5,
    runs: Annotated[
        bool, typer.Option(help="Put the model into the page, if it is small enough, so that the page runs it.")
    ] = True,
    serve: Annotated[bool, typer.Option(help="Serve the page on this machine, with the model behind it.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --serve; 0 takes a free one.")] = 8765,
) -> None:
    """Write circuits as one HTML file that opens anywhere, or serve it with the model (--serve).

    Example: csp view runs/tiny runs/quotes --out quotes.html
    """
    from ..viewer import write_page

    pairs = [(model, name) for name in circuits] + ([beside] if beside is not None else [])
    for name in dict(pairs):
        require_model(name, pairs=True)
    folders = [circuit_folder(*pair) for pair in pairs]
    require_corpus(corpus)
    target = _page_file(model, folders, out, serve)
    loaded = {name: load_shown(name) for name in dict(pairs)}
    texts = {
        name: corpus_blocks(name, corpus, tokenizer, tokens) if contexts or bridged is not None else None
        for name, (_, tokenizer, bridged) in loaded.items()
    }
    subjects = [subject_of(folder, *loaded[name], texts[name], contexts, task) for (name, _), folder in zip(pairs, folders)]
    if serve:
        from ..viewer.serve import serve as run_server

        run_server(subjects, folders, port=port, say=typer.echo)
        return
    typer.echo(f"Wrote {write_page(subjects, target, runs=runs)} ({target.stat().st_size / 1e6:.1f} MB)")


def _page_file(model: str, folders: list[Path], out: Path | None, serve: bool) -> Path:
    """Where the page goes, if it can be written there."""
    if serve:
        require("uvicorn", "pages with the model behind them")
        require("starlette", "pages with the model behind them")
    elif out is None and not Path(model).is_dir():
        raise ValueError("The circuit is on the Hub; say with --out where its page goes.")
    target = out or folders[0] / "page.html"
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; name a file.")
    if not serve:
        from ..files import require_writable

        require_writable(target.parent)
    return target


def load_shown(model: str) -> tuple[Any, Any, Any]:
    """A model and its tokenizer; of a bridged pair its sparse model and the tokenizer, with the pair."""
    from ..bridges.pair import BridgedPair, is_pair

    if not is_pair(model):
        return (*load(model, sparse=True), None)
    pair = BridgedPair.from_pretrained(model)
    return pair.sparse.model, pair.tokenizer, pair


def subject_of(
    folder: Path, model: Any, tokenizer: Any, pair: Any, blocks: Any, contexts: int = 5, task: str | None = None
) -> Any:
    """What the page shows of the circuit in a folder: with its task, if it is built in or its file is given, and its report, if it has been verified."""
    from ..viewer import Subject

    found = Subject.of(folder, model, tokenizer, blocks, task=task, contexts=contexts, pair=pair)
    if found.task is None:
        name = found.circuit.task
        typer.echo(
            f"{name} is no built-in task: without --task FILE the page has no prompts and no effects of nodes.", err=True
        )
    return found


def label_nodes(
    circuit: Annotated[Path, typer.Argument(help="Folder of the circuit.")],
    labels: Annotated[Path, typer.Argument(help="File that the page's export wrote.")],
) -> None:
    """Put labels and groups that were written on the page into the circuit file.

    Example: csp label runs/quotes quotes.labels.json
    """
    from ..circuits import Circuit
    from ..viewer.labels import read_labels, set_labels

    found = Circuit.from_pretrained(circuit)
    given = read_labels(labels, found)
    set_labels(found, given["labels"], given["groups"])
    found.save_pretrained(circuit)
    typer.echo(f"{len(found.labels)} labels and {len(found.groups)} nodes in groups; saved to {circuit}")


def write_atlas_of(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder to write; new or empty.")],
    corpus: Corpus = None,
    tokens: Tokens = 50_000,
    contexts: Annotated[int, typer.Option(help="Contexts at each end of every node on the circuits' pages.", min=0)] = 3,
) -> None:
    """All circuits of a model as a folder: an index of tasks against nodes, a page that shows any of them and runs the model, programs and certificates.

    Example: csp atlas . --out runs/atlas
    """
    from ..circuits import Circuit
    from ..files import fresh_folder
    from ..viewer import write_page
    from ..viewer.atlas import PAGE, write_atlas

    folders = circuits_of(model)
    require_corpus(corpus)
    found = [Circuit.from_pretrained(folder) for folder in folders]
    shown = load_shown(model)
    blocks = corpus_blocks(model, corpus, shown[1], tokens) if contexts else None
    with fresh_folder(out) as partial:
        entries = [_entry(folder, circuit, partial) for folder, circuit in zip(folders, found)]
        write_page([subject_of(folder, *shown, blocks, contexts) for folder in folders], partial / PAGE, runs=True)
        write_atlas(entries, Path(model).resolve().name if model in (".", "..") else Path(model).name, partial)
    typer.echo(
        f"Wrote {out / 'index.html'} and the page of {len(folders)} circuits ({sum(f.stat().st_size for f in out.iterdir()) / 1e6:.1f} MB)"
    )


def _entry(folder: Path, circuit: Any, out: Path) -> Any:
    """What the atlas says of a circuit; its program and certificate are copied beside its page."""
    import shutil

    from ..circuits.report import Verification
    from ..programs.prove import CERTIFICATE, PROGRAM, SIMPLE, STORY, certified
    from ..viewer.atlas import Entry

    files: dict[str, str] = {}
    for name, said in ((STORY, "as a short program"), (SIMPLE, ""), (PROGRAM, "exact program"), (CERTIFICATE, "certificate")):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / f"{folder.name}.{name}")
            files |= {f"{folder.name}.{name}": said} if said else {}
    report = Verification.of(folder, circuit)
    return Entry(folder.name, circuit, "not verified" if report is None else report.headline, certified(folder, circuit), files)
