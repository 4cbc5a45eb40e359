"""The inner loops over the channels of single pixels, in LLVM code: differences, copies, sums of maps, pooling.

All take a list of positions (row * 65536 + column), so that they cost what is active. Maps are described by three
fields in a row: address, floats per row, floats per column.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from llvmlite import ir

from skipsim.hwmodels.kernels.machine_code import compile_functions, host_lanes
from skipsim.hwmodels.kernels.vector_code import FLOAT, I32, I64, Emitter, Value, Values, finish

MOST_SOURCES = 4

# What the functions below find behind the address of their fields, in words of 8 bytes.
DIFFERENCE_X, DIFFERENCE_REFERENCE, DIFFERENCE_CHANGE, DIFFERENCE_CHANNELS, DIFFERENCE_SCALE = 0, 3, 6, 9, 10
COMBINE_Y, COMBINE_CHANNELS, COMBINE_LOW, COMBINE_HIGH, COMBINE_FINISH, COMBINE_SOURCES = 0, 3, 4, 5, 6, 7
SOURCE_MAP, SOURCE_UP_ROWS, SOURCE_UP_COLS, SOURCE_WEIGHT, SOURCE_FIELDS = 0, 3, 4, 5, 6
ADVANCE_X, ADVANCE_REFERENCE, ADVANCE_DELTA, ADVANCE_CHANNELS = 0, 3, 6, 9
VOTE_KERNEL_ROWS, VOTE_PITCH, VOTE_DILATION_ROWS, VOTE_KERNEL_COLS = range(4)
VOTE_STRIDE_COLS, VOTE_DILATION_COLS, VOTE_WIDTH, VOTE_COL_TAPS = range(4, 8)
SCALE_X, SCALE_Y, SCALE_CHANNELS, SCALE_FACTORS = 0, 3, 6, 7


@cache
def pixel_loops() -> dict[str, int]:
    """Return the functions' addresses by name."""
    lanes = host_lanes()
    module = ir.Module("pixel_loops")
    for name, (arguments, write) in _FUNCTIONS.items():
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * arguments), name)
        e = Emitter(function, lanes)
        write(e, *function.args)
        e.b.ret_void()
    return compile_functions(module, f"pixel_loops-{lanes}")


def _each_pixel(e: Emitter, positions: Value, count: Value, body: Callable[[Value, Value], None]) -> None:
    """Run `body(row, col)` for every position of a list."""

    def one(index: Value, _: Values) -> Values:
        place = e.load(I32, e.at(positions, I32, index))
        body(e.b.zext(e.b.lshr(place, I32(16)), I64), e.b.zext(e.b.and_(place, I32(0xFFFF)), I64))
        return []

    e.loop(I64(0), count, [], one)


def _pixel(e: Emitter, fields: Value, first: int, row: Value, col: Value) -> Value:
    """Return where a pixel of the map that three fields describe starts."""
    start, per_row, per_col = (e.load(I64, e.at(fields, I64, first + n)) for n in range(3))
    return e.at(start, FLOAT, e.b.add(e.b.mul(row, per_row), e.b.mul(col, per_col)))


def _number(e: Emitter, fields: Value, field: int) -> Value:
    return e.load(FLOAT, e.at(fields, FLOAT, 2 * field))


def _difference(e: Emitter, fields: Value, positions: Value, count: Value) -> None:
    """change[p] = scale * sum over channels of |x[p] - reference[p]|."""
    channels = e.load(I64, e.at(fields, I64, DIFFERENCE_CHANNELS))
    scale = _number(e, fields, DIFFERENCE_SCALE)
    whole = e.b.and_(channels, I64(-e.lanes))
    mask = e.first_lanes(e.b.sub(channels, whole))

    def one(row: Value, col: Value) -> None:
        x, reference, change = (
            _pixel(e, fields, first, row, col) for first in (DIFFERENCE_X, DIFFERENCE_REFERENCE, DIFFERENCE_CHANGE)
        )

        def distance(at: Value) -> Value:
            return e.absolute(e.b.fsub(e.vector(x, at), e.vector(reference, at)))

        totals = e.loop(I64(0), whole, [e.splat(0.0)], lambda at, sums: [e.b.fadd(sums[0], distance(at))], e.lanes)
        rest = e.b.icmp_signed("<", whole, channels)
        zero = e.splat(0.0)
        totals = e.either(rest, lambda: [e.b.fadd(totals[0], e.b.select(mask, distance(whole), zero))], totals)
        e.b.store(e.b.fmul(e.total(totals[0]), scale), change)

    _each_pixel(e, positions, count, one)


