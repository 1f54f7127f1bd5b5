"""A GPT-2 of its own shape, from its files to a circuit with its page and program, every command timed, with its peak memory.

    python benchmarks/gpt2.py --shape small   # two layers of 64, for the tests
    python benchmarks/gpt2.py                 # 12 layers of 768, vocabulary 50,257: 124 million parameters, all of them nonzero

There is no trained GPT-2 on a machine without network. So weights are random (writes of sublayers scaled by 0.05, so that they do not drown what is learned), and one
head of the last layer is trained to close quotes, through 32 channels; the tokenizer is trained on the standard library. Where a circuit is known to be small the
times are those of the tools, not of what a GPT-2 that learned from text would need: dense models have far larger circuits (docs/results.md). Prints a table.
"""

from __future__ import annotations

import argparse
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from release import timed
from side_by_side import machine
from transformers import GPT2Config, GPT2LMHeadModel

from sparse_circuits import CSPTokenizer
from sparse_circuits.circuits import load_task

ROOT = Path(__file__).resolve().parent.parent
TASK = "single_double_quote"
SHAPES = {
    "small": {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 64},
    "gpt2": {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024},
}
CHANNELS, STEPS, QUIET = 32, 150, 0.05
SEARCH = ["steps=200", "pairs=8", "eval_pairs=16", "k_coef=1e-4"]  # a price for 102,144 nodes


def tokenizer_of(shape: str) -> CSPTokenizer:
    if shape == "small":
        return CSPTokenizer.from_folder(ROOT)
    library = Path(sysconfig.get_paths()["stdlib"])
    files = [
        path for path in sorted([*library.glob("*.py"), *library.glob("*/*.py")]) if "site-packages" not in path.parts and "test" not in str(path)
    ]  # fmt: skip
    return CSPTokenizer.train_on([path.read_text(errors="ignore") for path in files], 50257)


def write(shape: str, folder: Path) -> None:
    """The model and its tokenizer, as transformers saves them."""
    torch.manual_seed(0)
    tokenizer = tokenizer_of(shape)
    end = tokenizer.eos_token_id
    model = GPT2LMHeadModel(
        GPT2Config(**SHAPES[shape], vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    )  # fmt: skip
    with torch.no_grad():
        for block in model.transformer.h:
            for projection in (block.attn.c_proj, block.mlp.c_proj):
                projection.weight.mul_(QUIET)
    train_head(model, batches(model, tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def batches(model: Any, tokenizer: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(the stream before the last block [prompts, tokens, width], answers [prompts, 2]) of training pairs, those of one length together."""
    pairs = load_task(TASK, tokenizer).pairs(256, "train")
    rows: dict[int, list[tuple[tuple[int, ...], list[int]]]] = {}
    for ids, answers in zip(pairs.prompts(), pairs.answers.tolist()):
        rows.setdefault(len(ids), []).append((ids, answers))
    seen: dict[str, torch.Tensor] = {}
    handle = model.transformer.h[-1].register_forward_pre_hook(lambda module, args: seen.__setitem__("x", args[0]))
    found = []
    for same in rows.values():
        for first in range(0, len(same), 32):
            part = same[first : first + 32]
            model.transformer(input_ids=torch.tensor([ids for ids, _ in part]), use_cache=False)
            found.append((seen["x"], torch.tensor([answers for _, answers in part])))
    handle.remove()
    return found


def train_head(model: Any, prompts: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Head 0 of the last layer, reading from and writing to some channels alone, by the pairwise loss."""
    block, width = model.transformer.h[-1], model.config.n_embd
    inside = torch.arange(width // model.config.n_head)
    channels = torch.randperm(width, generator=torch.Generator().manual_seed(1))[:CHANNELS]
    free = {block.attn.c_attn.weight: torch.zeros(width, 3 * width), block.attn.c_attn.bias: torch.zeros(3 * width), block.attn.c_proj.weight: torch.zeros(width, width)}  # fmt: skip
    for part in range(3):
        free[block.attn.c_attn.weight][channels[:, None], part * width + inside] = 1
        free[block.attn.c_attn.bias][part * width + inside] = 1
    free[block.attn.c_proj.weight][inside[:, None], channels] = 1
    optimizer = torch.optim.AdamW(free, lr=0.02, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, STEPS)
    for step in range(STEPS):
        x, answers = prompts[step % len(prompts)]
        out = block(x)
        last = model.transformer.ln_f((out[0] if isinstance(out, tuple) else out)[:, -1])
        logits = (last[:, None] * model.transformer.wte.weight[answers]).sum(-1)
        F.cross_entropy(logits, torch.zeros(len(answers), dtype=torch.int64)).backward()
        for parameter, mask in free.items():
            parameter.grad *= mask
        optimizer.step()
        schedule.step()
        model.zero_grad()


TARGET = {"small": "0.4", "gpt2": "0.15"}  # the small one's own loss is 0.29


def commands(shape: str, place: Path) -> list[list[str]]:
    model, circuit, corpus = (
        str(place / "model"),
        str(place / "quotes"),
        ["--corpus", str(place / "corpus.py"), "--tokens", "4096"],
    )
    settings = [word for each in SEARCH for word in ("--set", each)]
    return [
        ["convert", str(place / "gpt2"), model], ["tasks", model, "--task", TASK],
        ["prune", model, TASK, "--out", circuit, "--target", TARGET[shape], *settings, *corpus],
        ["verify", model, circuit, "--pairs", "16", "--no-controls", "--seeds", "1", *corpus],
        ["prove", model, circuit, "--most", "100000", *corpus], ["view", model, circuit, "--contexts", "0", "--out", str(place / "page.html")],
    ]  # fmt: skip


def run(shape: str, tell: Callable[[str], None] = print) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        write(shape, place / "gpt2")
        (place / "corpus.py").write_text("".join(f"def f{i}(x):\n    return 'a{i}' + \"b\"\n\n" for i in range(2000)))
        tell("\n| command | seconds | peak GB |\n|---|---|---|")
        for words in commands(shape, place):
            seconds, peak = timed(words, "")
            tell(f"| `csp {' '.join(words).replace(str(place) + '/', '')}` | {seconds:.0f} | {peak:.2f} |")
        size = (place / "quotes" / "program.py").stat().st_size
        tell(f"\nprogram.py: {size / 1e6:.2f} MB; page.html: {(place / 'page.html').stat().st_size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="gpt2", choices=list(SHAPES))
    given = parser.parse_args()
    print(machine(f"shape {given.shape}"))
    run(given.shape, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
