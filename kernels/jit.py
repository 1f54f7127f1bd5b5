"""What the CPU kernels are written in: Numba, arrays by address, and the few vector instructions that its loops do not become.

Only where Numba is installed. Nothing here is needed for correct results: each kernel has a PyTorch path with the same result, up to
the order of float32 sums. What a kernel is, `jobs.py` says. Workers draw chunks until none is left; what a chunk is depends on the
sizes alone, so results do not depend on the number of threads.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import carray, njit, types
from numba.core import cgutils, config
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


def _transpose(narrow: bool, narrowed: bool):
    """16 x 16 numbers, by addresses and strides in numbers: four rounds of interleaving row i with row i + 8. float32; narrow: bfloat16 is read, narrowed:
    bfloat16 is written, rounded to nearest, ties to even."""

    @intrinsic
    def transpose_block(typing, source, source_stride, target, target_stride):
        def generate(context, builder, signature, arguments):
            word = ir.IntType(32)
            low = ir.Constant(ir.VectorType(word, LANES), [i // 2 + LANES * (i % 2) for i in range(LANES)])
            high = ir.Constant(ir.VectorType(word, LANES), [LANES // 2 + i // 2 + LANES * (i % 2) for i in range(LANES)])

            def place(base, stride, i, half):
                index = builder.mul(stride, context.get_constant(types.int64, i))
                return _vector_at(context, builder, base, index, half)

            source, source_stride, target, target_stride = arguments
            rows = [_load(builder, place(source, source_stride, i, narrow), narrow) for i in range(LANES)]
            for _ in range(4):
                pairs = [(rows[i], rows[i + LANES // 2]) for i in range(LANES // 2)]
                rows = [builder.shuffle_vector(*pair, order) for pair in pairs for order in (low, high)]
            for i, row in enumerate(rows):
                builder.store(
                    _narrowed(builder, row) if narrowed else row,
                    place(target, target_stride, i, narrowed),
                    align=2 if narrowed else 4,
                )

        return types.void(types.int64, types.int64, types.int64, types.int64), generate

    return transpose_block


def _load(builder, place, narrow):
    """LANES floats; of bfloat16 the bits are a float's upper half."""
    vector = ir.VectorType(ir.FloatType(), LANES)
    if not narrow:
        return builder.load(place, align=4, typ=vector)
    bits = builder.zext(
        builder.load(place, align=2, typ=ir.VectorType(ir.IntType(16), LANES)), ir.VectorType(ir.IntType(32), LANES)
    )
    return builder.bitcast(builder.shl(bits, _all(bits.type, 16)), vector)


def _narrowed(builder, row):
    bits = builder.bitcast(row, ir.VectorType(ir.IntType(32), LANES))
    odd = builder.and_(builder.lshr(bits, _all(bits.type, 16)), _all(bits.type, 1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, _all(bits.type, 0x7FFF))), _all(bits.type, 16))
    kept = builder.select(builder.fcmp_unordered("uno", row, row), _all(bits.type, 0x7FC0), rounded)
    return builder.trunc(kept, ir.VectorType(ir.IntType(16), LANES))


def _all(kind, value):
    return ir.Constant(kind, [value] * LANES)


def _vector_at(context, builder, base, index, half=False):
    """Pointer to the floats at an address plus an index in floats; half: to numbers of 16 bits."""
    address = builder.add(base, builder.mul(index, context.get_constant(types.int64, 2 if half else 4)))
    return builder.inttoptr(address, ir.VectorType(ir.IntType(16) if half else ir.FloatType(), LANES).as_pointer())


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


