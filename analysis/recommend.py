"""recommend(table, hardware) -> the configuration to build, what it gains, and where the rest of the gain goes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from skipsim.analysis.advice.budget import MAX_DROP_POINTS
from skipsim.analysis.causes import group_shares
from skipsim.analysis.loops import decisive_rows
from skipsim.analysis.results import clips_of, groups_of, mean_over_clips, overrides_of
from skipsim.errors import InputError, nearest

SMALLEST_CYCLES = 0.5  # of 100 dense cycles; less is not worth a line
NUMBERS = (
    "quality_metric",
    "quality",
    "dense_quality",
    "quality_drop",
    "mac_reduction",
    "speedup",
    "realised",
    "latency_ms",
    "dense_latency_ms",
    "energy_uj",
    "dense_energy_uj",
    "density",
    "effective_density",
)
GROUP_NUMBERS = ("mac_reduction", "speedup", "quality_drop")
TOLERANCE = 1e-9  # points: 1.0 points lost are within 1 point, rounding or not


@dataclass(frozen=True)
class Recommendation:
    """The fastest configuration of a machine within an accuracy drop: one row of the results, averaged over clips.

    `configuration` names it by the columns of the table; `gated_cycles` and `dense_cycles` say where the cycles of all
    cores go, by cause group, both in percent of the dense schedule's cycles.
    """

    hardware: str
    max_drop: float  # inf: not limited
    row: dict[str, Any]
    configuration: dict[str, Any]
    gated_cycles: dict[str, float]
    dense_cycles: dict[str, float]
    groups: dict[str, dict[str, float]]  # GROUP_NUMBERS of this configuration by group of clips; {}: none are named

    @property
    def worthwhile(self) -> bool:
        """Whether it is faster than the dense schedule."""
        return bool(self.row["speedup"] > 1)

    @property
    def proportional_cycles(self) -> float:
        """Cycles that would be left of 100 dense ones if time followed the MACs."""
        return float(100 / self.row["mac_reduction"])

    @property
    def excess_cycles(self) -> dict[str, float]:
        """Cycles beyond that by cause group, of 100 dense ones; they sum to the whole difference."""
        factor = self.row["mac_reduction"]
        return {name: cycles - self.dense_cycles[name] / factor for name, cycles in self.gated_cycles.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the recommendation as plain data, for `--json`."""
        numbers = {name: _plain(self.row[name]) for name in NUMBERS}
        return {
            "hardware": self.hardware,
            "max_drop": _plain(self.max_drop) if math.isfinite(self.max_drop) else None,
            "worthwhile": self.worthwhile,
            "configuration": {name: _plain(value) for name, value in self.configuration.items()},
            **numbers,
            "gated_cycles": self.gated_cycles,
            "dense_cycles": self.dense_cycles,
            "excess_cycles": self.excess_cycles,
            "groups": {
                group: {name: _plain(value) for name, value in found.items()} for group, found in self.groups.items()
            },
        }

    def words(self) -> str:
        """Return the recommendation in plain words, several lines."""
        row = self.row
        energy = row["energy_uj"] / row["dense_energy_uj"]  # not a number on a measured processor
        lines = [
            self.headline(),
            self._accuracy(),
            f"  MAC reduction {row['mac_reduction']:.2f}x, speed-up {row['speedup']:.2f}x "
            f"({row['latency_ms']:.3g} ms a frame, dense {row['dense_latency_ms']:.3g} ms)"
            + (f", energy {energy:.0%} of dense." if energy == energy else "; energy is not known."),
            *(f"  {reason}" for reason in self.reasons()),
            f"  Of 100 cycles with gates: {self._shares()}.",
        ]
        return "\n".join(lines)

    def reasons(self) -> list[str]:
        """Return why it is not as fast as the MAC reduction promises, in a few sentences."""
        row = self.row
        left = 100 * row["latency_ms"] / row["dense_latency_ms"]
        return [
            f"{row['realised']:.0%} of the MAC reduction is realised: of 100 dense cycles "
            f"{self.proportional_cycles:.1f} would be left if time followed the MACs, {left:.1f} are.",
            *self._difference(left - self.proportional_cycles),
            f"The gates ask for {row['density']:.1%} of the MACs; "
            f"{self._tiles()} compute {row['effective_density']:.1%}.",
            *([f"Clips by group: {'; '.join(map(self._of_group, self.groups))}."] if self.groups else []),
        ]

    def _of_group(self, group: str) -> str:
        found = self.groups[group]
        drop = found["quality_drop"]
        change = "" if math.isnan(drop) else f", {abs(drop):.2f} points {'lost' if drop > -0.005 else 'gained'}"
        return f"{group} {found['mac_reduction']:.2f}x fewer MACs, {found['speedup']:.2f}x faster{change}"

    def choice(self) -> str:
        """Return block, tile and threshold in a few words."""
        threshold = self.configuration["threshold"]
        first = f"block {self.configuration['block']}, tile {self._tile()}"
        return first + ("" if math.isnan(threshold) else f", threshold {threshold:g}")

    def headline(self) -> str:
        """Return what to build, in one line."""
        named = dict(self.configuration)
        first = self.choice()
        for name in ("block", "tile", "threshold"):
            del named[name]
        gate, update, reset = named.pop("gate"), named.pop("update"), named.pop("reset_every")
        rest = [f"{gate} gate", f"update {update}", *([f"reset every {reset} frames"] if reset else [])]
        rest += [f"{name} = {_text(value)}" for name, value in named.items() if value != ""]
        if self.worthwhile:
            return f"{self.hardware}: {first} ({', '.join(rest)})"
        return (
            f"{self.hardware}: stay dense; nothing allowed is faster. The best with gates: {first} ({', '.join(rest)})"
        )

    def _tile(self) -> str:
        asked, chosen = self.row["tile"], self.row["chosen_tile"]
        return str(chosen) if asked == "auto" else str(asked)

    def _tiles(self) -> str:
        tile = self._tile()
        return "tiles of the whole map" if tile == "full" else f"{tile} tiles"

    def _accuracy(self) -> str:
        row = self.row
        if math.isnan(row["quality_drop"]):
            return "  Accuracy was not measured."
        drop = row["quality_drop"]
        allowed = f", {self.max_drop:g} allowed" if math.isfinite(self.max_drop) else ""
        bound = " That is of the finer recording whose masks were coarsened (open loop)." * (row["loop"] == "open")
        change = f"{drop:.2f} points lost" if drop > 0.005 else "nothing lost"
        return (
            f"  {row['quality_metric']} {100 * row['quality']:.2f}%, dense {100 * row['dense_quality']:.2f}%: "
            f"{change}{allowed}.{bound}"
        )

    def _difference(self, total: float) -> list[str]:
        excess = sorted(self.excess_cycles.items(), key=lambda item: -abs(item[1]))
        shown = [f"{name} {cycles:+.1f}" for name, cycles in excess if abs(cycles) >= SMALLEST_CYCLES]
        return [f"The difference of {total:+.1f}: {', '.join(shown)}."] if shown else []

    def _shares(self) -> str:
        total = sum(self.gated_cycles.values())
        shares = sorted(self.gated_cycles.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {100 * cycles / total:.0f}" for name, cycles in shares if 100 * cycles / total >= 0.5)


def recommend(
    table: pd.DataFrame,
    hardware: str,
    max_drop: float | None = None,
    *,
    network: str | None = None,
    max_latency_ms: float | None = None,
    max_energy_uj: float | None = None,
) -> Recommendation:
    """Find the configuration of a machine that is best within a budget.

    With an accuracy drop (that of `budget.py` if nothing is given) the fastest one; with a latency or energy budget
    alone the one that loses least. Accuracy and time are means over all clips of the table. Where no accuracy was
    measured at all, every row is allowed. Open loop is recommended only where the machine has nothing else, and says
    so.

    Args:
        table: the results of a sweep.
        hardware: a machine of the table, by name.
        max_drop: points of quality (hundredths) that may be lost.
        network: which network, where the table has several.
        max_latency_ms: of the mean frame.
        max_energy_uj: of the mean frame.

    Raises:
        InputError: a machine or network that is not in the table, or no configuration within the budget.
    """
    spent = {"max_latency_ms": max_latency_ms, "max_energy_uj": max_energy_uj}
    for name, value in {"max_drop": max_drop, **spent}.items():
        kind = "a number of points" if name == "max_drop" else "a number"
        if value is not None and not (isinstance(value, int | float) and value >= 0):
            raise InputError(f"recommend: {name} must be {kind} >= 0, got {value!r}")
    most_accurate = max_drop is None and any(value is not None for value in spent.values())
    drop_limit = math.inf if most_accurate else MAX_DROP_POINTS if max_drop is None else float(max_drop)
    rows = _select(table, "hardware", hardware)
    if network is not None:
        rows = _select(rows, "network", network)
    gated = rows[rows["gate"] != "none"]  # the dense network is beside every row
    if gated.empty:
        raise InputError(f"recommend: no row has gates for {network or rows['network'].iloc[0]!r} on {hardware!r}")
    rows, networks = gated, sorted(set(gated["network"]))
    if len(networks) > 1:
        raise InputError(f"recommend: the table has several networks; name one of: {', '.join(networks)}")
    rows = decisive_rows(rows)
    rows = rows.assign(error=rows["error"].where(rows["error"] != "", rows["violates"]))  # not to be built either way
    excluded = int((rows["error"] != "").sum())
    rows = mean_over_clips(rows)
    if rows.empty:
        raise InputError(f"recommend: all {excluded} rows of {hardware!r} failed or break a constraint of the study")
    allowed = _within(rows, hardware, drop_limit, spent)
    order = (
        [("quality_drop", True), ("latency_ms", True)]
        if most_accurate
        else [("speedup", False), ("quality_drop", True)]
    )
    ranked = allowed.sort_values([name for name, _ in order], ascending=[up for _, up in order], kind="stable")
    best = {str(name): value for name, value in ranked.iloc[0].items()}
    names = ["block", "tile", "threshold", "gate", "update", "reset_every", *overrides_of(table)]
    names += [name for name in ("share", "signal", "clip") if rows[name].nunique() > 1]
    ratio = 100 * best["latency_ms"] / best["dense_latency_ms"]
    return Recommendation(
        hardware=hardware,
        max_drop=drop_limit,
        row=best,
        configuration={name: best[name] for name in names},
        gated_cycles={name: ratio * share for name, share in group_shares(best).items()},
        dense_cycles={name: 100 * share for name, share in group_shares(best, dense=True).items()},
        groups=_by_group(clips_of(table, best)),
    )


def _by_group(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return what the rows of one configuration come to in each group of clips."""
    found = {}
    for group in groups_of(rows):
        mean = mean_over_clips(rows[rows["group"] == group]).iloc[0]
        found[group] = {name: float(mean[name]) for name in GROUP_NUMBERS}
    return found


def _within(rows: pd.DataFrame, hardware: str, max_drop: float, spent: Mapping[str, float | None]) -> pd.DataFrame:
    """Return the rows within an accuracy drop and budgets of other columns; the error names the limit nobody meets."""
    drop = rows["quality_drop"]
    allowed = rows if drop.isna().all() or math.isinf(max_drop) else rows[drop <= max_drop + TOLERANCE]
    if allowed.empty:
        raise InputError(
            f"recommend: every configuration of {hardware!r} loses more than {max_drop:g} points; "
            f"the least is {drop.min():.2f}"
        )
    for name, limit in spent.items():
        if limit is None:
            continue
        column, before = name.removeprefix("max_"), allowed
        allowed = allowed[allowed[column] <= limit]
        if allowed.empty:
            raise InputError(
                f"recommend: every configuration of {hardware!r} that is left takes more than {column} = {limit:g}; "
                f"the least is {before[column].min():.4g}"
            )
    return allowed


def _select(table: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    chosen = table[table[column] == value]
    if chosen.empty:
        raise InputError(f"recommend: no {column} {value!r} in the table; {nearest(value, set(table[column]))}")
    return chosen


def _plain(value: Any) -> Any:
    """Return a number of numpy or pandas as one of Python, a missing one as None."""
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
