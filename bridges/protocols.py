"""How bridges are evaluated and how steering is tried: what is chosen on which prompts, against which controls. Plain data comes back."""

from __future__ import annotations

import random
from typing import Any

from ..circuits import Circuit, task_for
from ..circuits.identity import refuse_other_model
from ..corpora.mixture import mix
from .evaluate import constant_bridges, evaluate_bridges, ridge_bridges
from .pair import BridgedPair, require_match
from .sides import side_of
from .steering import Steering, best_nodes, read_nodes, steer

BLOCK = 128  # tokens
RIDGE_BLOCKS, REFERENCE_BLOCKS = (
    400,
    50,
)  # training blocks that ridge bridges are fitted to; that the scales of streams are taken over
OTHERS = 3  # nodes beside the chosen one: so many of the next best, and as many at random


def evaluate_pair(
    pair: BridgedPair, corpus: str = "idioms", *, blocks: int = 100, apart: Any = None
) -> dict[str, dict[str, Any]]:
    """What a pair's bridges carry, and what hybrids predict, on held-out files; beside it what costs nothing.

    Args:
        corpus: source of the text, of which held-out files are measured on (see `corpora.mixture.load_corpus`).
        blocks: blocks of 128 tokens.
        apart: a sparse model that was trained without the dense one: ridge bridges to it, fitted to training files, are a baseline.

    Returns:
        name -> report of `evaluate_bridges`: "bridges"; "zero"; "identity", where both are as wide; "ridge, trained apart".
    """
    mixture = mix({corpus: 1.0}, pair.tokenizer, min(BLOCK, pair.dense.longest, pair.sparse.longest), 0)
    held_out = mixture.held_out[:blocks]
    reports = {"bridges": evaluate_bridges(pair.dense, pair.sparse, pair.bridges, held_out)}
    for kind in ("zero", "identity") if pair.dense.width == pair.sparse.width else ("zero",):
        reports[kind] = evaluate_bridges(pair.dense, pair.sparse, constant_bridges(pair.dense, pair.sparse, kind), held_out)
    if apart is not None:
        other = side_of(apart)
        require_match(pair.dense, other)
        ridge = ridge_bridges(pair.dense, other, mixture.train[:RIDGE_BLOCKS])
        reports["ridge, trained apart"] = evaluate_bridges(pair.dense, other, ridge, held_out)
    return reports


def steer_task(
    pair: BridgedPair, task: str, node: str | None = None, *, circuit: Circuit | None = None, corpus: str = "idioms", pairs: int = 64,
    random_directions: int = 40, gains: bool = True, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Steers the dense model along one sparse node on a task's test prompts; the node is chosen on its training prompts.

    Controls: random directions of the same length, the next best nodes, and random ones among those that differ between prompts.

    Args:
        node: "site:index"; default: the best of the candidates. circuit: of the pair's sparse model, whose reads are the candidates; default: all
            reads. corpus: training text for the scales of the two streams. pairs: of prompts, for each of the two splits at most.

    Returns:
        what `steer` returns, with the task's name, and how the node was chosen.

    Raises:
        ValueError: if no candidate differs between prompts and their counterfactuals, or for what `steer` refuses.
    """
    everything = read_nodes(pair.sparse.model)
    candidates = everything if circuit is None else circuit_reads(circuit, pair.sparse.model)
    reference = mix({corpus: 1.0}, pair.tokenizer, BLOCK, seed).train[:REFERENCE_BLOCKS]
    wanted = task_for(pair.sparse.model, task, pair.tokenizer)
    known = Steering(pair, wanted.pairs(pairs, "train", seed=seed, fewer=True), reference, gains=gains)
    ranking = best_nodes(known, candidates)
    if node is None and not ranking:
        raise ValueError(
            f"No candidate differs between the prompts of {task} and their counterfactuals; there is nothing to steer along."
        )
    chosen = node or ranking[0]
    others = [name for name in ranking if name != chosen][:OTHERS]
    moving = [name for name in filter(known.moves, everything) if name not in (*others, chosen)]
    others += random.Random(seed).sample(moving, min(OTHERS, len(moving)))
    held_out = wanted.pairs(pairs, "test", seed=seed, fewer=True)
    report = steer(
        pair, held_out, chosen, reference, others=others, random_directions=random_directions, gains=gains, seed=seed
    )
    return report | {"task": wanted.name, "chosen": "given" if node else "best on training prompts"}


def circuit_reads(circuit: Circuit, sparse: Any) -> list[str]:
    """The nodes of a circuit of the sparse model that read the residual stream.

    Raises:
        ValueError: if there are none, or the circuit is of another model.
    """
    refuse_other_model(circuit, sparse)
    inside = {f"{site}:{int(i)}" for site, indices in circuit.nodes.items() for i in indices}
    found = [node for node in read_nodes(sparse) if node in inside]
    if not found:
        raise ValueError(f"The circuit for {circuit.task} reads the residual stream nowhere; leave it out.")
    return found
