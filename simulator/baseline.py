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
    return _dense_tile(replace(layer, name="layer", call=0, block_rows=1, block_cols=1, gate="none"), hardware, traffic)


@lru_cache(maxsize=65536)
def _dense_tile(layer: Layer, hardware: Hardware, traffic: Traffic) -> Tile:
    bands = [(size, layer.out_cols) for size in SIZES]
    squares = [(size, size) for size in SIZES[:-2]]
    candidates = {
        (min(rows, layer.out_rows), min(cols, layer.out_cols)) for rows, cols in [WHOLE_MAP, *bands, *squares]
    }
    bases = addresses((layer,), hardware) if hardware.dram.rule == "banked" else None
    best: tuple[int, Tile] | None = None
    problem: InputError | None = None
    for tile in sorted(candidates, key=lambda tile: (-tile[0] * tile[1], tile)):
        try:
            planned = plan(layer, hardware, tile, traffic)
        except InputError as error:
            problem = error
            continue
        tiles = lower(np.zeros(0, np.uint8), np.zeros(1, np.int64), *plan_arrays([planned]), bases)
        cycles = fast.run(tiles, machine(hardware)).cycles
        if best is None or cycles < best[0]:
            best = cycles, tile
    if best is None:
        assert problem is not None, "a layer has at least one candidate"
        raise problem
    return best[1]
