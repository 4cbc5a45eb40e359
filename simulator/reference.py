"""The SimPy engine: the definition of time.

Written to be read: one process per unit, nothing clever. `fast.py` must return the same numbers, bit for bit, and
shares no code with it.

The memory port and the dealing of units decide at the *end* of a cycle, after every other event of that cycle, so no
order of creation matters. The port serves by request cycle; same cycle: scatter, gather, gate, then lower core. Units
are dealt to whoever asks first; same cycle: lower core. Zero-cycle transfers never use the port. See MODEL.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import simpy

from skipsim.simulator.counters import CAUSES, EVENT_COLUMNS, C, Counters, E
from skipsim.simulator.reference_port import MemoryPort, Moves, Transferred
from skipsim.simulator.reference_waiting import Arbiter, Clock, Parts, Progress
from skipsim.simulator.tiles import (
    INPUT,
    LAST,
    OUTPUT,
    SHARED,
    UNIT,
    Machine,
    R,
    S,
    Tiles,
)

Steps = Generator[simpy.Event, Any, None]
Transfer = Generator[simpy.Event, Any, int]
Note = Callable[[], None] | None
SCATTER, GATHER, GATE = 0, 1, 2  # order at the port within one cycle
DEAL = 2  # priority of the decision at the end of a cycle; SimPy's own events have 0 and 1, the memory port's 3


@dataclass
class Pass:
    """One run of the array: its rows, and when its inputs and weights had arrived."""

    rows: list[int]
    group: int
    new_input: bool
    new_output: bool
    shared: bool
    compute: int
    arrival: int = 0
    weights_arrival: int = 0
    activity: list[tuple[str, int, int]] = field(default_factory=list)  # of the gather unit: cause, begin, end


@dataclass
class Prefetched:
    """Weights on their way to a core before their stage began."""

    done: simpy.Event
    arrival: int = 0


class Run:
    """Everything that lives across stages: the clock, the memory port, the counters."""

    def __init__(self, tiles: Tiles, machine: Machine) -> None:
        self.tiles, self.machine = tiles, machine
        self.rows: list[list[int]] = tiles.rows.tolist()
        self.env = Clock()
        self.port = MemoryPort(self.env, tiles, machine)
        stages = len(tiles.stages)
        self.begin = np.zeros(stages, np.int64)
        self.end = np.zeros(stages, np.int64)
        self.causes = np.zeros((stages, machine.cores, len(CAUSES)), np.int64)
        self.events = np.zeros((len(tiles.rows), len(EVENT_COLUMNS)), np.int64)
        self.prefetched: dict[int, Prefetched] = {}  # core -> weights of the stage to come

    def stages(self) -> Steps:
        """Run one stage after the other."""
        for number in range(len(self.tiles.stages)):
            yield from Stage(self, number).run()


class Stage:
    """One layer on one frame: launch, gate, index, then all cores until the barrier."""

    def __init__(self, run: Run, number: int) -> None:
        self.run_, self.number, self.env = run, number, run.env
        self.machine = run.machine
        self.columns = {name: int(value) for name, value in zip(S, run.tiles.stages[number], strict=True)}
        units = self._units()
        rows = range(self.columns["first_row"], self.columns["first_row"] + self.columns["rows"])
        self.emissions = list(accumulate(self.row(row, "index") for row in rows))  # one index unit for all cores
        lists = 1 if self.machine.dynamic else self.machine.cores
        self.units = [deque(units[first::lists]) for first in range(lists)]
        self.dealer = Arbiter(run.env, DEAL)
        self.ready_at = 0

    def row(self, row: int, column: str) -> int:
        """Return one number of the table."""
        return self.run_.rows[row][R[column]]

    def _units(self) -> list[list[Pass]]:
        units: list[list[Pass]] = []
        begins = True
        for row in range(self.columns["first_row"], self.columns["first_row"] + self.columns["rows"]):
            flags = self.row(row, "flags")
            if begins:
                new_input, new_output, shared = bool(flags & INPUT), bool(flags & OUTPUT), bool(flags & SHARED)
                one = Pass([], self.row(row, "group"), new_input, new_output, shared, 0)
                if flags & UNIT:
                    units.append([])
                units[-1].append(one)
            one.rows.append(row)
            begins = bool(flags & LAST)
            one.compute = self.row(row, "compute")
        return units

    def run(self) -> Steps:
        """Go through the stage and book what is common to all cores."""
        env, run, columns = self.env, self.run_, self.columns
        begin = env.cycle
        yield env.timeout(columns["launch"])
        gate_begin = env.cycle
        yield self._gate() if columns["gate_read"] else env.timeout(columns["gate"])
        gate_end = env.cycle
        yield env.timeout(columns["index"])
        self.ready_at = env.cycle
        cores = [Core(self, number) for number in range(self.machine.cores)]
        yield env.all_of([core.finished for core in cores])
        run.begin[self.number], run.end[self.number] = begin, env.cycle
        for core in cores:
            causes = run.causes[self.number, core.number]
            causes[C["launch"]] = columns["launch"]
            causes[C["gate"]] = gate_end - gate_begin
            causes[C["index"]] = columns["index"]
            core.book(causes, env.cycle)

    def _gate(self) -> simpy.Event:
        def stream() -> Steps:
            begin = self.env.cycle
            port, moved = self.run_.port, ("gate", self.number)
            moves = port.moves("stage_requests", self.number, "gate")
            _, _, data = yield port.transfer(self.number, (GATE, 0), self.columns["gate_read"], moved, moves)
            done = max(begin + self.columns["gate"], data + self.machine.latency)
            yield self.env.timeout(done - self.env.cycle)

        return self.env.process(stream())

    def next_unit(self, core: int) -> Generator[simpy.Event, Any, list[Pass] | None]:
        """Deal a unit: static = round robin by unit number, dynamic = the next one, to whoever asks first."""
        if self.machine.dynamic:
            yield self.dealer.request((core,), lambda cycle: (cycle, cycle))
            core = 0
        return self.units[core].popleft() if self.units[core] else None

    def emission(self, core: Core, row: int) -> int:
        """Return when a tile's number is known: each core has an index unit, or one serves all in order (dynamic)."""
        if self.machine.dynamic:
            return self.ready_at + self.emissions[row - self.columns["first_row"]]
        core.emitted += self.row(row, "index")
        return core.emitted


