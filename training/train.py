"""`train`: one recipe, from corpus to a saved model, under the stock Trainer; stopped and resumed at will."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments, default_data_collator, set_seed

from ..checkpoints.tensors import read_tensors, tensors_with_sha256
from ..configuration_csp import CSPConfig
from ..corpora.blocks import BLOCKS, TokenBlocks, require_blocks
from ..corpora.mixture import check_source, mix
from ..corpora.ngrams import bigram_log_probabilities, ngram_losses
from ..files import require_fresh, require_writable, write_whole
from ..hub import missing
from ..modeling_csp import CSPForCausalLM
from ..tokenization_csp import CSPTokenizer
from .callback import WeightSparsityCallback, measured
from .card import write_card
from .checkpoints import SumCheckpoints, is_whole
from .checks import check_run
from .metrics import RunMetrics, write_curves
from .projection import sparse_tensors
from .recipes import Recipe, read_yaml
from .schedules import SparsityConfig

_SINCE = {"round_table": False}  # sections of recipes that older runs do not have
RECIPE, CURVES, REPORT = "recipe.yaml", "curves.png", "report.json"


def train(
    recipe: Recipe, out: str | Path, *, resume: bool = False, stops: bool = True, say: Callable[[str], None] = print
) -> dict[str, Any]:  # fmt: skip
    """Trains a model by a recipe and saves it in `out`, with its tokenizer, card, curves and report.

    Checkpoints lie in `out` too; with `resume`, the last complete one is taken up, and the run ends with the weights, bit for bit on
    CPU, that it would have had uninterrupted. SIGTERM and Ctrl-C save a checkpoint and end the run, if it `stops`; NaN ends it before it reaches
    the weights.

    Returns:
        held-out losses in nats per token, densities, nonzeros, tokens; `finished` tells whether the run came to its end.

    Raises:
        FileExistsError: if `out` has a run already and `resume` is not given.
        ValueError: for settings that cannot work, before any work is done, and on resume for a recipe that differs.
        FloatingPointError: when gradients stop being finite.
        OSError: when a checkpoint cannot be written; the one before it is kept.
    """
    out = Path(out)
    tokenizer = CSPTokenizer.from_folder(recipe.tokenizer or Path(__file__).resolve().parent.parent)
    arguments, config, callback = checked_run(recipe, tokenizer, out, resume)
    first = arguments.process_index == 0
    say = say if first else lambda text: None
    if command := missing("matplotlib"):
        say(f"matplotlib is missing, so there will be no picture of the curves: {command}")
    with arguments.main_process_first(local=False):  # the other processes find what the first has written
        if first:
            prepare_folder(recipe.to_dict(), out, resume)
        blocks = run_blocks(recipe, tokenizer, out, say)
        checkpoint = last_complete(out) if resume else None
    set_seed(arguments.seed)
    model, stop = first_model(recipe, config, blocks["train"]), StopCleanly(say, stops)
    trainer = Trainer(
        model=model, args=arguments, train_dataset=TokenBlocks(blocks["train"]), eval_dataset=TokenBlocks(blocks["held_out"]),
        data_collator=default_data_collator, callbacks=[callback, RunMetrics(recipe.block), stop],
    )  # fmt: skip
    report: dict[str, Any] = ngram_losses(blocks["train"], blocks["held_out"], len(tokenizer))
    if checkpoint is None:  # not by the trainer: it would draw random numbers, and processes see other batches then
        report["dense start"] = loss_on(model, blocks["held_out"], arguments.per_device_eval_batch_size)
    finished = run_to_end(trainer, callback, stop, out, checkpoint, say)
    if first and missing("matplotlib") is None:
        write_curves(trainer.state.log_history, out / CURVES)
    report |= {"finished": finished, "steps": trainer.state.global_step}
    return report | _finish(trainer, recipe, tokenizer, blocks["held_out"], report, out, say) if finished else report


def _finish(
    trainer: Trainer, recipe: Recipe, tokenizer: Any, held_out: torch.Tensor, report: dict[str, Any], out: Path, say: Callable[[str], None]
) -> dict[str, Any]:  # fmt: skip
    """Measures the trained model and saves it; returns what is new in the report."""
    arguments = trainer.args
    sequences = arguments.max_steps * arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    weights = gathered(trainer.model)
    model = CSPForCausalLM(model_config(recipe, tokenizer))  # the trained one may be in shards, or wrapped
    model.load_state_dict(weights)
    if recipe.round_table and model.bigram_table is not None:
        table = model.bigram_table.logit_bias.data
        table.copy_((table * 8).round().div(8).to(torch.bfloat16))
    found = {"tokens": sequences * recipe.block, **losses(model, held_out, arguments.per_device_eval_batch_size)}
    if arguments.process_index == 0:
        found |= measured(sparse_tensors(model))
        _save(model, tokenizer, recipe, report | found, out)
    say(f"Held-out loss {found['held out']:.3f} nats per token (bigram baseline {report['bigram']:.3f}); saved to {out}")
    return found


def first_model(recipe: Recipe, config: CSPConfig, blocks: torch.Tensor) -> CSPForCausalLM:
    """The model before training: random, and with the bigram table of the training blocks, if the recipe starts from it."""
    model = CSPForCausalLM(config)
    if recipe.start == "bigrams" and model.bigram_table is not None:
        start_from_bigrams_(model, bigram_log_probabilities(blocks, config.vocab_size))
    return model


def start_from_bigrams_(model: CSPForCausalLM, log_probabilities: torch.Tensor) -> None:
    """Sets the bigram table to log P(next | current): the model starts at the bigram baseline, and whatever it gains over it comes
    from its sparse weights and the table's training."""
    if model.bigram_table is None:
        raise ValueError("The model has no bigram table; set enable_bigram_table=True in its config.")
    with torch.no_grad():
        model.bigram_table.logit_bias.copy_(log_probabilities)


