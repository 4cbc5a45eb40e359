"""Pareto front: the rows of a table that no other row beats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
