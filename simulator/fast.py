"""The compiled engine: the same table, the same counters as `reference.py`, bit for bit, at many million tiles per second.

Between two decisions (a grant of the memory port, a deal of a unit) every unit of a core follows closed recurrences: begin = the latest
of what it waits for. So the engine repeats: carry each core forward until it needs a decision, then make the earliest decision. A request
whose cycle is not known yet depends on one that is pending and takes at least a cycle, so it can never come before the earliest known one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from skipsim.simulator import counters as counting
from skipsim.simulator import tiles as table
from skipsim.simulator.counters import Counters
from skipsim.simulator.tiles import Machine, Tiles

LAST, INPUT, OUTPUT, UNIT = table.LAST, table.INPUT, table.OUTPUT, table.UNIT

FLAGS, GROUP, INDEX, GATHER, GATHER_PORT, READ = (
    table.R[n] for n in ("flags", "group", "index", "gather", "gather_port", "read")
)
WEIGHT_PORT, WEIGHT_READ, COMPUTE = (table.R[n] for n in ("weight_port", "weight_read", "compute"))
SCATTER, SCATTER_PORT, WRITE = (table.R[n] for n in ("scatter", "scatter_port", "write"))

STAGE_FIRST, STAGE_ROWS, STAGE_LAUNCH = (table.S[n] for n in ("first_row", "rows", "launch"))
STAGE_GATE, STAGE_GATE_READ, STAGE_INDEX = (table.S[n] for n in ("gate", "gate_read", "index"))
PREFETCH_PORT, PREFETCH_READ = (table.S[n] for n in ("prefetch_port", "prefetch_read"))

LAUNCH, GATE, SCAN, BUSY, WEIGHTS = (counting.C[n] for n in ("launch", "gate", "index", "compute", "weights"))
ISSUE, QUEUE, TRANSFER = (counting.C[n] for n in ("gather_issue", "gather_queue", "gather_transfer"))
LATENCY, DRAIN, BARRIER = (counting.C[n] for n in ("gather_latency", "scatter", "barrier"))

EVENT_CORE, GATHER_BEGIN, WEIGHTS_END, ISSUE_BEGIN = (
    counting.E[n] for n in ("core", "gather_begin", "weights_end", "issue_begin")
)
REQUEST, GRANT, GATHER_END = (counting.E[n] for n in ("request", "grant", "gather_end"))
COMPUTE_BEGIN, COMPUTE_END, SCATTER_BEGIN = (counting.E[n] for n in ("compute_begin", "compute_end", "scatter_begin"))
WRITE_REQUEST, WRITE_GRANT, SCATTER_END = (counting.E[n] for n in ("write_request", "write_grant", "scatter_end"))

NONE = -1

# What a gather unit is doing: it wants a unit, has asked for one (dynamic dealing), turns to a pass, waits for weights, turns to a tile,
# waits for the tile's read, has nothing left to gather, or waits for the next stage's weights.
WANTS_UNIT, ASKED, AT_PASS, AT_WEIGHTS, AT_ROW, AT_READ, IDLE, PREFETCHING = range(8)
KIND_DEAL, KIND_SCATTER, KIND_GATHER = range(3)  # order of decisions within a cycle

# State of one core (int64 vector). G = gather unit, A = array, X = scatter unit; *_LAST = the last pass it took up.
(
    G_STATE, G_FREE, G_PASS, G_ROW, G_LAST, G_REQUEST, G_PHASE, G_ASKED, HELD, WEIGHTS_ARRIVAL, EMITTED, NEXT_UNIT,
    INPUT_FILLINGS, WEIGHT_FILLINGS, OUTPUT_FILLINGS, A_FREE, A_LAST, X_FREE, X_LAST, X_ROW, X_REQUEST, FIRST_PASS, STATE_SIZE,
) = range(23)  # fmt: skip
FRESH, PART_TAKEN, PREFETCHED = range(3)  # G_PHASE

# One pass (int64 vector): its rows, whether its unit ends with it, the next pass on the same core, and when things were done.
P_FIRST, P_END, P_CLOSES, P_NEXT, P_ARRIVAL, P_WEIGHTS, P_GATHERED, P_COMPUTED, P_SCATTERED, PASS_SIZE = range(10)
INPUTS, WEIGHT_PARTS, OUTPUTS = range(3)  # rings


class Work(NamedTuple):
    """What the compiled functions share during one stage."""

    rows: Any  # [rows of the table, columns]
    events: Any  # [rows of the stage, columns]
    causes: Any  # [cores, causes] of this stage
    state: Any  # [cores, STATE_SIZE]
    rings: Any  # [cores, 3, halves]: the last pass that used each of the last fillings of the input, weight and output buffer
    passes: Any  # [passes, PASS_SIZE]
    units: Any  # [units] first pass
    emitted: Any  # [rows of the stage] cycles until the shared index unit has emitted the row's tile
    port_busy: Any  # [1]
    first_row: int
    start: int  # when tiles may begin
    cores: int
    halves: int
    latency: int
    dynamic: bool
    prefetch_port: int
    prefetch_read: int


@numba.njit(cache=True)
def _part_free(work, core, ring, filling, last, done):
    """Return when a buffer part is free for the given filling, NONE if not known yet; `last` = the pass before it."""
    if filling < work.halves:
        return 0
    user = last if work.halves == 1 else work.rings[core, ring, filling % work.halves]
    return 0 if user == NONE else work.passes[user, done]


@numba.njit(cache=True)
def _fill(work, core, ring, filling, last):
    """Note which pass was the last to use the filling before this one."""
    if filling > 0:
        work.rings[core, ring, (filling - 1) % work.halves] = last


@numba.njit(cache=True)
def _book_wait(work, core, first, end, free, arrived):
    """Say what the gather unit did in the cycles from `free` to `arrived`, in which the array waited for its work."""
    causes = work.causes[core]
    for row in range(first, end):
        event = work.events[row - work.first_row]
        begin = event[GATHER_BEGIN]
        for column, cause in (
            (WEIGHTS_END, WEIGHTS),
            (ISSUE_BEGIN, SCAN),
            (REQUEST, ISSUE),
            (GRANT, QUEUE),
            (GATHER_END, TRANSFER),
        ):
            until = event[column]
            causes[cause] += max(0, min(until, arrived) - max(begin, free))
            begin = until


@numba.njit(cache=True)
def _array(work, core):
    """Run gathered passes while an output part is free; return whether any ran."""
    s, passes, rows, moved = work.state[core], work.passes, work.rows, False
    while True:
        p = s[FIRST_PASS] if s[A_LAST] == NONE else passes[s[A_LAST], P_NEXT]
        if p == NONE or passes[p, P_GATHERED] == NONE:
            return moved
        first, end, room = passes[p, P_FIRST], passes[p, P_END], 0
        if rows[first, FLAGS] & OUTPUT:
            room = _part_free(work, core, OUTPUTS, s[OUTPUT_FILLINGS], s[A_LAST], P_SCATTERED)
            if room == NONE:
                return moved
            _fill(work, core, OUTPUTS, s[OUTPUT_FILLINGS], s[A_LAST])
            s[OUTPUT_FILLINGS] += 1
        causes, free = work.causes[core], s[A_FREE]
        gathered = max(free, work.events[end - 1 - work.first_row, GATHER_END])
        rows_there = max(gathered, passes[p, P_ARRIVAL])
        arrived = max(rows_there, passes[p, P_WEIGHTS])
        begin = max(arrived, room)
        done = begin + rows[end - 1, COMPUTE]
        if arrived > free:
            _book_wait(work, core, first, end, free, arrived)
            causes[LATENCY] += rows_there - gathered
            causes[WEIGHTS] += arrived - rows_there
        causes[DRAIN] += begin - arrived
        causes[BUSY] += done - begin
        for row in range(first - work.first_row, end - work.first_row):
            work.events[row, COMPUTE_BEGIN] = begin
            work.events[row, COMPUTE_END] = done
        passes[p, P_COMPUTED] = done
        s[A_FREE], s[A_LAST], moved = done, p, True


@numba.njit(cache=True)
def _scattered(work, core, granted):
    """End the write of the current row, granted (or not needing a grant) at the given cycle."""
    s, passes, row = work.state[core], work.passes, work.state[core, X_ROW]
    p = s[FIRST_PASS] if s[X_LAST] == NONE else passes[s[X_LAST], P_NEXT]
    event = work.events[row - work.first_row]
    event[WRITE_GRANT] = granted
    s[X_FREE] = event[SCATTER_END] = granted + max(work.rows[row, SCATTER_PORT], work.rows[row, WRITE])
    s[X_REQUEST] = NONE
    s[X_ROW] = row + 1
    if row + 1 == passes[p, P_END]:
        passes[p, P_SCATTERED] = s[X_FREE]
        s[X_LAST], s[X_ROW] = p, NONE


@numba.njit(cache=True)
def _scatter(work, core):
    """Write the tiles of computed passes until one needs the memory port; return whether anything moved."""
    s, passes, moved = work.state[core], work.passes, False
    while s[X_REQUEST] == NONE:
        p = s[FIRST_PASS] if s[X_LAST] == NONE else passes[s[X_LAST], P_NEXT]
        if p == NONE or passes[p, P_COMPUTED] == NONE:
            break
        if s[X_ROW] == NONE:
            s[X_ROW] = passes[p, P_FIRST]
        row, begin = s[X_ROW], max(s[X_FREE], passes[p, P_COMPUTED])
        event = work.events[row - work.first_row]
        event[SCATTER_BEGIN] = begin
        event[WRITE_REQUEST] = begin + work.rows[row, SCATTER]
        if work.rows[row, WRITE]:
            s[X_REQUEST] = event[WRITE_REQUEST]
            work.port_busy[0] += work.rows[row, WRITE]
            break
        _scattered(work, core, event[WRITE_REQUEST])
        moved = True
    return moved


@numba.njit(cache=True)
def _deal(work, core, unit):
    """Hand a unit to a core's gather unit, or tell it that there is none left."""
    s = work.state[core]
    if unit < len(work.units):
        s[G_STATE], s[G_PASS] = AT_PASS, work.units[unit]
    else:
        s[G_STATE], s[G_ASKED] = IDLE, s[G_FREE]
    s[G_PHASE] = FRESH


