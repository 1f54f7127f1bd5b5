"""Jobs as records: one definition of what stands where, so that a field added anywhere breaks nothing."""

import ctypes
import types
from typing import NamedTuple

import numba
import pytest
import torch

from sparse_circuits.kernels import attention, block, products, selection, topk
from sparse_circuits.kernels.jobs import FIRST, flat, length, positions
from sparse_circuits.nonzeros_csp import SparseMatrix


class Inner(NamedTuple):
    a: int
    b: int


class Outer(NamedTuple):
    first: int
    inner: Inner
    last: int


def test_positions_are_those_of_the_flat_words():
    record = Outer(10, Inner(20, 21), 30)
    words = [0, 0, *flat(record)]
    at = positions(Outer)
    assert (length(Outer), words[at.first], words[at.inner + positions(Inner, 0).b], words[at.last]) == (4, 10, 21, 30)
    assert at.first == FIRST


# Every record, with the name that its kernels read it by.
RECORDS = [
    (topk, "AbsTopKJob", "ABS_TOPK"), (topk, "MaskedJob", "MASKED"), (products, "Matrix", "M"), (products, "ProductJob", "PRODUCT"),
    (products, "ValueGradientJob", "VALUE_GRADIENT"), (products, "EmbeddingJob", "EMBEDDING"), (attention, "AttentionJob", "ATTENTION"),
    (attention, "AttentionGradientJob", "GRADIENT"), (attention, "AttentionOfOneJob", "OF_ONE"), (attention, "Strides", "S"),
    (block, "BlockPlan", "P"), (block, "BlockCall", "C"), (block, "Norm", "N"), (block, "Kept", "K"), (selection, "CollectJob", "COLLECT"),
    (selection, "ZeroUpToJob", "ZERO_UP_TO"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "record", "name"), RECORDS, ids=[record for _, record, _ in RECORDS])
def test_every_record_is_read_by_its_fields(module, record, name):
    at, kind = getattr(module, name), getattr(module, record)
    assert type(at) is kind
    assert at == positions(kind, at[0])


def compiled(kernel, **replaced):
    """A kernel as Numba compiles it, with other globals."""
    other = types.FunctionType(kernel.__code__, {**kernel.__globals__, **replaced}, kernel.__name__)
    options = {"nopython": True, "error_model": "numpy", "fastmath": {"contract"}}
    return numba.cfunc(numba.types.void(numba.types.CPointer(numba.types.int64)), **options)(other)


def wider(kind):
    """The record with a field more in its middle."""
    fields = list(kind.__annotations__.items()) if hasattr(kind, "__annotations__") else []
    import typing

    fields = list(typing.get_type_hints(kind).items())
    middle = len(fields) // 2
    return NamedTuple(kind.__name__, [*fields[:middle], ("spare", int), *fields[middle:]])


def run(function, chunks, record):
    words = [0, chunks, *flat(record)]
    job = (ctypes.c_int64 * len(words))(*words)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function.address)(ctypes.addressof(job))


def test_a_field_in_the_middle_of_abs_topk_breaks_nothing():
    Wider = wider(topk.AbsTopKJob)
    x = torch.randn(5, 40)
    out = torch.empty_like(x)
    given = topk.AbsTopKJob(x.data_ptr(), out.data_ptr(), 0, 0, 5, 40, 40, 7, 5)._asdict()
    run(compiled(topk.abs_topk_kernel, ABS_TOPK=positions(Wider)), 1, Wider(**given, spare=-12345))
    assert torch.equal(out, topk.abs_topk(x, 7))


def test_a_field_in_the_middle_of_a_product_breaks_nothing():
    Wider = wider(products.ProductJob)
    matrix = SparseMatrix.from_dense(torch.randn(9, 30) * (torch.rand(9, 30) < 0.3))
    x = torch.randn(3, 30)
    out = torch.empty(3, 9)
    place = products.Matrix(matrix.row_starts.data_ptr(), matrix.columns.data_ptr(), matrix.values.data_ptr(), 0)
    given = products.ProductJob(x.data_ptr(), out.data_ptr(), 3, 30, 9, place, 16, 0)._asdict()
    run(compiled(products.product_kernel, PRODUCT=positions(Wider)), 1, Wider(**given, spare=-12345))
    torch.testing.assert_close(out, x @ matrix.to_dense().detach().t())


def test_a_field_in_the_middle_of_a_selection_breaks_nothing():
    Wider = wider(selection.ZeroUpToJob)
    weight = torch.randn(1000)
    threshold = int(torch.tensor(0.5).view(torch.int32))
    expected = torch.where(weight.abs() > 0.5, weight, 0)
    given = selection.ZeroUpToJob(weight.data_ptr(), 1000, 1000, threshold)._asdict()
    run(compiled(selection.zero_up_to_kernel, ZERO_UP_TO=positions(Wider)), 1, Wider(**given, spare=-12345))
    assert torch.equal(weight, expected)
