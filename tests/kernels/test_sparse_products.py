"""Products by nonzeros: bfloat16 is the float32 product, rounded once; gradients of values are those of the dense product."""

import pytest
import torch

from sparse_circuits.kernels.products import product, value_gradient
from sparse_circuits.nonzeros_csp import Support, nonzeros, sparse_product


def sparse_matrix(rows, width, density=0.2):
    generator = torch.Generator().manual_seed(rows * width)
    weight = torch.randn(rows, width, generator=generator) * (torch.rand(rows, width, generator=generator) < density)
    values, starts, columns = nonzeros(weight, weight != 0)
    return weight, values, Support(starts, columns, width)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("rows", "width"), [(48, 32), (35, 50), (1, 17), (64, 3)])
@pytest.mark.parametrize("tokens", [16, 17, 64, 130, 300])
def test_bfloat16_is_the_rounded_product(tokens, rows, width, biased):
    _, values, support = sparse_matrix(rows, width)
    x = torch.randn(tokens, width, generator=torch.Generator().manual_seed(tokens)).bfloat16()
    x[3, 0], x[5, -1], x[7, 0] = float("inf"), float("nan"), -0.0
    bias = torch.linspace(-1, 1, rows) if biased else None
    found = product(x, values, support, bias)
    assert found.dtype == torch.bfloat16
    wanted = product(x.float(), values, support, bias).bfloat16()
    assert torch.equal(found.isnan(), wanted.isnan())
    assert torch.equal(found.nan_to_num(0), wanted.nan_to_num(0))
    assert torch.equal(sparse_product(x, values, support, bias).nan_to_num(0), wanted.nan_to_num(0))


@pytest.mark.parametrize("exponent", [-130, -3, 0, 100])
def test_rounding_is_pytorchs(exponent):
    """To nearest, ties to even; of numbers that vanish, too."""
    bits = torch.arange(0, 1 << 18, 3, dtype=torch.int32) << 7 | 64
    numbers = ((bits & 0x007FFFFF) | 0x3F800000).view(torch.float32) * 2.0**exponent
    values = numbers[: len(numbers) // 16 * 16].contiguous()
    support = Support(torch.arange(len(values) + 1, dtype=torch.int32), torch.zeros(len(values), dtype=torch.int32), 1)
    found = product(torch.ones(16, 1).bfloat16(), values, support, None)
    assert torch.equal(found, values.bfloat16().expand(16, -1))


@pytest.mark.parametrize("tokens", [1, 16, 63, 64, 65, 1100])
def test_gradients_of_values(tokens):
    weight, values, support = sparse_matrix(40, 33)
    x, dy = torch.randn(tokens, 33), torch.randn(tokens, 40)
    wanted = (dy.double().t() @ x.double())[weight != 0]
    found = value_gradient(dy, x, support)
    assert found.shape == values.shape
    assert (found - wanted).abs().max() < 1e-6 * tokens**0.5 * 10
