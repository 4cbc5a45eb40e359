"""Whole networks on the clock: dense PyTorch against the sparse runtime, one configuration after the other, in turns.

Dense is the fastest of four: eager PyTorch, and the traced and frozen graph (batch normalisation folded), each with
channels first and last. The sparse runtime executes synthetic, clustered masks of the wanted density on every gated
layer; its gates are evaluated too, and the frames differ everywhere, so that gates, references, sums and upsampling all
cost what they cost. Weights are random: time does not depend on them. Everything runs on so many threads, with
denormals flushed, in inference mode; times are wall clock, medians over the runs.

Run by hand: .venv/bin/python benchmarks/networks.py [--networks hrnet_w32,efficientdet_d0,unet] [--blocks 1,2,4,8,16]
    [--densities 0.05,0.1,0.25,0.5,1] [--runs 7] [--threads 1] [--placement fused] [--share layer] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import skipsim
from skipsim.traces.execute.graph_reader import read_graph
from skipsim.traces.execute.sparse_network import SparseNetwork
from skipsim.traces.synthetic import synthetic_trace

SIZES = {"hrnet_w32": (256, 256), "efficientdet_d0": (512, 512), "unet": (256, 256)}
CLUSTER_SHARE = 8  # clusters are an eighth of the picture's height across
FRAMES = 4
Masks = Mapping[tuple[str, int], np.ndarray]


def dense_runs(model: nn.Module, frame: Tensor) -> dict[str, Callable[[], Any]]:
    """Return the ways in which PyTorch runs the dense network, each on the frame."""
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    frame_last = frame.to(memory_format=torch.channels_last)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(model, frame, check_trace=False)))
        frozen_last = torch.jit.freeze(torch.jit.trace(last, frame_last, check_trace=False))
    return {
        "eager": lambda: model(frame),
        "eager channels last": lambda: last(frame_last),
        "frozen": lambda: frozen(frame),
        "frozen channels last": lambda: frozen_last(frame_last),
    }


def milliseconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def spread(times: list[float]) -> float:
    """Return how far repeated runs lie apart: the interquartile range over the median."""
    quarters = statistics.quantiles(times, n=4)
    return (quarters[2] - quarters[0]) / quarters[1]


class Case:
    """One network with gates of one block size, and masks of several densities."""

    def __init__(
        self, name: str, model: nn.Module, graph: Any, block: int, densities: list[float], placement: str
    ) -> None:
        self.frames = frames_of(SIZES[name])
        self.masks: list[Masks] = []
        gated = skipsim.convert(model, skipsim.InputNormGate(threshold=0.0, block=block))
        self.sparse = SparseNetwork(
            gated, placement=placement, replay=lambda frame: self.masks[frame % FRAMES], graph=graph
        )
        self.sparse(self.frames[0])
        self.by_density = {density: self.draw(SIZES[name], density, block) for density in densities}

    def draw(self, size: tuple[int, int], density: float, block: int) -> list[Masks]:
        rows, cols = size
        layers = self.sparse.layers
        trace = synthetic_trace(
            layers,
            rows=rows,
            cols=cols,
            frames=FRAMES + 1,
            density=density,
            cluster_pixels=rows / CLUSTER_SHARE,
            block=block,
        )
        return [
            {layer.key: trace.mask(index, frame) for index, layer in enumerate(trace.layers)}
            for frame in range(1, FRAMES + 1)
        ]

    def run(self, density: float) -> float:
        """Return the time of one frame, the second of two: the first brings the caches into the state of a clip."""
        self.masks = self.by_density[density]
        for _ in range(2):
            frame = self.frames[(self.sparse.frame + 1) % FRAMES]
            elapsed = milliseconds(lambda frame=frame: self.sparse(frame))
        return elapsed

    def parts(self, density: float) -> dict[str, float]:
        """Return CPU milliseconds by part, medians over some frames."""
        self.masks = self.by_density[density]
        found = []
        for _ in range(FRAMES):
            total: Counter[str] = Counter()
            for timing in self.sparse.profile(self.frames[(self.sparse.frame + 1) % FRAMES]):
                total[timing.part] += timing.nanoseconds
            found.append(total)
        return {part: statistics.median(each[part] for each in found) / 1e6 for part in found[0]}


def frames_of(size: tuple[int, int]) -> list[Tensor]:
    """Return pictures that differ everywhere."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 3, *size, generator=generator) for _ in range(FRAMES)]


