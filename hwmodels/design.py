"""The designed set of measurements: which layers, blocks, densities and masks a calibration runs.

Layers are drawn, so that they cover sizes and classes and are those of no network in particular; a file keeps the seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from skipsim.hwmodels.kernel_paths import KERNELS
from skipsim.hwmodels.kernel_work import (
    FLOAT_BYTES,
    LayerClass,
    LayerShape,
    Registers,
    Work,
    change_work,
    combine_work,
    decide_work,
    dense_work,
    list_work,
    mean_work,
    move_work,
    silu_work,
    watch_work,
)
from skipsim.hwmodels.mask_pixels import Masks, Touched, coarsen, read_pixels

SHAPES_PER_CLASS: dict[LayerClass, int] = {
    "plain": 20, "pointwise": 20, "depthwise": 14, "strided": 10, "stem": 6, "grouped": 6,
}  # fmt: skip
DENSE_PER_CLASS: dict[LayerClass, int] = {
    "plain": 24, "pointwise": 24, "depthwise": 20, "strided": 16, "stem": 10, "grouped": 8,
}  # fmt: skip
SIDE = (5.0, 160.0)  # rows of input maps
# Networks have many channels on small maps and few on large ones: channels x side stays within about ten times.
CHANNELS_TIMES_SIDE: dict[LayerClass, tuple[float, float]] = {
    "plain": (700.0, 6000.0),
    "pointwise": (1500.0, 18000.0),
    "depthwise": (1500.0, 18000.0),
    "strided": (1000.0, 8000.0),
    "stem": (1000.0, 8000.0),
    "grouped": (1000.0, 8000.0),
}
WIDER: dict[LayerClass, tuple[float, ...]] = {  # output channels over input channels
    "plain": (0.5, 1, 1, 1, 2),
    "pointwise": (0.17, 0.25, 0.5, 1, 2, 4, 6),
    "depthwise": (1,),
    "strided": (1, 2),
    "stem": (5.4, 8, 10.7, 13.4, 21.4),
    "grouped": (1, 2),
}
CHANNELS = (16, 768)
MOST_MACS = 2.5e8  # of one dense layer
DENSITIES = (0.03, 0.1, 0.25, 0.5, 1.0)
BLOCKS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Call:
    """A gated layer as it is measured: its shape, and what its mask is like.

    `cluster`: blocks over which the mask is alike; 0: every block for itself. `drawn_block`: the mask is drawn in such
    blocks and coarsened, so that calls of several blocks ask for the same; 0: in its own.
    """

    shape: LayerShape
    block: tuple[int, int]
    density: float
    cluster: float
    seed: int
    drawn_block: int = 0

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The mask, bool [grid rows, grid columns]; at least one block is on."""
        drawn = (self.drawn_block, self.drawn_block) if self.drawn_block else self.block
        grid = -(-self.shape.out_rows // drawn[0]), -(-self.shape.out_cols // drawn[1])
        mask = draw_mask(grid, self.density, self.cluster, np.random.default_rng(self.seed))
        coarse: NDArray[np.bool_] = coarsen(mask[None], self.shape, drawn, self.block)[0]
        return coarse

    @property
    def masks(self) -> Masks:
        """The mask as a stack of one frame."""
        return self.mask[None]


def draw_mask(grid: tuple[int, int], density: float, cluster: float, generator: Generator) -> NDArray[np.bool_]:
    """Mark the highest values of a random field, correlated over `cluster` cells; at least one."""
    field = generator.random(grid)
    if cluster > 0:
        frequency = np.fft.fftfreq(grid[0])[:, None] ** 2 + np.fft.rfftfreq(grid[1]) ** 2
        smooth = np.exp(-0.5 * (math.pi * cluster) ** 2 * frequency)
        smooth[0, 0] = 0.0  # the mean plays no part
        field = np.fft.irfft2(np.fft.rfft2(field) * smooth, s=grid) + 1e-9 * field
    count = max(1, round(density * field.size))
    mask = np.zeros(field.size, np.bool_)
    mask[np.argsort(-field.ravel(), kind="stable")[:count]] = True
    return mask.reshape(grid)


def draw_shapes(seed: int, per_class: dict[LayerClass, int] | None = None) -> list[LayerShape]:
    """Draw layers of every class, spread over map sizes and channels."""
    generator = np.random.default_rng([seed, 1])
    counts = SHAPES_PER_CLASS if per_class is None else per_class
    return [shape for kind, count in counts.items() for shape in _draw_class(kind, count, generator)]


def draw_calls(shapes: list[LayerShape], seed: int, configurations: int) -> list[list[Call]]:
    """Draw that many masks for every layer: [configurations][shapes]; densities and blocks are spread evenly."""
    generator = np.random.default_rng([seed, 2])
    calls = []
    for number in range(configurations):
        chain = []
        for index, shape in enumerate(shapes):
            block = BLOCKS[(number + index) % len(BLOCKS)]
            density = DENSITIES[(2 * number + index // len(BLOCKS) + index) % len(DENSITIES)]
            cluster = float(generator.choice([0.0, 2.0, 6.0])) / min(block, 4)
            chain.append(Call(shape, (block, block), density, cluster, int(generator.integers(2**31))))
        calls.append(chain)
    return calls


def _draw_class(kind: LayerClass, count: int, generator: Generator) -> list[LayerShape]:
    """Draw layers of one class: a Latin square of map sides and channels."""
    sides = ((np.arange(count) + generator.random(count)) / count) ** 1.5  # small maps, heavy weights: more of these
    widths = (generator.permutation(count) + generator.random(count)) / count
    low, high = CHANNELS_TIMES_SIDE[kind]
    found = []
    for side, width in zip(sides, widths, strict=True):
        rows = SIDE[0] * (SIDE[1] / SIDE[0]) ** side
        cols = rows * math.exp(generator.uniform(-0.5, 0.5))
        channels = low * (high / low) ** width / math.sqrt(rows * cols)
        found.append(_shape(kind, round(rows), max(5, round(cols)), channels, generator))
    return found


def _shape(kind: LayerClass, rows: int, cols: int, channels: float, generator: Generator) -> LayerShape:
    """Return a layer of a class with about so many input channels, fewer where it would be too long."""
    ins = int(np.clip(8 * round(channels / 8), *CHANNELS))
    kernel, stride, groups = 3, 1, 1
    if kind == "pointwise":
        kernel = 1
    elif kind == "strided":
        stride = 2
    elif kind == "stem":
        ins, stride, rows, cols = 3, 2, max(rows, 40), max(cols, 40)
    elif kind == "depthwise":
        kernel, stride = int(generator.choice([3, 3, 5])), int(generator.choice([1, 1, 2]))
    elif kind == "grouped":
        groups = int(generator.choice([2, 4]))
        ins = max(32, ins // 32 * 32)
    else:
        kernel = int(generator.choice([3, 3, 3, 5]))
    padding = kernel // 2
    out_rows, out_cols = ((size + 2 * padding - kernel) // stride + 1 for size in (rows, cols))
    wider = float(generator.choice(WIDER[kind]))
    while True:
        outs = max(8, 8 * round(wider * ins / 8)) if groups == 1 else max(groups, round(wider * ins / groups) * groups)
        shape = LayerShape(
            ins, rows, cols, outs, out_rows, out_cols, kernel, kernel, stride, stride, padding, padding,
            groups=ins if kind == "depthwise" else groups,
        )  # fmt: skip
        if shape.macs <= MOST_MACS or ins <= CHANNELS[0]:
            return shape
        ins = max(CHANNELS[0], ins // 2 // 8 * 8)


def work_of(what: str, call: Call, registers: Registers) -> Work:
    """Return the work of one step of a measured call: a stage, a kernel path, or the dense layer."""
    shape, masks, block = call.shape, call.masks, call.block
    if what in KERNELS:
        return KERNELS[what](shape, masks, block, registers)
    if what in ("dense", "dense_layer"):
        return dense_work(shape)
    if what in ("change", "combine"):
        written = Touched.of(read_pixels(masks, shape, block), shape.in_channels * FLOAT_BYTES)
        if what == "change":
            return change_work(written, shape.in_channels)
        return combine_work(shape.in_channels, 1, written)
    stages = {
        "list": list_work, "watch": watch_work, "decide": decide_work, "move": move_work, "silu": silu_work,
        "mean": mean_work,
    }  # fmt: skip
    return stages[what](shape, masks, block)
