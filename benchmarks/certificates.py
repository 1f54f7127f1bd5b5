"""Every task that a model passes, as a circuit, a program and a certificate: does the program say what the circuit says, and how long does a proof take?

    python benchmarks/certificates.py runs/tiny --out runs/proofs --most 30000000

Circuits are found as `csp prune` finds them (`--set` for other settings) and kept in --out. "Difference": the largest, over --prompts prompts of random tokens of the
whole vocabulary, between program.py and the circuit run through the model in float64.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from side_by_side import machine

from sparse_circuits import Circuit, CSPForCausalLM, CSPTokenizer
from sparse_circuits.circuits import mean_activations, prune, task_for
from sparse_circuits.circuits.masks import PruneConfig
from sparse_circuits.circuits.scoring import capabilities
from sparse_circuits.cli.given import corpus_blocks, read_settings
from sparse_circuits.programs import mean_scales, prove
from sparse_circuits.programs.certificate import held_scales
from sparse_circuits.programs.parts import Attention
from sparse_circuits.programs.text import load_program

LENGTH = 20  # tokens of a random prompt


@torch.no_grad()
def difference(model, circuit: Circuit, program: str, scales, count: int) -> float:
    """Of a program's logits and the circuit's, on random prompts."""
    ids = torch.randint(0, model.config.vocab_size, (count, LENGTH), generator=torch.Generator().manual_seed(0))
    answer = load_program(program)
    answers = list(answer(ids[0].tolist()))
    double = CSPForCausalLM(model.config).double().eval()
    double.load_state_dict(model.state_dict())
    freeze = False if scales is None else held_scales(double, scales)
    worst = 0.0
    for part in ids.split(500):
        with circuit.running(double, freeze_norms=freeze):
            expected = double(part, use_cache=False, logits_to_keep=1).logits[:, -1, answers]
        found = torch.tensor([list(answer(row).values()) for row in part.tolist()], dtype=torch.float64)
        worst = max(worst, float((found - expected).abs().max()))
    return worst


def row_of(model, tokenizer, name: str, blocks, means, given: argparse.Namespace) -> str:
    task, folder = task_for(model, name, tokenizer), given.out / name
    if not (folder / "circuit.json").is_file():
        prune(model, tokenizer, task, means, PruneConfig(**read_settings(PruneConfig, given.set or [], "pruning")), out=folder)
    circuit = Circuit.from_pretrained(folder)
    begun = time.perf_counter()
    proof = prove(model, tokenizer, circuit, task, blocks, most=given.most, scales=mean_scales(model, blocks))
    took = time.perf_counter() - begun
    c = prove(
        model, tokenizer, circuit, task, most=min(given.most, 2_000_000), scales=proof.certificate["scales"], simplify=0.02
    )
    proof.save(folder)
    attention = sum(isinstance(each, Attention) for each in proof.parts.sublayers)
    simple, wrong, right = (
        c.certificate["simple"],
        proof.certificate["model_on"]["circuit_wrong"],
        proof.certificate["model_on"]["circuit_right"],
    )
    document, kept = proof.certificate, proof.certificate["restricted"]
    cells = [
        name, f"{circuit.num_edges}", f"{attention} + {len(proof.parts.sublayers) - attention}", f"{difference(model, circuit, proof.program, proof.certificate['scales'], given.prompts):.0e}",
        f"{document['prompts']:,}" + ("" if document["prompts"] == document["language"] else f" ({kept['values']} values, {kept['templates']} of {kept['of']})"),
        f"{document['right'] / document['prompts']:.3%}", f"{document['smallest_margin']:.2f}", f"{document['run'] / took:,.0f}", f"{took:.0f}",
        "-" if not wrong["drawn"] else f"{1 - wrong['model_right']:.0%} / {1 - right['model_right']:.0%}" if right["drawn"] else f"{1 - wrong['model_right']:.0%} / -",
        "not told" if "not_told" in simple else f"{simple['lines']} ({simple['exact_loss']:.3f} to {simple['loss']:.3f})",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--most", type=int, default=30_000_000)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--task", action="append")
    parser.add_argument("--set", action="append")
    given = parser.parse_args()
    tokenizer, model = CSPTokenizer.from_pretrained(given.model), CSPForCausalLM.from_pretrained(given.model).eval()
    blocks = corpus_blocks(given.model, None, tokenizer, 50_000)
    means = mean_activations(model, blocks)
    names = given.task or [each.task for each in capabilities(model, tokenizer) if each.passes]
    print(
        "| task | edges | attention + MLP | difference | prompts certified | right | smallest margin | prompts/s | seconds | model wrong where circuit is / is not | simplified: lines (loss) |"
    )
    print("|" + "---|" * 11)
    for name in names:
        try:
            print(row_of(model, tokenizer, name, blocks, means, given), flush=True)
        except ValueError as error:
            print(f"| {name} | {error} |", flush=True)
    print(machine(f"{given.prompts:,} random prompts", "seed 0"))


if __name__ == "__main__":
    main()
