"""Is a search better than a grid on the same budget? Two spaces, 64 combinations each, three seeds.

Network: latency and points lost of pose_small on edge-npu. The grid has four thresholds, four blocks, each for all
layers, and four tiles. The search takes a threshold anywhere in the same range, a block size per map size, and a tile.

Machine: latency and area for one recording. The grid has two values each of array rows and columns, cores and width of
the DRAM, and four tiles; the search takes any values between.

Prints the share of a box that the rows of each beat: up to the dense latency and POINTS lost, and up to the grid's
longest latency and largest area.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from skipsim.analysis.inputs.gated_network import Gating
from skipsim.analysis.pareto import hypervolume
from skipsim.analysis.running.record_clip import record_clip
from skipsim.analysis.sweep import sweep

POINTS = 3.0
CLIP = "pose:2000001:pan"
NETWORK = """
name = "network"
[simulation]
hardware = "edge-npu"
tile = ["2x2", "4x4", "8x8", "16x16"]
[recording]
network = "pose_small"
clip = "{clip}"
frames = {frames}
"""
NETWORK_GRID = """threshold = { from = 0.05, to = 0.15, steps = 4 }
block = [1, 2, 4, 8]
"""
NETWORK_SEARCH = """threshold = { from = 0.05, to = 0.15 }
block = { ">=32x32" = [1, 2, 4, 8], "16x16" = [1, 2, 4, 8], "*" = [1, 2, 4, 8] }
"""
MACHINE = """
name = "machine"
objectives = ["latency_ms", "area_mm2"]
[recording]
trace = "clip.trace"
[simulation]
hardware = "edge-npu"
tile = ["2x2", "4x4", "8x8", "16x16"]
"""
MACHINE_GRID = """"array.rows" = [8, 32]
"array.cols" = [8, 32]
cores = [1, 4]
"dram.bytes_per_cycle" = [4, 32]
"""
MACHINE_SEARCH = """"array.rows" = { from = 8, to = 32 }
"array.cols" = { from = 8, to = 32 }
cores = { from = 1, to = 4 }
"dram.bytes_per_cycle" = { from = 4, to = 32 }
"""


def measure(folder: Path, text: str) -> tuple[pd.DataFrame, float]:
    """Run a study in the folder of its space, whose recordings and simulations all of them share."""
    study = folder / "study.toml"
    study.write_text(text)
    start = time.perf_counter()
    table = sweep(study, folder / "out", progress=False)
    return table, time.perf_counter() - start


def network_share(table: pd.DataFrame, grid: pd.DataFrame) -> float:
    """Return the share of the box up to dense latency and POINTS lost that is beaten."""
    lost = table["quality_drop"].clip(0) / POINTS
    return hypervolume(np.column_stack([table["latency_ms"] / table["dense_latency_ms"], lost]), (1.0, 1.0))


def machine_share(table: pd.DataFrame, grid: pd.DataFrame) -> float:
    """Return the share of the box up to the grid's longest latency and largest area that is beaten."""
    names = ["latency_ms", "area_mm2"]
    return hypervolume((table[names] / grid[names].max()).to_numpy(np.float64), (1.0, 1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--spaces", choices=["network", "machine"], nargs="*", default=["machine", "network"])
    options = parser.parse_args()
    network = NETWORK.format(clip=CLIP, frames=options.frames)
    spaces = {
        "network": (network + NETWORK_GRID, network + NETWORK_SEARCH, network_share),
        "machine": (MACHINE + MACHINE_GRID, MACHINE + MACHINE_SEARCH, machine_share),
    }
    print("                   rows  recordings  total s   beaten")
    for space in options.spaces:
        grid_text, search_text, share_of = spaces[space]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if space == "machine":
                gating = Gating(threshold=0.1, block=(4, 4))
                record_clip("pose_small", CLIP, folder / "clip.trace", gating, frames=options.frames)
            grid, shares = pd.DataFrame(), []
            for seed in [None, *options.seeds]:
                own = "" if seed is None else f"[search]\ntrials = {options.trials}\nseed = {seed}\n"
                table, took = measure(folder, (grid_text if seed is None else search_text) + own)
                grid = table if seed is None else grid
                recordings = len(table[["threshold", "block"]].drop_duplicates())
                shares.append(share_of(table, grid))
                title = f"{space} {'grid' if seed is None else f'search {seed}'}"
                print(f"{title:18} {len(table):4} {recordings:11} {took:8.0f} {shares[-1]:8.2%}", flush=True)
            print(f"{space} search: mean {np.mean(shares[1:]):.2%}, {min(shares[1:]):.2%} to {max(shares[1:]):.2%}")


if __name__ == "__main__":
    main()
