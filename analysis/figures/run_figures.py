"""The figures of one run: its layers by cause, its roofline, its energy, and what its machine's numbers are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from skipsim.analysis.advice.decision import Decision
from skipsim.analysis.advice.sensitivity import Sensitivity
from skipsim.analysis.causes import CAUSE_GROUPS
from skipsim.analysis.figures.energy_figure import energy_by_part
from skipsim.analysis.figures.style import BLUE, GREEN, GREY, GROUP_COLOURS, INK, ORANGE, PAGE_INCHES, styled
from skipsim.analysis.run_detail import detail_of

MOST_LAYERS = 48  # of more, the slowest
ROW_INCHES = 0.145
MOST_KEYS = 12
SMALLEST_CHANGE = 5e-4
NAME_LETTERS = 30


def run_figures(decisions: Mapping[tuple[str, str], Decision]) -> dict[str, Figure]:
    """Return the figures of every recommended run, by file name; a measured processor has no roofs and no numbers."""
    figures = {}
    several = len({network for network, _ in decisions}) > 1
    for (network, hardware), one in decisions.items():
        name = f"{network}-{hardware}" if several else hardware
        title = f"{network} on {hardware}\n{one.answer.choice()}"
        gated, dense = detail_of(one.gated), detail_of([one.dense])
        labels = [layer.label for layer in one.dense.network]
        figures[f"layers-{name}"] = layers_by_cause(labels, gated, dense, title)
        if gated["machine"]["peak_macs_per_cycle"] is not None:
            figures[f"roofline-{name}"] = roofline(gated, dense, title)
            figures[f"energy-{name}"] = energy_by_part(one.gated, one.dense, title)
        if one.found:
            figures[f"sensitivities-{name}"] = sensitivity_figure(one.found, title)
    return figures


def layers_by_cause(names: Sequence[str], gated: Mapping[str, Any], dense: Mapping[str, Any], title: str) -> Figure:
    """Draw the cycles of every layer, stacked by cause, with a tick at the dense schedule's.

    Args:
        names: layers in order.
        gated: `detail_of` a run.
        dense: `detail_of` the dense schedule.
        title: of the figure.
    """
    machine = gated["machine"]
    scale = 1e6 / machine["clock_hz"] if machine["measured"] else 1e-3
    cycles, before = scale * np.array(gated["cycles"]), scale * np.array(dense["cycles"]).sum(axis=0)
    shown = np.sort(np.argsort(-cycles.sum(axis=0), kind="stable")[:MOST_LAYERS])
    with styled():
        figure = Figure(figsize=(PAGE_INCHES, ROW_INCHES * len(shown) + 1.3), layout="constrained")
        axis = figure.subplots()
        places, left = np.arange(len(shown)), np.zeros(len(shown))
        for group, values in zip(CAUSE_GROUPS, cycles, strict=True):
            axis.barh(places, values[shown], 0.78, left, color=GROUP_COLOURS[group], edgecolor="white", linewidth=0.25)
            left += values[shown]
        axis.plot(before[shown], places, "|", color=INK, markersize=6.5, markeredgewidth=1.3, zorder=4)
        axis.set_yticks(places, [_short(names[place]) for place in shown], fontsize=6.3)
        axis.set_ylim(len(shown) - 0.4, -0.6)
        axis.set_xlim(0, 1.03 * max(left.max(), before[shown].max()))
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("time per frame [µs]" if machine["measured"] else "cycles per frame [thousands]")
        left_out = "" if len(shown) == len(names) else f"; the slowest {len(shown)} of {len(names)} layers"
        axis.set_title(title + left_out)
        handles: list[Any] = [Patch(facecolor=GROUP_COLOURS[name], label=name) for name in CAUSE_GROUPS]
        handles.append(
            Line2D([], [], color=INK, marker="|", markersize=8, markeredgewidth=1.3, linestyle="", label="dense")
        )
        figure.legend(handles=handles, loc="outside lower center", ncols=5, columnspacing=1.2)
        return figure


def roofline(gated: Mapping[str, Any], dense: Mapping[str, Any], title: str) -> Figure:
    """Draw every layer under the roofs of its machine, with gates and dense; arguments as of `layers_by_cause`."""
    machine = gated["machine"]
    peak, slope = float(machine["peak_macs_per_cycle"]), machine["dram_bytes_per_cycle"]
    with styled():
        figure = Figure(figsize=(0.62 * PAGE_INCHES, 3.2), layout="constrained")
        axis = figure.subplots()
        points = [
            _roof_points(axis, dense, {"facecolors": "none", "edgecolors": GREY, "linewidths": 0.9, "zorder": 3}),
            _roof_points(axis, gated, {"c": BLUE, "alpha": 0.85, "linewidths": 0, "zorder": 4}),
        ]
        xs, ys = (np.concatenate([found[side] for found in points]) for side in (0, 1))
        knee = peak / slope if slope else None
        ends = 0.6 * min(xs.min(), knee or np.inf), 1.8 * max(xs.max(), knee or 0)
        line = [ends[0], *([knee] if knee else []), ends[1]]
        axis.plot(line, [min(peak, slope * x) if slope else peak for x in line], color=INK, linewidth=1.3, zorder=2)
        axis.set(xscale="log", yscale="log", xlim=ends, ylim=(0.6 * ys.min(), 2.2 * peak))
        axis.text(ends[1], 1.06 * peak, f"{peak:g} MACs per cycle ", ha="right", va="bottom", fontsize=7)
        if knee and slope:
            axis.text(0.9 * knee, 1.06 * peak, f"{slope:g} bytes per cycle", ha="right", va="bottom", fontsize=7)
        axis.set_xlabel("computed MACs per byte of DRAM traffic")
        axis.set_ylabel("computed MACs per cycle")
        axis.set_title(title)
        handles = [
            Line2D([], [], marker="o", markersize=5, color=BLUE, linestyle="", label="with gates"),
            Line2D([], [], marker="o", markersize=5, markerfacecolor="none", color=GREY, linestyle="", label="dense"),
        ]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=2, title="one point per layer; area = its time"
        )
        return figure


def sensitivity_figure(found: Sequence[Sensitivity], title: str) -> Figure:
    """Draw how much the latency changes with every number of the machine, the largest changes first."""
    reach: dict[str, float] = {}
    for one in found:
        if not np.isnan(one.latency_change):
            reach[one.key] = max(reach.get(one.key, 0.0), abs(one.latency_change))
    keys = sorted((key for key in reach if reach[key] >= SMALLEST_CHANGE), key=lambda key: -reach[key])[:MOST_KEYS]
    with styled():
        figure = Figure(figsize=(0.75 * PAGE_INCHES, 0.2 * max(4, len(keys)) + 1.1), layout="constrained")
        axis = figure.subplots()
        for one in found:
            if one.key in keys and not np.isnan(one.latency_change):
                colour, aside = (GREEN, -0.19) if one.direction == "better" else (ORANGE, 0.19)
                axis.barh(keys.index(one.key) + aside, 100 * one.latency_change, 0.38, color=colour, zorder=3)
        axis.axvline(0, color=INK, linewidth=0.8, zorder=4)
        axis.set_yticks(range(len(keys)), keys)
        axis.set_ylim(len(keys) - 0.4, -0.6)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("change of latency [%]")
        axis.set_title(title)
        handles = [Patch(color=GREEN, label="twice as good, or on"), Patch(color=ORANGE, label="half as good")]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        return figure


def _roof_points(
    axis: Axes, detail: Mapping[str, Any], look: dict[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw the layers that compute and move something; return where they are."""
    macs, moved = np.array(detail["computed_macs"]), np.array(detail["dram_bytes"])
    cycles = np.array(detail["cycles"]).sum(axis=0)
    seen = (macs > 0) & (moved > 0) & (cycles > 0)
    x, y = macs[seen] / moved[seen], macs[seen] / cycles[seen]
    axis.scatter(x, y, s=6 + 700 * cycles[seen] / cycles.sum(), **look)
    return x, y


def _short(name: str) -> str:
    return name if len(name) <= NAME_LETTERS else f"…{name[1 - NAME_LETTERS :]}"