@numba.njit(cache=True)
def _fetched(work, core, granted, port, read):
    """End a transfer of weights; return when they arrive."""
    work.state[core, G_FREE] = granted + max(port, read)
    return work.state[core, G_FREE] + (work.latency if read else 0)


@numba.njit(cache=True)
def _gathered(work, core, granted):
    """End the read of the current row, granted (or not needing a grant) at the given cycle, and turn to what follows."""
    s, passes, row = work.state[core], work.passes, work.state[core, G_ROW]
    p, read, event = s[G_PASS], work.rows[row, READ], work.events[row - work.first_row]
    event[GRANT] = granted
    s[G_FREE] = event[GATHER_END] = granted + max(work.rows[row, GATHER_PORT], read)
    passes[p, P_ARRIVAL] = max(passes[p, P_ARRIVAL], s[G_FREE] + (work.latency if read else 0))
    s[G_STATE], s[G_ROW] = AT_ROW, row + 1
    if row + 1 == passes[p, P_END]:
        passes[p, P_GATHERED] = s[G_FREE]
        s[G_PASS], s[G_PHASE] = p + 1, FRESH
        s[G_STATE] = WANTS_UNIT if passes[p, P_CLOSES] else AT_PASS


@numba.njit(cache=True)
def _turn_to_pass(work, core):
    """Take an input part and see to the weights; return False if a part is not known to be free, or weights must be fetched."""
    s, passes, p = work.state[core], work.passes, work.state[core, G_PASS]
    first = passes[p, P_FIRST]
    if s[G_PHASE] == FRESH:
        if work.rows[first, FLAGS] & INPUT:
            free = _part_free(work, core, INPUTS, s[INPUT_FILLINGS], s[G_LAST], P_COMPUTED)
            if free == NONE:
                return False
            _fill(work, core, INPUTS, s[INPUT_FILLINGS], s[G_LAST])
            s[INPUT_FILLINGS] += 1
            s[G_FREE] = max(s[G_FREE], free)
        work.events[first - work.first_row, GATHER_BEGIN] = work.start if s[G_LAST] == NONE else s[G_FREE]
        s[G_PHASE] = PART_TAKEN
    port, read = work.rows[first, WEIGHT_PORT], work.rows[first, WEIGHT_READ]
    if work.rows[first, GROUP] != s[HELD] and port + read > 0:
        free = _part_free(work, core, WEIGHT_PARTS, s[WEIGHT_FILLINGS], s[G_LAST], P_COMPUTED)
        if free == NONE:
            return False
        _fill(work, core, WEIGHT_PARTS, s[WEIGHT_FILLINGS], s[G_LAST])
        s[WEIGHT_FILLINGS] += 1
        s[G_FREE] = max(s[G_FREE], free)
        if read:
            s[G_STATE], s[G_REQUEST] = AT_WEIGHTS, s[G_FREE]
            work.port_busy[0] += read
            return False
        s[WEIGHTS_ARRIVAL] = _fetched(work, core, s[G_FREE], port, read)
    _begin_pass(work, core)
    return True


