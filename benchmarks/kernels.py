"""How fast are the block-sparse kernels, beside PyTorch's dense convolutions and its gather, convolve, scatter?

dense    every distinct convolution of a network at full density against the fastest of PyTorch's three layouts
         (NCHW, channels last, oneDNN tensors with packed weights). Bound: 0.95 of oneDNN's rate, weighted by MACs.
sparse   time by density and block on the network's most frequent layers, and the density below which it pays off.
gate     what the gate's steps cost, in shares of the layer's dense time.
threads  how much faster the kernels are on more threads, by class of layers; wall clock.

CPU time of one thread; alternatives take turns, and the least time of all rounds counts. Layers run alone, on caches
that hold what the alternatives left there, or with --cold on emptied ones.

Run by hand: .venv/bin/python benchmarks/kernels.py [--network hrnet_w32 --rows 256 --cols 256] [--rounds 20]
             [--cold] [--parts dense,sparse,gate,threads] [--json F]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import mkldnn

from skipsim.hwmodels.kernel_work import LayerShape
from skipsim.hwmodels.kernels import (
    ActivePixels,
    Convolution,
    FeatureMap,
    Program,
    Watch,
    convolve,
    decide,
    list_pixels,
    measure_change,
    move_reference,
    pack,
)
from skipsim.hwmodels.kernels.torch_path import PATHS, gather_convolve_scatter
from skipsim.traces.layer import Layer
from skipsim.traces.record import network_layers

RATIO_BOUND = 0.95
DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
BLOCKS = (1, 4, 8)
EVICTING = np.ones(16 << 20, np.float32)  # 64 MB: twice the largest cache of the machines measured so far
Alternatives = dict[str, Callable[[], Any]]


@dataclass
class Case:
    """One layer with its input, in the kernels' form and in PyTorch's."""

    layer: Layer
    convolution: Convolution
    x: FeatureMap
    y: FeatureMap
    packed: Any
    module: nn.Conv2d

    @classmethod
    def of(cls, layer: Layer) -> Case:
        rows, cols = layer.in_rows, layer.in_cols
        kernel = (layer.kernel_rows, layer.kernel_cols)
        stride, apart = (layer.stride_rows, layer.stride_cols), (layer.dilation_rows, layer.dilation_cols)
        last = [
            (out - 1) * s + (k - 1) * d + 1
            for out, s, k, d in zip((layer.out_rows, layer.out_cols), stride, kernel, apart, strict=True)
        ]
        padding = (
            layer.padding_top,
            max(0, last[0] - rows - layer.padding_top),
            layer.padding_left,
            max(0, last[1] - cols - layer.padding_left),
        )
        shape = (layer.in_channels, layer.out_channels)
        convolution = Convolution(*shape, kernel, stride, padding, apart, layer.groups)
        module = nn.Conv2d(*shape, kernel, stride, (padding[0], padding[2]), apart, layer.groups).eval()
        x = FeatureMap.zeros(rows, cols, layer.in_channels, convolution.margin(rows, cols))
        x.interior[...] = np.random.default_rng(0).standard_normal((rows, cols, layer.in_channels))
        y = FeatureMap.zeros(layer.out_rows, layer.out_cols, layer.out_channels)
        assert module.bias is not None
        packed = pack(convolution, module.weight.numpy(), module.bias.numpy())
        return cls(layer, convolution, x, y, packed, module)

    @property
    def size(self) -> tuple[int, int]:
        return self.layer.out_rows, self.layer.out_cols

    def tensor(self) -> torch.Tensor:
        return torch.from_numpy(self.x.interior.copy()).permute(2, 0, 1)[None].contiguous()

    def dense(self) -> Alternatives:
        """PyTorch's ways to run the layer."""
        x, weight, bias, m = self.tensor(), self.module.weight, self.module.bias, self.module
        last, last_weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
        packed, opaque = mkldnn.to_mkldnn(m), x.to_mkldnn()
        more = (m.stride, m.padding, m.dilation, m.groups)
        return {
            "nchw": lambda: nn.functional.conv2d(x, weight, bias, *more),
            "channels_last": lambda: nn.functional.conv2d(last, last_weight, bias, *more),
            "mkldnn": lambda: packed(opaque),
        }


