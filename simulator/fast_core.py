"""The units of one core in the compiled engine: what gather unit, array and scatter unit do between two decisions.

Every unit follows closed recurrences (begin = the latest of what it waits for) until it needs the memory port or a unit
of work. `fast.py` makes those decisions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from skipsim.compiled import inlined
from skipsim.simulator import counters as counting
from skipsim.simulator import tiles as table
from skipsim.simulator.fast_port import READS, WRITES, serve_request
from skipsim.simulator.fast_port import WEIGHTS as WEIGHT_READS

LAST, INPUT, OUTPUT, UNIT, SHARED = table.LAST, table.INPUT, table.OUTPUT, table.UNIT, table.SHARED

FLAGS, GROUP, INDEX, GATHER, GATHER_PORT, READ = (
    table.R[n] for n in ("flags", "group", "index", "gather", "gather_port", "read")
)
WEIGHT_PORT, WEIGHT_READ, COMPUTE = (table.R[n] for n in ("weight_port", "weight_read", "compute"))
SCATTER, SCATTER_PORT, WRITE = (table.R[n] for n in ("scatter", "scatter_port", "write"))


REQUEST_READ, REQUEST_WEIGHT, REQUEST_WRITE = (
    table.REQUEST_COLUMNS.index(n) for n in ("read_first", "weight_first", "write_first")
)

SCAN, BUSY, WEIGHTS = (counting.C[n] for n in ("index", "compute", "weights"))
ISSUE, QUEUE, TRANSFER = (counting.C[n] for n in ("gather_issue", "gather_queue", "gather_transfer"))
LATENCY, DRAIN = (counting.C[n] for n in ("gather_latency", "scatter"))

EVENT_CORE, GATHER_BEGIN, WEIGHTS_END, ISSUE_BEGIN = (
    counting.E[n] for n in ("core", "gather_begin", "weights_end", "issue_begin")
)
REQUEST, GRANT, GATHER_END = (counting.E[n] for n in ("request", "grant", "gather_end"))
COMPUTE_BEGIN, COMPUTE_END, SCATTER_BEGIN = (counting.E[n] for n in ("compute_begin", "compute_end", "scatter_begin"))
WRITE_REQUEST, WRITE_GRANT, SCATTER_END = (counting.E[n] for n in ("write_request", "write_grant", "scatter_end"))

NONE = -1

# What a gather unit is doing: it wants a unit, has asked for one (dynamic dealing), turns to a pass, waits for weights,
# turns to a tile, waits for the tile's read, has nothing left to gather, or waits for the next stage's weights.
WANTS_UNIT, ASKED, AT_PASS, AT_WEIGHTS, AT_ROW, AT_READ, IDLE, PREFETCHING = range(8)

# State of one core (int64 vector). G = gather unit, A = array, X = scatter unit; *_LAST = the last pass it took up.
(
    G_STATE, G_FREE, G_PASS, G_ROW, G_LAST, G_REQUEST, G_PHASE, G_ASKED, HELD, WEIGHTS_ARRIVAL, EMITTED, NEXT_UNIT,
    INPUT_FILLINGS, WEIGHT_FILLINGS, OUTPUT_FILLINGS, A_FREE, A_LAST, X_FREE, X_LAST, X_ROW, X_REQUEST,
    FIRST_PASS, STATE_SIZE,
) = range(23)  # fmt: skip
FRESH, PART_TAKEN, PREFETCHED = range(3)  # G_PHASE

# One pass (int64 vector): its rows, whether its unit ends with it, the next pass on the same core, and when things were
# done.
P_FIRST, P_END, P_CLOSES, P_NEXT, P_ARRIVAL, P_WEIGHTS, P_GATHERED, P_COMPUTED, P_SCATTERED, PASS_SIZE = range(10)
INPUTS, WEIGHT_PARTS, OUTPUTS = range(3)  # rings
FETCH_GRANT, FETCH_ARRIVAL = range(2)  # of weights that one core fetched for all; NONE before the grant


class Work(NamedTuple):
    """What the compiled functions share during one stage."""

    rows: Any  # [rows of the table, columns]
    events: Any  # [rows of the stage, columns]
    causes: Any  # [cores, causes] of this stage
    state: Any  # [cores, STATE_SIZE]
    rings: Any  # [cores, 3, halves]: the last pass that used each of the last fillings of a buffer
    passes: Any  # [passes, PASS_SIZE]
    units: Any  # [units] first pass
    emitted: Any  # [rows of the stage] cycles until the shared index unit has emitted the row's tile
    port_busy: Any  # [1]
    fetched: Any  # [weight groups, 2]: FETCH_*
    early: Any  # [2]: FETCH_* of the next stage's first weights
    first_row: int
    start: int  # when tiles may begin
    cores: int
    halves: int
    latency: int
    dynamic: bool
    prefetch_port: int
    prefetch_read: int
    memory: Any  # fast_port.Memory
    stage: int


@inlined
def _part_free(work, core, ring, filling, last, done):
    """Return when a buffer part is free for the given filling, NONE if not known yet; `last` = the pass before it."""
    if filling < work.halves:
        return 0
    user = last if work.halves == 1 else work.rings[core, ring, filling % work.halves]
    return 0 if user == NONE else work.passes[user, done]


@inlined
def _fill(work, core, ring, filling, last):
    """Note which pass was the last to use the filling before this one."""
    if filling > 0:
        work.rings[core, ring, (filling - 1) % work.halves] = last


@inlined
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


@inlined
def array(work, core):
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


@inlined
def _serve_row(work, row, hold, kind, what, request, granted):
    """Serve a request of a row and book the port; `what` = the request's first column in `requests`."""
    memory = work.memory
    first = memory.requests[row, what] if memory.banked else 0
    count = memory.requests[row, what + 1] if memory.banked else 0
    free, data = serve_request(memory, kind, row, hold, first, count, request, granted)
    work.port_busy[0] += free - granted
    return free, data


