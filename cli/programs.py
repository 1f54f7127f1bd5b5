"""The command that writes circuits out as programs and runs every prompt of a task through them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .given import Corpus, Model, Tokens, circuit_folder, corpus_blocks, load, load_tokenizer, require_corpus, require_model


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
    from ..programs.prove import check as check_again

    require_model(model)
    require_corpus(corpus)
    found = Circuit.from_pretrained(circuit_folder(model, circuit))
    task = found.find_task(load_tokenizer(model))
    if task is None:
        raise ValueError(
            f"{found.task} is no built-in task, whose language is known; check the circuit on its pairs with csp verify."
        )
    folder = out or circuit_folder(model, circuit)
    loaded, tokenizer = load(model)
    with _counting() as tell:
        if check:
            faults = check_again(loaded, tokenizer, found, task, folder, tell)
            if faults:
                raise ValueError(f"{folder / CERTIFICATE} is not so: {'; '.join(faults)}.")
            typer.echo(f"All of it is so: {folder / CERTIFICATE} and {folder / PROGRAM} come out again.")
            return
        blocks = corpus_blocks(model, corpus, tokenizer, tokens) if found.settings.get("freeze_norms") else None
        proof = prove(loaded, tokenizer, found, task, blocks, most=most, lengths=lengths, simplify=simplify, tell=tell)
    proof.save(folder)
    for line in summary(proof.certificate):
        typer.echo(line)
    more = f", {folder / SIMPLE}, {folder / STORY}" if proof.simple else ""
    typer.echo(f"Saved to {folder / PROGRAM} ({len(proof.program.splitlines())} lines){more} and {folder / CERTIFICATE}")


class _counting:
    """A progress bar of prompts, on a terminal."""

    def __enter__(self) -> Any:
        from tqdm import tqdm

        self._bar = tqdm(desc="prompts", unit="", unit_scale=True, disable=None, delay=2)
        return self._bar.update

    def __exit__(self, *error: Any) -> None:
        self._bar.close()
