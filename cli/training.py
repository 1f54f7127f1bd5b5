"""The commands of `csp` that train: `train` and `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .circuits import prune_task
from .given import without_options

DEMO_TASK, DEMO_SEARCH = "single_double_quote", ["steps=200"]


def train(
    out: Annotated[Path, typer.Option(help="Folder of the run; new or empty, unless --resume.")],
    preset: Annotated[
        str, typer.Option(help="tiny, small, demo, paper-1x ... paper-16x, or dense- before one of them.")
    ] = "tiny",
    recipe: Annotated[Path | None, typer.Option(help="YAML file with sections model, sparsity, arguments, ...")] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(help="Source, or source=weight; several are mixed. stdlib, idioms, a folder or glob, hf:NAME."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="arguments.max_steps.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any setting, such as model.d_model=128.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last complete checkpoint in the folder.")] = False,
) -> None:
    """Train a weight-sparse model, or its dense twin, by a preset, a file and single settings, in this order.

    Example: csp train --preset tiny --corpus idioms --out runs/tiny
    """
    from ..training.memory import keep_memory
    from ..training.recipes import corpus_setting, make_recipe
    from ..training.train import train as run

    keep_memory()
    given = [*(settings or []), *corpus_setting(corpus)]
    if steps is not None:
        given.append(f"arguments.max_steps={steps}")
    run(make_recipe(preset, recipe, given), out, resume=resume, say=typer.echo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write; new or empty.")] = Path("runs/demo"),
    steps: Annotated[int | None, typer.Option(min=10, help="Optimizer steps; fewer is faster and worse.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train a small weight-sparse model on the standard library, save it, load it again, complete code, find a circuit. Under ten minutes.

    Example: csp demo --out runs/demo
    """
    from ..circuits import CannotDo
    from ..training.demo import run_demo
    from ..training.memory import keep_memory
    from ..training.recipes import make_recipe

    keep_memory()
    given = [f"arguments.seed={seed}"] + ([f"arguments.max_steps={steps}"] if steps is not None else [])
    run_demo(out, make_recipe("demo", settings=given), say=typer.echo)
    typer.echo(f"\nA circuit for {DEMO_TASK}:")
    try:
        prune_task(str(out), DEMO_TASK, out / "circuits" / DEMO_TASK, setting=DEMO_SEARCH)
    except CannotDo as error:
        typer.echo(without_options(str(error)))
        if steps is None:  # trained in full, it closes strings
            raise


def build_corpus(
    out: Annotated[Path, typer.Argument(help="New folder: texts by project, corpus.json (the lock), a card.")],
    lock: Annotated[
        Path | None, typer.Option(help="corpus.json of an earlier build, which this one must equal text by text.")
    ] = None,
    stdlib: Annotated[bool, typer.Option(help="The standard library too.")] = True,
) -> None:
    """Gather a corpus from the standard library and the installed projects whose licences are permissive, without what is no source that a person wrote.

    Example: csp corpus build runs/python && csp train --corpus runs/python=0.8 --corpus idioms=0.2 --out runs/mine
    """
    from ..corpora.installed import build
    from ..files import require_fresh

    require_fresh(out)
    said = build(out, lock=lock, stdlib=stdlib)
    entries = said["projects"]
    dropped: dict[str, int] = {}
    for each in entries:
        for reason, count in each["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + count
    typer.echo(
        f"{len(entries)} projects, {sum(e['files'] for e in entries):,} files, {sum(e['characters'] for e in entries):,} characters in {out}"
    )
    typer.echo(
        "dropped: " + ", ".join(f"{count:,} {reason}" for reason, count in sorted(dropped.items(), key=lambda each: -each[1]))
    )
    typer.echo(f"not taken for their licences: {', '.join(said['not_taken']) or 'none'}")
