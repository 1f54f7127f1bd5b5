"""Products with matrices by their nonzeros, embeddings, and state dicts of them."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sparse_circuits.nonzeros_csp import SparseEmbedding, SparseMatrix, Support, sparse_product
from tiny import sparse_pair, tiny_ids, without_kernels


@settings(deadline=None, max_examples=60)
@given(st.data())
@pytest.mark.parametrize("kernels", [True, False])
def test_products_and_their_gradients(kernels, data):
    rows, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    tokens = data.draw(st.sampled_from([0, 1, 2, 15, 16, 17, 70, 130, 300]))
    density = data.draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    weight = torch.randn(rows, width, generator=generator) * (torch.rand(rows, width, generator=generator) < density)
    if rows > 2:
        weight[rows // 2] = 0
    matrix = SparseMatrix.from_dense(weight)
    assert torch.equal(matrix.to_dense(), weight)
    bias = torch.randn(rows, generator=generator).requires_grad_() if data.draw(st.booleans()) else None
    x = torch.randn(tokens, width, generator=generator).requires_grad_()
    upstream = torch.randn(tokens, rows, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        if not kernels:
            without_kernels(patch)
        out = sparse_product(x, matrix.values, matrix.support, bias)
        wanted = [x, matrix.values] + ([bias] if bias is not None else [])
        ours = [out, *torch.autograd.grad((out * upstream).sum(), wanted)]
    leaf = weight.double().requires_grad_()
    other = x.detach().double().requires_grad_()
    expected = F.linear(other, leaf, None if bias is None else bias.double())
    dx, dweight = torch.autograd.grad((expected * upstream).sum(), [other, leaf])
    support = matrix.support
    everything = [expected, dx, dweight[support.row_of.long(), support.columns.long()]]
    everything += [upstream.double().sum(0)] if bias is not None else []
    for one, two in zip(ours, everything, strict=True):
        torch.testing.assert_close(one.double(), two, atol=1e-4, rtol=1e-5)


def test_second_derivatives(path):
    matrix = SparseMatrix.from_dense(torch.randn(5, 7).relu()).double()
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, v: sparse_product(x, v, matrix.support) ** 2, (x, matrix.values))


def test_infinity_reaches_only_what_it_is_connected_to(path):
    matrix = SparseMatrix.from_dense(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    with torch.no_grad():
        out = sparse_product(torch.tensor([[torch.inf, 1.0]] * 20), matrix.values, matrix.support)
    assert out.tolist() == [[torch.inf, 1.0]] * 20


def test_a_wrong_width_is_named():
    matrix = SparseMatrix.from_dense(torch.eye(4))
    with pytest.raises(ValueError, match="width 3 do not fit a matrix of 4 x 4"):
        sparse_product(torch.zeros(2, 3), matrix.values, matrix.support)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings(path, dtype):
    weight = (torch.randn(30, 8) * (torch.rand(30, 8) < 0.3)).to(dtype)
    weight[4] = 0
    embedding = SparseEmbedding(SparseMatrix.from_dense(weight))
    ids = torch.tensor([[0, 4, 29, 4], [7, 7, 7, 1]])
    dense = weight.clone().requires_grad_()
    expected, out = F.embedding(ids, dense), embedding(ids)
    assert torch.equal(out, expected)
    upstream = torch.randn(2, 4, 8).to(dtype)
    out.backward(upstream)
    expected.backward(upstream)
    support = embedding.weight.support
    torch.testing.assert_close(embedding.weight.values.grad, dense.grad[support.row_of.long(), support.columns.long()])
    with torch.no_grad():
        assert torch.equal(embedding(ids), expected)
        assert embedding(ids[:, :0]).shape == (2, 0, 8)
    with pytest.raises(IndexError, match="0 to 29"):
        embedding(torch.tensor([30]))


def test_a_support_knows_its_transpose():
    weight = torch.randn(9, 6) * (torch.rand(9, 6) < 0.4)
    matrix = SparseMatrix.from_dense(weight)
    support, order = matrix.support.transposed
    assert isinstance(support, Support)
    turned = SparseMatrix(matrix.values.detach()[order], support.starts, support.columns, support.shape)
    assert torch.equal(turned.to_dense(), weight.t())


def test_a_state_dict_of_another_support_is_refused():
    dense, form = sparse_pair()
    form.load_state_dict(dense.state_dict())
    other, _ = sparse_pair(seed=5)
    with pytest.raises(ValueError, match="has nonzeros in the checkpoint where this model, in sparse form, has none"):
        form.load_state_dict(other.state_dict())


def test_another_support_of_equal_size_is_loaded_whole():
    first, second = (sparse_pair()[0] for _ in range(2))
    with torch.no_grad():
        for name, parameter in second.named_parameters():
            if parameter.dim() == 2:
                order = torch.randperm(parameter.numel(), generator=torch.Generator().manual_seed(len(name)))
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    first, second_form = first.to_sparse(max_density=1.0), copy.deepcopy(second).to_sparse(max_density=1.0)
    ids = tiny_ids(2, 20)
    first(ids, labels=ids).loss.backward()  # makes the transposed support
    first.load_state_dict(second_form.state_dict())
    embeds = second.transformer.wte(ids).detach()
    grads = []
    for model in (first, second_form):
        leaf = embeds.clone().requires_grad_()
        model(ids, inputs_embeds=leaf, labels=ids).loss.backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)
    for (name, parameter), other in zip(first.to_dense().named_parameters(), second.parameters(), strict=True):
        assert torch.equal(parameter, other), name


@pytest.mark.parametrize("part", ["columns", "row_starts"])
def test_damaged_indices_in_a_state_dict_are_refused(part):
    _, form = sparse_pair()
    state = form.state_dict()
    state[f"lm_head.weight.{part}"] = state[f"lm_head.weight.{part}"] + 10**9
    with pytest.raises(ValueError, match=r"lm_head.weight of the state dict is damaged"):
        form.load_state_dict(state)