def _copy(e: Emitter, x: Value, reference: Value, delta: Value, channels: Value) -> None:
    """delta = x - reference, if delta is not 0; then reference = x: one pixel."""
    with e.b.if_then(e.b.icmp_signed("!=", delta, I64(0))):
        e.map_floats(channels, delta, lambda at: e.b.fsub(e.vector(x, at), e.vector(reference, at)))
    e.map_floats(channels, reference, lambda at: e.vector(x, at))


def _advance(e: Emitter, fields: Value, positions: Value, count: Value) -> None:
    """delta[p] = x[p] - reference[p], then reference[p] = x[p]."""
    channels = e.load(I64, e.at(fields, I64, ADVANCE_CHANNELS))

    def one(row: Value, col: Value) -> None:
        x, reference, delta = (
            _pixel(e, fields, first, row, col) for first in (ADVANCE_X, ADVANCE_REFERENCE, ADVANCE_DELTA)
        )
        e.map_floats(channels, delta, lambda at: e.b.fsub(e.vector(x, at), e.vector(reference, at)))
        e.map_floats(channels, reference, lambda at: e.vector(x, at))

    _each_pixel(e, positions, count, one)


def _clear(e: Emitter, target: Value, channels: Value) -> None:
    """Set one pixel to zero."""
    e.map_floats(channels, target, lambda at: e.splat(0.0))


def _combine(sources: int, e: Emitter, fields: Value, positions: Value, count: Value) -> None:
    """y[p] = finish(clamp(sum of weight * map[p // up])), for a number of sources."""
    channels = e.load(I64, e.at(fields, I64, COMBINE_CHANNELS))
    low, high = (e.splat(_number(e, fields, field)) for field in (COMBINE_LOW, COMBINE_HIGH))
    follows = e.load(I64, e.at(fields, I64, COMBINE_FINISH))
    firsts = [COMBINE_SOURCES + SOURCE_FIELDS * index for index in range(sources)]
    weights = [e.splat(_number(e, fields, first + SOURCE_WEIGHT)) for first in firsts]

    def up(value: Value, field: int) -> Value:
        factor = e.b.trunc(e.load(I64, e.at(fields, I64, field)), I32)
        return e.b.zext(e.b.udiv(e.b.trunc(value, I32), factor), I64)

    def one(row: Value, col: Value) -> None:
        y = _pixel(e, fields, COMBINE_Y, row, col)
        maps = [
            _pixel(e, fields, first, up(row, first + SOURCE_UP_ROWS), up(col, first + SOURCE_UP_COLS))
            for first in firsts
        ]

        def value(at: Value) -> Value:
            total = e.b.fmul(weights[0], e.vector(maps[0], at))
            for weight, source in zip(weights[1:], maps[1:], strict=True):
                total = e.fma(weight, e.vector(source, at), total)
            return e.smaller(high, e.larger(low, total))

        e.map_floats(channels, y, value)
        finish(e, y, channels, follows)

    _each_pixel(e, positions, count, one)


def _scale(e: Emitter, fields: Value, positions: Value, count: Value) -> None:
    """y[p] = x[p] * factors."""
    channels, factors = (e.load(I64, e.at(fields, I64, field)) for field in (SCALE_CHANNELS, SCALE_FACTORS))

    def one(row: Value, col: Value) -> None:
        x, y = (_pixel(e, fields, first, row, col) for first in (SCALE_X, SCALE_Y))
        e.map_floats(channels, y, lambda at: e.b.fmul(e.vector(x, at), e.vector(factors, at)))

    _each_pixel(e, positions, count, one)


def _pool(kind: str, e: Emitter, x: Value, per_row: Value, rows: Value, cols: Value, y: Value, channels: Value) -> None:
    """y = the largest or the mean value of a window of rows x cols pixels that starts at x."""
    factor = e.splat(e.b.fdiv(FLOAT(1.0), e.b.uitofp(e.b.mul(rows, cols), FLOAT)))
    start = e.splat(float("-inf") if kind == "max" else 0.0)

    def window(at: Value) -> Value:
        def one_row(row: Value, outer: Values) -> Values:
            line = e.at(x, FLOAT, e.b.add(e.b.mul(row, per_row), at))

            def one_col(col: Value, inner: Values) -> Values:
                value = e.vector(line, e.b.mul(col, channels))
                return [e.larger(inner[0], value) if kind == "max" else e.b.fadd(inner[0], value)]

            return e.loop(I64(0), cols, outer, one_col)

        total = e.loop(I64(0), rows, [start], one_row)[0]
        return total if kind == "max" else e.b.fmul(total, factor)

    e.map_floats(channels, y, window)


