"""What is known of one run beside its row of the table: layers by cause, their place on a roofline, their tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipsim.analysis.causes import CAUSE_GROUPS
from skipsim.hwmodels.hardware import Hardware
from skipsim.simulator.counters import C
from skipsim.simulator.report import Report
from skipsim.simulator.schedule import tile_name
from skipsim.simulator.tiles import W
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace


def layers_of(network: Sequence[Layer]) -> dict[str, Any]:
    """Return what is the same for all runs of a network."""
    return {
        "names": [layer.label for layer in network],
        "sizes": [[layer.out_rows, layer.out_cols] for layer in network],
        "channels": [[layer.in_channels, layer.out_channels] for layer in network],
        "kernels": [[layer.kernel_rows, layer.kernel_cols] for layer in network],
        "macs": [layer.macs for layer in network],
    }


def detail_of(reports: Sequence[Report]) -> dict[str, Any]:
    """Return means over the frames of clips of equal weight, layer by layer; tiles are those of the first clip.

    `cycles` [groups][layers]: of the mean core, so that they sum to the layer's latency.
    """
    cores = reports[0].hardware.cores
    causes = _mean([report.cost.causes_by_layer / report.frames / cores for report in reports])
    groups = [causes[:, [C[cause] for cause in group]].sum(axis=1) for group in CAUSE_GROUPS.values()]
    work = _mean([report.cost.work_by_layer / report.frames for report in reports])
    pixels = np.array([layer.out_pixels for layer in reports[0].network])
    return {
        "cycles": [_rounded(group) for group in groups],
        "macs": _rounded(work[:, W["macs"]]),
        "computed_macs": _rounded(work[:, W["computed_macs"]]),
        "dram_bytes": _rounded(work[:, W["dram_read_bytes"]] + work[:, W["dram_write_bytes"]]),
        "density": _rounded(work[:, W["active_pixels"]] / pixels, 4),
        "effective_density": _rounded(work[:, W["computed_pixels"]] / pixels, 4),
        "tiles": _tiles(reports[0]),
        "machine": machine_facts(reports[0].hardware),
    }


def _tiles(report: Report) -> list[str]:
    """Return the tile of every layer; layers without a gate run at the dense schedule's best one."""
    if report.tiling is not None:
        sizes = [report.tiling.get(layer.label) for layer in report.network]
        return ["dense" if size is None else tile_name(size) for size in sizes]
    return ["dense" if layer.gate == "none" else report.tile for layer in report.network]


def machine_facts(hardware: Hardware) -> dict[str, Any]:
    """Return the machine's roofs and what names it; no slope where memory is no limit, no roof where it is measured."""
    array = hardware.array
    bounded = hardware.dram.rule != "ideal" and np.isfinite(hardware.dram.bytes_per_cycle)
    return {
        "name": hardware.name,
        "cores": hardware.cores,
        "clock_hz": hardware.clock_hz,
        "measured": hardware.processor is not None,
        "peak_macs_per_cycle": None if hardware.processor else hardware.cores * array.rows * array.cols,
        "dram_bytes_per_cycle": float(hardware.dram.bytes_per_cycle) if bounded else None,
    }


def middle_frame(report: Report, trace: Trace) -> int:
    """Return the gated frame whose latency is the median one."""
    gated = [frame for frame in range(trace.frames) if not trace.reference(frame)] or list(range(trace.frames))
    cycles = report.cost.cycles_by_frame
    return sorted(gated, key=lambda frame: (int(cycles[frame]), frame))[len(gated) // 2]


def _mean(arrays: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = np.mean(np.stack(arrays), axis=0)
    return mean


def _rounded(values: NDArray[Any], digits: int = 1) -> list[float]:
    return [round(float(value), digits) for value in values]
