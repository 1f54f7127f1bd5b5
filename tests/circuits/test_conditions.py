"""What closed nodes are held at: kinds, draws, and circuits that survive them."""

import dataclasses

import pytest
import torch

from sparse_circuits.circuits import PruneConfig, mean_activations, prune
from sparse_circuits.circuits.conditions import Conditions, drawn, worst_fills
from toy import CONFIG, NODES, ToyTokenizer, toy_blocks, toy_model, toy_task


@pytest.fixture(scope="module")
def means():
    return mean_activations(toy_model(), toy_blocks(), samples=64)


def test_draws_are_of_one_token_at_every_node(means):
    """A fill is a row of the samples, the same row at every site; per prompt it is the same at all positions."""
    for tokens in (1, 5):
        fills = drawn(means.samples, 4, tokens, torch.Generator().manual_seed(0))
        names = list(means.samples)
        whole = torch.cat([means.samples[name] for name in names], 1)
        rows = torch.cat([fills[name] for name in names], -1)
        assert rows.shape == (4, tokens, whole.shape[1])
        assert all(bool((whole == row).all(1).any()) for row in rows.flatten(0, 1))


def test_of_a_large_model_fewer_samples_are_kept(means, monkeypatch):
    nodes = sum(len(mean) for mean in means.values.values())
    for room, count in ((4 * nodes * 10, 10), (4 * nodes * 11 - 1, 10), (3, 1)):
        monkeypatch.setattr("sparse_circuits.circuits.means.MOST_SAMPLES", room)
        few = mean_activations(toy_model(), toy_blocks(), samples=64).samples
        assert {len(each) for each in few.values()} == {count}


def test_samples_are_activations_of_the_corpus(means):
    for name, samples in means.samples.items():
        assert samples.shape == (64, len(means.values[name]))
        assert bool((samples >= means.low[name] - 1e-6).all() and (samples <= means.high[name] + 1e-6).all())


@pytest.mark.parametrize(("ablation", "count", "kinds"), [("mean", 1, 1), ("zero", 1, 1), ("resample", 6, 2), ("mix", 7, 3)])
def test_decisions_are_taken_under_fixed_fills_and_training_draws_fresh_ones(means, ablation, count, kinds):
    conditions = Conditions(means, ablation, draws=3, seed=0, device="cpu")
    one, two = conditions.fixed(8, 5), conditions.fixed(8, 5)
    assert len(one) == count
    assert all(torch.equal(a[name], b[name]) for a, b in zip(one, two) for name in a)
    first, second = conditions.for_training(12, 5), conditions.for_training(12, 5)
    name = "1.attn.act_in"
    if kinds == 1:
        assert first is second
        assert bool((first[name] == (0 if ablation == "zero" else means.values[name])).all())
        return
    assert not torch.equal(first[name], second[name])
    constant = [bool((each == each[:1]).all()) for each in torch.cat(list(first.values()), -1)]
    assert constant == ([True, True, False, False] * 3 if kinds == 2 else [True, True, False, False, True, True] * 2)


def test_resampling_without_samples_is_refused(means):
    bare = dataclasses.replace(means, samples=None)
    with pytest.raises(ValueError, match=r"samples=2048"):
        prune(toy_model(), ToyTokenizer(), toy_task(), bare, dataclasses.replace(CONFIG, ablation="mix"))


@pytest.mark.parametrize("ablation", ["resample", "mix", "adversarial"])
@pytest.mark.parametrize("kind", ["plain", "distractor"])
def test_the_known_circuit_is_found_under_every_ablation(kind, ablation):
    model = toy_model(kind)
    config = dataclasses.replace(CONFIG, ablation=ablation, draws=2)
    means = mean_activations(model, toy_blocks(), samples=128)
    circuit = prune(model, ToyTokenizer(), toy_task(), means, config)
    assert {name: indices.tolist() for name, indices in circuit.nodes.items()} == NODES
    assert circuit.metrics["reached"]
    assert circuit.metrics["edges"] == circuit.metrics["edges_on_path"] == 9


def test_what_a_mean_hides_resampling_shows():
    """A circuit that leans on the silence of what is outside of it: under means it is enough, under other tokens' activations not."""
    model = toy_model("redundant")
    means = mean_activations(model, toy_blocks(), samples=512)
    sizes = {}
    for ablation in ("mean", "mix"):
        found = prune(
            model, ToyTokenizer(), toy_task(), means, dataclasses.replace(CONFIG, ablation=ablation, freeze_norms=False)
        )
        sizes[ablation] = found.metrics["edges"]
    assert sizes["mix"] > sizes["mean"]


def test_the_worst_fills_are_found_where_they_are_known(means):
    start = {"a": torch.zeros(3), "b": torch.zeros(2)}
    ranges = dataclasses.replace(
        means, low={"a": -torch.ones(3), "b": -torch.ones(2)}, high={"a": torch.ones(3), "b": torch.ones(2)}
    )
    fills, most = worst_fills(
        lambda f: (f["a"] * torch.tensor([1.0, -2, 3])).sum(), start, ranges, steps=30, restarts=2, seed=0
    )
    assert fills["a"].tolist() == [1, -1, 1]
    assert most == 6
    flat, least = worst_fills(lambda f: f["b"].sum() * 0 + 2.0, start, ranges, steps=3, restarts=1, seed=0)
    assert torch.equal(flat["b"], start["b"])
    assert least == 2


def test_the_distribution_as_objective_keeps_what_the_task_does_not_ask_for():
    """The circuit must say what the model says of every token, so it has at most target_kl, and the task's loss too."""
    model = toy_model("distractor")
    means = mean_activations(model, toy_blocks())
    config = dataclasses.replace(CONFIG, objective="distribution", target_kl=0.01)
    circuit = prune(model, ToyTokenizer(), toy_task(), means, config)
    assert circuit.metrics["reached"]
    assert circuit.metrics["circuit"]["loss"] <= 0.15
    pairs = toy_task().pairs(16, "test")
    from sparse_circuits.circuits.outcome import figures, last_logits

    with torch.no_grad():
        full = last_logits(model, pairs)
        with circuit.applied_to(model):
            assert float(figures(last_logits(model, pairs), pairs.answers, full)["kl"].mean()) < 0.03
    assert PruneConfig().objective == "task"
