"""Eyeriss: processing latency, active elements and DRAM traffic of AlexNet's convolutions, four images at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skipsim.analysis.validation.comparison import Comparison, Pair
from skipsim.analysis.validation.layers import whole
from skipsim.analysis.validation.oracles import rows
from skipsim.hwmodels.hardware import load_hardware
from skipsim.simulator.report import Report
from skipsim.simulator.simulate import simulate
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace

FILE = "chips/eyeriss_alexnet.csv"
SOURCE = "Chen et al., IEEE JSSC 52 (2017), table V: AlexNet, batch 4, 200 MHz"
BATCH = 4
NOTES = (
    "tiles are those of table III: e rows of one image, or whole images, n of them side by side",
    "the chip codes zeros of feature maps by run lengths, the model does not: 'coded' scales maps by 4/3 (three 21-bit "
    "pairs in 64 bits) x the share of non-zeros that table V gives for the layer's inputs, outputs by the next layer's",
    "the model fetches filters once per pass of n images, the chip once per tile: CONV1, eight tiles, is 2 MB short",
    "CONV1 at 11 x 7 elements twice, CONV2 at 5 x 27, the others at 3 x 13 four times: as table III maps them",
)
CODED = 4 / 3  # 64 bits hold three values of 16 bits with run lengths of 5 bits: JSSC, section IV


@dataclass(frozen=True)
class Mapped:
    """One convolution of AlexNet with the mapping of table III: `images` share a pass; each group is a layer."""

    name: str
    channels: int
    side: int  # of the input, with CONV1's padding in it
    filters: int
    kernel: int
    stride: int
    padding: int
    groups: int
    images: int  # n
    tile_rows: int  # e, or all rows of n images

    @property
    def out_side(self) -> int:
        """Rows and columns of the output."""
        return (self.side + 2 * self.padding - self.kernel) // self.stride + 1

    def trace(self) -> Trace:
        """Return one group of one pass: n images on top of each other, all computed."""
        layer = Layer(
            self.name, self.channels // self.groups, self.images * self.side, self.side, self.filters // self.groups,
            self.images * self.out_side, self.out_side, self.kernel, self.kernel, self.stride, self.stride,
            self.padding, self.padding,
        )  # fmt: skip
        return whole([layer])


LAYERS = (
    Mapped("CONV1", 3, 227, 96, 11, 4, 0, 1, 1, 7),
    Mapped("CONV2", 96, 27, 256, 5, 1, 2, 2, 1, 27),
    Mapped("CONV3", 256, 13, 384, 3, 1, 1, 1, 4, 52),
    Mapped("CONV4", 384, 13, 384, 3, 1, 1, 2, 4, 52),
    Mapped("CONV5", 384, 13, 256, 3, 1, 1, 2, 4, 52),
)


def run(layer: Mapped, **changes: object) -> Report:
    """Simulate one group of one pass of a layer."""
    hardware = load_hardware("eyeriss").replace(**changes)
    return simulate(layer.trace(), hardware, (layer.tile_rows, layer.out_side), dense=True)


def compare(folder: Path | None = None) -> Comparison:
    """Compare with the five rows of table V."""
    published = {row["Layer"]: row for row in rows(FILE, folder)}
    zeros = {name: float(row["Zeros in Ifmaps"].rstrip("%")) / 100 for name, row in published.items()}
    pairs = []
    for number, layer in enumerate(LAYERS):
        row, report = published[layer.name], run(layer)
        (stage,) = report.layers.to_dict("records")
        passes = layer.groups * BATCH // layer.images
        ms = passes * int(stage["array_cycles"]) / report.hardware.clock_hz * 1e3
        loads = run(layer, **{"array.weights_per_cycle": float("inf")}).layers.to_dict("records")[0]
        active = report.macs / int(loads["array_cycles"])
        weights = int(stage["weight_read_bytes"])
        maps = int(stage["dram_read_bytes"]) - weights
        written = int(stage["dram_write_bytes"])
        after = LAYERS[min(number + 1, len(LAYERS) - 1)].name
        coded = maps * _coded(zeros[layer.name]) + weights + written * _coded(zeros[after])
        quantities = {
            "processing latency in ms": (row["Processing Latency (ms)"], ms),
            "active elements": (row["Num. of Active PEs"], active),
            "DRAM traffic in MB, uncoded": (row["DRAM Accesses (MB)"], passes * (maps + weights + written) / 1e6),
            "DRAM traffic in MB, coded": (row["DRAM Accesses (MB)"], passes * coded / 1e6),
        }
        pairs += [Pair(layer.name, name, float(given), ours) for name, (given, ours) in quantities.items()]
    return Comparison("Eyeriss", SOURCE, tuple(pairs), "nothing", NOTES)


def _coded(zeros: float) -> float:
    """Return what run-length coding makes of a map with this share of zeros; one without is left as it is."""
    return min(1.0, CODED * (1 - zeros))
