"""best_tiles: for every gated layer the tile at which it runs fastest, or None where staying dense is faster."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError
from skipsim.hwmodels.hardware import Hardware
from skipsim.simulator.baseline import WHOLE_MAP
from skipsim.simulator.plan import Tile, Tiling, Traffic, plan
from skipsim.simulator.residency import gated_traffic
from skipsim.simulator.schedule import Schedule, dense_schedule, gated_schedule
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace

SIDES = (64, 32, 16, 8, 4, 2, 1)
BANDS = (8, 4, 2, 1)  # rows of tiles as wide as the map: few segments, but active as soon as anything in the row is


def best_tiles(trace: Trace, hardware: Hardware, cycles_of: Callable[[Schedule], NDArray[np.int64]]) -> Tiling:
    """Choose a tile for every gated layer, by label.

    Every candidate is simulated for all layers at once; layers run one after the other, so each can take its own best.
    A layer stays dense where the dense schedule beats all of them; if the whole then is not faster, none does.

    Args:
        trace: the recording.
        hardware: the machine.
        cycles_of: runs a schedule and returns its cycles [frames, layers].

    Raises:
        InputError: a layer for which no candidate fits the buffers.
    """
    gated = [number for number, layer in enumerate(trace.layers) if layer.gate != "none"]
    fastest = dict.fromkeys(gated, (np.inf, WHOLE_MAP))
    traffic = gated_traffic(trace, hardware)
    floor = min([min(trace.layers[number].block_rows, trace.layers[number].block_cols) for number in gated], default=1)
    sides = [side for side in SIDES if side >= min(4, floor)]
    for rows, cols in [(1 << 30, 1 << 30), *((side, side) for side in sides), *((band, 1 << 30) for band in BANDS)]:
        fitting = {
            number: (min(rows, trace.layers[number].out_rows), min(cols, trace.layers[number].out_cols))
            for number in gated
            if _fits(trace.layers[number], hardware, (rows, cols), traffic[number])
        }
        new = {number: tile for number, tile in fitting.items() if tile != fastest[number][1]}
        if not new:
            continue
        cycles = _of_layers(trace, hardware, fitting, gated, cycles_of)
        for number, tile in fitting.items():
            fastest[number] = min(fastest[number], (float(cycles[number]), tile), key=lambda found: found[0])
    for number, (best, _) in fastest.items():
        if np.isinf(best):  # the error names the layer and the largest tile that would fit
            plan(trace.layers[number], hardware, (sides[-1], sides[-1]), traffic[number])
    return _with_dense_layers(trace, hardware, {number: tile for number, (_, tile) in fastest.items()}, cycles_of)


def _with_dense_layers(
    trace: Trace, hardware: Hardware, tiles: dict[int, Tile], cycles_of: Callable[[Schedule], NDArray[np.int64]]
) -> Tiling:
    """Leave layers dense where that is faster, if the network as a whole is then faster."""
    gated_frames = [frame for frame in range(trace.frames) if not trace.reference(frame)]
    chosen: Tiling = {trace.layers[number].label: tile for number, tile in tiles.items()}
    cycles = cycles_of(gated_schedule(trace, hardware, chosen))
    own, dense = cycles[gated_frames].sum(axis=0), cycles_of(dense_schedule(trace, hardware))[gated_frames].sum(axis=0)
    mixed: Tiling = {
        trace.layers[number].label: None if dense[number] <= own[number] else tile for number, tile in tiles.items()
    }
    if mixed == chosen or not gated_frames:
        return chosen
    return mixed if cycles_of(gated_schedule(trace, hardware, mixed)).sum() < cycles.sum() else chosen


def _of_layers(
    trace: Trace,
    hardware: Hardware,
    tiles: dict[int, Tile],
    gated: list[int],
    cycles_of: Callable[[Schedule], NDArray[np.int64]],
) -> NDArray[np.int64]:
    """Return the cycles of every layer over the clip; layers without a tile run densely."""
    tiling = {trace.layers[number].label: tiles.get(number) for number in gated}
    cycles: NDArray[np.int64] = cycles_of(gated_schedule(trace, hardware, tiling)).sum(axis=0)
    return cycles


def _fits(layer: Layer, hardware: Hardware, tile: Tile, traffic: Traffic) -> bool:
    try:
        plan(layer, hardware, tile, traffic)
    except InputError:
        return False
    return True
