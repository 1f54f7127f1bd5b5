"""`csp bridge`: train, evaluate and steer through bridges between a dense and a sparse model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..hub import missing
from .given import circuit_folder, load, read_settings, require_corpus, require_model


def load_dense(model: str) -> tuple[Any, Any]:
    """A model that can be bridged, in float32, and its tokenizer."""
    import torch

    from ..bridges import side_of
    from ..checkpoints.models import load_model, load_tokenizer

    require_model(model)
    network = load_model(model, dtype=torch.float32)
    side_of(network)
    return network, load_tokenizer(model, network)


def bridge_train(
    dense: Annotated[str, typer.Argument(help="The dense model: folder or Hub id of a CSP model or a GPT-2.")],
    out: Annotated[
        Path, typer.Option(help="Folder of the run; new or empty, unless --resume. The pair is written to pair/ in it.")
    ],
    sparse_preset: Annotated[str, typer.Option(help="Preset of the sparse model; it gets the dense model's depth.")] = "tiny",
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file, as for csp train, also with a section bridges; recipe.yaml of a run is one.")
    ] = None,
    corpus: Annotated[list[str] | None, typer.Option(help="As for csp train.")] = None,
    steps: Annotated[int | None, typer.Option(min=1)] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any setting of the recipe, as for csp train.")] = None,
    bridge: Annotated[list[str] | None, typer.Option(help="Any field of BridgeConfig, such as kl=2.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last complete checkpoint in the folder.")] = False,
) -> None:
    """Train a sparse model with bridges to a frozen dense one.

    Example: csp bridge train runs/dense-tiny --sparse-preset tiny --out runs/bridged
    """
    from ..bridges.train import train_bridges
    from ..training.recipes import corpus_setting, make_recipe, read_yaml

    given = [*(settings or []), *corpus_setting(corpus)]
    values = {} if recipe is None else read_yaml(recipe)
    config = bridge_config(values.pop("bridges", {}), bridge or [])
    make_recipe(sparse_preset, values, given)  # what is wrong in it is said before the model is loaded
    network, tokenizer = load_dense(dense)
    # the preset's depth gives way to the dense model's, one that was asked for does not
    asked = isinstance(values.get("model"), dict) and "n_layer" in values["model"]
    given = given if asked else [f"model.n_layer={network.config.n_layer}", *given]
    given += [f"arguments.max_steps={steps}"] if steps is not None else []
    train_bridges(network, tokenizer, make_recipe(sparse_preset, values, given), config, out, resume=resume, say=typer.echo)


def bridge_config(section: Any, settings: list[str]) -> Any:
    """A BridgeConfig from a recipe's section, and over it name=value settings."""
    from ..bridges import BridgeConfig

    known = set(BridgeConfig().to_dict())
    if not isinstance(section, dict) or (unknown := set(section) - known):
        wrong = f"has {', '.join(sorted(map(str, unknown)))}" if isinstance(section, dict) else f"is {section!r:.40}"
        raise ValueError(f"The recipe's section bridges {wrong}; it takes {', '.join(sorted(known))}.")
    return BridgeConfig(**{**section, **read_settings(BridgeConfig, settings, "bridges")})


def bridge_evaluate(
    pair: Annotated[str, typer.Argument(help="Folder or Hub id of a bridged pair.")],
    corpus: Annotated[str, typer.Option(help="stdlib, idioms, a folder or glob, hf:NAME; held-out files only.")] = "idioms",
    blocks: Annotated[int, typer.Option(help="Blocks of 128 tokens to measure on.", min=1)] = 100,
    apart: Annotated[
        str | None, typer.Option(help="A sparse model that was trained apart: ridge bridges to it, as a baseline.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Variance explained at each point, loss of every hybrid, and baselines.

    Example: csp bridge evaluate runs/bridged/pair --apart runs/tiny
    """
    from ..bridges import BridgedPair, evaluate_pair
    from ..bridges.report import evaluation_text

    require_model(pair, pairs=True)
    require_corpus(corpus)
    if apart is not None:
        require_model(apart)
    found = BridgedPair.from_pretrained(pair)
    reports = evaluate_pair(found, corpus, blocks=blocks, apart=None if apart is None else load(apart)[0])
    typer.echo(json.dumps(reports, indent=1) if as_json else evaluation_text(reports))


def bridge_steer(
    pair: Annotated[str, typer.Argument(help="Folder or Hub id of a bridged pair.")],
    out: Annotated[Path, typer.Option(help="Folder for steering.json and steering.png.")],
    task: Annotated[str, typer.Option(help="Task whose prompts are steered to their counterfactuals.")] = "single_double_quote",
    node: Annotated[str | None, typer.Option(help="SITE:INDEX of a read; default: the best on training prompts.")] = None,
    circuit: Annotated[
        str | None,
        typer.Option(
            help="Circuit of the pair's sparse model, by folder or name under the pair's circuits/: its reads are the candidates."
        ),
    ] = None,
    corpus: Annotated[str, typer.Option(help="Text for the scales of the two streams.")] = "idioms",
    pairs: Annotated[int, typer.Option(min=2)] = 64,
    directions: Annotated[int, typer.Option(help="Random directions, as a control.", min=1)] = 40,
    gains: Annotated[bool, typer.Option(help="Mind the gains of both norms; the paper's rule leaves them out.")] = True,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Push the dense model along what one sparse node means for it; against random directions and other nodes.

    Example: csp bridge steer runs/bridged/pair --task single_double_quote --out runs/steering
    """
    from ..bridges import BridgedPair, steer_task
    from ..bridges.report import draw_steering, steering_text
    from ..circuits import Circuit
    from ..files import require_writable, write_whole

    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file; name a folder for steering.json and steering.png.")
    require_writable(out)
    require_corpus(corpus)
    require_model(pair, pairs=True)
    if command := missing("matplotlib"):
        typer.echo(f"matplotlib is missing, so there will be no picture: {command}")
    found = BridgedPair.from_pretrained(pair)
    report = steer_task(
        found, task, node, corpus=corpus, pairs=pairs, random_directions=directions, gains=gains, seed=seed,
        circuit=None if circuit is None else Circuit.from_pretrained(circuit_folder(pair, circuit)),
    )  # fmt: skip
    write_whole(out / "steering.json", json.dumps(report, indent=1) + "\n")
    typer.echo(steering_text(report))
    if command:
        typer.echo(f"Wrote {out / 'steering.json'}")
    else:
        typer.echo(f"Wrote {draw_steering(report, out / 'steering.png')} and steering.json beside it")
