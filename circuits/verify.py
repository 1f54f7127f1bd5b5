"""`verify`: is this circuit to be believed? Measurements, controls that are pruned the same way, and levels of a verdict.

Low loss of a masked model is no evidence by itself: masks reach it on tasks that the model does not do (docs/method.md#what-goes-wrong). So a report
asks, on prompts that the circuit was not chosen on, for what it could fail: whether it produces the answer or only prefers it, whether it
agrees with the unpruned model, survives other ablations, whether the model needs it; and what the same search finds where there is nothing to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .circuit import Circuit
from .controls import SAMPLES, controls, redundancy, stability
from .examination import Examination
from .identity import circuit_sha256, refuse_other_model, refuse_other_task, tokenizer_sha256
from .means import mean_activations
from .report import Verification
from .scoring import capability
from .sites import evaluating, require_csp
from .tasks import Task


def verify(
    circuit: Circuit,
    model: Any,
    tokenizer: Any,
    task: Task,
    *,
    blocks: torch.Tensor | None = None,
    pairs: int = 64,
    controls: bool = True,
    seeds: int = 3,
    seed: int = 1,
    others: Sequence[Task] = (),
) -> Verification:
    """Measures a circuit and its controls on pairs that it was not found on.

    Args:
        task: that of the circuit (of its twin's circuit: the twin).
        blocks: token ids [n, tokens] of a corpus: for resampled and worst-case ablation, and the means of the model with shuffled weights. Without
            it these are left out, and the report says so.
        controls: prune the nonsense and constant twins and the model with shuffled weights the same way (three prunings), and the task itself with the
            circuit's queries, keys, values and neurons barred (up to three).
        seeds: how many prunings, this one among them, decide on stability, and how many draws of the prompts on membership; 1 leaves it out.
        seed: of prompts and draws.
        others: other tasks; for those that the model can do, what the loss of this circuit does to them.

    Raises:
        ValueError: if model, tokenizer or task are not the circuit's; if the circuit was found by resampling and no corpus is given for prunings.
    """
    refuse_other_model(circuit, require_csp(model))
    if seeds < 1 or pairs < 2:
        raise ValueError(f"seeds={seeds} and pairs={pairs} cannot work; give at least 1 and 2.")
    if tokenizer_sha256(tokenizer) != circuit.tokenizer:
        raise ValueError(f"The circuit for {circuit.task} was found with another tokenizer than this; use the model's own.")
    refuse_other_task(circuit, task)
    with evaluating(model):
        corpus = None if blocks is None else mean_activations(model, blocks, samples=SAMPLES)
        look = Examination(circuit, model, task, pairs, seed, corpus)
        if corpus is None and (controls or seeds > 1) and look.resampled:
            raise ValueError(
                f"The circuit for {circuit.task} was found by resampling, which prunings that judge it need a corpus for: give blocks, or controls=False "
                f"and seeds=1."
            )
        return _judged(look, tokenizer, blocks, controls, seeds, others)


def _judged(
    look: Examination, tokenizer: Any, blocks: torch.Tensor | None, with_controls: bool, seeds: int, others: Sequence[Task]
) -> Verification:
    pairs = len(look.sets["test"])
    found: dict[str, Any] = {
        "task": look.circuit.task, "circuit_sha256": circuit_sha256(look.circuit), "model": look.circuit.model, "size": look.size(), "target_loss": look.target,
        "scores": look.scores(), "agreement": look.agreement(), "necessity": look.necessity(), "ablations": look.ablations(),
        "interchange": look.interchange(), "faithfulness": look.faithfulness(), "left_out": list(look.left_out),
    }  # fmt: skip
    able = [task for task in others if task.name != look.task.name and capability(look.model, task, look.target, pairs).passes]
    if able:
        found["cross_tasks"] = look.cross_tasks(able, pairs)
    if with_controls:
        found["controls"] = controls(look, tokenizer, blocks, found["left_out"])
        found["redundancy"] = redundancy(look, tokenizer)
    else:
        found["left_out"].append("controls (nonsense twin, constant twin, shuffled weights) and redundancy: not asked for")
    if blocks is None:
        found["left_out"].append("resampled and worst-case ablation: no corpus given")
    if seeds > 1:
        found["stability"] = stability(look, tokenizer, seeds)
    else:
        found["left_out"].append("stability over seeds: not asked for")
    return Verification.judged(found)
