"""Program: steps that compiled code runs one after the other, on one or more threads.

Threads claim units of the current step from a shared counter, and go on when all its units are done. Nobody waits for
a thread that has claimed nothing: one that the operating system does not run costs the others no time.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from skipsim.compiled import compiled, inlined
from skipsim.errors import InputError
from skipsim.hwmodels.kernels.addresses import add_atomically, call, exchange_atomically, words
from skipsim.hwmodels.kernels.machine_code import compile_functions, is_x86
from skipsim.hwmodels.kernels.step import DONE, FIELDS, NEXT, THREADS, UNITS, UNITS_OF, WORK, Step
from skipsim.hwmodels.kernels.vector_code import I32, I64

_UNKNOWN = -1
_SPINS = 2000  # some 10 to 50 microseconds; then the processor is offered to other threads
_FLUSH = 0x8040  # bits of MXCSR: denormal results become 0, denormal inputs count as 0


class Program:
    """A list of steps. A step may be in several programs, but run in only one at a time.

    Attributes:
        steps: what runs, in order.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)
        self._addresses = np.array([step.address for step in self.steps], np.int64)

    def run(self, threads: int = 1, first: int = 0, last: int | None = None) -> None:
        """Run the steps first <= index < last (None: all) on so many threads, without holding Python's lock."""
        last = len(self.steps) if last is None else last
        if threads < 1:
            raise InputError(f"program: threads must be at least 1, got {threads}")
        machine = _machine_calls()
        _prepare(self._addresses, first, last, threads)
        if threads == 1:
            _run(self._addresses, first, last, machine)
            return
        others: list[Future[None]] = [
            _pool(threads - 1).submit(_run, self._addresses, first, last, machine) for _ in range(threads - 1)
        ]
        _run(self._addresses, first, last, machine)
        for other in others:
            if not other.cancel():  # one that has not begun has nothing left to do
                other.result()

    def time(self, repeats: int, threads: int = 1) -> NDArray[np.int64]:
        """Run all steps so often; return the time per step, ns [repeats, steps].

        One thread: its CPU time. The clock is read between steps; what that takes is in the times (an empty step: some
        0.6 microseconds). Where the system has no such clock that compiled code could read, steps are run one by one
        from Python. More threads: wall time of the calling one, which goes on when all have done a step's work; all are
        awake before the first step begins, as in the midst of a frame, and on cores of their own.
        """
        if threads > 1:
            return np.array([self._time_together(threads) for _ in range(repeats)])
        times = np.zeros((repeats, len(self.steps)), np.int64)
        machine = _machine_calls()
        for repeat in range(repeats):
            _prepare(self._addresses, 0, len(self.steps), 1)
            if machine[_CLOCK]:
                _run_timed(self._addresses, machine, times[repeat], np.zeros(2, np.int64))
                continue
            for index in range(len(self.steps)):
                begin = time.thread_time_ns()
                _run(self._addresses, index, index + 1, machine)
                times[repeat, index] = time.thread_time_ns() - begin
        return times

    def _time_together(self, threads: int) -> NDArray[np.int64]:
        machine, turn = _machine_calls().copy(), np.zeros(1, np.int64)
        times = np.zeros(len(self.steps), np.int64)
        if not machine[_CLOCK]:
            for index in range(len(self.steps)):
                begin = time.perf_counter_ns()
                self.run(threads, index, index + 1)
                times[index] = time.perf_counter_ns() - begin
            return times
        _prepare(self._addresses, 0, len(self.steps), threads)

        def help_on(core: int) -> None:
            with _kept_on(core):
                _run_in_turn(self._addresses, machine, turn, threads)

        others = [_pool(threads - 1).submit(help_on, core) for core in range(threads - 1)]
        machine[_CLOCK_KIND] = time.CLOCK_MONOTONIC
        with _kept_on(-1):
            _run_timed_in_turn(self._addresses, machine, turn, threads, times, np.zeros(2, np.int64))
        for other in others:
            other.result()
        return times


