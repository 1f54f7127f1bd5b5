"""Nonzeros listed by rows and by columns are those that PyTorch lists."""

import hypothesis.strategies as some
import pytest
import torch
from hypothesis import given, settings

from sparse_circuits.kernels.listing import counted, listed, turned
from sparse_circuits.nonzeros_csp import Support, csr_fault, nonzeros


@settings(deadline=None, max_examples=60)
@given(some.integers(1, 70), some.integers(1, 70), some.sampled_from([0.0, 0.02, 0.3, 1.0]), some.integers(0, 1000))
def test_lists_by_rows_and_by_columns(rows, width, density, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, width, generator=generator) * (torch.rand(rows, width, generator=generator) < density)
    weight[torch.rand(rows, width, generator=generator) < 0.05] = -0.0
    weight[torch.rand(rows, width, generator=generator) < 0.02] = float("nan")
    assert torch.equal(counted(weight)[1:], torch.count_nonzero(weight, dim=1).to(torch.int32))
    values, starts, columns = listed(weight, weight.numel())
    for found, wanted in zip((values, starts, columns), nonzeros(weight, weight != 0)):
        assert found.dtype == wanted.dtype
        assert torch.equal(found.nan_to_num(), wanted.nan_to_num())
    if len(values):
        assert listed(weight, len(values) - 1) is None
        of_columns, rows_of, order = turned(Support(starts, columns, width))
        assert not csr_fault(of_columns, rows_of, (width, rows))
        for found, wanted in zip((values[order], of_columns, rows_of), nonzeros(weight.t(), weight.t() != 0)):
            assert torch.equal(found.nan_to_num(), wanted.nan_to_num())


@pytest.mark.parametrize("threads", [1, 2])
def test_of_many_chunks(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        weight = torch.randn(700, 333, generator=torch.Generator().manual_seed(0))
        weight = weight * (weight.abs() > 1.5)
        transposed = weight.t()  # not contiguous
        for matrix in (weight, transposed):
            for found, wanted in zip(listed(matrix, matrix.numel()), nonzeros(matrix, matrix != 0)):
                assert torch.equal(found, wanted)
    finally:
        torch.set_num_threads(before)
