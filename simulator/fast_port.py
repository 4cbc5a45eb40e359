"""The memory port in the compiled engine: how long a request holds it, and the log of its transfers."""

from __future__ import annotations

from typing import Any, NamedTuple

from skipsim.compiled import inlined
from skipsim.simulator.banked import serve
from skipsim.simulator.counters import TRANSFER_COLUMNS, TRANSFER_KINDS
from skipsim.simulator.window import serve_ready_first

KIND, NUMBER, GRANT, FREE = (TRANSFER_COLUMNS.index(name) for name in ("kind", "number", "grant", "free"))
READS, WEIGHTS, WRITES, GATE, PREFETCH = (
    TRANSFER_KINDS.index(name) for name in ("read", "weights", "write", "gate", "prefetch")
)


class Memory(NamedTuple):
    """What the memory port needs to know: where the bytes lie and the state of a banked memory (empty without one)."""

    banked: bool
    moves: Any  # [moves, 6]
    requests: Any  # [rows of the table, 6]
    state: Any  # banked.MemoryState
    window: Any  # window.Window of a memory that serves out of order; of no pieces otherwise
    log: Any  # [transfers, TRANSFER_COLUMNS]; of no length if nothing is logged
    logged: Any  # [1] how many are


@inlined
def serve_request(memory, kind, number, hold, first, count, request, granted):
    """Return when the port is free again and when the last byte arrives, of a request granted at the given cycle."""
    free = data = granted + hold
    if memory.banked and len(memory.window.pieces):
        free, data = serve_ready_first(memory.window, memory.moves, first, count, kind == WRITES, request, granted)
    elif memory.banked:
        free, data = serve(memory.state, memory.moves, first, count, kind == WRITES, request, granted)
    if len(memory.log):
        entry = memory.log[memory.logged[0]]
        entry[KIND], entry[NUMBER], entry[GRANT], entry[FREE] = kind, number, granted, free
        memory.logged[0] += 1
    return free, data
