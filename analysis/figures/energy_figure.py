"""The figure of one run's energy: by part of the machine, with gates and dense."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from skipsim.analysis.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PAGE_INCHES,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    styled,
)
from skipsim.hwmodels.energy import PART_NAMES, PARTS
from skipsim.simulator.report import Report

PART_COLOURS = dict(zip(PARTS, (BLUE, PURPLE, SKY, GREEN, YELLOW, ORANGE, VERMILION, INK, GREY), strict=True))


def energy_by_part(gated: Sequence[Report], dense: Report, title: str) -> Figure:
    """Draw the energy of the mean frame, stacked by part, above that of the dense schedule.

    Args:
        gated: of clips of equal weight.
        dense: the dense schedule.
        title: of the figure.
    """
    bars = {
        "with gates": {part: fmean(one.energy[part] / one.frames for one in gated) for part in PARTS},
        "dense": {part: dense.energy[part] / dense.frames for part in PARTS},
    }
    with styled():
        figure = Figure(figsize=(PAGE_INCHES, 1.7), layout="constrained")
        axis = figure.subplots()
        for place, parts in enumerate(bars.values()):
            left = 0.0
            for part, microjoules in parts.items():
                axis.barh(place, microjoules, 0.62, left, color=PART_COLOURS[part], edgecolor="white", linewidth=0.25)
                left += microjoules
        axis.set_yticks(range(len(bars)), list(bars))
        axis.set_ylim(len(bars) - 0.5, -0.5)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("energy per frame [µJ]")
        axis.set_title(title)
        used = [part for part in PARTS if any(parts[part] for parts in bars.values())]
        handles = [Patch(facecolor=PART_COLOURS[part], label=PART_NAMES[part]) for part in used]
        figure.legend(handles=handles, loc="outside lower center", ncols=5, columnspacing=1.2)
        return figure
