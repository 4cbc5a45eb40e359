"""Timeline: one simulated frame as a Chrome trace, which Perfetto and speedscope open.

Every core is a group of lanes (a process, in the format's words): its gather unit, array and scatter unit are threads,
phases are slices in order of time. The memory is a group of its own, with two counters in equal steps of time:
gigabytes per second read and written, and the share of time in which its port was held. Times are microseconds of the
machine.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skipsim.atomic import replacing
from skipsim.errors import InputError
from skipsim.simulator import fast
from skipsim.simulator.bandwidth import bandwidth, port_use
from skipsim.simulator.counters import Counters, E
from skipsim.simulator.schedule import Schedule
from skipsim.simulator.tiles import LAST, R, S, Tiles, machine

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
COUNTER_STEPS = 1000


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
    """Yield Chrome trace events: names, one slice per phase of every tile (per pass on the array), the counters."""
    hardware = schedule.hardware
    memory = hardware.cores  # the group after the cores'
    per_microsecond = hardware.clock_hz / 1e6
    tiles, counters = run_frame(schedule, frame)
    for group in range(hardware.cores + 1):
        name = "memory" if group == memory else f"core {group}"
        yield {"ph": "M", "name": "process_name", "pid": group, "args": {"name": f"{hardware.name} {name}"}}
        yield {"ph": "M", "name": "process_sort_index", "pid": group, "args": {"sort_index": group}}
        for thread, unit in enumerate(UNITS if group != memory else ()):
            yield {"ph": "M", "name": "thread_name", "pid": group, "tid": thread, "args": {"name": unit}}
            yield {"ph": "M", "name": "thread_sort_index", "pid": group, "tid": thread, "args": {"sort_index": thread}}
    drawn = sorted(slices(tiles, counters), key=lambda one: (one.core, one.unit, one.begin))
    for phase, core, thread, begin, end, stage in drawn:
        layer = schedule.trace.layers[stage].label
        name = phase if thread != ARRAY else layer if phase == "compute" else f"{phase}: {layer}"
        yield {
            "ph": "X", "name": name, "pid": core, "tid": thread, "args": {"layer": layer},
            "ts": begin / per_microsecond, "dur": (end - begin) / per_microsecond,
        }  # fmt: skip
    read, written = (rates * per_microsecond / 1e3 for rates in bandwidth(tiles, counters, COUNTER_STEPS))
    curves = {
        "DRAM, GB/s": {"read": read, "write": written},
        "memory port in use, percent": {"percent": 100 * port_use(counters, COUNTER_STEPS)},
    }
    for name, values in curves.items():
        for since, shown in _changes(counters.cycles / per_microsecond, values):
            yield {"ph": "C", "name": name, "pid": memory, "ts": since, "args": shown}


def _changes(end: float, curves: Mapping[str, NDArray[np.float64]]) -> Iterator[tuple[float, dict[str, float]]]:
    """Yield (time, values from there on) of curves in equal steps up to `end`, where they change; zeros at the end."""
    steps = len(next(iter(curves.values())))
    before: dict[str, float] = {}
    for step in range(steps):
        values = {name: float(f"{curve[step]:.5g}") for name, curve in curves.items()}
        if values != before:
            yield end * step / steps, values
        before = values
    yield end, dict.fromkeys(curves, 0.0)


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
