"""AbsTopK: its semantics by brute force, on every path."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_circuits.topk_csp import abs_topk, abs_topk_mask
from tiny import ALL_SITES, tiny_ids, tiny_model, without_kernels

INF, NAN = float("inf"), float("nan")
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, INF, -INF, NAN, 1e-45, -1e-45]) | st.floats(width=16)


def brute_force(row, k):
    """Indices kept of one row: NaN above infinity above the rest, ties to the lower index."""

    def rank(i):
        value = abs(row[i])
        return (value != value, value if value == value else 0.0)

    return sorted(range(len(row)), key=lambda i: (rank(i)[0], rank(i)[1], -i), reverse=True)[:k]


def check(rows, k, dtype):
    x = torch.tensor(rows, dtype=dtype)
    out = abs_topk(x, k)
    for row, kept in zip(x.tolist(), out.tolist(), strict=True):
        expected = [0.0] * len(row)
        for i in brute_force(row, k):
            expected[i] = row[i]
        assert [repr(v) for v in kept] == [repr(v) for v in expected]  # repr: NaN equals NaN, -0.0 is not 0.0


@settings(deadline=None, max_examples=150)
@given(st.data())
@pytest.mark.parametrize("numba", [False, True])
def test_brute_force(numba, data):
    width = data.draw(st.integers(1, 20))
    rows = data.draw(st.lists(st.lists(VALUES, min_size=width, max_size=width), min_size=1, max_size=4))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    with pytest.MonkeyPatch.context() as patch:
        if not numba:
            without_kernels(patch)
        check(rows, data.draw(st.integers(0, width)), dtype)


@pytest.mark.parametrize("numba", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [3, 9, 17, 40])
def test_of_many_nans_the_first_is_kept(width, dtype, numba, monkeypatch):
    """PyTorch widens a float16's NaN to one of two, by whether it is at the end of a row: they rank the same."""
    if not numba:
        without_kernels(monkeypatch)
    check([[0.0] * (width - 2) + [NAN, NAN]], 1, dtype)


@pytest.mark.parametrize("shape", [(1, 7), (3, 5, 96), (512, 300), (2, 2048), (0, 8), (1, 1, 1, 4), (700, 130)])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_paths_agree_in_values_and_gradients(shape, share, dtype):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    x[..., ::3] = x[..., ::3].round()  # ties, among them zeros
    k = int(share * shape[-1])
    results = []
    for disabled in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if disabled:
                without_kernels(patch)
            leaf = x.clone().requires_grad_()
            out = abs_topk(leaf, k)
            out.backward(torch.arange(x.numel(), dtype=torch.float32).view(shape).to(dtype) + 1)
            results.append((out.detach(), leaf.grad, abs_topk(x, k)))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_gradient_flows_through_what_was_kept_only(path):
    x = torch.tensor([[3.0, -5.0, 0.0, 0.0, 1.0]], requires_grad=True)
    abs_topk(x, 4).sum().backward()
    assert x.grad.tolist() == [[1.0, 1.0, 1.0, 0.0, 1.0]]  # of two zeros, the first is kept


def test_non_contiguous_input_and_second_derivatives(path):
    x = torch.randn(6, 9, 4).transpose(1, 2)
    out = abs_topk(x, 3)
    assert torch.equal(out, torch.where(abs_topk_mask(x.contiguous(), 3), x, 0))
    y = torch.randn(2, 9, requires_grad=True)
    (first,) = torch.autograd.grad((abs_topk(y, 3) ** 3).sum(), y, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), y)
    torch.testing.assert_close(second, 6 * abs_topk(y, 3).detach())


@pytest.mark.parametrize("k", [-1, 6])
def test_impossible_k_is_named(path, k):
    with pytest.raises(ValueError, match=f"cannot keep k={k} of 5 entries"):
        abs_topk(torch.zeros(2, 5), k)


def test_float64_leaves_ties_to_torch_topk():
    x = torch.randn(50, 40, dtype=torch.float64).round()
    index = x.abs().topk(11).indices
    assert torch.equal(abs_topk_mask(x, 11), torch.zeros_like(x, dtype=torch.bool).scatter_(1, index, True))


def test_a_model_is_the_same_on_both_paths():
    ids, results = tiny_ids(), []
    for disabled in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if disabled:
                without_kernels(patch)
            model = tiny_model(afrac=dict.fromkeys(ALL_SITES, 0.25), sink=True)
            loss = model(ids, labels=ids).loss
            loss.backward()
            results.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)  # attention sums in another order


def test_half_precision_selects_as_pytorch_does():
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.randn(30, 40).to(dtype)  # with ties
        assert torch.equal(abs_topk(x, 9), torch.where(abs_topk_mask(x, 9), x, 0))


_WITHOUT = """
import sys, torch
{prepare}
from sparse_circuits.kernels.run import available
from sparse_circuits.topk_csp import abs_topk, kernels
assert abs_topk(torch.tensor([1.0, -3.0, 2.0]), 1).tolist() == [0.0, -3.0, 0.0]
print(kernels() is None or not available())
"""


@pytest.mark.parametrize(("prepare", "environment"), [("sys.modules['numba'] = None; import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'numba' else f(n, *a)", {}), ("", {"CSP_KERNELS": "torch"})], ids=["not installed", "forced"])  # fmt: skip
def test_without_numba_pytorch_serves(prepare, environment):
    code = _WITHOUT.format(prepare=prepare)
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr
