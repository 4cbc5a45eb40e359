"""What each gate is worth: points lost over the speed-up, a line per gate, by machine and by group of clips."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from skipsim.analysis.figures.style import BAND, COLOURS, COLUMNS, INK, MARKERS, PAGE_INCHES, styled
from skipsim.analysis.figures.variants import variants_of
from skipsim.analysis.loops import decisive_rows
from skipsim.analysis.pareto import pareto_front
from skipsim.analysis.results import groups_of, mean_over_clips
from skipsim.errors import InputError

DOTTED = (0, (1, 2))
ROOM = 4.0  # times the drop allowed is shown, at most as much gained: what loses more is no choice
NOISE_POINTS = 0.5  # gained are shown in any case
MARGIN = 0.15  # points above the highest mark


def gates_figure(table: pd.DataFrame, max_drop: float) -> Figure:
    """Draw for every gate the least points lost at each speed-up, over its blocks, tiles and thresholds.

    A row of panels per group of clips where the study names groups, each from the means over its clips; a column per
    machine, the first COLUMNS of them. Open loop is left out where there is a closed one.
    """
    table = decisive_rows(table[table["error"] == ""])
    table = table[table["quality_drop"].notna()]
    if table.empty:
        raise InputError("gates figure: no row of the table has an accuracy")
    groups = groups_of(table) or [""]
    gates = list(dict.fromkeys(table["gate"]))
    looks = dict(zip(gates, zip(COLOURS, MARKERS, strict=False), strict=False))
    with styled():
        parts = [variants_of(mean_over_clips(table[table["group"] == group] if group else table)) for group in groups]
        across = min(COLUMNS, max(map(len, parts)))
        figure = Figure(figsize=(PAGE_INCHES, 1.75 * len(groups) + 0.6), layout="constrained")
        grid = figure.subplots(len(groups), across, squeeze=False, sharex="col", sharey=True)
        for group, variants, axes in zip(groups, parts, grid, strict=True):
            for axis, variant in zip(axes, variants[:across], strict=True):
                _panel(axis, variant.rows, looks, max_drop)
                axis.set_title(variant.title if axis in grid[0] else "")
                axis.set_xlabel("speed-up [x]" if axis in grid[-1] else "")
            axes[0].set_ylabel(f"{group} clips\npoints lost" if group else "points lost")
        most = ROOM * max(max_drop, NOISE_POINTS)
        gained = max(NOISE_POINTS, MARGIN - min(one.rows["quality_drop"].min() for part in parts for one in part))
        grid[0][0].set_ylim(most, -min(gained, most))  # better is higher
        handles = [
            Line2D([], [], color=colour, marker=marker, markersize=4, label=gate)
            for gate, (colour, marker) in looks.items()
        ]
        dense = Line2D([], [], color=INK, marker="*", markersize=9, linestyle="", label="dense")
        near = Patch(color=BAND, label=f"\u2264 {max_drop:g} lost")
        figure.legend(handles=[*handles, dense, near], loc="outside lower center", ncols=6)
        return figure


def _panel(axis: Axes, rows: pd.DataFrame, looks: dict[str, tuple[str, str]], max_drop: float) -> None:
    axis.axhspan(0, max_drop, color=BAND, zorder=0)
    axis.axvline(1, color=INK, linewidth=0.8, linestyle=DOTTED, zorder=1)
    axis.plot(1, 0, "*", color=INK, markersize=9, zorder=5)
    for gate, (colour, marker) in looks.items():
        own = rows[rows["gate"] == gate]
        if own.empty:
            continue
        front = own[pareto_front(own, minimise=["quality_drop"], maximise=["speedup"])].sort_values("speedup")
        axis.step(front["speedup"], front["quality_drop"], where="pre", color=colour, linewidth=0.9, zorder=2)
        axis.plot(front["speedup"], front["quality_drop"], marker, color=colour, markersize=4, zorder=3)