def run_to_end(
    trainer: Trainer,
    callback: WeightSparsityCallback,
    stop: StopCleanly,
    out: Path,
    checkpoint: str | None,
    say: Callable[[str], None],
) -> bool:
    """Trains; whether the run came to its end. Stops cleanly when asked to, before gradients that are not finite, and names a write that failed."""
    callback.lead(trainer)
    callbacks = trainer.callback_handler.callbacks
    callbacks.append(SumCheckpoints())  # last: when all has been written
    callbacks.insert(0, RefuseNonFinite())  # before gradients are normalised, which spreads a NaN to all
    with stop.listening():
        try:
            if not take_up_finished(trainer, checkpoint):
                trainer.train(resume_from_checkpoint=checkpoint)
        except (OSError, RuntimeError, SafetensorError) as error:  # as Python, torch and safetensors say that a disk is full
            _explain_failed_write(out, trainer.state.global_step, error)
            raise
    finished = trainer.state.global_step >= trainer.state.max_steps
    if not finished:
        say(f"Stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; --resume goes on from there.")
    return finished


def take_up_finished(trainer: Trainer, checkpoint: str | None) -> bool:
    """Whether the checkpoint is that of the last step, in which case the trainer has its weights now. (The Trainer itself would do one step
    more: it looks at the number of steps after each, not before the first.)"""
    if checkpoint is None:
        return False
    state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
    if state.global_step < trainer.args.max_steps:
        return False
    trainer._load_from_checkpoint(checkpoint)
    trainer.state = state
    trainer.state.max_steps = trainer.args.max_steps
    return True


@torch.no_grad()
def loss_on(model: CSPForCausalLM, blocks: torch.Tensor, batch: int) -> float:
    """Loss in nats per token on blocks [n, tokens], the model being left in eval mode."""
    parts = blocks.long().to(model.eval().device).split(batch)
    return sum(float(model(part, labels=part).loss) * len(part) for part in parts) / len(blocks)


def losses(model: CSPForCausalLM, blocks: torch.Tensor, batch: int) -> dict[str, float]:
    """Held-out loss in nats per token, and, as a control, what the trained bigram table alone scores: the sparse network says nothing then."""
    found = {"held out": loss_on(model, blocks, batch)}
    if model.bigram_table is not None:
        unembedding = model.lm_head.weight.detach().clone()
        model.lm_head.weight.data.zero_()
        found["table alone"] = loss_on(model, blocks, batch)
        model.lm_head.weight.data.copy_(unembedding)
    return found


