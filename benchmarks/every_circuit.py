"""Every circuit of a model, as it ships: found, explained, verified, proved; into MODEL/circuits/<task>.

    python benchmarks/every_circuit.py MODEL --set ablation=mix --set draws=2
    python benchmarks/every_circuit.py MODEL --part 1/2 ...                   # half of the tasks, for a second process beside it
    python benchmarks/every_circuit.py MODEL --table                          # what is there, from the files alone

Goes on where it was stopped: what is there and belongs to the model is not done again. A task that the model cannot do, or for which no circuit
reaches the target, gets none, and is named with its reason.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from side_by_side import machine

from sparse_circuits import Circuit, CSPForCausalLM, CSPTokenizer
from sparse_circuits.circuits import PruneConfig, capabilities, mean_activations, prune, task_for, tasks, verify
from sparse_circuits.circuits.controls import SAMPLES
from sparse_circuits.circuits.hypotheses import explain_circuit, labels_of
from sparse_circuits.circuits.identity import refuse_other_model
from sparse_circuits.circuits.report import Verification
from sparse_circuits.cli.given import corpus_blocks, read_settings
from sparse_circuits.files import write_whole
from sparse_circuits.programs import prove
from sparse_circuits.programs.certificate import share
from sparse_circuits.programs.prove import CERTIFICATE, certified, read_certificate

MISSED = "missed.json"  # tasks without a circuit, and why


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--task", action="append", help="default: all that pass the gate")
    parser.add_argument("--part", default="0/1", help="I/N: every N-th of the tasks, from the I-th")
    parser.add_argument("--set", action="append", default=[], help="any field of PruneConfig")
    parser.add_argument("--controls", action="store_true", help="twins, shuffled weights, other circuits, too")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--most", type=int, default=2_000_000, help="prompts that are certified at most")
    parser.add_argument("--simplify", type=float, default=0.02)
    parser.add_argument("--table", action="store_true", help="print what is in MODEL/circuits, and do nothing")
    given = parser.parse_args()
    if given.table:
        print(table(given.model))
        return
    model, tokenizer = (
        CSPForCausalLM.from_pretrained(given.model, sparse=True).eval(),
        CSPTokenizer.from_pretrained(given.model),
    )
    blocks = corpus_blocks(str(given.model), None, tokenizer, 50_000)
    config = PruneConfig(**read_settings(PruneConfig, given.set, "pruning"))
    means = mean_activations(model, blocks, samples=SAMPLES)
    able = capabilities(model, tokenizer, given.task)
    part, parts = map(int, given.part.split("/"))
    for each in [each for each in able if each.passes][part::parts]:
        one(model, tokenizer, each.task, blocks, means, config, given)
    print(machine("seed 0"))
    for each in able:
        if not each.passes:
            print(f"{each.task}: {each.reason}")


def table(model: Path) -> str:
    """What the files of a model's circuits say, as markdown."""
    heads = ["task", "nodes", "edges (on a path)", "found under", "prefers", "first guess: model / circuit / nothing", "KL (nothing)",
             "resampled: prompt / position", "model without its edges / random ones", "levels", "prefers reworded / in a function / after code (the model)",
             "certified: right on", "short program: lines, right on"]  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for folder in sorted(path.parent for path in (model / "circuits").glob("*/circuit.json")):
        circuit = Circuit.from_pretrained(folder)
        report = Verification.of(folder, circuit)
        proof = read_certificate(folder / CERTIFICATE) if (folder / CERTIFICATE).is_file() else {}
        if report is None:
            continue
        found, simple = report.found, proof.get("simple", {})
        whole, own, nothing = (found["scores"]["test"][kind] for kind in ("model", "circuit", "nothing"))
        ablations, needed = found["ablations"], found["necessity"]
        cells = [
            folder.name, f"{circuit.num_nodes}", f"{circuit.num_edges} ({circuit.metrics['edges_on_path']})", str(circuit.settings["ablation"]), f"{own['preference']:.2f}",
            f"{whole['first_guess']:.2f} / {own['first_guess']:.2f} / {nothing['first_guess']:.2f}", f"{own['kl']:.2f} ({nothing['kl']:.2f})",
            f"{ablations['resample_prompt']:.2f} / {ablations['resample_position']:.2f}", f"{needed['without_edges']:.2f} / {needed['without_random_edges']:.2f}",
            report.headline, elsewhere(found["scores"]), certified(folder, circuit) or "-",
            "not told" if "not_told" in simple or not simple else f"{simple['lines']}, {share(simple['right'], simple['prompts'])}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def elsewhere(scores: dict[str, Any]) -> str:
    """Preference of a circuit, and of the model, where the task is put in other words."""
    kinds = [kind for kind in ("reworded", "in_function", "after_code") if kind in scores]
    own, whole = (" / ".join(f"{scores[kind][what]['preference']:.2f}" for kind in kinds) for what in ("circuit", "model"))
    return f"{own} ({whole})"


def one(model: Any, tokenizer: Any, name: str, blocks: Any, means: Any, config: PruneConfig, given: argparse.Namespace) -> None:
    folder, begun, took = given.model / "circuits" / name, time.perf_counter(), []
    task = task_for(model, name, tokenizer)

    def done(what: str) -> None:
        took.append(f"{what} {time.perf_counter() - begun:.0f} s")

    circuit = Circuit.from_pretrained(folder) if (folder / "circuit.json").is_file() else None
    if circuit is not None:
        refuse_other_model(circuit, model)
    else:
        circuit = prune(model, tokenizer, task, means, config)
        if not circuit.metrics["reached"]:
            known = json.loads((given.model / MISSED).read_text()) if (given.model / MISSED).is_file() else {}
            write_whole(given.model / MISSED, json.dumps(known | {name: circuit.metrics["worst_cost"]}, indent=1) + "\n")
            print(f"{name}: no circuit reaches the target; the best has {circuit.metrics['worst_cost']:.3f} nats", flush=True)
            return
        circuit.metrics.pop("history", None)  # of 400 steps; the curve of sizes stays
        circuit.save_pretrained(folder)
        done("found")
    if not circuit.labels:
        circuit.labels = labels_of(explain_circuit(model, tokenizer, circuit, blocks, task))
        circuit.save_pretrained(folder)
        done("explained")
    report = Verification.of(folder, circuit)
    if report is None:
        others = [task_for(model, other, tokenizer) for other in tasks() if other != name]
        report = verify(
            circuit, model, tokenizer, task, blocks=blocks, controls=given.controls, seeds=given.seeds, others=others
        )
        report.save(folder)
        done("verified")
    if not certified(folder, circuit):
        try:
            dense = model.to_dense() if model.is_sparse else model
            proof = prove(dense, tokenizer, circuit, task, blocks, most=given.most, simplify=given.simplify or None)
            proof.save(folder)
            done("proved")
        except ValueError as error:
            print(f"{name}: {error}", flush=True)
        model.to_sparse()
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e3
    print(
        f"{name}: {circuit.num_nodes} nodes, {circuit.num_edges} edges; {report.headline}; {certified(folder, circuit)}; {size:.0f} kB; {', '.join(took)}",
        flush=True,
    )


if __name__ == "__main__":
    main()
