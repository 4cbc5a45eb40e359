"""Are joints found where they are, and scores counted right?"""

import numpy as np
import pytest

from skipsim.errors import InputError
from skipsim.traces.datasets import Clip
from skipsim.traces.quality import agreement, decode_heatmaps, pck, pose_quality, pose_scorer


def gaussian_logits(x, y, rows, cols, sigma=1.3):
    down, across = np.mgrid[:rows, :cols]
    return -((across - x) ** 2 + (down - y) ** 2) / (2 * sigma**2)


@pytest.mark.parametrize(("x", "y"), [(5.0, 7.0), (5.3, 7.45), (1.2, 13.6), (10.49, 3.51)])
def test_parabola_recovers_a_gaussian_exactly_between_grid_points(x, y):
    found = decode_heatmaps(gaussian_logits(x, y, 16, 12)[None], rows=64, cols=48)
    # One heat map pixel covers four picture pixels; its centre lies at 4 * cell + 1.5.
    assert found.shape == (1, 2)
    assert found[0] == pytest.approx((4 * x + 1.5, 4 * y + 1.5), abs=1e-4)


def test_maximum_at_the_border_stays_on_the_grid():
    maps = np.zeros((1, 4, 6))
    maps[0, 0, 5] = 1
    assert decode_heatmaps(maps, rows=8, cols=12)[0].tolist() == [10.5, 0.5]


def test_leading_axes_and_unequal_scales_are_kept():
    maps = np.stack([np.stack([gaussian_logits(j + 2, t + 3, 10, 20) for j in range(5)]) for t in range(4)])
    found = decode_heatmaps(maps, rows=20, cols=60)
    expected = [[((j + 2.5) * 3 - 0.5, (t + 3.5) * 2 - 0.5) for j in range(5)] for t in range(4)]
    assert found.shape == (4, 5, 2)
    assert found == pytest.approx(np.array(expected), abs=1e-4)


def test_pck_counts_visible_joints_within_the_threshold():
    joints = np.zeros((2, 3, 2))
    predicted = np.array([[[3.0, 4.0], [0.0, 5.001], [90.0, 0.0]], [[0.0, 10.0], [8.0, 6.1], [0.0, 0.0]]])
    visible = np.array([[True, True, False], [True, True, True]])
    scale = np.array([100.0, 200.0])
    # Limits are 5 and 10 pixels. Frame 0: exactly 5 counts, 5.001 does not, the third is hidden. Frame 1: 10, 10.06, 0.
    assert pck(predicted, joints, visible, scale, 0.05) == 3 / 5
    assert pck(predicted, joints, visible, scale, 0.06) == 5 / 5
    assert pck(predicted, joints, visible, scale, 0.001) == 1 / 5


def test_pck_equals_a_loop_over_random_joints():
    rng = np.random.default_rng(0)
    joints, predicted = rng.uniform(0, 100, (6, 15, 2)), rng.uniform(0, 100, (6, 15, 2))
    visible, scale = rng.random((6, 15)) < 0.7, rng.uniform(50, 150, 6)
    hits = total = 0
    for t in range(6):
        for j in range(15):
            if visible[t, j]:
                total += 1
                hits += np.hypot(*(joints[t, j] - predicted[t, j])) <= 0.4 * scale[t]
    assert 0 < hits < total
    assert pck(predicted, joints, visible, scale, 0.4) == hits / total


def test_agreement_is_one_for_equal_and_zero_for_a_constant():
    dense = np.array([1.0, 2.0, 3.0, 6.0])
    assert agreement(dense, dense) == 1
    assert agreement(np.full(4, 3.0), dense) == 0
    # Squared difference 4 against a variation of 4 + 1 + 0 + 9.
    assert agreement(dense + np.array([0, 0, 2, 0]), dense) == pytest.approx(1 - 4 / 14)
    assert agreement(np.zeros(3), np.zeros(3)) == 1
    assert agreement(np.ones(3), np.zeros(3)) == 0


def clip_of(joints, scale):
    joints = np.asarray(joints, np.float32)
    frames = np.zeros((len(joints), 64, 48, 3), np.uint8)
    box = np.zeros((len(joints), 4), np.float32)
    visible = np.ones(joints.shape[:2], np.bool_)
    return Clip(frames, joints, visible, box, np.asarray(scale, np.float32), "static", 0)


def test_pose_quality_pools_the_frames_of_all_clips():
    # Heat maps peak at cell (3, 5), which is pixel (13.5, 21.5); a box size of 100 gives limits of 5, 10 and 20 pixels.
    peak = gaussian_logits(3, 5, 16, 12)[None, None]
    clips = [clip_of([[[13.5, 21.5]]], [100]), clip_of([[[13.5, 28.5]]], [100]), clip_of([[[28.5, 21.5]]], [100])]
    scores = pose_quality([peak] * 3, clips)
    assert scores == {"pck@0.05": 1 / 3, "pck@0.1": 2 / 3, "pck@0.2": 1.0, "headline": "pck@0.05"}
    assert pose_quality(peak, clips[1])["pck@0.1"] == 1.0


def test_scorer_splits_one_output_per_frame_over_the_clips():
    peak = gaussian_logits(3, 5, 16, 12)
    clips = [clip_of([[[13.5, 21.5]], [[13.5, 28.5]]], [100, 100]), clip_of([[[28.5, 21.5]]], [100])]
    for outputs in ([peak[None]] * 3, [peak[None, None]] * 3):
        assert pose_scorer(clips)(outputs) == {
            "pck@0.05": 1 / 3,
            "pck@0.1": 2 / 3,
            "pck@0.2": 1.0,
            "headline": "pck@0.05",
        }
    assert pose_scorer(clips[1])([peak[None]])["pck@0.2"] == 1.0
    with pytest.raises(InputError, match="needs one output per frame, got 2 for 3 frames"):
        pose_scorer(clips)([peak[None]] * 2)


GOOD = {
    "predicted": np.zeros((2, 3, 2)),
    "joints": np.zeros((2, 3, 2)),
    "visible": np.ones((2, 3)),
    "scale": np.ones(2),
}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"predicted": np.zeros((2, 4, 2))},
            r"predictions \[2, 4, 2\] and joints \[2, 3, 2\] must both be \[T, J, 2\]",
        ),
        ({"visible": np.ones((3, 2))}, r"visible must be \[2, 3\] and scale \[2\], got \[3, 2\] and \[2\]"),
        ({"visible": np.zeros((2, 3))}, "no joint is visible"),
        ({"scale": np.array([1.0, 0.0])}, r"threshold and every scale must be > 0, got 0\.05 and"),
        ({"threshold": 0.0}, r"threshold and every scale must be > 0, got 0 and"),
    ],
)
def test_pck_refuses_what_cannot_be_scored(change, text):
    with pytest.raises(InputError, match=text):
        pck(**{**GOOD, **change})


def test_other_bad_input_fails_well():
    with pytest.raises(InputError, match="must be finite, got NaN"):
        decode_heatmaps(np.full((1, 4, 4), np.nan), 16, 16)
    with pytest.raises(InputError, match=r"shape must be \[\.\.\., joints, rows, cols\], got \[4, 4\]"):
        decode_heatmaps(np.zeros((4, 4)), 16, 16)
    with pytest.raises(InputError, match=r"outputs must have one shape, got \[3\] and \[4\]"):
        agreement(np.zeros(3), np.zeros(4))
    with pytest.raises(InputError, match="one array of heat maps per clip, got 1 for 2 clips"):
        pose_quality([np.zeros((1, 1, 4, 4))], [clip_of([[[1, 1]]], [9])] * 2)
