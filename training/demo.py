"""`csp demo`: the recipe "demo" trained, loaded again in a new process, and at work. Minutes on two cores."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..checkpoints.models import in_new_process
from ..files import fresh_folder
from ..modeling_csp import CSPForCausalLM
from ..tokenization_csp import CSPTokenizer
from .recipes import PRESETS, Recipe, make_recipe
from .schedules import GROUPS
from .train import train

PROMPTS = (
    "import os\nimport sys\n\ndef main():\n    ",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n        self.",
    "for i in range(len(",
)


def run_demo(out: str | Path, recipe: Recipe | None = None, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Trains, saves to `out` (which must be new or empty), reloads in a new process, completes prompts.

    Args:
        recipe: default: the preset "demo".

    Returns:
        what `train` measures, with seconds, the loss after loading again, and the completions.
    """
    recipe = recipe or make_recipe("demo")
    _show_shipped(say)
    begun = time.monotonic()
    with fresh_folder(out) as folder:  # which vanishes if the demo is stopped
        report = train(recipe, folder, stops=False, say=lambda text: say(text.replace(str(folder), str(out))))
        report["seconds"] = time.monotonic() - begun
        report |= _reload(folder.resolve())
    _print(report, Path(out), say)
    whole = recipe.arguments["max_steps"] >= PRESETS["demo"]["arguments"]["max_steps"]
    if whole and report["reloaded"] >= report["bigram"]:
        raise RuntimeError(
            f"The model (loss {report['reloaded']:.3f}) does not beat the bigram baseline ({report['bigram']:.3f})."
        )
    return report


# Runs where this package may not be importable: what it uses comes from the folder, as remote code.
_RELOAD = """
import json, sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompts = sys.argv[1], json.loads(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(folder)
blocks = load_file(folder + "/blocks.safetensors")["held_out"].long()
with torch.no_grad():
    losses = [model(part, labels=part).loss.item() * len(part) for part in blocks.split(64)]
completions = []
for prompt in prompts:
    inputs = tokenizer(prompt, return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=32, do_sample=False)
    completions.append(tokenizer.decode(out[0, inputs["input_ids"].shape[1]:]))
print(json.dumps({"reloaded": sum(losses) / len(blocks), "completions": completions}))
"""


def _reload(folder: Path) -> dict[str, Any]:
    try:
        return json.loads(in_new_process(_RELOAD, str(folder), json.dumps(PROMPTS)).strip().splitlines()[-1])
    except ValueError as error:
        raise RuntimeError(f"The model saved in {folder} could not be loaded in a new process: {error}") from None


def _show_shipped(say: Callable[[str], None]) -> None:
    """What the model beside this package says, if it came with one: hours of training, where the demo has minutes."""
    root = Path(__file__).resolve().parent.parent
    if not (root / "config.json").is_file():
        return
    model, tokenizer = CSPForCausalLM.from_pretrained(root).eval(), CSPTokenizer.from_folder(root)
    say("The model that ships with this package, which was trained for longer than the one that follows:")
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=32, do_sample=False)
        _complete(prompt, str(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :])), say)
    say("")


def _complete(prompt: str, completion: str, say: Callable[[str], None]) -> None:
    if sys.stdout.isatty():
        say(f"\n--- {prompt!r}\n{prompt}\033[1m{completion}\033[0m")
    else:
        say(f"\n--- {prompt!r} ->\n{prompt}{completion}")


def _print(report: dict[str, Any], out: Path, say: Callable[[str], None]) -> None:
    say("\nHeld-out loss, nats per token")
    names = {"unigram": "unigram baseline", "bigram": "bigram baseline", "dense start": "model, dense, before training",
             "held out": "model, weight-sparse, trained", "reloaded": "the same, loaded in a new process",
             "table alone": "its bigram table alone"}  # fmt: skip
    for key, name in names.items():
        say(f"  {name:36} {report[key]:.3f}")
    say("\nNonzero fraction")
    for group in GROUPS:
        say(f"  {group:36} {report[f'density/{group}']:.4f}")
    say(f"  {'nonzeros under projection (L0)':36} {report['l0']:,}")
    for prompt, completion in zip(PROMPTS, report["completions"]):
        _complete(prompt, completion, say)
    say(f"\nTrained in {report['seconds'] / 60:.1f} minutes; saved to {out}")