def _chosen(narrow: bool, expands: bool):
    """target[i] = source[i] for LANES numbers of 32 bits (narrow: 16) where bit i of a word is set, else 0; expands: the next of those at the source, of which
    no more are read than bits are set. By addresses."""

    @intrinsic
    def chosen(typing, source, word, target):
        def generate(context, builder, signature, arguments):
            source, word, target = arguments
            vector = ir.VectorType(ir.IntType(16 if narrow else 32), LANES)
            wanted = builder.bitcast(builder.trunc(word, ir.IntType(LANES)), ir.VectorType(ir.IntType(1), LANES))
            place, zeros = builder.inttoptr(source, vector.as_pointer()), ir.Constant(vector, None)
            if expands:
                number = builder.bitcast(place, vector.element.as_pointer())
                kind = ir.FunctionType(vector, [number.type, wanted.type, vector])
                name = f"llvm.masked.expandload.v{LANES}i{vector.element.width}"
                found = builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [number, wanted, zeros])
            else:
                found = builder.select(wanted, builder.load(place, align=2 if narrow else 4, typ=vector), zeros)
            builder.store(found, builder.inttoptr(target, vector.as_pointer()), align=2 if narrow else 4)

        return types.void(types.int64, types.int64, types.int64), generate

    return chosen


def _squeezed(narrow: bool):
    """The numbers of 32 bits (narrow: 16) at the source of which the bit in a word is set, one after another to the target, and zeros after them, LANES in all. By
    addresses. Only where `SQUEEZES`."""

    @intrinsic
    def squeezed(typing, source, word, target):
        def generate(context, builder, signature, arguments):
            source, word, target = arguments
            own, wide = ir.VectorType(ir.IntType(16 if narrow else 32), LANES), ir.VectorType(ir.IntType(32), LANES)
            mask = ir.VectorType(ir.IntType(1), LANES)
            wanted, align = builder.bitcast(builder.trunc(word, ir.IntType(LANES)), mask), 2 if narrow else 4
            found = builder.load(builder.inttoptr(source, own.as_pointer()), align=align, typ=own)
            found = builder.zext(found, wide) if narrow else found
            kind = ir.FunctionType(wide, [wide, wide, mask])
            squeeze = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.avx512.mask.compress.v{LANES}i32")
            found = builder.call(squeeze, [found, ir.Constant(wide, None), wanted])
            found = builder.trunc(found, own) if narrow else found
            builder.store(found, builder.inttoptr(target, own.as_pointer()), align=align)

        return types.void(types.int64, types.int64, types.int64), generate

    return squeezed


# An instruction of AVX-512, and not where Numba was told of another processor.
SQUEEZES = not (config.CPU_NAME or config.CPU_FEATURES) and bool(get_host_cpu_features().get("avx512f"))


@intrinsic
def packed_flags(typing, source):
    """LANES bools at an address, as the bits of a word."""

    def generate(context, builder, signature, arguments):
        vector = ir.VectorType(ir.IntType(8), LANES)
        found = builder.load(builder.inttoptr(arguments[0], vector.as_pointer()), align=1, typ=vector)
        bits = builder.bitcast(builder.icmp_unsigned("!=", found, ir.Constant(vector, None)), ir.IntType(LANES))
        return builder.zext(bits, ir.IntType(64))

    return types.int64(types.int64), generate


masked_lanes, masked_halves, expanded_lanes, expanded_halves = (
    _chosen(narrow, expands) for expands in (False, True) for narrow in (False, True)
)
squeezed_lanes, squeezed_halves = _squeezed(False), _squeezed(True)
weighted_rows_of_one, weighted_rows_of_four = _weighted_rows(1), _weighted_rows(4)
transpose_block, transpose_halves, transpose_to_halves = (
    _transpose(False, False),
    _transpose(True, False),
    _transpose(False, True),
)


@compiled
def widened(half):
    """The float of a bfloat16's bits."""
    return float_of(np.int32(half) << np.int32(16))


@compiled
def narrowed(x):
    """The bits of a float as bfloat16, rounded to nearest, ties to even."""
    bits = bits_of(x)
    if x != x:
        return np.uint16(0x7FC0)
    return np.uint16(
        np.uint32(np.uint32(bits) + np.uint32(0x7FFF) + np.uint32((bits >> np.int32(16)) & np.int32(1))) >> np.uint32(16)
    )
