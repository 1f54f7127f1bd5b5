import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sparse_circuits import CSPForCausalLM, SparsityConfig, project_
from sparse_circuits.training import project_tensor_, sparse_tensors
from tiny import tiny_config, tiny_model
from twins import brute_force


@settings(deadline=None)
@given(st.data())
def test_projection_against_brute_force(data):
    rows, columns = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    values = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0]) | st.floats(-3, 3, width=16)  # many ties
    weight = torch.tensor(data.draw(st.lists(values, min_size=rows * columns, max_size=rows * columns)), dtype=dtype).view(
        rows, columns
    )
    neuron_dim = data.draw(st.sampled_from([None, 0, 1]))
    min_alive = data.draw(st.integers(0, weight.shape[1 - neuron_dim])) if neuron_dim is not None else 0
    least = min_alive * weight.shape[neuron_dim] if neuron_dim is not None else 0
    k = data.draw(st.integers(least, weight.numel()))
    projected = weight.clone()
    project_tensor_(projected, k, min_alive=min_alive, neuron_dim=neuron_dim)
    assert torch.equal(projected, brute_force(weight, k, min_alive, neuron_dim))
    again = projected.clone()
    project_tensor_(again, k, min_alive=min_alive, neuron_dim=neuron_dim)
    assert torch.equal(again, projected)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.2, 1.0), st.integers(0, 4))
def test_model_projection_leaves_exactly_k_and_the_minimum(seed, density, min_alive):
    model = tiny_model(seed, n_layer=1, enable_bigram_table=True, position_embedding_type="added", sink=True)
    assume(
        all(
            int(density * t.parameter.numel()) >= min_alive * max(t.parameter.shape)
            for t in sparse_tensors(model)
            if t.neuron_dim is not None
        )
    )
    before = {name: p.clone() for name, p in model.named_parameters()}
    counts = project_(model, density, min_alive=min_alive)
    for name, parameter in model.named_parameters():
        if name not in counts:
            assert torch.equal(parameter, before[name]), name
            continue
        kept = parameter != 0
        assert int(kept.sum()) == counts[name] == int(density * parameter.numel()), name
        assert torch.equal(parameter[kept], before[name][kept]), name
    block = model.transformer.h[0]
    for own in (block.attn.c_attn.weight, block.mlp.c_fc.weight, block.attn.c_proj.weight.t(), block.mlp.c_proj.weight.t()):
        assert int((own != 0).sum(1).min()) >= min_alive


def test_groups_and_exemptions():
    settings = {"enable_bigram_table": True, "sink": True, "position_embedding_type": "concatenated", "d_pos_emb": 6}
    groups = {t.name: (t.group, t.neuron_dim) for t in sparse_tensors(tiny_model(n_layer=1, **settings))}
    h = "transformer.h.0"
    assert groups == {
        "transformer.wte.weight": ("embeddings", None),
        f"{h}.attn.c_attn.weight": ("weights", 0),
        f"{h}.attn.c_attn.bias": ("biases", None),
        f"{h}.attn.c_proj.weight": ("weights", 1),
        f"{h}.attn.c_proj.bias": ("biases", None),
        f"{h}.mlp.c_fc.weight": ("weights", 0),
        f"{h}.mlp.c_fc.bias": ("biases", None),
        f"{h}.mlp.c_proj.weight": ("weights", 1),
        f"{h}.mlp.c_proj.bias": ("biases", None),
        "lm_head.weight": ("embeddings", None),
    }
    added = {t.name: t.group for t in sparse_tensors(tiny_model(position_embedding_type="added"))}
    assert added["transformer.wpe.weight"] == "weights"
    frozen = {t.name for t in sparse_tensors(tiny_model(position_embedding_type="added", sinusoidal_positions=True))}
    assert "transformer.wpe.weight" not in frozen