class Core:
    """Gather unit, array and scatter unit of one core during one stage."""

    def __init__(self, stage: Stage, number: int) -> None:
        self.stage, self.number, self.env = stage, number, stage.env
        self.emitted = stage.ready_at
        self.to_array, self.to_scatter = simpy.Store(self.env), simpy.Store(self.env)
        self.computed, self.scattered = Progress(self.env), Progress(self.env)
        halves = stage.machine.halves
        self.inputs, self.weights = Parts(halves, self.computed), Parts(halves, self.computed)
        self.outputs = Parts(halves, self.scattered)
        self.runs: list[tuple[Pass, int, int]] = []  # pass, begin and end of the array
        self.done_at = stage.ready_at
        self.finished = self.env.process(self.scatter())
        self.env.process(self.gather())
        self.env.process(self.array())

    def event(self, row: int, name: str) -> None:
        """Note that something happened now."""
        self.stage.run_.events[row, E[name]] = self.env.cycle

    def transfer(
        self, unit: int, port: int, hold: int, moved: Transferred, moves: Moves, *, granted: Note = None
    ) -> Transfer:
        """Move bytes over the DMA's own port and, if `hold`, the memory port; return when the last byte arrives.

        Latency does not hold the DMA. `granted` is called when the transfer begins.
        """
        free = data = self.env.cycle
        if hold:
            order = (unit, self.number)
            _, free, data = yield self.stage.run_.port.transfer(self.stage.number, order, hold, moved, moves)
        if granted:
            granted()
        yield self.env.timeout(max(port, free - self.env.cycle))
        return max(self.env.cycle, data) + (self.stage.machine.latency if hold else 0)

    def fetch(self, what: tuple[int, int], port: int, read: int, moved: Transferred, moves: Moves) -> Transfer:
        """Fetch weights for all cores, unless one of them was granted the port for it; return when they arrive."""
        memory = self.stage.run_.port
        if not read:  # no memory to share: each has them at once, over its own port
            return (yield from self.transfer(GATHER, port, read, moved, moves))
        if what not in memory.fetched:
            order = (GATHER, self.number)
            grant, free, _ = yield memory.transfer(self.stage.number, order, read, moved, moves, what, port)
            if free > grant:  # this core's own request
                yield self.env.timeout(max(port, free - grant))
        return memory.fetched[what]

    def gather(self) -> Steps:
        """Turn to each pass dealt to this core: its weights if others are held, then its tiles in order."""
        env, stage = self.env, self.stage
        passes, held, weights_arrival = 0, -1, stage.ready_at
        mark = stage.ready_at  # until when the gather unit's activity is accounted for
        prefetched = stage.run_.prefetched.pop(self.number, None)
        if prefetched:
            held = 0
            self.weights.take(0)
            yield prefetched.done
            weights_arrival = prefetched.arrival
        while True:
            yield self.inputs.free_for(passes)
            unit = yield from stage.next_unit(self.number)
            if unit is None:
                break
            for one in unit:
                if one.new_input:
                    yield self.inputs.free_for(passes)
                    self.inputs.take(passes)
                begin = env.cycle if passes else mark
                port, read = stage.row(one.rows[0], "weight_port"), stage.row(one.rows[0], "weight_read")
                if one.group != held and (port or read):
                    yield self.weights.free_for(passes)
                    self.weights.take(passes)
                    moved, moves = ("weights", one.rows[0]), stage.run_.port.moves("requests", one.rows[0], "weight")
                    if one.shared:
                        weights_arrival = yield from self.fetch((stage.number, one.group), port, read, moved, moves)
                    else:
                        weights_arrival = yield from self.transfer(GATHER, port, read, moved, moves)
                held = one.group
                one.weights_arrival = weights_arrival
                one.activity.append(("weights", begin, env.cycle))
                for row in one.rows:
                    stage.run_.events[row, E["core"]] = self.number
                    stage.run_.events[row, E["gather_begin"]] = begin
                    self.event(row, "weights_end")
                    yield from self.gather_tile(one, row)
                    begin = env.cycle
                self.to_array.put(one)
                passes += 1
        self.to_array.put(None)
        self.prefetch(passes)

    def gather_tile(self, one: Pass, row: int) -> Steps:
        """Wait for the tile's number, set up its read, move its bytes."""
        env, stage = self.env, self.stage

        def step(cause: str, begin: int) -> int:
            one.activity.append((cause, begin, env.cycle))
            return int(env.cycle)

        begin = env.cycle
        yield env.timeout(max(0, stage.emission(self, row) - begin))
        begin = step("index", begin)
        self.event(row, "issue_begin")
        yield env.timeout(stage.row(row, "gather"))
        begin = step("gather_issue", begin)
        self.event(row, "request")
        moved = begin

        def granted() -> None:
            nonlocal moved
            moved = step("gather_queue", begin)
            self.event(row, "grant")

        moves = stage.run_.port.moves("requests", row, "read")
        port, read = stage.row(row, "gather_port"), stage.row(row, "read")
        arrival = yield from self.transfer(GATHER, port, read, ("read", row), moves, granted=granted)
        step("gather_transfer", moved)
        self.event(row, "gather_end")
        one.arrival = max(one.arrival, arrival)

    def prefetch(self, passes: int) -> None:
        """Fetch the next stage's first weights, now that nothing is left to gather."""
        run, following = self.stage.run_, self.stage.number + 1
        if not run.machine.prefetch or following == len(run.tiles.stages):
            return
        port, read = (int(run.tiles.stages[following, S[name]]) for name in ("prefetch_port", "prefetch_read"))
        if not (port or read):
            return
        note = run.prefetched[self.number] = Prefetched(self.env.event())

        def fetch() -> Steps:
            yield self.weights.free_for(passes)
            moves = run.port.moves("stage_requests", following, "prefetch")
            note.arrival = yield from self.fetch((following, 0), port, read, ("prefetch", following), moves)
            note.done.succeed()

        self.env.process(fetch())

    def array(self) -> Steps:
        """Run each pass when its inputs and weights are there and an output part is free."""
        env, passes = self.env, 0
        while (one := (yield self.to_array.get())) is not None:
            yield env.timeout(max(0, max(one.arrival, one.weights_arrival) - env.cycle))
            if one.new_output:
                yield self.outputs.free_for(passes)
                self.outputs.take(passes)
            begin = env.cycle
            yield env.timeout(one.compute)
            self.runs.append((one, begin, env.cycle))
            for row in one.rows:
                self.stage.run_.events[row, E["compute_begin"]] = begin
                self.event(row, "compute_end")
            passes += 1
            self.computed.advance()
            self.to_scatter.put(one)
        self.to_scatter.put(None)

    def scatter(self) -> Steps:
        """Write the tiles of each computed pass in order."""
        env, stage = self.env, self.stage
        while (one := (yield self.to_scatter.get())) is not None:
            for row in one.rows:
                self.event(row, "scatter_begin")
                yield env.timeout(stage.row(row, "scatter"))
                self.event(row, "write_request")
                moves = stage.run_.port.moves("requests", row, "write")
                port, write = stage.row(row, "scatter_port"), stage.row(row, "write")
                note = partial(self.event, row, "write_grant")
                yield from self.transfer(SCATTER, port, write, ("write", row), moves, granted=note)
                self.event(row, "scatter_end")
            self.scattered.advance()
        self.done_at = env.cycle

    def book(self, causes: Any, stage_end: int) -> None:
        """Say for every cycle since the tiles could start what the array did or waited for."""
        free = self.stage.ready_at
        for one, begin, end in self.runs:
            arrived = max(free, one.arrival, one.weights_arrival)
            for cause, since, until in one.activity:
                causes[C[cause]] += max(0, min(until, arrived) - max(since, free))
            gathered = max(free, one.activity[-1][2])
            rows_there = max(gathered, one.arrival)
            causes[C["gather_latency"]] += rows_there - gathered
            causes[C["weights"]] += arrived - rows_there
            causes[C["scatter"]] += begin - arrived
            causes[C["compute"]] += end - begin
            free = end
        causes[C["scatter" if self.runs else "weights"]] += self.done_at - free
        causes[C["barrier"]] += stage_end - self.done_at


def run(tiles: Tiles, machine: Machine, *, events: bool = False) -> Counters:
    """Run the table from cycle 0 and return its counters."""
    whole = Run(tiles, machine)
    whole.env.process(whole.stages())
    whole.env.run()
    noted = (whole.events, whole.port.transfers) if events else ()
    return Counters(whole.begin, whole.end, whole.causes, whole.port.busy, *noted)
