"""`csp demo`: a weight-sparse model of Python, trained on the interpreter's own standard library in minutes on two cores."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, default_data_collator, set_seed

from ..configuration_csp import CSPConfig
from ..corpora.blocks import TokenBlocks, read_sources, split_blocks
from ..corpora.ngrams import bigram_log_probabilities, ngram_losses
from ..files import fresh_folder
from ..modeling_csp import CSPForCausalLM
from ..tokenization_csp import CSPTokenizer
from ..wiring_csp import NODE_LOCATIONS
from .callback import WeightSparsityCallback, measured
from .card import write_card
from .projection import sparse_tensors
from .schedules import GROUPS, SparsityConfig

PROMPTS = (
    "import os\nimport sys\n\ndef main():\n    ",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n        self.",
    "for i in range(len(",
)


@dataclass(frozen=True)
class DemoRecipe:
    """What the demo trains. The defaults take under ten minutes on two CPU cores."""

    n_layer: int = 3
    d_model: int = 96
    d_mlp: int = 384
    afrac: float = 0.25
    block: int = 128
    batch: int = 32
    steps: int = 1200
    lr: float = 0.05
    density: float = 1 / 8
    min_alive: int = 4
    eval_blocks: int = 800
    seed: int = 0

    def config(self, tokenizer: CSPTokenizer) -> CSPConfig:
        end = tokenizer.eos_token_id
        return CSPConfig(
            vocab_size=len(tokenizer), n_layer=self.n_layer, d_model=self.d_model, d_mlp=self.d_mlp,
            n_head=self.d_model // 16, d_head=16, block_size=1024, sink=True, enable_bigram_table=True,
            afrac=dict.fromkeys(NODE_LOCATIONS, self.afrac), tokenizer_name="stdlib_2k",
            bos_token_id=end, eos_token_id=end, pad_token_id=end,
        )  # fmt: skip

    def sparsity(self) -> SparsityConfig:
        return SparsityConfig(density=self.density, min_alive=self.min_alive)

    def arguments(self, folder: Path) -> TrainingArguments:
        return TrainingArguments(
            output_dir=str(folder), max_steps=self.steps, per_device_train_batch_size=self.batch, learning_rate=self.lr,
            lr_scheduler_type="linear", warmup_steps=self.steps // 100, weight_decay=0.1, adam_beta1=0.9, adam_beta2=0.95,
            adam_epsilon=0.1, max_grad_norm=0.0, logging_steps=max(1, self.steps // 20), save_strategy="no", report_to="none",
            per_device_eval_batch_size=64, prediction_loss_only=True, seed=self.seed, remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
        )  # fmt: skip


def start_from_bigrams_(model: CSPForCausalLM, log_probabilities: torch.Tensor) -> None:
    """Sets the bigram table to log P(next | current): the model starts at the bigram baseline, and whatever it gains over it comes
    from its sparse weights and the table's training."""
    if model.bigram_table is None:
        raise ValueError("The model has no bigram table; set enable_bigram_table=True in its config.")
    with torch.no_grad():
        model.bigram_table.logit_bias.copy_(log_probabilities)


