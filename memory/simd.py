"""Four queries compared with sixteen vectors at a time, held in registers throughout: what a search spends its time on.

numba leaves it to LLVM to find what can be done side by side, and LLVM keeps sums in memory that could stay in registers.
So the few lines that matter are written in LLVM's own terms, which it fits to the machine at hand: nothing here depends on one.
They can be called from compiled code only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import cgutils, types

__all__ = ["LANES", "TOGETHER", "distances", "fetch", "packed", "products", "reached"]

LANES = 16
"""Vectors side by side."""

TOGETHER = 4
"""Queries compared with them at once."""

FLOAT, SHORT, WORD = ir.FloatType(), ir.IntType(16), ir.IntType(64)
ROW = ir.VectorType(FLOAT, LANES)

Builder = Any
Value = Any

intrinsic: Any = extending.intrinsic
"""As its callers see it: the typing context is no argument of what it makes."""


def _rising(build: Builder, query: Value, vectors: Value, total: Value) -> Value:
    return build.fadd(total, build.fmul(query, vectors, flags=("contract",)), flags=("contract",))


def _falling(build: Builder, query: Value, vectors: Value, total: Value) -> Value:
    apart = build.fsub(query, vectors)
    return build.fsub(total, build.fmul(apart, apart, flags=("contract",)), flags=("contract",))


def _comparison(name: str, text: str, step: Callable[[Builder, Value, Value, Value], Value]) -> Any:
    def compare(typing: Any, queries: Any, rows: Any, first: Any, blocks: Any, block: Any, close: Any) -> Any:
        def generate(context: Any, build: Builder, signature: Any, arguments: Any) -> Value:
            given = dict(zip(("queries", "rows", "first", "blocks", "block", "close"), arguments, strict=True))
            kinds = dict(zip(given, signature.args, strict=True))
            arrays = {
                name: context.make_array(kinds[name])(context, build, given[name])
                for name in ("queries", "rows", "blocks", "close")
            }
            rows = _width(build, arrays["blocks"])
            width = _dimensions(build, arrays["blocks"])
            sides = range(TOGETHER)
            rows_of = [build.load(build.gep(arrays["rows"].data, [build.add(given["first"], WORD(n))])) for n in sides]
            query = [build.gep(arrays["queries"].data, [build.mul(row, width)]) for row in rows_of]
            start = build.gep(arrays["blocks"].data, [build.mul(given["block"], build.mul(rows, WORD(LANES)))])
            scale = _scale(build, start, width)
            before = build.block
            loop, after = build.append_basic_block("dimension"), build.append_basic_block("compared")
            build.branch(loop)
            build.position_at_end(loop)
            d = build.phi(WORD)
            totals = [build.phi(ROW) for _ in sides]
            vectors = _floats(build, _load(build, start, build.mul(d, WORD(LANES))), scale)
            sums = [step(build, _all(build, build.load(build.gep(query[n], [d]))), vectors, totals[n]) for n in sides]
            following = build.add(d, WORD(1))
            d.add_incoming(WORD(0), before)
            d.add_incoming(following, loop)
            for n in sides:
                totals[n].add_incoming(ROW([0.0] * LANES), before)
                totals[n].add_incoming(sums[n], loop)
            build.cbranch(build.icmp_signed("<", following, width), loop, after)
            build.position_at_end(after)
            for n in sides:
                place = build.mul(build.add(given["first"], WORD(n)), WORD(LANES))
                place = build.bitcast(build.gep(arrays["close"].data, [place]), ROW.as_pointer())
                build.store(sums[n], place, align=64)
            return context.get_dummy_value()

        return types.void(queries, rows, types.int64, blocks, types.int64, close), generate

    compare.__name__, compare.__doc__ = name, text
    return intrinsic(compare)


_TEXT = """{} of `TOGETHER` queries and the `LANES` vectors of a block.

    Sums are made dimension by dimension: what comes out for a vector does not depend on its lane, or on the other queries.

    Parameters
    ----------
    queries : (q, width) float32
    rows : (n,) int64
    first : int
        Compared are the queries ``rows[first : first + TOGETHER]``.
    blocks : (b, width, LANES) float32, or (b, width + 2, LANES) int16
        At an address divisible by 64, where 16 float32 are one line of the cache. Of int16 the last two rows are `LANES`
        float32, by which the numbers of each vector are to be multiplied.
    block : int
    close : (n, LANES) float32
        Takes the results in the same rows as `rows`; at such an address, too.
    """

products = _comparison("products", _TEXT.format("Inner products"), _rising)
distances = _comparison("distances", _TEXT.format("Minus the squared distances"), _falling)


@intrinsic
def fetch(typing: Any, blocks: Any, block: Any) -> Any:
    """Have a block of vectors on its way to the nearest cache by the time it is compared with."""

    def generate(context: Any, build: Builder, signature: Any, arguments: Any) -> Value:
        array = context.make_array(signature.args[0])(context, build, arguments[0])
        together = 2 if array.data.type.pointee == SHORT else 1
        rows = _width(build, array)
        start = build.mul(arguments[1], rows)
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, *[ir.IntType(32)] * 3])
        prefetch = cgutils.get_or_insert_function(build.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        with cgutils.for_range(build, build.udiv(build.add(rows, WORD(together - 1)), WORD(together))) as loop:
            row = build.add(start, build.mul(loop.index, WORD(together)))
            line = build.gep(array.data, [build.mul(row, WORD(LANES))])
            build.call(prefetch, [build.bitcast(line, byte), *(ir.IntType(32)(n) for n in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(blocks, types.int64), generate


@intrinsic
def reached(typing: Any, numbers: Any, row: Any, least: Any) -> Any:
    """Which of a row of `LANES` numbers, at an address divisible by 64, are at least `least`: bits of a uint64."""

    def generate(context: Any, build: Builder, signature: Any, arguments: Any) -> Value:
        data = context.make_array(signature.args[0])(context, build, arguments[0]).data
        row = _load(build, data, build.mul(arguments[1], WORD(LANES)))
        enough = build.fcmp_ordered(">=", row, _all(build, arguments[2]))
        return build.zext(build.bitcast(enough, ir.IntType(LANES)), WORD)

    return types.uint64(numbers, types.int64, types.float32), generate


@intrinsic
def packed(typing: Any, numbers: Any, row: Any, bits: Any, more: Any, into: Any, at: Any) -> Any:
    """Write those of a row of `LANES` float32 or int32 whose bits are set, each plus `more`, side by side; count them.

    They go into the numbers from `at` on, where `LANES` are written in any case: which ones come last is left open. The row may
    be one of the same numbers that does not begin before `at`.
    """

    def generate(context: Any, build: Builder, signature: Any, arguments: Any) -> Value:
        source, target = (context.make_array(signature.args[n])(context, build, arguments[n]).data for n in (0, 4))
        row = ir.VectorType(source.type.pointee, LANES)
        mask = ir.VectorType(ir.IntType(1), LANES)
        values = build.load(
            build.bitcast(build.gep(source, [build.mul(arguments[1], WORD(LANES))]), row.as_pointer()), align=64
        )
        add = build.fadd if source.type.pointee == FLOAT else build.add
        values = add(values, _all(build, arguments[3]))
        name = f"llvm.experimental.vector.compress.v{LANES}{'f32' if source.type.pointee == FLOAT else 'i32'}"
        kind = ir.FunctionType(row, [row, mask, row])
        compress = cgutils.get_or_insert_function(build.module, kind, name)  # type: ignore[no-untyped-call]
        chosen = build.bitcast(build.trunc(arguments[2], ir.IntType(LANES)), mask)
        together = build.call(compress, [values, chosen, row(ir.Undefined)])
        build.store(together, build.bitcast(build.gep(target, [arguments[5]]), row.as_pointer()), align=4)
        return build.ctpop(arguments[2])

    return types.int64(numbers, types.int64, types.uint64, numbers.dtype, into, types.int64), generate


def _load(build: Builder, numbers: Value, offset: Value) -> Value:
    kind = numbers.type.pointee
    row = ir.VectorType(kind, LANES).as_pointer()
    return build.load(build.bitcast(build.gep(numbers, [offset]), row), align=LANES * (2 if kind == SHORT else 4))


def _scale(build: Builder, block: Value, width: Value) -> Value | None:
    """Of the vectors of a block of int16; None for float32."""
    if block.type.pointee == FLOAT:
        return None
    place = build.gep(block, [build.mul(width, WORD(LANES))])
    return build.load(build.bitcast(place, ROW.as_pointer()), align=32)


def _floats(build: Builder, row: Value, scale: Value | None) -> Value:
    if scale is None:
        return row
    return build.fmul(build.sitofp(build.sext(row, ir.VectorType(ir.IntType(32), LANES)), ROW), scale)


def _all(build: Builder, number: Value) -> Value:
    """The number in every lane."""
    row = ir.VectorType(number.type, LANES)
    nothing = row(ir.Undefined)
    first = build.insert_element(nothing, number, ir.IntType(32)(0))
    return build.shuffle_vector(first, nothing, ir.VectorType(ir.IntType(32), LANES)([0] * LANES))


def _width(build: Builder, blocks: Value) -> Value:
    return build.extract_value(blocks.shape, 1)


def _dimensions(build: Builder, blocks: Value) -> Value:
    rows = _width(build, blocks)
    return rows if blocks.data.type.pointee == FLOAT else build.sub(rows, WORD(2))