@inlined
def grant_scatter(work, core, granted):
    """Grant the memory port to a core's scatter unit; return when the port is free."""
    row = work.state[core, X_ROW]
    request = work.state[core, X_REQUEST]
    free, _ = _serve_row(work, row, work.rows[row, WRITE], WRITES, REQUEST_WRITE, request, granted)
    _scattered(work, core, granted, free)
    return free


@inlined
def grant_weights(work, core, granted):
    """Grant the memory port for the weights that a core waits for; return when the port is free."""
    s = work.state[core]
    row = work.passes[s[G_PASS], P_FIRST]
    hold, request = work.rows[row, WEIGHT_READ], s[G_REQUEST]
    free, data = _serve_row(work, row, hold, WEIGHT_READS, REQUEST_WEIGHT, request, granted)
    s[G_FREE] = max(granted + work.rows[row, WEIGHT_PORT], free)
    s[WEIGHTS_ARRIVAL] = max(s[G_FREE], data) + work.latency
    _begin_pass(work, core)
    if work.rows[row, FLAGS] & SHARED:
        group = work.rows[row, GROUP]
        work.fetched[group, FETCH_GRANT], work.fetched[group, FETCH_ARRIVAL] = granted, s[WEIGHTS_ARRIVAL]
        for other in range(work.cores):
            _join(work, other, group)
    return free


@inlined
def _join(work, core, group):
    """Let a core that waits for weights go on, if another was granted the port for them."""
    s = work.state[core]
    if s[G_STATE] == AT_WEIGHTS:
        first = work.passes[s[G_PASS], P_FIRST]
        if work.rows[first, FLAGS] & SHARED and work.rows[first, GROUP] == group:
            s[G_FREE] = max(s[G_REQUEST], work.fetched[group, FETCH_GRANT])
            s[WEIGHTS_ARRIVAL] = work.fetched[group, FETCH_ARRIVAL]
            _begin_pass(work, core)


@inlined
def grant_read(work, core, granted):
    """Grant the memory port to the read of the row that a core has come to; return when the port is free."""
    s = work.state[core]
    row = s[G_ROW]
    free, data = _serve_row(work, row, work.rows[row, READ], READS, REQUEST_READ, s[G_REQUEST], granted)
    _gathered(work, core, granted, free, data)
    return free


