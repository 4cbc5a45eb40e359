"""What does recording cost beyond running the gated network? Bounds: 1.3 times the gated forward pass in time; memory
that grows with the frames kept only, none of which are in a recording to the disk.

Both run the same converted network over the same frames in turns: once bare (tensors ready, masks dropped), once
through `record` into a directory (frames read and hashed, masks packed, checksummed and flushed to the disk).

With --memory 40,320 it records clips of so many frames instead, each in a process of its own, to the disk and into
memory, and says how much more the longer one takes: the largest resident set.

Run by hand: .venv/bin/python benchmarks/record_overhead.py [--networks pose_small,hrnet_w32] [--frames 33] [--runs 7]
    [--threads 1] [--json FILE] [--memory FRAMES,FRAMES]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import skipsim
from skipsim.traces.convert import convert, reset
from skipsim.traces.models import MODELS
from skipsim.traces.record import record

BOUND = 1.3
THRESHOLD = 0.05


def bare_seconds(model: nn.Module, inputs: list[torch.Tensor]) -> float:
    """Return the time of the gated network alone over a clip."""
    reset(model)
    with torch.inference_mode():
        start = time.perf_counter()
        for x in inputs:
            model(x)
        return time.perf_counter() - start


def record_seconds(model: nn.Module, frames: list[Any], out: Path) -> float:
    """Return the time of a whole recording to the disk."""
    start = time.perf_counter()
    record(model, frames, out=out, progress=False)
    return time.perf_counter() - start


def measure(network: str, block: int, frames: int, runs: int) -> dict[str, Any]:
    """Return medians over `runs` interleaved pairs, the first pair dropped."""
    model = convert(skipsim.network(network), skipsim.InputNormGate(threshold=THRESHOLD, block=block))
    rows, cols = MODELS[network].rows, MODELS[network].cols
    clip = list(islice(skipsim.read_frames("pose:0", size=(rows, cols), limit=frames), frames))
    inputs = [torch.from_numpy(frame).permute(2, 0, 1)[None].float().div_(255) for frame in clip]
    pairs = []
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(runs + 1):
            pairs.append((bare_seconds(model, inputs), record_seconds(model, clip, Path(directory) / "trace")))
        trace = skipsim.load_trace(Path(directory) / "trace")
        size = sum(file.stat().st_size for file in (Path(directory) / "trace").iterdir())
    bare = statistics.median(pair[0] for pair in pairs[1:])
    recorded = statistics.median(pair[1] for pair in pairs[1:])
    return {
        "network": network,
        "block": block,
        "frames": frames,
        "density": trace.density(),
        "bare_ms_per_frame": 1000 * bare / frames,
        "record_ms_per_frame": 1000 * recorded / frames,
        "ratio": statistics.median(pair[1] / pair[0] for pair in pairs[1:]),
        "trace_mb": size / 1e6,
        "bound": BOUND,
    }


def peak_megabytes(network: str, frames: int, to_disk: bool) -> float:
    """Return the largest resident set of a process that records a clip whose frames are made while it runs."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_record_alone, (network, frames, to_disk))


def _record_alone(network: str, frames: int, to_disk: bool) -> float:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    rows, cols = MODELS[network].rows, MODELS[network].cols
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (rows, cols, 3), np.uint8)

    def clip() -> Iterator[Any]:
        for _ in range(frames):
            picture[generator.integers(rows), :] = generator.integers(0, 256, (cols, 3), np.uint8)
            yield picture.copy()

    gate = skipsim.InputNormGate(threshold=THRESHOLD, block=4)
    with tempfile.TemporaryDirectory() as directory:
        record(
            skipsim.network(network), clip(), gate, out=Path(directory) / "trace" if to_disk else None, progress=False
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def print_memory(networks: list[str], lengths: list[int]) -> None:
    """Print the peak of recordings of several lengths, and what a frame of the longer ones adds."""
    for network in networks:
        for to_disk in (True, False):
            peaks = [peak_megabytes(network, frames, to_disk) for frames in lengths]
            added = (peaks[-1] - peaks[0]) / (lengths[-1] - lengths[0])
            seen = ", ".join(f"{frames} frames {peak:.0f} MB" for frames, peak in zip(lengths, peaks, strict=True))
            print(f"{network} {'to the disk' if to_disk else 'in memory'}: {seen}; {1000 * added:.1f} kB a frame")


def main() -> None:
    """Measure every network with blocks of 1 and 4, print a table and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="pose_small")
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    parser.add_argument("--memory", help="two lengths of a clip in frames: measure memory instead of time")
    arguments = parser.parse_args()

    if arguments.memory:
        print_memory(arguments.networks.split(","), [int(length) for length in arguments.memory.split(",")])
        return
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    results = []
    print(f"{'network':<12} {'block':>5} {'density':>8} {'bare ms':>8} {'record ms':>9} {'ratio':>6} {'trace MB':>8}")
    for network in arguments.networks.split(","):
        for block in (1, 4):
            row = measure(network, block, arguments.frames, arguments.runs)
            results.append(row)
            print(
                f"{network:<12} {block:>5} {row['density']:>8.3f} {row['bare_ms_per_frame']:>8.2f} "
                f"{row['record_ms_per_frame']:>9.2f} {row['ratio']:>6.3f} {row['trace_mb']:>8.2f}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