def measure(
    name: str, blocks: list[int], densities: list[float], runs: int, placement: str, threads: int
) -> list[dict[str, Any]]:
    """Return one row per block and density."""
    model = skipsim.network(name, weights=None)
    frame = frames_of(SIZES[name])[0]
    graph = read_graph(model, frame)
    dense = dense_runs(model, frame)
    rows = []
    for block in blocks:
        case = Case(name, model, graph, block, densities, placement)
        case.sparse.threads = threads
        dense_times: dict[str, list[float]] = {way: [] for way in dense}
        sparse_times: dict[float, list[float]] = {density: [] for density in densities}
        for _ in range(runs + 2):
            for way, compute in dense.items():
                dense_times[way].append(milliseconds(compute))
            for density in densities:
                sparse_times[density].append(case.run(density))
        medians = {way: statistics.median(times[2:]) for way, times in dense_times.items()}
        best = min(medians, key=lambda way: medians[way])
        layers = case.sparse.layers
        gate_macs = sum(layer.gate_macs for layer in layers)
        for density in densities:
            case.run(density)
            executed = case.sparse.macs()
            times = sparse_times[density][2:]
            sparse_ms = statistics.median(times)
            reduction = sum(layer.macs for layer in layers) / (executed + gate_macs)
            parts = case.parts(density)
            rows.append(
                {
                    "network": name,
                    "block": block,
                    "density": density,
                    "placement": placement,
                    "threads": threads,
                    "dense": best,
                    "dense_ms": medians,
                    "sparse_ms": sparse_ms,
                    "speedup": medians[best] / sparse_ms,
                    "mac_reduction": reduction,
                    "realised": medians[best] / sparse_ms / reduction,
                    "parts_ms": parts,
                    "dense_spread": spread(dense_times[best][2:]),
                    "sparse_spread": spread(times),
                }
            )
            print(line(rows[-1]), flush=True)
    return rows


PARTS = ("convolve", "gate", "reference", "index", "combine", "torch", "input", "output")
HEADER = (
    f"{'network':<16} {'block':>5} {'density':>7} {'dense ms':>8} {'sparse ms':>9} {'speed-up':>8} {'MACs':>6} "
    f"{'realised':>8}   " + " ".join(f"{part:>9}" for part in PARTS)
)


def line(row: dict[str, Any]) -> str:
    parts = " ".join(f"{row['parts_ms'].get(part, 0):>9.2f}" for part in PARTS)
    return (
        f"{row['network']:<16} {row['block']:>5} {row['density']:>7} {row['dense_ms'][row['dense']]:>8.1f} "
        f"{row['sparse_ms']:>9.1f} {row['speedup']:>7.2f}x {row['mac_reduction']:>5.2f}x {row['realised']:>8.2f}"
        f"   {parts}"
    )


def main() -> None:
    """Measure what was asked for, print a table and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(SIZES))
    parser.add_argument("--blocks", default="1,2,4,8,16")
    parser.add_argument("--densities", default="0.05,0.1,0.25,0.5,1")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--placement", default="fused")
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    blocks = [int(block) for block in arguments.blocks.split(",")]
    densities = [float(density) for density in arguments.densities.split(",")]
    print(HEADER)
    results = []
    with torch.inference_mode():
        for name in arguments.networks.split(","):
            results += measure(name, blocks, densities, arguments.runs, arguments.placement, arguments.threads)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