def least_us(alternatives: Alternatives, rounds: int, cold: bool = False) -> dict[str, float]:
    """Return the least CPU time of every alternative, microseconds; cold: with the caches emptied before each run."""
    times = dict.fromkeys(alternatives, float("inf"))
    for number in range(rounds + 1):  # the first round warms up
        for name, run in alternatives.items():
            if cold:
                np.add(EVICTING, 1, out=EVICTING)
            begin = time.thread_time_ns()
            run()
            if number:
                times[name] = min(times[name], (time.thread_time_ns() - begin) / 1e3)
    return times


def distinct(layers: tuple[Layer, ...]) -> list[tuple[Layer, int]]:
    """Return every geometry once, and how often the network has it."""
    plain = [replace(layer, name="", call=0) for layer in layers]
    return list(Counter(plain).items())


def label(layer: Layer) -> str:
    kind = "depthwise" if layer.depthwise else f"{layer.in_channels}->{layer.out_channels}"
    channels = f" {layer.in_channels}" if layer.depthwise else ""
    sides = f"{layer.kernel_rows}x{layer.kernel_cols}/{layer.stride_rows}"
    return f"{kind}{channels} {sides} on {layer.in_rows}x{layer.in_cols}"


def bench_dense(layers: tuple[Layer, ...], rounds: int, cold: bool) -> list[dict[str, Any]]:
    print(f"\n{'dense layer':38}{'times':>6}{'kernel':>9}{'nchw':>8}{'last':>8}{'mkldnn':>8}  GFLOP/s   kernel/best")
    rows = []
    for layer, times in distinct(layers):
        case = Case.of(layer)
        ours = Program([convolve(case.packed, case.x, case.y, ActivePixels.full(*case.size))])
        us = least_us({"kernel": ours.run, **case.dense()}, rounds, cold)
        ratio = min(value for name, value in us.items() if name != "kernel") / us["kernel"]
        rates = [2e-3 * layer.macs / value for value in us.values()]
        print(f"{label(layer):38}{times:6}{rates[0]:9.1f}" + "".join(f"{r:8.1f}" for r in rates[1:]) + f"{ratio:22.3f}")
        rows.append({"layer": label(layer), "times": times, "macs": layer.macs, "ratio": ratio, "us": us})
    ours_us = sum(row["times"] * row["us"]["kernel"] for row in rows)
    best_us = sum(row["times"] * min(v for n, v in row["us"].items() if n != "kernel") for row in rows)
    single = {name: sum(row["times"] * row["us"][name] for row in rows) for name in ("nchw", "channels_last", "mkldnn")}
    print(
        f"whole network: kernel {ours_us / 1e3:.1f} ms, best layout per layer {best_us / 1e3:.1f} ms, "
        + ", ".join(f"{name} {us / 1e3:.1f}" for name, us in single.items())
    )
    met = "met" if best_us / ours_us >= RATIO_BOUND else "MISSED"
    print(f"rate over PyTorch's best, weighted by MACs: {best_us / ours_us:.3f} (bound {RATIO_BOUND}: {met})")
    slower = [row["layer"] for row in rows if row["ratio"] < RATIO_BOUND]
    print(f"layers below the bound: {', '.join(slower) or 'none'}")
    return rows