def _vote(e: Emitter, fields: Value, change: Value, sums: Value, votes: Value, limit: Value, count: Value) -> None:
    """Mark the columns of one output row whose summed change is above the limit: votes |= (sum > limit * col_taps).

    change: what the row's first tap reads; sums: room for one row of sums over the kernel's rows; votes: int32 per
    column; limit: the bits of a float; count: columns.
    """
    kernel, pitch, apart, cols, stride, apart_cols, width, taps = (
        e.load(I64, e.at(fields, I64, index))
        for index in (
            VOTE_KERNEL_ROWS,
            VOTE_PITCH,
            VOTE_DILATION_ROWS,
            VOTE_KERNEL_COLS,
            VOTE_STRIDE_COLS,
            VOTE_DILATION_COLS,
            VOTE_WIDTH,
            VOTE_COL_TAPS,
        )
    )
    row_floats = e.b.mul(pitch, apart)

    def column_sums(at: Value) -> Value:
        def add(row: Value, carried: Values) -> Values:
            return [e.b.fadd(carried[0], e.vector(change, e.b.add(e.b.mul(row, row_floats), at)))]

        return e.loop(I64(0), kernel, [e.splat(0.0)], add)[0]

    e.loop(I64(0), width, [], lambda at, _: _keep(e, column_sums(at), sums, at), e.lanes)
    factor = e.splat(e.b.bitcast(e.b.trunc(limit, I32), FLOAT))
    marks = ir.VectorType(I32, e.lanes)

    def vote(at: Value, _: Values) -> Values:
        def add(col: Value, carried: Values) -> Values:
            return [
                e.b.fadd(carried[0], e.strided(sums, e.b.add(e.b.mul(at, stride), e.b.mul(col, apart_cols)), stride))
            ]

        total = e.loop(I64(0), cols, [e.splat(0.0)], add)[0]
        above = e.b.fcmp_ordered(">", total, e.b.fmul(factor, e.vector(taps, at)))
        place = e.at(votes, I32, at)
        old = e.b.load(place, typ=marks, align=4)
        e.b.store(e.b.or_(old, e.b.zext(above, marks)), place, align=4)
        return []

    e.loop(I64(0), count, [], vote, e.lanes)


def _keep(e: Emitter, value: Value, target: Value, at: Value) -> Values:
    e.store(value, target, at)
    return []


def _blend(e: Emitter, x: Value, right: Value, down: Value, weights: Value, y: Value, channels: Value) -> None:
    """y = the bilinear mean of x and the pixels `right`, `down` and both floats behind it.

    weights: the bits of two floats, of the pixels on the right in the low half, of those below in the high half.
    """
    shares = [e.splat(e.b.bitcast(e.b.trunc(bits, I32), FLOAT)) for bits in (weights, e.b.lshr(weights, I64(32)))]

    def value(at: Value) -> Value:
        below = e.b.add(down, at)
        rows = []
        for place in (at, below):
            first, second = e.vector(x, place), e.vector(x, e.b.add(place, right))
            rows.append(e.fma(shares[0], e.b.fsub(second, first), first))
        return e.fma(shares[1], e.b.fsub(rows[1], rows[0]), rows[0])

    e.map_floats(channels, y, value)


def _accumulate(e: Emitter, x: Value, total: Value, channels: Value) -> None:
    """total += x, for one pixel."""
    e.map_floats(channels, total, lambda at: e.b.fadd(e.vector(total, at), e.vector(x, at)))


_FUNCTIONS: dict[str, tuple[int, Callable[..., None]]] = {
    "difference": (3, _difference),
    "advance": (3, _advance),
    "copy": (4, _copy),
    "clear": (2, _clear),
    **{f"combine{sources}": (3, partial(_combine, sources)) for sources in range(1, MOST_SOURCES + 1)},
    "scale": (3, _scale),
    "pool_max": (6, partial(_pool, "max")),
    "pool_average": (6, partial(_pool, "average")),
    "blend": (6, _blend),
    "accumulate": (3, _accumulate),
    "vote": (6, _vote),
}
