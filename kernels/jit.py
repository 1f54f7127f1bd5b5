"""What the CPU kernels are written in: Numba, arrays by address, and the few vector instructions that its loops do not become.

Only where Numba is installed. Nothing here is needed for correct results: each kernel has a PyTorch path with the same result, up to
the order of float32 sums. What a kernel is, `jobs.py` says. Workers draw chunks until none is left; what a chunk is depends on the
sizes alone, so results do not depend on the number of threads.
"""

from __future__ import annotations

import struct
from typing import Any

from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .jobs import NEXT
from .run import LANES

FAR = 1 << 40  # length given to arrays whose bounds the caller has checked

# `contract` (fused multiply-add) is all the freedom that leaves NaN, infinity and exp right; plain sums may also be reordered.
compiled = njit(nogil=True, error_model="numpy", fastmath={"contract"})
summing = njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})


def _cast(name: str, source: Any, target: Any, operation: str) -> Any:
    def declare(typing, value):
        def generate(context, builder, signature, arguments):
            return getattr(builder, operation)(arguments[0], context.get_value_type(signature.return_type))

        return target(source), generate

    declare.__name__ = name
    return intrinsic(declare)


_f32_at = _cast("f32_at", types.int64, types.CPointer(types.float32), "inttoptr")
_f64_at = _cast("f64_at", types.int64, types.CPointer(types.float64), "inttoptr")
_i8_at = _cast("i8_at", types.int64, types.CPointer(types.int8), "inttoptr")
_i32_at = _cast("i32_at", types.int64, types.CPointer(types.int32), "inttoptr")
_i64_at = _cast("i64_at", types.int64, types.CPointer(types.int64), "inttoptr")
_u16_at = _cast("u16_at", types.int64, types.CPointer(types.uint16), "inttoptr")
_u8_at = _cast("u8_at", types.int64, types.CPointer(types.uint8), "inttoptr")
bits_of = _cast("bits_of", types.float32, types.int32, "bitcast")
float_of = _cast("float_of", types.int32, types.float32, "bitcast")


def float_bits(x: float) -> int:
    """The bits of a float32, in which form jobs carry it."""
    return int(struct.unpack("i", struct.pack("f", x))[0])


@intrinsic
def draw(typing, job):
    """The next chunk of a job, each one once."""

    def generate(context, builder, signature, arguments):
        word = builder.gep(arguments[0], [context.get_constant(types.int64, NEXT)])
        return builder.atomic_rmw("add", word, context.get_constant(types.int64, 1), "monotonic")

    return types.int64(types.CPointer(types.int64)), generate


@compiled
def words(job):
    """The words of a job."""
    return carray(job, (FAR,))


def _array_of(pointer: Any) -> Any:
    @compiled
    def array(address):
        return carray(pointer(address), (FAR,))

    return array


floats, ints, longs = _array_of(_f32_at), _array_of(_i32_at), _array_of(_i64_at)
halves, flags = _array_of(_u16_at), _array_of(_u8_at)
doubles, bytes_of = _array_of(_f64_at), _array_of(_i8_at)


# ------------------------------------------------------------------------------------------------------------- vectors


