"""Vector instructions for search: compare four queries with sixteen vectors at a time, in registers.

A search spends most of its time here. numba relies on LLVM to vectorize loops, and LLVM keeps sums in memory that could stay in
registers. So these few functions are written in LLVM's own instructions. LLVM translates them for any processor. They can be
called from compiled code only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import cgutils, types

__all__ = [
    "LANES",
    "QUERIES_AT_ONCE",
    "compress_store",
    "inner_products",
    "mask_at_least",
    "negative_distances",
    "prefetch",
]

LANES = 16
"""Vectors in a block."""

QUERIES_AT_ONCE = 4
"""Queries compared with a block at a time."""

FLOAT, SHORT, WORD = ir.FloatType(), ir.IntType(16), ir.IntType(64)
ROW = ir.VectorType(FLOAT, LANES)

Builder = Any
Value = Any

intrinsic: Any = extending.intrinsic
"""Untyped: mypy would count the typing context as an argument of the functions that it makes."""


def _add_product(build: Builder, query: Value, vectors: Value, total: Value) -> Value:
    return build.fadd(total, build.fmul(query, vectors, flags=("contract",)), flags=("contract",))


def _subtract_square(build: Builder, query: Value, vectors: Value, total: Value) -> Value:
    difference = build.fsub(query, vectors)
    return build.fsub(total, build.fmul(difference, difference, flags=("contract",)), flags=("contract",))


def _comparison(name: str, doc: str, step: Callable[[Builder, Value, Value, Value], Value]) -> Any:
    def compare(typing: Any, queries: Any, rows: Any, first: Any, blocks: Any, block: Any, similarity: Any) -> Any:
        def generate(context: Any, build: Builder, signature: Any, arguments: Any) -> Value:
            given = dict(zip(("queries", "rows", "first", "blocks", "block", "similarity"), arguments, strict=True))
            given_types = dict(zip(given, signature.args, strict=True))
            arrays = {
                name: context.make_array(given_types[name])(context, build, given[name])
                for name in ("queries", "rows", "blocks", "similarity")
            }
            rows = _row_count(build, arrays["blocks"])
            width = _dimension_count(build, arrays["blocks"])
            members = range(QUERIES_AT_ONCE)
            rows_of = [build.load(build.gep(arrays["rows"].data, [build.add(given["first"], WORD(n))])) for n in members]
            query = [build.gep(arrays["queries"].data, [build.mul(row, width)]) for row in rows_of]
            start = build.gep(arrays["blocks"].data, [build.mul(given["block"], build.mul(rows, WORD(LANES)))])
            scale = _scale(build, start, width)
            entry = build.block
            loop, done = build.append_basic_block("dimension"), build.append_basic_block("compared")
            build.branch(loop)
            build.position_at_end(loop)
            d = build.phi(WORD)
            totals = [build.phi(ROW) for _ in members]
            vectors = _floats(build, _load(build, start, build.mul(d, WORD(LANES))), scale)
            sums = [step(build, _broadcast(build, build.load(build.gep(query[n], [d]))), vectors, totals[n]) for n in members]
            next_d = build.add(d, WORD(1))
            d.add_incoming(WORD(0), entry)
            d.add_incoming(next_d, loop)
            for n in members:
                totals[n].add_incoming(ROW([0.0] * LANES), entry)
                totals[n].add_incoming(sums[n], loop)
            build.cbranch(build.icmp_signed("<", next_d, width), loop, done)
            build.position_at_end(done)
            for n in members:
                offset = build.mul(build.add(given["first"], WORD(n)), WORD(LANES))
                target = build.bitcast(build.gep(arrays["similarity"].data, [offset]), ROW.as_pointer())
                build.store(sums[n], target, align=64)
            return context.get_dummy_value()

        return types.void(queries, rows, types.int64, blocks, types.int64, similarity), generate

    compare.__name__, compare.__doc__ = name, doc
    return intrinsic(compare)


_TEXT = """{} of `QUERIES_AT_ONCE` queries and the `LANES` vectors of a block.

    Sums are made dimension by dimension, so a result does not depend on the vector's lane or on the other queries.

    Parameters
    ----------
    queries : (q, width) float32
    rows : (n,) int64
    first : int
        The queries ``rows[first : first + QUERIES_AT_ONCE]`` are compared.
    blocks : (b, width, LANES) float32, or (b, width + 2, LANES) int16
        At an address divisible by 64, so that 16 float32 are one cache line. In int16 blocks the last two rows are `LANES`
        float32: the scale of each vector, by which its numbers are multiplied.
    block : int
    similarity : (n, LANES) float32
        The results are written here, in the same rows as `rows`. At an address divisible by 64.
    """

inner_products = _comparison("inner_products", _TEXT.format("Inner products"), _add_product)
negative_distances = _comparison("negative_distances", _TEXT.format("Negative squared distances"), _subtract_square)


@intrinsic
def prefetch(typing: Any, blocks: Any, block: Any) -> Any:
    """Start to load a block of vectors into the nearest cache."""

    def generate(context: Any, build: Builder, signature: Any, arguments: Any) -> Value:
        array = context.make_array(signature.args[0])(context, build, arguments[0])
        rows_per_line = 2 if array.data.type.pointee == SHORT else 1
        rows = _row_count(build, array)
        start = build.mul(arguments[1], rows)
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, *[ir.IntType(32)] * 3])
        prefetch = cgutils.get_or_insert_function(build.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        with cgutils.for_range(build, build.udiv(build.add(rows, WORD(rows_per_line - 1)), WORD(rows_per_line))) as loop:
            row = build.add(start, build.mul(loop.index, WORD(rows_per_line)))
            line = build.gep(array.data, [build.mul(row, WORD(LANES))])
            build.call(prefetch, [build.bitcast(line, byte), *(ir.IntType(32)(n) for n in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(blocks, types.int64), generate


@intrinsic
def mask_at_least(typing: Any, numbers: Any, row: Any, threshold: Any) -> Any:
    """Which numbers of a row are at least `threshold`, as bits of a uint64.

    The row has `LANES` numbers, at an address divisible by 64.
    """

    def generate(context: Any, build: Builder, signature: Any, arguments: Any) -> Value:
        data = context.make_array(signature.args[0])(context, build, arguments[0]).data
        row = _load(build, data, build.mul(arguments[1], WORD(LANES)))
        selected = build.fcmp_ordered(">=", row, _broadcast(build, arguments[2]))
        return build.zext(build.bitcast(selected, ir.IntType(LANES)), WORD)

    return types.uint64(numbers, types.int64, types.float32), generate


@intrinsic
def compress_store(typing: Any, numbers: Any, row: Any, bits: Any, offset: Any, target: Any, start: Any) -> Any:
    """Write the numbers of a row whose bits are set side by side into `target`, from `start` on. Return how many they are.

    The row has `LANES` float32 or int32. `offset` is added to each number. Always `LANES` numbers are written; those after the
    selected ones are arbitrary. `target` may be `numbers` itself if the row does not begin before `start`.
    """

    def generate(context: Any, build: Builder, signature: Any, arguments: Any) -> Value:
        source, target = (context.make_array(signature.args[n])(context, build, arguments[n]).data for n in (0, 4))
        row = ir.VectorType(source.type.pointee, LANES)
        mask = ir.VectorType(ir.IntType(1), LANES)
        values = build.load(
            build.bitcast(build.gep(source, [build.mul(arguments[1], WORD(LANES))]), row.as_pointer()), align=64
        )
        add = build.fadd if source.type.pointee == FLOAT else build.add
        values = add(values, _broadcast(build, arguments[3]))
        name = f"llvm.experimental.vector.compress.v{LANES}{'f32' if source.type.pointee == FLOAT else 'i32'}"
        kind = ir.FunctionType(row, [row, mask, row])
        compress = cgutils.get_or_insert_function(build.module, kind, name)  # type: ignore[no-untyped-call]
        selected = build.bitcast(build.trunc(arguments[2], ir.IntType(LANES)), mask)
        compressed = build.call(compress, [values, selected, row(ir.Undefined)])
        build.store(compressed, build.bitcast(build.gep(target, [arguments[5]]), row.as_pointer()), align=4)
        return build.ctpop(arguments[2])

    return types.int64(numbers, types.int64, types.uint64, numbers.dtype, target, types.int64), generate


def _load(build: Builder, numbers: Value, offset: Value) -> Value:
    kind = numbers.type.pointee
    row = ir.VectorType(kind, LANES).as_pointer()
    return build.load(build.bitcast(build.gep(numbers, [offset]), row), align=LANES * (2 if kind == SHORT else 4))


def _scale(build: Builder, block: Value, width: Value) -> Value | None:
    """Scale of each vector of an int16 block; None for float32."""
    if block.type.pointee == FLOAT:
        return None
    scale = build.gep(block, [build.mul(width, WORD(LANES))])
    return build.load(build.bitcast(scale, ROW.as_pointer()), align=32)


def _floats(build: Builder, row: Value, scale: Value | None) -> Value:
    if scale is None:
        return row
    return build.fmul(build.sitofp(build.sext(row, ir.VectorType(ir.IntType(32), LANES)), ROW), scale)


def _broadcast(build: Builder, number: Value) -> Value:
    """Copy the number into every lane."""
    row = ir.VectorType(number.type, LANES)
    nothing = row(ir.Undefined)
    first = build.insert_element(nothing, number, ir.IntType(32)(0))
    return build.shuffle_vector(first, nothing, ir.VectorType(ir.IntType(32), LANES)([0] * LANES))


def _row_count(build: Builder, blocks: Value) -> Value:
    return build.extract_value(blocks.shape, 1)


def _dimension_count(build: Builder, blocks: Value) -> Value:
    rows = _row_count(build, blocks)
    return rows if blocks.data.type.pointee == FLOAT else build.sub(rows, WORD(2))
