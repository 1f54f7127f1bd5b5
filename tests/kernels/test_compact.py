"""What AbsTopK left, kept small for the gradient: the kernels against PyTorch, and that nothing stands for what it is not."""

import gc
import os
import platform
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import sparse_circuits.kernels.compact as compact
from sparse_circuits.kernels.compact import Kept, compact_topk, compacts, packed, unpacked
from sparse_circuits.kernels.topk import abs_topk, with_bits


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 40),
    width=st.integers(2, 100),
    share=st.floats(0.01, 0.99),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 1000),
)
def test_bits_numbers_and_masks(rows, width, share, dtype, seed):
    """Of ties, zeros and NaN, too; other tensors by the same bits."""
    k, generator = min(width - 1, max(1, int(share * width))), torch.Generator().manual_seed(seed)
    x = torch.randint(-3, 4, (rows, width), generator=generator).to(dtype)
    x[0, 0] = torch.nan
    out, bits = with_bits(x, k)
    assert torch.equal(out.nan_to_num(9), abs_topk(x, k).nan_to_num(9))
    kept = Kept(bits, out.shape, k)
    ones = kept.mask(torch.ones_like(x))
    assert bool((ones.sum(-1) == k).all())
    assert torch.equal(torch.where(ones != 0, x, 0).nan_to_num(9), out.nan_to_num(9))
    y = torch.randn(rows, width, generator=generator).to(dtype)
    values = kept.compress(y)
    assert torch.equal(values, y[ones != 0].view(rows, k))
    assert torch.equal(kept.expand(values), y * ones)


def made(shape=(6, 40), k=10):
    x = torch.randn(shape, requires_grad=True)
    return x, compact_topk(x, k)


def test_views_of_a_sites_output_are_kept_by_its_numbers():
    _x, out = made((2, 3, 40))
    for view in (out, out.view(6, 40), out.view(2, 3, 5, 8).transpose(1, 2), out.reshape(-1)):
        saved, layout = packed(view.detach())
        assert saved.numel() == out.numel() // 4
        again = unpacked(saved, layout)
        assert torch.equal(again, view)
        assert again.stride() == view.stride()
    part = out.detach()[:, :2]  # not all of it
    assert packed(part)[1] is None
    assert packed(part)[0] is part


def test_what_was_changed_or_is_gone_stands_for_itself():
    x, out = made()
    plain = out.detach()
    assert packed(plain)[1] is not None
    plain.mul_(2)
    assert packed(plain)[1] is None
    for _ in range(20):  # memory is used again, and so may be what a storage is known by
        x, out = made()
        graph = out.grad_fn
        del out
        gc.collect()
        other = torch.randn(6, 40)
        assert packed(other)[1] is None
        del graph
    x, out = made()
    plain = out.detach()
    del x, out
    assert packed(plain)[1] is None  # no gradient can be asked for any more


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_through_gelu(approximate, dtype):
    before = torch.randn(50, 64).to(dtype).requires_grad_()
    dy = torch.randn(50, 64).to(dtype)
    (wanted,) = torch.autograd.grad(abs_topk(F.gelu(before, approximate=approximate), 16), before, dy)
    h = before * 1
    out = compact_topk(F.gelu(h, approximate=approximate), 16, fuses=True)
    assert out.grad_fn.saved_tensors[0].shape == (50, 16)  # of 64 that GELU would keep
    (found,) = torch.autograd.grad(out, before, dy)
    assert torch.allclose(found, wanted, atol=1e-6 if dtype == torch.float32 else 1e-2)
    assert torch.equal(found != 0, wanted != 0)


def test_what_gelu_gave_is_in_the_graph_unless_nobody_has_it():
    before = torch.randn(5, 20, requires_grad=True)
    middle = F.gelu(before)
    out = compact_topk(middle, 5)
    middle.retain_grad()  # later, too
    (found,) = torch.autograd.grad(out.sum() + middle.sum(), middle, retain_graph=True)
    assert int(found.sum()) == 25 + 100
    middle.register_hook(lambda gradient: gradient * 0)
    out.sum().backward()
    assert not before.grad.any()


def test_others_who_say_how_tensors_are_saved_are_left_to_it():
    x = torch.randn(6, 40, requires_grad=True)
    assert compacts(x)
    with torch.autograd.graph.save_on_cpu():
        assert not compacts(x)
    with torch.no_grad():
        assert not compacts(x)
    assert not compacts(x.detach())
    assert not compacts(x.double())


def test_second_derivatives_are_refused_in_a_sentence():
    x, out = made()
    with pytest.raises(RuntimeError, match="one derivative at a time"):
        torch.autograd.grad(out.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="one derivative at a time"):
        torch.autograd.grad(out, x, torch.ones(3, 6, 40), is_grads_batched=True)


def test_no_more_is_held_than_the_graph_holds():
    x, out = made()
    saved, layout = packed(out.detach())
    assert len(compact._SITES) >= 1
    del out, layout, x
    gc.collect()
    assert not [site for site in compact._SITES.values() if site.values() is saved]


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="a processor without it is named by x86's names"
)
def test_without_avx_512_the_numbers_are_the_same():
    """Compiled for a processor that has none of it, in a process of its own."""
    code = """
import torch
from sparse_circuits.kernels.jit import SQUEEZES
from sparse_circuits.kernels.compact import Kept
from sparse_circuits.kernels.topk import with_bits
assert not SQUEEZES
for dtype in (torch.float32, torch.bfloat16):
    x = torch.randn(20, 100).to(dtype)
    out, bits = with_bits(x, 30)
    kept = Kept(bits, out.shape, 30)
    assert torch.equal(kept.expand(kept.compress(x)), out) and torch.equal(kept.mask(x), out)
print("equal")
"""
    environment = {**os.environ, "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert found.stdout.strip() == "equal", found.stderr[-2000:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_of_a_tensors_columns_are_read_where_they_are(dtype):
    """q, k and v of one product, transposed ones, single rows and single columns: as their copies."""
    whole = torch.randn(3, 7, 120).to(dtype)
    parts = [
        *whole.chunk(3, dim=-1),
        whole[:, 2:5, 8:48],
        whole[1:2, :, :40],
        whole[:, 3:4, :40],
        whole[0, 0, :40],
        whole[:, :, ::3],
    ]
    parts += [whole.transpose(0, 1)[:, :, :40], whole[:1, :1, :40].expand(4, 5, 40), whole.transpose(1, 2)]
    for part in parts:
        k = max(1, part.shape[-1] // 4)
        wanted, bits = with_bits(part.contiguous(), k)
        found, own = with_bits(part, k)
        assert torch.equal(found, wanted)
        assert torch.equal(own, bits)
        assert torch.equal(abs_topk(part, k), wanted)
        assert found.is_contiguous()
