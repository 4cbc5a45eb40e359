"""Timeline: one simulated frame as a Chrome trace, which Perfetto and speedscope open.

Cores are processes; their gather unit, array and scatter unit are threads. Counters: gigabytes per second read and
written, layer by layer; with `stream` memory also the share of the port in use. Times are microseconds of the machine.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from skipsim.atomic import replacing
from skipsim.errors import InputError
from skipsim.simulator import fast
from skipsim.simulator.counters import Counters, E
from skipsim.simulator.schedule import Schedule
from skipsim.simulator.tiles import LAST, R, S, Tiles, W, machine

GATHER, ARRAY, SCATTER = range(3)
UNITS = ("gather", "array", "scatter")
PHASES = {  # thread -> (slice, begin, end)
    GATHER: (
        ("weights", "gather_begin", "weights_end"),
        ("wait for index", "weights_end", "issue_begin"),
        ("set up", "issue_begin", "request"),
        ("wait for memory", "request", "grant"),
        ("transfer", "grant", "gather_end"),
    ),
    ARRAY: (("compute", "compute_begin", "compute_end"),),
    SCATTER: (
        ("set up", "scatter_begin", "write_request"),
        ("wait for memory", "write_request", "write_grant"),
        ("transfer", "write_grant", "scatter_end"),
    ),
}
COUNTER_SAMPLES = 500


def write_timeline(path: str | Path, schedule: Schedule, frame: int) -> None:
    """Write the timeline of one frame as Chrome trace JSON; a name that ends in .gz is compressed."""
    path = Path(path)
    if schedule.hardware.processor is not None:
        raise InputError(f"timeline: {schedule.hardware.name!r} is a measured processor, which has no units to show")
    if not 0 <= frame < schedule.trace.frames:
        raise InputError(f"timeline: frame must be in 0..{schedule.trace.frames - 1}, got {frame}")
    if not path.parent.is_dir():
        raise InputError(f"timeline {str(path)!r}: no such folder: {path.parent}")
    text = json.dumps(
        {"displayTimeUnit": "ns", "traceEvents": list(timeline_events(schedule, frame))}, separators=(",", ":")
    )
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


class Slice(NamedTuple):
    """One phase on one unit; cycles of the machine."""

    phase: str  # "launch", "gate", "scan mask", or a title of PHASES
    core: int
    unit: int  # place in UNITS
    begin: int
    end: int
    stage: int  # the layer's place in the network


def timeline_events(schedule: Schedule, frame: int) -> Iterator[dict[str, Any]]:
    """Yield Chrome trace events: names, one slice per phase of every tile (per pass on the array), the counter."""
    hardware = schedule.hardware
    per_microsecond = hardware.clock_hz / 1e6
    tiles, counters = run_frame(schedule, frame)
    for core in range(hardware.cores):
        yield {"ph": "M", "name": "process_name", "pid": core, "args": {"name": f"{hardware.name} core {core}"}}
        for thread, unit in enumerate(UNITS):
            yield {"ph": "M", "name": "thread_name", "pid": core, "tid": thread, "args": {"name": unit}}
    for phase, core, thread, begin, end, stage in slices(tiles, counters):
        layer = schedule.trace.layers[stage].label
        name = phase if thread != ARRAY else layer if phase == "compute" else f"{phase}: {layer}"
        yield {
            "ph": "X", "name": name, "pid": core, "tid": thread, "args": {"layer": layer},
            "ts": begin / per_microsecond, "dur": (end - begin) / per_microsecond,
        }  # fmt: skip
    for since, read, written in bandwidth(tiles, counters):
        each = {"read": read, "write": written}
        yield {
            "ph": "C", "name": "DRAM, GB/s", "pid": 0, "ts": since / per_microsecond,
            "args": {kind: round(rate * per_microsecond / 1e3, 3) for kind, rate in each.items()},
        }  # fmt: skip
    for since, share in port_use(tiles, counters) if hardware.dram.rule != "banked" else ():
        yield {
            "ph": "C", "name": "memory port in use, percent", "pid": 0, "ts": since / per_microsecond,
            "args": {"percent": round(100 * share, 1)},
        }  # fmt: skip


def run_frame(schedule: Schedule, frame: int) -> tuple[Tiles, Counters]:
    """Run one frame and note when everything happened."""
    tiles = schedule.tiles(frame)
    return tiles, fast.run(tiles, machine(schedule.hardware), events=True)


def slices(tiles: Tiles, counters: Counters) -> Iterator[Slice]:
    """Yield what every unit did and when; phases of no length are left out."""
    assert counters.events is not None, "run with events"
    cores = counters.causes.shape[1]
    for number, stage in enumerate(tiles.stages.tolist()):
        at = int(counters.begin[number])
        ready = int(counters.end[number]) - int(counters.causes[number, 0].sum())
        assert ready == at, "causes sum to the stage"
        gate = int(counters.causes[number, 0, 1])  # the same on every core
        for name, cycles in (("launch", stage[S["launch"]]), ("gate", gate), ("scan mask", stage[S["index"]])):
            for core in range(cores if cycles else 0):
                yield Slice(name, core, ARRAY, at, at + cycles, number)
            at += cycles
        first = stage[S["first_row"]]
        for row in range(first, first + stage[S["rows"]]):
            event = counters.events[row].tolist()
            for thread, phases in PHASES.items():
                if thread == ARRAY and not tiles.rows[row, R["flags"]] & LAST:
                    continue
                for name, begin, end in phases:
                    if event[E[end]] > event[E[begin]]:
                        yield Slice(name, event[E["core"]], thread, event[E[begin]], event[E[end]], number)


def bandwidth(tiles: Tiles, counters: Counters) -> Iterator[tuple[float, float, float]]:
    """Yield (cycle, bytes read per cycle, bytes written per cycle from there on), layer by layer; zeros at the end.

    All bytes that a layer causes: also its gate's, and its weights', even if they were fetched ahead.
    """
    work = tiles.work[:, [W["dram_read_bytes"], W["dram_write_bytes"]]]
    for begin, end, (read, written) in zip(counters.begin.tolist(), counters.end.tolist(), work.tolist(), strict=True):
        if end > begin:
            yield begin, read / (end - begin), written / (end - begin)
    yield counters.cycles, 0.0, 0.0


def port_use(tiles: Tiles, counters: Counters) -> Iterator[tuple[float, float]]:
    """Yield (cycle, share of the port in use from there on), in equal steps; weights and gate reads left out."""
    assert counters.events is not None, "run with events"
    if not counters.cycles:
        return
    edges = np.linspace(0, counters.cycles, COUNTER_SAMPLES + 1)
    busy = np.zeros(COUNTER_SAMPLES + 1)
    for grant, hold in (("grant", "read"), ("write_grant", "write")):
        begin = counters.events[:, E[grant]].astype(float)
        end = begin + tiles.rows[:, R[hold]]
        order_begin, order_end = np.sort(begin), np.sort(end)
        # Busy cycles before an edge = sum of min(edge, end) - min(edge, begin) over all transfers.
        for values, sign in ((order_end, 1), (order_begin, -1)):
            sums = np.concatenate([[0.0], np.cumsum(values)])
            passed = np.searchsorted(values, edges, side="right")
            busy += sign * (sums[passed] + edges * (len(values) - passed))
    step = counters.cycles / COUNTER_SAMPLES
    for edge, cycles in zip(edges[:-1], np.diff(busy), strict=True):
        yield float(edge), float(cycles) / step
