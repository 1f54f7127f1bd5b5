"""The circuit of a toy model, as pruning finds it."""

import pytest

from sparse_circuits.circuits import mean_activations, prune
from toy import CONFIG, ToyTokenizer, toy_blocks, toy_model, toy_task


@pytest.fixture(scope="module")
def circuit():
    model = toy_model()
    return prune(model, ToyTokenizer(), toy_task(), mean_activations(model, toy_blocks()), CONFIG)
