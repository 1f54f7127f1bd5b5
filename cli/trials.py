"""The commands that try methods and circuits where it can be told whether they are right: planted models, and attacks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from .given import Model, circuit_folder, given_text, load, load_tokenizer, require_model

MOST_SEED = 2**31 - 1


def plant_program(
    program: Annotated[
        str, typer.Argument(help="quote_closing, bracket_counting, variable_binding, two_copies, or distractor.")
    ],
    dest: Annotated[Path, typer.Argument(help="New folder: a model with its task and its known circuits.")],
    host: Annotated[str | None, typer.Option(help="A model to plant in; default: random sparse weights.")] = None,
    size: Annotated[str | None, typer.Option(help="Of random weights: small (default), medium, large.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, places and prompts.", min=0, max=MOST_SEED)] = 0,
) -> None:
    """Write a program into a model's weights, so that its circuit is known: a target for methods that find circuits.

    Example: csp plant bracket_counting runs/planted
    """
    from ..circuits.known import PROGRAMS, plant
    from ..files import require_fresh

    if program not in PROGRAMS:
        raise ValueError(f"{program!r} is no program; they are {', '.join(PROGRAMS)}.")
    if host is not None and size is not None:
        raise ValueError("--size is of random weights; leave it out with --host.")
    require_fresh(dest)
    known = plant(program, dest, *(load(host) if host is not None else ()), size=size or "small", seed=seed)
    sizes = ", ".join(
        f"{dest}/circuits/{each.name} ({c.num_nodes} nodes, {c.num_edges} edges)"
        for each, c in zip(sorted((dest / "circuits").iterdir()), known.copies)
    )
    typer.echo(f"{program} is in {dest}; its task is {dest / 'task.jsonl'}, its known circuits are {sizes}")


def attack_circuit(
    model: Model,
    circuit: Annotated[str, typer.Argument(help="Folder of the circuit, or its name under the model's circuits/.")],
    task: Annotated[str | None, typer.Option(help="For tasks from files: the file. Default: by the circuit's name.")] = None,
    filler: Annotated[
        str | None, typer.Option(help="Text that is put in, such as ' 1,'; default: words that pairs have in common.")
    ] = None,
    after: Annotated[
        str | None, typer.Option(help="For --filler: the text after whose first place in each prompt it goes, such as '['.")
    ] = None,
    pairs: Annotated[int, typer.Option(help="Test pairs that are lengthened.", min=2, max=100_000)] = 64,
    seed: Annotated[int, typer.Option(help="Of prompts and places.", min=0, max=MOST_SEED)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prompts made longer by what the task is not about, until the circuit flips: does the whole model fail on them, and not on others as long?

    Example: csp attack runs/tiny runs/quotes
    """
    from ..circuits import Circuit
    from ..circuits.attack import as_table, attack

    require_model(model)
    found = Circuit.from_pretrained(circuit_folder(model, circuit))
    wanted = found.find_task(load_tokenizer(model), task)
    if wanted is None:
        raise ValueError(f"{found.task} is no built-in task; give the file that it came from with --task.")
    texts = [None if text is None else given_text(text) for text in (filler, after)]
    rows = attack(found, *load(model, sparse=True), wanted, filler=texts[0], after=texts[1], pairs=pairs, seed=seed)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
        return
    typer.echo(as_table(rows))
    typer.echo("a prompt as it is lengthened, whose answer should be what it was: " + repr(rows[1].example))
    shown = next((row for row in rows if row.examples), None)
    if shown is not None:
        typer.echo("both fail, for example, after " + repr(shown.examples[0]))
