"""best_tiles: for every gated layer the tile at which it runs fastest, or None where staying dense is faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError
from skipsim.hwmodels.hardware import Hardware
from skipsim.simulator.baseline import WHOLE_MAP
from skipsim.simulator.plan import Tile, Tiling, Traffic, plan
from skipsim.simulator.residency import gated_traffic
from skipsim.simulator.schedule import Schedule, gated_schedule
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace

SIDES = (64, 32, 16, 8, 4, 2, 1)
BANDS = (8, 4, 2, 1)  # rows of tiles as wide as the map: few segments, but active as soon as anything in the row is


def best_tiles(
    traces: Sequence[Trace], hardware: Hardware, cycles_of: Callable[[Schedule], NDArray[np.int64]]
) -> Tiling:
    """Choose a tile for every gated layer, by label: the fastest over some recordings of one network and one block.

    A layer stays dense where that is at least as fast, if the network as a whole then is not slower.

    Args:
        traces: the recordings.
        hardware: the machine.
        cycles_of: runs a schedule and returns its cycles [layers], summed over gated frames.

    Raises:
        InputError: a layer for which no candidate fits the buffers.
    """
    layers = traces[0].layers
    tiles = {layers[number].label: tile for number, (_, tile) in tile_costs(traces, hardware, cycles_of).items()}

    def run(tiling: Tiling) -> NDArray[np.int64]:
        return _on_gated_frames([gated_schedule(trace, hardware, tiling) for trace in traces], cycles_of)

    own, dense = run(tiles), np.zeros(len(layers), np.int64)
    for turn in (
        0,
        1,
    ):  # every second layer dense: what it costs among gated neighbours, which keep their maps in memory
        some = {label: None if place % 2 == turn else tile for place, (label, tile) in enumerate(tiles.items())}
        labels = {label for label, tile in some.items() if tile is None}
        cycles = run(some)
        for place, layer in enumerate(layers):
            dense[place] += cycles[place] if layer.label in labels else 0
    slower = {layers[place].label for place in range(len(layers)) if 0 < dense[place] <= own[place]}
    mixed: Tiling = {label: None if label in slower else tile for label, tile in tiles.items()}
    none: Tiling = dict.fromkeys(tiles)
    costs = [(int(run(tiling).sum()), place, tiling) for place, tiling in enumerate((mixed, none)) if tiling != tiles]
    return min([(int(own.sum()), 2, tiles), *costs], key=lambda found: found[:2])[2]


def tile_costs(
    traces: Sequence[Trace], hardware: Hardware, cycles_of: Callable[[Schedule], NDArray[np.int64]]
) -> dict[int, tuple[int, Tile]]:
    """Return for every gated layer, by number, the fewest cycles over all recordings' gated frames, and their tile.

    Every candidate is simulated for all layers at once: layers run one after the other, so each can take its own best.
    """
    layers, traffic = traces[0].layers, gated_traffic(traces[0], hardware)
    gated = [number for number, layer in enumerate(layers) if layer.gate != "none"]
    fastest: dict[int, tuple[int, Tile]] = {}
    tried: dict[int, set[Tile]] = {number: set() for number in gated}
    for rows, cols in _candidates([layers[number] for number in gated]):
        tiles = {
            number: (min(rows, layers[number].out_rows), min(cols, layers[number].out_cols))
            for number in gated
            if _fits(layers[number], hardware, (rows, cols), traffic[number])
        }
        if all(tile in tried[number] for number, tile in tiles.items()):
            continue
        tiling = {layers[number].label: tiles.get(number) for number in gated}
        cycles = _on_gated_frames([gated_schedule(trace, hardware, tiling) for trace in traces], cycles_of)
        for number, tile in tiles.items():
            tried[number].add(tile)
            if number not in fastest or int(cycles[number]) < fastest[number][0]:
                fastest[number] = int(cycles[number]), tile
    for number in gated:
        if number not in fastest:  # the error names the layer and the largest tile that would fit
            plan(layers[number], hardware, (SIDES[-1], SIDES[-1]), traffic[number])
    return fastest


def _candidates(layers: Sequence[Layer]) -> list[Tile]:
    """Return the whole map, squares down to the finest block (4 at most), and bands as wide as the map."""
    finest = min((min(layer.block_rows, layer.block_cols) for layer in layers), default=1)
    squares = [(side, side) for side in SIDES if side >= min(4, finest)]
    return [WHOLE_MAP, *squares, *((rows, WHOLE_MAP[1]) for rows in BANDS)]


def _on_gated_frames(
    schedules: Sequence[Schedule], cycles_of: Callable[[Schedule], NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Return the cycles of every layer over the gated frames of all recordings."""
    return np.asarray(sum(cycles_of(schedule) for schedule in schedules))


def _fits(layer: Layer, hardware: Hardware, tile: Tile, traffic: Traffic) -> bool:
    try:
        plan(layer, hardware, tile, traffic)
    except InputError:
        return False
    return True