@numba.njit(cache=True)
def _begin_pass(work, core):
    """Turn from the weights to the tiles of the pass."""
    s, p = work.state[core], work.state[core, G_PASS]
    first = work.passes[p, P_FIRST]
    s[HELD] = work.rows[first, GROUP]
    work.passes[p, P_WEIGHTS] = s[WEIGHTS_ARRIVAL]
    if s[G_LAST] == NONE:
        s[FIRST_PASS] = p
    else:
        work.passes[s[G_LAST], P_NEXT] = p
    s[G_LAST], s[G_ROW], s[G_STATE] = p, first, AT_ROW


@numba.njit(cache=True)
def _gather(work, core):
    """Carry the gather unit forward until it needs a decision or a part that is not known to be free; return whether it moved."""
    s, moved = work.state[core], False
    while True:
        doing = s[G_STATE]
        if doing == AT_ROW:
            row = s[G_ROW]
            event = work.events[row - work.first_row]
            if row != work.passes[s[G_PASS], P_FIRST]:
                event[GATHER_BEGIN] = s[G_FREE]
            event[EVENT_CORE], event[WEIGHTS_END] = core, s[G_FREE]
            s[EMITTED] += work.rows[row, INDEX]
            emitted = work.start + work.emitted[row - work.first_row] if work.dynamic else s[EMITTED]
            event[ISSUE_BEGIN] = max(s[G_FREE], emitted)
            event[REQUEST] = event[ISSUE_BEGIN] + work.rows[row, GATHER]
            if work.rows[row, READ]:
                s[G_STATE], s[G_REQUEST] = AT_READ, event[REQUEST]
                work.port_busy[0] += work.rows[row, READ]
                return moved
            _gathered(work, core, event[REQUEST])
        elif doing == AT_PASS:
            if not _turn_to_pass(work, core):
                return moved
        elif doing == WANTS_UNIT:
            free = _part_free(work, core, INPUTS, s[INPUT_FILLINGS], s[G_LAST], P_COMPUTED)
            if free == NONE:
                return moved
            s[G_FREE] = max(s[G_FREE], free)
            if work.dynamic:
                s[G_STATE], s[G_REQUEST] = ASKED, s[G_FREE]
                return moved
            _deal(work, core, s[NEXT_UNIT])
            s[NEXT_UNIT] += work.cores
        elif doing == IDLE and s[G_PHASE] == FRESH and work.prefetch_port + work.prefetch_read > 0:
            free = _part_free(work, core, WEIGHT_PARTS, s[WEIGHT_FILLINGS], s[G_LAST], P_COMPUTED)
            if free == NONE:
                return moved
            s[G_FREE], s[G_PHASE] = max(s[G_FREE], free), PREFETCHED
            if work.prefetch_read:
                s[G_STATE], s[G_REQUEST] = PREFETCHING, s[G_FREE]
                work.port_busy[0] += work.prefetch_read
            else:
                s[WEIGHTS_ARRIVAL] = _fetched(work, core, s[G_FREE], work.prefetch_port, 0)
            return moved
        else:
            return moved
        moved = True


