"""RMSNorm by the kernel is PyTorch's, in float64's eyes; its gradients, too, and theirs."""

import pytest
import torch
from torch.nn import functional as F

from sparse_circuits.kernels.norm import rms_norm


@pytest.mark.parametrize("shape", [(1, 1), (3, 16), (70, 33), (2, 40, 96), (1, 1, 300)])
def test_values_and_gradients(shape):
    x, weight, dy = torch.randn(shape, requires_grad=True), torch.randn(shape[-1], requires_grad=True), torch.randn(shape)
    found = rms_norm(x, weight, 1e-5)
    gradients = torch.autograd.grad(found, (x, weight), dy)
    wide = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    wanted = F.rms_norm(wide[0], shape[-1:], wide[1], 1e-5)
    for one, other in zip((found, *gradients), (wanted, *torch.autograd.grad(wanted, wide, dy.double()))):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 2e-6 * max(1.0, float(other.abs().max()))


def test_what_is_not_finite_stays_in_its_row():
    x, weight = torch.randn(4, 20), torch.ones(20)
    x[1, 3], x[2, 5] = torch.nan, torch.inf
    found, wanted = rms_norm(x, weight, 1e-5), F.rms_norm(x, (20,), weight, 1e-5)
    assert torch.allclose(found, wanted, equal_nan=True, atol=1e-6)
    assert found[0].isfinite().all()


def test_layouts_and_views():
    x, weight = torch.randn(20, 30).t(), torch.randn(40)[::2]
    assert torch.allclose(rms_norm(x, weight, 1e-5), F.rms_norm(x, (20,), weight, 1e-5), atol=1e-6)
    y = torch.randn(30, 20, requires_grad=True)
    (found,) = torch.autograd.grad(rms_norm(y, weight, 1e-5).t(), y, x.detach().t())
    (wanted,) = torch.autograd.grad(F.rms_norm(y, (20,), weight, 1e-5).t(), y, x.detach().t())
    assert torch.allclose(found, wanted, atol=1e-5)


def test_many_gradients_at_once_and_second_derivatives():
    x, weight = torch.randn(5, 16, requires_grad=True), torch.randn(16, requires_grad=True)
    many = torch.randn(3, 5, 16)
    for norm in (rms_norm, lambda x, weight, epsilon: F.rms_norm(x, (16,), weight, epsilon)):
        out = norm(x, weight, 1e-5)
        batched = torch.autograd.grad(out, x, many, is_grads_batched=True, retain_graph=True)[0]
        (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        second = torch.autograd.grad(first.square().sum(), (x, weight))
        if norm is rms_norm:
            found = batched, first, *second
    for one, other in zip(found, (batched, first, *second)):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