@contextmanager
def _kept_on(core: int) -> Iterator[None]:
    """Keep this thread on one of the cores that it may use, counted from either end, where a system call does that.

    Otherwise the operating system may leave a thread that it has just woken beside the one that woke it.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[core % len(before)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="kernels")


_RELAX, _YIELD, _CONTROL, _CLOCK, _CLOCK_KIND = range(5)


@cache
def _machine_calls() -> NDArray[np.int64]:
    """Return the addresses of what numba cannot say itself; 0 where the system has no such thing."""
    own = compile_functions(_control_module(), "control")
    found = [own["relax"], 0, own["control"], 0, 0]
    if sys.platform == "win32":
        library = ctypes.WinDLL("kernel32")
        found[_YIELD] = ctypes.cast(library.SwitchToThread, ctypes.c_void_p).value or 0
    else:
        library = ctypes.CDLL(None)
        found[_YIELD] = ctypes.cast(library.sched_yield, ctypes.c_void_p).value or 0
        found[_CLOCK] = ctypes.cast(library.clock_gettime, ctypes.c_void_p).value or 0
        found[_CLOCK_KIND] = time.CLOCK_THREAD_CPUTIME_ID
    return np.array(found, np.int64)


def _control_module() -> ir.Module:
    """Make relax(), which tells the processor that a loop waits, and control(value): set the floating-point control.

    control returns the register's old content; on machines other than x86 it does nothing.
    """
    module = ir.Module("control")
    kind = ir.FunctionType(ir.VoidType(), [])
    builder = ir.IRBuilder(ir.Function(module, kind, "relax").append_basic_block())
    if is_x86():
        builder.asm(kind, "pause", "", [], side_effect=True)
    builder.ret_void()
    function = ir.Function(module, ir.FunctionType(I64, [I64]), "control")
    builder = ir.IRBuilder(function.append_basic_block())
    if not is_x86():
        builder.ret(I64(0))
        return module
    pointer = ir.PointerType()
    store, load = (
        ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer]), f"llvm.x86.sse.{name}mxcsr")
        for name in ("st", "ld")
    )
    place = builder.alloca(I32)
    builder.call(store, [place])
    old = builder.load(place, typ=I32)
    builder.store(builder.trunc(function.args[0], I32), place)
    builder.call(load, [place])
    builder.ret(builder.zext(old, I64))
    return module


@compiled
def _prepare(steps, first, last, threads):
    for index in range(first, last):
        step = words(steps[index], FIELDS)
        step[UNITS], step[NEXT], step[DONE], step[THREADS] = _UNKNOWN, 0, 0, threads


@inlined
def _run_step(address, machine):
    step = words(address, FIELDS)
    # The first thread says how many units there are: a late one might already see what later steps have written.
    if step[UNITS] == _UNKNOWN:
        found = call(step[UNITS_OF], address, 0, 0, 0, 0, 0)
        exchange_atomically(address + 8 * UNITS, _UNKNOWN, found)
    units, work = add_atomically(address + 8 * UNITS, 0), step[WORK]
    unit = add_atomically(address + 8 * NEXT, 1)
    while unit < units:
        call(work, address, unit, 0, 0, 0, 0)
        add_atomically(address + 8 * DONE, 1)
        unit = add_atomically(address + 8 * NEXT, 1)
    spins = 0
    while add_atomically(address + 8 * DONE, 0) < units:
        spins += 1
        call(machine[_RELAX] if spins < _SPINS else machine[_YIELD], 0, 0, 0, 0, 0, 0)


@compiled
def _run(steps, first, last, machine):
    control = call(machine[_CONTROL], 0x1F80 | _FLUSH, 0, 0, 0, 0, 0)
    for index in range(first, last):
        _run_step(steps[index], machine)
    call(machine[_CONTROL], control, 0, 0, 0, 0, 0)


@inlined
def _now(machine, buffer):
    call(machine[_CLOCK], machine[_CLOCK_KIND], buffer.ctypes.data, 0, 0, 0, 0)
    return buffer[0] * 1_000_000_000 + buffer[1]


@compiled
def _run_timed(steps, machine, times, buffer):
    control = call(machine[_CONTROL], 0x1F80 | _FLUSH, 0, 0, 0, 0, 0)
    before = _now(machine, buffer)
    for index in range(len(steps)):
        _run_step(steps[index], machine)
        after = _now(machine, buffer)
        times[index] = after - before
        before = after
    call(machine[_CONTROL], control, 0, 0, 0, 0, 0)


# Steps timed on several threads: the thread that reads the clock begins every step, otherwise one that the operating
# system has stopped would find steps done by the others and take them for quick. `turn`: threads that wait, then steps.


@inlined
def _wait_for(turn, least, machine):
    spins = 0
    while add_atomically(turn.ctypes.data, 0) < least:
        spins += 1
        call(machine[_RELAX] if spins < _SPINS else machine[_YIELD], 0, 0, 0, 0, 0, 0)


@compiled
def _run_in_turn(steps, machine, turn, threads):
    add_atomically(turn.ctypes.data, 1)
    control = call(machine[_CONTROL], 0x1F80 | _FLUSH, 0, 0, 0, 0, 0)
    for index in range(len(steps)):
        _wait_for(turn, threads + index, machine)
        _run_step(steps[index], machine)
    call(machine[_CONTROL], control, 0, 0, 0, 0, 0)


@compiled
def _run_timed_in_turn(steps, machine, turn, threads, times, buffer):
    control = call(machine[_CONTROL], 0x1F80 | _FLUSH, 0, 0, 0, 0, 0)
    _wait_for(turn, threads - 1, machine)
    before = _now(machine, buffer)
    for index in range(len(steps)):
        add_atomically(turn.ctypes.data, 1)
        _run_step(steps[index], machine)
        after = _now(machine, buffer)
        times[index] = after - before
        before = after
    call(machine[_CONTROL], control, 0, 0, 0, 0, 0)
