"""compare(before, after): two studies row by row, joined on what was recorded and simulated, whatever the version."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from skipsim.analysis.origins import origin_differences
from skipsim.analysis.results import configuration_of, overrides_of, read_results
from skipsim.analysis.summary import table as aligned
from skipsim.errors import InputError

METRICS = (
    "latency_ms",
    "dense_latency_ms",
    "speedup",
    "mac_reduction",
    "realised",
    "energy_uj",
    "dram_read_mb",
    "dram_write_mb",
    "area_mm2",
    "quality",
    "quality_drop",
)
POINTS = ("quality_drop",)  # columns whose change is a difference in their own unit, not a share
SHOWN_ROWS = 10
RELATIVE_TOLERANCE = 1e-9  # less is rounding


@dataclass(frozen=True)
class Comparison:
    """What two studies say about the same configurations.

    `rows` has one row per configuration of either: its columns, `state` ("same", "changed", "failed before",
    "failed after", "failed in both", "only before", "only after"), and for every metric NAME `NAME_before`,
    `NAME_after` and `NAME_change`: after / before - 1, or after - before for points.
    """

    before: str
    after: str
    keys: tuple[str, ...]
    rows: pd.DataFrame
    model_versions: tuple[tuple[int, ...], tuple[int, ...]]
    origins: tuple[str, ...]  # what the studies were made from that is not the same

    @property
    def states(self) -> dict[str, int]:
        """How many rows are in which state."""
        return {str(state): int(count) for state, count in self.rows["state"].value_counts().items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain data, for `--json`."""
        rows = self.rows.astype(object).where(self.rows.notna(), None)
        return {
            "before": self.before,
            "after": self.after,
            "model_versions": [list(versions) for versions in self.model_versions],
            "origins": list(self.origins),
            "states": self.states,
            "rows": rows.to_dict("records"),
        }

    def words(self) -> str:
        """Return what changed and by how much as text: the metrics, then the rows that changed most."""
        states = ", ".join(f"{count} {state}" for state, count in self.states.items())
        lines = [f"{self.before} -> {self.after}: {states}"]
        if self.model_versions[0] != self.model_versions[1]:
            versions = [", ".join(map(str, sorted(one))) for one in self.model_versions]
            lines.append(f"model version {versions[0]} -> {versions[1]}")
        if self.origins:
            lines += ["not made from the same:", *(f"  {line}" for line in self.origins)]
        changed = self.rows[self.rows["state"] == "changed"]
        if changed.empty:
            return "\n".join(lines)
        found: list[tuple[str, ...]] = [("metric", "rows", "smallest", "median", "largest")]
        for name in METRICS:
            change = changed[f"{name}_change"]
            moved = change[change.abs() > RELATIVE_TOLERANCE]
            if len(moved):
                shown = (_text(name, value) for value in (moved.min(), moved.median(), moved.max()))
                found.append((name, str(len(moved)), *shown))
        lines += ["", aligned(found, "lrrrr")]
        order = changed["latency_ms_change"].abs().fillna(0).sort_values(ascending=False, kind="stable").index
        several = [name for name in self.keys if changed[name].nunique(dropna=False) > 1] or ["hardware"]
        table: list[tuple[str, ...]] = [(*several, "latency_ms", "", "quality_drop", "")]
        for index in order[:SHOWN_ROWS]:
            row = changed.loc[index]
            cells = [f"{row[name]:g}" if isinstance(row[name], float) else str(row[name]) for name in several]
            for name in ("latency_ms", "quality_drop"):
                cells += [
                    f"{row[f'{name}_before']:.4g} -> {row[f'{name}_after']:.4g}",
                    _text(name, row[f"{name}_change"]),
                ]
            table.append(tuple(cells))
        lines += ["", aligned(table, "l" * len(several) + "rrrr")]
        if len(changed) > SHOWN_ROWS:
            lines.append(f"... and {len(changed) - SHOWN_ROWS} more: --json")
        return "\n".join(lines)


def compare(before: str | Path, after: str | Path) -> Comparison:
    """Compare two finished studies; an axis that only one of them has must have a single value there.

    Raises:
        InputError: a folder that is no finished study, studies that share no configuration, an axis of one only.
    """
    tables = [read_results(folder) for folder in (before, after)]
    shared = [name for name in overrides_of(tables[0]) if name in overrides_of(tables[1])]
    keys = [name for name in configuration_of(tables[0]) if name != "study" and name not in overrides_of(tables[0])]
    keys += shared
    for folder, table in zip((before, after), tables, strict=True):
        for name in overrides_of(table):
            if name not in shared and table[name].nunique(dropna=False) > 1:
                raise InputError(
                    f"compare: {folder} varies {name!r} and the other study does not: no row to hold it against"
                )
        if table.duplicated(keys).any():
            twice = table[table.duplicated(keys)].iloc[0]
            named = ", ".join(f"{name} = {twice[name]}" for name in ("network", "clip", "hardware", "tile"))
            raise InputError(f"compare: {folder} has several rows of one configuration ({named})")
    sides = [_comparable(table, keys) for table in tables]
    both = sides[0].merge(sides[1], on=keys, how="outer", suffixes=("_before", "_after"), indicator="side", sort=False)
    if not (both["side"] == "both").any():
        raise InputError(f"compare: {before} and {after} share no configuration")
    for name in METRICS:
        old, new = both[f"{name}_before"], both[f"{name}_after"]
        both[f"{name}_change"] = new - old if name in POINTS else _share(old, new)
    changes = both[[f"{name}_change" for name in METRICS]].abs()
    both.insert(len(keys), "state", np.select(*_states(both, (changes > RELATIVE_TOLERANCE).any(axis=1)), "same"))
    versions = [tuple(sorted({int(version) for version in table["model_version"]})) for table in tables]
    columns = [name for name in both if name not in ("side", "error_before", "error_after")]
    reasons = both[["error_before", "error_after"]].fillna("")
    return Comparison(
        str(before),
        str(after),
        tuple(keys),
        both[columns].join(reasons),
        (versions[0], versions[1]),
        tuple(origin_differences(Path(before), Path(after))),
    )


def _comparable(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    return table[[*keys, *METRICS, "error"]]


def _states(both: pd.DataFrame, changed: pd.Series[bool]) -> tuple[list[Any], list[str]]:
    """Return conditions and the state that each means, the first that holds."""
    bad = [both[f"error_{side}"].fillna("") != "" for side in ("before", "after")]
    states: dict[str, Any] = {
        "only before": both["side"] == "left_only",
        "only after": both["side"] == "right_only",
        "failed in both": bad[0] & bad[1],
        "failed before": bad[0],
        "failed after": bad[1],
        "changed": changed,
    }
    return list(states.values()), list(states)


def _share(old: pd.Series[float], new: pd.Series[float]) -> pd.Series[float]:
    """Return new / old - 1; 0 where both are 0."""
    change = new / old.where(old != 0) - 1
    return change.where(~((old == 0) & (new == 0)), 0.0)


def _text(name: str, change: float) -> str:
    return f"{change:+.2f}" if name in POINTS else f"{change:+.2%}"
