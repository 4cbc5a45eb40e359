"""How far open and closed loop are apart: masks of a fine recording made coarser, against recordings of every block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from skipsim.analysis.figures.style import COLOURS, GREY, INK, MARKERS, PAGE_INCHES, styled
from skipsim.analysis.figures.variants import blocks_of, short
from skipsim.analysis.loops import loop_gaps
from skipsim.analysis.results import mean_over_clips
from skipsim.errors import InputError

SPREAD = 0.56  # of a block's column, over which its points are laid out by machine


def loop_figure(table: pd.DataFrame) -> Figure:
    """Draw open loop less closed loop over the block size: computed share, latency and accuracy, with medians.

    Every point is a configuration, the mean over its clips. Shares and accuracy do not depend on the machine.
    """
    gaps = loop_gaps(mean_over_clips(table))
    if gaps.empty:
        raise InputError("loop figure: no configuration of the table has both an open and a closed loop")
    blocks = list(blocks_of(gaps))
    machines = list(dict.fromkeys(gaps["hardware"]))
    recordings = gaps.drop_duplicates(
        ["network", "gate", "update", "reset_every", "share", "threshold", "block", "clip"]
    )
    sides: list[tuple[str, pd.DataFrame, pd.Series[float], tuple[str, ...]]] = [
        ("share of MACs [percentage points]", recordings, 100 * recordings["density_gap"], (GREY,))
    ]
    sides.append(("latency [%]", gaps, 100 * (gaps["latency_ratio"] - 1), COLOURS))
    if recordings["quality_gap"].notna().any():
        sides.append(("accuracy [points]", recordings, recordings["quality_gap"], (GREY,)))
    with styled():
        figure = Figure(figsize=(PAGE_INCHES, 2.75), layout="constrained")
        for axis, (label, rows, values, colours) in zip(
            figure.subplots(1, len(sides), squeeze=False)[0], sides, strict=True
        ):
            groups = machines if len(colours) > 1 else [None]
            _gap_panel(axis, rows, values, blocks, groups, colours)
            if len(colours) == 1:
                _join_thresholds(axis, rows, values, blocks)
            axis.set_title(label, fontsize=8, fontweight="normal", pad=13)
            axis.set_xlabel("block [output pixels]")
        axis = figure.axes[0]
        axis.set_ylabel("open loop \u2212 closed loop")
        handles = [
            Line2D([], [], marker=marker, markersize=4, linestyle="", color=colour, label=machine)
            for machine, colour, marker in zip(machines, COLOURS, MARKERS, strict=False)
        ]
        handles.append(
            Line2D([], [], marker="o", markersize=4, linestyle="", color=GREY, label="all machines; number: threshold")
        )
        handles.append(Line2D([], [], color=INK, linewidth=1.6, label="median, above the panel its value"))
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        return figure


def _join_thresholds(axis: Axes, rows: pd.DataFrame, values: pd.Series[float], blocks: Sequence[str]) -> None:
    """Join the points of every threshold, and name it behind the last one."""
    if rows["network"].nunique() > 1 or rows["threshold"].nunique() < 2:
        return
    for threshold, own in values.groupby(rows["threshold"]):
        means = own.groupby(rows["block"]).mean()
        places = [place for place, block in enumerate(blocks) if block in means]
        heights = [means[blocks[place]] for place in places]
        axis.plot(places, heights, color=GREY, linewidth=0.8, zorder=2)
        axis.annotate(
            f"{threshold:g}",
            (places[-1], heights[-1]),
            xytext=(5, 0),
            textcoords="offset points",
            ha="left",
            va="center",
            fontsize=6.5,
            color="#555555",
        )


def _gap_panel(
    axis: Axes,
    rows: pd.DataFrame,
    values: pd.Series[float],
    blocks: Sequence[str],
    machines: Sequence[str | None],
    colours: Sequence[str],
) -> None:
    """Draw one column of points per block, machines side by side, and the median of each block."""
    axis.axhline(0, color=INK, linewidth=0.8, zorder=1)
    for place, block in enumerate(blocks):
        for number, (machine, colour, marker) in enumerate(zip(machines, colours, MARKERS, strict=False)):
            own = (rows["block"] == block) & (machine is None or rows["hardware"] == machine)
            side = SPREAD * ((number + 0.5) / len(machines) - 0.5)
            found = values[own].to_numpy(np.float64)
            axis.scatter(
                np.full(len(found), place + side),
                found,
                s=13,
                c=colour,
                marker=marker,
                alpha=0.7,
                linewidths=0,
                zorder=3,
            )
        median = float(values[rows["block"] == block].median())
        axis.plot([place - 0.4, place + 0.4], [median, median], color=INK, linewidth=1.6, zorder=4)
        axis.text(
            place,
            1.0,
            f"{median:+.1f}".replace("-", "\u2212"),
            transform=axis.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=6.5,
        )
    axis.set_xticks(range(len(blocks)), [short(block) for block in blocks])
    axis.set_xlim(-0.6, len(blocks) - 0.3)
    axis.grid(axis="x", visible=False)
