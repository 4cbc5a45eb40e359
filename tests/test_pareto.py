"""Does the Pareto front hold exactly the rows that no other row beats?"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipsim.analysis.pareto import pareto_front
from skipsim.errors import InputError

# few values: many ties and equal rows
numbers = st.one_of(st.integers(0, 4).map(float), st.just(math.nan), st.just(math.inf))
rows = st.lists(st.tuples(numbers, numbers, numbers), max_size=25)


def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


@given(rows)
def test_front_is_that_of_comparing_all_pairs(points: list[tuple[float, float, float]]) -> None:
    table = pd.DataFrame(points, columns=["latency", "energy", "quality"], dtype=float)
    costs = [(latency, energy, -quality) for latency, energy, quality in points]
    whole = [not any(math.isnan(value) for value in cost) for cost in costs]
    expected = [
        good and not any(beats(other, cost) for other, usable in zip(costs, whole, strict=True) if usable)
        for cost, good in zip(costs, whole, strict=True)
    ]
    assert pareto_front(table, ["latency", "energy"], ["quality"]).tolist() == expected


def test_equal_rows_are_all_kept_and_missing_ones_never() -> None:
    table = pd.DataFrame({"latency": [2.0, 1.0, 1.0, math.nan, 3.0], "quality": [0.9, 0.8, 0.8, 1.0, 0.9]})
    assert pareto_front(table, ["latency"], ["quality"]).tolist() == [True, True, True, False, False]


def test_nullable_whole_numbers() -> None:
    table = pd.DataFrame({"cycles": pd.array([3, None, 2], dtype="Int64")})
    assert pareto_front(table, ["cycles"]).tolist() == [False, False, True]


def test_empty_table_and_wrong_columns() -> None:
    table = pd.DataFrame({"latency_ms": np.zeros(0)})
    assert pareto_front(table, ["latency_ms"]).tolist() == []
    with pytest.raises(InputError, match="no column 'latency'; did you mean 'latency_ms'"):
        pareto_front(table, ["latency"])
    with pytest.raises(InputError, match="at least one column"):
        pareto_front(table)
