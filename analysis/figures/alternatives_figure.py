"""Gates beside what else makes a network cheaper, on the same axes: narrower networks, small pictures, held results."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from skipsim.analysis.figures.mark_names import HALO, NAME_SIZE, Place, marks_of, name_marks
from skipsim.analysis.figures.style import BAND, COLOURS, COLUMNS, GREY, INK, MARKERS, PAGE_INCHES, styled
from skipsim.analysis.figures.variants import metric_name, variants_of
from skipsim.analysis.loops import decisive_rows
from skipsim.analysis.pareto import pareto_front
from skipsim.analysis.results import groups_of, mean_over_clips
from skipsim.errors import InputError

POINTS_SHOWN = 10.0  # below the best dense network; what loses more is named at the foot of the panel
LEGEND_LETTERS = 135  # across the page, with what stands between names
ROOM_ABOVE, ROOM_BELOW = 0.8, 0.3  # points
ROOM_RIGHT = 1.25  # times the latest mark: names stand there
COMPARED = ("agreement", "agreement_ap")  # with each network's own output: no measure between networks

Key = tuple[str, str, str]  # network, gate, share
Looks = dict[Key, tuple[str, str, str]]  # of a network's gate: name, colour, marker


def has_alternatives(table: pd.DataFrame) -> bool:
    """Tell whether a table has several networks, sizes or weights that are scored alike."""
    metrics = set(table["quality_metric"][table["quality"].notna()])
    return table["network"].nunique() > 1 and len(metrics) == 1 and not metrics & set(COMPARED)


def alternatives_figure(table: pd.DataFrame, max_drop: float) -> Figure:
    """Draw accuracy over latency, all networks in one panel: a star for each dense one, a line for each of its gates.

    A line joins the rows that no other of the same gate beats, over blocks, tiles and thresholds. A row of panels per
    group of clips where the study names groups; a column per machine, the first COLUMNS of them.
    """
    if not has_alternatives(table):
        raise InputError("alternatives figure: needs several networks, sizes or weights, scored alike")
    table = decisive_rows(table[table["error"] == ""])
    groups = groups_of(table) or [""]
    gated = table[table["gate"] != "none"][["network", "gate", "share"]].drop_duplicates()
    keys: list[Key] = list(gated.itertuples(index=False, name=None))
    names = [
        (f"{network}, " if gated["network"].nunique() > 1 else "") + gate + (f", one per {share}" if share else "")
        for network, gate, share in keys
    ]
    looks: Looks = dict(zip(keys, zip(names, cycle(COLOURS), cycle(MARKERS), strict=False), strict=True))
    with styled():
        parts = [
            variants_of(mean_over_clips(table[table["group"] == group] if group else table), apart=("hardware",))
            for group in groups
        ]
        across = min(COLUMNS, max(map(len, parts)))
        figure = Figure(figsize=(PAGE_INCHES, 2.0 * len(groups) + 0.7), layout="constrained")
        grid = figure.subplots(len(groups), across, squeeze=False, sharex="col", sharey="row")
        stars: dict[Axes, dict[str, Place]] = {}
        for group, variants, axes in zip(groups, parts, grid, strict=True):
            for axis, variant in zip(axes, variants[:across], strict=True):
                stars[axis] = _panel(axis, variant.rows, looks, max_drop)
                axis.set_title(variant.title if axis in grid[0] else "")
                axis.set_xlabel("latency [ms per frame]" if axis in grid[-1] else "")
            metric = metric_name(table)
            axes[0].set_ylabel(f"{group} clips\n{metric} [%]" if group else f"{metric} [%]")
        for column in grid.T:
            ends = [x for axis in column for x, _ in marks_of(axis)]
            column[0].set_xlim(0, ROOM_RIGHT * max(ends))
        handles = [
            Line2D([], [], color=colour, marker=marker, markersize=4, label=name)
            for name, colour, marker in looks.values()
        ]
        dense = Line2D([], [], color=INK, marker="*", markersize=8, linestyle="", label="dense, by name")
        near = Patch(color=BAND, label=f"\u2264 {max_drop:g} lost")
        longest = max(len(str(handle.get_label())) for handle in [*handles, dense, near])
        columns = max(1, min(4, LEGEND_LETTERS // (longest + 6)))
        figure.legend(handles=[*handles, dense, near], loc="outside lower center", ncols=columns)
        figure.draw_without_rendering()  # lays the panels out
        for axis, named in stars.items():
            name_marks(axis, named)
        return figure


def _labels(networks: Sequence[str]) -> dict[str, str]:
    """Return what to write beside each network: of its words only those that tell it from the others."""
    words = {name: name.split(" ") for name in networks}

    def short(name: str) -> str:
        own = words[name]
        alike = [other for other in networks if words[other][0] == own[0]]
        if len(alike) == 1 or len(own) == 1:
            return name
        seconds = [words[other][1:2] for other in alike]
        return own[1] if seconds.count(own[1:2]) == 1 else " ".join(own[1:])

    shorter = {name: short(name) for name in networks}
    written = list(shorter.values())
    return {name: text if written.count(text) == 1 else name for name, text in shorter.items()}


def _panel(axis: Axes, rows: pd.DataFrame, looks: Looks, max_drop: float) -> dict[str, Place]:
    """Draw all but the names of the stars; return where these are."""
    below, stars = [], {}
    dense = rows.drop_duplicates("network")
    labels = _labels(list(dense["network"]))
    best = 100 * dense["dense_quality"].max()
    axis.axhspan(best - max_drop, best, color=BAND, zorder=0)
    floor, top = best - POINTS_SHOWN, best
    for _, row in dense.iterrows():
        quality = 100 * row["dense_quality"]
        if quality < floor:
            below.append(labels[row["network"]])
            continue
        axis.plot(row["dense_latency_ms"], quality, "*", color=INK, markersize=8, zorder=5, clip_on=False)
        stars[labels[row["network"]]] = float(row["dense_latency_ms"]), quality
    for (network, gate, share), (name, colour, marker) in looks.items():
        own = rows[(rows["network"] == network) & (rows["gate"] == gate) & (rows["share"] == share)]
        front = own[pareto_front(own, minimise=["latency_ms"], maximise=["quality"])].sort_values("latency_ms")
        shown = front[100 * front["quality"] >= floor]
        if shown.empty:
            below += [name] * bool(len(own))
            continue
        places = shown["latency_ms"], 100 * shown["quality"]
        axis.step(*places, where="post", color=colour, linewidth=0.9, zorder=2)
        axis.plot(*places, marker, color=colour, markersize=4, zorder=3, clip_on=False)
        top = max(top, 100 * float(shown["quality"].max()))
    axis.set_ylim(floor - ROOM_BELOW, min(top + ROOM_ABOVE, 100.2))
    if below:
        axis.annotate(
            "\u2193 " + "; ".join(below), (0.02, 0.02), xycoords="axes fraction", fontsize=NAME_SIZE, color=GREY,
            path_effects=HALO, zorder=6,
        )  # fmt: skip
    return stars
