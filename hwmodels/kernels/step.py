"""Step: one kernel with its arguments bound to memory, ready to be run by a Program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipsim.hwmodels.kernels.feature_map import aligned_zeros

WORK, UNITS_OF, UNITS, NEXT, DONE, THREADS = range(6)
"""The fields that all steps have: two functions, and the counters by which threads share the work."""

FIRST_FIELD = 8
FIELDS = 56


@dataclass(frozen=True, eq=False)
class Step:
    """One kernel's call: all that it reads and writes is bound, and nothing is allocated when it runs.

    Attributes:
        kind: the kernel's name.
        row: int64 [FIELDS]: addresses, sizes and offsets, and the counters of the run.
        held: the arrays that the addresses point into.
    """

    kind: str
    row: NDArray[np.int64]
    held: tuple[Any, ...]

    @property
    def address(self) -> int:
        """Where the row lies."""
        return int(self.row.ctypes.data)

    def set_float(self, field: int, value: float) -> None:
        """Store a float32 in a field."""
        self.row.view(np.float32)[2 * field] = value


def make_step(
    kind: str,
    work: Callable[[], int],
    units: Callable[[], int],
    values: Mapping[int, int],
    held: tuple[Any, ...],
    floats: Mapping[int, float] | None = None,
) -> Step:
    """Bind a kernel.

    Args:
        kind: the kernel's name.
        work: gives the address of work(step, unit), which does one unit; units may run at the same time.
        units: gives the address of units(step), asked when all steps before are done.
        values: int64 by field.
        held: what must stay alive.
        floats: float32 by field.
    """
    row = aligned_zeros(FIELDS, np.int64)
    row[WORK], row[UNITS_OF], row[THREADS] = work(), units(), 1
    for field, value in values.items():
        row[field] = value
    step = Step(kind, row, held)
    for field, number in (floats or {}).items():
        step.set_float(field, number)
    return step
