"""Prompts per second: every prompt of a task through a circuit's program, against the circuit run through its model.

    python benchmarks/prove.py MODEL CIRCUIT [CIRCUIT ...] --most 200000

CIRCUIT: folders that csp prune wrote; with a certificate, norms are as there. The certificate shares what prompts begin with and runs in float64; through the model prompts go in batches of 64, in
float32, on the dense and on the sparse form, whichever is faster. Both by as many threads as PyTorch has.
--random N runs nothing of this: it compares each folder's program.py with its circuit on N prompts of 20 random tokens.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from random import Random

import torch
from certificates import difference
from side_by_side import machine

from sparse_circuits import Circuit, CSPForCausalLM, CSPTokenizer
from sparse_circuits.circuits.outcome import last_logits
from sparse_circuits.cli.given import corpus_blocks
from sparse_circuits.programs.certificate import held_scales, share
from sparse_circuits.programs.certify import DRAWN, MARGIN, WORST, Tally, answer_tokens, certify, runs
from sparse_circuits.programs.compile import compile_circuit, mean_scales
from sparse_circuits.programs.language import language, narrowed
from sparse_circuits.programs.parts import Attention, Parts
from sparse_circuits.programs.prove import certificate_of, first_few
from sparse_circuits.programs.tokens import TokenTemplate, tokenised

PAIRS = 64  # pairs that are timed through the model


def depth(parts: Parts) -> str:
    """What a circuit has of layers: "1 attention, 0 MLP" and so on."""
    attention = sum(isinstance(each, Attention) for each in parts.sublayers)
    return f"{attention} attention, {len(parts.sublayers) - attention} MLP"


def through_model(model, circuit: Circuit, task) -> float:
    """Prompts per second, the better of both forms."""
    pairs, best = task.pairs(PAIRS, "test", fewer=True), 0.0
    for form in (model.to_dense, lambda: model.to_sparse(max_density=1.0)):
        form()
        with torch.no_grad(), circuit.running(model):
            last_logits(model, pairs)
            begun = time.perf_counter()
            last_logits(model, pairs)
            best = max(best, 2 * len(pairs) / (time.perf_counter() - begun))
    model.to_dense()
    return best


def direct(model, circuit: Circuit, scales, tallies: list[Tally], count: int) -> str:
    """Of prompts run directly, the circuit in its model in float64, the worst ones and others drawn: how many verdicts are others, and how far margins of the worst are off."""
    double = CSPForCausalLM(model.config).double().eval()
    double.load_state_dict(model.state_dict())
    held = False if scales is None else held_scales(double, scales)

    def margin(made: TokenTemplate, texts) -> float:
        with circuit.running(double, freeze_norms=held), torch.no_grad():
            logits = double(torch.tensor([made.ids(texts)]), use_cache=False, logits_to_keep=1).logits[0, -1]
        return float(logits[made.right.at(texts)] - logits[made.wrong.at(texts)])

    worst = sorted((found, i, texts) for i, each in enumerate(tallies) for found, texts in each.worst)[:WORST]
    off = max(abs(margin(tallies[i].template, texts) - found) for found, i, texts in worst)
    drawn = [(each.template, texts, right) for each in tallies for right in (True, False) for texts in each.drawn[right]]
    drawn = Random(0).sample(drawn, min(len(drawn), count - len(worst)))
    others = sum((margin(made, texts) > MARGIN) != right for made, texts, right in drawn)
    return f"{others} of {len(drawn) + len(worst)}, {off:.0e}"


def measured(model, tokenizer, circuit: Circuit, scales, given: argparse.Namespace) -> list[str]:
    """Cells of the table: depth, prompts, right, seconds, prompts run per second, through the model, ratio, and, if asked for, what direct runs say."""
    task, scales = circuit.find_task(tokenizer), scales if circuit.settings.get("freeze_norms") else None
    whole = [tokenised(each, tokenizer) for each in language(task, None if given.split == "all" else given.split)]

    def compiled(templates) -> Parts:
        return compile_circuit(model, circuit, answer_tokens(templates), scales)

    def fits(some) -> bool:
        return sum(runs(compiled(some), some)) <= given.most

    few = (whole, {}) if fits(whole) else first_few(whole, tokenizer, fits)
    if few is None:
        raise SystemExit(f"One text at each place of {task.name} makes more than {given.most:,} prompts; give --most.")
    parts = compiled(few[0])
    certify(parts, [tokenised(narrowed(each.template, 1), tokenizer) for each in few[0][:1]])  # compiles the kernel
    begun = time.perf_counter()
    tallies = certify(parts, few[0], drawn=max(DRAWN, given.direct))
    took = time.perf_counter() - begun
    count, right, done = (sum(getattr(each, name) for each in tallies) for name in ("count", "right", "run"))
    slow, values = through_model(model, circuit, task), f"{few[1]['texts']} a place" if few[1] else "all"
    cells = [
        depth(parts),
        f"{count:,} ({values})",
        share(right, count),
        f"{took:.0f}",
        f"{done / took:,.0f}",
        f"{slow:,.0f}",
        f"{done / took / slow:,.0f}",
    ]
    return [*cells, direct(model, circuit, scales, tallies, given.direct)] if given.direct else cells


def at_random(model, given: argparse.Namespace) -> None:
    """How far each folder's program is from its circuit, run through the model in float64."""
    print("| circuit | edges | largest difference of a logit |\n|---|---|---|", flush=True)
    for folder in given.circuits:
        circuit, program = Circuit.from_pretrained(folder), (Path(folder) / "program.py").read_text(encoding="utf-8")
        known = certificate_of(folder, circuit)
        off = difference(model, circuit, program, known["scales"] if known else None, given.random)
        print(f"| {circuit.task} | {circuit.num_edges} | {off:.0e} |", flush=True)
    print(machine(f"{given.random:,} random prompts", "seed 0"))


HEADS = ["circuit", "edges", "sublayers", "prompts", "right", "seconds", "by program, prompts/s", "through the model", "ratio"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("circuits", nargs="+")
    parser.add_argument(
        "--most",
        type=int,
        default=200_000,
        help="prompts that are run: every template, with the first few values at each place",
    )
    parser.add_argument("--split", default="all", choices=["all", "train", "validation", "test"], help="whose words")
    parser.add_argument(
        "--direct", type=int, default=0, help="so many prompts of each are run directly too, the worst ones among them"
    )
    parser.add_argument(
        "--random", type=int, default=0, help="compare program.py with its circuit on so many random prompts instead"
    )
    given = parser.parse_args()
    tokenizer, model = CSPTokenizer.from_pretrained(given.model), CSPForCausalLM.from_pretrained(given.model).eval()
    if given.random:
        return at_random(model, given)
    scales = mean_scales(model, corpus_blocks(given.model, None, tokenizer, 12_800))
    heads = HEADS + (["verdicts that differ, margins off"] if given.direct else [])
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads), flush=True)
    for folder in given.circuits:
        circuit = Circuit.from_pretrained(folder)
        known = certificate_of(folder, circuit)
        cells = measured(model, tokenizer, circuit, known.get("scales") if known else scales, given)
        print("| " + " | ".join([circuit.task, f"{circuit.num_edges}", *cells]) + " |", flush=True)
    print(machine("seed 0"))


if __name__ == "__main__":
    main()
