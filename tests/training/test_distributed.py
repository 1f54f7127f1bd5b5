"""Two processes on CPU: DDP and FSDP2 end with the weights of one process; accumulation changes nothing."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from forked import run_forked
from tiny import tiny_model

SCRIPT = Path(__file__).with_name("_distributed.py")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model(n_layer=2, sink=True).save_pretrained(folder, sparse=False)
    return folder


def run(mode, source, out, dtype="float64"):
    """By the variables that torchrun sets; that `csp train` runs under torchrun and accelerate is tested in test_train.py."""
    ranks = 2 if mode.startswith(("ddp", "fsdp")) else 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if ranks == 2:
        environment |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def rank(i):
        own = {**environment, "RANK": str(i), "LOCAL_RANK": str(i)} if ranks == 2 else environment
        return run_forked([str(SCRIPT), mode, str(source), str(out), dtype], env=own, timeout=300)

    with ThreadPoolExecutor(ranks) as pool:
        for done in pool.map(rank, range(ranks)):
            assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(f"{out}-{i}.pt", weights_only=True) for i in range(ranks)]


@pytest.fixture(scope="module")
def one(source, tmp_path_factory):
    return run("one", source, tmp_path_factory.mktemp("one") / "run")[0]


@pytest.mark.parametrize("mode", ["ddp", "fsdp", "accumulated"])
def test_the_same_weights_as_in_one_process(mode, source, one, tmp_path):
    for found in run(mode, source, tmp_path / mode):
        assert set(found) == set(one)
        for name, expected in one.items():
            assert torch.equal(found[name] != 0, expected != 0), name
            assert (found[name] - expected).abs().max() <= 1e-9, name
    matrix = one["transformer.h.0.mlp.c_fc.weight"]
    assert int((matrix != 0).sum()) <= int(0.3 * matrix.numel())


def test_ranks_of_ddp_are_equal_bit_for_bit_in_float32(source, tmp_path):
    first, second = run("ddp", source, tmp_path / "ddp", "float32")
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_gradients_of_supersets_are_the_same_on_two_ranks(source, one, tmp_path):
    """Which entries have a gradient is chosen by what all ranks have."""
    wanted = run("one-parts", source, tmp_path / "one")[0]
    for found in run("ddp-parts", source, tmp_path / "ddp"):
        for name, expected in wanted.items():
            assert torch.equal(found[name] != 0, expected != 0), name
            assert (found[name] - expected).abs().max() <= 1e-9, name
    assert any(not torch.equal(wanted[name], one[name]) for name in one)


def test_in_shards_supersets_are_refused(source, tmp_path):
    with pytest.raises(AssertionError, match="backward_density does not work with weights in shards"):
        run("fsdp-parts", source, tmp_path / "fsdp")
