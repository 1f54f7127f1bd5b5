"""Tables of what depends on a token and its place alone, and sums over tokens, against the parts that they are made from."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_circuits import model_with, random_circuit

from sparse_circuits import Circuit, CSPForCausalLM, CSPTokenizer
from sparse_circuits.circuits import make_task
from sparse_circuits.circuits.edges import edges_in
from sparse_circuits.circuits.identity import tokenizer_sha256
from sparse_circuits.programs import certify as certifying
from sparse_circuits.programs.certify import answer_tokens, certify
from sparse_circuits.programs.compile import compile_circuit, mean_scales
from sparse_circuits.programs.language import language
from sparse_circuits.programs.prove import CERTIFICATE, read_certificate
from sparse_circuits.programs.ranges import specialised
from sparse_circuits.programs.run import run
from sparse_circuits.programs.sums import TooFarApart, can_sum
from sparse_circuits.programs.symbols import Symbols
from sparse_circuits.programs.tabulate import tabulated
from sparse_circuits.programs.tokens import tokenised
from sparse_circuits.wiring_csp import NODE_LOCATIONS
from tiny import ROOT, tiny_ids

TOPK = {"afrac": dict.fromkeys(NODE_LOCATIONS, 0.25)}
ANSWERS = [3, 5, 90]


def taking_in(circuit, model, layers):
    """The circuit with keys and values in these layers alone: in the others a token takes in no other, and feels how many there are by its sinks."""
    nodes = {
        name: kept
        for name, kept in circuit.nodes.items()
        if not name.endswith(("attn.k", "attn.v")) or int(name.split(".")[0]) in layers
    }
    circuit.nodes, circuit.edges = nodes, edges_in(model, nodes)
    return circuit


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), share=st.sampled_from([0.1, 0.3, 0.6]), layers=st.sets(st.integers(0, 2)), sink=st.booleans(), mode=st.sampled_from(["own", "mean"]),
    count=st.integers(1, 30),
)  # fmt: skip
def test_tables_change_nothing_on_their_symbols(seed, share, layers, sink, mode, count):
    model = model_with(seed=seed % 3, n_layer=3, sink=sink, enable_bigram_table=True, **TOPK)
    circuit = taking_in(random_circuit(model, share=share, seed=seed), model, layers)
    parts = compile_circuit(model, circuit, ANSWERS, mean_scales(model, tiny_ids(8, 16, seed=3)) if mode == "mean" else None)
    few = torch.randperm(97, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    ids = few[tiny_ids(20, 7, vocab=count, seed=seed)]
    symbols = Symbols.of({(place, token) for row in ids.tolist() for place, token in enumerate(row)})
    tables = tabulated(specialised(parts, few), symbols)
    again = specialised(tables, torch.arange(tables.vocab))
    expected = run(parts, ids)
    for each in (tables, again):
        assert (run(each, ids) - expected).abs().max() < 1e-9


def words(values, form):
    """Prompts that begin with a word of one to three tokens and end with another: places are not the same in all."""
    first, second = values.names(2)
    return [(f"{first} = 1\nif {first} or {second}", ":\n"), (f"{second} = 1\nif {first} or {second}", ")\n")]


@pytest.fixture(scope="module")
def tokenizer():
    return CSPTokenizer.from_folder(ROOT)


@pytest.mark.parametrize("layers", [{0}, {1}])
def test_sums_are_what_the_tree_of_prompts_finds(layers, tokenizer, monkeypatch):
    model = model_with(
        vocab_size=2048,
        d_model=16,
        d_mlp=24,
        n_head=2,
        sink=True,
        enable_bigram_table=True,
        afrac=dict.fromkeys(NODE_LOCATIONS, 0.5),
    )
    circuit = taking_in(random_circuit(model, task="words", tokenizer=tokenizer_sha256(tokenizer), seed=5), model, layers)
    task = make_task("words", words, tokenizer)
    templates = [tokenised(each, tokenizer) for each in language(task, "test")]
    parts = compile_circuit(model, circuit, answer_tokens(templates))
    assert can_sum(certifying.told_parts(parts, templates)[0])
    sums = certify(parts, templates)
    monkeypatch.setattr(certifying, "can_sum", lambda parts: False)
    for one, other in zip(sums, certify(parts, templates), strict=True):
        assert (one.count, one.run, one.right, one.by_text) == (other.count, other.run, other.right, other.by_text)
        assert one.loss == pytest.approx(other.loss, abs=1e-9)
        assert [margin for margin, _ in one.worst] == pytest.approx([margin for margin, _ in other.worst], abs=1e-9)
    assert len({len(piece) for made in templates for texts in made.pieces for text in texts for piece in text}) > 1
    assert {unit for made in templates for unit in made.units[-1:] if isinstance(unit, int)} == set()


@pytest.mark.parametrize("task", ["single_double_quote", "if_equals", "while_return_true"])
def test_circuits_that_ship_are_summed(task, tokenizer):
    """Hundreds of times faster than token by token: not to be lost unnoticed."""
    model, circuit = CSPForCausalLM.from_pretrained(ROOT).eval(), Circuit.from_pretrained(ROOT / "circuits" / task)
    templates = [tokenised(each, tokenizer) for each in language(circuit.find_task(tokenizer), "test")][:2]
    parts = compile_circuit(
        model, circuit, answer_tokens(templates), read_certificate(ROOT / "circuits" / task / CERTIFICATE)["scales"]
    )
    assert can_sum(certifying.told_parts(parts, templates)[0])


def test_scores_that_are_too_far_apart_are_run_token_by_token(tokenizer, monkeypatch):
    model = model_with(vocab_size=2048, d_model=16, d_mlp=24, n_head=2, sink=True)
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_attn.weight.mul_(1000)
    circuit = taking_in(
        random_circuit(model, task="words", tokenizer=tokenizer_sha256(tokenizer), seed=5, share=0.9), model, {1}
    )
    templates = [tokenised(each, tokenizer) for each in language(make_task("words", words, tokenizer), "test")]
    parts = compile_circuit(model, circuit, answer_tokens(templates))
    monkeypatch.setattr(certifying, "TooFarApart", type("Watched", (TooFarApart,), {}))
    with pytest.raises(TooFarApart, match="apart, which cannot be added up"):
        certify(parts, templates)
    monkeypatch.undo()
    assert all(each.count for each in certify(parts, templates))
