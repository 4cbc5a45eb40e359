"""Published gated operators: the times of sparse networks, predicted from their dense ones.

Every device gets two parameters, milliseconds per GMAC and milliseconds per network, fitted to its dense points only
and never negative; its sparse points are then predicted from their published MACs. The method's own CPU table is also
predicted by a measured machine: what its kernels would take on HRNet-W32 with as many MACs, scaled to the dense point.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from skipsim.analysis.validation.comparison import Comparison, Pair
from skipsim.analysis.validation.oracles import path_of, rows
from skipsim.hwmodels.hardware import load_hardware
from skipsim.simulator.simulate import simulate
from skipsim.traces.synthetic import synthetic_trace

FILE = "published_operators.csv"
SOURCE = "Skip-Conv CVPR 2021, SIGE NeurIPS 2022, SegBlocks TPAMI 2022: tables and READMEs"
HRNET = "scalesim/hrnet_w32_256x192.topology.csv"
MEASURED = "measured-zen4-2core"
CLUSTER_PIXELS, BLOCK = 32, 4
QUANTITY = "ms of a network"
NOTES = (
    "two parameters know nothing of gathers, scatters, gates and launches: where they are too fast, these are why",
    "dense points lie close together (M1 Pro CPU: 13 % apart), so that the constant is extrapolated",
    "assumed: a network's time is one rate and one constant; with one dense point the constant is zero",
    f"assumed for the measured machine: {BLOCK}x{BLOCK} blocks in clusters of {CLUSTER_PIXELS} pixels at 256x192, "
    "the same share of MACs in every layer, a norm gate of its own before each",
    "the published CPU, the details of its im2col kernel and its block size are not stated",
    "SBNet's and DeltaCNN's tables could not be read from a citable copy and are left out",
)


def compare(folder: Path | None = None) -> Comparison:
    """Compare with every row of the file."""
    table = rows(FILE, folder)
    pairs = []
    for device in dict.fromkeys(row["device"] for row in table):
        points = [row for row in table if row["device"] == device]
        dense = [row for row in points if row["variant"] == "dense"]
        per_gmac, constant = fit_line([float(row["gmac"]) for row in dense], [float(row["ms"]) for row in dense])
        group = f"{points[0]['source'].split()[0]}, {device.split(' (')[0]}"
        pairs += [
            Pair(_name(row), QUANTITY, float(row["ms"]), constant + per_gmac * float(row["gmac"]), group, row in dense)
            for row in points
        ]
        if "HRNet" in points[0]["network"]:
            pairs += _as_measured(points, folder)
    return Comparison("published operators", SOURCE, tuple(pairs), "dense points only", NOTES)


def fit_line(gmac: Sequence[float], ms: Sequence[float]) -> tuple[float, float]:
    """Return milliseconds per GMAC and a constant: least squares; without a constant where it would be negative."""
    count = len(gmac)
    mean_gmac, mean_ms = sum(gmac) / count, sum(ms) / count
    variance = sum((one - mean_gmac) ** 2 for one in gmac)
    slope = sum((x - mean_gmac) * (y - mean_ms) for x, y in zip(gmac, ms, strict=True)) / variance if variance else -1.0
    constant = mean_ms - slope * mean_gmac
    if slope >= 0 and constant >= 0:
        return slope, constant
    return sum(x * y for x, y in zip(gmac, ms, strict=True)) / sum(x * x for x in gmac), 0.0


def _as_measured(points: list[dict[str, str]], folder: Path | None) -> list[Pair]:
    """Predict the method's own table by a measured machine, scaled to the dense point."""
    hardware = load_hardware(MEASURED)
    dense = next(row for row in points if row["variant"] == "dense")
    found = []
    for row in points:
        density = float(row["gmac"]) / float(dense["gmac"])
        trace = synthetic_trace(
            path_of(HRNET, folder), frames=4, density=density, cluster_pixels=CLUSTER_PIXELS, block=BLOCK,
            reference_frames=(),
        )  # fmt: skip
        speedup = 1.0 if row is dense else simulate(trace, hardware, tile=(BLOCK, BLOCK)).speedup
        group = f"Skip-Conv, CPU, kernels as on {MEASURED}"
        found.append(Pair(_name(row), QUANTITY, float(row["ms"]), float(dense["ms"]) / speedup, group, row is dense))
    return found


def _name(row: dict[str, str]) -> str:
    return f"{row['network']} {row['variant']} {row['gmac']} GMAC"
