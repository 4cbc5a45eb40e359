"""How far open and closed loop are apart: masks of a fine recording made coarser, beside recordings of every block."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from skipsim.analysis.results import mean_over_clips
from skipsim.analysis.style import COLOURS, INK, panels, styled
from skipsim.analysis.variants import blocks_of, short
from skipsim.errors import InputError

SIDES = (
    ("density", "computed share of MACs [%]", 100.0),
    ("quality", "accuracy [%]", 100.0),
    ("speedup", "speed-up [x]", 1.0),
)
PAIR = ["network", "gate", "update", "reset_every", "threshold", "block", "hardware", "tile"]


def loop_figure(table: pd.DataFrame) -> Figure:
    """Draw what open loop predicts over what closed loop measured, for every configuration that has both."""
    mean = mean_over_clips(table)
    closed, open_ = (mean[mean["loop"] == loop] for loop in ("closed", "open"))
    both = closed.merge(open_, on=PAIR, suffixes=("_closed", "_open"))
    if both.empty:
        raise InputError("loop figure: no configuration of the table has both an open and a closed loop")
    colours = blocks_of(both)
    with styled():
        figure, axes = panels(len(SIDES), height=2.5)
        for axis, (column, label, factor) in zip(axes, SIDES, strict=True):
            x, y = factor * both[f"{column}_closed"], factor * both[f"{column}_open"]
            ends = min(x.min(), y.min()), max(x.max(), y.max())
            axis.plot(ends, ends, color=INK, linewidth=0.8, zorder=2)
            axis.scatter(x, y, s=15, c=[colours[block] for block in both["block"]], linewidths=0, alpha=0.8, zorder=3)
            axis.set_title(label)
            axis.set_xlabel("closed loop")
            axis.set_ylabel("open loop")
        handles = [
            Line2D(
                [],
                [],
                marker="o",
                markersize=4,
                linestyle="",
                color=colours.get(block, COLOURS[0]),
                label=f"block {short(block)}",
            )
            for block in colours
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=6)
        return figure
