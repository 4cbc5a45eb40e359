"""Names written beside the marks of a panel, where they hide least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import Normal, Stroke

from skipsim.analysis.figures.style import INK

Place = tuple[float, float]

NAME_SIZE = 6.0  # points
HALO = [Stroke(linewidth=2, foreground="white"), Normal()]  # keeps a name legible on a line
LETTER, LINE, GAP = 0.6 * NAME_SIZE, 1.1 * NAME_SIZE, 5.0  # points: a letter's width, a line's height, to the mark
OUTSIDE = 9  # as bad as so many hidden marks
# From a mark to the lower left corner of a name, in widths and heights of the name and gaps; and how text is aligned.
SIDES = {
    ("left", "center"): ((0.0, 1.0), (-0.5, 0.0)),
    ("right", "center"): ((-1.0, -1.0), (-0.5, 0.0)),
    ("center", "top"): ((-0.5, 0.0), (-1.0, -1.0)),
    ("center", "bottom"): ((-0.5, 0.0), (0.0, 1.0)),
}


def marks_of(axis: Axes) -> list[Place]:
    """Return where the marks of a panel are, and the corners of its lines, in data."""
    return [(float(x), float(y)) for line in axis.lines for x, y in np.asarray(line.get_xydata()).reshape(-1, 2)]


def name_marks(axis: Axes, names: Mapping[str, Place]) -> None:
    """Write a name beside each place: to the right, left, below or above, where it hides fewest marks and names.

    The panel must have its limits and its place in the figure.
    """
    figure = axis.get_figure(root=True)
    assert figure is not None
    scale = 72 / figure.dpi  # points a pixel
    panel = axis.get_window_extent()

    def points(place: Place) -> Place:
        x, y = axis.transData.transform(place)
        return (x - panel.x0) * scale, (y - panel.y0) * scale

    taken = [points(mark) for mark in marks_of(axis)]
    for name, place in names.items():
        x, y = points(place)
        width = LETTER * len(name)
        corners = {
            side: (x + across * width + aside * GAP, y + up * LINE + above * GAP)
            for side, ((across, aside), (up, above)) in SIDES.items()
        }
        crowds = {side: _crowd(corner, width, taken, panel.width * scale) for side, corner in corners.items()}
        side = min(crowds, key=crowds.__getitem__)
        left, low = corners[side]
        taken += [(left + share * width, low + LINE / 2) for share in (0, 0.25, 0.5, 0.75, 1)]
        (_, aside), (_, above) = SIDES[side]
        axis.annotate(
            name, place, xytext=(aside * GAP, above * GAP), textcoords="offset points", ha=side[0], va=side[1],
            fontsize=NAME_SIZE, color=INK, path_effects=HALO, zorder=6,
        )  # fmt: skip


def _crowd(corner: Place, width: float, taken: Sequence[Place], wide: float) -> int:
    """Count the marks that a name with this lower left corner would hide in a panel so many points wide."""
    x, y = corner
    hidden = sum(x <= a <= x + width and y - GAP / 2 <= b <= y + LINE + GAP / 2 for a, b in taken)
    return hidden + OUTSIDE * (x < 0 or x + width > wide or y < 0)
