"""The dense schedule: no gate, no index, long contiguous tiles, for each layer the fastest of the candidates."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from skipsim.errors import InputError
from skipsim.hwmodels.hardware import Hardware
from skipsim.simulator import fast
from skipsim.simulator.lowering import lower
from skipsim.simulator.plan import Tile, Traffic, plan, plan_arrays
from skipsim.simulator.residency import addresses
from skipsim.simulator.tiles import machine
from skipsim.traces.layer import Layer

SIZES = (64, 32, 16, 8, 4, 2, 1)
WHOLE_MAP = (2**30, 2**30)


def dense_tile(layer: Layer, hardware: Hardware, traffic: Traffic) -> Tile:
    """Return the tile at which the layer runs fastest when all of it is computed; ties go to the larger one."""
    alike = replace(layer, name="layer", call=0, block_rows=1, block_cols=1, gate="none")
    found = _dense_tile(alike, hardware, traffic)
    if found is None:  # not even at 1x1: the error names this layer, not the first one like it
        plan(layer, hardware, (1, 1), traffic)
    assert found is not None, "a layer that fits at 1x1 has a dense schedule"
    return found


@lru_cache(maxsize=2048)
def _dense_tile(layer: Layer, hardware: Hardware, traffic: Traffic) -> Tile | None:
    """Try full map, full-width bands, squares; squares below 4x4, slow and never best, only if nothing else fits."""
    bands = [(size, layer.out_cols) for size in SIZES]
    squares = [(size, size) for size in SIZES[:-2]]
    return _fastest(layer, hardware, traffic, [WHOLE_MAP, *bands, *squares]) or _fastest(
        layer, hardware, traffic, [(size, size) for size in SIZES[-2:]]
    )


def _fastest(layer: Layer, hardware: Hardware, traffic: Traffic, sizes: list[Tile]) -> Tile | None:
    """Return the size at which the dense layer takes the fewest cycles, None if no size fits the buffers."""
    candidates = {(min(rows, layer.out_rows), min(cols, layer.out_cols)) for rows, cols in sizes}
    bases = addresses((layer,), hardware) if hardware.dram.rule == "banked" else None
    best: tuple[int, Tile] | None = None
    for tile in sorted(candidates, key=lambda tile: (-tile[0] * tile[1], tile)):
        try:
            planned = plan(layer, hardware, tile, traffic)
        except InputError:
            continue
        tiles = lower(np.zeros(0, np.uint8), np.zeros(1, np.int64), *plan_arrays([planned]), bases)
        cycles = fast.run(tiles, machine(hardware)).cycles
        if best is None or cycles < best[0]:
            best = cycles, tile
    return best[1] if best else None
