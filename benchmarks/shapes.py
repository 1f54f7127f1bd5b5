"""Which shape to train for long: several shapes for equal wall time each, on the same text, and what each has learned by then.

    python benchmarks/shapes.py --corpus runs/python=0.6 --corpus idioms:240000=0.4 --minutes 5 --out runs/shapes

Losses are in bits per byte, since tokenizers differ; beside them a bigram's. Nonzeros are without the bigram table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path

import torch
import yaml
from language import bits_per_byte, held_out_texts
from side_by_side import machine

from sparse_circuits import CSPForCausalLM, CSPTokenizer
from sparse_circuits.checkpoints.tensors import tensors_with_sha256
from sparse_circuits.circuits.scoring import capabilities
from sparse_circuits.corpora.blocks import BLOCKS
from sparse_circuits.corpora.mixture import mix
from sparse_circuits.files import write_whole
from sparse_circuits.training.recipes import Recipe, corpus_setting, make_recipe
from sparse_circuits.training.train import RECIPE, train

ROOT = Path(__file__).resolve().parent.parent


def shape(
    width: int,
    layers: int,
    density: float,
    d_head: int = 16,
    table: bool = True,
    embedding: float | None = None,
    batch: int = 16,
) -> list[str]:
    """A shape as settings over the preset `small`; embedding: density of embeddings, by default that of the blocks."""
    settings = {
        "model.d_model": width, "model.d_mlp": 4 * width, "model.n_layer": layers, "model.n_head": width // d_head, "model.d_head": d_head,
        "model.enable_bigram_table": str(table).lower(), "sparsity.density": density, "arguments.per_device_train_batch_size": batch,
        "sparsity.embedding_density": density if embedding is None else embedding, "start": "bigrams" if table else "random",
    }  # fmt: skip
    return [f"{name}={value}" for name, value in settings.items()]


# name: (settings, folder of its tokenizer below --out, or the one that ships)
SHAPES = {
    "192 x 4, 1/16": (shape(192, 4, 1 / 16), None),
    "128 x 6, 1/16": (shape(128, 6, 1 / 16), None),
    "256 x 4, 1/32": (shape(256, 4, 1 / 32), None),
    "384 x 3, 1/64": (shape(384, 3, 1 / 64, embedding=1 / 32), None),
    "192 x 4, 1/16, 4,096 tokens, no table": (shape(192, 4, 1 / 16, table=False), "4k"),
    "192 x 4, 1/16, no table": (shape(192, 4, 1 / 16, table=False), None),
}


def recipe_of(settings: list[str], corpora: list[str], tokenizer: str | None, steps: int) -> Recipe:
    own = [f"tokenizer={tokenizer}"] if tokenizer else []
    quiet = ["arguments.eval_strategy='no'", "arguments.save_strategy='no'", f"arguments.max_steps={steps}", "eval_blocks=400"]
    return make_recipe("small", None, [*settings, *corpus_setting(corpora), *own, *quiet])


def prepare(recipe: Recipe, blocks: Path, out: Path) -> None:
    """A run's folder that has its text already: the same blocks for all shapes of a tokenizer."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    write_whole(out / RECIPE, yaml.safe_dump(recipe.to_dict(), sort_keys=False))
    os.link(blocks, out / BLOCKS)


def blocks_of(recipe: Recipe, tokenizer: CSPTokenizer, folder: Path) -> Path:
    """Blocks of the recipe's corpora, made once."""
    if not (folder / BLOCKS).exists():
        folder.mkdir(parents=True, exist_ok=True)
        mixture = mix(recipe.corpora, tokenizer, recipe.block, 0)
        write_whole(
            folder / BLOCKS, tensors_with_sha256({"train": mixture.train, "held_out": mixture.held_out[: recipe.eval_blocks]})
        )
    return folder / BLOCKS


def timed_run(name: str, corpora: list[str], minutes: float, out: Path) -> dict[str, object]:
    """One shape for so many minutes: as many steps as a first few say will fit, then those."""
    settings, own = SHAPES[name]
    folder = str(out / own) if own else None
    tokenizer = CSPTokenizer.from_folder(folder or ROOT)
    run = out / name.replace(" ", "").replace("/", "_")
    trial = recipe_of(settings, corpora, folder, 10)
    blocks = blocks_of(trial, tokenizer, out / f"blocks-{len(tokenizer)}")
    begun: list[float] = []
    for steps in (2, 2, 12):  # the first pays for imports; the difference of the others leaves out what each run costs once
        recipe = recipe_of(settings, corpora, folder, steps)
        prepare(recipe, blocks, run)
        at = time.perf_counter()
        train(recipe, run, resume=True, stops=False, say=lambda text: None)
        begun.append(time.perf_counter() - at)
    recipe = recipe_of(settings, corpora, folder, max(20, int(60 * minutes / ((begun[2] - begun[1]) / 10))))
    prepare(recipe, blocks, run)
    at = time.perf_counter()
    report = train(recipe, run, resume=True, stops=False, say=lambda text: None)
    seconds = time.perf_counter() - at
    model = CSPForCausalLM.from_pretrained(run)
    table = len(tokenizer) ** 2 if model.bigram_table is not None else 0
    nonzeros = sum(int((p != 0).sum()) for p in model.parameters()) - table
    return {"shape": name, "tokens": report["tokens"], "seconds": seconds, "nonzeros": nonzeros, "run": str(run)}


def measure(row: dict[str, object], texts: dict[str, dict[str, str]]) -> dict[str, object]:
    model, tokenizer = CSPForCausalLM.from_pretrained(row["run"]), CSPTokenizer.from_folder(str(row["run"]))
    found = capabilities(model, tokenizer)
    scores = [each.score for each in found if each.score is not None]
    row |= {domain: bits_per_byte(model, tokenizer, each) for domain, each in texts.items()}
    return row | {"pass": sum(each.passes for each in found), "first guess": sum(s.first_guess >= 0.8 for s in scores)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", action="append", required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--out", type=Path, default=Path("runs/shapes"))
    parser.add_argument("--only", action="append", help="names of shapes; default: all")
    given = parser.parse_args()
    texts = held_out_texts(recipe_of([], given.corpus, None, 1).corpora)
    given.out.mkdir(parents=True, exist_ok=True)
    print(f"| shape | tokens | seconds | nonzeros | run | {' | '.join(texts)} | tasks that pass | first guesses |")
    for name in given.only or SHAPES:
        row = measure(timed_run(name, given.corpus, given.minutes, given.out), texts)
        print(
            "| "
            + " | ".join(
                f"{v:.3f}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()
            )
            + " |",
            flush=True,
        )
        with open(given.out / "rows.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
    print(machine(f"{given.minutes:g} minutes each", "seed 0"))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
