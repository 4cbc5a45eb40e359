"""The timeline of one frame as lanes side by side: what every unit of every core did, small enough for a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipsim.analysis.report.packing import packed_numbers
from skipsim.simulator.bandwidth import port_use
from skipsim.simulator.schedule import Schedule
from skipsim.simulator.timeline import COUNTER_STEPS, PHASES, UNITS, run_frame, slices

MOST_SLICES = 40_000  # beyond it, neighbours of a kind closer than a growing gap are drawn as one
KINDS = ("launch", "gate", "scan mask", *dict.fromkeys(name for phases in PHASES.values() for name, _, _ in phases))


@dataclass(frozen=True)
class Lanes:
    """Slices as columns (lane, kind, begin, end, layer): int64 [5, slices], in order, in cycles."""

    columns: NDArray[np.int64]
    port: NDArray[np.float64]  # share of the memory port in use, in equal steps
    cycles: int
    merged_gap: int  # cycles between neighbours that are drawn as one; 0: everything is drawn as it was


def lanes_of(schedule: Schedule, frame: int, most: int = MOST_SLICES) -> Lanes:
    """Run one frame and return what its units did."""
    tiles, counters = run_frame(schedule, frame)
    rows = [
        (core * len(UNITS) + unit, KINDS.index(phase), begin, end, stage)
        for phase, core, unit, begin, end, stage in slices(tiles, counters)
    ]
    columns = np.array(rows, np.int64).reshape(-1, 5)
    columns = columns[np.lexsort((columns[:, 2], columns[:, 0]))].T
    gap = 0
    while columns.shape[1] > most and gap < counters.cycles:
        gap = 2 * gap or 1
        columns = _merged(columns, gap)
    return Lanes(columns, port_use(counters, COUNTER_STEPS), counters.cycles, gap)


def page_lanes(lanes: Lanes, clock_hz: int) -> dict[str, Any]:
    """Return lanes as plain data for the page."""
    return {
        "slices": lanes.columns.shape[1],
        "packed": packed_numbers(lanes.columns),
        "port": [round(float(share), 3) for share in lanes.port],
        "cycles": lanes.cycles,
        "merged_gap": lanes.merged_gap,
        "microseconds": lanes.cycles / clock_hz * 1e6,
    }


def _merged(columns: NDArray[np.int64], gap: int) -> NDArray[np.int64]:
    """Draw neighbours in one lane, of one kind and one layer, at most `gap` cycles apart, as one slice."""
    lane, kind, begin, end, layer = columns
    same = (lane[1:] == lane[:-1]) & (kind[1:] == kind[:-1]) & (layer[1:] == layer[:-1])
    joined = same & (begin[1:] - end[:-1] <= gap)
    first = np.flatnonzero(np.append(True, ~joined))
    last = np.append(first[1:], len(lane)) - 1
    return np.stack([lane[first], kind[first], begin[first], end[last], layer[first]])
