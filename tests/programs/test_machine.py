"""Circuits by kernels, prompt by prompt, against the same by PyTorch."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_circuits import model_with, random_circuit

from sparse_circuits import Circuit, CSPForCausalLM, CSPTokenizer
from sparse_circuits.circuits import make_task
from sparse_circuits.circuits.identity import tokenizer_sha256
from sparse_circuits.programs import certify as certifying
from sparse_circuits.programs.certify import answer_tokens, certify
from sparse_circuits.programs.compile import compile_circuit, mean_scales
from sparse_circuits.programs.language import language, narrowed
from sparse_circuits.programs.machine import Machine
from sparse_circuits.programs.parts import without_rivals
from sparse_circuits.programs.prove import CERTIFICATE, read_certificate
from sparse_circuits.programs.ranges import specialised
from sparse_circuits.programs.run import run
from sparse_circuits.programs.symbols import Symbols
from sparse_circuits.programs.tabulate import tabulated
from sparse_circuits.programs.tokens import tokenised
from sparse_circuits.wiring_csp import NODE_LOCATIONS
from tiny import ROOT, tiny_ids

pytest.importorskip("numba")
ANSWERS = [3, 5, 90]


def finished(parts, ids, lengths, cut):
    """Logits by kernels of prompts [n, tokens] of these lengths, in two parts of which the first has `cut` tokens of each at most."""
    machine = Machine(parts, ids.shape[1])
    on, first = machine.begin(len(ids)), (lengths - 1).clamp(max=cut)
    some = first > 0
    on = on.at(torch.arange(len(ids)))
    if bool(some.any()):
        begun = on.at(some.nonzero()[:, 0])
        machine.go(begun, ids[some], first[some])
        on.states[some], on.counts[some] = begun.states, begun.counts
    rest = torch.stack([row.roll(-int(start)) for row, start in zip(ids, first)])
    return machine.go(on, rest, lengths - first, last=True)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000), share=st.sampled_from([0.1, 0.3, 0.6]), sink=st.booleans(), mode=st.sampled_from(["own", "mean"]), kept=st.sampled_from([0.25, 0.5, 1.0]),
    activation=st.sampled_from(["gelu", "gelu_tanh", "relu"]), cut=st.integers(0, 6), known=st.booleans(),
)  # fmt: skip
def test_a_prompt_at_a_time_is_all_at_once(seed, share, sink, mode, kept, activation, cut, known):
    model = model_with(
        seed=seed % 3, n_layer=3, sink=sink, enable_bigram_table=True, activation_type=activation, afrac=dict.fromkeys(NODE_LOCATIONS, kept)
    )  # fmt: skip
    circuit = random_circuit(model, share=share, seed=seed)
    parts = compile_circuit(model, circuit, ANSWERS, mean_scales(model, tiny_ids(8, 16, seed=3)) if mode == "mean" else None)
    ids, lengths = tiny_ids(20, 7, seed=seed), torch.randint(1, 8, (20,), generator=torch.Generator().manual_seed(seed))
    expected = torch.cat([run(parts, row[None, :length]) for row, length in zip(ids, lengths.tolist())])
    small = parts
    if known:
        symbols = Symbols.of(
            {(place, token) for row, n in zip(ids.tolist(), lengths.tolist()) for place, token in enumerate(row[:n])}
        )
        small = tabulated(specialised(parts, ids.unique()), symbols)
        small = specialised(small, torch.arange(small.vocab))
    assert (finished(small, ids, lengths, cut) - expected).abs().max() < 1e-9


def test_what_a_prompt_comes_to_does_not_depend_on_where_it_stands():
    """To the bit: who passes AbsTopK by a hair must not change with the batch."""
    model = model_with(n_layer=3, afrac=dict.fromkeys(NODE_LOCATIONS, 0.25))
    parts = compile_circuit(model, random_circuit(model, share=0.6), ANSWERS)
    ids = tiny_ids(300, 7)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    lengths = torch.full((300,), 7)
    assert torch.equal(finished(parts, ids, lengths, 3)[order], finished(parts, ids[order], lengths, 5))


def test_what_cannot_be_run_is_refused():
    model = model_with(n_layer=2)
    parts = compile_circuit(model, random_circuit(model), ANSWERS)
    short = Machine(parts, 5)
    with pytest.raises(ValueError, match="made ready for prompts of 5 tokens"):
        short.go(short.begin(2), tiny_ids(2, 7), torch.tensor([7, 7]))
    small = tabulated(parts, Symbols.of({(place, token) for place in range(7) for token in (1, 2, 3)}))
    machine = Machine(small, 7)
    for stranger in (4, 96, 1_000_000, -1):
        with pytest.raises(ValueError, match="no such token at its place"):
            machine.go(machine.begin(1), torch.tensor([[1, stranger]]), torch.tensor([2]))


def words(values, form):
    """Prompts that begin with a word of one to three tokens and end with another: places are not the same in all."""
    first, second = values.names(2)
    return [(f"{first} = 1\nif {first} or {second}", ":\n"), (f"{second} = 1\nif {first} or {second}", ")\n")]


@pytest.fixture(scope="module")
def tokenizer():
    return CSPTokenizer.from_folder(ROOT)


def same(one, other):
    assert (one.count, one.run, one.right, one.by_text) == (other.count, other.run, other.right, other.by_text)
    assert one.loss == pytest.approx(other.loss, abs=1e-9)
    assert [margin for margin, _ in one.worst] == pytest.approx([margin for margin, _ in other.worst], abs=1e-9)


def test_maps_without_rivals_drop_what_is_small():
    """What simplified programs have in place of AbsTopK."""
    model = model_with(n_layer=2, afrac=dict.fromkeys(NODE_LOCATIONS, 0.5))
    parts = compile_circuit(model, random_circuit(model, share=0.6), ANSWERS)
    made = [
        dataclasses.replace(each, write=dataclasses.replace(without_rivals(each.write), least=0.05)) for each in parts.sublayers
    ]
    parts, ids = dataclasses.replace(parts, sublayers=tuple(made)), tiny_ids(20, 7)
    assert (finished(parts, ids, torch.full((20,), 7), 3) - run(parts, ids)).abs().max() < 1e-9


def test_the_tree_by_kernels_is_the_tree_by_pytorch(tokenizer, monkeypatch):
    model = model_with(
        vocab_size=2048, d_model=16, d_mlp=24, n_layer=3, n_head=2, sink=True, enable_bigram_table=True, afrac=dict.fromkeys(NODE_LOCATIONS, 0.5)
    )  # fmt: skip
    circuit = random_circuit(model, task="words", tokenizer=tokenizer_sha256(tokenizer), seed=5)
    templates = [tokenised(each, tokenizer) for each in language(make_task("words", words, tokenizer), "test")]
    parts = compile_circuit(model, circuit, answer_tokens(templates))
    found = certify(parts, templates)
    monkeypatch.setattr(certifying, "prompt_kernel", lambda: None)
    for one, other in zip(found, certify(parts, templates), strict=True):
        same(one, other)


@pytest.mark.parametrize("task", ["bracket_brace", "single_double_quote"])
def test_a_circuit_that_ships_by_kernels(task, tokenizer, monkeypatch):
    """One whose attention asks and competes in two layers, and one that is summed."""
    model, circuit = CSPForCausalLM.from_pretrained(ROOT).eval(), Circuit.from_pretrained(ROOT / "circuits" / task)
    templates = [tokenised(narrowed(each, 6), tokenizer) for each in language(circuit.find_task(tokenizer), "test")][:2]
    parts = compile_circuit(
        model, circuit, answer_tokens(templates), read_certificate(ROOT / "circuits" / task / CERTIFICATE)["scales"]
    )
    found = certify(parts, templates)
    monkeypatch.setattr(certifying, "prompt_kernel", lambda: None)
    for one, other in zip(found, certify(parts, templates), strict=True):
        same(one, other)
