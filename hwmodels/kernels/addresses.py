"""What compiled code needs to work with addresses: arrays over memory, calls, counters that threads share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

_I64 = ir.IntType(64)
_populate: Callable[..., None] = populate_array


@intrinsic
def call(typing: Any, function: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
    """Call the function at an address with six int64 arguments; return its int64 result (undefined if it has none)."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_I64, [_I64] * 6)
        return builder.call(builder.inttoptr(arguments[0], ir.PointerType(kind)), arguments[1:])

    return types.int64(*[types.int64] * 7), build


@intrinsic
def add_atomically(typing: Any, address: Any, amount: Any) -> Any:
    """Add to the int64 at an address and return what it was before; other threads see all that was written before."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.PointerType(_I64))
        return builder.atomic_rmw("add", place, arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), build


@intrinsic
def exchange_atomically(typing: Any, address: Any, expected: Any, new: Any) -> Any:
    """Store `new` at an address if `expected` is there; return what was there."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.PointerType(_I64))
        pair = builder.cmpxchg(place, arguments[1], arguments[2], "seq_cst", "seq_cst")
        return builder.extract_value(pair, 0)

    return types.int64(types.int64, types.int64, types.int64), build


@intrinsic
def float_bits(typing: Any, value: Any) -> Any:
    """Return the bits of a float32 as an int64, which is how compiled functions pass it."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.zext(builder.bitcast(arguments[0], ir.IntType(32)), _I64)

    return types.int64(types.float32), build


def _array_of(kind: Any, item_bytes: int) -> Any:
    """Make the function that gives a one-dimensional array over memory that something else keeps alive."""
    array = types.Array(kind, 1, "C")

    def at(typing: Any, address: Any, count: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            made = context.make_array(array)(context, builder)
            size = ir.Constant(_I64, item_bytes)
            data = builder.inttoptr(arguments[0], made.data.type)
            shape, strides = [arguments[1]], [size]
            _populate(made, data=data, shape=shape, strides=strides, itemsize=size, meminfo=None)
            return made._getvalue()

        return array(types.int64, types.int64), build

    return intrinsic(at)


words = _array_of(types.int64, 8)
integers = _array_of(types.int32, 4)
floats = _array_of(types.float32, 4)
marks = _array_of(types.uint8, 1)
