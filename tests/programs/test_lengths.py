"""Bounds over any number of repetitions: exact where nothing is left open, never crossed where something is, and at the end what it should be."""

import math

import pytest
import torch
from random_circuits import model_with, random_circuit

from sparse_circuits.circuits.known import plant
from sparse_circuits.programs.compile import compile_circuit
from sparse_circuits.programs.language import Template
from sparse_circuits.programs.lengths import Repeated, by_length, margins, repetitions
from sparse_circuits.programs.machine import logits_of
from sparse_circuits.programs.tokens import Answer, TokenTemplate, tokenised
from sparse_circuits.wiring_csp import NODE_LOCATIONS


def alone(before, piece, after, right, wrong):
    """Of single tokens."""
    places = [tuple(((token,),) for token in part) for part in (before, piece, after)]
    made = TokenTemplate(Template("", "", "", ()), tuple(before + after), (), Answer(right), Answer(wrong))
    return Repeated(*places, made)


def margin(parts, ids, right, wrong):
    logits = logits_of(parts, torch.tensor([ids]))[0]
    at = parts.answers.tokens
    return float(logits[at.index(right)] - logits[at.index(wrong)])


def test_dilution_breaks_a_planted_circuit_at_the_length_that_is_found(tmp_path):
    known = plant("bracket_counting", tmp_path / "planted")
    pairs = known.task.pairs(8, "test")
    broken = []
    for ids, (right, wrong) in zip(pairs.prompts()[:2], pairs.answers[:2].tolist()):
        parts = compile_circuit(known.model, known.copies[0], [right, wrong])
        for filler in sorted(set(ids)):
            truth = [margin(parts, [*ids[:2], *[filler] * n, *ids[2:]], right, wrong) for n in range(120)]
            breaks = next((n for n, each in enumerate(truth) if each <= 0), None)
            broken += [(breaks, list(ids), right, wrong, filler, truth)] if breaks and breaks > 1 else []
    assert broken  # lists that are long enough look flat
    breaks, ids, right, wrong, filler, truth = max(broken, key=lambda each: each[0])
    parts = compile_circuit(known.model, known.copies[0], [right, wrong])
    at = 2
    repeated = alone(ids[:at], [filler], ids[at:], right, wrong)
    for n in range(0, 60, 7):
        low, high = margins(parts, repeated, n, n)
        assert low <= truth[n] <= high
    assert truth[0] > 0
    assert margins(parts, repeated, breaks - 1, breaks - 1)[0] > 0
    assert margins(parts, repeated, breaks, breaks)[1] < 0
    assert margins(parts, repeated, 4 * breaks, math.inf)[1] < 0  # and it never comes back


@pytest.mark.parametrize("mode", ["sink", "topk", "mean"])
@pytest.mark.parametrize("seed", range(4))
def test_no_prompt_is_outside_of_the_bounds(seed, mode):
    features = {"n_layer": 1, "sink": mode != "topk", "afrac": dict.fromkeys(NODE_LOCATIONS, 0.5) if mode != "sink" else {}}
    model = model_with(seed=seed, **features)
    circuit = random_circuit(model, seed=seed)
    scales = [1.0, 1.2, 0.8] if mode == "mean" else None
    parts = compile_circuit(model, circuit, [3, 5], scales)
    generator = torch.Generator().manual_seed(seed)

    def place(count):
        return tuple(
            sorted(
                {
                    tuple(
                        torch.randint(
                            0, 97, (int(torch.randint(1, 3, (1,), generator=generator)),), generator=generator
                        ).tolist()
                    )
                    for _ in range(count)
                }
            )
        )

    repeated = Repeated((place(3), place(1)), (place(4), place(2)), (place(2), place(3)), alone([1], [], [2], 3, 5).template)
    least, most = math.inf, -math.inf
    for low, high, below, above in by_length(parts, repeated, 3, 2):
        for _ in range(60):
            times = int(torch.randint(low, int(min(high, low + 40)) + 1, (1,), generator=generator))
            places = [*repeated.before, *repeated.piece * times, *repeated.after]
            ids = [t for each in places for t in each[int(torch.randint(0, len(each), (1,), generator=generator))]]
            found = margin(parts, ids, 3, 5)
            assert below <= found <= above
            least, most = min(least, found), max(most, found)
    assert most - least > 1e-3


def test_deeper_attention_is_refused():
    model = model_with(sink=True)
    parts = compile_circuit(model, random_circuit(model), [3, 5])
    with pytest.raises(ValueError, match="attends to what earlier attention wrote"):
        margins(parts, alone([1], [2], [4], 3, 5), 0)


def test_repetitions_are_found_in_languages():
    from sparse_circuits import CSPTokenizer
    from sparse_circuits.circuits import load_task
    from sparse_circuits.programs.language import language
    from tiny import ROOT

    tokenizer = CSPTokenizer.from_folder(ROOT)
    for name, there in (("bracket_brace", 4), ("with_as", 0), ("final_kwarg", 2)):
        found = repetitions([tokenised(each, tokenizer) for each in language(load_task(name, tokenizer))])
        assert len(found) == there, name
