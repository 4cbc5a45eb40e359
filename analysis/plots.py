"""The figures of a study: every function returns a matplotlib Figure, `draw_all` writes them all into its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from skipsim.analysis.advice.budget import MAX_DROP_POINTS
from skipsim.analysis.advice.decision import Decision, decide_all
from skipsim.analysis.causes import CAUSE_GROUPS, group_shares
from skipsim.analysis.figures.alternatives_figure import alternatives_figure, has_alternatives
from skipsim.analysis.figures.gates_figure import gates_figure
from skipsim.analysis.figures.loop_figure import loop_figure
from skipsim.analysis.figures.mask_figures import mask_figures
from skipsim.analysis.figures.run_figures import run_figures
from skipsim.analysis.figures.style import BAND, COLOURS, GREY, GROUP_COLOURS, INK, MARKERS, panels, save, styled
from skipsim.analysis.figures.variants import (
    Variant,
    blocks_of,
    gate_name,
    metric_name,
    short,
    tile_name,
    tiles_of,
    variants_of,
)
from skipsim.analysis.loops import decisive_rows
from skipsim.analysis.pareto import pareto_front
from skipsim.analysis.results import gated_rows, groups_of, mean_over_clips, read_results
from skipsim.errors import InputError

MOST_POINTS_LOST = 10.0  # of accuracy; greedier gates would squeeze the rest of the figure together
LEGEND_COLUMNS = 6
DOTTED = (0, (1, 2))
SOFT = "#666666"
MOST_GATES = 9


def latency_accuracy(table: pd.DataFrame, max_drop: float = MAX_DROP_POINTS) -> Figure:
    """Draw accuracy over latency: colour = block, marker = tile, the dense schedule, and the Pareto line over both.

    Open loop is hollow and, where there is a closed one, not on the line: its accuracy is that of a finer recording.
    """
    table = mean_over_clips(table)
    table = table[table["quality"].notna()]
    if table.empty:
        raise InputError("latency-accuracy figure: no row of the table has an accuracy")
    blocks, tiles = blocks_of(table), tiles_of(table)
    with styled():
        variants = variants_of(table)
        figure, axes = panels(len(variants), height=2.35)
        for axis, variant in zip(axes, variants, strict=True):
            _accuracy_panel(axis, variant, blocks, tiles, max_drop)
        _label_left(axes, f"{metric_name(table)} [%]")
        dense = Line2D([], [], color=INK, marker="*", markersize=9, linestyle="", label="dense")
        front = Line2D([], [], color=INK, linewidth=1.0, label="Pareto line")
        near = Patch(color=BAND, label=f"\u2264 {max_drop:g} {_points(max_drop)} lost")
        lower = int((table["quality_drop"] > MOST_POINTS_LOST).sum())
        note = f"below the panels: {lower} of {len(table)} configurations, more than {MOST_POINTS_LOST:g} points lost"
        others = [dense, front, _pale("dominated"), near, *_hollow(table)]
        _legend(figure, blocks, tiles, others, note * bool(lower))
        return figure


def _accuracy_panel(
    axis: Axes, variant: Variant, blocks: dict[str, str], tiles: dict[str, str], max_drop: float
) -> None:
    rows = variant.rows
    dense = rows.iloc[0]
    dense_quality = 100 * dense["dense_quality"]
    axis.axhspan(dense_quality - max_drop, dense_quality, color=BAND, zorder=0)
    closed = decisive_rows(rows)
    points = pd.concat([closed[["latency_ms", "quality"]], _dense_point(dense)], ignore_index=True)
    on_front = pareto_front(points, minimise=["latency_ms"], maximise=["quality"])
    front = points[on_front].sort_values("latency_ms")
    axis.step(front["latency_ms"], 100 * front["quality"], where="post", color=INK, linewidth=1.0, zorder=2)
    strong = rows.index.isin(closed.index[on_front[: len(closed)]])
    _scatter(axis, rows, "latency_ms", 100 * rows["quality"], strong, blocks, tiles)
    axis.plot(dense["dense_latency_ms"], dense_quality, "*", color=INK, markersize=9, zorder=5)
    axis.set_title(variant.title)
    axis.set_xlabel("latency [ms per frame]")
    shown = rows[rows["quality_drop"] <= MOST_POINTS_LOST]["quality"]
    low, high = 100 * min(shown.min(), dense["dense_quality"]), 100 * max(shown.max(), dense["dense_quality"])
    room = max(0.5, 0.06 * (high - low))
    axis.set_ylim(low - room, high + room)
    top = min(high + room, 100 + 1e-9)  # a score is at most 100 %
    axis.set_yticks([tick for tick in axis.get_yticks() if low - room <= tick <= top])


def _dense_point(row: pd.Series[Any]) -> pd.DataFrame:
    return pd.DataFrame({"latency_ms": [row["dense_latency_ms"]], "quality": [row["dense_quality"]]})


def speedup_mac_reduction(table: pd.DataFrame) -> Figure:
    """Draw the predicted speed-up over the MAC reduction, with lines where 100, 50 and 25 % of it are realised."""
    table = mean_over_clips(table)
    if table.empty:
        raise InputError("speed-up figure: the table has no row without an error")
    blocks, tiles = blocks_of(table), tiles_of(table)
    with styled():
        variants = variants_of(table)
        figure, axes = panels(len(variants), height=2.35)
        right = 1.06 * float(table["mac_reduction"].max())
        top = 1.12 * max(1.0, float(table["speedup"].max()))
        for axis, variant in zip(axes, variants, strict=True):
            axis.axhline(1, color=INK, linewidth=0.8, linestyle=DOTTED, zorder=1)
            axis.set_xlim(0, right)
            axis.set_ylim(0, top)
            for share in (1.0, 0.5, 0.25):
                _realised_line(axis, share, right, top)
            rows = variant.rows
            fastest = (rows["speedup"] >= 1).to_numpy()
            _scatter(axis, rows, "mac_reduction", rows["speedup"], fastest, blocks, tiles)
            axis.set_title(variant.title)
            axis.set_xlabel("MAC reduction, gates included [x]")
        _label_left(axes, "predicted speed-up [x]")
        even = Line2D([], [], color=INK, linewidth=0.8, linestyle=DOTTED, label="dense")
        realised = Line2D([], [], color=GREY, linewidth=0.8, linestyle="--", label="realised")
        _legend(figure, blocks, tiles, [even, realised, _pale("slower"), *_hollow(table)])
        return figure


def _realised_line(axis: Axes, realised: float, right: float, top: float) -> None:
    """Draw speed-up = realised x MAC reduction up to the frame of the panel, with its name at the end."""
    end = min(right, top / realised)
    axis.plot([0, end], [0, realised * end], color=GREY, linewidth=0.8, linestyle="--", zorder=1)
    at_top = end < right
    axis.annotate(
        f"{realised:.0%}",
        (end, realised * end),
        xytext=(-6, 0) if at_top else (2, 0),
        textcoords="offset points",
        ha="right" if at_top else "left",
        va="top" if at_top else "center",
        fontsize=6.5,
        color=SOFT,
    )


def cycles_by_cause(table: pd.DataFrame, max_drop: float = MAX_DROP_POINTS) -> Figure:
    """Draw where the cycles go, stacked by cause over the block size, beside the dense schedule (100).

    Every block is shown with the tile and threshold that are fastest within `max_drop` points of the dense accuracy;
    where none is within, with those that lose least, and its name is marked by a star. Open loop is shown only where
    there is no closed one.
    """
    table = mean_over_clips(decisive_rows(table))
    if table.empty:
        raise InputError("cycles figure: the table has no row without an error")
    with styled():
        variants = variants_of(table)
        blocks = list(blocks_of(table))
        figure, axes = panels(len(variants), height=2.6)
        starred = False
        for axis, variant in zip(axes, variants, strict=True):
            chosen = [best_of_block(variant.rows[variant.rows["block"] == block], max_drop) for block in blocks]
            starred |= any(row is not None and _lost(row) > max_drop for row in chosen)
            _cause_panel(axis, variant, blocks, chosen, max_drop)
        _label_left(axes, "cycles [% of dense]")
        handles: list[Any] = [_group_patch(name) for name in CAUSE_GROUPS]
        handles.append(
            Line2D(
                [],
                [],
                color=INK,
                marker="_",
                markersize=11,
                markeredgewidth=1.6,
                linestyle="",
                label="if time followed the MACs",
            )
        )
        highest = max(axis.dataLim.y1 for axis in axes)
        for axis in axes:
            axis.set_ylim(0, 1.1 * highest)
        title = "each block with its fastest tile (above the bar) and threshold"
        title += f" within {max_drop:g} {_points(max_drop)}" * bool(table["quality_drop"].notna().any())
        title += "; *: none is, the one that loses least" * starred
        figure.legend(handles=handles, loc="outside lower center", ncols=5, title=title, columnspacing=1.2)
        return figure


def best_of_block(rows: pd.DataFrame, max_drop: float) -> pd.Series[Any] | None:
    """Return the fastest row within the drop, else the one that loses least; None without rows."""
    if rows.empty:
        return None
    allowed = rows[~(rows["quality_drop"] > max_drop)]
    if allowed.empty:
        return rows.sort_values(["quality_drop", "latency_ms"], kind="stable").iloc[0]
    return allowed.sort_values("latency_ms", kind="stable").iloc[0]


def _lost(row: pd.Series[Any]) -> float:
    return 0.0 if pd.isna(row["quality_drop"]) else float(row["quality_drop"])


def _cause_panel(
    axis: Axes, variant: Variant, blocks: Sequence[str], chosen: Sequence[pd.Series[Any] | None], max_drop: float
) -> None:
    first = variant.rows.iloc[0]
    _stack(axis, 0, {name: 100 * share for name, share in group_shares(first.to_dict(), dense=True).items()})
    names = ["dense"]
    for place, (block, row) in enumerate(zip(blocks, chosen, strict=True), start=1):
        names.append(short(block))
        if row is None:
            continue
        height = 100 * row["latency_ms"] / row["dense_latency_ms"]
        _stack(axis, place, {name: height * share for name, share in group_shares(row.to_dict()).items()})
        axis.plot(place, 100 / row["mac_reduction"], "_", color=INK, markersize=13, markeredgewidth=1.6, zorder=4)
        names[-1] += "*" * (_lost(row) > max_drop)
        axis.text(place, height + 1.5, short(row["chosen_tile"]), ha="center", va="bottom", fontsize=6.5, color=INK)
    axis.set_xticks(range(len(names)), names)
    axis.grid(axis="x", visible=False)
    axis.set_title(variant.title)
    axis.set_xlabel("block [output pixels]")


def _stack(axis: Axes, place: int, heights: dict[str, float]) -> None:
    bottom = 0.0
    for name, height in heights.items():
        axis.bar(place, height, 0.78, bottom, color=GROUP_COLOURS[name], edgecolor="white", linewidth=0.3, zorder=3)
        bottom += height


def _group_patch(name: str) -> Patch:
    return Patch(facecolor=GROUP_COLOURS[name], label=name)


def density_by_block(table: pd.DataFrame) -> Figure:
    """Draw the share of the dense MACs that gates ask for and that tiles compute, over the block size.

    Open loop is shown only where there is no closed one.
    """
    table = mean_over_clips(decisive_rows(table))
    if table.empty:
        raise InputError("density figure: the table has no row without an error")
    with styled():
        first = variants_of(table)[0].rows  # densities do not depend on the machine
        fixed = first[first["tile"] != "auto"]
        rows = fixed if len(fixed) else first
        blocks, tiles = list(blocks_of(rows)), list(tiles_of(rows))
        names = _spread(_gate_names(rows), MOST_GATES)
        figure, axes = panels(len(names), height=1.9)
        for axis, name in zip(axes, names, strict=True):
            own = rows[rows.apply(gate_name, axis=1) == name]
            asked = own.groupby("block")["density"].mean()
            places = [place for place, block in enumerate(blocks) if block in asked]
            values = [100 * asked[blocks[place]] for place in places]
            axis.plot(places, values, color=INK, marker="o", markersize=4, zorder=4)
            for colour, marker, tile in zip(COLOURS, MARKERS[1:], tiles, strict=False):
                computed = own[own["tile"] == tile].groupby("block")["effective_density"].mean()
                seen = [place for place in places if blocks[place] in computed]
                shares = [100 * computed[blocks[place]] for place in seen]
                axis.plot(seen, shares, color=colour, marker=marker, markersize=3.5, linewidth=1.0, zorder=3)
            axis.set_xticks(range(len(blocks)), [short(block) for block in blocks])
            axis.set_xlim(-0.2, len(blocks) - 0.8)
            axis.set_ylim(0, 103)
            axis.set_xlabel("block [output pixels]")
            axis.set_title(name)
        _label_left(axes, "share of dense MACs [%]")
        handles = [Line2D([], [], color=INK, marker="o", markersize=4, label="asked for by gates")]
        handles += [
            Line2D([], [], color=colour, marker=marker, markersize=3.5, label=f"computed: {tile_name(tile)}")
            for colour, marker, tile in zip(COLOURS, MARKERS[1:], tiles, strict=False)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=5, columnspacing=1.1, handlelength=1.7)
        return figure


def draw_all(
    directory: str | Path,
    decisions: Mapping[tuple[str, str], Decision] | None = None,
    max_drop: float = MAX_DROP_POINTS,
) -> list[Path]:
    """Draw every figure that a finished study has data for into `figures` in its folder; return the files written.

    `decisions`, by network and machine: whose layers, roofline and sensitivities are drawn; None: found here.
    """
    directory = Path(directory)
    table = read_results(directory)
    if (table["error"] != "").all():
        raise InputError(
            f"results folder {directory}: all {len(table)} rows failed, the first: {table['error'].iloc[0]}"
        )
    gated = gated_rows(table)
    figures = {
        "speedup-mac-reduction": speedup_mac_reduction(gated),
        "cycles-by-cause": cycles_by_cause(gated, max_drop),
        "density-by-block": density_by_block(gated),
        **mask_figures(directory, table, max_drop),
    }
    if {"open", "closed"} <= set(table["loop"]):
        figures["open-and-closed-loop"] = loop_figure(table)
    if decisions is None:
        decisions = decide_all(directory, table, max_drop, by_layer=False)
    figures |= run_figures(decisions)
    if has_alternatives(table):
        figures = {"alternatives": alternatives_figure(table, max_drop), **figures}
    if gated["quality"].notna().any():
        if groups_of(gated) or gated["gate"].nunique() > 1:
            figures = {"gates": gates_figure(gated, max_drop), **figures}
        figures = {"latency-accuracy": latency_accuracy(gated, max_drop), **figures}
    folder = directory / "figures"
    folder.mkdir(exist_ok=True)
    return [path for name, figure in figures.items() for path in save(figure, folder, name)]


def _scatter(
    axis: Axes,
    rows: pd.DataFrame,
    x: str,
    y: pd.Series[float],
    strong: NDArray[np.bool_],
    blocks: dict[str, str],
    tiles: dict[str, str],
) -> None:
    """Draw the rows as points, the weak ones pale and behind, open loop hollow."""
    hollow = (rows["loop"] == "open").to_numpy()
    for block, colour in blocks.items():
        for tile, marker in tiles.items():
            own = ((rows["block"] == block) & (rows["tile"] == tile)).to_numpy()
            for chosen, alpha, order in ((own & ~strong, 0.35, 2.5), (own & strong, 1.0, 4.0)):
                solid, outlined = chosen & ~hollow, chosen & hollow
                look: dict[str, Any] = {"s": 15, "marker": marker, "alpha": alpha, "zorder": order}
                axis.scatter(rows[x][solid], y[solid], c=colour, linewidths=0, **look)
                axis.scatter(
                    rows[x][outlined], y[outlined], facecolors="none", edgecolors=colour, linewidths=0.7, **look
                )


def _legend(
    figure: Figure, blocks: dict[str, str], tiles: dict[str, str], others: Sequence[Any], note: str = ""
) -> None:
    """Explain colours, markers and lines below the panels, a row of each."""
    rows: list[list[Any]] = [
        [Patch(color=colour, label=f"block {short(block)}") for block, colour in blocks.items()],
        [
            Line2D([], [], color="#555555", marker=marker, markersize=4, linestyle="", label=tile_name(tile))
            for tile, marker in tiles.items()
        ],
        list(others),
    ]
    rows = [row[start : start + LEGEND_COLUMNS] for row in rows for start in range(0, len(row), LEGEND_COLUMNS)]
    width = max(map(len, rows))
    blank = Line2D([], [], linestyle="", label=" ")
    columns = [[row[place] if place < len(row) else blank for row in rows] for place in range(width)]
    handles = [handle for column in columns for handle in column]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=width,
        columnspacing=1.4,
        handletextpad=0.5,
        title=note or None,
    )


def _label_left(axes: Sequence[Axes], label: str) -> None:
    for axis in axes:
        place = axis.get_subplotspec()
        if place is not None and place.is_first_col():
            axis.set_ylabel(label)


def _pale(label: str) -> Line2D:
    return Line2D([], [], color="#555555", marker="o", markersize=4, linestyle="", alpha=0.35, label=label)


def _hollow(table: pd.DataFrame) -> list[Line2D]:
    """Explain hollow points, where there are any."""
    if not (table["loop"] == "open").any():
        return []
    look: dict[str, Any] = {"color": "#555555", "marker": "o", "markersize": 4, "markerfacecolor": "none"}
    return [Line2D([], [], linestyle="", label="open loop", **look)]


def _points(count: float) -> str:
    return "point" if count == 1 else "points"


def _gate_names(rows: pd.DataFrame) -> list[str]:
    """Return the gates of a table by name, those with a threshold by rising threshold first."""
    ordered = rows.sort_values("threshold", kind="stable", na_position="last")
    return list(dict.fromkeys(ordered.apply(gate_name, axis=1)))


def _spread(values: Sequence[str], count: int) -> list[str]:
    """Return at most `count` of the values, evenly spread from the first to the last."""
    if len(values) <= count:
        return list(values)
    return [values[round(place * (len(values) - 1) / (count - 1))] for place in range(count)]