def random_mask(size: tuple[int, int], block: int, density: float) -> np.ndarray:
    grid = (-(-size[0] // block), -(-size[1] // block))
    order = np.random.default_rng(1).permutation(grid[0] * grid[1])
    return (order < max(1, round(density * order.size))).reshape(grid).astype(np.uint8)


def sparse_alternatives(case: Case, block: int, density: float) -> tuple[Alternatives, float]:
    """Return the kernel and PyTorch's two paths on one mask, and the mask's density in pixels."""
    mask, active = random_mask(case.size, block, density), ActivePixels.zeros(*case.size)
    ours = Program([list_pixels(mask, (block, block), active), convolve(case.packed, case.x, case.y, active)])
    ours.run()
    x, chosen = case.tensor(), torch.from_numpy(mask != 0)
    y = torch.zeros(1, case.layer.out_channels, *case.size)
    m = case.module

    def path(name: str) -> Callable[[], None]:
        both = (block, block)
        return lambda: gather_convolve_scatter(x, m.weight, m.bias, case.convolution, y, chosen, both, name)

    return {"kernel": ours.run, **{name: path(name) for name in PATHS}}, active.density


def break_even(densities: list[float], us: list[float], dense_us: list[float]) -> float | None:
    """Return the density at which a path takes the dense time; 1 if it is faster at all, None if at none."""
    lost = [ours - dense for ours, dense in zip(us, dense_us, strict=True)]
    if lost[0] >= 0:
        return None
    for index, (low, high) in enumerate(pairwise(lost)):
        if high >= 0:
            return densities[index] + (densities[index + 1] - densities[index]) * low / (low - high)
    return 1.0


def bench_sparse(layers: list[Layer], rounds: int) -> list[dict[str, Any]]:
    names = ["kernel", *PATHS]
    print(
        f"\n{'sparse layer':38}{'block':>6}  dense us / us at density "
        + " ".join(f"{d:.2f}" for d in DENSITIES)
        + "; break-even density of "
        + ", ".join(names)
    )
    rows = []
    for layer in layers:
        case = Case.of(layer)
        dense = case.dense()
        fastest = least_us(dense, rounds)
        baseline = dense[min(fastest, key=lambda name: fastest[name])]
        for block in BLOCKS:
            measured = []
            for density in DENSITIES:  # dense runs beside every density, so that all find the caches alike
                alternatives, real = sparse_alternatives(case, block, density)
                measured.append((real, least_us({"dense": baseline, **alternatives}, max(4, rounds // 4))))
            densities = [real for real, _ in measured]
            curves = {name: [us[name] for _, us in measured] for name in ("dense", *names)}
            even = {name: break_even(densities, curves[name], curves["dense"]) for name in names}
            told = "  ".join("never" if value is None else f"{value:.2f}" for value in even.values())
            ours = " ".join(f"{us:.0f}" for us in curves["kernel"])
            print(f"{label(layer):38}{block:6}  {min(curves['dense']):.0f} / {ours}; {told}")
            rows.append(
                {"layer": label(layer), "block": block, "densities": densities, "us": curves, "break_even": even}
            )
    return rows


def bench_gate(layers: list[Layer], rounds: int) -> list[dict[str, Any]]:
    names = ("measure", "decide", "list", "move", "fused")
    print(
        f"\n{'gate of layer, % of dense time':38}{'block':>6}"
        + "".join(f"{name:>9}" for name in names)
        + "   at 10 % density; fused: added to the producer instead of measure"
    )
    rows = []
    for layer in layers:
        case = Case.of(layer)
        dense_us = min(least_us(case.dense(), rounds).values())
        for block in BLOCKS:
            us = gate_us(case, block, rounds)
            print(f"{label(layer):38}{block:6}" + "".join(f"{100 * us[name] / dense_us:9.1f}" for name in names))
            rows.append({"layer": label(layer), "block": block, "dense_us": dense_us, "us": us})
    return rows


def gate_us(case: Case, block: int, rounds: int) -> dict[str, float]:
    x, layer, both = case.x, case.convolution, (block, block)
    reference = FeatureMap.zeros(x.rows, x.cols, x.channels)
    reference.interior[...] = x.interior
    change = FeatureMap.zeros(x.rows, x.cols, 1, layer.margin(x.rows, x.cols))
    mask, active = random_mask(case.size, block, 0.1), ActivePixels.zeros(*case.size)
    decided = np.zeros_like(mask)
    # A producer of x: what a gate fused into it adds is the difference between two runs of it.
    producer = pack(Convolution(x.channels, x.channels), np.zeros((x.channels, x.channels, 1, 1)))
    before = FeatureMap.zeros(x.rows, x.cols, x.channels)
    written, recomputed = FeatureMap.zeros(x.rows, x.cols, x.channels), ActivePixels.zeros(x.rows, x.cols)
    produced = list_pixels(random_mask((x.rows, x.cols), block, 0.1), both, recomputed)
    steps = [
        measure_change(x, reference, change),
        decide(change, layer, decided, both, 1e9),
        list_pixels(mask, both, active),
        move_reference(x, reference, change, layer, mask, both, active),
        produced,
        convolve(producer, before, written, recomputed),
        convolve(producer, before, written, recomputed, watch=Watch(reference, change)),
    ]
    least = Program(steps).time(max(5, rounds)).min(0) / 1e3
    times = dict(zip(("measure", "decide", "list", "move"), least[:4].tolist(), strict=True))
    return times | {"fused": float(least[6] - least[5])}


def bench_threads(layers: tuple[Layer, ...], rounds: int) -> list[dict[str, Any]]:
    """Print by class how much faster two and more threads are, wall clock, medians over the layers."""
    counts = [count for count in (2, 4, 8, 16, 32, 64) if count <= (os.cpu_count() or 1)]
    rows = []
    for layer, _ in distinct(layers):
        case = Case.of(layer)
        for density in (0.1, 1.0):
            active = ActivePixels.zeros(*case.size)
            chosen = list_pixels(random_mask(case.size, 4, density), (4, 4), active)
            Program([chosen]).run()
            program = Program([convolve(case.packed, case.x, case.y, active)])
            wall = {count: least_wall_us(program, count, rounds) for count in (1, *counts)}
            rows.append({"layer": label(layer), "class": LayerShape.of(layer).kind, "density": density, "us": wall})
    print(f"\n{'class':12}{'density':>8}{'layers':>8}" + "".join(f"{f'{n} threads':>12}" for n in counts))
    for kind in sorted({row["class"] for row in rows}):
        for density in (0.1, 1.0):
            chosen_rows = [row["us"] for row in rows if row["class"] == kind and row["density"] == density]
            ratios = [float(np.median([us[1] / us[count] for us in chosen_rows])) for count in counts]
            told = "".join(f"{ratio:11.2f}x" for ratio in ratios)
            print(f"{kind:12}{density:8}{len(chosen_rows):8}{told}")
    return rows


def least_wall_us(program: Program, threads: int, rounds: int) -> float:
    """Return the least wall time of a program on so many threads, microseconds."""
    times = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        program.run(threads=threads)
        times.append(1e6 * (time.perf_counter() - begin))
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="hrnet_w32")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--cols", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cold", action="store_true", help="dense: empty the caches before every run")
    parser.add_argument("--parts", default="dense,sparse,gate")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    torch.set_flush_denormal(True)
    layers = network_layers(options.network, options.rows, options.cols)
    frequent = [layer for layer, _ in sorted(distinct(layers), key=lambda pair: -pair[1] * pair[0].macs)[:6]]
    parts = {"dense": lambda: bench_dense(layers, options.rounds, options.cold)}
    parts |= {"sparse": lambda: bench_sparse(frequent, options.rounds)}
    parts |= {"threads": lambda: bench_threads(layers, options.rounds)}
    parts |= {"gate": lambda: bench_gate(frequent, options.rounds)}
    results = {name: parts[name]() for name in options.parts.split(",")}
    if options.json:
        options.json.write_text(
            json.dumps({"network": options.network, "torch": torch.__version__, **results}, indent=1)
        )


if __name__ == "__main__":
    main()
