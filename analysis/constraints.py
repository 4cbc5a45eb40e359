"""Constraints: bounds on columns of the results table, written "area_mm2 <= 10" in a study.

They are read by a pattern, never evaluated as code. Those on a configuration (axes, numbers of a machine, its area) are
known before anything is computed and leave combinations out; those on an outcome mark rows in the column `violates`.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from skipsim.errors import InputError, nearest

RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
    "!=": operator.ne,
}
PATTERN = re.compile(r"\s*([A-Za-z_][\w.@]*)\s*(<=|>=|==|!=|<|>)\s*(\S.*?)\s*")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Constraint:
    """One bound: a column of the table, how it must stand to `bound`, and `bound` itself."""

    column: str
    relation: str
    bound: float | str

    def holds(self, value: Any) -> bool:
        """Tell whether a value of the column is allowed; a missing one is not."""
        if isinstance(self.bound, str):
            return RELATIONS[self.relation](str(value), self.bound)
        return isinstance(value, int | float) and not math.isnan(value) and RELATIONS[self.relation](value, self.bound)

    def violation(self, value: Any) -> float:
        """Return by how much a value breaks the bound, 0 where it holds: what a search steers by."""
        if self.holds(value):
            return 0.0
        if isinstance(self.bound, str) or not isinstance(value, int | float) or math.isnan(value):
            return math.inf
        return max(abs(value - self.bound), 1e-12)

    def __str__(self) -> str:
        return f"{self.column} {self.relation} {self.bound if isinstance(self.bound, str) else f'{self.bound:.12g}'}"


def read_constraints(texts: Sequence[str], columns: Collection[str], text_columns: Collection[str]) -> list[Constraint]:
    """Read the constraints of a study over `columns`; raise ValueError for one that is none, or a contradiction."""
    constraints = [_read(text, columns, text_columns) for text in texts]
    for column in dict.fromkeys(one.column for one in constraints):
        _check_possible([one for one in constraints if one.column == column])
    return constraints


def violated(row: Mapping[str, Any], constraints: Sequence[Constraint]) -> str:
    """Return the constraints that do not hold in a row, as text; "" where all do."""
    return "; ".join(str(one) for one in constraints if not one.holds(row.get(one.column)))


def allowed(values: Mapping[str, Any], constraints: Sequence[Constraint]) -> bool:
    """Tell whether a configuration may be run, as far as its values are known."""
    return all(one.holds(values[one.column]) for one in constraints if one.column in values)


def explain_none(where: str, candidates: Sequence[Mapping[str, Any]], constraints: Sequence[Constraint]) -> InputError:
    """Return the error for constraints that leave no combination: which one, and how near the axes come."""
    for one in constraints:
        values = [values[one.column] for values in candidates if one.column in values]
        if values and not any(one.holds(value) for value in values):
            numbers = [value for value in values if isinstance(value, int | float)]
            near = f"; the axes go from {min(numbers):.6g} to {max(numbers):.6g}" if numbers else ""
            return InputError(f"{where}: constraints: no combination has {str(one)!r}{near}")
    together = " and ".join(repr(str(one)) for one in constraints)
    return InputError(f"{where}: constraints: no combination has {together} together")


def _read(text: Any, columns: Collection[str], text_columns: Collection[str]) -> Constraint:
    match = PATTERN.fullmatch(text) if isinstance(text, str) else None
    if not match:
        raise ValueError(f'must be "COLUMN {"|".join(RELATIONS)} VALUE", for example "area_mm2 <= 10", not {text!r}')
    column, relation, bound = match.groups()
    if column not in columns:
        raise ValueError(f"no column {column!r} in {text!r}; {nearest(column, columns)}")
    if column in text_columns:
        if relation not in ("==", "!="):
            raise ValueError(f"{column} is text, so only == and != compare it, not {text!r}")
        return Constraint(column, relation, bound.strip("\"'"))
    if not NUMBER.fullmatch(bound):
        if relation in ("==", "!=") and "." in column:  # a machine's key may be a word, such as dram.rule
            return Constraint(column, relation, bound.strip("\"'"))
        raise ValueError(f"{bound!r} in {text!r} is not a number")
    return Constraint(column, relation, float(bound))


def _check_possible(constraints: Sequence[Constraint]) -> None:
    """Raise ValueError if no value at all satisfies these constraints on one column."""
    bounds = [one.bound for one in constraints]
    numbers = sorted({bound for bound in bounds if isinstance(bound, float)})
    # whether any value holds is decided by the bounds, the gaps between them, and what lies beyond
    between = [(low + high) / 2 for low, high in pairwise(numbers)]
    beyond = [numbers[0] - 1, numbers[-1] + 1] if numbers else []
    words = [bound for bound in bounds if isinstance(bound, str)]
    candidates: list[Any] = [*numbers, *between, *beyond, *words, "any other word" if words else math.nan]
    if not any(all(one.holds(value) for one in constraints) for value in candidates):
        raise ValueError(f"no value satisfies {' and '.join(repr(str(one)) for one in constraints)}")
