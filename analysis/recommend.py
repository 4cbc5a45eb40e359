"""recommend(table, hardware) -> the configuration to build, what it gains, and where the rest of the gain goes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from skipsim.analysis.causes import group_shares
from skipsim.analysis.results import mean_over_clips, overrides_of
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
TOLERANCE = 1e-9  # points: 1.0 points lost are within 1 point, rounding or not


@dataclass(frozen=True)
class Recommendation:
    """The fastest configuration of a machine within an accuracy drop: one row of the results, averaged over clips.

    `configuration` names it by the columns of the table; `gated_cycles` and `dense_cycles` say where the cycles of all
    cores go, by cause group, both in percent of the dense schedule's cycles.
    """

    hardware: str
    max_drop: float
    row: dict[str, Any]
    configuration: dict[str, Any]
    gated_cycles: dict[str, float]
    dense_cycles: dict[str, float]

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
            "max_drop": self.max_drop,
            "worthwhile": self.worthwhile,
            "configuration": {name: _plain(value) for name, value in self.configuration.items()},
            **numbers,
            "gated_cycles": self.gated_cycles,
            "dense_cycles": self.dense_cycles,
            "excess_cycles": self.excess_cycles,
        }

    def words(self) -> str:
        """Return the recommendation in plain words, several lines."""
        row = self.row
        left = 100 * row["latency_ms"] / row["dense_latency_ms"]
        energy = row["energy_uj"] / row["dense_energy_uj"]  # not a number on a measured processor
        lines = [
            self._headline(),
            self._accuracy(),
            f"  MAC reduction {row['mac_reduction']:.2f}x, speed-up {row['speedup']:.2f}x "
            f"({row['latency_ms']:.3g} ms a frame, dense {row['dense_latency_ms']:.3g} ms)"
            + (f", energy {energy:.0%} of dense." if energy == energy else "; energy is not known."),
            f"  {row['realised']:.0%} of the MAC reduction is realised: of 100 dense cycles "
            f"{self.proportional_cycles:.1f} would be left if time followed the MACs, {left:.1f} are.",
            *self._difference(left - self.proportional_cycles),
            f"  The gates ask for {row['density']:.1%} of the MACs; "
            f"{self._tiles()} compute {row['effective_density']:.1%}.",
            f"  Of 100 cycles with gates: {self._shares()}.",
        ]
        return "\n".join(lines)

    def _headline(self) -> str:
        named = dict(self.configuration)
        threshold = named.pop("threshold")
        first = f"block {named.pop('block')}, tile {self._tile()}"
        first += "" if math.isnan(threshold) else f", threshold {threshold:g}"
        named.pop("tile")
        gate, update, reset = named.pop("gate"), named.pop("update"), named.pop("reset_every")
        rest = [f"{gate} gate", f"update {update}", *([f"reset every {reset} frames"] if reset else [])]
        rest += [f"{name} = {_text(value)}" for name, value in named.items()]
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
        change = f"{drop:.2f} points lost" if drop > 0.005 else "nothing lost"
        return (
            f"  {row['quality_metric']} {100 * row['quality']:.2f} %, dense {100 * row['dense_quality']:.2f} %: "
            f"{change}, {self.max_drop:g} allowed."
        )

    def _difference(self, total: float) -> list[str]:
        excess = sorted(self.excess_cycles.items(), key=lambda item: -abs(item[1]))
        shown = [f"{name} {cycles:+.1f}" for name, cycles in excess if abs(cycles) >= SMALLEST_CYCLES]
        return [f"  The difference of {total:+.1f}: {', '.join(shown)}."] if shown else []

    def _shares(self) -> str:
        total = sum(self.gated_cycles.values())
        shares = sorted(self.gated_cycles.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {100 * cycles / total:.0f}" for name, cycles in shares if 100 * cycles / total >= 0.5)


def recommend(
    table: pd.DataFrame, hardware: str, max_drop: float = 1.0, *, network: str | None = None
) -> Recommendation:
    """Find the fastest configuration of a machine that loses at most `max_drop` points of the dense quality.

    Accuracy and time are means over all clips of the table. Where no accuracy was measured at all, every row is
    allowed.

    Args:
        table: the results of a sweep.
        hardware: a machine of the table, by name.
        max_drop: points of quality (hundredths) that may be lost.
        network: which network, where the table has several.

    Raises:
        InputError: a machine or network that is not in the table, or no configuration within the drop.
    """
    if not (isinstance(max_drop, int | float) and max_drop >= 0):
        raise InputError(f"recommend: max_drop must be a number of points >= 0, got {max_drop!r}")
    rows = _select(table, "hardware", hardware)
    networks = sorted(set(rows["network"]))
    if network is not None:
        rows = _select(rows, "network", network)
    elif len(networks) > 1:
        raise InputError(f"recommend: the table has several networks; name one of: {', '.join(networks)}")
    failed = int((rows["error"] != "").sum())
    rows = mean_over_clips(rows)
    if rows.empty:
        raise InputError(f"recommend: all {failed} rows of {hardware!r} failed")
    drop = rows["quality_drop"]
    allowed = rows if drop.isna().all() else rows[drop <= max_drop + TOLERANCE]
    if allowed.empty:
        raise InputError(
            f"recommend: every configuration of {hardware!r} loses more than {max_drop:g} points; "
            f"the least is {drop.min():.2f}"
        )
    ranked = allowed.sort_values(["speedup", "quality_drop"], ascending=[False, True], kind="stable")
    best = {str(name): value for name, value in ranked.iloc[0].items()}
    names = ["block", "tile", "threshold", "gate", "update", "reset_every", *overrides_of(table)]
    names += ["clip"] * (rows["clip"].nunique() > 1)
    ratio = 100 * best["latency_ms"] / best["dense_latency_ms"]
    return Recommendation(
        hardware=hardware,
        max_drop=float(max_drop),
        row=best,
        configuration={name: best[name] for name in names},
        gated_cycles={name: ratio * share for name, share in group_shares(best).items()},
        dense_cycles={name: 100 * share for name, share in group_shares(best, dense=True).items()},
    )


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
