"""Is the interval of a difference that of the mean of a sample, for a score that is a mean over clips?"""

from __future__ import annotations

import numpy as np
import pytest

from skipsim.analysis.sampled_clips import DRAWS, Watched, difference_interval, samples
from skipsim.traces.datasets import pose_clip
from skipsim.traces.quality import pose_scorer

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


def test_joints_of_a_sample_are_those_of_its_clips():
    clips = [pose_clip(seed, frames=2, rows=64, cols=64) for seed in (5, 6)]
    watched = Watched(pose_scorer(clips), clips)
    right, wrong = ([_peaks(clip, shift) for clip in clips] for shift in (0, 24))
    watched([*right[0], *wrong[1]])
    seen = [int(clip.visible.sum()) for clip in clips]
    scores = watched.samples()
    # The first clip's joints are all found, the second's none: a draw scores the first's share of the joints in it.
    possible = [first * seen[0] / (first * seen[0] + (2 - first) * seen[1]) for first in (0, 1, 2)]
    assert set(np.round(scores, 9)) == set(np.round(possible, 9))
    assert np.mean(np.isclose(scores, possible[1])) == pytest.approx(0.5, abs=0.06)  # 1000 draws of two clips


def _peaks(clip, shift):
    """Return heat maps of the picture's own size, their greatest value where each joint is, or so many pixels off."""
    maps = np.zeros((len(clip.frames), clip.joints.shape[1], 64, 64), np.float32)
    for place in np.ndindex(maps.shape[:2]):
        x, y = np.clip(np.rint(clip.joints[place]), 0, 63).astype(int)
        maps[(*place, y, (x + shift) % 64)] = 1
    return list(maps)
