"""How fast is the compiled engine? Bounds: 500 times the SimPy engine on the same table, 5 million tiles per second.

Two tables for every machine of the catalog: small active tiles of a clustered mask at their own times (lowered from a
synthetic trace of one wide layer), one core's tiles per second beside all cores'. Both engines run the same table in
turn, in one process, and must return the same counters.

Run by hand: .venv/bin/python benchmarks/engines.py [--tile 1] [--repeats 20] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from skipsim.hwmodels.hardware import Hardware, load_hardware, machines
from skipsim.simulator import fast, reference
from skipsim.simulator.counters import Counters
from skipsim.simulator.schedule import gated_schedule
from skipsim.simulator.tiles import Tiles, machine
from skipsim.traces.layer import Layer
from skipsim.traces.synthetic import synthetic_trace

RATIO_BOUND = 500
TILES_BOUND = 5e6  # per second, one core

LAYERS = [
    Layer(f"layer{n}", 64, 96, 96, 64, 96, 96, 3, 3, padding_top=1, padding_left=1, gate="input_norm") for n in range(4)
]


def best_seconds(run: Callable[[], object], repeats: int) -> float:
    """Return the shortest wall-clock time of one call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def equal(ours: Counters, theirs: Counters) -> bool:
    return all(np.array_equal(getattr(ours, n), getattr(theirs, n)) for n in ("begin", "end", "causes", "port_busy"))


def measure(tiles: Tiles, hardware: Hardware, repeats: int) -> dict[str, float]:
    """Time both engines on one table."""
    numbers = machine(hardware)
    if not equal(fast.run(tiles, numbers), reference.run(tiles, numbers)):
        raise SystemExit("the engines disagree: run the tests first")
    fast_s = best_seconds(lambda: fast.run(tiles, numbers), repeats)
    reference_s = best_seconds(lambda: reference.run(tiles, numbers), 2)
    return {"fast_s": fast_s, "reference_s": reference_s, "ratio": reference_s / fast_s}


def main() -> None:
    """Time both engines on every machine, print a table and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tile", type=int, default=1, help="tile side in output pixels")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    arguments = parser.parse_args()

    trace = synthetic_trace(LAYERS, frames=1, density=0.3, cluster_pixels=12, block=arguments.tile, reference_frames=())
    results = []
    print(f"{'machine':<16} {'cores':>5} {'tiles':>7} {'SimPy s':>9} {'compiled s':>11} {'ratio':>7} {'tiles/s':>12}")
    for name in machines():
        for cores in sorted({1, load_hardware(name).cores}):
            hardware = load_hardware(name).replace(cores=cores)
            tiles = gated_schedule(trace, hardware, (arguments.tile, arguments.tile)).tiles(0)
            numbers = measure(tiles, hardware, arguments.repeats)
            row = {"machine": name, "cores": cores, "tiles": len(tiles.rows), **numbers}
            row["tiles_per_s"] = len(tiles.rows) / numbers["fast_s"]
            results.append(row)
            print(
                f"{name:<16} {cores:>5} {row['tiles']:>7} {row['reference_s']:>9.3f} {row['fast_s']:>11.6f} "
                f"{row['ratio']:>7.0f} {row['tiles_per_s']:>12,.0f}"
            )
    print(f"bounds: ratio at least {RATIO_BOUND}, at least {TILES_BOUND:,.0f} tiles/s")
    if arguments.json:
        bounds = {"ratio": RATIO_BOUND, "tiles_per_s": TILES_BOUND}
        arguments.json.write_text(json.dumps({"bounds": bounds, "runs": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