@intrinsic
def transpose_block(typing, source, source_stride, target, target_stride):
    """16 x 16 floats, by addresses and strides in floats: four rounds of interleaving row i with row i + 8."""

    def generate(context, builder, signature, arguments):
        vector, word = ir.VectorType(ir.FloatType(), LANES), ir.IntType(32)
        low = ir.Constant(ir.VectorType(word, LANES), [i // 2 + LANES * (i % 2) for i in range(LANES)])
        high = ir.Constant(ir.VectorType(word, LANES), [LANES // 2 + i // 2 + LANES * (i % 2) for i in range(LANES)])

        def place(base, stride, i):
            return _vector_at(context, builder, base, builder.mul(stride, context.get_constant(types.int64, i)))

        source, source_stride, target, target_stride = arguments
        rows = [builder.load(place(source, source_stride, i), align=4, typ=vector) for i in range(LANES)]
        for _ in range(4):
            pairs = [(rows[i], rows[i + LANES // 2]) for i in range(LANES // 2)]
            rows = [builder.shuffle_vector(*pair, order) for pair in pairs for order in (low, high)]
        for i, row in enumerate(rows):
            builder.store(row, place(target, target_stride, i), align=4)

    return types.void(types.int64, types.int64, types.int64, types.int64), generate


def _vector_at(context, builder, base, index):
    """Pointer to the floats at an address plus an index in floats."""
    address = builder.add(base, builder.mul(index, context.get_constant(types.int64, 4)))
    return builder.inttoptr(address, ir.VectorType(ir.FloatType(), LANES).as_pointer())


def _weighted_rows(groups):
    """out = start + the sum of values[n] * lanes[columns[n]] for n from first to last, over groups of LANES floats held in registers."""

    @intrinsic
    def weighted_rows(typing, values, columns, first, last, lanes, start, out):
        def generate(context, builder, signature, arguments):
            values, columns, first, last, lanes, start, out = arguments
            vector, word = ir.VectorType(ir.FloatType(), LANES), ir.IntType(32)

            def constant(value):
                return context.get_constant(types.int64, value)

            def spread(scalar):
                one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(word, 0))
                return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(word, LANES), [0] * LANES))

            totals = [cgutils.alloca_once_value(builder, spread(start)) for _ in range(groups)]
            with cgutils.for_range_slice(builder, first, last, constant(1)) as (n, _):
                offset = builder.mul(n, constant(4))
                weight = builder.load(
                    builder.inttoptr(builder.add(values, offset), ir.FloatType().as_pointer()), typ=ir.FloatType()
                )
                column = builder.load(builder.inttoptr(builder.add(columns, offset), word.as_pointer()), typ=word)
                row = builder.mul(builder.zext(column, ir.IntType(64)), constant(groups * LANES))
                weights = spread(weight)
                for g, total in enumerate(totals):
                    source = _vector_at(context, builder, lanes, builder.add(row, constant(g * LANES)))
                    product = builder.fmul(weights, builder.load(source, align=4, typ=vector), flags=("contract",))
                    builder.store(builder.fadd(product, builder.load(total, typ=vector), flags=("contract",)), total)
            for g, total in enumerate(totals):
                builder.store(builder.load(total, typ=vector), _vector_at(context, builder, out, constant(g * LANES)), align=4)

        signature = (types.int64, types.int64, types.int64, types.int64, types.int64, types.float32, types.int64)
        return types.void(*signature), generate

    return weighted_rows


@intrinsic
def add_weighted_sum(typing, weights, rows, count, stride, out):
    """out[0:LANES] += the sum of weights[i] * rows[i * stride : i * stride + LANES] for i below count; all by address."""

    def generate(context, builder, signature, arguments):
        weights, rows, count, stride, out = arguments
        vector, word = ir.VectorType(ir.FloatType(), LANES), ir.IntType(32)
        zero, one = context.get_constant(types.int64, 0), context.get_constant(types.int64, 1)
        place = _vector_at(context, builder, out, zero)
        # Four sums side by side: each addition would otherwise wait for the one before.
        totals = [cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * LANES)) for _ in range(4)]

        def add(i, total):
            address = builder.add(weights, builder.mul(i, context.get_constant(types.int64, 4)))
            weight = builder.load(builder.inttoptr(address, ir.FloatType().as_pointer()), typ=ir.FloatType())
            single = builder.insert_element(ir.Constant(vector, ir.Undefined), weight, ir.Constant(word, 0))
            spread = builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(word, LANES), [0] * LANES))
            row = builder.load(_vector_at(context, builder, rows, builder.mul(i, stride)), align=4, typ=vector)
            product = builder.fmul(spread, row, flags=("contract",))
            builder.store(builder.fadd(product, builder.load(total, typ=vector), flags=("contract",)), total)

        four = context.get_constant(types.int64, 4)
        whole = builder.sub(count, builder.srem(count, four))
        with cgutils.for_range_slice(builder, zero, whole, four) as (i, _):
            for u, total in enumerate(totals):
                add(builder.add(i, context.get_constant(types.int64, u)), total)
        with cgutils.for_range_slice(builder, whole, count, one) as (i, _):
            add(i, totals[0])
        first, second, third, fourth = (builder.load(total, typ=vector) for total in totals)
        summed = builder.fadd(builder.fadd(first, second), builder.fadd(third, fourth))
        builder.store(builder.fadd(summed, builder.load(place, align=4, typ=vector)), place, align=4)

    return types.void(types.int64, types.int64, types.int64, types.int64, types.int64), generate


weighted_rows_of_one, weighted_rows_of_four = _weighted_rows(1), _weighted_rows(4)
