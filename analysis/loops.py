"""How far open loop is from closed loop: the same configurations with coarsened and with recorded masks, side by side.

Open loop needs one recording for all block sizes. It computes a superset of what the fine gates asked for, yet closed
loop is not bounded by it exactly: the additional pixels that a network really computes change what its later gates see.
"""

from __future__ import annotations

import pandas as pd

from skipsim.analysis.results import configuration_of


def loop_gaps(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per configuration that a results table has in both loops: how far open is from closed.

    Beside the configuration: `density_gap` and `effective_density_gap` (open - closed, shares of the dense MACs),
    `latency_ratio`, `energy_ratio` (open / closed), and `quality_gap` (open - closed, in points: the fine recording's
    accuracy against that of the block size itself).
    """
    keys = [name for name in configuration_of(table) if name != "loop"]
    good = table[table["error"] == ""]
    loops = [good[good["loop"] == loop] for loop in ("open", "closed")]
    both = loops[0].merge(loops[1], on=keys, suffixes=("", " closed"), how="inner")
    return both[keys].assign(
        density_gap=both["density"] - both["density closed"],
        effective_density_gap=both["effective_density"] - both["effective_density closed"],
        latency_ratio=both["latency_ms"] / both["latency_ms closed"],
        energy_ratio=both["energy_uj"] / both["energy_uj closed"],
        quality_gap=100 * (both["quality"] - both["quality closed"]),
    )


def describe_gaps(table: pd.DataFrame) -> str:
    """Say in one line how far apart the loops are; "" for a table that has not both."""
    gaps = loop_gaps(table)
    if gaps.empty:
        return ""
    ratio, quality = gaps["latency_ratio"], gaps["quality_gap"].dropna()
    line = f"open loop against closed, {len(gaps)} pairs: latency x{ratio.min():.3f} to x{ratio.max():.3f}"
    line += f" (median x{ratio.median():.3f})"
    if len(quality):
        line += f", accuracy {quality.min():+.2f} to {quality.max():+.2f} points (median {quality.median():+.2f})"
    return line
