"""What a figure of a study is made of: panels by network and machine, colours by block, markers by tile."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from skipsim.analysis.figures.style import COLOURS, MARKERS
from skipsim.analysis.results import overrides_of

MOST_PANELS = 12
TITLE_LETTERS = 28  # that fit above a panel


@dataclass(frozen=True)
class Variant:
    """One network on one machine, or one machine, with one set of overridden keys: a panel of its own."""

    title: str
    rows: pd.DataFrame


def variants_of(table: pd.DataFrame, apart: Sequence[str] = ("network", "hardware")) -> list[Variant]:
    """Return the panels of a table in its order, the first MOST_PANELS of them; each has at least one row.

    Rows that differ in one of the columns `apart`, or in an overridden key, are in different panels.
    """
    keys = [*apart, *overrides_of(table)]
    several = [key for key in keys if key == "hardware" or table[key].nunique() > 1]
    variants = []
    for values, rows in table.groupby(keys, sort=False, dropna=False):
        named = dict(zip(keys, values, strict=True))
        lines = [str(named[key]) if key in ("network", "hardware") else f"{key} = {named[key]}" for key in several]
        if several[:2] == ["network", "hardware"] and len(", ".join(lines[:2])) <= TITLE_LETTERS:
            lines[:2] = [", ".join(lines[:2])]
        variants.append(Variant("\n".join(lines), rows))
    return variants[:MOST_PANELS]


def blocks_of(table: pd.DataFrame) -> dict[str, str]:
    """Return the colour of every block size, small blocks first."""
    return _coded(table["block"], COLOURS)


def tiles_of(table: pd.DataFrame) -> dict[str, str]:
    """Return the marker of every tile size, small tiles first, then "full" and "auto"."""
    return _coded(table["tile"], MARKERS)


def metric_name(table: pd.DataFrame) -> str:
    """Return the metrics of a table as an axis names them."""
    names = sorted(set(table["quality_metric"]) - {""})
    return " / ".join(re.sub("^ap", "AP", name).replace("pck", "PCK") for name in names) or "accuracy"


def short(size: str) -> str:
    """Write a square size as one number: "4x4" is "4"."""
    rows, _, cols = size.partition("x")
    return rows if rows == cols else size


def tile_name(tile: str) -> str:
    """Name a tile in a legend."""
    return {"auto": "best tile", "full": "whole map"}.get(tile, f"tile {short(tile)}")


def gate_name(row: Mapping[str, Any]) -> str:
    """Name a row's gate: with its threshold, where it has one for all layers."""
    threshold = row["threshold"]
    return str(row["gate"]) if pd.isna(threshold) else f"{row['gate']} {threshold:g}"


def _coded(names: pd.Series, codes: tuple[str, ...]) -> dict[str, str]:
    ordered = sorted(set(names), key=_area)
    return {name: codes[place % len(codes)] for place, name in enumerate(ordered)}


def _area(size: str) -> tuple[int, int, str]:
    match = re.fullmatch(r"(\d+)x(\d+)", size)
    if match:
        return 0, int(match[1]) * int(match[2]), size
    return 1, 0, {"full": "a", "auto": "b"}.get(size, size)
