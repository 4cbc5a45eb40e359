"""Is the band of a speed-up made of what it says: the spread over clips and the model's error?"""

from __future__ import annotations

import math

import pytest

from skipsim.analysis.advice.uncertainty import band


def test_spread_and_error_add_as_root_of_squares():
    found = band(2.0, [1.8, 2.0, 2.4], model_error=0.1)
    assert found.low == pytest.approx(2.0 * (1 - math.sqrt(0.1**2 + 0.1**2)))
    assert found.high == pytest.approx(2.0 * (1 + math.sqrt(0.2**2 + 0.1**2)))
    assert (found.clip_low, found.clip_high, found.clips) == (1.8, 2.4, 3)
    assert "3 clips from 1.80x to 2.40x" in found.words()


def test_one_clip_has_no_spread_and_says_so():
    found = band(1.5, [1.5], model_error=0.1)
    assert (found.low, found.high) == (pytest.approx(1.35), pytest.approx(1.65))
    assert "its spread is not known" in found.words()
