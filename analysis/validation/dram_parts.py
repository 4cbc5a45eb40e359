"""Every part's banked memory beside DRAMsim3 with the same timings and address map, on an accelerator's patterns.

Both are given the same bursts in the same order, all asked for at once. DRAMsim3 looks at 32 of them and serves what is
ready first, from one queue or from one of 8 per bank; the model serves them in order, or what is ready first of the
next 32 pieces of a request.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from skipsim.analysis.validation.comparison import Comparison, Pair
from skipsim.analysis.validation.dram_patterns import APART_CLOCKS, PATTERNS, READS, STRIDES
from skipsim.analysis.validation.oracles import rows
from skipsim.hwmodels.dram import Dram, dram_part
from skipsim.simulator.banked import fresh_state, serve, system
from skipsim.simulator.window import fresh_window, serve_ready_first

SOURCE = "DRAMsim3 with the parts' data-sheet timings; tests/oracles/dram"
NOTES = (
    "DRAMsim3 counts a read as done one clock after its last beat",
    "bursts scattered at random are where reordering pays: deviation D2",
    "its two ways to queue differ among themselves by up to 25 %: what no single reference can settle",
)
LATENCY, CLOCKS, ACTIVATES, ROW_HITS = "unloaded latency in clocks", "clocks", "activates", "row hits in percent"
WINDOW = 32  # pieces: as many as DRAMsim3 has bursts to choose from
READY_FIRST = f"clocks, out of a window of {WINDOW}"


def out_of_order(part: Dram, pattern: str) -> float:
    """Serve a pattern out of a window of pieces; return the clocks it takes."""
    memory = replace(system(part, 1, part.clock_hz), window=WINDOW)
    state, free, end = fresh_window(memory), 0, 0
    for write, moves in PATTERNS[pattern](part):
        free, data = serve_ready_first(state, np.array(moves, np.int64), 0, len(moves), write, 0, free)
        end = max(end, data)
    return end


def predict(part: Dram, pattern: str) -> dict[str, float]:
    """Serve a pattern in order, all of it asked for at clock 0."""
    memory = system(part, 1, part.clock_hz)
    state = fresh_state(memory)
    free = end = 0
    for write, moves in PATTERNS[pattern](part):
        free, data = serve(state, np.array(moves, np.int64), 0, len(moves), write, 0, free)
        end = max(end, data)
    hits, misses, conflicts, _ = state.tally
    activates = misses + conflicts
    return {CLOCKS: end, ACTIVATES: activates, ROW_HITS: 100 * hits / (hits + activates)}


def unloaded(part: Dram, case: str) -> int:
    """Return the clocks from asking for a burst to its last byte, with nothing else under way."""
    memory = system(part, 1, part.clock_hz)
    state, latency = fresh_state(memory), 0
    for number in range(READS):
        move = np.array([[number * STRIDES[case](part), part.burst_bytes, 1, 0, 1, 0]], np.int64)
        asked = number * APART_CLOCKS
        latency = serve(state, move, 0, 1, False, asked, asked)[1] - asked
    return latency


def kind(pattern: str) -> str:
    """Return what a pattern is an example of."""
    return next(name for name in ("streams", "random bursts", "tiles") if name[:-1] in pattern or pattern == "copy")


def compare(folder: Path | None = None) -> Comparison:
    """Compare every part and pattern with what DRAMsim3 counted."""
    pairs, predictions = [], {}
    for row in rows("dram/dramsim3_parts.csv", folder):
        part, pattern = dram_part(row["part"]), row["pattern"]
        if pattern in STRIDES:
            pairs.append(Pair(f"{part.name}, {pattern}", LATENCY, float(row["clocks"]), unloaded(part, pattern)))
            continue
        if (part.name, pattern) not in predictions:
            predictions[part.name, pattern] = predict(part, pattern) | {READY_FIRST: out_of_order(part, pattern)}
        published = {
            CLOCKS: float(row["clocks"]),
            READY_FIRST: float(row["clocks"]),
            ACTIVATES: float(row["activates"]),
            ROW_HITS: 100 * float(row["row_hits"]) / float(row["bursts"]),
        }
        group = f"{kind(pattern)}, {row['queue']}:"
        pairs += [
            Pair(f"{part.name}, {pattern}", quantity, value, predictions[part.name, pattern][quantity], group)
            for quantity, value in published.items()
            if value
        ]
    return Comparison("DRAMsim3, all parts", SOURCE, tuple(pairs), "nothing", NOTES)
