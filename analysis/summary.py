"""Traces, machines and reports in a few plain lines for people to read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np

from skipsim.analysis.advice.kernel_share import kernel_share
from skipsim.analysis.causes import CAUSE_GROUPS
from skipsim.hwmodels.area import area_mm2
from skipsim.hwmodels.energy import PART_NAMES
from skipsim.hwmodels.hardware import Hardware
from skipsim.hwmodels.processor import Processor
from skipsim.simulator.counters import C
from skipsim.simulator.report import Report
from skipsim.simulator.tiles import W
from skipsim.traces.trace import Trace

BAR_WIDTH = 30
TOP_LAYERS = 5
SMALLEST_SHARE = 0.01
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"))


def table(rows: Iterable[Sequence[str]], align: str) -> str:
    """Align rows of cells in columns; `align` has one letter per column: l = left, r = right."""
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if side == "l" else cell.rjust(width)
            for cell, width, side in zip(row, widths, align, strict=True)
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def quantity(value: float, unit: str = "") -> str:
    """Write a number with three digits and a prefix: 1.23 M, 45.6 kB, 7.89 uJ."""
    for factor, prefix in PREFIXES:
        if abs(value) >= 0.9995 * factor:
            return f"{_digits(value / factor)} {prefix}{unit}".rstrip()
    return f"{value:.3g} {unit}".rstrip()


def milliseconds(value: float) -> str:
    """Write a time with three digits: 0.0218 ms, 1.20 ms, 345 ms."""
    return f"{value:.0f} ms" if value >= 99.95 else f"{value:#.3g} ms"


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def trace_facts(trace: Trace) -> dict[str, Any]:
    """Return what is in a trace as plain data, for `--json`."""
    return {
        "network": trace.origin.get("network", ""),
        "frames": trace.frames,
        "reference_frames": list(trace.reference_frames),
        "complete": trace.complete,
        "update": trace.update,
        "density": trace.density(),
        "macs": trace.macs,
        "dense_macs": trace.dense_macs,
        "mac_reduction": trace.mac_reduction,
        "quality": trace.quality,
        "origin": trace.origin,
        "hash": trace.hash,
        "layers": [
            layer.to_dict() | {"density": trace.density(index), "macs": layer.macs}
            for index, layer in enumerate(trace.layers)
        ],
    }


def describe_trace(trace: Trace) -> str:
    """Say what is in a trace: network, gates, frames, density, what it saves, how good it was."""
    frames, dense_macs = trace.frames, quantity(trace.dense_macs / trace.frames)
    cut_off = "" if trace.complete else "; the recording was cut off"
    lines = [
        ("network", f"{trace.origin.get('network', 'unknown')}, {len(trace.layers)} convolutions"),
        ("origin", str(trace.origin.get("kind", "unknown"))),
        ("frames", f"{frames}, {len(trace.reference_frames)} of them computed densely{cut_off}"),
        ("gates", _gates(trace)),
        ("density", f"{trace.density():.1%} of the output pixels are computed"),
        ("MACs", f"{quantity(trace.macs / frames)} of {dense_macs} per frame: {trace.mac_reduction:.2f}x fewer"),
    ]
    scores = {name: value for name, value in trace.quality.items() if isinstance(value, int | float)}
    for name, value in scores.items():
        if not name.startswith("dense_"):
            dense = f" (dense {scores['dense_' + name]:.3f})" if "dense_" + name in scores else ""
            lines.append((name, f"{value:.3f}{dense}"))
    return table([*lines, ("hash", trace.hash[:16])], "ll")


def _gates(trace: Trace) -> str:
    gated = [layer for layer in trace.layers if layer.gate != "none"]
    if not gated:
        return "none: every layer is dense"
    blocks = sorted({(layer.block_rows, layer.block_cols) for layer in gated})
    kinds = ", ".join(sorted({layer.gate for layer in gated} - {"shared"}))
    given = trace.origin.get("parameters", {}).get("threshold")
    threshold = f" {given:g}" if isinstance(given, int | float) else " by layer" if given else ""
    shapes = ", ".join(f"{rows}x{cols}" for rows, cols in blocks)
    where = "" if len(gated) == len(trace.layers) else f", on {len(gated)} of {len(trace.layers)} layers"
    share = trace.origin.get("share", "layer")
    shared = "" if share == "layer" else f", one gate per {share}"
    return f"{kinds}{threshold} in {shapes} blocks, {trace.update}{where}{shared}"


def describe_machines(machines: Iterable[Hardware]) -> str:
    """Compare machines in one table: array, peak rate, memories, bandwidth, area."""
    head = ("machine", "cores", "array", "clock", "peak", "SRAM", "DRAM", "area")
    return table([head, *map(_machine_row, machines)], "lrrrrrrr")


def _machine_row(hardware: Hardware) -> tuple[str, ...]:
    if hardware.processor is not None:
        return _processor_row(hardware, hardware.processor)
    array, sizes = hardware.array, hardware.buffers
    sram = hardware.cores * (sizes.input_bytes + sizes.weight_bytes + sizes.output_bytes) + sizes.global_bytes
    operations = 2 * hardware.cores * array.rows * array.cols * hardware.clock_hz
    bandwidth = hardware.dram.bytes_per_cycle * hardware.clock_hz
    endless = hardware.dram.rule == "ideal" or bandwidth == float("inf")
    return (
        hardware.name,
        str(hardware.cores),
        f"{array.rows}x{array.cols}",
        quantity(hardware.clock_hz, "Hz"),
        quantity(operations, "OPS"),
        "no limit" if sram == float("inf") else quantity(sram, "B"),
        "no limit" if endless else quantity(bandwidth, "B/s"),
        f"{area_mm2(hardware)['total']:.1f} mm2",
    )


def _processor_row(hardware: Hardware, processor: Processor) -> tuple[str, ...]:
    host, peaks = processor.host, processor.peaks
    return (
        hardware.name,
        str(hardware.cores),
        "measured",
        quantity(hardware.clock_hz, "Hz"),
        quantity(peaks.fma_gflops * 1e9, "OPS"),
        quantity(sum(host.cache_bytes), "B"),
        quantity(peaks.stream_gb_per_s[-1] * 1e9, "B/s"),
        "not known",
    )


def describe_report(report: Report, network: str, *, cores: bool = False, frames: bool = False) -> str:
    """Say how long a clip takes on a machine, against the dense schedule, and where cycles and energy go.

    `cores`: also what every core did. `frames`: also what every frame took.
    """
    length = f"{report.frames} frame{'s' if report.frames > 1 else ''}"
    tile = "the dense schedule" if _is_dense(report) else f"tile {report.tile}"
    title = f"{network} on {report.hardware.name}: {length}, {tile}"
    anchor = "" if report.anchor is None else f"by an anchor, {report.anchor.source}"
    anchor += f"\nwarning: {report.anchor_warning}" if report.anchor_warning else ""
    kernels = "" if report.dense is None or _is_dense(report) else kernel_share(report, report.dense, report.realised)
    sections = [title, _totals(report), anchor, kernels, _causes(report), _energy(report), _slowest(report)]
    sections += [_by_core(report)] if cores else []
    sections += [_by_frame(report)] if frames else []
    return "\n\n".join(section for section in sections if section)


def _is_dense(report: Report) -> bool:
    """Tell whether it is the dense schedule itself: asked for, or what "auto" takes for a layer list without masks."""
    return report.dense is None or report.tile == report.dense.tile


def _totals(report: Report) -> str:
    names = ["per frame", "latency", "MACs", "energy", "DRAM"]
    if report.dense is None or _is_dense(report):
        return table(zip(names, _column("dense", report), strict=True), "lr")
    gated = any(layer.gate != "none" for layer in report.network)
    change = "faster" if report.speedup >= 1 else "as fast: slower"
    columns = [
        [*names, "realised"],
        [*_column("with gates" if gated else f"tile {report.tile}", report), f"{report.realised:.0%}"],
        [*_column("dense", report.dense), ""],
        ["", f"{report.speedup:.2f}x {change}", f"{report.mac_reduction:.2f}x fewer", "", "", "of the MAC reduction"],
    ]
    return table(zip(*columns, strict=True), "lrrl")


def _column(title: str, report: Report) -> list[str]:
    frames = report.frames
    return [
        title,
        milliseconds(report.latency_ms_per_frame),
        quantity(report.macs / frames),
        "not known" if isnan(report.energy_uj) else quantity(report.energy_uj / frames * 1e-6, "J"),
        quantity((report.dram_read_bytes + report.dram_write_bytes) / frames, "B"),
    ]


def _causes(report: Report) -> str:
    cores = report.hardware.cores
    whose = "the cycles" if cores == 1 else f"the cycles of {cores} cores"
    groups = {name: sum(report.causes[cause] for cause in group) for name, group in CAUSE_GROUPS.items()}
    return f"where {whose} go\n{_bars(groups)}"


def _energy(report: Report) -> str:
    """Split the energy by part of the machine; of a measured processor it is not known."""
    if isnan(report.energy_uj):
        return ""
    spent = {PART_NAMES[part]: uj for part, uj in report.energy.items() if uj}
    return f"where the energy goes\n{_bars(spent, 1, 0.0)}"


def _bars(amounts: Mapping[str, float], digits: int = 0, smallest: float = SMALLEST_SHARE) -> str:
    """Draw shares of the whole as bars, the largest first; those under `smallest` are one row, so that all add up."""
    total = sum(amounts.values()) or 1
    shares = {name: amount / total for name, amount in amounts.items()}
    shown = [(name, share) for name, share in shares.items() if share >= smallest]
    shown.sort(key=lambda one: -one[1])
    rest = sum(share for share in shares.values() if share < smallest)
    if rest >= smallest / 2 > 0:
        shown.append((f"others, each below {smallest:.0%}", rest))
    return table([(name, f"{share:.{digits}%}", "█" * round(share * BAR_WIDTH)) for name, share in shown], "lrl")


def _by_core(report: Report) -> str:
    """Say what every core did, and how unevenly: the busiest core's computing over the mean."""
    cycles = report.by_core
    groups = {name: cycles[list(group)].sum(axis=1) for name, group in CAUSE_GROUPS.items()}
    shown = {name: sums for name, sums in groups.items() if sums.sum() >= SMALLEST_SHARE * cycles.to_numpy().sum()}
    rows: list[tuple[str, ...]] = [("core", *shown)]
    for core in cycles.index:
        rows.append((str(core), *(f"{sums[core] / max(1, report.cycles):.1%}" for sums in shown.values())))
    busy = cycles["compute"]
    imbalance = f"imbalance: the busiest core computes {busy.max() / max(1.0, busy.mean()):.2f}x the mean"
    title = f"what every core does, in shares of its {report.cycles} cycles"
    return "\n".join((title, table(rows, "r" * len(rows[0])), imbalance))


