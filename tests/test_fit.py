"""Does the fit find coefficients that are known, whatever a few bad measurements say?"""

import numpy as np
import pytest

from skipsim.errors import InputError
from skipsim.hwmodels.fit import errors_of, fit, predict

KNOWN = {"launch_ns": 900.0, "ns_per_pixel": 3.0, "ns_per_mac": 0.01}


def measurements(count: int = 60, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(1, 4000, count).astype(float)
    amounts = {
        "launch_ns": np.ones(count),
        "ns_per_block": generator.integers(1, 4000, count).astype(float),  # costs nothing
        "ns_per_pixel": pixels,
        "ns_per_mac": pixels * generator.choice([64.0, 576.0, 2304.0], count),
    }
    return amounts, sum(amounts[name] * value for name, value in KNOWN.items())


def test_exact_times_give_the_exact_coefficients():
    amounts, ns = measurements()
    cost = fit(amounts, ns, "made up")
    for name, value in KNOWN.items():
        assert getattr(cost, name) == pytest.approx(value, rel=1e-3)
    assert cost.ns_per_block < 1e-6
    assert cost.median_error < 1e-3
    assert cost.measurements == 60
    assert np.allclose(predict(amounts, cost), ns, rtol=1e-2)


def test_a_tenth_of_bad_measurements_moves_little():
    amounts, ns = measurements(100)
    ns[::10] *= 3
    cost = fit(amounts, ns, "made up")
    good = np.arange(100) % 10 != 0
    assert np.median(errors_of(ns[good], predict(amounts, cost)[good])) < 0.01


def test_coefficients_are_never_negative():
    """Times that fall with the number of blocks leave the blocks without a cost."""
    amounts, ns = measurements()
    cost = fit(amounts, ns - 0.05 * amounts["ns_per_block"].clip(max=1000), "made up")
    assert cost.ns_per_block == 0


def test_too_few_measurements_are_refused():
    amounts, ns = measurements(3)
    with pytest.raises(InputError, match="made up: 3 measurements are too few for 4 coefficients"):
        fit(amounts, ns, "made up")
