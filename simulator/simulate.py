"""simulate: a trace on a machine at a tile size, through lowering and an engine, to a Report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError, nearest
from skipsim.hwmodels.hardware import Hardware, load_hardware
from skipsim.simulator import fast, reference
from skipsim.simulator.baseline import WHOLE_MAP
from skipsim.simulator.best_tiles import best_tiles
from skipsim.simulator.clip_cost import clip_cost
from skipsim.simulator.counters import Counters
from skipsim.simulator.plan import Tile, Tiling
from skipsim.simulator.processor import simulate_processor
from skipsim.simulator.report import Report
from skipsim.simulator.schedule import Schedule, dense_schedule, gated_schedule, tile_name
from skipsim.simulator.tiles import Machine, Tiles
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace

ENGINES: dict[str, Callable[[Tiles, Machine], Counters]] = {"fast": fast.run, "reference": reference.run}
AUTO_SIZES = (64, 32, 16, 8, 4, 2, 1)
PER_LAYER = "per-layer"
TileChoice = Tile | int | str | Mapping[str, Tile | int | str | None]


def parse_tile(tile: Tile | int | str) -> Tile | None:
    """Return a tile as (rows, columns), None for "auto". "full" is one tile of the whole map."""
    if tile == "auto":
        return None
    if tile == "full":
        return WHOLE_MAP
    sides: list[object] = list(tile) if isinstance(tile, tuple | list) else [tile, tile]
    if isinstance(tile, str):
        parts = tile.lower().split("x")
        sides = [int(part) if part.isdecimal() else part for part in (parts * 2 if len(parts) == 1 else parts)]
    rows, cols = sides if len(sides) == 2 else (0, 0)
    if type(rows) is not int or type(cols) is not int or min(rows, cols) < 1:
        raise InputError(f"tile {tile!r}: must be ROWSxCOLUMNS of at least 1x1, 'full', 'auto' or 'per-layer'")
    return rows, cols


def parse_tiling(tiling: Mapping[str, Tile | int | str | None]) -> Tiling:
    """Return tiles by layer; "dense" (or None) is None: the layer stays dense."""
    found: dict[str, Tile | None] = {}
    for name, tile in tiling.items():
        found[name] = None if tile in ("dense", None) else parse_tile(tile or "dense")
        if tile == "auto":
            raise InputError(f"tile of layer {name!r}: must be ROWSxCOLUMNS, 'full' or 'dense', got 'auto'")
    return found


def simulate(
    trace: Trace, hardware: Hardware, tile: TileChoice = "auto", engine: str = "fast", dense: bool = False
) -> Report:
    """Simulate a trace on a machine.

    `tile`: (rows, columns) in output pixels, "8x8", "full", or "auto": the fastest of full, 64, 32, ... down to the
    trace's finest block; "per-layer": each layer at its own fastest, see `best_tiles`; or a mapping from every gated
    layer's label to its tile or "dense". It holds for gated layers; layers without a gate, and reference frames, run at
    the dense schedule's own best tile. If no layer is gated, `tile` holds for all, and "auto" is the dense schedule.
    `dense`: report the dense schedule instead. A measured machine has no engine: its time is a sum of measured
    coefficients (`processor.py`).
    """
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is unknown; {nearest(engine, ENGINES)}")
    by_layer = isinstance(tile, Mapping) or tile == PER_LAYER
    if dense and by_layer:
        raise InputError("tile: the dense schedule takes one tile for all layers, or 'auto': each layer's own best")
    if hardware.processor is not None:
        chosen = parse_tiling(tile) if isinstance(tile, Mapping) else PER_LAYER if by_layer else parse_tile(tile)
        return simulate_processor(trace, hardware, chosen, dense)
    if dense:
        size = parse_tile(tile)  # type: ignore[arg-type]
        return _report(dense_schedule(trace, hardware, size), tile_name(size) if size else "dense", engine, None)
    baseline = _report(dense_schedule(trace, hardware), "dense", engine, None)
    return replace(simulate_gated(trace, hardware, tile, engine), dense=baseline)


def simulate_gated(trace: Trace, hardware: Hardware, tile: TileChoice, engine: str = "fast") -> Report:
    """Simulate the gated schedule alone, without the dense one beside it; `tile` is as in `simulate`."""
    if hardware.processor is not None:
        return simulate(trace, hardware, tile)
    if isinstance(tile, Mapping):
        tiling = parse_tiling(tile)
        return replace(_report(gated_schedule(trace, hardware, tiling), PER_LAYER, engine, None), tiling=tiling)
    if tile == PER_LAYER:
        return simulate_gated(trace, hardware, best_tiles([trace], hardware, cycles_of), engine)
    size = parse_tile(tile)
    if size is None and all(layer.gate == "none" for layer in trace.layers):
        return _report(gated_schedule(trace, hardware, None), "dense", engine, None)
    size = size or _fastest_tile(trace, hardware)
    return _report(gated_schedule(trace, hardware, size), tile_name(size), engine, None)


def schedule_of(trace: Trace, report: Report) -> Schedule:
    """Lay out a trace again as it ran in a report of it, for example to draw its timeline."""
    if report.tiling is not None:
        return gated_schedule(trace, report.hardware, report.tiling)
    size = None if report.tile == "dense" else parse_tile(report.tile)
    if report.dense is None:
        return dense_schedule(trace, report.hardware, size)
    return gated_schedule(trace, report.hardware, size)


def compile_engine() -> None:
    """Compile what `simulate` needs, or load it if that was done before: half a minute, or about a second."""
    layer = Layer("any", 1, 1, 1, 1, 1, 1, gate="mask")
    trace = Trace.from_masks([layer], [np.ones((1, 1, 1), np.bool_)])
    simulate(trace, load_hardware("systolic-32x32"), tile=(1, 1))


def _fastest_tile(trace: Trace, hardware: Hardware) -> Tile:
    finest = min(min(layer.block_rows, layer.block_cols) for layer in trace.layers)
    cycles: dict[Tile, int] = {}
    for tile in [WHOLE_MAP, *((size, size) for size in AUTO_SIZES if size >= min(4, finest))]:
        try:
            cycles[tile] = _report(gated_schedule(trace, hardware, tile), "", "fast", None).cycles
        except InputError as error:
            problem = error
    if not cycles:
        raise problem
    return min(cycles, key=lambda tile: cycles[tile])  # of equally fast ones the largest


def cycles_of(schedule: Schedule) -> NDArray[np.int64]:
    """Return cycles [layers] of a schedule, summed over the frames that are not reference frames."""
    cost = clip_cost(schedule, fast.run)
    references = schedule.trace.reference_frames
    return cost.cycles_by_layer - (len(references) * cost.frame(references[0]).cycles if references else 0)


def _report(schedule: Schedule, tile: str, engine: str, baseline: Report | None) -> Report:
    return Report(
        schedule.hardware, schedule.trace.layers, tile, clip_cost(schedule, ENGINES[engine]), baseline
    )  # fmt: skip
