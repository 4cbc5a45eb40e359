"""How fast is the whole path, trace -> tiles -> counters? Bounds, one core unless said otherwise:

    5 million tiles per second with `stream` memory, 1 million with `banked`; two threads at least 1.7 times one
    a 40-frame clip of HRNet-W32 at 256x256: under 1 second with `stream`, after warm-up
    ResNet-50 dense on a 32x32 array: 10,000 times faster than SCALE-Sim 3.0.0, which took 1,064 s on two cores
    the same with `banked` memory: under 5 seconds

Lowering (masks coarsened to tiles, bytes and segments of each) is part of every time, and so is choosing the dense
tiles; compiling, and making the synthetic masks, is not.

Measured on two virtual cores of a quiet machine (AMD EPYC, model 17), 40 frames, one run, million tiles per second and
two threads over one; `edge-npu` stream, `auto-npu` stream, `edge-npu` banked:

    8x8   4.8 1.81x   3.8 1.80x   0.94 1.96x      2x2  12.4 1.96x  11.8 1.95x   2.2 1.90x
    4x4   8.2 1.93x   7.8 1.89x   1.6  2.01x      1x1  13.8 1.86x  13.0 1.75x   2.9 1.88x

Threads meet their bound everywhere, rates at 1x1 to 4x4. At 8x8 they lie at the bound on `edge-npu` (another run: 5.3
and 1.01) and below it on `auto-npu`: six rows a layer and frame, on eight cores, so that starting 293 layers a frame
takes a third of the time. ResNet-50 dense is 480,000 times faster than SCALE-Sim, and takes 0.04 s with banked
memory; HRNet-W32 of 40 frames in tiles of 8x8 takes 0.18 s with its dense baseline (1x1: 0.48 s).

Run by hand: .venv/bin/python benchmarks/whole_path.py [--tiles 1 2 4 8] [--frames 40] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from skipsim.hwmodels.hardware import load_hardware
from skipsim.simulator import baseline, fast
from skipsim.simulator.plan import plan
from skipsim.simulator.schedule import Schedule, gated_schedule, tile_name
from skipsim.simulator.simulate import simulate
from skipsim.simulator.tiles import machine
from skipsim.simulator.workspace import Workspace
from skipsim.traces.synthetic import synthetic_trace
from skipsim.traces.topology import topology_trace

TIMED_S = 0.3  # a clip is run again and again for at least so long: threads take a tenth of a millisecond to start
SCALESIM_RESNET50_S = 1064  # SCALE-Sim 3.0.0, ResNet-50 on 32x32, run on a machine of two cores
RESNET50 = Path(__file__).parent.parent / "tests" / "oracles" / "scalesim" / "resnet50.topology.csv"

Row = dict[str, Any]


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


def lower_frames(schedule: Schedule, frames: Sequence[int]) -> int:
    """Lower frames one by one, keeping nothing; return how many tiles they had."""
    workspace = Workspace()
    return sum(len(schedule.tiles(frame, workspace).rows) for frame in frames)


def run_frames(schedule: Schedule, frames: Sequence[int]) -> None:
    """Lower and run frames one by one, keeping nothing."""
    numbers, workspace = machine(schedule.hardware), Workspace()
    for frame in frames:
        fast.run(schedule.tiles(frame, workspace), numbers)


def run_threads(schedule: Schedule, frames: Sequence[int], threads: int) -> None:
    """Share the frames out to threads."""
    with ThreadPoolExecutor(threads) as pool:
        parts = [frames[first::threads] for first in range(threads)]
        list(pool.map(run_frames, [schedule] * threads, parts))


def path(schedule: Schedule, frames: int) -> Row:
    """Time the path on one and on two threads, and lowering alone."""
    clip = list(range(frames))
    clip *= 1 + int(TIMED_S / seconds(lambda: run_frames(schedule, clip), repeats=1))
    tiles = lower_frames(schedule, clip)
    lowering = seconds(lambda: lower_frames(schedule, clip))
    one = seconds(lambda: run_frames(schedule, clip))
    two = seconds(lambda: run_threads(schedule, clip, 2))
    return {
        "machine": schedule.hardware.name,
        "memory": schedule.hardware.dram.rule,
        "tile": tile_name(schedule.sizes[-1]),
        "tiles": tiles,
        "tiles_per_s": tiles / one,
        "lowered_per_s": tiles / lowering,
        "two_threads_over_one": one / two,
    }


def main() -> None:
    """Time every path, print a table and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, nargs="+", default=[1, 2, 4, 8], help="sides of tiles, and masks' blocks")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    arguments = parser.parse_args()

    stream, auto = load_hardware("edge-npu"), load_hardware("auto-npu")
    heads = ("machine", "memory", "tile", "tiles", "tiles/s", "lowering alone", "2 threads")
    print("{:<10} {:<7} {:>5} {:>9} {:>12} {:>15} {:>10}".format(*heads))
    paths = []
    for side in arguments.tiles:
        trace = synthetic_trace(
            "hrnet_w32", rows=256, cols=256, frames=arguments.frames, density=0.2, cluster_pixels=16, block=side
        )
        for hardware in (stream, auto, stream.replace(**{"dram.rule": "banked"})):
            row = path(gated_schedule(trace, hardware, (side, side)), trace.frames)
            paths.append(row)
            print(
                f"{row['machine']:<10} {row['memory']:<7} {row['tile']:>5} {row['tiles']:>9,} "
                f"{row['tiles_per_s']:>12,.0f} {row['lowered_per_s']:>15,.0f} {row['two_threads_over_one']:>9.2f}x"
            )
    print("bounds: 5,000,000 tiles/s with stream, 1,000,000 with banked, two threads 1.7x")

    plain, resnet = load_hardware("systolic-32x32"), topology_trace(RESNET50)
    parts = {"dram.rule": "banked", "dram.part": "LPDDR4X-4266", "dram.channels": 2}
    buffers = {"buffers.input_bytes": 2**20, "buffers.weight_bytes": 2**20, "buffers.output_bytes": 2**20}
    banked = plain.replace(**parts, **buffers)
    dense = seconds(lambda: simulate(resnet, plain, tile="full", dense=True))
    times = {
        f"HRNet-W32, {trace.frames} frames, tile {side}, stream, with its dense baseline: s": (
            seconds(lambda: simulate(trace, stream, tile=side)),
            "< 1",
        ),
        "ResNet-50 dense, 32x32: SCALE-Sim's time over ours": (SCALESIM_RESNET50_S / dense, ">= 10,000"),
        "ResNet-50 dense, 32x32, banked: s": (seconds(lambda: simulate(resnet, banked, dense=True)), "< 5"),
    }
    for what, (value, bound) in times.items():
        print(f"{what:<72} {value:>12,.3f}   {bound}")
    if arguments.json:
        rows = [{"what": what, "value": value, "bound": bound} for what, (value, bound) in times.items()]
        arguments.json.write_text(json.dumps({"paths": paths, "runs": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