@numba.njit(cache=True)
def _earliest(state, cores):
    """Return the earliest decision to make: (cycle, kind, core); kind NONE if none is pending."""
    cycle, kind, who = 0, NONE, 0
    for core in range(cores):
        s = state[core]
        if s[X_REQUEST] != NONE and (kind == NONE or (s[X_REQUEST], KIND_SCATTER) < (cycle, kind)):
            cycle, kind, who = s[X_REQUEST], KIND_SCATTER, core
        doing = s[G_STATE]
        if doing == ASKED or doing == AT_WEIGHTS or doing == AT_READ or doing == PREFETCHING:
            wish = KIND_DEAL if doing == ASKED else KIND_GATHER
            if kind == NONE or (s[G_REQUEST], wish) < (cycle, kind):
                cycle, kind, who = s[G_REQUEST], wish, core
    return cycle, kind, who


@numba.njit(cache=True)
def _arrive_prefetched(state, core, port_free, port, read, latency):
    """Grant a pending prefetch; return when the memory port is free again."""
    s = state[core]
    granted = max(s[G_REQUEST], port_free)
    s[G_FREE] = granted + max(port, read)
    s[WEIGHTS_ARRIVAL] = s[G_FREE] + latency
    return granted + read


@numba.njit(cache=True)
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


