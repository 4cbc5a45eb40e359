"""Where cycles go, in words: the causes that engines count, in the groups that people talk about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skipsim.simulator.counters import CAUSES

CAUSE_GROUPS: dict[str, tuple[str, ...]] = {
    "array computes": ("compute",),
    "starting layers": ("launch",),
    "gates and masks": ("gate", "index"),
    "waiting for weights": ("weights",),
    "setting up reads": ("gather_issue",),
    "memory transfer": ("gather_queue", "gather_transfer"),
    "memory latency": ("gather_latency",),
    "writing back": ("scatter",),
    "waiting for other cores": ("barrier",),
}
assert sorted(cause for group in CAUSE_GROUPS.values() for cause in group) == sorted(CAUSES)


def group_shares(row: Mapping[Any, Any], *, dense: bool = False) -> dict[str, float]:
    """Return the share of all cores' cycles by group, from the share columns of a results row."""
    prefix = "dense_cause_" if dense else "cause_"
    return {name: float(sum(row[f"{prefix}{cause}_share"] for cause in group)) for name, group in CAUSE_GROUPS.items()}
