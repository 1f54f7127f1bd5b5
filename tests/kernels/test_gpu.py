"""The Triton kernels: on a GPU where there is one, else in Triton's interpreter, where Triton is installed."""

import warnings

import pytest
import torch

from sparse_circuits.kernels import dispatch
from sparse_circuits.nonzeros_csp import SparseMatrix
from sparse_circuits.topk_csp import abs_topk_mask

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def gpu():
    pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch for GPUs")
    import sparse_circuits.kernels.gpu as module

    return module


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("shape", "k"), [((4, 7), 3), ((3, 300), 75), ((2, 5, 96), 24), ((1, 1000), 999)])
def test_abs_topk(gpu, dtype, shape, k):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[..., ::3] = x[..., ::3].round()  # ties, among them zeros
    x[..., 1], x[..., 2] = float("nan"), float("inf")
    expected = abs_topk_mask(x, k)
    out, kept = gpu.selected(x.to(DEVICE), k)
    assert torch.equal(kept.cpu(), expected)
    assert torch.equal(torch.nan_to_num(out.cpu()), torch.nan_to_num(torch.where(expected, x, 0)))


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1, 2, 64, 100])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5])
def test_products(gpu, tokens, density):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(40, 130, generator=generator) * (torch.rand(40, 130, generator=generator) < density)
    matrix, x = SparseMatrix.from_dense(weight).to(DEVICE), torch.randn(tokens, 130, generator=generator).to(DEVICE)
    with torch.no_grad():
        out = gpu.product(x, matrix.row_starts, matrix.columns, matrix.values)
    torch.testing.assert_close(out, x @ weight.t().to(DEVICE), atol=1e-4, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1, 3, 64, 1500])
def test_the_gradient_of_values(gpu, tokens):
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(20, 50, generator=generator) * (torch.rand(20, 50, generator=generator) < 0.1)
    matrix = SparseMatrix.from_dense(weight).to(DEVICE)
    dy, x = torch.randn(tokens, 20, generator=generator).to(DEVICE), torch.randn(tokens, 50, generator=generator).to(DEVICE)
    found = gpu.value_gradient(dy, x, matrix.support.row_of, matrix.columns)
    rows, columns = weight.to(DEVICE).nonzero(as_tuple=True)
    torch.testing.assert_close(found, (dy.t() @ x)[rows, columns], atol=1e-3, rtol=1e-4)


@pytest.mark.gpu
def test_rows_that_do_not_fill_a_program(gpu):
    """Several rows of a narrow site in one program, the last program with some missing; rows of ties beside rows without."""
    x = torch.randn(37, 50, generator=torch.Generator().manual_seed(3))
    x[5], x[9, ::2] = 1.0, 0.0
    expected = abs_topk_mask(x, 12)
    out, kept = gpu.selected(x.to(DEVICE), 12)
    assert torch.equal(kept.cpu(), expected)
    assert torch.equal(out.cpu(), torch.where(expected, x, 0))


@pytest.mark.gpu
def test_a_device_is_tried_before_it_is_used(gpu, monkeypatch):
    gpu.ready.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gpu.ready(DEVICE)
    gpu.ready.cache_clear()
    monkeypatch.setattr(gpu, "selected", lambda x, k: (x, torch.ones_like(x, dtype=torch.bool)))
    with pytest.warns(UserWarning, match="AbsTopK differs.*PyTorch serves instead"):
        assert not gpu.ready(DEVICE)
    gpu.ready.cache_clear()
    monkeypatch.setattr(gpu, "selected", lambda x, k: 1 / 0)
    with pytest.warns(UserWarning, match="ZeroDivisionError"):
        assert not gpu.ready(DEVICE)
    gpu.ready.cache_clear()


def test_no_gpu_kernels_without_a_gpu():
    assert dispatch.gpu(torch.zeros(3)) is None


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
def test_a_model_on_a_gpu_equals_itself_on_cpu():
    from tiny import ALL_SITES, sparse_pair, tiny_ids

    dense, form = sparse_pair(afrac=dict.fromkeys(ALL_SITES, 0.5), sink=True)
    expected, ids = dense(tiny_ids()).logits, tiny_ids().to(DEVICE)
    for model in (dense.to(DEVICE), form.to(DEVICE)):
        torch.testing.assert_close(model(ids).logits.cpu(), expected, atol=1e-4, rtol=1e-4)
        model(ids, labels=ids).loss.backward()
