"""fit: coefficients that are not negative, from counted work and measured times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError
from skipsim.hwmodels.processor import Cost

ROUNDS = 12
SMALL_ERROR = 0.05  # relative errors below this count as squares, larger ones by their size: outliers pull less

Values = NDArray[np.float64]


def fit(amounts: Mapping[str, Values], ns: Values, source: str, total_ns: Values | None = None) -> Cost:
    """Fit the coefficients of a Cost so that relative errors are small.

    Non-negative least squares on errors relative to the measured time, repeated with weights that let a few outliers
    (a preempted measurement, a cache conflict) pull by their size only and not by its square.

    Args:
        amounts: what each coefficient is multiplied with, by its name, [measurements].
        ns: measured times.
        source: what the times are of.
        total_ns: what errors are relative to, if the times are parts of longer ones.
    """
    total_ns = ns if total_ns is None else total_ns
    used = {name: np.asarray(amount, float) for name, amount in amounts.items() if np.any(amount)}
    if len(ns) <= len(used):
        raise InputError(f"calibrate: {source}: {len(ns)} measurements are too few for {len(used)} coefficients")
    matrix = np.column_stack([amount / total_ns for amount in used.values()])
    scale = matrix.max(axis=0)
    values = robust_nnls(matrix / scale, ns / total_ns) / scale
    errors = np.abs(matrix @ values - ns / total_ns)
    return Cost(
        source=f"fitted to {source}",
        measurements=len(ns),
        median_error=significant(float(np.median(errors))),
        p90_error=significant(float(np.quantile(errors, 0.9))),
        **{name: significant(float(value)) for name, value in zip(used, values, strict=True) if value > 0},
    )


def robust_nnls(matrix: Values, target: Values) -> Values:
    """Return x >= 0 for which the errors of matrix @ x against target are small, large ones counted by their size."""
    try:
        from scipy.optimize import nnls
    except ModuleNotFoundError:
        raise InputError("calibrate: fitting needs scipy: pip install 'skipsim[calibrate]'") from None

    weights = np.ones(len(target))
    for _ in range(ROUNDS):
        root = np.sqrt(weights)
        solution, _ = nnls(matrix * root[:, None], target * root)
        weights = 1 / np.maximum(np.abs(matrix @ solution - target), SMALL_ERROR)
        weights /= weights.mean()
    found: Values = solution
    return found


def predict(amounts: Mapping[str, Values], cost: Cost) -> Values:
    """Return nanoseconds: the sum of amounts times coefficients."""
    return np.asarray(sum(np.asarray(amount) * getattr(cost, name) for name, amount in amounts.items()))


def significant(value: float, digits: int = 4) -> float:
    """Round to so many significant digits."""
    return float(f"{value:.{digits}g}")


def errors_of(measured: Sequence[float] | Values, predicted: Sequence[float] | Values) -> Values:
    """Return absolute relative errors."""
    found: Values = np.abs(np.asarray(predicted, float) / np.asarray(measured, float) - 1)
    return found
