"""Emitter: the few constructs of LLVM code that the kernels are written in: vectors, loops, masked ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

FLOAT = ir.FloatType()
I1 = ir.IntType(1)
I32 = ir.IntType(32)
I64 = ir.IntType(64)
POINTER = ir.PointerType()

Value = Any  # llvmlite has no type annotations
Values = list[Any]


class Emitter:
    """Write code into one function, with vectors of `lanes` floats.

    Addresses are int64 values or pointers; offsets count elements.
    """

    def __init__(self, function: ir.Function, lanes: int) -> None:
        self.lanes = lanes
        self.vector_type = ir.VectorType(FLOAT, lanes)
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        self.module = function.module

    def pointer(self, address: Value) -> Value:
        """Return an int64 address as a pointer."""
        return self.b.inttoptr(address, POINTER) if address.type == I64 else address

    def at(self, base: Value, kind: ir.Type, index: int | Value) -> Value:
        """Return the pointer to element `index` of an array of `kind` that starts at `base`."""
        offset = I64(int(index)) if isinstance(index, int) else index
        return self.b.gep(self.pointer(base), [offset], source_etype=kind)

    def load(self, kind: ir.Type, pointer: Value) -> Value:
        """Load one value."""
        return self.b.load(pointer, typ=kind)

    def vector(self, base: Value, offset: int | Value, align: int = 4) -> Value:
        """Load a vector of floats from `offset` floats behind `base`."""
        return self.b.load(self.at(base, FLOAT, offset), typ=self.vector_type, align=align)

    def strided(self, base: Value, offset: Value, stride: Value) -> Value:
        """Load a vector of floats that lie `stride` floats apart; one load where the stride is 1."""

        def apart() -> Values:
            value = self.vector_type(ir.Undefined)
            for lane in range(self.lanes):
                place = self.at(base, FLOAT, self.b.add(offset, self.b.mul(stride, I64(lane))))
                value = self.b.insert_element(value, self.load(FLOAT, place), I32(lane))
            return [value]

        return self.choose(self.b.icmp_signed("==", stride, I64(1)), lambda: [self.vector(base, offset)], apart)[0]

    def store(self, value: Value, base: Value, offset: int | Value) -> None:
        """Store a whole vector `offset` floats behind `base`."""
        self.b.store(value, self.at(base, FLOAT, offset), align=4)

    def store_masked(self, value: Value, base: Value, offset: int | Value, mask: Value) -> None:
        """Store the lanes of a vector that `mask` names; the others' memory is not touched."""
        kind = ir.FunctionType(ir.VoidType(), [self.vector_type, POINTER, I32, mask.type])
        name = f"llvm.masked.store.v{self.lanes}f32.p0"
        self.b.call(self._function(name, kind), [value, self.at(base, FLOAT, offset), I32(4), mask])

    def prefetch_for_writing(self, pointer: Value) -> None:
        """Ask for a cache line before it is written, so that its arrival overlaps with what is computed until then."""
        kind = ir.FunctionType(ir.VoidType(), [POINTER, I32, I32, I32])
        self.b.call(self._function("llvm.prefetch.p0", kind), [pointer, I32(1), I32(3), I32(1)])

    def first_lanes(self, count: Value) -> Value:
        """Return the mask of the lanes below `count`, an int64 that may be negative or more than there are."""
        kind = ir.VectorType(I64, self.lanes)
        return self.b.icmp_signed("<", kind(list(range(self.lanes))), self._spread(count, kind))

    def splat(self, value: Value | float) -> Value:
        """Return a vector with one float in every lane."""
        if isinstance(value, int | float):
            return self.vector_type([float(value)] * self.lanes)
        return self._spread(value, self.vector_type)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """Return a * b + c, in one instruction where the machine has it."""
        name = f"llvm.fmuladd.v{self.lanes}f32"
        kind = ir.FunctionType(self.vector_type, [self.vector_type] * 3)
        return self.b.call(self._function(name, kind), [a, b, c])

    def absolute(self, a: Value) -> Value:
        """Return |a|."""
        kind = ir.FunctionType(self.vector_type, [self.vector_type])
        return self.b.call(self._function(f"llvm.fabs.v{self.lanes}f32", kind), [a])

    def smaller(self, a: Value, b: Value) -> Value:
        """Return the smaller one; where b is NaN, b."""
        return self.b.select(self.b.fcmp_ordered("<", a, b), a, b)

    def larger(self, a: Value, b: Value) -> Value:
        """Return the larger one; where b is NaN, b."""
        return self.b.select(self.b.fcmp_ordered(">", a, b), a, b)

    def total(self, a: Value) -> Value:
        """Return the sum of all lanes, pairwise."""
        width = self.lanes
        while width > 1:
            width //= 2
            halves = [list(range(start, start + width)) for start in (0, width)]
            low, high = (self.b.shuffle_vector(a, a, ir.VectorType(I32, width)(half)) for half in halves)
            a = self.b.fadd(low, high)
        return self.b.extract_element(a, I32(0))

    def loop(
        self,
        start: Value,
        end: Value,
        carried: Sequence[Value],
        body: Callable[[Value, Values], Sequence[Value]],
        step: int = 1,
    ) -> Values:
        """Run `body(index, values)` for start <= index < end; it returns the next values. Return the last ones."""
        before = self.b.block
        inside, after = self.b.append_basic_block("loop"), self.b.append_basic_block("after")
        self.b.cbranch(self.b.icmp_signed("<", start, end), inside, after)
        self.b.position_at_end(inside)
        index = self.b.phi(I64)
        phis = [self.b.phi(value.type) for value in carried]
        new = body(index, list(phis))
        following = self.b.add(index, I64(step))
        last = self.b.block
        self.b.cbranch(self.b.icmp_signed("<", following, end), inside, after)
        index.add_incoming(start, before)
        index.add_incoming(following, last)
        self.b.position_at_end(after)
        results = []
        for phi, initial, value in zip(phis, carried, new, strict=True):
            phi.add_incoming(initial, before)
            phi.add_incoming(value, last)
            result = self.b.phi(initial.type)
            result.add_incoming(initial, before)
            result.add_incoming(value, last)
            results.append(result)
        return results

    def choose(self, condition: Value, then: Callable[[], Values], otherwise: Callable[[], Values]) -> Values:
        """Return what `then()` computes where `condition` holds, otherwise what `otherwise()` computes."""
        with self.b.if_else(condition) as (first, second):
            with first:
                values, first_end = then(), self.b.block
            with second:
                others, second_end = otherwise(), self.b.block
        results = []
        for value, other in zip(values, others, strict=True):
            phi = self.b.phi(value.type)
            phi.add_incoming(value, first_end)
            phi.add_incoming(other, second_end)
            results.append(phi)
        return results

    def either(self, condition: Value, values: Callable[[], Values], otherwise: Values) -> Values:
        """Return what `values()` computes where `condition` holds, otherwise `otherwise`."""
        return self.choose(condition, values, lambda: otherwise)

    def map_floats(self, count: Value, target: Value, value: Callable[[Value], Value]) -> None:
        """Store `value(offset)`, a vector, at every offset below `count` behind `target`; the end is masked."""
        whole = self.b.and_(count, I64(-self.lanes))

        def body(at: Value, _: Values) -> Values:
            self.store(value(at), target, at)
            return []

        self.loop(I64(0), whole, [], body, self.lanes)
        with self.b.if_then(self.b.icmp_signed("<", whole, count)):
            self.store_masked(value(whole), target, whole, self.first_lanes(self.b.sub(count, whole)))

    def _spread(self, value: Value, kind: ir.VectorType) -> Value:
        first = self.b.insert_element(kind(ir.Undefined), value, I32(0))
        order = ir.VectorType(I32, kind.count)([0] * kind.count)
        return self.b.shuffle_vector(first, kind(ir.Undefined), order)

    def _function(self, name: str, kind: ir.FunctionType) -> ir.Function:
        found = self.module.globals.get(name)
        return found if found is not None else ir.Function(self.module, kind, name)


