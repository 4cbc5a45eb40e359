"""Whole networks on the clock: dense PyTorch against the sparse runtime, one configuration after the other, in turns.

Dense is the fastest of four: eager PyTorch, and the traced and frozen graph (batch normalisation folded), each with
channels first and last. The sparse runtime executes synthetic, clustered masks of the wanted density on every gated
layer; its gates are evaluated too, and the frames differ everywhere, so that gates, references, sums and upsampling all
cost what they cost. Weights are random: time does not depend on them. Everything runs on so many threads, with
denormals flushed, in inference mode; times are wall clock, medians over the runs.

Before a configuration runs, its speed-up is predicted by this machine's measured file, if there is one for so many
threads ("auto": see skipsim.hwmodels.choice), with the file's anchor of the network, if it has one.

With --live the gates decide, on a procedural clip; their thresholds are shares of each layer's mean input.

Run by hand: .venv/bin/python benchmarks/networks.py [--networks hrnet_w32,efficientdet_d0,unet] [--blocks 1,2,4,8,16]
    [--densities 0.05,0.1,0.25,0.5,1 | --live 0.1,0.3] [--runs 5] [--threads 1] [--placement fused] [--share layer]
    [--machine auto|NAME|FILE] [--json FILE]
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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import skipsim
from skipsim.hwmodels.choice import machine_at_hand
from skipsim.hwmodels.hardware import Hardware
from skipsim.traces.execute.graph import Graph
from skipsim.traces.execute.graph_reader import read_graph
from skipsim.traces.execute.sparse_network import SparseNetwork
from skipsim.traces.execute.timed_network import mean_inputs
from skipsim.traces.synthetic import synthetic_trace
from skipsim.traces.trace import Trace

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
    ways = {
        "eager": lambda: model(frame),
        "eager channels last": lambda: last(frame_last),
        "frozen": lambda: frozen(frame),
        "frozen channels last": lambda: frozen_last(frame_last),
    }
    for compute in ways.values():
        for _ in range(3):  # a traced graph is optimised on its first runs
            compute()
    return ways


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

    def __init__(self, name: str, model: nn.Module, graph: Graph, block: int, options: argparse.Namespace) -> None:
        self.frames, self.block = frames_of(SIZES[name]), block
        self.masks: list[Masks] = []
        gated = skipsim.convert(model, skipsim.InputNormGate(threshold=0.0, block=block), share=options.share)
        self.sparse = SparseNetwork(
            gated, placement=options.placement, replay=lambda frame: self.masks[frame % FRAMES], graph=graph
        )
        self.sparse(self.frames[0])
        self.by_density = {density: self.draw(SIZES[name], density, block) for density in options.densities}

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

    def predict(self, density: float, machine: Hardware | None) -> float | None:
        """Return the predicted speed-up of a density's masks, by a machine that runs every gated layer gated."""
        if machine is None:
            return None
        layers, frames = self.sparse.layers, self.by_density[density]
        trace = Trace.from_masks(
            list(layers), [np.stack([masks[layer.key] for masks in frames]) for layer in layers], reference_frames=()
        )
        gated = machine.replace(**{"processor.fallback": False})
        return skipsim.simulate(trace, gated, tile=(self.block, self.block)).speedup

    def run(self, density: float) -> tuple[float, float]:
        """Return milliseconds and multiply-accumulates per frame, means over some frames after one that warms up."""
        self.masks = self.by_density[density]
        self.step()
        frames = [(self.step(), self.sparse.macs()) for _ in range(FRAMES)]
        return statistics.mean(elapsed for elapsed, _ in frames), statistics.mean(macs for _, macs in frames)

    def step(self) -> float:
        frame = self.frames[(self.sparse.frame + 1) % len(self.frames)]
        return milliseconds(lambda: self.sparse(frame))

    def parts(self, density: float) -> dict[str, float]:
        """Return CPU milliseconds by part, means over some frames."""
        self.masks = self.by_density[density]
        found = []
        for _ in range(FRAMES):
            total: Counter[str] = Counter()
            for timing in self.sparse.profile(self.frames[(self.sparse.frame + 1) % FRAMES]):
                total[timing.part] += timing.nanoseconds
            found.append(total)
        return {part: statistics.mean(each[part] for each in found) / 1e6 for part in found[0]}


def frames_of(size: tuple[int, int]) -> list[Tensor]:
    """Return pictures that differ everywhere."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 3, *size, generator=generator) for _ in range(FRAMES)]


def measure(name: str, model: nn.Module, graph: Graph, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row per block and density of synthetic masks."""
    dense = dense_runs(model, frames_of(SIZES[name])[0])
    rows = []
    for block in options.blocks:
        case = Case(name, model, graph, block, options)
        case.sparse.threads = options.threads
        predicted = {density: case.predict(density, options.machine) for density in options.densities}
        dense_times: dict[str, list[float]] = {way: [] for way in dense}
        found: dict[float, list[tuple[float, float]]] = {density: [] for density in options.densities}
        for _ in range(options.runs + 1):
            for way, compute in dense.items():
                dense_times[way].append(milliseconds(compute))
            for density in options.densities:
                found[density].append(case.run(density))
        for density, runs in found.items():
            row = {"network": name, "masks": "synthetic", "block": block, "density": density}
            row |= setting(options) | {"parts_ms": case.parts(density), "predicted": predicted[density]}
            rows.append(row | compared(case.sparse, dense_times, runs))
            print(line(rows[-1]), flush=True)
    return rows


