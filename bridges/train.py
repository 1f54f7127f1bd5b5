"""`train_bridges`: a sparse model and its bridges to a frozen dense one, trained together under the stock Trainer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, default_data_collator, set_seed

from ..corpora.blocks import BLOCKS, TokenBlocks
from ..files import write_whole
from ..modeling_csp import CSPForCausalLM
from ..training.callback import WeightSparsityCallback
from ..training.metrics import RunMetrics
from ..training.projection import csp_rule
from ..training.recipes import Recipe
from ..training.schedules import SparsityConfig
from ..training.train import (
    RECIPE,
    REPORT,
    StopCleanly,
    checked_run,
    first_model,
    last_complete,
    prepare_folder,
    run_blocks,
    run_to_end,
)
from .bridge import BridgeConfig, Bridges
from .evaluate import evaluate_bridges
from .hybrids import said_cost
from .losses import bridge_losses
from .pair import BridgedPair, require_match
from .sides import Side, side_of

PAIR = "pair"


class BridgeTraining(nn.Module):
    """What the Trainer sees: the sparse model and the bridges. The dense model is no part of it: it is neither trained nor saved with checkpoints."""

    def __init__(self, dense: Side, sparse: CSPForCausalLM, bridges: Bridges, config: BridgeConfig):
        super().__init__()
        self.sparse, self.bridges, self.settings = sparse, bridges, config
        self._dense = (dense,)  # in a tuple, where nn.Module does not look for modules
        self.sums: dict[str, float] = {}
        self.count = 0

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any) -> dict[str, torch.Tensor]:
        terms = bridge_losses(self._dense[0], side_of(self.sparse), self.bridges, input_ids, self.settings)
        if self.training:
            for name, term in terms.items():
                self.sums[name] = self.sums.get(name, 0.0) + float(term.detach())
            self.count += 1
        return {"loss": terms["loss"]}

    def rule(self, name: str, parameter: nn.Parameter) -> tuple[str, int | None] | None:
        """Only the sparse model is under the projection; bridges are dense."""
        return csp_rule(self.sparse.config)(name, parameter) if name.startswith("sparse.") else None


class BridgeSparsity(WeightSparsityCallback):
    """As for the sparse model alone: its gradients are normalised by themselves. Those of bridges have scales of their own, which Adam evens out."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        return super().on_pre_optimizer_step(args, state, control, model=model.sparse, **kwargs)


def make_optimizer(module: BridgeTraining, arguments: Any) -> torch.optim.Optimizer:
    """AdamW with the recipe's settings for the sparse model, and usual ones for bridges (lr of `BridgeConfig`, eps 1e-8, no decay)."""
    plain = ("bias", "sink_bias", "logit_bias", "norm.weight")
    named = [(name, p) for name, p in module.sparse.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if not name.endswith(plain)], "weight_decay": arguments.weight_decay},
        {"params": [p for name, p in named if name.endswith(plain)], "weight_decay": 0.0},
        {"params": list(module.bridges.parameters()), "weight_decay": 0.0, "lr": module.settings.lr, "eps": 1e-8},
    ]
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    return torch.optim.AdamW(groups, lr=arguments.learning_rate, betas=betas, eps=arguments.adam_epsilon)


class LogTerms(TrainerCallback):
    """Every loss term, as a mean since the last log, beside the loss."""

    def __init__(self, module: BridgeTraining):
        self.module = module

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs and self.module.count:
            terms = {f"term/{name}": total / self.module.count for name, total in self.module.sums.items() if name != "loss"}
            logs.update(terms)
            state.log_history[-1].update(terms)
            self.module.sums, self.module.count = {}, 0


def train_bridges(
    dense: Any,
    tokenizer: Any,
    recipe: Recipe,
    config: BridgeConfig,
    out: str | Path,
    *,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains a sparse model by a recipe, with bridges to `dense`, and saves the pair in `out`/pair.

    Checkpoints lie in `out`; with `resume` the last complete one is taken up, with the same weights at the end, bit for bit on CPU.

    Returns:
        what `evaluate_bridges` measures on held-out blocks, with `finished` and `steps`.

    Raises:
        ValueError: if the models cannot be bridged, or settings cannot work, before any work.
    """
    out, side = Path(out), side_of(dense.eval().requires_grad_(False))
    arguments, settings, _ = checked_run(recipe, tokenizer, out, resume)
    set_seed(arguments.seed)
    require_match(side, side_of(CSPForCausalLM(settings)))
    if recipe.block > side.longest:
        raise ValueError(
            f"A sequence of {recipe.block} tokens is too long for the dense model, which takes {side.longest}; set block."
        )
    prepare_folder({**recipe.to_dict(), "bridges": config.to_dict()}, out, resume)
    blocks = run_blocks(recipe, tokenizer, out, say)
    set_seed(arguments.seed)
    sparse = first_model(recipe, settings, blocks["train"])
    bridges = Bridges(side.width, sparse.config.d_model, side.sublayers + 1, config.active)
    module = BridgeTraining(side, sparse, bridges, config)
    say(said_cost(side.sublayers))
    callback, stop = BridgeSparsity(SparsityConfig(**recipe.sparsity), rule=module.rule), StopCleanly(say)
    trainer = Trainer(
        model=module, args=arguments, train_dataset=TokenBlocks(blocks["train"]), eval_dataset=TokenBlocks(blocks["held_out"]),
        data_collator=default_data_collator, callbacks=[callback, LogTerms(module), RunMetrics(recipe.block, sparse), stop],
        optimizers=(make_optimizer(module, arguments), None),
    )  # fmt: skip
    if not run_to_end(trainer, callback, stop, out, last_complete(out) if resume else None, say):
        return {"finished": False, "steps": trainer.state.global_step}
    measured = evaluate_bridges(side, side_of(sparse.eval()), bridges.eval(), blocks["held_out"])
    report = {"finished": True, "steps": trainer.state.global_step, **measured}
    _save(BridgedPair(dense, sparse, tokenizer, bridges, config), recipe, report, out)
    losses = {"Hybrids' mean loss": "mean_hybrid", "dense": "dense", "sparse": "sparse"}
    say(", ".join(f"{part} {report[name]:.3f}" for part, name in losses.items()) + f"; saved to {out / PAIR}")
    return report


def _save(pair: BridgedPair, recipe: Recipe, report: dict[str, Any], out: Path) -> None:
    config = pair.sparse.model.config
    config.use_cache = True  # which the Trainer switches off while it trains
    config.provenance = {"recipe": "csp bridge train", "steps": report["steps"], "density": recipe.sparsity["density"]}
    text = json.dumps(report, indent=1) + "\n"
    if not (out / PAIR).exists():  # with what publishing and pages need
        own: dict[str, str | Path] = {RECIPE: out / RECIPE, BLOCKS: out / BLOCKS, REPORT: text}
        pair.save_pretrained(out / PAIR, own)
    write_whole(out / REPORT, text)