def test_densities_per_group():
    counts = project_(tiny_model(), 0.25, embedding_density=0.5, bias_density=1.0)
    assert counts["transformer.wte.weight"] == counts["lm_head.weight"] == 97 * 32 // 2
    assert counts["transformer.h.1.mlp.c_fc.bias"] == 64
    assert counts["transformer.h.0.mlp.c_fc.weight"] == 64 * 32 // 4


def test_impossible_densities_are_named():
    with pytest.raises(
        ValueError, match=r"c_attn\.weight keeps 307 weights at density 0\.1, too few for min_alive=4 .* at most 3 or raise"
    ):
        project_(tiny_model(), 0.1)
    with pytest.raises(ValueError, match="keeps none of the"):
        project_(tiny_model(), 1e-5, min_alive=0)
    with pytest.raises(ValueError, match="min_alive=33 exceeds"):
        project_(tiny_model(), 0.9, min_alive=33)
    for density in (0, 1.5, float("nan"), "half"):
        with pytest.raises(ValueError, match="must be a fraction above 0"):
            project_(tiny_model(), density)
    with pytest.raises(ValueError, match="is no CSP model: pass a rule"):
        project_(torch.nn.Linear(3, 3), 0.5)


def test_a_rule_of_ones_own():
    layer = torch.nn.Linear(8, 6)
    counts = project_(layer, 0.5, min_alive=2, rule=lambda name, p: ("weights", 0) if name == "weight" else None)
    assert counts == {"weight": 24}
    assert int((layer.weight != 0).sum(1).min()) >= 2


def test_zeroed_weights_keep_their_gradient():
    model = CSPForCausalLM(tiny_config())
    project_(model, 0.25)
    ids = torch.arange(20).view(1, 20)
    model(ids, labels=ids).loss.backward()
    weight = model.transformer.h[0].mlp.c_fc.weight
    assert weight.grad[weight == 0].abs().max() > 0


@pytest.mark.parametrize("anneal", ["linear", "power"])
def test_annealing_starts_dense_falls_and_ends_at_the_target(anneal):
    config = SparsityConfig(density=0.01, embedding_density=0.1, anneal_start=0.1, anneal_stop=0.5, anneal=anneal)
    run = [config.densities_at(step, 1000) for step in range(1000)]
    for group, target in config.targets().items():
        values = [densities[group] for densities in run]
        assert values[:101] == [1.0] * 101
        assert values[500:] == [target] * 500
        assert all(later < earlier for earlier, later in itertools.pairwise(values[100:501]))
    # In the middle, by hand: linear in the step, or linear in the logarithms.
    by_hand = (
        1 - 0.99 * 0.5 if anneal == "linear" else 0.01 ** (torch.log(torch.tensor(3.0)) / torch.log(torch.tensor(5.0))).item()
    )
    assert run[300]["weights"] == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("total", [2, 7, 100])
def test_the_last_step_always_has_the_target(total):
    assert SparsityConfig(density=0.01, anneal_stop=0.999).densities_at(total - 1, total)["weights"] == 0.01


def test_held_density_and_its_learning_rate():
    held = SparsityConfig(density=0.25, anneal_start=0.0, anneal_stop=0.0)
    assert held.densities_at(0, 100)["weights"] == 0.25
    assert held.lr_factor_at(0, 100) == 1.0
    annealed = SparsityConfig(density=0.25)
    assert annealed.lr_factor_at(0, 100) == 0.5
    assert annealed.lr_factor_at(99, 100) == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"anneal_start": 0.6}, "fractions of training"),
        ({"anneal_stop": 1.0}, "fractions of training below 1"),
        ({"anneal": "exponential"}, "'linear' or 'power'"),
        ({"anneal_exponent": 0}, "above 0"),
        ({"anneal": "power", "anneal_exponent": 3.0}, "linear schedule only"),
        ({"min_alive": -1}, "min_alive is -1"),
        ({"bias_density": 0}, "density of biases is 0"),
    ],
)
def test_impossible_schedules_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SparsityConfig(density=0.5, **settings)