def measure_live(name: str, model: nn.Module, graph: Graph, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row per block and threshold, of gates that decide on a procedural clip."""
    clip = list(skipsim.read_frames("pose:0", size=SIZES[name], limit=options.frames))
    frames = [torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255 for frame in clip]
    dense = dense_runs(model, frames[0])
    means = mean_inputs(model, frames[0])
    rows = []
    for block in options.blocks:
        for share in options.live:
            gate = skipsim.InputNormGate(threshold={layer: share * mean for layer, mean in means.items()}, block=block)
            gated = skipsim.convert(model, gate, share=options.share)
            sparse = SparseNetwork(gated, placement=options.placement, graph=graph)
            sparse.threads = options.threads
            sparse(frames[0])
            dense_times: dict[str, list[float]] = {way: [] for way in dense}
            runs, parts, densities = [], Counter[str](), []
            for index, frame in enumerate(frames[1:]):
                for way, compute in dense.items():
                    dense_times[way].append(milliseconds(compute))
                if index % 2:  # the clip's frames are timed whole and by parts in turns
                    for timing in sparse.profile(frame):
                        parts[timing.part] += timing.nanoseconds
                    continue
                elapsed = milliseconds(partial(sparse, frame))
                runs.append((elapsed, sparse.macs()))
                densities.append(sparse.macs() / sum(layer.macs for layer in sparse.layers))
            halves = len(frames[1:]) // 2
            row = {"network": name, "masks": f"live, threshold {share} of mean", "block": block}
            row |= setting(options) | {"density": round(statistics.mean(densities), 3)}
            row["parts_ms"] = {part: ns / 1e6 / halves for part, ns in parts.items()}
            rows.append(row | compared(sparse, dense_times, runs))
            print(line(rows[-1]), flush=True)
    return rows


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """Return what all rows of a run have in common."""
    return {"placement": options.placement, "share": options.share, "threads": options.threads}


def compared(
    sparse: SparseNetwork, dense_times: dict[str, list[float]], runs: list[tuple[float, float]]
) -> dict[str, Any]:
    """Return what the times of the dense and the sparse network, the first of each left out, say."""
    dense = {way: statistics.median(times[1:]) for way, times in dense_times.items()}
    best = min(dense, key=lambda way: dense[way])
    times = [elapsed for elapsed, _ in runs[1:]]
    sparse_ms = statistics.median(times)
    executed = statistics.mean(macs for _, macs in runs[1:]) + sum(layer.gate_macs for layer in sparse.layers)
    reduction = sum(layer.macs for layer in sparse.layers) / executed
    return {
        "dense": best,
        "dense_ms": dense,
        "sparse_ms": sparse_ms,
        "speedup": dense[best] / sparse_ms,
        "mac_reduction": reduction,
        "realised": dense[best] / sparse_ms / reduction,
        "dense_spread": spread(dense_times[best][1:]),
        "sparse_spread": spread(times),
    }


PARTS = ("convolve", "gate", "reference", "index", "combine", "torch", "input", "output")
HEADER = (
    f"{'network':<16} {'block':>5} {'density':>7} {'dense ms':>8} {'sparse ms':>9} {'speed-up':>8} {'predicted':>9} "
    f"{'MACs':>6} {'realised':>8}   " + " ".join(f"{part:>9}" for part in PARTS)
)


def line(row: dict[str, Any]) -> str:
    guess = row.get("predicted")
    parts = " ".join(f"{row['parts_ms'].get(part, 0):>9.2f}" for part in PARTS)
    return (
        f"{row['network']:<16} {row['block']:>5} {row['density']:>7} {row['dense_ms'][row['dense']]:>8.1f} "
        f"{row['sparse_ms']:>9.1f} {row['speedup']:>7.2f}x {'' if guess is None else f'{guess:.2f}x':>9} "
        f"{row['mac_reduction']:>5.2f}x {row['realised']:>8.2f}"
        f"   {parts}"
    )


def main() -> None:
    """Measure what was asked for, print a table and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=lambda text: text.split(","), default=list(SIZES))
    parser.add_argument("--blocks", type=numbers(int), default=[1, 2, 4, 8, 16])
    parser.add_argument("--densities", type=numbers(float), default=[0.05, 0.1, 0.25, 0.5, 1.0])
    parser.add_argument("--live", type=numbers(float), default=[], help="thresholds as shares of a layer's mean input")
    parser.add_argument("--frames", type=int, default=13, help="frames of the clip, with --live")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--placement", default="fused")
    parser.add_argument("--share", default="layer", help="layer, block or network: which layers go by one gate")
    parser.add_argument("--machine", default="auto", help="a measured machine that predicts; none: nothing")
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    options = parser.parse_args()
    if options.runs < 2:
        parser.error(f"--runs must be at least 2, so that they have a spread, got {options.runs}")
    if options.live and options.frames < 7:
        parser.error(f"--frames must be at least 7, so that some are timed in each of two ways, got {options.frames}")

    options.machine = machine_at_hand(options.machine, print)
    known = options.machine and (options.machine.processor.host.threads, "fused", "layer")  # what its anchors hold
    if (options.threads, options.placement, options.share) != known:
        options.machine = None
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    print(HEADER)
    results = []
    with torch.inference_mode():
        for name in options.networks:
            model = skipsim.network(name, weights=None)
            graph = read_graph(model, frames_of(SIZES[name])[0])
            results += (measure_live if options.live else measure)(name, model, graph, options)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def numbers(kind: type) -> Callable[[str], list[Any]]:
    return lambda text: [kind(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
