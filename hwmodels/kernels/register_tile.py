"""Register tiles: the inner loops of a convolution, m output pixels x v vectors of channels held in registers.

One function per (m, v), unrolled, in LLVM code. Inputs are read where they lie, by one pointer per pixel: nothing is
gathered. A *tap run* is a stretch of the input that lies contiguously in memory for one output pixel: one row of the
kernel (kernel columns x channels) where columns are neither dilated nor grouped, otherwise the channels of one tap.

    plain:      for every tap run, for every value x of it: acc[i][u] += x_i * weights[u]     (x broadcast to a vector)
    depthwise:  for every tap:                              acc[i][u] += x_i[u] * weights[u]
    row3, row5: depthwise for pixels side by side in one row, stride 1: what neighbours share is loaded once
    epilogue:   y_i = finish(clamp(bias + acc + addend_i))
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, auto
from functools import cache, partial

from llvmlite import ir

from skipsim.hwmodels.kernels.feature_map import LINE_BYTES
from skipsim.hwmodels.kernels.machine_code import compile_functions, vector_registers
from skipsim.hwmodels.kernels.step import FIRST_FIELD
from skipsim.hwmodels.kernels.vector_code import FLOAT, I32, I64, POINTER, Emitter, Value, Values, finish

VECTORS = 2
"""Vectors of output channels in one panel of weights."""
ROW_KINDS = {3: "row3", 5: "row5"}
"""The tiles for pixels side by side, by the columns of the kernel."""
LEAST_IN_ROW = 4
"""Fewer neighbours than this are not worth a tile of their own."""


class Field(IntEnum):
    """Where the arguments of a convolution stand in its step; offsets count floats, addresses bytes."""

    X = FIRST_FIELD  # address of the first tap of output position (0, 0)
    X_ROW = auto()  # from one output row to the next
    X_COL = auto()
    Y = auto()
    Y_ROW = auto()
    Y_COL = auto()
    ADDEND = auto()  # 0: none
    ADDEND_ROW = auto()
    ADDEND_COL = auto()
    BIAS = auto()
    TAPS = auto()  # address of the offsets of the tap runs, int64
    TAP_COUNT = auto()
    RUN = auto()  # values in one tap run
    LOW = auto()  # two floats: what outputs are clamped to
    HIGH = auto()
    FINISH = auto()  # one of FINISHES
    COUNT = auto()  # what follows is for the loops around the tiles: see sparse_convolution
    POSITIONS = auto()
    TABLE = auto()  # addresses of tiles by vectors and pixels
    ROW_TABLE = auto()  # of those for pixels side by side, 0: none
    MOST = auto()
    CHUNK = auto()
    PANELS = auto()
    PANELS_PER_GROUP = auto()
    GROUP_IN = auto()
    GROUP_OUT = auto()
    DEPTHWISE = auto()
    LANES = auto()
    WEIGHTS = auto()
    PANEL_BYTES = auto()
    WATCHED = auto()  # the loop `difference`, 0 without a watch; its fields follow


Fields = dict[Field, Value]


def pixels_per_tile(lanes: int) -> int:
    """Return the most output pixels of one tile: accumulators fill the registers, less weights and one input."""
    return 12 if vector_registers(lanes) == 32 else 6


@cache
def tiles(lanes: int) -> tuple[dict[tuple[str, int, int], int], int]:
    """Return the addresses of the tiles by (kind, pixels, vectors), and the most pixels of one tile.

    All have the signature (step, positions, weights, x offset in bytes, first channel, channels), int64 each.
    """
    most = pixels_per_tile(lanes)
    module = ir.Module("tiles")
    emit_finish(module, lanes)
    shapes = [
        (kind, pixels, vectors)
        for kind in BODIES
        for pixels in range(LEAST_IN_ROW if kind in ROW_KINDS.values() else 1, most + 1)
        for vectors in range(1, VECTORS + 1)
    ]
    for shape in shapes:
        emit_tile(module, lanes, *shape)
    addresses = compile_functions(module, f"tiles-{lanes}")
    return {shape: addresses["{}_{}x{}".format(*shape)] for shape in shapes}, most


def emit_tile(module: ir.Module, lanes: int, kind: str, pixels: int, vectors: int) -> None:
    """Add one tile's function to `module`."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 6), f"{kind}_{pixels}x{vectors}")
    e = Emitter(function, lanes)
    step, positions, weights, shift, first, channels = function.args
    field = {name: e.load(I64, e.at(step, I64, int(name))) for name in Field if name <= Field.FINISH}
    low, high = (e.splat(e.load(FLOAT, e.at(step, FLOAT, 2 * name))) for name in (Field.LOW, Field.HIGH))
    places = [e.load(I32, e.at(positions, I32, i)) for i in range(pixels)]
    places = [[e.b.zext(part, I64) for part in (e.b.lshr(p, I32(16)), e.b.and_(p, I32(0xFFFF)))] for p in places]

    def pointers(base: Field, offset_bytes: Value) -> Values:
        """Return where every pixel of the tile starts in one map."""
        start, per_row, per_col = (field[Field(base + n)] for n in range(3))
        start = e.b.add(start, offset_bytes)
        return [e.at(start, FLOAT, e.b.add(e.b.mul(row, per_row), e.b.mul(col, per_col))) for row, col in places]

    skipped = e.b.mul(first, I64(4))
    bias = e.b.add(field[Field.BIAS], skipped)
    sums = [e.vector(bias, u * lanes) for u in range(vectors)] * pixels
    outputs = pointers(Field.Y, skipped)
    for y in outputs:
        for u in range(0, vectors * lanes, LINE_BYTES // 4):
            e.prefetch_for_writing(e.at(y, FLOAT, u))
    sums = BODIES[kind](e, field, pointers(Field.X, shift), e.pointer(weights), sums, vectors)
    wanted = e.b.icmp_signed("!=", field[Field.ADDEND], I64(0))
    sums = e.either(wanted, lambda: _add(e, sums, pointers(Field.ADDEND, skipped), vectors), sums)
    _store(e, [e.smaller(high, e.larger(low, total)) for total in sums], outputs, channels, vectors)
    with e.b.if_then(e.b.icmp_signed("!=", field[Field.FINISH], I64(0))):
        for y in outputs:
            e.b.call(module.globals["finish_in_place"], [y, channels, field[Field.FINISH]])
    e.b.ret_void()


def emit_finish(module: ir.Module, lanes: int) -> None:
    """Add the function finish_in_place(pointer, floats, which of FINISHES) to `module`."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER, I64, I64]), "finish_in_place")
    function.linkage = "internal"
    e = Emitter(function, lanes)
    finish(e, *function.args)
    e.b.ret_void()


def _plain(e: Emitter, field: Fields, inputs: Values, weights: Value, sums: Values, vectors: int) -> Values:
    taps = e.pointer(field[Field.TAPS])

    def one_run(r: Value, carried: Values) -> Values:
        offset = e.load(I64, e.at(taps, I64, r))

        def one_value(j: Value, inner: Values) -> Values:
            pointer, sums = inner[0], inner[1:]
            w = [e.vector(pointer, u * e.lanes, align=e.lanes * 4) for u in range(vectors)]
            new = []
            for i, x in enumerate(inputs):
                value = e.splat(e.load(FLOAT, e.at(x, FLOAT, j)))
                new += [e.fma(value, w[u], sums[i * vectors + u]) for u in range(vectors)]
            return [e.at(pointer, FLOAT, vectors * e.lanes), *new]

        return e.loop(offset, e.b.add(offset, field[Field.RUN]), carried, one_value)

    return e.loop(I64(0), field[Field.TAP_COUNT], [weights, *sums], one_run)[1:]


def _depthwise(e: Emitter, field: Fields, inputs: Values, weights: Value, sums: Values, vectors: int) -> Values:
    taps = e.pointer(field[Field.TAPS])

    def one_tap(r: Value, carried: Values) -> Values:
        pointer, sums = carried[0], carried[1:]
        offset = e.load(I64, e.at(taps, I64, r))
        w = [e.vector(pointer, u * e.lanes, align=e.lanes * 4) for u in range(vectors)]
        new = []
        for i, x in enumerate(inputs):
            start = e.at(x, FLOAT, offset)
            new += [e.fma(e.vector(start, u * e.lanes), w[u], sums[i * vectors + u]) for u in range(vectors)]
        return [e.at(pointer, FLOAT, vectors * e.lanes), *new]

    return e.loop(I64(0), field[Field.TAP_COUNT], [weights, *sums], one_tap)[1:]


def _row(cols: int, e: Emitter, field: Fields, inputs: Values, weights: Value, sums: Values, vectors: int) -> Values:
    """Sum depthwise over one vector of channels after the other, so that a kernel's row of weights fits beside them."""
    results: Values = [None] * len(sums)
    taps, next_pixel = e.pointer(field[Field.TAPS]), field[Field.X_COL]
    row_floats = cols * vectors * e.lanes
    for u in range(vectors):

        def one_row(r: Value, carried: Values, u: int = u) -> Values:
            pointer, sums = carried[0], list(carried[1:])
            offset = e.load(I64, e.at(taps, I64, e.b.mul(r, I64(cols))))
            w = [e.vector(pointer, (col * vectors + u) * e.lanes, align=e.lanes * 4) for col in range(cols)]
            x = e.at(inputs[0], FLOAT, e.b.add(offset, I64(u * e.lanes)))
            for place in range(len(sums) + cols - 1):
                value = e.vector(x, 0)
                for i in range(max(0, place - cols + 1), min(len(sums), place + 1)):
                    sums[i] = e.fma(value, w[place - i], sums[i])
                x = e.at(x, FLOAT, next_pixel)
            return [e.at(pointer, FLOAT, row_floats), *sums]

        rows = e.b.udiv(field[Field.TAP_COUNT], I64(cols))
        results[u::vectors] = e.loop(I64(0), rows, [weights, *sums[u::vectors]], one_row)[1:]
    return results


BODIES: dict[str, Callable[..., Values]] = {
    "plain": _plain,
    "depthwise": _depthwise,
    **{kind: partial(_row, cols) for cols, kind in ROW_KINDS.items()},
}
"""The sums over the taps, by the kind of tile."""


def _add(e: Emitter, sums: Values, addends: Values, vectors: int) -> Values:
    return [e.b.fadd(total, e.vector(addends[n // vectors], n % vectors * e.lanes)) for n, total in enumerate(sums)]


def _store(e: Emitter, results: Values, outputs: Values, channels: Value, vectors: int) -> None:
    whole = e.b.icmp_signed("==", channels, I64(vectors * e.lanes))
    with e.b.if_else(whole) as (then, otherwise):
        with then:
            for n, value in enumerate(results):
                e.store(value, outputs[n // vectors], n % vectors * e.lanes)
        with otherwise:
            for u in range(vectors):
                mask = e.first_lanes(e.b.sub(channels, I64(u * e.lanes)))
                for i, y in enumerate(outputs):
                    e.store_masked(results[i * vectors + u], y, u * e.lanes, mask)
