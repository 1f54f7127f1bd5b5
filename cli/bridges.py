"""`csp bridge`: train, evaluate and steer through bridges between a dense and a sparse model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..hub import missing
from .given import circuit_folder, read_settings, require_corpus, require_model


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
    from ..bridges import BridgedPair, evaluate_bridges, ridge_bridges, side_of
    from ..bridges.evaluate import constant_bridges
    from ..bridges.pair import require_match
    from ..corpora.mixture import mix
    from .given import load

    require_model(pair, pairs=True)
    require_corpus(corpus)
    if apart is not None:
        require_model(apart)
    found = BridgedPair.from_pretrained(pair)
    mixture = mix({corpus: 1.0}, found.tokenizer, min(128, found.dense.longest, found.sparse.longest), 0)
    held_out = mixture.held_out[:blocks]
    reports = {"bridges": evaluate_bridges(found.dense, found.sparse, found.bridges, held_out)}
    for kind in ("zero", "identity"):
        if kind == "zero" or found.dense.width == found.sparse.width:
            reports[kind] = evaluate_bridges(
                found.dense, found.sparse, constant_bridges(found.dense, found.sparse, kind), held_out
            )
    if apart is not None:
        other = side_of(load(apart)[0])
        require_match(found.dense, other)
        reports["ridge, trained apart"] = evaluate_bridges(
            found.dense, other, ridge_bridges(found.dense, other, mixture.train[:400]), held_out
        )
    typer.echo(json.dumps(reports, indent=1) if as_json else evaluation_text(reports))


def evaluation_text(reports: dict[str, Any]) -> str:
    first = reports["bridges"]
    lines = [f"next-token loss in nats: dense {first['dense']:.3f}, sparse {first['sparse']:.3f}", ""]
    lines.append("point    encode: explained  hybrid loss    decode: explained  hybrid loss")
    for i, (e, d) in enumerate(zip(first["encode"], first["decode"])):
        lines.append(f"{i:5d}   {e['fve']:16.3f} {e['loss']:12.3f}   {d['fve']:18.3f} {d['loss']:12.3f}")
    lines.append("")
    for name, report in reports.items():
        switching = sum(each["loss"] for each in report["paths"]) / max(1, len(report["paths"]))
        lines.append(
            f"{name}: hybrids' mean loss {report['mean_hybrid']:.3f} ({report['excess']:+.3f} on the dense model's); several switches {switching:.3f}"
        )
    return "\n".join(lines)


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
    import random

    from ..bridges import BridgedPair, Steering, steer
    from ..bridges.steering import best_nodes, read_nodes
    from ..circuits import task_for
    from ..corpora.mixture import mix
    from ..files import require_writable, write_whole

    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file; name a folder for steering.json and steering.png.")
    require_writable(out)
    require_corpus(corpus)
    require_model(pair, pairs=True)
    if command := missing("matplotlib"):
        typer.echo(f"matplotlib is missing, so there will be no picture: {command}")
    found = BridgedPair.from_pretrained(pair)
    everything = read_nodes(found.sparse.model)
    candidates = everything if circuit is None else circuit_reads(pair, circuit, found.sparse.model)
    reference = mix({corpus: 1.0}, found.tokenizer, 128, seed).train[:50]
    wanted = task_for(found.sparse.model, task, found.tokenizer)
    known = Steering(found, wanted.pairs(pairs, "train", seed=seed, fewer=True), reference, gains=gains)
    ranking = best_nodes(known, candidates)
    if node is None and not ranking:
        raise ValueError(
            f"No candidate differs between the prompts of {task} and their counterfactuals; there is nothing to steer along."
        )
    chosen = node or ranking[0]
    others = [name for name in ranking if name != chosen][:3]
    moving = [name for name in filter(known.moves, everything) if name not in (*others, chosen)]
    others += random.Random(seed).sample(moving, min(3, len(moving)))
    held_out = wanted.pairs(pairs, "test", seed=seed, fewer=True)
    report = steer(found, held_out, chosen, reference, others=others, random_directions=directions, gains=gains, seed=seed)
    report |= {"task": wanted.name, "chosen": "given" if node else "best on training prompts"}
    write_whole(out / "steering.json", json.dumps(report, indent=1) + "\n")
    typer.echo(steering_text(report))
    if command:
        typer.echo(f"Wrote {out / 'steering.json'}")
    else:
        typer.echo(f"Wrote {draw(report, out / 'steering.png')} and steering.json beside it")


def circuit_reads(pair: str, name: str, sparse: Any) -> list[str]:
    """The nodes of a circuit of the sparse model that read the residual stream."""
    from ..bridges.steering import read_nodes
    from ..circuits import Circuit
    from ..circuits.identity import refuse_other_model

    circuit = Circuit.from_pretrained(circuit_folder(pair, name))
    refuse_other_model(circuit, sparse)
    inside = {f"{site}:{int(i)}" for site, indices in circuit.nodes.items() for i in indices}
    found = [node for node in read_nodes(sparse) if node in inside]
    if not found:
        raise ValueError(f"The circuit {name} reads the residual stream nowhere; leave out --circuit.")
    return found


def steering_text(report: dict[str, Any]) -> str:
    lines = [
        f"{report['node']} ({report['chosen']}): probability of the counterfactual's answer in the dense model, {report['prompts']} prompts"
    ]
    lines.append("strength   node (95 % of prompts)      random directions (95 %)")
    rows = zip(
        report["strengths"],
        report["probability"],
        report["low"],
        report["high"],
        report["random"]["low"],
        report["random"]["high"],
    )
    lines += [
        f"{s:8.2f}   {p:.4f} ({low:.4f} to {high:.4f})   {r_low:.4f} to {r_high:.4f}" for s, p, low, high, r_low, r_high in rows
    ]
    full = report["strengths"].index(1.0) if 1.0 in report["strengths"] else -1
    lines += [
        f"{name}: {curve[full]:.4f} at strength {report['strengths'][full]:g}, {curve[-1]:.4f} at {report['strengths'][-1]:g}; push {report['lengths'][name]:.2g}"
        for name, curve in report["others"].items()
    ]
    lines.append(f"push of {report['node']}: {report['lengths'][report['node']]:.2g} (what is read has RMS 1, but for gains)")
    if report["left_out"]:
        lines.append(f"{report['left_out']} pairs are left out: they are not as long as their counterfactuals in tokens")
    return "\n".join(lines)


def draw(report: dict[str, Any], path: Path) -> Path:
    import matplotlib

    from ..files import save_figure

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    x = report["strengths"]
    axes.fill_between(x, report["random"]["low"], report["random"]["high"], color="0.8", label="random directions, 95 %")
    axes.fill_between(x, report["low"], report["high"], color="#0072b2", alpha=0.25)
    axes.plot(x, report["probability"], color="#0072b2", label=report["node"])
    for name, curve in report["others"].items():
        axes.plot(x, curve, linewidth=0.8, linestyle="--", label=name)
    axes.set(xlabel="strength", ylabel="probability of the counterfactual's answer")
    axes.set_title(f"Steering {report['task']}", parse_math=False)
    axes.legend(fontsize=7)
    save_figure(figure, path, dpi=150)
    pyplot.close(figure)
    return path