def run_demo(out: str | Path, recipe: DemoRecipe | None = None, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Trains, saves to `out` (which must be new or empty), reloads in a new process, completes prompts.

    Returns:
        losses in nats per token on held-out files, densities, nonzeros, seconds, and the completions.
    """
    recipe = recipe or DemoRecipe()
    set_seed(recipe.seed)
    begun = time.monotonic()
    with fresh_folder(out) as folder:
        tokenizer = CSPTokenizer.from_folder(Path(__file__).resolve().parent.parent)
        sources = read_sources("stdlib")
        say(f"Standard library of Python {sys.version.split()[0]}: {sources.summary()}")
        train, held_out = split_blocks(sources, tokenizer, recipe.block)
        held_out = held_out[:: max(1, len(held_out) // recipe.eval_blocks)][: recipe.eval_blocks]
        say(f"{train.numel():,} training tokens; {held_out.numel():,} held-out tokens, from other files")
        report: dict[str, Any] = ngram_losses(train, held_out, len(tokenizer))
        model = CSPForCausalLM(recipe.config(tokenizer))
        start_from_bigrams_(model, bigram_log_probabilities(train, len(tokenizer)))
        report |= _train(model, recipe, train, held_out, folder)
        report["seconds"] = time.monotonic() - begun
        _save(model, tokenizer, recipe, report, folder)
    report |= _reload(Path(out).resolve(), held_out)
    _print(report, Path(out), say)
    if recipe.steps >= DemoRecipe.steps and report["reloaded"] >= report["bigram"]:
        raise RuntimeError(
            f"The model (loss {report['reloaded']:.3f}) does not beat the bigram baseline ({report['bigram']:.3f})."
        )
    return report


def _train(
    model: CSPForCausalLM, recipe: DemoRecipe, train: torch.Tensor, held_out: torch.Tensor, folder: Path
) -> dict[str, Any]:
    trainer = Trainer(
        model=model, args=recipe.arguments(folder), train_dataset=TokenBlocks(train), eval_dataset=TokenBlocks(held_out),
        data_collator=default_data_collator, callbacks=[WeightSparsityCallback(recipe.sparsity())],
    )  # fmt: skip
    start = trainer.evaluate()["eval_loss"]
    trainer.train()
    # The table is most of the file: it is rounded to what half precision holds, which the file then uses, and evaluated so.
    table = model.bigram_table.logit_bias.data  # type: ignore[union-attr]
    table.copy_(table.to(torch.bfloat16))
    report = {"dense start": start, "sparse": trainer.evaluate()["eval_loss"], **measured(sparse_tensors(model))}
    # The control: what the trained table scores when the sparse network says nothing.
    unembedding = model.lm_head.weight.detach().clone()
    model.lm_head.weight.data.zero_()
    report["table alone"] = trainer.evaluate()["eval_loss"]
    model.lm_head.weight.data.copy_(unembedding)
    return report


def _save(model: CSPForCausalLM, tokenizer: CSPTokenizer, recipe: DemoRecipe, report: dict[str, Any], folder: Path) -> None:
    model.config.provenance = {
        "recipe": "csp demo", "corpus": f"standard library of Python {sys.version.split()[0]}", "steps": recipe.steps,
        "tokens": recipe.steps * recipe.batch * recipe.block, "density": recipe.density, "seed": recipe.seed,
    }  # fmt: skip
    model.config.use_cache = True  # which the Trainer switches off while it trains
    model.eval().save_pretrained(folder)
    tokenizer.model_max_length = model.config.block_size
    tokenizer.save_pretrained(folder)
    rows = {
        f"held-out loss, {name}": f"{report[name]:.3f} nats per token"
        for name in ("unigram", "bigram", "dense start", "sparse")
    }
    rows |= {f"nonzero fraction of {g}": f"{report[f'density/{g}']:.4f}" for g in GROUPS}
    write_card(folder, model, title="A small weight-sparse model of Python", rows=rows, description=(
        "Trained by `csp demo` on the standard library of the interpreter that ran it: a demonstration, not a product."
    ))  # fmt: skip


# Runs where this package may not be importable: what it uses comes from the folder, as remote code.
_RELOAD = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, exchange, prompts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(folder)
blocks = torch.load(exchange + "/held_out.pt", weights_only=True).long()
with torch.no_grad():
    losses = [model(part, labels=part).loss.item() * len(part) for part in blocks.split(64)]
completions = []
for prompt in prompts:
    inputs = tokenizer(prompt, return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=32, do_sample=False)
    completions.append(tokenizer.decode(out[0, inputs["input_ids"].shape[1]:]))
with open(exchange + "/reloaded.json", "w") as file:
    json.dump({"reloaded": sum(losses) / len(blocks), "completions": completions}, file)
"""


def _reload(folder: Path, held_out: torch.Tensor) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as exchange:
        torch.save(held_out, Path(exchange, "held_out.pt"))
        command = [sys.executable, "-c", _RELOAD, str(folder), exchange, json.dumps(PROMPTS)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=exchange)
        if done.returncode:
            raise RuntimeError(f"The model saved in {folder} could not be loaded in a new process:\n{done.stderr.strip()}")
        return json.loads(Path(exchange, "reloaded.json").read_text())


def _print(report: dict[str, Any], out: Path, say: Callable[[str], None]) -> None:
    say("\nHeld-out loss, nats per token")
    names = {"unigram": "unigram baseline", "bigram": "bigram baseline", "dense start": "model, dense, before training",
             "sparse": "model, weight-sparse, trained", "reloaded": "the same, loaded in a new process",
             "table alone": "its bigram table alone"}  # fmt: skip
    for key, name in names.items():
        say(f"  {name:36} {report[key]:.3f}")
    say("\nNonzero fraction")
    for group in GROUPS:
        say(f"  {group:36} {report[f'density/{group}']:.4f}")
    say(f"  {'nonzeros under projection (L0)':36} {report['l0']:,}")
    for prompt, completion in zip(PROMPTS, report["completions"]):
        say(
            f"\n--- {prompt!r}\n{prompt}\033[1m{completion}\033[0m"
            if sys.stdout.isatty()
            else f"\n--- {prompt!r} ->\n{prompt}{completion}"
        )
    say(f"\nTrained in {report['seconds'] / 60:.1f} minutes; saved to {out}")
