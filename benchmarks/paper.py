"""The paper's figures 2, 3, 10, 31 and 32, redone on models that train on a laptop. (Figure 9 is `csp bridge steer`.)

    python benchmarks/paper.py train runs/paper                      # an hour of two cores; --only NAME for some of them
    python benchmarks/paper.py measure runs/paper/* --out runs/paper.jsonl          # hours on one core; goes on where it was stopped
    python benchmarks/paper.py draw runs/paper.jsonl --out docs/figures

Every circuit is found under mean ablation with frozen norms. The three rankings (masks learned at target loss 0.15, one gradient, a random order) go through the same
search for the smallest prefix and the same exact dropping of nodes and edges, so that what differs is the ranking alone. All models are asked the tasks in the first
model's form, and circuits are looked for on the tasks that every model given passes the gate for.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from side_by_side import machine, rows_of
from transformers import AutoTokenizer

from sparse_circuits import CSPForCausalLM
from sparse_circuits.circuits import PruneConfig, capability, mean_activations, prune, task_for, tasks
from sparse_circuits.circuits.examination import Examination
from sparse_circuits.circuits.identity import weights_sha256
from sparse_circuits.circuits.prune import decided_again
from sparse_circuits.files import save_figure
from sparse_circuits.training.metrics import residual_kurtosis
from sparse_circuits.training.train import loss_on

TARGET = 0.15
TARGETS = (0.4, 0.3, 0.15, 0.08, 0.04)
METHODS = ("learned", "attribution", "random")


def _sparse(width: int, part: int, seed: int = 0) -> list[str]:
    values = {
        "model.d_model": width, "model.d_mlp": 4 * width, "model.n_head": width // 16, "sparsity.density": 1 / part, "arguments.seed": seed,
    }  # fmt: skip
    return ["--preset", "tiny", "--steps", "1000", *(f"--set={name}={value}" for name, value in values.items())]


def _dense(steps: int, seed: int = 0) -> list[str]:
    return ["--preset", "dense-tiny", "--steps", str(steps), f"--set=arguments.seed={seed}"]


# What `csp train` is given for each. Dense twins are of the shape of sparse-seed0, once stopped where their loss is about its own, and once as long; dense-tiny's loss is
# about that of the preset `tiny`, which takes twice as many steps as sparse-seed0.
SHAPES = ((64, 4), (64, 16), (96, 16), (128, 16), (128, 32))
MODELS: dict[str, list[str]] = {
    **{f"sparse-seed{seed}": _sparse(64, 8, seed) for seed in range(3)},
    **{f"dense-seed{seed}": _dense(600, seed) for seed in range(3)},
    "dense-long": _dense(1000),
    **{f"dense-tiny-seed{seed}": _dense(1400, seed) for seed in range(3)},
    **{f"tiny-seed{seed}": ["--preset", "tiny", f"--set=arguments.seed={seed}"] for seed in range(3)},
    **{f"width{width}-1in{part}": _sparse(width, part) for width, part in SHAPES},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train", help="the models, each a folder of `csp train`; those that are there are left alone")
    command.add_argument("out", type=Path)
    command.add_argument("--only", nargs="*", choices=MODELS, default=list(MODELS))
    command.add_argument("--set", action="append", default=[], help="more settings for all of them, as for csp train")
    command.set_defaults(run=lambda given: train(given.out, given.only, given.set))
    command = commands.add_parser("measure", help="losses, kurtosis, circuits; one row each")
    command.add_argument("runs", nargs="+", type=Path, help="folders of `csp train`")
    command.add_argument(
        "--out", type=Path, required=True, help="rows, one JSON a line; those that are there are not measured again"
    )
    command.add_argument("--only", nargs="*", help="names of the runs whose circuits are looked for; default: all")
    command.add_argument("--tasks", nargs="*", help="default: all that every run can do")
    command.add_argument("--targets", nargs="*", type=float, default=[TARGET], help=f"losses; figure 2 has {TARGETS}")
    command.add_argument("--methods", nargs="*", choices=METHODS, default=["learned"])
    command.add_argument("--steps", type=int, default=400, help="of mask training")
    command.add_argument("--part", default="0/1", help="I/N: every N-th task, from the I-th, for processes side by side")
    command.set_defaults(run=measure)
    command = commands.add_parser("draw", help="figures and tables of rows")
    command.add_argument("rows", type=Path)
    command.add_argument("--out", type=Path, required=True, help="folder for the PNGs")
    command.add_argument("--figures", nargs="*", choices=FIGURES, default=list(FIGURES), help="the paper's numbers")
    command.set_defaults(run=lambda given: draw(rows_of(given.rows), given.out, given.figures))
    given = parser.parse_args()
    given.run(given)


def train(out: Path, names: Iterable[str], more: list[str]) -> None:
    for name in names:
        if (out / name / "model.safetensors").is_file():
            continue
        asked = [*MODELS[name], *(f"--set={each}" for each in more), "--out", str(out / name)]
        begun = (out / name / "recipe.yaml").is_file()
        print(f"{name}: csp train {' '.join(asked)}", flush=True)
        subprocess.run(
            [sys.executable, "-m", "sparse_circuits.cli", "train", *asked, *(["--resume"] if begun else [])], check=True
        )


class Rows:
    """What is measured, one JSON a line. What is there already for the same weights, settings and name is not measured again."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.known = {self._key(row) for row in rows_of(path)}

    @staticmethod
    def _key(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in ("kind", "run", "weights", "task", "method", "target", "steps"))

    def has(self, **row: Any) -> bool:
        return self._key(row) in self.known

    def add(self, **row: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.known.add(self._key(row))


class Compared:
    """Models of `csp train`, asked the same tasks, which are in the first one's form.

    able: the tasks that all pass the gate for.
    """

    def __init__(self, runs: Sequence[Path], wanted: Sequence[str] | None):
        self.models = {folder.name: CSPForCausalLM.from_pretrained(folder).eval() for folder in runs}
        self.tokenizer = AutoTokenizer.from_pretrained(runs[0])
        self.blocks = {folder.name: load_file(folder / "blocks.safetensors") for folder in runs}
        self.weights = {name: weights_sha256(model) for name, model in self.models.items()}
        first = next(iter(self.models.values()))
        self.asked = {name: task_for(first, name, self.tokenizer) for name in wanted or tasks()}
        self.able = [name for name, task in self.asked.items() if all(capability(m, task).passes for m in self.models.values())]
        print(f"{len(self.able)} tasks pass the gate of all {len(self.models)} models: {', '.join(self.able)}", flush=True)

    def add_models(self, rows: Rows) -> None:
        held_out = next(iter(self.blocks.values()))["held_out"]
        for name, model in self.models.items():
            own = {"kind": "model", "run": name, "weights": self.weights[name]}
            if not rows.has(**own):
                rows.add(**own, **of_model(model, held_out))

    def means(self, run: str) -> Any:
        train_blocks = self.blocks[run]["train"]
        return mean_activations(self.models[run], train_blocks[: 51_200 // train_blocks.shape[1]])


def measure(given: argparse.Namespace) -> None:
    rows, compared = Rows(given.out), Compared(given.runs, given.tasks)
    compared.add_models(rows)
    part, parts = map(int, given.part.split("/"))
    for run in given.only or list(compared.models):
        model, means = compared.models[run], compared.means(run)
        for name in compared.able[part::parts]:
            for method in given.methods:
                own = {"run": run, "weights": compared.weights[run], "task": name, "method": method, "steps": given.steps}
                circuits(model, compared.tokenizer, compared.asked[name], means, method, given, rows, own)
    print(machine(f"{given.steps} steps, mean ablation, frozen norms, means over 51,200 training tokens, seed 0"))


def of_model(model: Any, held_out: torch.Tensor) -> dict[str, Any]:
    """Shape, share of weights that are not zero, and what it is on held-out blocks that are the same for all."""
    config, matrices = model.config, [p for name, p in model.named_parameters() if p.dim() == 2 and ".h." in name]
    return {
        "width": config.d_model, "layers": config.n_layer,
        "density": sum(int((p != 0).sum()) for p in matrices) / sum(p.numel() for p in matrices),
        "nonzeros": sum(int((p != 0).sum()) for name, p in model.named_parameters() if "bigram" not in name),
        "loss": loss_on(model, held_out, 32), "kurtosis": residual_kurtosis(model, {"input_ids": held_out[:64].long()}),
    }  # fmt: skip


def circuits(
    model: Any, tokenizer: Any, task: Any, means: Any, method: str, given: argparse.Namespace, rows: Rows, own: dict[str, Any]
) -> None:
    """A circuit at each target, from one ranking of nodes; necessity of the one at `TARGET`, if it was learned."""
    ordered = sorted(given.targets, key=lambda target: (target != TARGET, -target))  # the one that masks are trained for first
    missing = [target for target in ordered if not rows.has(kind="circuit", target=target, **own)]
    if not missing:
        return
    config, begun = PruneConfig(steps=given.steps, target_loss=TARGET), time.perf_counter()
    found = {}
    if method == "random":
        scores = random_scores(model)
    else:
        found[TARGET] = prune(model, tokenizer, task, means, config, method=method)
        scores = found[TARGET].scores
    for target in missing:
        if target not in found:
            begun = time.perf_counter()
            asked = dataclasses.replace(config, target_loss=target)
            found[target] = decided_again(model, tokenizer, task, means, asked, scores, method=method)
        metrics, more = found[target].metrics, {}
        if target == TARGET and method == "learned":
            look = Examination(found[target], model, task, 64, 0)
            more = {"necessity": look.necessity(), "agreement": look.agreement()}
        counts = {key: metrics[key] for key in ("reached", "nodes", "edges", "edges_on_path")}
        rows.add(kind="circuit", target=target, **own, **counts, seconds=time.perf_counter() - begun, **more)
        print(
            f"{own['run']:16s} {own['task']:24s} {method:12s} {target:5.2f} {metrics['edges']:7,d} edges{'' if metrics['reached'] else ', missed'}",
            flush=True,
        )


def random_scores(model: Any, seed: int = 0) -> dict[str, torch.Tensor]:
    """Half of the nodes above 0: what a ranking that knows nothing leaves to exact dropping."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(site.width, generator=generator) - 0.5 for name, site in model.node_sites().items()}


# Figures. Runs that differ in their seed alone are one series: "sparse-seed0" and "sparse-seed1" are "sparse".


def series_of(run: str) -> str:
    return run.partition("-seed")[0]


def geometric(values: Iterable[float]) -> float:
    logs = [math.log(max(1.0, value)) for value in values]
    return math.exp(sum(logs) / len(logs))


def sizes(
    rows: list[dict[str, Any]], wanted: Callable[[dict[str, Any]], bool], by: Callable[[dict[str, Any]], Any]
) -> tuple[list[str], dict[Any, dict[str, float]]]:
    """Tasks on which every circuit wanted reached its target and one of them has an edge; key of `by` -> run -> geometric mean of edges over these tasks."""
    rows = [row for row in rows if row["kind"] == "circuit" and wanted(row)]
    cells: dict[tuple[Any, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        cells[by(row), row["run"]][row["task"]] = row
    every = set.intersection(*(set(of) for of in cells.values())) if cells else set()
    kept = sorted(
        task
        for task in every
        if all(of[task]["reached"] for of in cells.values()) and any(of[task]["edges"] for of in cells.values())
    )
    found: dict[Any, dict[str, float]] = defaultdict(dict)
    for (key, run), of in cells.items():
        if kept:
            found[key][run] = geometric(of[task]["edges"] for task in kept)
    return kept, found


def draw(rows: list[dict[str, Any]], out: Path, wanted: Iterable[str]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    out.mkdir(parents=True, exist_ok=True)
    models = {row["run"]: row for row in rows if row["kind"] == "model"}
    print("\n| model | width x layers | blocks' nonzeros | held-out loss | kurtosis |\n|---|---|---|---|---|")
    for name, row in models.items():
        print(
            f"| {name} | {row['width']} x {row['layers']} | {row['density']:.3f} | {row['loss']:.3f} | {row['kurtosis']:.1f} |"
        )
    for name in wanted:
        FIGURES[name](rows, models, out)


def by_target(rows: list[dict[str, Any]], models: dict[str, Any], out: Path) -> None:
    """Figure 2: edges against target loss, of series whose runs were measured at several targets."""
    learned = [row for row in rows if row["kind"] == "circuit" and row["method"] == "learned"]
    several = {run for run in models if len({row["target"] for row in learned if row["run"] == run}) > 1}
    kept, found = sizes(learned, lambda row: row["run"] in several, lambda row: (series_of(row["run"]), row["target"]))
    if not kept:
        return
    figure, axes = axes_of("target loss, nats", f"edges (geometric mean, {len(kept)} tasks)")
    for name in dict.fromkeys(series for series, _ in found):
        targets = sorted(target for series, target in found if series == name)
        of = [list(found[name, target].values()) for target in targets]
        middle = [geometric(each) for each in of]
        axes.errorbar(
            targets,
            middle,
            [[m - min(e) for m, e in zip(middle, of)], [max(e) - m for m, e in zip(middle, of)]],
            marker="o",
            capsize=3,
            label=name,
        )
        print(
            f"figure 2, {name}: "
            + ", ".join(f"{t:g}: {m:.0f} ({min(e):.0f} to {max(e):.0f})" for t, m, e in zip(targets, middle, of))
        )
    print(f"figure 2 is over {', '.join(kept)}")
    finish(figure, axes, out / "figure2.png", "Edges against target loss")


def frontier(rows: list[dict[str, Any]], models: dict[str, Any], out: Path) -> None:
    """Figure 3: circuit size against held-out loss, one point a model."""
    kept, found = sizes(rows, lambda row: row["method"] == "learned" and row["target"] == TARGET, lambda row: 0)
    if not kept:
        return
    figure, axes = axes_of("held-out loss, nats per token", f"edges at target {TARGET} (geometric mean, {len(kept)} tasks)")
    axes.set_xscale("linear")
    axes.margins(x=0.15)
    for run, edges in sorted(found[0].items()):
        row = models[run]
        label = "dense" if row["density"] > 0.99 else f"width {row['width']}"
        axes.scatter(
            row["loss"],
            edges,
            color=f"C{('dense', 'width 64', 'width 96', 'width 128').index(label)}" if row["width"] in (64, 96, 128) else None,
        )
        axes.annotate(run, (row["loss"], edges), fontsize=7, xytext=(4, 4), textcoords="offset points")
        print(f"figure 3, {run}: loss {row['loss']:.3f}, {edges:.0f} edges")
    print(f"figure 3 is over {', '.join(kept)}")
    finish(figure, axes, out / "figure3.png", "Held-out loss and circuit size", legend=False)


def kurtosis(rows: list[dict[str, Any]], models: dict[str, Any], out: Path) -> None:
    """Figure 10: kurtosis of the residual stream by density."""
    figure, axes = axes_of("nonzero share of the blocks' weights", "kurtosis of the residual stream (normal: 3)")
    for width in sorted({row["width"] for row in models.values()}):
        of = sorted((row["density"], row["kurtosis"]) for row in models.values() if row["width"] == width)
        axes.plot(*zip(*of), "o", label=f"width {width}")
    axes.axhline(3.0, color="0.7", linewidth=0.8)
    finish(figure, axes, out / "figure10.png", "Kurtosis of the residual stream")


def by_method(rows: list[dict[str, Any]], models: dict[str, Any], out: Path) -> None:
    """Figure 31: rankings compared, on runs that have all of them at the same targets."""
    circuits = [row for row in rows if row["kind"] == "circuit"]
    full = {run for run in models if {row["method"] for row in circuits if row["run"] == run} >= {"learned", "attribution"}}
    for run in sorted(full):
        of = [row for row in circuits if row["run"] == run]
        learned, other = ({row["target"] for row in of if row["method"] == method} for method in ("learned", "attribution"))
        targets = learned & other
        kept, found = sizes(of, lambda row, t=targets: row["target"] in t, lambda row: (row["method"], row["target"]))
        if not kept:
            continue
        figure, axes = axes_of("target loss, nats", f"edges (geometric mean, {len(kept)} tasks)")
        for method in (each for each in METHODS if any(key[0] == each for key in found)):
            points = sorted(
                (target, next(iter(of_runs.values()))) for (name, target), of_runs in found.items() if name == method
            )
            axes.plot(*zip(*points), marker="o", label=method)
            print(f"figure 31, {run}, {method}: " + ", ".join(f"{t:g}: {e:.0f}" for t, e in points))
        print(f"figure 31, {run}, is over {', '.join(kept)}")
        finish(figure, axes, out / f"figure31-{run}.png", f"Rankings of nodes: {run}")


def necessity(rows: list[dict[str, Any]], models: dict[str, Any], out: Path) -> None:
    """Figure 32: the whole model's loss without a circuit's nodes, or edges, and without as many random ones that are as active."""
    of = [row for row in rows if row["kind"] == "circuit" and row.get("necessity") and row["edges"] and row["reached"]]
    runs = [run for run in models if any(row["run"] == run for row in of)]
    if not runs:
        return
    bars = ("model", "without_circuit", "without_random_nodes", "without_edges", "without_random_edges", "everything_ablated")
    figure, axes = axes_of("", "pairwise loss on test prompts, nats")
    axes.set_xscale("linear")
    axes.set_yscale("linear")
    print(
        "\n| model, mean over its circuits | "
        + " | ".join(name.replace("_", " ") for name in bars)
        + " |\n|"
        + "---|" * (len(bars) + 1)
    )
    for i, run in enumerate(runs):
        values = [[row["necessity"][bar] for row in of if row["run"] == run] for bar in bars]
        middle = [sum(each) / len(each) for each in values]
        axes.bar([j + i * 0.8 / len(runs) for j in range(len(bars))], middle, 0.8 / len(runs), label=run)
        print(
            f"| {run} ({len(values[0])} circuits) | "
            + " | ".join(f"{m:.2f} ({min(e):.2f} to {max(e):.2f})" for m, e in zip(middle, values))
            + " |"
        )
    axes.axhline(math.log(2), color="0.7", linewidth=0.8)
    axes.margins(y=0.4)  # for the legend
    axes.set_xticks([j + 0.4 for j in range(len(bars))], [name.replace("_", "\n") for name in bars], fontsize=7)
    finish(figure, axes, out / "figure32.png", "Without the circuit, and without as much at random (line: chance)")


def axes_of(x: str, y: str) -> tuple[Any, Any]:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.set(xlabel=x, ylabel=y, xscale="log", yscale="log")
    return figure, axes


def finish(figure: Any, axes: Any, path: Path, title: str, legend: bool = True) -> None:
    from matplotlib import pyplot

    axes.set_title(title, fontsize=10)
    if legend:
        axes.legend(fontsize=7, ncols=2 if len(axes.get_legend_handles_labels()[1]) > 4 else 1)
    save_figure(figure, path, dpi=120)
    pyplot.close(figure)
    print(f"Wrote {path}")


FIGURES = {"2": by_target, "3": frontier, "10": kurtosis, "31": by_method, "32": necessity}

if __name__ == "__main__":
    main()
