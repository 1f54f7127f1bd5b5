"""The selection that does not sort, on every path, against the entry-by-entry one."""

import itertools
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import forked  # noqa: F401  (processes begin with the libraries imported)
import sparse_circuits.training.projection as projection
import sparse_circuits.training.selection as selection
from sparse_circuits.kernels.run import available
from sparse_circuits.topk_csp import largest_mask, magnitude_bits
from sparse_circuits.training import normalize_gradients_, project_tensor_, project_tensors_, sparse_tensors
from sparse_circuits.training.metrics import alive
from sparse_circuits.training.projection import nonzero_count
from tiny import tiny_ids, tiny_model
from twins import brute_force


def by_sorting(weight, k, minimum, neuron_dim):
    """`largest_mask`, by `torch.topk`, which other tests hold to the brute force."""
    keys = magnitude_bits(weight)
    if minimum:
        forced = largest_mask(keys if neuron_dim == 0 else keys.t(), minimum)
        keys = keys.masked_fill(forced if neuron_dim == 0 else forced.t(), torch.iinfo(keys.dtype).max)
    return torch.where(largest_mask(keys.view(1, -1), k).view(weight.shape), weight, 0)


KINDS = {
    "normal": lambda w: w,
    "ties": lambda w: (w * 4).round() / 4,
    "heavy tails": lambda w: w**5,
    "neurons of very different size": lambda w: w * torch.linspace(0, 1, len(w))[:, None] ** 3,
    "mostly zero": lambda w: w * (w > 1.5),
    "constant": lambda w: torch.ones_like(w),
}


@pytest.mark.parametrize("path", ["numba", "torch", "counting"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_path_selects_the_same(path, kind, monkeypatch):
    monkeypatch.setattr(selection, "SAMPLE", 1 << 10)
    taken = []
    if path == "torch":
        monkeypatch.setattr(selection, "serve", lambda *a: False)
    if path == "counting":
        monkeypatch.setattr(projection, "select_in_place", lambda *a: False)
    else:
        original = projection.select_in_place
        monkeypatch.setattr(projection, "select_in_place", lambda *a: taken.append(original(*a)) or taken[-1])
        assert available()
    for shape in ((300, 200), (64, 1000), (2000, 30), (2, 9000)):
        weight = KINDS[kind](torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        for density, neuron_dim, minimum in itertools.product((0.9, 0.5, 0.1, 0.02), (None, 0, 1), (0, 4)):
            k = int(density * weight.numel())
            if minimum and (neuron_dim is None or minimum * shape[neuron_dim] > k):
                continue
            found = weight.clone()
            project_tensor_(found, k, min_alive=minimum, neuron_dim=neuron_dim)
            assert torch.equal(found, by_sorting(weight, k, minimum, neuron_dim)), (shape, density, neuron_dim, minimum)
    if path != "counting" and kind == "normal":
        assert all(taken)  # the fast way, also where the minimum alone fills k


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_small_tensors_against_brute_force_by_sampling(data):
    rows, columns = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    values = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0]) | st.floats(-3, 3, width=16)
    size = rows * columns
    weight = torch.tensor(data.draw(st.lists(values, min_size=size, max_size=size))).view(rows, columns)
    neuron_dim = data.draw(st.sampled_from([None, 0, 1]))
    minimum = data.draw(st.integers(0, weight.shape[1 - neuron_dim])) if neuron_dim is not None else 0
    k = data.draw(st.integers(max(1, minimum * (weight.shape[neuron_dim or 0] if minimum else 0)), size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "SMALL", 1)
        found = weight.clone()
        project_tensor_(found, k, min_alive=minimum, neuron_dim=neuron_dim)
    assert torch.equal(found, brute_force(weight, k, minimum, neuron_dim))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype):
    weight = torch.randn(200, 150, generator=torch.Generator().manual_seed(1)).to(dtype)
    for neuron_dim, minimum in ((None, 0), (0, 3), (1, 3)):
        found = weight.clone()
        project_tensor_(found, 3000, min_alive=minimum, neuron_dim=neuron_dim)
        assert torch.equal(found, by_sorting(weight, 3000, minimum, neuron_dim))


# ---------------------------------------------------------------------------------------------------------------- shards


def _on_shards(rank, size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    mesh = init_device_mesh("cpu", (size,))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        whole, cut = (tiny_model(n_layer=1).to(dtype) for _ in range(2))
        with torch.no_grad():
            for parameter in itertools.chain(whole.parameters(), cut.parameters()):
                parameter.copy_((parameter * 8).round() / 8)  # many ties, across shards too
        for block in cut.transformer.h:
            fully_shard(block, mesh=mesh)
        fully_shard(cut, mesh=mesh)
        for density in (0.9, 0.5, 0.3):
            densities = dict.fromkeys(("weights", "embeddings", "biases"), density)
            for model in (whole, cut):
                project_tensors_(sparse_tensors(model), densities, 4)
            for (name, expected), found in zip(whole.named_parameters(), cut.parameters(), strict=True):
                assert torch.equal(found.full_tensor(), expected), (name, density, dtype)
        for one, two in zip(sparse_tensors(whole), sparse_tensors(cut), strict=True):
            assert nonzero_count(two.parameter) == int(one.parameter.count_nonzero())
        assert alive(sparse_tensors(cut)) == alive(sparse_tensors(whole))
        if dtype == torch.float64:
            ids = tiny_ids(2, 10)
            for model in (whole, cut):
                model(ids, labels=ids).loss.backward()
            torch.testing.assert_close(normalize_gradients_(cut.parameters()), normalize_gradients_(whole.parameters()))
            gradient = cut.transformer.h[0].mlp.c_fc.weight.grad.full_tensor()
            torch.testing.assert_close(gradient, whole.transformer.h[0].mlp.c_fc.weight.grad)
    (folder / f"done-{rank}").touch()
    dist.barrier()
    os._exit(0)  # gloo's threads may abort a process that ends in the ordinary way


@pytest.mark.parametrize("size", [2, 3])
def test_shards_are_projected_as_the_whole(size, tmp_path):
    mp.start_processes(_on_shards, (size, tmp_path), nprocs=size, start_method="forkserver")
    assert len(list(tmp_path.glob("done-*"))) == size
