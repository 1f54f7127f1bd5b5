"""Products by oneDNN are PyTorch's, up to the order of float32 sums."""

import pytest
import torch

import sparse_circuits.kernels.dense as dense

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")


@needs_onednn
@pytest.mark.parametrize(("tokens", "rows", "width"), [(64, 48, 16), (33, 7, 50), (5, 1, 1)])
def test_products_and_weight_gradients(tokens, rows, width):
    torch.manual_seed(0)
    x, weight, dy, bias = torch.randn(tokens, width), torch.randn(rows, width), torch.randn(tokens, rows), torch.randn(rows)
    for found, wanted in (
        (dense.dense_product(x, weight), x.double() @ weight.double().t()),
        (dense.dense_product(x, weight, bias), x.double() @ weight.double().t() + bias.double()),
        (dense.dense_product(dy, weight.t()), dy.double() @ weight.double()),
        (dense.weight_gradient(dy, x), dy.double().t() @ x.double()),
    ):
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() < 1e-5 * max(1.0, float(wanted.abs().max()))


@needs_onednn
def test_where_it_is_chosen(monkeypatch, tmp_path):
    told = tmp_path / "cpuinfo"
    monkeypatch.setattr(dense, "Path", lambda _: told)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for text, wanted in (("vendor_id\t: AuthenticAMD\n", True), ("vendor_id\t: GenuineIntel\n", False)):
        told.write_text(text)
        assert dense._is_held_back.__wrapped__() is wanted
    told.unlink()
    assert dense._is_held_back.__wrapped__() is False
    told.write_text("vendor_id\t: AuthenticAMD\n")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert dense._is_held_back.__wrapped__() is False


@needs_onednn
def test_a_bias_in_steps_and_pytorchs_switch(monkeypatch):
    x, weight, bias = torch.randn(600, 48), torch.randn(64, 48), torch.arange(128.0)[::2]
    assert (dense.dense_product(x, weight, bias) - torch.nn.functional.linear(x, weight, bias)).abs().max() < 1e-4
    monkeypatch.setattr(dense, "_is_held_back", lambda: True)
    assert dense.onednn_pays()
    with torch.backends.mkldnn.flags(enabled=False):
        assert not dense.onednn_pays()
