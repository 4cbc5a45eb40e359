"""The memory port of the reference engine: one request at a time, and the log of its transfers."""

from __future__ import annotations

import numpy as np
import simpy
from numpy.typing import NDArray

from skipsim.simulator.counters import TRANSFER_COLUMNS, TRANSFER_KINDS
from skipsim.simulator.reference_banked import BankedMemory
from skipsim.simulator.reference_waiting import Arbiter, Clock
from skipsim.simulator.tiles import REQUEST_COLUMNS, STAGE_REQUEST_COLUMNS, Machine, Tiles

Moves = list[list[int]]
Weights = tuple[int, int] | None
Transferred = tuple[str, int]  # kind, and the row or stage that it is for
GRANT = 3  # priority of the decision at the end of a cycle


class MemoryPort:
    """Takes requests, grants them first come first served, and books how long each held it."""

    def __init__(self, env: Clock, tiles: Tiles, machine: Machine) -> None:
        self.tiles, self.latency, self.env = tiles, machine.latency, env
        self.arbiter = Arbiter(env, GRANT)
        self.memory = BankedMemory(machine.memory) if machine.memory else None
        self.busy = np.zeros(len(tiles.stages), np.int64)  # by the stage that asked
        self.fetched: dict[tuple[int, int], int] = {}  # (stage, group) -> arrival of weights fetched for all cores
        self.log: list[tuple[int, int, int, int]] = []

    def moves(self, table: str, row: int, what: str) -> Moves:
        """Return where the bytes of a request lie; nothing unless the memory is banked."""
        if not self.memory:
            return []
        columns = REQUEST_COLUMNS if table == "requests" else STAGE_REQUEST_COLUMNS
        first, count = (int(getattr(self.tiles, table)[row, columns.index(f"{what}_{n}")]) for n in ("first", "moves"))
        moves: Moves = self.tiles.moves[first : first + count].tolist()
        return moves

    def transfer(
        self,
        stage: int,
        order: tuple[int, int],
        hold: int,
        moved: Transferred,
        moves: Moves,
        what: Weights = None,
        port: int = 0,
    ) -> simpy.Event:
        """Ask for the memory port; how long it is held is booked on the stage that asked.

        `what`: weights for all cores, (stage, group), that take `port` cycles of each core's own port.
        """
        request, (kind, number) = self.env.cycle, moved

        def serve(grant: int) -> tuple[int, int]:
            free = data = grant + hold
            if self.memory:
                free, data = self.memory.serve(moves, kind == "write", request, grant)
            self.busy[stage] += free - grant
            self.log.append((TRANSFER_KINDS.index(kind), number, grant, free))
            if what:
                self.fetched[what] = max(grant + port, free, data) + self.latency
            return free, data

        return self.arbiter.request(order, serve, what)

    @property
    def transfers(self) -> NDArray[np.int64]:
        """What moved, in the order of grants."""
        return np.array(self.log, np.int64).reshape(-1, len(TRANSFER_COLUMNS))
