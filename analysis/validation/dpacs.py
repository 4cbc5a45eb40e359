"""DPACS on a ZCU102: latency of ResNets, measured by its authors, dense and with random masks.

A call runs as a pipeline: all weights are fetched, then positions stream through the units side by side. Each unit is
simulated by itself, on the machine with an array of the unit's size; the call takes launch + all weights + the slowest unit.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skipsim.analysis.validation.comparison import Comparison, Pair
from skipsim.analysis.validation.dpacs_network import Call, Workload
from skipsim.analysis.validation.oracles import rows
from skipsim.hwmodels.hardware import Hardware, load_hardware
from skipsim.simulator.simulate import simulate
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace

FILES = ("chips/dpacs_zcu102_resnet50.csv", "chips/dpacs_zcu102_resnet101.csv")
SOURCE = "Gao et al., ASPLOS 2023; notebook of CASR-HKU/DPACS at commit ee50035, mean of 100 runs"
CALIBRATED = "layer.launch_cycles and array.fill_cycles, one pair for both designs, on the two dense rows of ResNet-50"
NOTES = (
    "the serial gated design does more work per tap than the dense one it is calibrated on (its own bit file)",
    "gather.setup_cycles = 64 is the vendor's figure for a read over AXI, not fitted",
)
FREE = {"gather.setup_cycles": 0, "gather.bytes_per_cycle": float("inf")}  # positions arrive from the unit before
SENT_ON = {"scatter.setup_cycles": 0, "scatter.bytes_per_cycle": float("inf")}  # ... and leave to the next
# Sizes of the units that are not the machine file's: para.h (PI_0, PO_0, PI_1, PO_1, P4) and top.cpp, first_layer_wrap<64, 64, 8, 64>.
UNITS = {"reduce": (64, 16), "expand": (16, 64), "mask": (2048, 1), "stem": (36, 8)}


def unit_machine(hardware: Hardware, unit: str, first: bool, last: bool) -> Hardware:
    """Return the machine as one unit sees it; only the first and the last of a call use the memory for maps."""
    changes: dict[str, object] = {**({} if first else FREE), **({} if last else SENT_ON)}
    if unit in UNITS and not (unit == "stem" and hardware.name.endswith("parallel")):  # there the 3x3 unit runs it
        rows, cols = UNITS[unit]
        changes |= {"array.rows": rows, "array.cols": cols, "array.skip_taps": False}
    return hardware.replace(**changes)


def call_cycles(call: Call, hardware: Hardware) -> int:
    """Return the cycles of one call: launch, all weights, then the slowest of the units."""
    trace, weights, streams = call.trace, 0, []
    for number, unit in enumerate(call.units):
        machine = unit_machine(hardware, unit, number == 0 and not call.decides, number + 1 == len(call.units))
        report = simulate(trace, machine, (1, 1)) if call.masks else simulate(trace, machine, dense=True)
        stage = report.layers.iloc[number]
        weights += int(stage["cause_weights"])
        streams.append(int(stage["cycles"] - stage["cause_weights"] - stage["cause_launch"]))
    if call.decides:
        streams.append(_mask_unit(call.layers[0], hardware))
    return int(hardware.layer.launch_cycles) + weights + max(streams)


@lru_cache(maxsize=4096)
def _mask_unit(layer: Layer, hardware: Hardware) -> int:
    """Return the cycles of the mask unit: a 1x1 convolution to one channel, each position read, then multiplied."""
    machine = unit_machine(hardware, "mask", first=True, last=False).replace(**{"buffers.halves": 1})
    decided = replace(layer, name="mask", out_channels=1, kept_in_channels=None, kept_out_channels=None)
    trace = Trace.from_masks([replace(decided, gate="none")], [_everything(decided)], update="recompute")
    stage = simulate(trace, machine, (1, 1), dense=True).layers.iloc[0]
    return int(stage["cycles"] - stage["cause_launch"])


def _everything(layer: Layer) -> NDArray[np.bool_]:
    return np.ones((1, layer.grid_rows, layer.grid_cols), np.bool_)


def latency_ms(workload: Workload, hardware: Hardware) -> float:
    """Return the predicted latency of one inference in milliseconds."""
    return sum(call_cycles(call, hardware) for call in workload.calls()) / hardware.clock_hz * 1e3


def compare(folder: Path | None = None) -> Comparison:
    """Compare with every row that the authors published for ResNet-50 and ResNet-101."""
    pairs = []
    for row in (row for name in FILES for row in rows(name, folder)):
        spatial, channel = float(row["spatial_keep_ratio"]), float(row["channel_keep_ratio"])
        workload = Workload(row["net"], row["mask"], spatial, channel)
        predicted = latency_ms(workload, load_hardware(f"dpacs-zcu102-{row['impl']}"))
        dense = row["mask"] == "dense"
        name = row["mask"] if dense else f"{row['mask']} mask, {spatial:g} of positions, {channel:g} of channels"
        pairs.append(
            Pair(
                f"{row['impl']}, {name}", "latency in ms", float(row["latency_ms_avg_of_100"]), predicted,
                f"{row['net']} {'dense' if dense else 'gated'}", dense and row["net"] == "resnet50",
            )  # fmt: skip
        )
    return Comparison("DPACS on a ZCU102", SOURCE, tuple(pairs), CALIBRATED, NOTES)
