"""Parts, whole and specialised, and programs, against the circuit run through the model."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_circuits import model_with, random_circuit

from sparse_circuits.circuits.sites import norms
from sparse_circuits.programs.compile import compile_circuit, mean_scales
from sparse_circuits.programs.fold import folded
from sparse_circuits.programs.ranges import specialised
from sparse_circuits.programs.run import run
from sparse_circuits.programs.symbols import Symbols
from sparse_circuits.programs.text import load_program, program_text
from sparse_circuits.programs.tidy import tidied
from sparse_circuits.wiring_csp import NODE_LOCATIONS
from tiny import FEATURES, tiny_ids, tiny_model

TOPK = {"afrac": dict.fromkeys(NODE_LOCATIONS, 0.25)}
CASES = {
    "plain": {}, "sink": {"sink": True}, "topk": TOPK, "sink and topk": {"sink": True, **TOPK}, "relu": {"activation_type": "relu", **TOPK},
    "bigrams": {"enable_bigram_table": True, "sink": True}, "no bias": {"bias": False, **TOPK}, "tied": {"tie_word_embeddings": True},
    "three layers": {"n_layer": 3, "sink": True, **TOPK},
}  # fmt: skip
ANSWERS = [3, 5, 90]


def through_model(model, circuit, ids, scales):
    """Logits of the answers, by the one model in float64."""
    freeze = False
    if scales is not None:
        freeze = {
            norm: torch.full((1, 1, 1), scale, dtype=torch.float64) for norm, scale in list(zip(norms(model), scales))[1:]
        }
    with torch.no_grad(), circuit.running(model, freeze_norms=freeze):
        return model(ids, use_cache=False).logits[:, -1, ANSWERS]


@pytest.mark.parametrize("mode", ["own", "mean"])
@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("case", CASES)
def test_parts_and_programs_are_the_circuit(case, share, mode):
    model = model_with(**CASES[case])
    circuit = random_circuit(model, share=share, seed=len(case))
    scales = mean_scales(model, tiny_ids(8, 16, seed=3)) if mode == "mean" else None
    parts = compile_circuit(model, circuit, ANSWERS, scales)
    assert parts.norms == mode
    model = model.double()
    every = specialised(parts, torch.arange(97))
    program = load_program(program_text(every, circuit, str))
    few = torch.tensor([1, 5, 8, 40, 41, 42, 90])
    small = specialised(parts, few)
    for ids in (tiny_ids(40, 11, seed=7), tiny_ids(5, 1, seed=8), tiny_ids(5, 30, seed=9)):
        expected = through_model(model, circuit, ids, scales)
        assert (run(parts, ids) - expected).abs().max() < 1e-9
        assert (run(every, ids) - expected).abs().max() < 1e-9
        found = torch.tensor([list(program(row).values()) for row in ids.tolist()], dtype=torch.float64)
        assert (found - expected).abs().max() < 1e-6
        within = few[ids % len(few)]
        assert (run(small, within) - through_model(model, circuit, within, scales)).abs().max() < 1e-9


TOPK_WITHIN = {"afrac": dict.fromkeys(("attn_q", "attn_k", "attn_v", "mlp_neuron"), 0.25)}
STREAMED = {
    "gpt2": {**FEATURES["gpt2"], "n_layer": 3}, "layer norm": {"norm_type": "layer_norm", "sink": True, **TOPK_WITHIN},
    "no bias": {"norm_type": "layer_norm", "ln_bias": False, "bias": False}, "positions": {"position_embedding_type": "added", "enable_bigram_table": True, **TOPK},
    "concatenated": {**FEATURES["concatenated"], "n_layer": 3, "sink": True, **TOPK}, "concatenated, no topk": {**FEATURES["concatenated"], "sink": True},
    "positions and layer norm": {**FEATURES["gpt2"], "activation_type": "gelu", "sink": True, "n_layer": 3, **TOPK_WITHIN},
}  # fmt: skip


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("case", STREAMED)
def test_positions_and_layer_norm_are_told_too(case, share):
    model = tiny_model(**STREAMED[case])
    circuit = random_circuit(model, share=share, seed=len(case))
    scales = mean_scales(model, tiny_ids(8, 16, seed=3))
    prompts = [tiny_ids(40, 11, seed=7), tiny_ids(5, 1, seed=8), tiny_ids(5, 16, seed=9)]
    positions = model.config.position_embedding_type != "none"
    symbols = Symbols.of({(i, int(t)) for ids in prompts for row in ids for i, t in enumerate(row)}) if positions else None
    parts = compile_circuit(model, circuit, ANSWERS, scales, symbols)
    model = model.double()
    every = specialised(parts, torch.arange(parts.vocab))
    program = load_program(program_text(every, circuit, str))
    for ids in prompts:
        expected = through_model(model, circuit, ids, scales)
        assert (run(parts, ids) - expected).abs().max() < 1e-9
        assert (run(every, ids) - expected).abs().max() < 1e-9
        found = torch.tensor([list(program(row).values()) for row in ids.tolist()], dtype=torch.float64)
        assert (found - expected).abs().max() < 1e-6
        small = tidied(folded(tidied(every)))  # what simplification begins with
        assert (run(small, ids) - expected).abs().max() < 1e-8
    if positions:
        moved = run(parts, prompts[0][:1].expand(2, -1))
        # PyTorch's products do not promise the same bits for each row; our kernel does.
        assert (moved[0] - moved[1]).abs().max() < 1e-12
        with pytest.raises(ValueError, match="no such token at place 16"):
            run(parts, torch.cat([prompts[2], prompts[2][:, :1]], 1))


def test_removed_edges_and_held_nodes_matter_here():
    model = model_with(sink=True, **TOPK)
    circuit = random_circuit(model, seed=1)
    ids = tiny_ids(10, 11)
    model64 = model.double()
    with torch.no_grad():
        whole = model64(ids).logits[:, -1, ANSWERS]
        with circuit.running(model64, edges=False):
            nodes = model64(ids, use_cache=False).logits[:, -1, ANSWERS]
    found = through_model(model64, circuit, ids, None)
    assert (found - whole).abs().max() > 1e-2
    assert (found - nodes).abs().max() > 1e-3


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.05, 0.2, 0.4]), count=st.integers(1, 30))
def test_what_is_decided_for_an_alphabet_changes_nothing_on_it(seed, share, count):
    model = model_with(seed=seed % 3, sink=True, **TOPK)
    parts = compile_circuit(model, random_circuit(model, share=share, seed=seed), ANSWERS)
    alphabet = torch.randperm(97, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    ids = alphabet[tiny_ids(20, 9, vocab=count, seed=seed)]
    assert torch.equal(run(specialised(parts, alphabet), ids), run(parts, ids))


@pytest.mark.parametrize(
    ("features", "named"),
    [
        (FEATURES["added"], "positions, and no language"), (FEATURES["concatenated"], "positions, and no language"),
        ({"norm_type": "layer_norm"}, "LayerNorm with scales of its own"),
        ({"norm_type": "layer_norm", "afrac": {"mlp_in": 0.5}}, "LayerNorm with AbsTopK at mlp_in"),
        ({"residual_activation_type": "relu"}, "an activation on the residual stream"),
        ({"afrac": {"resid_post_attn": 0.5}}, "AbsTopK on the residual stream"),
        ({"afrac": {"resid_pre": 0.5}}, "AbsTopK on the residual stream"),
    ],
)  # fmt: skip
def test_what_no_program_can_have_is_named(features, named):
    model = tiny_model(**features)
    with pytest.raises(ValueError, match=named):
        compile_circuit(model, random_circuit(model), ANSWERS)


def test_a_circuit_of_another_model_or_without_edges_is_refused():
    model = model_with()
    circuit = random_circuit(model)
    with pytest.raises(ValueError, match="was found in"):
        compile_circuit(model_with(seed=1), circuit, ANSWERS)
    circuit.edges = None
    with pytest.raises(ValueError, match="has no edges of its own"):
        compile_circuit(model, circuit, ANSWERS)
