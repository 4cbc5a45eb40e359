"""How far open loop is from closed loop: the same configurations with coarsened and with recorded masks, side by side.

Open loop needs one recording for all block sizes. It computes a superset of what the fine gates asked for, yet closed
loop is not bounded by it exactly: the additional pixels that a network really computes change what its later gates see.
"""

from __future__ import annotations

import pandas as pd

from skipsim.analysis.results import configuration_of

GAPS = ("density_gap", "effective_density_gap", "latency_ratio", "energy_ratio", "quality_gap")


def decisive_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that a decision may rest on: without those of the open loop, where there are any others.

    Accuracy of an open loop is that of a finer recording: good enough where nothing else was recorded, and only there.
    """
    closed = table["loop"] != "open"
    return table[closed] if closed.any() else table


def loop_gaps(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per configuration that a results table has in both loops: how far open is from closed.

    Beside the configuration: `density_gap` and `effective_density_gap` (open - closed, shares of the dense MACs),
    `latency_ratio`, `energy_ratio` (open / closed), and `quality_gap` (open - closed, in points: the fine recording's
    accuracy against that of the block size itself). The block size of the fine recording is left out: it is the same
    recording in both loops.
    """
    keys = [name for name in configuration_of(table) if name != "loop"]
    good = table[table["error"] == ""]
    loops = [good[good["loop"] == loop] for loop in ("open", "closed")]
    both = loops[0].merge(loops[1], on=keys, suffixes=("", " closed"), how="inner")
    both = both[both["trace_hash"] != both["trace_hash closed"]].reset_index(drop=True)
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
    latency, quality = 100 * (gaps["latency_ratio"] - 1), gaps["quality_gap"].dropna()
    line = f"Open loop against closed, {len(gaps)} pairs: latency {latency.median():+.1f}% in the median"
    line += f" ({latency.min():+.1f} to {latency.max():+.1f}%)"
    if len(quality):
        line += f", accuracy {quality.median():+.2f} points ({quality.min():+.2f} to {quality.max():+.2f})"
    return f"{line}."