@numba.njit(cache=True)
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


@numba.njit(cache=True)
def _run_stage(work, port_free, own_port, own_read):
    """Run the tiles of one stage; return when the memory port is free. `own_*`: this stage's weights, if still on their way."""
    state, cores, next_unit = work.state, work.cores, 0
    touched = NONE  # the core that the last decision concerned; all of them at first
    while True:
        for core in range(cores):
            if touched == NONE or core == touched:
                moved = True
                while moved:
                    moved = _gather(work, core)
                    moved |= _array(work, core)
                    moved |= _scatter(work, core)
        cycle, kind, touched = _earliest(state, cores)
        if kind == NONE:
            return port_free
        s = state[touched]
        if kind == KIND_DEAL:
            _deal(work, touched, next_unit)
            next_unit += 1
            continue
        if kind == KIND_GATHER and s[G_STATE] == PREFETCHING and s[G_PHASE] == PREFETCHED:
            if _finished(state, cores):
                return port_free
            port_free = _arrive_prefetched(
                state, touched, port_free, work.prefetch_port, work.prefetch_read, work.latency
            )
            s[G_STATE] = IDLE
            continue
        if kind == KIND_GATHER and s[G_STATE] == PREFETCHING:
            port_free = _arrive_prefetched(state, touched, port_free, own_port, own_read, work.latency)
            s[G_FREE] = max(s[G_FREE], work.start)
            s[G_STATE] = WANTS_UNIT
            continue
        granted = max(cycle, port_free)
        if kind == KIND_SCATTER:
            port_free = granted + work.rows[s[X_ROW], WRITE]
            _scattered(work, touched, granted)
        elif s[G_STATE] == AT_WEIGHTS:
            row = work.passes[s[G_PASS], P_FIRST]
            port_free = granted + work.rows[row, WEIGHT_READ]
            s[WEIGHTS_ARRIVAL] = _fetched(
                work, touched, granted, work.rows[row, WEIGHT_PORT], work.rows[row, WEIGHT_READ]
            )
            _begin_pass(work, touched)
        else:
            port_free = granted + work.rows[s[G_ROW], READ]
            _gathered(work, touched, granted)


