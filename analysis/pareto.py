"""Pareto front: the rows of a table that no other row beats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skipsim.analysis.results import OBJECTIVES
from skipsim.errors import InputError, nearest


def pareto_front(table: pd.DataFrame, minimise: Sequence[str] = (), maximise: Sequence[str] = ()) -> NDArray[np.bool_]:
    """Mark the rows that no other row dominates: bool [rows].

    A row dominates another if it is at least as good in every column and better in one; so of equal rows all are kept.
    A row with a missing value in one of the columns is never on the front and dominates nothing.
    """
    if not minimise and not maximise:
        raise InputError("pareto front: needs at least one column to minimise or maximise")
    for name in (*minimise, *maximise):
        if name not in table:
            raise InputError(f"pareto front: no column {name!r}; {nearest(name, map(str, table.columns))}")
    costs = np.column_stack(
        [
            sign * table[name].to_numpy(np.float64, na_value=np.nan)
            for sign, names in ((1, minimise), (-1, maximise))
            for name in names
        ]
    )
    on_front = np.zeros(len(costs), np.bool_)
    whole = np.flatnonzero(~np.isnan(costs).any(axis=1))
    # in lexicographic order a row can only be dominated by an earlier one, and then also by one on the front
    front = np.empty((0, costs.shape[1]))
    for row in whole[np.lexsort(costs[whole].T[::-1])]:
        better = (front <= costs[row]).all(axis=1) & (front < costs[row]).any(axis=1)
        if not better.any():
            on_front[row] = True
            front = np.vstack([front, costs[row]])
    return on_front


def on_front(table: pd.DataFrame, objectives: Sequence[str]) -> NDArray[np.int64]:
    """Mark the rows whose configuration is on its group's front, mean over clips: 1 or 0.

    Configurations that failed or break a constraint, on whichever clip, are not on the front and beat nobody. An
    objective that no row of a group has, such as accuracy without labels, is left out.

    Args:
        table: one row per configuration and clip, with the columns `group` (what shares a front: a network, and closed
            or open loop, because accuracy of the latter is a bound), `configuration`, `fails`, and the objectives.
        objectives: names of columns.
    """
    marks = np.zeros(len(table), np.int64)
    able = table[~table.groupby("configuration")["fails"].transform("any")]
    for _, rows in able.groupby("group", sort=False):
        known = [name for name in objectives if rows[name].notna().any()]
        if not known:
            continue
        grouped = rows.groupby("configuration", sort=False)
        means = grouped[known].mean()
        best = [[name for name in known if OBJECTIVES[name] == more] for more in (False, True)]
        front = pareto_front(means, minimise=best[0], maximise=best[1])
        marks[rows.index] = front[grouped.ngroup()]
    return marks


def hypervolume(points: NDArray[np.float64], reference: Sequence[float]) -> float:
    """Return the volume of the box below `reference` that the points dominate; every column is to be minimised.

    By slicing along the last column: exact, and fast enough for fronts of a few hundred points in up to four columns.
    """
    inside = points[(points < np.asarray(reference)).all(axis=1)]
    if not len(inside):
        return 0.0
    if inside.shape[1] == 1:
        return float(reference[0] - inside.min())
    order = inside[np.argsort(inside[:, -1], kind="stable")]
    heights = np.diff(np.append(order[:, -1], reference[-1]))
    return sum(
        float(height) * hypervolume(order[: count + 1, :-1], reference[:-1])
        for count, height in enumerate(heights)
        if height > 0
    )