@inlined
def _scattered(work, core, granted, free):
    """End the write of the current row: granted (or not needing a grant), and the port free, at the given cycles."""
    s, passes, row = work.state[core], work.passes, work.state[core, X_ROW]
    p = s[FIRST_PASS] if s[X_LAST] == NONE else passes[s[X_LAST], P_NEXT]
    event = work.events[row - work.first_row]
    event[WRITE_GRANT] = granted
    s[X_FREE] = event[SCATTER_END] = max(granted + work.rows[row, SCATTER_PORT], free)
    s[X_REQUEST] = NONE
    s[X_ROW] = row + 1
    if row + 1 == passes[p, P_END]:
        passes[p, P_SCATTERED] = s[X_FREE]
        s[X_LAST], s[X_ROW] = p, NONE


@inlined
def scatter(work, core):
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
            break
        _scattered(work, core, event[WRITE_REQUEST], event[WRITE_REQUEST])
        moved = True
    return moved


@inlined
def deal(work, core, unit):
    """Hand a unit to a core's gather unit, or tell it that there is none left."""
    s = work.state[core]
    if unit < len(work.units):
        s[G_STATE], s[G_PASS] = AT_PASS, work.units[unit]
    else:
        s[G_STATE], s[G_ASKED] = IDLE, s[G_FREE]
    s[G_PHASE] = FRESH


@inlined
def _gathered(work, core, granted, free, data):
    """End the read of the current row (granted, port free, last byte at the given cycles) and turn to what follows."""
    s, passes, row = work.state[core], work.passes, work.state[core, G_ROW]
    p, read, event = s[G_PASS], work.rows[row, READ], work.events[row - work.first_row]
    event[GRANT] = granted
    s[G_FREE] = event[GATHER_END] = max(granted + work.rows[row, GATHER_PORT], free)
    passes[p, P_ARRIVAL] = max(passes[p, P_ARRIVAL], max(s[G_FREE], data) + (work.latency if read else 0))
    s[G_STATE], s[G_ROW] = AT_ROW, row + 1
    if row + 1 == passes[p, P_END]:
        passes[p, P_GATHERED] = s[G_FREE]
        s[G_PASS], s[G_PHASE] = p + 1, FRESH
        s[G_STATE] = WANTS_UNIT if passes[p, P_CLOSES] else AT_PASS


@inlined
def _turn_to_pass(work, core):
    """Take an input part and see to the weights; return False if it must wait for a part or for weights."""
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
            group = work.rows[first, GROUP]
            if work.rows[first, FLAGS] & SHARED and work.fetched[group, FETCH_GRANT] != NONE:
                _join(work, core, group)
                return True
            return False
        s[G_FREE] += port
        s[WEIGHTS_ARRIVAL] = s[G_FREE]
    _begin_pass(work, core)
    return True


@inlined
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


@inlined
def gather(work, core, next_unit):
    """Carry the gather unit forward until it must wait for a decision or a part; `next_unit`: the next to be dealt."""
    s = work.state[core]
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
                return
            _gathered(work, core, event[REQUEST], event[REQUEST], event[REQUEST])
        elif doing == AT_PASS:
            if not _turn_to_pass(work, core):
                return
        elif doing == WANTS_UNIT:
            free = _part_free(work, core, INPUTS, s[INPUT_FILLINGS], s[G_LAST], P_COMPUTED)
            if free == NONE:
                return
            s[G_FREE] = max(s[G_FREE], free)
            if work.dynamic and next_unit < len(work.units):
                s[G_STATE], s[G_REQUEST] = ASKED, s[G_FREE]
                return
            deal(work, core, next_unit if work.dynamic else s[NEXT_UNIT])  # whoever asks when none is left gets none
            s[NEXT_UNIT] += work.cores
        elif doing == IDLE and s[G_PHASE] == FRESH and work.prefetch_port + work.prefetch_read > 0:
            free = _part_free(work, core, WEIGHT_PARTS, s[WEIGHT_FILLINGS], s[G_LAST], P_COMPUTED)
            if free == NONE:
                return
            s[G_FREE], s[G_PHASE] = max(s[G_FREE], free), PREFETCHED
            if work.prefetch_read and work.early[FETCH_GRANT] == NONE:
                s[G_STATE], s[G_REQUEST] = PREFETCHING, s[G_FREE]
            elif work.prefetch_read:
                s[G_FREE], s[WEIGHTS_ARRIVAL] = max(s[G_FREE], work.early[FETCH_GRANT]), work.early[FETCH_ARRIVAL]
            else:
                s[G_FREE] += work.prefetch_port
                s[WEIGHTS_ARRIVAL] = s[G_FREE]
            return
        else:
            return
