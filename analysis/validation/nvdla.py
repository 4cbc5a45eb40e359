"""NVDLA: MAC, DRAM and all cycles of ResNet-50's layers, from its open performance sheet, with and without an SRAM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skipsim.analysis.validation.comparison import Comparison, Pair
from skipsim.analysis.validation.layers import whole
from skipsim.analysis.validation.oracles import rows
from skipsim.hwmodels.hardware import Hardware, load_hardware
from skipsim.simulator.simulate import simulate
from skipsim.traces.layer import Layer

FILE = "nvdla/resnet50.csv"
SOURCE = "open performance sheet of nvdla/hw, ResNet-50, int8, 1 GHz"
MACHINES = {"nvdla-full": "", "nvdla-no-sram": ".1"}  # columns of the second result group carry the same names again
COLUMNS = {
    "in_channels": "#input feature maps C",
    "in_rows": "Input Height H",
    "in_cols": "Input Width W",
    "out_channels": "#output feature maps K",
    "out_rows": "Height after Conv P",
    "out_cols": "Width after Conv Q",
}
NOTES = (
    "the sheet is itself a model: cycles of a layer are the largest of its resources, which overlap perfectly",
    "layers with an addition read a third map in the sheet, not in the model; the first and last write pooled maps",
    "with the second SRAM the sheet still writes most outputs to DRAM; the model keeps a map that the next layer reads",
    "the sheet counts the weights of 1x1 layers at stride 2 four times, and those of fc1000 over 16 images",
    "the model's bands skip input rows that no output of a 1x1 layer at stride 2 needs; the sheet reads them",
    "first layer: the sheet pads three channels to four and rounds nothing up",
)


def layers_of(table: list[dict[str, str]]) -> list[Layer]:
    """Return the sheet's layers; padding is a flag there, and set for 1x1 kernels too."""
    layers = []
    for row in table:
        kernel, stride = int(row["Filter Height R"]), int(row["Vertical Conv Srtide H"])
        size: dict[str, Any] = {field: int(row[column]) for field, column in COLUMNS.items()}
        padding = kernel // 2
        layers.append(
            Layer(
                row["Layer"],
                **size,
                kernel_rows=kernel,
                kernel_cols=kernel,
                stride_rows=stride,
                stride_cols=stride,
                padding_top=padding,
                padding_left=padding,
            )
        )
    return layers


def compare(folder: Path | None = None) -> Comparison:
    """Compare with every layer of the sheet."""
    table = [row for row in rows(FILE, folder) if row["Layer attribute"]]
    pairs = []
    for name, suffix in MACHINES.items():
        predicted = _predicted(table, load_hardware(name))
        for row, layer, ours in zip(table, layers_of(table), predicted, strict=True):
            short = layer.name.split(" ")[0]
            kind = "with addition" if "Elwise" in layer.name else "without addition"
            published = {
                "MAC cycles": row["MAC Cycles" if suffix else "MAC cycles"],
                "DRAM cycles": row[f"DRAM Cycles{suffix}"],
                "cycles": row["MAX Cycle" if suffix else "MAX Cycles"],
            }
            pairs += [
                Pair(short, quantity, float(given), ours[quantity], f"{name}, {kind}")
                for quantity, given in published.items()
            ]
        total = sum(float(row["MAX Cycle" if suffix else "MAX Cycles"]) for row in table)
        pairs.append(Pair("all layers", "cycles", total, sum(ours["cycles"] for ours in predicted), f"{name}, network"))
    return Comparison("NVDLA", SOURCE, tuple(pairs), "nothing; rates follow from the sheet", NOTES)


def _predicted(table: list[dict[str, str]], hardware: Hardware) -> list[dict[str, float]]:
    report = simulate(whole(layers_of(table)), hardware, dense=True)
    return [
        {
            "MAC cycles": float(stage["array_cycles"]),
            "DRAM cycles": (stage["dram_read_bytes"] + stage["dram_write_bytes"]) / hardware.dram.bytes_per_cycle,
            "cycles": float(stage["cycles"]),
        }
        for stage in report.layers.to_dict("records")
    ]
