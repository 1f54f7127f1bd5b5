"""Dictionaries beside our sites: a small SAE by SAELens on what `csp activations` wrote, an SAE and a transcoder by sparsify on our modules.

    make beside && .venv-beside/bin/python benchmarks/dictionaries.py .

In an environment of its own, since SAELens wants another TransformerLens than our adapter. Prints the share of variance that is not explained on held-out tokens,
beside that of the same dictionary before training; the mean alone would leave 1.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from side_by_side import machine

from sparse_circuits import CSPForCausalLM, CSPTokenizer
from sparse_circuits.convert.activations import hook_names, save_activations
from sparse_circuits.corpora.blocks import sample_blocks
from sparse_circuits.corpora.mixture import load_corpus

BATCH, K, WIDER = 256, 16, 4  # rows; latents that are active; latents to an input
Rebuilt = Callable[[torch.Tensor], torch.Tensor]


def unexplained(inputs: torch.Tensor, outputs: torch.Tensor, rebuilt: Rebuilt) -> float:
    with torch.no_grad():
        left = (rebuilt(inputs) - outputs).square().sum()
    return float(left / (outputs - outputs.mean(0)).square().sum())


def by_sae_lens(folder: Path, site: str, held: torch.Tensor, count: int) -> tuple[float, float]:
    """Fed from the parquet files, streaming, over and over."""

    def batches() -> Iterator[torch.Tensor]:
        while True:
            rows = load_dataset("parquet", data_files=str(folder / "*.parquet"), split="train", streaming=True)
            for batch in rows.select_columns([site]).shuffle(seed=0, buffer_size=10_000).batch(BATCH):
                yield torch.tensor(batch[site])

    torch.manual_seed(0)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=held.shape[1], d_sae=WIDER * held.shape[1], k=K))
    before = unexplained(held, held, sae)
    steps = SAETrainerConfig(total_training_samples=count * BATCH, train_batch_size_samples=BATCH, lr=1e-3, lr_end=1e-4)
    return before, unexplained(held, held, SAETrainer(steps, sae, batches()).fit())


def by_sparsify(
    model: Any, module: str, ids: torch.Tensor, inputs: torch.Tensor, outputs: torch.Tensor, transcode: bool, where: Path
) -> tuple[float, float]:
    """On the model's own modules, by their names."""
    if not torch.cuda.is_available():
        os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # it would be used where it is installed, GPU or not
    from sparsify import SaeConfig, TrainConfig, Trainer

    torch.manual_seed(0)
    settings = SaeConfig(expansion_factor=WIDER, k=K, transcode=transcode)
    config = TrainConfig(
        settings,
        batch_size=8,
        hookpoints=[module],
        optimizer="adam",
        lr=1e-3,
        lr_warmup_steps=10,
        log_to_wandb=False,
        save_dir=str(where),
    )
    trainer = Trainer(config, Dataset.from_dict({"input_ids": ids.tolist()}).with_format("torch"), model)
    (coder,) = trainer.saes.values()

    def rebuilt(x: torch.Tensor) -> torch.Tensor:
        return coder(x).sae_out

    before = unexplained(inputs, outputs, rebuilt)
    trainer.fit()
    return before, unexplained(inputs, outputs, rebuilt)


def watched(model: Any, module: str, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What goes into a module, and what comes out of it."""
    seen: list[torch.Tensor] = []
    handle = model.base_model.get_submodule(module).register_forward_hook(
        lambda _, args, out: seen.extend([args[0].detach(), out.detach()])
    )
    with torch.no_grad():
        model(ids)
    handle.remove()
    return seen[0].flatten(0, 1), seen[1].flatten(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=".")
    parser.add_argument("--site", default="0.mlp.post_act")
    parser.add_argument("--corpus", default="idioms:2000")
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--steps", type=int, default=400, help="of SAELens; sparsify goes through the tokens once")
    given = parser.parse_args()
    print(machine(f"{given.tokens} tokens of {given.corpus}, k {K}, {WIDER} latents to an input, seed 0"))
    model, tokenizer = CSPForCausalLM.from_pretrained(given.model).eval(), CSPTokenizer.from_pretrained(given.model)
    blocks = sample_blocks(load_corpus(given.corpus), tokenizer, 128, given.tokens).long()
    ids, held = blocks[: -len(blocks) // 8], blocks[-len(blocks) // 8 :]
    names, mlp = hook_names(given.site), f"h.{given.site.partition('.')[0]}.mlp"
    with tempfile.TemporaryDirectory() as scratch:
        save_activations(model, tokenizer, ids, [given.site], Path(scratch) / "activations")
        _, at = watched(model, names["sparsify"], held)
        into, out = watched(model, mlp, held)
        found = {
            f"SAELens, TopK, {names['transformer_lens']}": by_sae_lens(
                Path(scratch) / "activations", given.site, at, given.steps
            ),
            f"sparsify, SAE, {names['sparsify']}": by_sparsify(
                model, names["sparsify"], ids, at, at, False, Path(scratch) / "sae"
            ),
            f"sparsify, transcoder, {mlp}": by_sparsify(model, mlp, ids, into, out, True, Path(scratch) / "transcoder"),
        }
    print("\n| dictionary | unexplained before training | after |\n|---|---|---|")
    for name, (before, after) in found.items():
        print(f"| {name} | {before:.3f} | {after:.3f} |")


if __name__ == "__main__":
    main()
