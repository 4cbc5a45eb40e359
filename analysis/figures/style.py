"""How all figures look: sizes, fonts, and colours that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from skipsim.analysis.causes import CAUSE_GROUPS
from skipsim.atomic import replacing

# Okabe and Ito, "Color Universal Design", 2008: black and these seven; yellow last, it is weak on white.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW = "#CC79A7", "#56B4E9", "#F0E442"
INK, GREY, PALE = "#222222", "#8C8C8C", "#DDDDDD"
BAND = "#EFEFEF"  # behind what loses no more than is allowed
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, GREY)
GROUP_COLOURS = dict(zip(CAUSE_GROUPS, (BLUE, GREY, PURPLE, YELLOW, ORANGE, VERMILION, SKY, GREEN, PALE), strict=True))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "h", "<", ">")
PAGE_INCHES = 7.2  # text width of a two-column paper
COLUMNS = 3
PNG_DPI = 200

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 8,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # editable text
    "svg.hashsalt": "skipsim",  # the same figure gives the same bytes
}


@contextmanager
def styled() -> Iterator[None]:
    """Apply the style to all that is drawn inside."""
    settings: Any = dict(mpl.rcParamsDefault) | STYLE | {"backend": "Agg"}
    with mpl.rc_context(settings):
        yield


def panels(count: int, *, height: float) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure of text width with `count` panels of `height` inches, at most COLUMNS side by side."""
    across = 2 if count == 4 else min(count, COLUMNS)
    down = -(-count // across)
    figure = Figure(figsize=(PAGE_INCHES, down * height + 0.6), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    axes = list(grid.ravel())
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


def save(figure: Figure, directory: Path, name: str) -> list[Path]:
    """Write a figure as PDF and as PNG; the same figure gives the same bytes."""
    paths = [directory / f"{name}.pdf", directory / f"{name}.png"]
    with styled():
        with replacing(paths[0]) as temporary:
            figure.savefig(temporary, metadata={"CreationDate": None})
        with replacing(paths[1]) as temporary:
            figure.savefig(temporary, dpi=PNG_DPI, metadata={"Software": None})
    return paths
