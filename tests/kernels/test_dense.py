"""Products by oneDNN are PyTorch's, up to the order of float32 sums."""

import pytest
import torch

import sparse_circuits.kernels.dense as dense


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


def test_where_it_is_chosen(monkeypatch, tmp_path):
    told = tmp_path / "cpuinfo"
    monkeypatch.setattr(dense, "Path", lambda _: told)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for text, wanted in (("vendor_id\t: AuthenticAMD\n", True), ("vendor_id\t: GenuineIntel\n", False)):
        told.write_text(text)
        assert dense.onednn_pays.__wrapped__() is wanted
    told.unlink()
    assert dense.onednn_pays.__wrapped__() is False
    told.write_text("vendor_id\t: AuthenticAMD\n")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert dense.onednn_pays.__wrapped__() is False
