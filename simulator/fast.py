"""The compiled engine: the same table and counters as `reference.py`, bit for bit, many million tiles per second.

It repeats: carry each core forward until it needs a decision (`fast_core.py`), then make the earliest decision. A
request whose cycle is not known yet depends on one that is pending and takes at least a cycle, so it never comes
before the earliest known one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipsim.compiled import compiled, inlined
from skipsim.simulator import counters as counting
from skipsim.simulator import tiles as table
from skipsim.simulator.banked import TIMING_RECORD, MemoryState, fresh_state
from skipsim.simulator.banks import CHANNEL
from skipsim.simulator.counters import Counters
from skipsim.simulator.fast_core import (
    A_FREE,
    A_LAST,
    ASKED,
    AT_READ,
    AT_WEIGHTS,
    DRAIN,
    EMITTED,
    FETCH_ARRIVAL,
    FETCH_GRANT,
    FIRST_PASS,
    FLAGS,
    G_ASKED,
    G_FREE,
    G_LAST,
    G_PHASE,
    G_REQUEST,
    G_STATE,
    HELD,
    IDLE,
    INDEX,
    LAST,
    NEXT_UNIT,
    NONE,
    P_ARRIVAL,
    P_CLOSES,
    P_COMPUTED,
    P_END,
    P_FIRST,
    P_GATHERED,
    P_NEXT,
    P_SCATTERED,
    P_WEIGHTS,
    PASS_SIZE,
    PREFETCHED,
    PREFETCHING,
    SCAN,
    STATE_SIZE,
    UNIT,
    WANTS_UNIT,
    WEIGHT_FILLINGS,
    WEIGHTS,
    WEIGHTS_ARRIVAL,
    X_FREE,
    X_LAST,
    X_REQUEST,
    X_ROW,
    Work,
    array,
    deal,
    gather,
    grant_read,
    grant_scatter,
    grant_weights,
    scatter,
)
from skipsim.simulator.fast_port import GATE as GATE_READS
from skipsim.simulator.fast_port import PREFETCH, Memory, serve_request
from skipsim.simulator.tiles import Machine, Tiles
from skipsim.simulator.window import IN_ORDER, fresh_window

STAGE_FIRST, STAGE_ROWS, STAGE_LAUNCH = (table.S[n] for n in ("first_row", "rows", "launch"))
STAGE_GATE, STAGE_GATE_READ, STAGE_INDEX = (table.S[n] for n in ("gate", "gate_read", "index"))
PREFETCH_PORT, PREFETCH_READ = (table.S[n] for n in ("prefetch_port", "prefetch_read"))
PREFETCH_FIRST, PREFETCH_MOVES, GATE_FIRST, GATE_MOVES = (
    table.STAGE_REQUEST_COLUMNS.index(n) for n in ("prefetch_first", "prefetch_moves", "gate_first", "gate_moves")
)

LAUNCH, GATE, BARRIER = (counting.C[n] for n in ("launch", "gate", "barrier"))

# What a core waits for, as one number that sorts as decisions are made: cycle, kind, core.
KIND_DEAL, KIND_SCATTER, KIND_GATHER = range(3)
CORE_BITS, KIND_BITS = 10, 2
NEVER = 2**62
NO_STATE = MemoryState(np.zeros(1, TIMING_RECORD), np.zeros(0, CHANNEL))


@inlined
def _wish(s, core):
    """Return the earliest decision that a core waits for; NEVER if it waits for none."""
    wish, doing = NEVER, s[G_STATE]
    if s[X_REQUEST] != NONE:
        wish = (s[X_REQUEST] << KIND_BITS) + KIND_SCATTER
    if doing in (ASKED, AT_WEIGHTS, AT_READ, PREFETCHING):
        wish = min(wish, (s[G_REQUEST] << KIND_BITS) + (KIND_DEAL if doing == ASKED else KIND_GATHER))
    return wish if wish == NEVER else (wish << CORE_BITS) + core


@inlined
def _first(wishes):
    """Return the earliest decision to make: (cycle, kind, core); kind NONE if none is pending."""
    first = NEVER
    for wish in wishes:
        first = min(first, wish)
    if first == NEVER:
        return 0, NONE, 0
    kind = (first >> CORE_BITS) & ((1 << KIND_BITS) - 1)
    return first >> (CORE_BITS + KIND_BITS), kind, first & ((1 << CORE_BITS) - 1)


@compiled
def _grant_prefetch(
    memory, state, core, port_free, port, read, number, requests, latency, port_busy, early, then, start
):  # fmt: skip
    """Grant a pending prefetch, booked on the stage that asked for it; return when the memory port is free again.

    `number`: the stage whose weights they are. Whoever else has asked need not any more. Their gather units turn to
    `then`, at `start` or later.
    """
    request = state[core, G_REQUEST]
    granted = max(request, port_free)
    first, count = requests[PREFETCH_FIRST], requests[PREFETCH_MOVES]
    free, data = serve_request(memory, PREFETCH, number, read, first, count, request, granted)
    port_busy[0] += free - granted
    busy_until = max(granted + port, free)
    early[FETCH_GRANT], early[FETCH_ARRIVAL] = granted, max(busy_until, data) + latency
    for other in range(len(state)):
        s = state[other]
        if s[G_STATE] == PREFETCHING:
            s[G_FREE] = max(start, busy_until if other == core else max(s[G_REQUEST], granted))
            s[WEIGHTS_ARRIVAL], s[G_STATE] = early[FETCH_ARRIVAL], then
    return free


@compiled
def _scan(rows, first_row, end_row, passes, units, emitted):
    """Find the passes and units of a stage; return how many of each."""
    found, dealt, sum_index = 0, 0, 0
    begins = True
    for row in range(first_row, end_row):
        sum_index += rows[row, INDEX]
        emitted[row - first_row] = sum_index
        if begins:
            if rows[row, FLAGS] & UNIT:
                units[dealt] = found
                dealt += 1
                if found:
                    passes[found - 1, P_CLOSES] = 1
            p = passes[found]
            p[P_FIRST], p[P_CLOSES], p[P_NEXT], p[P_ARRIVAL], p[P_WEIGHTS] = row, 0, NONE, 0, 0
            p[P_GATHERED] = p[P_COMPUTED] = p[P_SCATTERED] = NONE
        begins = (rows[row, FLAGS] & LAST) != 0
        if begins:
            passes[found, P_END] = row + 1
            found += 1
    if found:
        passes[found - 1, P_CLOSES] = 1
    return found, dealt


@compiled
def _start_core(s, start, prefetched, core):
    """Reset a core for a new stage; weights that were fetched for it ahead stay, or stay on their way."""
    pending = s[G_STATE] == PREFETCHING
    free, arrival, request = s[G_FREE], s[WEIGHTS_ARRIVAL], s[G_REQUEST]
    s[:] = 0
    s[G_STATE], s[G_FREE], s[G_REQUEST] = (PREFETCHING if pending else WANTS_UNIT), start, request
    s[G_LAST] = s[A_LAST] = s[X_LAST] = s[X_ROW] = s[X_REQUEST] = s[FIRST_PASS] = s[HELD] = NONE
    s[EMITTED] = s[A_FREE] = s[X_FREE] = s[WEIGHTS_ARRIVAL] = s[G_ASKED] = start
    s[NEXT_UNIT] = core
    if prefetched:
        s[HELD], s[WEIGHT_FILLINGS] = 0, 1
        if not pending:
            s[G_FREE], s[WEIGHTS_ARRIVAL] = max(start, free), arrival


@compiled
def _run_stage(work, wishes, port_free, own_port, own_read, own_requests, next_requests, busy_before):
    """Run the tiles of one stage; return when the memory port is free.

    `own_*`: this stage's weights, if they are still on their way; their port cycles are booked in `busy_before`.
    """
    state, cores, next_unit = work.state, work.cores, 0
    first, end = 0, cores  # the core that the last decision concerned; all of them at first
    while True:
        for core in range(first, end):
            moved = True
            while moved:
                gather(work, core, next_unit)
                moved = array(work, core)  # which frees parts for the gather unit
                moved |= scatter(work, core)  # and this for the array
            wishes[core] = _wish(state[core], core)
        cycle, kind, touched = _first(wishes)
        first, end = touched, touched + 1
        if kind == NONE:
            return port_free
        s = state[touched]
        if kind == KIND_DEAL:
            deal(work, touched, next_unit)
            next_unit += 1
            continue
        if kind == KIND_GATHER and s[G_STATE] == PREFETCHING and s[G_PHASE] == PREFETCHED:
            if _finished(state, cores):
                return port_free
            port_free = _grant_prefetch(
                work.memory, state, touched, port_free, work.prefetch_port, work.prefetch_read, work.stage + 1,
                next_requests, work.latency, work.port_busy, work.early, IDLE, 0,
            )  # fmt: skip
            first, end = 0, cores
            continue
        if kind == KIND_GATHER and s[G_STATE] == PREFETCHING:
            port_free = _grant_prefetch(
                work.memory, state, touched, port_free, own_port, own_read, work.stage, own_requests, work.latency,
                busy_before, work.early, WANTS_UNIT, work.start,
            )  # fmt: skip
            work.fetched[0, FETCH_GRANT] = work.early[FETCH_GRANT]
            work.fetched[0, FETCH_ARRIVAL] = work.early[FETCH_ARRIVAL]
            work.early[:] = NONE  # the next stage's are not there yet
            first, end = 0, cores
            continue
        granted = max(cycle, port_free)
        if kind == KIND_SCATTER:
            port_free = grant_scatter(work, touched, granted)
        elif s[G_STATE] == AT_WEIGHTS:
            port_free = grant_weights(work, touched, granted)
            first, end = 0, cores
        else:
            port_free = grant_read(work, touched, granted)


@compiled
def _finished(state, cores):
    """Whether every core has scattered all that it gathered, and gathers no more."""
    for core in range(cores):
        s = state[core]
        prefetching = s[G_STATE] == PREFETCHING and s[G_PHASE] == PREFETCHED
        if s[X_LAST] != s[G_LAST] or not (s[G_STATE] == IDLE or prefetching):
            return False
    return True


@compiled
def _run(
    rows, stages, stage_requests, memory, cores, halves, latency, dynamic, prefetch, begin, end, causes, port_busy,
    events, keep_events, passes, units, emitted, state, rings, wishes, fetched, early,
):  # fmt: skip
    """Run all stages; fill begin, end, causes, port_busy and, if they are kept, events."""
    now = port_free = 0
    for number in range(len(stages)):
        stage = stages[number]
        first_row, count = stage[STAGE_FIRST], stage[STAGE_ROWS]
        begin[number] = now
        gate_begin = now + stage[STAGE_LAUNCH]
        gate_end = gate_begin + stage[STAGE_GATE]
        ahead = prefetch and number > 0 and stage[PREFETCH_PORT] + stage[PREFETCH_READ] > 0
        if stage[STAGE_GATE_READ]:
            while True:  # weights asked for before the gate come first
                for core in range(cores):
                    wishes[core] = _wish(state[core], core)
                cycle, kind, core = _first(wishes)
                if kind == NONE or cycle > gate_begin:
                    break
                port_free = _grant_prefetch(
                    memory, state, core, port_free, stage[PREFETCH_PORT], stage[PREFETCH_READ], number,
                    stage_requests[number], latency, port_busy[number - 1 : number], early, IDLE, 0,
                )  # fmt: skip
            granted = max(gate_begin, port_free)
            first, moves = stage_requests[number, GATE_FIRST], stage_requests[number, GATE_MOVES]
            hold = stage[STAGE_GATE_READ]
            port_free, data = serve_request(memory, GATE_READS, number, hold, first, moves, gate_begin, granted)
            port_busy[number] += port_free - granted
            gate_end = max(gate_end, data + latency)
        start = gate_end + stage[STAGE_INDEX]
        _, dealt = _scan(rows, first_row, first_row + count, passes, units, emitted)
        for core in range(cores):
            _start_core(state[core], start, ahead, core)
        rings[:] = NONE
        fetched[:] = NONE
        if ahead:
            fetched[0, FETCH_GRANT], fetched[0, FETCH_ARRIVAL] = early[FETCH_GRANT], early[FETCH_ARRIVAL]
        early[:] = NONE
        following = prefetch and number + 1 < len(stages)
        work = Work(
            rows, events[first_row : first_row + count] if keep_events else events, causes[number], state, rings,
            passes, units[:dealt], emitted, port_busy[number : number + 1], fetched, early, first_row, start, cores,
            halves, latency, dynamic, stages[number + 1, PREFETCH_PORT] if following else 0,
            stages[number + 1, PREFETCH_READ] if following else 0, memory, number,
        )  # fmt: skip
        port_free = _run_stage(
            work, wishes, port_free, stage[PREFETCH_PORT], stage[PREFETCH_READ], stage_requests[number],
            stage_requests[number + 1 if following else number], port_busy[max(0, number - 1) : number + 1],
        )  # fmt: skip
        now = start
        for core in range(cores):
            now = max(now, state[core, X_FREE], state[core, G_ASKED])
        for core in range(cores):
            s, cause = state[core], causes[number, core]
            cause[LAUNCH] = stage[STAGE_LAUNCH]
            cause[GATE] = gate_end - gate_begin
            cause[SCAN] += stage[STAGE_INDEX]
            done = max(s[X_FREE], s[G_ASKED])
            cause[WEIGHTS if s[G_LAST] == NONE else DRAIN] += done - s[A_FREE]
            cause[BARRIER] += now - done
        end[number] = now


def _memory(tiles: Tiles, machine: Machine, log: NDArray[np.int64]) -> Memory:
    state = fresh_state(machine.memory) if machine.memory else NO_STATE
    window = fresh_window(machine.memory) if machine.memory and machine.memory.window > 1 else IN_ORDER
    logged = np.zeros(1, np.int64)
    return Memory(machine.memory is not None, tiles.moves, tiles.requests, state, window, log, logged)


def run(tiles: Tiles, machine: Machine, *, events: bool = False) -> Counters:
    """Run the table from cycle 0 and return its counters."""
    stages, cores, halves = len(tiles.stages), machine.cores, machine.halves
    longest = int(tiles.stages[:, STAGE_ROWS].max(initial=0))
    begin, end, port_busy = (np.zeros(stages, np.int64) for _ in range(3))
    causes = np.zeros((stages, cores, len(counting.CAUSES)), np.int64)
    log = np.zeros((len(tiles.rows) if events else longest, len(counting.EVENT_COLUMNS)), np.int64)
    most = 3 * len(tiles.rows) + 2 * stages if events else 0  # reads, writes, weights; gates, prefetches
    memory = _memory(tiles, machine, np.zeros((most, len(counting.TRANSFER_COLUMNS)), np.int64))
    asked = tiles.stage_requests if machine.memory else np.zeros((stages, len(table.STAGE_REQUEST_COLUMNS)), np.int64)
    _run(
        tiles.rows, tiles.stages, asked, memory, cores, halves, machine.latency, machine.dynamic,
        machine.prefetch, begin, end, causes, port_busy, log, events, np.empty((longest, PASS_SIZE), np.int64),
        np.empty(longest, np.int64), np.empty(longest, np.int64), np.full((cores, STATE_SIZE), NONE, np.int64),
        np.empty((cores, 3, halves), np.int64), np.empty(cores, np.int64),
        np.empty((int(tiles.rows[:, table.R["group"]].max(initial=0)) + 1, 2), np.int64), np.empty(2, np.int64),
    )  # fmt: skip
    noted = (log, memory.log[: memory.logged[0]]) if events else ()
    return Counters(begin, end, causes, port_busy, *noted)