FINISHES = {"nothing": 0, "silu": 1, "sigmoid": 2}
"""What may follow once outputs are stored, by the number that compiled code knows it by."""


def finish(e: Emitter, values: Value, count: Value, which: Value) -> None:
    """Replace `count` floats by what one of FINISHES makes of them."""
    for name, write in (("silu", silu), ("sigmoid", sigmoid)):
        with e.b.if_then(e.b.icmp_signed("==", which, I64(FINISHES[name]))):
            e.map_floats(count, values, lambda at, write=write: write(e, e.vector(values, at)))  # type: ignore[misc]


def silu(e: Emitter, x: Value) -> Value:
    """Return x / (1 + exp(-x)), to about 2 units in the last place."""
    x = e.larger(e.splat(-88.0), x)  # below, the result is 0 but for 1e-36
    return e.b.fdiv(x, _one_and_exponential(e, e.b.fneg(x)))


def sigmoid(e: Emitter, x: Value) -> Value:
    """Return 1 / (1 + exp(-x)), to about 2 units in the last place."""
    return e.b.fdiv(e.splat(1.0), _one_and_exponential(e, e.smaller(e.splat(88.0), e.b.fneg(x))))


def _one_and_exponential(e: Emitter, z: Value) -> Value:
    """Return 1 + exp(z), z <= 88.

    exp(z) = 2^n exp(r) with r = z - n ln 2 in +-0.35, and exp(r) is its Taylor series to r^7 / 7!: error under 1e-8.
    """
    z = e.larger(e.splat(-87.0), z)
    magic = e.splat(12582912.0)  # 1.5 * 2^23: adding it rounds to whole numbers, which then stand in the low bits
    shifted = e.fma(z, e.splat(1.4426950408889634), magic)
    n = e.b.fsub(shifted, magic)
    # ln 2 in two parts, the first with few bits, so that n times it is exact (Cody and Waite)
    r = e.fma(n, e.splat(-0.693359375), z)
    r = e.fma(n, e.splat(2.12194440e-4), r)
    series = e.splat(1 / 5040)
    for factor in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
        series = e.fma(series, r, e.splat(factor))
    integers = ir.VectorType(I32, e.lanes)
    bits = e.b.shl(e.b.bitcast(shifted, integers), integers([23] * e.lanes))
    power = e.b.bitcast(e.b.add(e.b.bitcast(series, integers), bits), e.vector_type)
    return e.b.fadd(e.splat(1.0), power)
