"""Traces, machines and reports in a few plain lines for people to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from skipsim.hwmodels.area import area_mm2
from skipsim.hwmodels.hardware import Hardware
from skipsim.simulator.simulate import Report
from skipsim.traces.trace import Trace

BAR_WIDTH = 30
TOP_LAYERS = 5
SMALLEST_SHARE = 0.01

# What the array waits for, or does, in words; keys as in simulator.counters.CAUSES.
CAUSE_WORDS = {
    "launch": "starting layers",
    "gate": "evaluating gates",
    "index": "scanning masks",
    "compute": "computing",
    "weights": "waiting for weights",
    "gather_issue": "setting up reads of tiles",
    "gather_queue": "queueing for the memory",
    "gather_transfer": "moving bytes of tiles",
    "gather_latency": "memory latency",
    "scatter": "writing tiles back",
    "barrier": "waiting for the other cores",
}


def table(rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Align rows of cells in columns: the first `left` of them to the left, the others to the right."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def quantity(value: float, unit: str = "") -> str:
    """Write a number with three digits and a prefix: 1.23 M, 45.6 kB."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            return f"{_digits(value / factor)} {prefix}{unit}"
    return f"{_digits(value)} {unit}".rstrip()


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def describe_trace(trace: Trace) -> str:
    """Say what is in a trace: network, gates, frames, density, what it saves, how good it was."""
    lines = [
        ("network", f"{trace.origin.get('network', 'unknown')}, {len(trace.layers)} convolutions"),
        ("kind", str(trace.origin.get("kind", "unknown"))),
        ("frames", f"{trace.frames} ({len(trace.reference_frames)} computed densely){_cut_off(trace)}"),
        ("gates", _gates(trace)),
        ("density", f"{trace.density():.1%} of the output pixels computed"),
        ("MACs", f"{quantity(trace.macs / trace.frames)} per frame, dense {quantity(trace.dense_macs / trace.frames)}"),
        ("MAC reduction", f"{trace.mac_reduction:.2f}x, gates included"),
    ]
    lines += [(name, f"{value:.4g}") for name, value in trace.quality.items() if isinstance(value, int | float)]
    return table([*lines, ("hash", trace.hash)], left=2)


def _cut_off(trace: Trace) -> str:
    return "" if trace.complete else "; the recording was cut off"


def _gates(trace: Trace) -> str:
    gated = [layer for layer in trace.layers if layer.gate != "none"]
    if not gated:
        return "none: every layer is dense"
    blocks = sorted({(layer.block_rows, layer.block_cols) for layer in gated})
    kinds = ", ".join(sorted({layer.gate for layer in gated}))
    parameters = trace.origin.get("parameters", {})
    threshold = f" {parameters['threshold']:g}" if "threshold" in parameters else ""
    shapes = ", ".join(f"{rows}x{cols}" for rows, cols in blocks)
    where = "" if len(gated) == len(trace.layers) else f", on {len(gated)} of {len(trace.layers)} layers"
    return f"{kinds}{threshold} in {shapes} blocks, {trace.update}{where}"


def describe_machines(machines: Iterable[Hardware]) -> str:
    """Compare machines in one table: array, peak rate, memories, bandwidth, area."""
    head = ("machine", "cores", "array", "clock", "int8 peak", "SRAM", "DRAM", "area")
    return table([head, *map(_machine_row, machines)])


def _machine_row(hardware: Hardware) -> tuple[str, ...]:
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


def describe_report(report: Report, trace: Trace, hardware: Hardware) -> str:
    """Say how long a clip takes on a machine, against the dense schedule, and where the cycles go."""
    title = f"{trace.origin.get('network', 'network')} on {hardware.name}, {_frames(trace)}, tile {report.tile}"
    return "\n\n".join((title, _totals(report, trace), _causes(report, hardware), _slowest(report)))


def _frames(trace: Trace) -> str:
    return f"{trace.frames} frame{'s' if trace.frames > 1 else ''}"


def _totals(report: Report, trace: Trace) -> str:
    dense, frames = report.dense, trace.frames
    rows = [
        ("per frame", "with gates", "dense", ""),
        (
            "latency",
            f"{report.latency_ms_per_frame:.3f} ms",
            f"{dense.latency_ms_per_frame:.3f} ms",
            f"{report.speedup:.2f}x faster",
        ),
        (
            "MACs",
            quantity(report.macs / frames),
            quantity(dense.macs / frames),
            f"{report.mac_reduction:.2f}x fewer",
        ),
        ("energy", quantity(report.energy_uj / frames, "uJ"), quantity(dense.energy_uj / frames, "uJ"), ""),
        (
            "DRAM",
            quantity((report.dram_read_bytes + report.dram_write_bytes) / frames, "B"),
            quantity((dense.dram_read_bytes + dense.dram_write_bytes) / frames, "B"),
            "",
        ),
        ("realised", f"{report.realised:.0%}", "", "of the MAC reduction became speed-up"),
    ]
    return table([(a, b, c, d) for a, b, c, d in rows])


def _causes(report: Report, hardware: Hardware) -> str:
    total = max(1, sum(report.causes.values()))
    shares = sorted(((cycles / total, name) for name, cycles in report.causes.items()), reverse=True)
    rows = [
        (CAUSE_WORDS.get(name, name), f"{share:.0%}", "█" * round(share * BAR_WIDTH))
        for share, name in shares
        if share >= SMALLEST_SHARE
    ]
    cores = "the core's cycles" if hardware.cores == 1 else f"the cycles of {hardware.cores} cores"
    return f"where {cores} go\n" + _indent(table(rows))


def _slowest(report: Report) -> str:
    layers = report.layers.groupby("name", sort=False, observed=True)
    cycles = layers["cycles"].sum()
    slowest = cycles.nlargest(TOP_LAYERS).index
    causes = report.layers.filter(regex="^cause_").groupby(report.layers["name"], sort=False, observed=True).sum()
    rows = [("slowest layers", "of all cycles", "density", "in tiles", "mostly")]
    for name in slowest:
        group = layers.get_group(name)
        top = str(causes.loc[name].idxmax()).removeprefix("cause_")
        rows.append(
            (
                str(name),
                f"{cycles[name] / max(1, report.cycles):.0%}",
                f"{group['density'].mean():.0%}",
                f"{group['effective_density'].mean():.0%}",
                CAUSE_WORDS.get(top, top),
            )
        )
    return table(rows)


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
