"""DPACS on a ZCU102: latency of ResNets, measured by its authors, dense and with random masks.

A call runs as a pipeline: all weights are fetched, then positions stream through the units side by side. Each unit is
simulated by itself, on the machine with an array of its size; the call takes launch + all weights + the slowest unit.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from skipsim.analysis.validation.comparison import Comparison, Pair
from skipsim.analysis.validation.dpacs_network import Call, Workload
from skipsim.analysis.validation.oracles import rows
from skipsim.hwmodels.hardware import Hardware, load_hardware
from skipsim.simulator import fast
from skipsim.simulator.counters import C
from skipsim.simulator.schedule import Schedule, dense_schedule, gated_schedule
from skipsim.simulator.tiles import machine
from skipsim.traces.layer import Layer

FILES = ("chips/dpacs_zcu102_resnet50.csv", "chips/dpacs_zcu102_resnet101.csv")
SOURCE = "Gao et al., ASPLOS 2023; notebook of CASR-HKU/DPACS at commit ee50035, mean of 100 runs"
CALIBRATED = "layer.launch_cycles and array.fill_cycles, one pair for both designs, on the two dense rows of ResNet-50"
NOTES = (
    "the serial gated design does more work per tap than the dense one it is calibrated on (its own bit file)",
    "gather.setup_cycles = 64 is a vendor's figure for a read over AXI, chosen with gated rows in view; 0 gives 16 %",
)
FREE = {"gather.setup_cycles": 0, "gather.bytes_per_cycle": float("inf")}  # positions arrive from the unit before
SENT_ON = {"scatter.setup_cycles": 0, "scatter.bytes_per_cycle": float("inf")}  # ... and leave to the next
# Sizes of the units that are not the machine file's: PI_0, PO_0, PI_1, PO_1, P4 (para.h), first_layer_wrap<64, 64, 8,
# 64> (top.cpp). The mask unit multiplies inputs as they arrive, sixteen a cycle: it adds the fill of its pipeline.
UNITS = {"reduce": (64, 16), "expand": (16, 64), "mask": (2048, 1), "stem": (36, 8)}


@lru_cache(maxsize=256)
def unit_machine(hardware: Hardware, unit: str, first: bool, last: bool) -> Hardware:
    """Return the machine as one unit sees it; only the first and the last of a call use the memory for maps."""
    changes: dict[str, object] = {**({} if first else FREE), **({} if last else SENT_ON)}
    if unit in UNITS and not (unit == "stem" and hardware.name.endswith("parallel")):  # there the 3x3 unit runs it
        rows, cols = UNITS[unit]
        changes |= {"array.rows": rows, "array.cols": cols, "array.skip_taps": False}
    if unit in ("reduce", "expand"):
        changes["array.holds"] = "sums"
    return hardware.replace(**changes)


def call_cycles(call: Call, hardware: Hardware) -> int:
    """Return the cycles of one call: launch, all weights, then the slowest of the units."""
    weights, streams = 0, []
    for number, unit in enumerate(call.units):
        last = number + 1 == len(call.units)
        fetched, streamed = _unit_cycles(
            call, number, unit_machine(hardware, unit, number == 0 and not call.decides, last)
        )
        weights += fetched
        streams.append(streamed)
    if call.decides:
        streams.append(_mask_unit(call.layers[0], hardware))
    return int(hardware.layer.launch_cycles) + weights + max(streams)


def _unit_cycles(call: Call, number: int, hardware: Hardware) -> tuple[int, int]:
    """Return the cycles in which one unit of a call waits for its weights, and those of its stream of positions."""
    if not call.masks:
        return _dense_unit_cycles(call, number, hardware)
    return _split(gated_schedule(call.trace, hardware, (1, 1)), number)


@lru_cache(maxsize=4096)
def _dense_unit_cycles(call: Call, number: int, hardware: Hardware) -> tuple[int, int]:
    return _split(dense_schedule(call.trace, hardware), number)


@lru_cache(maxsize=4096)
def _mask_unit(layer: Layer, hardware: Hardware) -> int:
    """Return the cycles of the mask unit: a 1x1 convolution to one channel, each position read, then multiplied."""
    alone = unit_machine(hardware, "mask", first=True, last=False).replace(**{"buffers.halves": 1})
    decided = replace(layer, name="mask", gate="none", out_channels=1, kept_in_channels=None, kept_out_channels=None)
    trace = Call((decided,), ("mask",)).trace
    return sum(_split(dense_schedule(trace, alone, (1, 1)), 0))


def _split(schedule: Schedule, stage: int) -> tuple[int, int]:
    """Run a schedule and split one stage: cycles that wait for weights, and all others but the launch."""
    counters = fast.run(schedule.tiles(0), machine(schedule.hardware))
    causes = counters.causes[stage, 0]
    weights = int(causes[C["weights"]])
    return weights, int(causes.sum() - causes[C["launch"]]) - weights


def latency_ms(workload: Workload, hardware: Hardware) -> float:
    """Return the predicted latency of one inference in milliseconds."""
    return sum(call_cycles(call, hardware) for call in workload.calls()) / hardware.clock_hz * 1e3


def calibrate(folder: Path | None = None) -> tuple[int, int]:
    """Return the fill and launch cycles that fit the dense rows of ResNet-50 best: least squares of relative errors.

    Fill cycles are tried one by one; for each, the best launch has a closed form, because latency is linear in it.
    """
    rows_of_resnet50 = [row for row in rows(FILES[0], folder) if row["mask"] == "dense"]
    workload = Workload("resnet50", "dense")
    best = (float("inf"), 0, 0)
    for fill in range(10, 20):
        measured, base, slope = [], [], []
        for row in rows_of_resnet50:
            free = load_hardware(f"dpacs-zcu102-{row['impl']}").replace(
                **{"array.fill_cycles": fill, "layer.launch_cycles": 0}
            )
            measured.append(float(row["latency_ms_avg_of_100"]))
            base.append(latency_ms(workload, free))
            slope.append(len(workload.calls()) / free.clock_hz * 1e3)
        weights = [1 / value**2 for value in measured]
        top = sum(w * k * (m - b) for w, k, m, b in zip(weights, slope, measured, base, strict=True))
        launch = max(0, round(top / sum(w * k * k for w, k in zip(weights, slope, strict=True))))
        loss = sum(w * (b + k * launch - m) ** 2 for w, k, m, b in zip(weights, slope, measured, base, strict=True))
        best = min(best, (loss, fill, launch))
    return best[1:]


def compare(folder: Path | None = None) -> Comparison:
    """Compare with every row that the authors published for ResNet-50 and ResNet-101."""
    pairs = []
    for row in (row for name in FILES for row in rows(name, folder)):
        spatial, channel = float(row["spatial_keep_ratio"]), float(row["channel_keep_ratio"])
        workload = Workload(row["net"], row["mask"], spatial, channel)
        predicted = latency_ms(workload, load_hardware(f"dpacs-zcu102-{row['impl']}"))
        dense = row["mask"] == "dense"
        name = row["mask"] if dense else f"{row['mask']} mask, {spatial:g} of positions, {channel:g} of channels"
        group = f"{row['net']} {'dense' if dense else 'gated'}"
        measured, fitted = float(row["latency_ms_avg_of_100"]), dense and row["net"] == "resnet50"
        pairs.append(Pair(f"{row['impl']}, {name}", "latency in ms", measured, predicted, group, fitted))
    return Comparison("DPACS on a ZCU102", SOURCE, tuple(pairs), CALIBRATED, NOTES)