def _by_frame(report: Report) -> str:
    """Say what every frame took."""
    rows: list[tuple[str, ...]] = [("frame", "latency", "energy", "MACs", "active tiles", "DRAM")]
    for frame, one in report.by_frame.iterrows():
        rows.append(
            (
                str(frame),
                milliseconds(one["latency_ms"]),
                "not known" if isnan(one["energy_uj"]) else quantity(one["energy_uj"] * 1e-6, "J"),
                quantity(one["macs"]),
                f"{one['active_tiles']:.0f} of {one['tiles']:.0f}",
                quantity(one["dram_read_bytes"] + one["dram_write_bytes"], "B"),
            )
        )
    return f"frame by frame\n{table(rows, 'rrrrrr')}"


def _slowest(report: Report) -> str:
    cost = report.cost
    pixels = [layer.out_pixels * report.frames for layer in report.network]
    densities = [cost.work_by_layer[:, W[name]] / pixels for name in ("active_pixels", "computed_pixels")]
    by_group = [cost.causes_by_layer[:, [C[cause] for cause in group]].sum(axis=1) for group in CAUSE_GROUPS.values()]
    mostly = np.argmax(by_group, axis=0)
    rows = [("slowest layers", "cycles", "density", "in tiles", "mostly")]
    for place in np.argsort(-cost.cycles_by_layer, kind="stable")[:TOP_LAYERS].tolist():
        rows.append(
            (
                report.network[place].label,
                f"{cost.cycles_by_layer[place] / max(1, report.cycles):.0%}",
                f"{densities[0][place]:.0%}",
                f"{densities[1][place]:.0%}",
                list(CAUSE_GROUPS)[mostly[place]],
            )
        )
    return table(rows, "lrrrl")
