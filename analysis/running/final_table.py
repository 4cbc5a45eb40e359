"""The results table from a plan and its store, a part at a time: it takes the same memory however long it is."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skipsim.analysis.constraints import violated
from skipsim.analysis.pareto import on_front
from skipsim.analysis.results import RECORDING_COLUMNS, kind_of, make_table
from skipsim.analysis.running.jobs import Plan, Recorded

PART_ROWS = 4096

OutcomeOf = Callable[[str], Mapping[str, Any]]  # by job key


def table_parts(plan: Plan, recorded: Sequence[Recorded], outcome_of: OutcomeOf) -> Iterator[pd.DataFrame]:
    """Yield the results table in parts of so many rows, at least one, in the order of the plan."""
    marks = _front(plan, recorded, outcome_of)
    overrides = {key: kind_of(values) for key, values in plan.study.simulation.overrides.items()}
    rows = _rows(plan, recorded, outcome_of)
    for begin in range(0, max(1, plan.rows), PART_ROWS):
        part = make_table(islice(rows, PART_ROWS), overrides)
        part["on_front"] = pd.array(marks[begin : begin + len(part)], "Int64")
        yield part


def _rows(plan: Plan, recorded: Sequence[Recorded], outcome_of: OutcomeOf) -> Iterator[dict[str, Any]]:
    late = plan.study.late_constraints
    for number, key in enumerate(plan.keys(recorded)):
        source, simulation = plan.pair(number)
        one, choice = recorded[source], plan.simulations[simulation]
        outcome = outcome_of(key) if key else {"error": one.error}
        row = {**one.columns, **choice.columns(), "job_key": key, **outcome}
        yield row | {"violates": "" if row.get("error") else violated(row, late)}


def _front(plan: Plan, recorded: Sequence[Recorded], outcome_of: OutcomeOf) -> NDArray[np.int64]:
    """Mark the rows on the front: all of them have to be seen for that, of each only its objectives."""
    objectives = {name: array("d") for name in plan.study.objectives}
    fails, groups, configurations = bytearray(), array("q"), array("q")
    of_group: dict[tuple[str, str], int] = {}
    of_source: dict[tuple[str, ...], int] = {}  # sources that differ in their clip alone are one configuration
    for number, row in enumerate(_rows(plan, recorded, outcome_of)):
        _, simulation = plan.pair(number)
        configuration = of_source.setdefault(_configuration(row), len(of_source))
        configurations.append(configuration * len(plan.simulations) + simulation)
        groups.append(of_group.setdefault((row["network"], row["loop"]), len(of_group)))
        fails.append(bool(row.get("error") or row["violates"]))
        for name, values in objectives.items():
            value = row.get(name)
            values.append(math.nan if value is None else value)
    table = pd.DataFrame(
        {
            "group": np.frombuffer(groups, np.int64),
            "configuration": np.frombuffer(configurations, np.int64),
            "fails": np.frombuffer(fails, np.bool_),
            **{name: np.frombuffer(values) for name, values in objectives.items()},
        }
    )
    return on_front(table, plan.study.objectives)


def _configuration(columns: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(columns.get(name)) for name in RECORDING_COLUMNS if name != "clip")
