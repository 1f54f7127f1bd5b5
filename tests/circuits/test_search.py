"""The search over settings: resumable, keeps the best, refuses another task's study."""

import dataclasses

import pytest

from sparse_circuits.circuits import (
    Circuit,
    PruneConfig,
    mean_activations,
)
from sparse_circuits.circuits.search import STUDY, cost, search
from toy import CONFIG, ToyTokenizer, toy_blocks, toy_model, toy_task

optuna = pytest.importorskip("optuna")  # the extra `search`, part of the test environment


def test_the_best_is_kept_and_the_study_goes_on(tmp_path):
    model = toy_model("distractor")
    means = mean_activations(model, toy_blocks())
    config = PruneConfig(steps=60, pairs=8, eval_pairs=16)
    found = search(model, ToyTokenizer(), toy_task(), means, config, trials=2, out=tmp_path)
    assert found.num_edges == 9
    assert found.metrics["trial"] == 0  # the settings given come first; none can do better here
    search(model, ToyTokenizer(), toy_task(), means, config, trials=1, out=tmp_path)
    study = optuna.load_study(study_name="prune", storage=f"sqlite:///{tmp_path / STUDY}")
    assert len(study.trials) == 3
    assert study.best_value == 9
    assert study.trials[0].params["lr"] == config.lr
    assert Circuit.from_pretrained(tmp_path).num_edges == 9
    with pytest.raises(ValueError, match="search with another target"):
        search(model, ToyTokenizer(), toy_task(), means, dataclasses.replace(config, target_loss=0.3), trials=1, out=tmp_path)
    with pytest.raises(ValueError, match="at least 1"):
        search(model, ToyTokenizer(), toy_task(), means, config, trials=0, out=tmp_path)
    missed = dataclasses.replace(found, metrics={**found.metrics, "reached": False})
    assert cost(missed) > 1e8 > cost(found)


def test_a_search_of_another_model_is_refused(tmp_path):
    model, other = toy_model(), toy_model("redundant")
    config = dataclasses.replace(CONFIG, steps=30)
    search(model, ToyTokenizer(), toy_task(), mean_activations(model, toy_blocks()), config, trials=1, out=tmp_path)
    with pytest.raises(ValueError, match="search with another model"):
        search(other, ToyTokenizer(), toy_task(), mean_activations(other, toy_blocks()), config, trials=1, out=tmp_path)
    (tmp_path / "study.sqlite3").write_bytes(b"no database")
    with pytest.raises(ValueError, match="cannot be read"):
        search(model, ToyTokenizer(), toy_task(), mean_activations(model, toy_blocks()), config, trials=1, out=tmp_path)
