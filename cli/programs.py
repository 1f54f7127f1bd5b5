"""The command that writes circuits out as programs and runs every prompt of a task through them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .given import (
    Corpus,
    Model,
    Tokens,
    circuit_folder,
    circuits_of,
    corpus_blocks,
    load,
    load_tokenizer,
    require_corpus,
    require_model,
)


def prove_circuit(
    model: Model,
    circuit: Annotated[str, typer.Argument(help="Folder of the circuit, or its name under the model's circuits/.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for program.py and certificate.json; default: the circuit's own.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Do it all again, and say what in the folder is not so.")] = False,
    most: Annotated[
        int,
        typer.Option(help="Prompts to run at most; larger languages are restricted, and the certificate says to what.", min=1),
    ] = 20_000_000,
    lengths: Annotated[
        bool, typer.Option("--lengths", help="Bounds too over any number of repetitions of what the task's prompts repeat.")
    ] = False,
    simplify: Annotated[
        float | None,
        typer.Option(help="A second, short program, that loses at most so many nats over all prompts, such as 0.02.", min=0.0),
    ] = None,
    corpus: Corpus = None,
    tokens: Tokens = 50_000,
) -> None:
    """Write a circuit out as a Python program, and run every prompt of its task through it.

    Example: csp prove . single_double_quote --out runs/quotes
    """
    from ..circuits import Circuit
    from ..programs.certificate import summary
    from ..programs.prove import CERTIFICATE, PROGRAM, SIMPLE, STORY, prove

    require_model(model)
    require_corpus(corpus)
    found = Circuit.from_pretrained(circuit_folder(model, circuit))
    task = found.find_task(load_tokenizer(model))
    if task is None:
        raise ValueError(
            f"{found.task} is no built-in task, whose language is known; check the circuit on its pairs with csp verify."
        )
    folder, (loaded, tokenizer) = out or circuit_folder(model, circuit), load(model)
    with _counting() as tell:
        if check:
            _check(loaded, tokenizer, found, task, folder, tell)
            return
        blocks = corpus_blocks(model, corpus, tokenizer, tokens) if found.settings.get("freeze_norms") else None
        proof = prove(loaded, tokenizer, found, task, blocks, most=most, lengths=lengths, simplify=simplify, tell=tell)
    proof.save(folder)
    for line in summary(proof.certificate):
        typer.echo(line)
    more = f", {folder / SIMPLE}, {folder / STORY}" if proof.simple else ""
    typer.echo(f"Saved to {folder / PROGRAM} ({len(proof.program.splitlines())} lines){more} and {folder / CERTIFICATE}")


def _check(model: Any, tokenizer: Any, circuit: Any, task: Any, folder: Path, tell: Any) -> None:
    from ..programs.prove import CERTIFICATE, PROGRAM, check

    faults = check(model, tokenizer, circuit, task, folder, tell)
    if faults:
        raise ValueError(f"{folder / CERTIFICATE} is not so: {'; '.join(faults)}.")
    typer.echo(f"All of it is so: {folder / CERTIFICATE} and {folder / PROGRAM} come out again.")


def list_circuits(
    model: Model,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The circuits under a model's circuits/: their size, the levels that csp verify found, what csp prove certified.

    Example: csp circuits .
    """
    import json

    from ..circuits import Circuit
    from ..circuits.report import Verification
    from ..programs.prove import certified

    rows = [("circuit", "nodes", "edges", "levels", "certified: right on")]
    for folder in circuits_of(model):
        circuit = Circuit.from_pretrained(folder)
        report = Verification.of(folder, circuit)
        edges = "not counted" if circuit.num_edges is None else f"{circuit.num_edges:,}"
        rows.append(
            (
                folder.name,
                f"{circuit.num_nodes:,}",
                edges,
                "not verified" if report is None else report.headline,
                certified(folder, circuit) or "-",
            )
        )
    if as_json:
        typer.echo(json.dumps([dict(zip(rows[0], row)) for row in rows[1:]], indent=1))
        return
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


class _counting:
    """A progress bar of prompts, on a terminal."""

    def __enter__(self) -> Any:
        from tqdm import tqdm

        self._bar = tqdm(desc="prompts", unit="", unit_scale=True, disable=None, delay=2)
        return self._bar.update

    def __exit__(self, *error: Any) -> None:
        self._bar.close()
