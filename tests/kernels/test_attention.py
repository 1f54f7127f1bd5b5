"""The attention kernels against eager attention, values and gradients, and where they are used."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sparse_circuits.kernels.attention as kernel
from sparse_circuits.attention_csp import eager_attention_forward, sdpa_attention_forward
from sparse_circuits.kernels.attention import attention
from tiny import ALL_SITES, tiny_ids, tiny_model, without_kernels


class Module:
    """What the attention functions ask of the module that calls them."""

    training, is_causal = False, True


def reference(q, k, v, sink, scaling):
    """Eager attention in float64 with a causal mask that fits a longer past."""
    queries, keys = q.shape[2], k.shape[2]
    hidden = torch.ones(queries, keys, dtype=torch.bool).triu(keys - queries + 1)
    mask = torch.zeros(queries, keys, dtype=torch.float64).masked_fill(hidden, -torch.inf)
    wide = [x.double() for x in (q, k, v)]
    out, _ = eager_attention_forward(Module, *wide, mask[None, None], scaling, s_aux=None if sink is None else sink.double())
    return out


def random(shape, share, generator):
    x = torch.randn(shape, generator=generator)
    return x * (torch.rand(shape, generator=generator) < share)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 150),
    st.integers(1, 40),
    st.sampled_from([0.0, 0.25, 1.0]),
    st.booleans(),
)
def test_values_and_gradients(batch, heads, tokens, d_head, share, with_sink):
    generator = torch.Generator().manual_seed(tokens)
    # As the model has them: views of one tensor, heads between tokens.
    leaves = [random((batch, tokens, heads, d_head), share, generator).requires_grad_() for _ in range(3)]
    sink = torch.randn(heads, generator=generator).requires_grad_() if with_sink else None
    upstream = torch.randn(batch, tokens, heads, d_head, generator=generator)
    results = []
    for attend in (attention, reference):
        out = attend(*(x.transpose(1, 2) for x in leaves), sink, d_head**-0.5)
        wanted = [*leaves, sink] if with_sink else leaves
        results.append([out, *torch.autograd.grad((out * upstream).sum(), wanted)])
    for ours, expected in zip(*results, strict=True):
        assert (ours.double() - expected).abs().max() <= 2e-5 * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_summed_in_float32(dtype, monkeypatch):
    """bfloat16 under autocast takes the kernel too, and comes out no further from the truth than the rounding of what comes out."""
    used, real = [], kernel.attention
    monkeypatch.setattr(kernel, "attention", lambda *a: (used.append(1), real(*a))[1])
    generator = torch.Generator().manual_seed(0)
    leaves = [random((2, 2, 70, 16), 0.5, generator).to(dtype).requires_grad_() for _ in range(3)]
    sink, upstream = torch.randn(2, generator=generator), torch.randn(2, 70, 2, 16, generator=generator).to(dtype)
    out, _ = sdpa_attention_forward(Module, *leaves, None, scaling=0.25, s_aux=sink)
    assert used
    assert out.dtype == dtype
    expected = reference(*leaves, sink, 0.25)
    step = torch.finfo(dtype).eps
    assert ((out.double() - expected).abs() <= step * expected.abs() + 1e-5).all()
    for one, other in zip(
        torch.autograd.grad((out * upstream).sum(), leaves), torch.autograd.grad((expected * upstream.double()).sum(), leaves)
    ):
        assert one.dtype == dtype
        assert (one.double() - other.double()).abs().max() <= 2 * step * other.abs().max()


def test_keys_and_values_of_any_stride():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (random((2, 3, 70, 16), 0.3, generator) for _ in range(3))
    by_channel = k.transpose(2, 3).contiguous().transpose(2, 3)
    out = attention(q, by_channel, v.expand(2, 3, 70, 16), None, 0.25)
    torch.testing.assert_close(out.double(), reference(q, k, v, None, 0.25), atol=1e-5, rtol=0)


def test_large_logits_and_nan():
    q = torch.full((1, 1, 20, 4), 60.0)
    out = attention(q, q, q, torch.tensor([-80.0]), 1.0)
    torch.testing.assert_close(out, torch.full_like(out, 60.0))
    k = torch.randn(1, 1, 20, 4)
    k[0, 0, 10, 1] = torch.nan
    out = attention(k, k, k, None, 1.0)
    assert out[0, 10:].isnan().any(dim=-1).all()


@pytest.mark.parametrize("kept", [1.0, 0.25])
def test_the_model_uses_the_kernel_on_cpu(monkeypatch, kept):
    calls, run = [], kernel.run
    monkeypatch.setattr(kernel, "run", lambda function, *a: calls.append(function.__name__) or run(function, *a))
    model = tiny_model(afrac=dict.fromkeys(ALL_SITES, kept), sink=True)
    ids = tiny_ids(2, 20)
    loss = model(ids, labels=ids).loss
    loss.backward()
    assert (calls.count("attention_kernel"), calls.count("attention_gradient_kernel")) == (2, 2)
    gradient = model.transformer.h[0].attn.sink_bias.grad.clone()
    model.zero_grad()
    model.set_attn_implementation("eager")
    eager = model(ids, labels=ids).loss
    eager.backward()
    torch.testing.assert_close(loss, eager)
    torch.testing.assert_close(gradient, model.transformer.h[0].attn.sink_bias.grad, atol=1e-6, rtol=1e-4)


def test_where_the_kernel_is_not_used(monkeypatch):
    monkeypatch.setattr(kernel, "run", lambda *a: pytest.fail("the kernel ran"))
    q = torch.randn(1, 2, 20, 16)
    common = {"scaling": 0.25, "s_aux": torch.zeros(2)}
    sdpa_attention_forward(Module, q, q, q, torch.ones(1, 1, 20, 20, dtype=torch.bool), **common)
    sdpa_attention_forward(Module, q, q, q, None, dropout=0.5, **common)
    sdpa_attention_forward(Module, q.double(), q.double(), q.double(), None, **common)
    sdpa_attention_forward(Module, q[:, :, :4], q[:, :, :4], q[:, :, :4], None, **common)  # too few queries to gain
    sdpa_attention_forward(Module, q, q, q, None, is_causal=False, **common)
    wide = torch.randn(1, 2, 20, 64)
    sdpa_attention_forward(Module, wide, wide, wide, None, **common)
    without_kernels(monkeypatch)
    sdpa_attention_forward(Module, q, q, q, None, **common)