@torch.no_grad()
def gathered(model: Any) -> dict[str, torch.Tensor]:
    """The weights, whole and on CPU, also of a model in FSDP2 shards; there every process must call it."""
    state = {}
    for name, tensor in model.state_dict().items():
        state[name] = (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().cpu()
    return state


def prepare_folder(recipe: dict[str, Any], out: Path, resume: bool) -> None:
    """A new folder with the recipe in it; on resume, that of the same recipe."""
    file = out / RECIPE
    if resume:
        if not file.is_file():
            raise FileNotFoundError(f"{out} has no {RECIPE}, so there is no run to resume; leave out --resume to start one.")
        saved = read_yaml(file)
        for section, value in recipe.items():
            if saved.get(section, _SINCE.get(section)) != value:
                raise ValueError(
                    f"{section} of this recipe differs from the run's in {file}; resume with the same settings, or start in another folder."
                )
        return
    require_fresh(out, "add --resume to go on with the run there, or choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(file, yaml.safe_dump(recipe, sort_keys=False))


def checked_run(
    recipe: Recipe, tokenizer: Any, out: Path, resume: bool
) -> tuple[TrainingArguments, CSPConfig, WeightSparsityCallback]:
    """What a recipe asks for; raises for what cannot work, before any work."""
    arguments, config = training_arguments(recipe, out), model_config(recipe, tokenizer)
    callback = WeightSparsityCallback(SparsityConfig(**recipe.sparsity))
    check_run(arguments, config, recipe.block, callback)
    require_writable(out)
    if not resume:
        for source in recipe.corpora:
            check_source(source)
    return arguments, config, callback


def training_arguments(recipe: Recipe, out: Path) -> TrainingArguments:
    """The recipe's arguments, with defaults that follow from the number of steps."""
    given = dict(recipe.arguments)
    if "max_steps" not in given:
        raise ValueError("arguments.max_steps is missing; density and learning rate need the number of steps.")
    warmup = given.pop("warmup_ratio", 0.0)
    given.setdefault("warmup_steps", int(warmup * given["max_steps"]))
    given.setdefault("logging_steps", max(1, given["max_steps"] // 50))
    given.setdefault("save_steps", max(1, given["max_steps"] // 10))
    given.setdefault("eval_strategy", "steps")
    given.setdefault("eval_steps", max(1, given["max_steps"] // 10))
    given.setdefault("logging_nan_inf_filter", False)
    given.setdefault("prediction_loss_only", True)
    given.setdefault("dataloader_pin_memory", torch.cuda.is_available())
    try:
        return TrainingArguments(output_dir=str(out), remove_unused_columns=False, **given)
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).removeprefix("TrainingArguments.__init__() ")
        raise ValueError(f"arguments cannot be used: {reason[:200].rstrip('.')}.") from None


def model_config(recipe: Recipe, tokenizer: Any) -> CSPConfig:
    """The recipe's model for a tokenizer."""
    end = tokenizer.eos_token_id
    own = {"vocab_size": len(tokenizer), "bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    return CSPConfig(**{"block_size": max(1024, recipe.block), **recipe.model, **own})


def run_blocks(recipe: Recipe, tokenizer: Any, out: Path, say: Callable[[str], None]) -> dict[str, torch.Tensor]:
    """The run's own copy of its data, so that a resumed run sees the same whatever has become of the sources."""
    file = out / BLOCKS
    if not file.exists():
        mixture = mix(recipe.corpora, tokenizer, recipe.block, int(recipe.arguments.get("seed", 0)))
        for line in mixture.said:
            say(line)
        write_whole(file, tensors_with_sha256({"train": mixture.train, "held_out": mixture.held_out[: recipe.eval_blocks]}))
    blocks = require_blocks(read_tensors(file, fix="copy the run's folder again, or start in another")[0], file)
    if max(int(part.max()) for part in blocks.values()) >= len(tokenizer):
        raise ValueError(f"{file} has tokens that the tokenizer does not know; resume with the run's own tokenizer.")
    return blocks


def last_complete(out: Path) -> str | None:
    """The newest checkpoint that was written to its end and is as it was written; later ones, torn by a kill or damaged, are removed."""
    found = [path for path in out.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d{1,18}", path.name)]
    for path in sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True):
        if is_whole(path):
            return str(path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return None


def _explain_failed_write(out: Path, step: int, error: Exception) -> None:
    """Raises in one sentence if it was the checkpoint of this step that could not be written; what there is of it is removed."""
    torn = out / f"checkpoint-{step}"
    before = last_complete(out) if torn.is_dir() else str(torn)
    if before != str(torn):
        rest = f"the one before is intact: --resume goes on from {Path(before).name}" if before else "there is none before it"
        raise OSError(f"{torn.name} could not be written ({error}); free some disk space; {rest}.") from error


def _save(model: CSPForCausalLM, tokenizer: Any, recipe: Recipe, report: dict[str, Any], out: Path) -> None:
    model.config.provenance = {
        "recipe": "csp train", "corpora": ", ".join(f"{source} x {weight:g}" for source, weight in recipe.corpora.items()),
        "steps": report["steps"], "tokens": report["tokens"], "density": recipe.sparsity["density"], "seed": recipe.arguments.get("seed", 0),
    }  # fmt: skip
    model.config.use_cache = True  # which the Trainer switches off while it trains
    model.eval().save_pretrained(out)
    tokenizer.model_max_length = model.config.block_size
    tokenizer.save_pretrained(out)
    rows = {f"held-out loss, {name}": f"{report[name]:.3f} nats per token" for name in ("unigram", "bigram", "held out")}
    rows |= {
        f"nonzero fraction of {key.partition('/')[2]}": f"{v:.4f}" for key, v in report.items() if key.startswith("density/")
    }
    write_card(
        out,
        model,
        title="A weight-sparse model",
        rows=rows,
        description="Trained by `csp train`; `recipe.yaml` has the settings.",
    )
    write_whole(out / REPORT, json.dumps(report, indent=2) + "\n")


class StopCleanly(TrainerCallback):
    """On SIGTERM or Ctrl-C: ends the step that is under way, saves a checkpoint, and ends the run. A second Ctrl-C ends it at once."""

    def __init__(self, say: Callable[[str], None], listens: bool = True):
        self.asked, self.listens, self._say = False, listens, say

    def listening(self):
        return _Listening(self)

    def on_step_end(self, args, state, control, **kwargs):
        if self.asked:
            control.should_save = control.should_training_stop = True
        return control


class _Listening:
    def __init__(self, stop: StopCleanly):
        self.stop, self.before = stop, {}  # type: ignore[var-annotated]

    def __enter__(self):
        if self.stop.listens and threading.current_thread() is threading.main_thread():  # elsewhere signals cannot be received
            self.before = {kind: signal.signal(kind, self._ask) for kind in (signal.SIGTERM, signal.SIGINT)}

    def _ask(self, kind, frame):
        if self.stop.asked and kind == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop.asked = True
        self.stop._say("Stopping: a checkpoint is saved after this step.")

    def __exit__(self, *error):
        for kind, handler in self.before.items():
            signal.signal(kind, handler)


class RefuseNonFinite(TrainerCallback):
    """Stops before the optimizer spreads gradients that are not finite over the weights."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        # One number for all gradients; on a GPU reading it waits for the device, so only where the loss is read anyway.
        if args.device.type != "cpu" and (state.global_step + 1) % max(1, int(args.logging_steps)):
            return
        total = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        if not math.isfinite(float(total)):
            bad = [n for n, p in model.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())]
            raise FloatingPointError(
                f"Gradients are not finite at step {state.global_step + 1} (in {bad[0] if bad else 'their sum'}); the weights are those of the "
                f"step before, the last checkpoint is intact. The likely cause is the learning rate (now "
                f"{state.log_history[-1].get('learning_rate', args.learning_rate) if state.log_history else args.learning_rate}): lower "
                f"arguments.learning_rate, or anneal over more steps, and start anew."
            )
