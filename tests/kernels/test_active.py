"""Products over the nonzeros of what AbsTopK left are those of dense matrices, whatever the shapes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_circuits.kernels import dispatch
from sparse_circuits.kernels.active import LISTED, ROWS, active_product


def sparse(rows, columns, density, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator)
    return torch.where(torch.rand(rows, columns, generator=generator) < density, x, 0)


def equal(left, right, bias, transposed):
    found = active_product(left, right, bias, transposed)
    one = (left.t() if transposed else left).double()
    wanted = one @ right.double() + (0 if bias is None else bias.double())
    scale = one.abs() @ right.double().abs() + (0 if bias is None else bias.double().abs())
    assert found.shape == wanted.shape
    assert bool(((found - wanted).abs() <= 1e-6 * scale + 1e-30).all())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90), st.integers(1, 200), st.integers(1, 300), st.sampled_from([0.0, 0.05, 0.25, 1.0]), st.booleans(), st.booleans(),
    st.integers(0, 9),
)  # fmt: skip
def test_any_shape(rows, inner, columns, density, transposed, biased, seed):
    left = sparse(*((inner, rows) if transposed else (rows, inner)), density, seed)
    right, bias = torch.randn(inner, columns), torch.randn(columns) if biased else None
    equal(left, right, bias, transposed)


@pytest.mark.parametrize("transposed", [False, True])
def test_more_than_one_block_and_one_listing(transposed):
    inner = LISTED // ROWS // 2 + 33  # so that three blocks take two listings
    rows = 2 * ROWS + 17
    equal(sparse(*((inner, rows) if transposed else (rows, inner)), 0.02, 1), torch.randn(inner, 20), None, transposed)


def test_strides_and_threads_change_nothing():
    left, right = sparse(300, 130, 0.25, 0), torch.randn(70, 130).t()
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found += [active_product(left, right), active_product(left.t(), right, transposed=True)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], each) for each in found[1:])


def test_what_is_not_finite_stays_where_it_belongs():
    left, right = sparse(40, 50, 0.25, 0), torch.randn(50, 30)
    left[3, 7], left[4, 8] = float("nan"), float("inf")
    found = active_product(left, right)
    assert bool(found[3].isnan().all())
    assert bool(found[4].isinf().all())
    assert bool(found[[i for i in range(40) if i not in (3, 4)]].isfinite().all())


def test_only_where_it_pays(monkeypatch):
    monkeypatch.setattr(dispatch, "wide_vectors", lambda: True)
    few, many = sparse(600, 64, 0.25, 0), sparse(600, 64, 0.6, 0)
    right = torch.randn(600, 48)
    assert dispatch.mostly(few) == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(dispatch.active_product(few, right), few.t() @ right, rtol=1e-5, atol=1e-4)
    assert dispatch.active_product(many, right) is None
    assert dispatch.active_product(few.double(), right.double()) is None
    assert dispatch.active_product(few[:0], right[:0]) is None
    monkeypatch.setattr(dispatch, "wide_vectors", lambda: False)
    assert dispatch.active_product(few, right) is None
