"""The table and the figure of `skipsim.analysis.accuracy`: what each way of gating saves and loses on the test clips.

python -m skipsim.analysis.accuracy_report docs/accuracy.csv --figure docs/accuracy.png
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from skipsim.analysis.accuracy import read_rows
from skipsim.analysis.accuracy_points import AIM, AS_TRAINED, CAMERAS, POINTS_ALLOWED, SMALLER
from skipsim.analysis.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MARKERS,
    ORANGE,
    PALE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    panels,
    save,
    styled,
)

COLOURS = {
    "input-norm, by layer": GREEN,
    "input-norm": BLUE,
    "output-norm": SKY,
    "Gumbel": VERMILION,
    "Gumbel, as trained": "#7A2800",  # darker than VERMILION
    "Gumbel, signed change": PALE,
    "Gumbel, frames": PALE,
    "input-norm, one gate per block": YELLOW,
    "input-norm, one gate per network": PURPLE,
    "hold": GREY,
    "resolution": ORANGE,
    "resolution, trained": "#8C6200",  # darker than ORANGE
    "narrow": "#6B4C9A",
}
NAMES = {
    "tuned": "input-norm, by layer",
    "input_norm": "input-norm",
    "output_norm": "output-norm",
    "gumbel": "Gumbel",
    AS_TRAINED: "Gumbel, as trained",
    "gumbel_residual": "Gumbel, signed change",
    "gumbel_frame": "Gumbel, frames",
    "resolution_trained": "resolution, trained",
}
MOST_POINTS_SHOWN, LEAST_POINTS_SHOWN = 6.0, -1.0
BAND = "#F2F2F2"
CAMERA_TITLES = {"static": "static camera", "pan": "panning camera"}
FORM = ["update", "reset_every"]
INTERVAL = ["drop_low", "drop_high"]
SCORED = ("many", "fresh", "test")  # splits that are scored, the better first


def scored_rows(path: Path) -> pd.DataFrame:
    """Return the rows on test clips, the best that all seeds of a way have, with the name of the way in `way`."""
    table = pd.DataFrame(read_rows(path))
    numbers = ["seed", "block", "reset_every", "drop_points", "mac_reduction", "gated_mac_reduction"]
    table[numbers] = table[numbers].apply(pd.to_numeric)
    table = table.reindex(columns=[*table.columns, *(end for end in INTERVAL if end not in table)])
    table[["threshold", *INTERVAL]] = table[["threshold", *INTERVAL]].apply(pd.to_numeric)
    table = table[table["split"].isin(SCORED)].copy()
    table["detail"] = table["threshold"].where(table["method"].isin(SMALLER), 0.0)
    place = ["task", "method", "block", "share", "camera", "detail", *FORM]
    table["seeds"] = table.groupby([*place, "split"])["seed"].transform("nunique")
    table = table[table["seeds"] == table.groupby(place)["seeds"].transform("max")].drop(columns="seeds")
    table["rank"] = table["split"].map(SCORED.index)
    table = table[table["rank"] == table.groupby(place)["rank"].transform("min")].drop(columns="rank")
    table["clips"] = table["clips"].astype(str) + table["split"].map(lambda split: "" if split == "test" else " fresh")
    shared = table["share"].map({"layer": "", "block": ", one gate per block", "network": ", one gate per network"})
    table["way"] = table["method"].replace(NAMES) + shared
    return table


def describe(table: pd.DataFrame, task: str) -> str:
    """Return a task's test rows as a Markdown table: a line per way of gating: mean of seeds (extremes) [interval]."""
    rows = table[table["task"] == task]
    rows = rows.sort_values(["block", *FORM, "detail"], kind="stable")
    rows = rows.sort_values("way", key=lambda ways: ways.map(list(COLOURS).index), kind="stable")
    lines = [
        "| gate or trick | block | update, reset | seeds | test clips | " + " | ".join(_heads()) + " |",
        "|---|---|---|---|---|" + "---|" * len(_heads()),
    ]
    keys = ["way", "block", *FORM]
    for (way, block, update, reset, detail), group in rows.groupby([*keys, "detail"], sort=False):
        sized = group["method"].isin(SMALLER).all()
        gated = not sized and way != "narrow"
        form = "" if not gated else f"{update}, {reset or 'none'}" if way != "hold" else f"1 of {reset} frames"
        cells = [f"{way} {detail:g}" if sized else str(way)]
        cells += [str(block) if gated and way != "hold" else "", form, str(group["seed"].nunique())]
        cells.append(_clips(group))
        for camera in CAMERAS:
            seen = group[group["camera"] == camera]
            cells += [_spread(seen["mac_reduction"], "x"), _spread(seen["drop_points"], "") + _interval(seen)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _heads() -> list[str]:
    return [f"{camera}: {what}" for camera in CAMERAS for what in ("fewer MACs", "points lost")]


def _clips(rows: pd.DataFrame) -> str:
    """Return on which clips rows were scored, by camera where that differs."""
    found = {camera: ", ".join(part["clips"].drop_duplicates()) for camera, part in rows.groupby("camera")}
    one, *others = dict.fromkeys(found.values())
    return "; ".join(f"{camera} {found[camera]}" for camera in CAMERAS if camera in found) if others else one


def _spread(values: pd.Series, unit: str) -> str:
    if values.empty:
        return ""
    mean = f"{values.mean():.2f}{unit}"
    return mean if len(values) == 1 else f"{mean} ({values.min():.2f} to {values.max():.2f})"


def _interval(rows: pd.DataFrame) -> str:
    """Return the interval of the loss over samples of the clips; of several seeds, from least to greatest end."""
    return f" [{rows['drop_low'].min():.2f} to {rows['drop_high'].max():.2f}]" if rows["drop_low"].notna().any() else ""


def figure(table: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """Draw points lost over MAC reduction, a panel per task and camera, with 95 % intervals of the loss."""
    plain = table[(table["update"] == "recompute") & ((table["reset_every"] == 0) | (table["method"] == "hold"))]
    plain = plain[plain["detail"] != 1]  # whole pictures: nothing saved
    blocks = sorted(plain["block"].unique())
    markers = dict(zip(blocks, MARKERS, strict=False))
    with styled():
        seen = set(zip(plain["task"], plain["camera"], strict=True))
        places = [(task, camera) for task in tasks for camera in CAMERAS if (task, camera) in seen]
        drawn, axes = panels(len(places), height=2.6)
        for axis, (task, camera) in zip(axes, places, strict=True):
            axis.set_title(f"{task}, {CAMERA_TITLES[camera]}")
            _draw(axis, plain[(plain["task"] == task) & (plain["camera"] == camera)], markers)
        ways = [way for way in COLOURS if way in set(plain["way"])]
        handles = [Line2D([], [], color=COLOURS[way], marker="o", linestyle="", label=way) for way in ways]
        handles += [Line2D([], [], color=INK, marker=markers[b], linestyle="", label=f"block {b}") for b in blocks]
        drawn.legend(handles=[*handles, *_other_keys()], loc="outside lower center", ncols=4)
    return drawn


def _other_keys() -> list[Artist]:
    beyond = f"more than {MOST_POINTS_SHOWN:g} points lost"
    return [
        Line2D([], [], color=GREY, marker="o", markerfacecolor="white", linestyle="", label=beyond),
        Patch(color=BAND, label=f"\u2264 {POINTS_ALLOWED:g} points lost"),
        Line2D([], [], color=GREY, linewidth=0.7, linestyle=":", label=f"{AIM:g}x: the aim"),
        Line2D([], [], color=GREY, marker="|", markersize=9, linestyle="", label="95 % interval"),
    ]


def _draw(axis: Axes, rows: pd.DataFrame, markers: dict[int, str]) -> None:
    axis.axhspan(LEAST_POINTS_SHOWN, POINTS_ALLOWED, color=BAND, zorder=0)
    axis.axvline(AIM, color=GREY, linewidth=0.7, linestyle=":")
    for _, row in rows.iterrows():
        lost = min(row["drop_points"], MOST_POINTS_SHOWN)
        filled = row["drop_points"] <= MOST_POINTS_SHOWN
        colour = COLOURS[row["way"]]
        ends = (min(row["drop_low"], MOST_POINTS_SHOWN), min(row["drop_high"], MOST_POINTS_SHOWN))  # nan: not drawn
        axis.vlines(row["mac_reduction"], *ends, color=colour, linewidth=0.9)
        axis.plot(
            row["mac_reduction"], lost, markers[row["block"]], color=colour, markersize=5,
            markerfacecolor=colour if filled else "white", clip_on=False,
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_xticks([1, 1.5, 2, 3, 4, 6], labels=["1x", "1.5x", "2x", "3x", "4x", "6x"])
    axis.minorticks_off()
    axis.set_xlim(0.9, 7)
    axis.set_ylim(MOST_POINTS_SHOWN, LEAST_POINTS_SHOWN)
    axis.set_xlabel("fewer MACs, gates included")
    axis.set_ylabel("points lost")


@click.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--figure", "file", type=click.Path(path_type=Path), help="Draw the figure: FILE.pdf and FILE.png.")
def main(path: Path, file: Path | None) -> None:
    """Print the tables of an experiment, and draw its figure."""
    table = scored_rows(path)
    tasks = list(dict.fromkeys(table["task"]))
    for task in tasks:
        click.echo(f"{task}\n\n{describe(table, task)}\n")
    if file:
        save(figure(table, tasks), file.parent, file.stem)


if __name__ == "__main__":
    main()
