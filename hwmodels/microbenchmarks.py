"""Microbenchmarks: what a core can do at best. Peak of its multiply-add units, bandwidth by footprint, latency."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from skipsim.compiled import compiled
from skipsim.hwmodels.fit import significant
from skipsim.hwmodels.kernels.machine_code import compile_functions, host_lanes, vector_registers
from skipsim.hwmodels.kernels.vector_code import FLOAT, I64, Emitter
from skipsim.hwmodels.processor import Peaks

FOOTPRINTS = tuple(2.0**power for power in range(17, 29))  # 128 KiB, beyond the first cache, to 256 MiB
LINE_BYTES = 64
REPEATS = 7


def measure_peaks(threads: int = 1) -> Peaks:
    """Measure so many cores at once, in about ten seconds; of each footprint every core has its share."""
    return Peaks(
        source=f"measured with {'one thread' if threads == 1 else f'{threads} threads'}: best of repeated runs",
        fma_gflops=significant(_together(fma_gflops, threads)),
        random_read_ns=significant(random_read_ns()),
        footprint_bytes=FOOTPRINTS,
        stream_gb_per_s=tuple(
            significant(_together(partial(stream_gb_per_s, int(size) // threads), threads)) for size in FOOTPRINTS
        ),
    )


def _together(rate: Callable[[], float], threads: int) -> float:
    """Return the sum of the rates that so many threads reach at the same time."""
    if threads == 1:
        return rate()
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(lambda _: rate(), range(threads)))


def fma_gflops(steps: int = 2_000_000) -> float:
    """Return 10^9 operations per second of multiply-adds out of registers, two operations per lane."""
    lanes = host_lanes()
    chains = vector_registers(lanes) * 3 // 4
    function = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(
        compile_functions(_fma_module(lanes, chains), f"peak-{lanes}")["peak"]
    )
    place = np.zeros(lanes, np.float32)
    function(1000, place.ctypes.data)
    ns = _best(lambda: function(steps, place.ctypes.data))
    return 2 * lanes * chains * steps / ns


def stream_gb_per_s(footprint_bytes: int) -> float:
    """Return bytes read plus written per nanosecond when half of a footprint is copied to the other half, in a loop."""
    lanes, count = host_lanes(), footprint_bytes // 8
    source, target = np.ones(count, np.float32), np.ones(count, np.float32)  # written: pages are there
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(
        compile_functions(_stream_module(lanes), f"stream-{lanes}")["stream"]
    )
    rounds = max(1, int(2**25 // footprint_bytes))
    function(count, source.ctypes.data, target.ctypes.data, 1)
    return rounds * footprint_bytes / _best(lambda: function(count, source.ctypes.data, target.ctypes.data, rounds))


def random_read_ns(footprint_bytes: int = 2**27, reads: int = 200_000) -> float:
    """Return the time of a read whose address the read before it gave, anywhere in a footprint."""
    lines = footprint_bytes // LINE_BYTES
    order = np.random.default_rng(0).permutation(lines)
    following = np.zeros((lines, LINE_BYTES // 8), np.int64)
    following[order, 0] = np.roll(order, -1)
    _chase(following, 1000)
    return _best(lambda: _chase(following, reads)) / reads


def _best(run) -> float:  # type: ignore[no-untyped-def]
    """Return the least CPU time of repeated runs, ns."""
    times = []
    for _ in range(REPEATS):
        begin = time.thread_time_ns()
        run()
        times.append(time.thread_time_ns() - begin)
    return float(min(times))


def _fma_module(lanes: int, chains: int) -> ir.Module:
    """Make peak(steps, address): so many independent sums, each multiplied and added to in every step."""
    module = ir.Module("peak")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64, I64]), "peak")
    e = Emitter(function, lanes)
    steps, address = function.args
    place = e.pointer(address)
    factor = e.splat(e.load(FLOAT, place))
    sums = [e.vector(place, 0) for _ in range(chains)]

    def step(_, carried):  # type: ignore[no-untyped-def]
        return [e.fma(total, factor, factor) for total in carried]

    sums = e.loop(I64(0), steps, sums, step)
    total = sums[0]
    for one in sums[1:]:
        total = e.b.fadd(total, one)
    e.store(total, place, 0)
    e.b.ret_void()
    return module


def _stream_module(lanes: int) -> ir.Module:
    """Make stream(count, source, target, rounds): target = source x 1.5, so often."""
    module = ir.Module("stream")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 4), "stream")
    e = Emitter(function, lanes)
    count, source, target, rounds = function.args

    def once(_, __):  # type: ignore[no-untyped-def]
        e.map_floats(count, target, lambda at: e.b.fmul(e.vector(source, at), e.splat(1.5)))
        return []

    e.loop(I64(0), rounds, [], once)
    e.b.ret_void()
    return module


@compiled
def _chase(following: NDArray[np.int64], reads: int):  # type: ignore[no-untyped-def]
    at = 0
    for _ in range(reads):
        at = following[at, 0]
    return at
