"""Figures of a validation: predicted against measured times, and the density at which gating breaks even."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from skipsim.analysis.figures.style import COLOURS, GREY, PALE, panels, save, styled

BAND = 0.1
PATHS = {
    "compiled": "compiled, with gate",
    "triton": "Triton kernel",
    "torch_columns": "PyTorch, pixels",
    "torch_blocks": "PyTorch, blocks",
}


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Draw both figures into a folder, as PDF and PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    with styled():
        figure, axes = panels(2, height=3.0)
        _predicted_over_measured(axes[0], results["points"])
        _break_even(axes[1], results["break_even"])
        figure.suptitle(f"{results['hardware']}: layers that calibration never saw")
        return save(figure, folder, "validation")


def _predicted_over_measured(axes: Axes, points: list[dict[str, Any]]) -> None:
    for kind, colour in zip(sorted({point["class"] for point in points}), COLOURS, strict=False):
        for hot, marker in ((False, "o"), (True, "x")):
            chosen = [point for point in points if point["class"] == kind and point["hot"] == hot]
            measured, predicted = ([point[name] / 1e3 for point in chosen] for name in ("measured_ns", "predicted_ns"))
            label = None if hot else kind
            axes.plot(measured, predicted, marker, color=colour, markersize=2.5, linestyle="none", label=label)
    ends = [pick(point["measured_ns"] / 1e3 for point in points) for pick in (min, max)]
    axes.fill_between(ends, [(1 - BAND) * end for end in ends], [(1 + BAND) * end for end in ends], color=PALE)
    axes.plot(ends, ends, color=GREY, linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="measured (µs)", ylabel="predicted (µs)")
    axes.set_title("convolutions, cold (o) and hot (x); band 10 %")
    axes.legend()


def _break_even(axes: Axes, rows: list[dict[str, Any]]) -> None:
    for path, colour in zip(PATHS, COLOURS, strict=False):
        chosen = [row for row in rows if row["path"] == path]
        if not chosen:
            continue
        for name, style in (("measured", "o-"), ("predicted", "s--")):
            label = f"{PATHS[path]}, {name}"
            axes.plot(
                [row["block"] for row in chosen], [row[name] for row in chosen], style, color=colour, markersize=3.5,
                label=label,
            )  # fmt: skip
    blocks = sorted({row["block"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(blocks, [str(block) for block in blocks])
    axes.set(xlabel="block (pixels)", ylabel="density", ylim=(0, 1.05))
    axes.set_title("gating pays below this density")
    axes.legend(loc="center", fontsize="x-small", ncols=1, bbox_to_anchor=(0.5, 0.72))
