"""Figures of what is said after a prompt, by hand and against chance."""

import math

import pytest
import torch

from sparse_circuits.circuits.outcome import correlation, figures, interval, last_logits, summary
from sparse_circuits.circuits.scoring import Score, score
from toy import toy_model, toy_task


def test_figures_by_hand():
    logits = torch.tensor([[3.0, 1.0, 0.0, 2.0], [0.0, 1.0, 1.0, -1.0]])
    answers = torch.tensor([[3, 1], [2, 1]])
    found = figures(logits, answers)
    p = logits.double().softmax(-1)
    assert found["loss"].tolist() == pytest.approx([math.log(1 + math.exp(-1)), math.log(2)])
    assert found["preference"].tolist() == [1, 0]  # a tie is no preference
    assert found["first_guess"].tolist() == [0, 0]  # of two equal ones the first is guessed
    assert found["rank"].tolist() == [2, 1]
    assert found["probability"].tolist() == pytest.approx([float(p[0, 3]), float(p[1, 2])])
    assert found["on_answers"].tolist() == pytest.approx([float(p[0, 3] + p[0, 1]), float(p[1, 2] + p[1, 1])])
    other = torch.tensor([[3.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]])
    compared = figures(other, answers, logits)
    q = other.double().softmax(-1)
    assert compared["kl"].tolist() == pytest.approx((p * (p / q).log()).sum(-1).tolist())
    assert compared["same_guess"].tolist() == [1, 0]
    assert compared["same_preference"].tolist() == [0, 0]


def test_a_model_that_prefers_need_not_produce():
    logits = torch.tensor([[2.0, 0.0, 5.0], [0.0, 2.0, 5.0]])
    found = Score.of_all(logits, torch.tensor([[0, 1], [1, 0]]))
    assert (found.preference, found.first_guess, found.rank) == (1.0, 0.0, 2.0)
    assert found.loss < 0.15


def test_intervals_draw_pairs_and_hold_the_truth():
    """Of 200 samples of 40 pairs whose true mean is known, about 95 % of the intervals hold it; prompts of a pair are alike."""
    generator, inside = torch.Generator().manual_seed(0), 0
    for i in range(200):
        pairs = torch.randn(40, generator=generator, dtype=torch.float64)
        low, high = interval(pairs.repeat_interleave(2), seed=i)
        inside += low <= 0 <= high
    assert 0.88 <= inside / 200 <= 0.99
    found = summary({"loss": torch.ones(8).double(), "rank": torch.tensor([1.0, 1, 1, 9, 1, 1, 1, 1]).double()})
    assert (found["loss"], found["rank"], found["count"]) == (1.0, 1.0, 8)
    assert found["intervals"]["loss"] == [1.0, 1.0]


def test_correlation_is_within_classes():
    """Two that only separate the answers correlate across them, and say nothing of each other within."""
    generator = torch.Generator().manual_seed(0)
    answers = torch.tensor([[0, 1], [1, 0]]).repeat(200, 1)
    side = torch.tensor([1.0, -1.0]).repeat(200)
    noise, other = torch.randn(400, generator=generator), torch.randn(400, generator=generator)
    apart = correlation(5 * side + noise, 5 * side + other, answers)
    assert abs(apart["value"]) < 0.15
    assert apart["interval"][0] < 0 < apart["interval"][1]
    together = correlation(5 * side + noise, side + 0.5 * noise, answers)
    assert together["value"] == pytest.approx(1.0)
    assert correlation(5 * side, noise, answers) == {"value": None, "interval": None}
    before = noise.clone()
    correlation(noise, noise, answers)
    assert torch.equal(noise, before)


def test_a_score_is_that_of_its_figures():
    model, pairs = toy_model(), toy_task().pairs(6, "test")
    found = score(model, pairs)
    with torch.no_grad():
        logits = last_logits(model, pairs, batch=4)
    assert torch.allclose(logits, model(pairs.input_ids).logits[:, -1], atol=1e-6)
    assert found.first_guess == 1.0
    assert found.probability == pytest.approx(
        float(logits.double().softmax(-1).gather(1, pairs.answers)[:, 0].mean()), abs=1e-6
    )
    with pytest.warns(FutureWarning, match="preference"):
        assert found.accuracy == found.preference
