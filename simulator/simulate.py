"""simulate: a trace on a machine at a tile size, through lowering and an engine, to a Report."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError, nearest
from skipsim.hwmodels.hardware import Hardware
from skipsim.simulator import fast, reference
from skipsim.simulator.baseline import WHOLE_MAP, dense_tile
from skipsim.simulator.counters import CAUSES, Counters
from skipsim.simulator.lowering import lower
from skipsim.simulator.plan import Tile, Traffic, plan, plan_arrays
from skipsim.simulator.report import Report
from skipsim.simulator.residency import dense_traffic, gated_traffic, reference_traffic
from skipsim.simulator.tiles import WORK_COLUMNS, Machine, Tiles, machine
from skipsim.traces.trace import Trace

ENGINES: dict[str, Callable[[Tiles, Machine], Counters]] = {"fast": fast.run, "reference": reference.run}
AUTO_SIZES = (64, 32, 16, 8, 4, 2, 1)
NO_BITS = np.zeros(0, np.uint8)

Stack = list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]  # per frame: cycles, causes, work


def parse_tile(tile: Tile | int | str) -> Tile | str:
    """Return a tile as (rows, columns), or "auto". "full" is one tile of the whole map."""
    if tile == "auto":
        return "auto"
    if tile == "full":
        return WHOLE_MAP
    sides: list[object] = [tile, tile] if isinstance(tile, int) else list(tile)
    if isinstance(tile, str):
        parts = tile.lower().split("x")
        sides = [int(part) if part.isdecimal() else part for part in (parts * 2 if len(parts) == 1 else parts)]
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in sides):
        raise InputError(f"tile {tile!r}: must be ROWSxCOLUMNS of at least 1x1, 'full' or 'auto'")
    return int(sides[0]), int(sides[1])  # type: ignore[call-overload]


def simulate(
    trace: Trace,
    hardware: Hardware,
    tile: Tile | int | str = "auto",
    engine: str = "fast",
    dense: bool = False,
) -> Report:
    """Simulate a trace on a machine.

    `tile`: (rows, columns) in output pixels, "8x8", "full", or "auto": the fastest of full, 64, 32, ... down to the
    trace's finest block. It holds for gated layers; layers without a gate, and reference frames, run at the dense
    schedule's own best tile (if no layer is gated, `tile` holds for all). `dense`: report the dense schedule instead.
    """
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is unknown; {nearest(engine, ENGINES)}")
    size = parse_tile(tile)
    baseline = _dense_report(trace, hardware, size if dense else "auto", engine)
    if dense:
        return baseline
    if size != "auto":
        assert not isinstance(size, str), "parse_tile returns sizes or auto"
        return _gated_report(trace, hardware, size, engine, baseline)
    best: Report | None = None
    problem: InputError | None = None
    for candidate in _auto_tiles(trace):
        try:
            report = _gated_report(trace, hardware, candidate, "fast", baseline)
        except InputError as error:
            problem = error
            continue
        if best is None or report.cycles < best.cycles:
            best = report
    if best is None:
        assert problem is not None, "there is at least one candidate"
        raise problem
    chosen = parse_tile(best.tile)
    assert not isinstance(chosen, str), "a report's tile is a size"
    return best if engine == "fast" else _gated_report(trace, hardware, chosen, engine, baseline)


def _auto_tiles(trace: Trace) -> list[Tile]:
    finest = min(min(layer.block_rows, layer.block_cols) for layer in trace.layers)
    return [WHOLE_MAP, *((size, size) for size in AUTO_SIZES if size >= min(4, finest))]


def _tables(
    trace: Trace, hardware: Hardware, tiles: list[Tile], traffic: list[Traffic], bits: NDArray[np.uint8]
) -> Tiles:
    planned = [plan(*one) for one in zip(trace.layers, [hardware] * len(tiles), tiles, traffic, strict=True)]
    return lower(bits, np.array(trace.mask_bits, np.int64), *plan_arrays(planned))


def _run(
    tiles: Tiles, hardware: Hardware, engine: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    counters = ENGINES[engine](tiles, machine(hardware))
    return counters.end - counters.begin, counters.causes.sum(axis=1), tiles.work


def _report(trace: Trace, hardware: Hardware, tile: str, frames: Stack, baseline: Report | None) -> Report:
    shape = len(frames), len(trace.layers)
    cycles = np.array([frame[0] for frame in frames]).reshape(shape)
    causes = np.array([frame[1] for frame in frames]).reshape(*shape, len(CAUSES))
    work = np.array([frame[2] for frame in frames]).reshape(*shape, len(WORK_COLUMNS))
    return Report(hardware, trace.layers, tile, cycles, causes, work, baseline)


def _dense_report(trace: Trace, hardware: Hardware, tile: Tile | str, engine: str) -> Report:
    traffic = dense_traffic(trace.layers, hardware)
    if isinstance(tile, str):
        tiles = [dense_tile(layer, hardware, one) for layer, one in zip(trace.layers, traffic, strict=True)]
    else:
        tiles = [tile] * len(traffic)
    frame = _run(_tables(trace, hardware, tiles, traffic, NO_BITS), hardware, engine)
    return _report(trace, hardware, "dense" if isinstance(tile, str) else _name(tile), [frame] * trace.frames, None)


def _gated_report(trace: Trace, hardware: Hardware, tile: Tile, engine: str, baseline: Report) -> Report:
    traffic = gated_traffic(trace, hardware)
    any_gated = any(one.gated for one in traffic)
    tiles = [
        tile if one.gated or not any_gated else dense_tile(layer, hardware, one)
        for layer, one in zip(trace.layers, traffic, strict=True)
    ]
    planned = [plan(layer, hardware, size, one) for layer, size, one in zip(trace.layers, tiles, traffic, strict=True)]
    arrays, offsets = plan_arrays(planned), np.array(trace.mask_bits, np.int64)
    renewed = None
    frames: Stack = []
    for number in range(trace.frames):
        if trace.reference(number):
            if renewed is None:
                renewing = reference_traffic(traffic)
                sizes = [dense_tile(layer, hardware, one) for layer, one in zip(trace.layers, renewing, strict=True)]
                renewed = _run(_tables(trace, hardware, sizes, renewing, NO_BITS), hardware, engine)
            frames.append(renewed)
        else:
            frames.append(_run(lower(trace.frame_bits(number), offsets, *arrays), hardware, engine))
    return _report(trace, hardware, _name(tile), frames, baseline)


def _name(tile: Tile) -> str:
    return "full" if tile == WHOLE_MAP else f"{tile[0]}x{tile[1]}"
