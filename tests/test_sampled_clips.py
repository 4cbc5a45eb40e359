"""Is the interval of a difference that of the mean of a sample, for a score that is a mean over clips?"""

from __future__ import annotations

import numpy as np
import pytest

from skipsim.analysis.sampled_clips import DRAWS, difference_interval, samples

CLIPS = 400


def mean_of(values):
    return samples(lambda counts: float(values @ counts / counts.sum()), CLIPS)


def test_a_mean_has_the_interval_of_the_normal_law():
    values = np.random.default_rng(1).normal(0.3, 0.1, CLIPS)
    low, high = difference_interval(mean_of(values), mean_of(np.zeros(CLIPS)))
    error = values.std() / CLIPS**0.5
    # The 2.5 % quantile of 1000 draws scatters by about 8 % of the standard error itself.
    assert DRAWS == 1000
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)


def test_what_both_share_cancels():
    values = np.random.default_rng(2).normal(0.3, 0.1, CLIPS)
    assert difference_interval(mean_of(values), mean_of(values - 0.05)) == pytest.approx((0.05, 0.05))
