"""Languages of models with positions: certificates against running the circuit on every prompt, one by one; programs, checks, short programs."""

import json

import pytest
import torch
from random_circuits import random_circuit

from sparse_circuits import CSPTokenizer
from sparse_circuits.circuits import load_task
from sparse_circuits.circuits.identity import tokenizer_sha256
from sparse_circuits.programs.certificate import held_scales
from sparse_circuits.programs.certify import answer_tokens, certify
from sparse_circuits.programs.compile import compile_circuit, mean_scales
from sparse_circuits.programs.language import language
from sparse_circuits.programs.prove import CERTIFICATE, PROGRAM, check, prove
from sparse_circuits.programs.symbols import Symbols, alphabet, spots, starts, symbols_of
from sparse_circuits.programs.text import load_program
from sparse_circuits.programs.tokens import tokenised
from sparse_circuits.wiring_csp import NODE_LOCATIONS
from tiny import FEATURES, ROOT, tiny_ids, tiny_model

SIZE = {"vocab_size": 2048, "d_model": 16, "d_mlp": 24, "n_head": 2, "block_size": 32}
SHAPE = {**FEATURES["gpt2"], **SIZE}
BESIDE = {**FEATURES["concatenated"], **SIZE, "afrac": dict.fromkeys(NODE_LOCATIONS, 0.5)}


@pytest.fixture(scope="module")
def tokenizer():
    return CSPTokenizer.from_folder(ROOT)


@pytest.fixture(scope="module", params=[("with_open", SHAPE), ("with_as", BESIDE)], ids=["added", "beside the stream"])
def case(request, tokenizer):
    task, shape = request.param
    model = tiny_model(**shape)
    circuit = random_circuit(model, task=task, tokenizer=tokenizer_sha256(tokenizer), share=0.15, frozen=True)
    templates = [tokenised(each, tokenizer) for each in language(load_task(task, tokenizer), "test")]
    return model, circuit, templates, mean_scales(model, tiny_ids(8, 16, vocab=2048, seed=3))


def every_prompt(made):
    """(ids, right, wrong) of each prompt of a template."""
    for texts in made.template.assignments():
        chosen = [slot.texts.index(text) for slot, text in zip(made.template.slots, texts)]
        yield made.ids(chosen), made.right.at(chosen), made.wrong.at(chosen)


def test_symbols_are_what_stands_where(case):
    _, _, templates, _ = case
    there = {(place, token) for made in templates for ids, _, _ in every_prompt(made) for place, token in enumerate(ids)}
    found = {spot for made in templates for spot in spots(made)}
    assert there <= found
    symbols = symbols_of(templates)
    assert set(zip(symbols.places.tolist(), symbols.tokens.tolist())) == found
    for place, token in sorted(found)[::7]:
        assert symbols.row(token, place) == sorted(found).index((place, token))
    with pytest.raises(ValueError, match="no such token at place 0"):
        symbols.row(1999, 0)
    assert alphabet(templates, symbols).tolist() == list(range(len(found)))
    assert all(begun for made in templates for begun in starts(made))
    with pytest.raises(ValueError, match="no such token at place 5"):
        Symbols.of({(0, 3)}).row(3, 5)


def test_a_certificate_is_what_brute_force_finds(case):
    model, circuit, templates, scales = case
    parts = compile_circuit(model, circuit, answer_tokens(templates), scales, symbols_of(templates))
    tallies = certify(parts, templates)
    double, right, total, least = model.double(), 0, 0, float("inf")
    with torch.no_grad(), circuit.running(double, freeze_norms=held_scales(double, scales)):
        by_length: dict[int, list] = {}
        for made in templates:
            for row in every_prompt(made):
                by_length.setdefault(len(row[0]), []).append(row)
        for rows in by_length.values():
            logits = double(torch.tensor([row[0] for row in rows]), use_cache=False, logits_to_keep=1).logits[:, -1]
            margins = [float(each[r] - each[w]) for (_, r, w), each in zip(rows, logits)]
            right, total, least = right + sum(m > 0 for m in margins), total + len(margins), min([least, *margins])
    model.float()
    assert (sum(each.count for each in tallies), sum(each.right for each in tallies)) == (total, right)
    assert 0 < right < total
    assert min(each.smallest for each in tallies) == pytest.approx(least, abs=1e-6)


def test_a_proof_is_written_and_checked(case, tokenizer, tmp_path):
    model, circuit, _, _ = case
    task = load_task(circuit.task, tokenizer)
    blocks = tiny_ids(8, 16, vocab=2048, seed=3)
    proof = prove(model, tokenizer, circuit, task, blocks, split="test", lengths=True, simplify=0.05)
    proof.save(tmp_path)
    assert proof.certificate["norms"] == "mean"
    assert check(model, tokenizer, circuit, task, tmp_path) == []
    answer = load_program((tmp_path / PROGRAM).read_text())
    pairs = task.pairs(8, "test", fewer=True)
    held = held_scales(model, proof.certificate["scales"])
    with torch.no_grad(), circuit.running(model, freeze_norms=held):
        for ids, answers in zip(pairs.prompts(), pairs.answers.tolist()):
            logits = model(torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0, -1]
            found = answer(list(ids))
            assert all(found[each] == pytest.approx(float(logits[each]), abs=1e-4) for each in answers)
    if proof.simple:
        simple = load_program(proof.simple)
        assert set(simple(list(pairs.prompts()[0]))) == set(found)
    assert all("not_known" in row for row in proof.certificate["lengths"])
    forged = json.loads((tmp_path / CERTIFICATE).read_text())
    forged["right"] += 1
    (tmp_path / CERTIFICATE).write_text(json.dumps(forged))
    assert any("right is" in fault for fault in check(model, tokenizer, circuit, task, tmp_path))


def test_a_circuit_with_free_norms_under_layer_norm_is_refused(tokenizer):
    model = tiny_model(**SHAPE)
    circuit = random_circuit(model, task="with_as", tokenizer=tokenizer_sha256(tokenizer))
    with pytest.raises(ValueError, match="LayerNorm with scales of its own"):
        prove(model, tokenizer, circuit, load_task("with_as", tokenizer), split="test")


def test_prompts_longer_than_the_positions_are_refused(case):
    model, circuit, templates, scales = case
    longer = Symbols.of({(SHAPE["block_size"], 3)})
    with pytest.raises(ValueError, match="has prompts of 33 tokens, and the model positions for 32"):
        compile_circuit(model, circuit, answer_tokens(templates), scales, longer)
