"""The runs of a page: rows of the table as panels by network and machine, and which of them are shown in full."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from skipsim.analysis.causes import group_shares
from skipsim.analysis.loops import decisive_rows
from skipsim.analysis.pareto import pareto_front
from skipsim.analysis.results import RECORDING_COLUMNS, SIMULATION_COLUMNS, mean_over_clips, overrides_of
from skipsim.errors import InputError

MOST_POINTS = 3000  # of a panel; a scatter of more says no more
MOST_ON_FRONT = 12  # that are shown in full; of more, evenly spread ones
NUMBERS = (
    "threshold", "quality", "dense_quality", "quality_drop", "latency_ms", "dense_latency_ms", "speedup",
    "mac_reduction", "realised", "energy_uj", "dense_energy_uj", "area_mm2", "density", "effective_density",
    "dram_read_mb", "dram_write_mb",
)  # fmt: skip
TEXTS = ("block", "tile", "chosen_tile", "gate", "update", "loop", "clip")


@dataclass(frozen=True)
class Run:
    """One configuration: its row, averaged over clips, and the rows that it is the mean of."""

    row: dict[str, Any]
    clips: pd.DataFrame
    on_front: bool

    @property
    def tile(self) -> str:
        """The tile that ran: what "auto" found, in the first clip."""
        return str(self.clips.iloc[0]["chosen_tile"] if self.row["tile"] == "auto" else self.row["tile"])


@dataclass(frozen=True)
class Panel:
    """All runs of one network on one machine."""

    network: str
    hardware: str
    runs: tuple[Run, ...]
    overrides: tuple[str, ...]
    left_out: int
    failed: int


def panels_of(table: pd.DataFrame) -> list[Panel]:
    """Return the panels of a results table, in its order; a panel without a row that ran is none."""
    panels = []
    for (network, hardware), rows in table.groupby(["network", "hardware"], sort=False):
        means = mean_over_clips(rows)
        if len(means):
            panels.append(_panel(str(network), str(hardware), rows, means))
    if not panels:
        first = f", the first: {table['error'].iloc[0]}" if len(table) else ""
        raise InputError(f"report: all {len(table)} rows of the study failed{first}")
    return panels


def _panel(network: str, hardware: str, rows: pd.DataFrame, means: pd.DataFrame) -> Panel:
    overrides = overrides_of(rows)
    good = "quality" if means["quality"].notna().any() else "speedup"
    costs = ["latency_ms", *(["energy_uj"] if good == "speedup" and means["energy_uj"].notna().any() else [])]
    closed = decisive_rows(means)
    front = means.index.isin(closed.index[pareto_front(closed, minimise=costs, maximise=[good])])
    order = np.lexsort((means["latency_ms"].to_numpy(), ~front))[:MOST_POINTS]
    keys = [name for name in (*RECORDING_COLUMNS, *SIMULATION_COLUMNS, *overrides) if name != "clip"]
    several = str(means["clip"].iloc[0]).endswith(" clips") and means["clip"].nunique() == 1
    keys += [] if several else ["clip"]
    ran = rows[rows["error"] == ""]
    groups = dict(list(ran.groupby([ran[key].map(str) for key in keys], sort=False)))
    runs = []
    for place in sorted(order):
        row = {str(name): value for name, value in means.iloc[place].items()}
        clips = groups[tuple(str(row[key]) for key in keys)]
        runs.append(Run(row, clips, bool(front[place])))
    return Panel(network, hardware, tuple(runs), tuple(overrides), len(means) - len(runs), int(len(rows) - len(ran)))


def shown_in_full(
    panel: Panel, recommended: Sequence[int], detailed: int, max_drop: float
) -> tuple[list[int], list[int]]:
    """Return the runs with timeline and masks, and those with layers: the front and the recommended ones; and more.

    Of a long front evenly spread ones; then up to `detailed` others, those within the accuracy drop first, the fastest
    first.
    """
    front = [number for number, run in enumerate(panel.runs) if run.on_front]
    front.sort(key=lambda number: panel.runs[number].row["latency_ms"])
    if len(front) > MOST_ON_FRONT:
        front = [front[round(place * (len(front) - 1) / (MOST_ON_FRONT - 1))] for place in range(MOST_ON_FRONT)]
    full = sorted({*front, *recommended})
    others = [number for number in range(len(panel.runs)) if number not in full]
    others.sort(key=lambda number: (_lost(panel.runs[number]) > max_drop, panel.runs[number].row["latency_ms"]))
    return full, sorted([*full, *others[: max(0, detailed)]])


def run_data(run: Run, overrides: Sequence[str]) -> dict[str, Any]:
    """Return a run as plain data."""
    data: dict[str, Any] = {name: str(run.row[name]) for name in TEXTS}
    data["chosen_tile"] = run.tile
    data |= {name: plain(run.row[name]) for name in (*NUMBERS, "reset_every", *overrides)}
    data["front"] = run.on_front
    data["shares"] = [round(share, 4) for share in group_shares(run.row).values()]
    speedups = [float(value) for value in run.clips["speedup"]]
    data["clip_speedups"] = [round(value, 4) for value in speedups]
    return data


def plain(value: Any) -> Any:
    """Return a number as one of Python with six digits, a missing one as None."""
    if value is None or pd.isna(value):
        return None
    value = value.item() if hasattr(value, "item") else value
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value


def _lost(run: Run) -> float:
    drop = run.row["quality_drop"]
    return 0.0 if pd.isna(drop) else float(drop)
