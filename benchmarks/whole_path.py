"""How fast is the whole path, trace -> tiles -> counters? Bounds, one core unless said otherwise:

    5 million tiles per second with `stream` memory, 1 million with `banked`; two threads at least 1.7 times one
    a 40-frame clip of HRNet-W32 at 256x256: under 1 second with `stream`, after warm-up
    ResNet-50 dense on a 32x32 array: 10,000 times faster than SCALE-Sim 3.0.0, which took 1,064 s on two cores
    the same with `banked` memory: under 5 seconds

Lowering (masks coarsened to tiles, bytes and segments of each) is part of every time, and so is choosing the dense
tiles; compiling, and making the synthetic masks, is not.

Run by hand: .venv/bin/python benchmarks/whole_path.py [--tile 4] [--frames 40] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from skipsim.hwmodels.hardware import Hardware, load_hardware
from skipsim.simulator import baseline, fast
from skipsim.simulator.plan import plan
from skipsim.simulator.schedule import Schedule, gated_schedule
from skipsim.simulator.simulate import simulate
from skipsim.simulator.tiles import machine
from skipsim.traces.synthetic import synthetic_trace
from skipsim.traces.topology import topology_trace

SCALESIM_RESNET50_S = 1064  # SCALE-Sim 3.0.0, ResNet-50 on 32x32, run on a machine of two cores
RESNET50 = Path(__file__).parent.parent / "tests" / "oracles" / "scalesim" / "resnet50.topology.csv"

Row = dict[str, float | str]


def seconds(run: Callable[[], object], repeats: int = 3) -> float:
    """Return the shortest wall-clock time of one call after one that compiles; nothing is remembered between them."""
    run()
    times = []
    for _ in range(repeats):
        plan.cache_clear()
        baseline._dense_tile.cache_clear()
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def run_frames(schedule: Schedule, frames: range) -> int:
    """Lower and run frames one by one, keeping nothing; return how many tiles they had."""
    numbers, tiles = machine(schedule.hardware), 0
    for frame in frames:
        table = schedule.tiles(frame)
        fast.run(table, numbers)
        tiles += len(table.rows)
    return tiles


def run_threads(schedule: Schedule, frames: int, threads: int) -> None:
    """Share the frames out to threads."""
    with ThreadPoolExecutor(threads) as pool:
        parts = [range(first, frames, threads) for first in range(threads)]
        list(pool.map(run_frames, [schedule] * threads, parts))


def paths(hardware: Hardware, schedule: Schedule, frames: int) -> list[Row]:
    """Time the path on one and on two threads."""
    tiles = run_frames(schedule, range(frames))
    one = seconds(lambda: run_frames(schedule, range(frames)))
    lowering = seconds(lambda: [schedule.tiles(frame) for frame in range(frames)])
    two = seconds(lambda: run_threads(schedule, frames, 2))
    rule = hardware.dram.rule
    bound = 1e6 if rule == "banked" else 5e6
    return [
        {"what": f"{hardware.name}, {rule}: tiles/s", "value": tiles / one, "bound": f">= {bound:,.0f}"},
        {"what": f"{hardware.name}, {rule}: tiles/s, lowering alone", "value": tiles / lowering, "bound": ""},
        {"what": f"{hardware.name}, {rule}: two threads over one", "value": one / two, "bound": ">= 1.7"},
    ]


def main() -> None:
    """Time every path, print a table and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tile", type=int, default=4, help="tile side in output pixels, and the masks' block")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    arguments = parser.parse_args()
    tile = arguments.tile, arguments.tile

    trace = synthetic_trace(
        "hrnet_w32", rows=256, cols=256, frames=arguments.frames, density=0.2, cluster_pixels=16, block=tile
    )
    stream = load_hardware("edge-npu")
    banked = stream.replace(**{"dram.rule": "banked"})
    rows: list[Row] = []

    def add(what: str, value: float, bound: str) -> None:
        rows.append({"what": what, "value": value, "bound": bound})

    for hardware in (stream, banked, load_hardware("auto-npu")):
        rows += paths(hardware, gated_schedule(trace, hardware, tile), trace.frames)
    add(
        f"HRNet-W32, {trace.frames} frames, simulate with its dense baseline: s",
        seconds(lambda: simulate(trace, stream, tile=tile)),
        "< 1",
    )
    plain, resnet = load_hardware("systolic-32x32"), topology_trace(RESNET50)
    full = seconds(lambda: simulate(resnet, plain, tile="full", dense=True))
    add("ResNet-50 dense, 32x32: SCALE-Sim's time over ours", SCALESIM_RESNET50_S / full, ">= 10,000")
    memory = {"dram.rule": "banked", "dram.part": "LPDDR4X-4266", "dram.channels": 2}
    with_banks = plain.replace(**memory, **{"buffers.input_bytes": 2**20, "buffers.output_bytes": 2**20})
    add("ResNet-50 dense, 32x32, banked: s", seconds(lambda: simulate(resnet, with_banks, dense=True)), "< 5")

    for row in rows:
        print(f"{row['what']:<64} {row['value']:>14,.3f}   {row['bound']}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