@numba.njit(cache=True)
def _finished(state, cores):
    """Whether every core has scattered all that it gathered, and gathers no more."""
    for core in range(cores):
        s = state[core]
        prefetching = s[G_STATE] == PREFETCHING and s[G_PHASE] == PREFETCHED
        if s[X_LAST] != s[G_LAST] or not (s[G_STATE] == IDLE or prefetching):
            return False
    return True


@numba.njit(cache=True, nogil=True)
def _run(rows, stages, cores, halves, latency, dynamic, prefetch, begin, end, causes, port_busy, events, keep_events):
    """Run all stages; fill begin, end, causes, port_busy and, if they are kept, events."""
    most = 0
    for stage in range(len(stages)):
        most = max(most, stages[stage, STAGE_ROWS])
    passes = np.empty((most, PASS_SIZE), np.int64)
    units = np.empty(most, np.int64)
    emitted = np.empty(most, np.int64)
    scratch = np.empty((0 if keep_events else most, len(counting.EVENT_COLUMNS)), np.int64)
    state = np.full((cores, STATE_SIZE), NONE, np.int64)
    rings = np.empty((cores, 3, halves), np.int64)
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
                cycle, kind, core = _earliest(state, cores)
                if kind == NONE or cycle > gate_begin:
                    break
                port_free = _arrive_prefetched(
                    state, core, port_free, stage[PREFETCH_PORT], stage[PREFETCH_READ], latency
                )
                state[core, G_STATE] = IDLE
            granted = max(gate_begin, port_free)
            port_free = granted + stage[STAGE_GATE_READ]
            port_busy[number] += stage[STAGE_GATE_READ]
            gate_end = max(gate_end, port_free + latency)
        start = gate_end + stage[STAGE_INDEX]
        found, dealt = _scan(rows, first_row, first_row + count, passes, units, emitted)
        for core in range(cores):
            _start_core(state[core], start, ahead, core)
        rings[:] = NONE
        following = prefetch and number + 1 < len(stages)
        work = Work(
            rows, events[first_row : first_row + count] if keep_events else scratch, causes[number], state, rings, passes, units[:dealt],
            emitted, port_busy[number : number + 1], first_row, start, cores, halves, latency, dynamic,
            stages[number + 1, PREFETCH_PORT] if following else 0, stages[number + 1, PREFETCH_READ] if following else 0,
        )  # fmt: skip
        port_free = _run_stage(work, port_free, stage[PREFETCH_PORT], stage[PREFETCH_READ])
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


def run(tiles: Tiles, machine: Machine, *, events: bool = False) -> Counters:
    """Run the table from cycle 0 and return its counters."""
    stages = len(tiles.stages)
    begin, end, port_busy = (np.zeros(stages, np.int64) for _ in range(3))
    causes = np.zeros((stages, machine.cores, len(counting.CAUSES)), np.int64)
    log = np.zeros((len(tiles.rows) if events else 0, len(counting.EVENT_COLUMNS)), np.int64)
    _run(
        tiles.rows, tiles.stages, machine.cores, machine.halves, machine.latency, machine.dynamic, machine.prefetch,
        begin, end, causes, port_busy, log, events,
    )  # fmt: skip
    return Counters(begin, end, causes, port_busy, log if events else None)
