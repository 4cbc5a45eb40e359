"""Is a search better than a grid on the same budget? Latency and points lost of pose_small on edge-npu.

The grid has four thresholds, four blocks, each for all layers, and four tiles: 64 rows. The search tries 64
combinations of a threshold anywhere in the same range, a block size per map size, and the same tiles. Prints, for each,
the share of the box (dense latency, POINTS lost) that its rows beat, the fastest row within one point, and the cost.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from skipsim.analysis.pareto import hypervolume
from skipsim.analysis.sweep import sweep

POINTS = 3.0
COMMON = """
name = "{name}"
[simulation]
hardware = "edge-npu"
tile = ["2x2", "4x4", "8x8", "16x16"]
[recording]
network = "pose_small"
clip = "pose:2000001:pan"
frames = {frames}
"""
GRID = "threshold = { from = 0.05, to = 0.15, steps = 4 }\nblock = [1, 2, 4, 8]\n"
SEARCH = """threshold = {{ from = 0.05, to = 0.15 }}
block = {{ ">=32x32" = [1, 2, 4, 8], "16x16" = [1, 2, 4, 8], "*" = [1, 2, 4, 8] }}
[search]
trials = {trials}
population = 16
seed = {seed}
"""


def measure(folder: Path, name: str, text: str, frames: int, workers: int | None) -> str:
    study = folder / f"{name}.toml"
    study.write_text(COMMON.format(name=name, frames=frames) + text)
    start = time.perf_counter()
    table = sweep(study, folder / name, workers)
    took = time.perf_counter() - start
    keys = ["threshold", "block", "tile"]
    mean = table.groupby(keys, sort=False)[["latency_ms", "dense_latency_ms", "quality_drop"]].mean()
    dense = float(mean["dense_latency_ms"].iloc[0])
    points = np.column_stack([mean["latency_ms"] / dense, mean["quality_drop"].clip(lower=0) / POINTS])
    allowed = mean[mean["quality_drop"] <= 1]
    best = "-" if allowed.empty else describe(allowed)
    recordings = len(list((folder / name / "traces").iterdir()))
    return f"{name:10} {len(mean):5} {recordings:11} {took:7.0f} {hypervolume(points, (1.0, 1.0)):7.1%}   {best}"


def describe(allowed: pd.DataFrame) -> str:
    row = allowed.sort_values("latency_ms").iloc[0]
    threshold, block, tile = row.name  # type: ignore[misc]
    return f"{row['dense_latency_ms'] / row['latency_ms']:.3f}x: threshold {threshold:.3f}, block {block}, tile {tile}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    print("           rows  recordings  total s  beaten   fastest within one point", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(measure(folder, "grid", GRID, options.frames, options.workers), flush=True)
        for seed in options.seeds:
            text = SEARCH.format(trials=options.trials, seed=seed)
            print(measure(folder, f"search-{seed}", text, options.frames, options.workers), flush=True)


if __name__ == "__main__":
    main()
