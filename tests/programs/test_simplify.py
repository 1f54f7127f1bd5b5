"""Simplified programs: tidying and folding change nothing, what is lost is what is said, and the text is the parts."""

import pytest
import torch
from random_circuits import model_with, random_circuit

from sparse_circuits import CSPTokenizer
from sparse_circuits.circuits import load_task
from sparse_circuits.circuits.identity import tokenizer_sha256
from sparse_circuits.programs.certify import answer_tokens, certify
from sparse_circuits.programs.compile import compile_circuit
from sparse_circuits.programs.fold import folded
from sparse_circuits.programs.language import language
from sparse_circuits.programs.prove import prove
from sparse_circuits.programs.ranges import specialised
from sparse_circuits.programs.run import run
from sparse_circuits.programs.simplify import round_parts, sample_prompts, simplified
from sparse_circuits.programs.story import story_text
from sparse_circuits.programs.text import load_program
from sparse_circuits.programs.tidy import tidied
from sparse_circuits.programs.tokens import tokenised
from sparse_circuits.wiring_csp import NODE_LOCATIONS
from tiny import ROOT, tiny_ids

SHAPE = {"vocab_size": 2048, "d_model": 16, "d_mlp": 24, "n_head": 2, "sink": True, "enable_bigram_table": True}
TOPK = {"afrac": dict.fromkeys(NODE_LOCATIONS, 0.5)}


@pytest.fixture(scope="module")
def tokenizer():
    return CSPTokenizer.from_folder(ROOT)


def thin(model, share, seed=0):
    """Most weights zero, so that there is something to tidy."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "bigram" not in name:
                parameter.mul_((torch.rand(parameter.shape, generator=generator) < share).float())
    return model


@pytest.mark.parametrize("mode", ["own", "mean"])
@pytest.mark.parametrize("topk", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_tidying_and_folding_change_nothing(seed, topk, mode):
    model = thin(model_with(seed=seed, sink=True, enable_bigram_table=True, **(TOPK if topk else {})), 0.1, seed)
    parts = compile_circuit(
        model, random_circuit(model, share=0.3, seed=seed), [3, 5], [1.0, 1.5, 0.7, 1.2, 0.9] if mode == "mean" else None
    )
    ids = tiny_ids(30, 9, seed=seed)
    expected = run(parts, ids)
    for each in (tidied(parts), folded(parts), tidied(folded(tidied(parts))), specialised(tidied(parts), torch.arange(97))):
        assert (run(each, ids) - expected).abs().max() < 1e-9
    if mode == "mean" and not topk:
        assert len(tidied(parts).channels) <= len(parts.channels)


@pytest.mark.parametrize("mode", ["own", "mean"])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_simplified_program_is_its_parts_and_loses_what_it_says(layers, mode, tokenizer):
    model = thin(model_with(seed=layers, n_layer=layers, **SHAPE, **TOPK), 0.4)
    circuit = random_circuit(model, task="with_open", share=0.2, tokenizer=tokenizer_sha256(tokenizer))
    templates = [tokenised(each, tokenizer) for each in language(load_task("with_open", tokenizer), "test")]
    scales = [1.0] * (2 * layers + 1) if mode == "mean" else None
    parts = compile_circuit(model, circuit, answer_tokens(templates), scales)
    sample = sample_prompts(templates, parts)
    exact = sample.loss(parts)
    bound = 0.3
    small, steps = simplified(parts, sample, bound)
    assert steps[0].loss == pytest.approx(exact)
    assert sample.loss(small) == pytest.approx(steps[-1].loss)
    assert steps[-1].loss <= exact + bound
    assert sum(each.done for each in steps) > 3
    program = load_program(story_text(small, circuit, str))
    for ids, _ in sample.groups[:4]:
        found = torch.tensor([list(program(row).values()) for row in ids[:20].tolist()], dtype=torch.float64)
        assert (found - run(small, ids[:20])).abs().max() < 1e-6
    assert all(tally.count for tally in certify(small, templates))


def test_without_a_bound_nothing_is_lost(tokenizer):
    model = thin(model_with(**SHAPE, **TOPK), 0.4)
    circuit = random_circuit(model, task="with_open", share=0.2, tokenizer=tokenizer_sha256(tokenizer))
    found = prove(model, tokenizer, circuit, load_task("with_open", tokenizer), most=1_000, simplify=0.0).certificate
    assert found["simple"]["loss"] <= found["loss"] + 1e-9 or "not_told" in found["simple"]


def test_a_bound_that_the_sample_flatters_is_kept_on_all_prompts(tokenizer):
    model = thin(model_with(seed=3, **SHAPE, **TOPK), 0.4)
    circuit = random_circuit(model, task="with_open", share=0.2, tokenizer=tokenizer_sha256(tokenizer))
    found = prove(model, tokenizer, circuit, load_task("with_open", tokenizer), most=8_000, simplify=0.05)
    said = found.certificate["simple"]
    assert "not_told" in said or said["loss"] <= found.certificate["loss"] + 0.05
    assert found.simple == "" or len(found.simple.splitlines()) == said["lines"]


def test_numbers_are_rounded():
    model = model_with(sink=True)
    parts = round_parts(compile_circuit(model, random_circuit(model), [3, 5]), 2)
    told = {f"{x:.1e}" for x in parts.answers.weight.flatten().tolist()}
    assert all(
        abs(float(text) - x) < 1e-12
        for text, x in zip(sorted(told), sorted(set(parts.answers.weight.flatten().tolist()), key=lambda x: f"{x:.1e}"))
    )
