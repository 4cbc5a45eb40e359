"""Are procedural detection clips what their labels say, the same for the same seed, and hard enough?"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from skipsim.errors import InputError
from skipsim.traces.boxes import BoxLabels
from skipsim.traces.datasets import SPLITS
from skipsim.traces.procedural.canvas import draw_tilted, tilted_rectangle
from skipsim.traces.procedural.vehicle_clips import vehicle_clip, vehicle_clips
from skipsim.traces.procedural.vehicles import CLASSES, COCO_IDS, Lane, Vehicle, traffic


def test_shapes_and_types():
    clip = vehicle_clip(7, frames=3, rows=96, cols=120)
    assert clip.frames.shape == (3, 96, 120, 3)
    assert clip.frames.dtype == np.uint8
    labels = clip.labels
    assert (labels.frames, labels.rows, labels.cols) == (3, 96, 120)
    assert labels.classes == ("car", "truck", "bus")
    assert len(labels.frame) == len(labels.box) == len(labels.label) == len(labels.ignored)


def test_same_seed_same_clip_other_seed_another():
    first, again, other = (vehicle_clip(seed, frames=1) for seed in (3, 3, 4))
    assert (first.frames == again.frames).all()
    assert (first.labels.box == again.labels.box).all()
    assert (first.frames != other.frames).mean() > 0.5


@pytest.mark.parametrize("camera", ["static", "pan"])
def test_more_frames_continue_the_same_clip(camera):
    short, long = vehicle_clip(5, frames=2, camera=camera), vehicle_clip(5, frames=4, camera=camera)
    assert (long.frames[:2] == short.frames).all()
    assert (long.labels.take(range(2)).box == short.labels.box).all()


def test_boxes_lie_in_the_picture_and_most_count():
    clips = [vehicle_clip(seed, frames=1, camera=("static", "pan")[seed % 2]) for seed in range(30)]
    boxes = np.concatenate([clip.labels.box for clip in clips])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= 256).all()
    assert 0.05 < np.concatenate([clip.labels.ignored for clip in clips]).mean() < 0.3
    counts = np.bincount(np.concatenate([clip.labels.label for clip in clips]), minlength=3)
    assert counts[0] > counts[1] > counts[2] > 10
    # Small: the median side is a few strides of the finest map, 8 pixels.
    assert 12 < np.median((boxes[:, 2:] - boxes[:, :2]).max(axis=1)) < 32


def test_a_static_camera_changes_little_and_a_panning_one_all():
    shares = {}
    for camera in ("static", "pan"):
        clip = vehicle_clip(20, frames=2, camera=camera)
        change = np.abs(clip.frames[1].astype(int) - clip.frames[0]).max(axis=2)
        shares[camera] = (change > 20).mean()
    assert shares["static"] < 0.03
    assert shares["pan"] > 3 * shares["static"]


def test_boxes_move_with_the_pixels():
    # With 25 frames a second, a box of the second frame holds nearly the same picture as it did in the first.
    clip = vehicle_clip(8, frames=2, camera="pan")
    labels = clip.labels
    before, after = labels.box[labels.of_frame(0) & ~labels.ignored], labels.box[labels.of_frame(1) & ~labels.ignored]
    centres = [(box[:, :2] + box[:, 2:]) / 2 for box in (before, after)]
    nearest = np.linalg.norm(centres[1][:, None] - centres[0][None], axis=2).min(axis=1)
    assert np.median(nearest) < 5
    assert nearest.max() > 0.2


def test_vehicles_of_a_lane_do_not_touch_and_come_again():
    lane = Lane((0.0, 0.0), 0.0, 1000.0, 20.0)
    vehicles = traffic(np.random.default_rng(0), lane, 20.0, 0.4)
    assert len(vehicles) > 10
    ends = sorted((vehicle.position - vehicle.radii[0], vehicle.position + vehicle.radii[0]) for vehicle in vehicles)
    assert all(one[1] < other[0] for one, other in pairwise(ends))
    assert lane.place(980.0, 2.0) == (pytest.approx(20.0), 0.0)


def test_box_of_a_tilted_vehicle_is_closed_form():
    grey = np.zeros(3, np.float32)
    vehicle = Vehicle(0, (10.0, 4.0), grey, grey, Lane((0.0, 0.0), math.radians(30), 1.0, 0.0), 0.0, 0.5)
    reach_x, reach_y = 10 * math.cos(math.pi / 6) + 4 * 0.5, 10 * 0.5 + 4 * math.cos(math.pi / 6)
    assert vehicle.extent((50.0, 60.0)) == pytest.approx((50 - reach_x, 60 - reach_y, 50 + reach_x, 60 + reach_y))


@pytest.mark.parametrize("degrees", [0, 30, 90, 217])
def test_a_tilted_rectangle_covers_its_area(degrees):
    window = tilted_rectangle((80, 90), (41.3, 37.8), (12.0, 5.0), math.radians(degrees))
    assert window[2].sum() == pytest.approx(4 * 12 * 5, rel=0.02)
    assert tilted_rectangle((80, 90), (-40.0, 20.0), (12.0, 5.0), 0.3) is None
    image = np.zeros((80, 90, 3), np.float32)
    draw_tilted(image, (41.3, 37.8), (12.0, 5.0), math.radians(degrees), 100.0, 0.5)
    assert image.sum() == pytest.approx(3 * 50 * 240, rel=0.02)
    assert image.max() == pytest.approx(50)


def test_splits_and_cameras_take_turns():
    clips = list(vehicle_clips("test", 2, first=3, frames=1, rows=64, cols=64))
    assert [(clip.seed, clip.camera) for clip in clips] == [(2_000_003, "pan"), (2_000_004, "static")]
    assert SPLITS["test"][0] == 2_000_000
    assert dict(zip(CLASSES, COCO_IDS, strict=True)) == {"car": 3, "truck": 8, "bus": 6}  # categories of COCO 2017


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
        ({"seed": 1, "rows": 32}, "rows must be a whole number >= 64, got 32"),
        ({"seed": 1, "frames": True}, "frames must be a whole number >= 1, got True"),
        ({"seed": 1, "camera": "pann"}, "camera 'pann' is unknown; did you mean 'pan'"),
        ({"seed": 1, "frames_per_second": 0}, "frames_per_second must be > 0, got 0"),
    ],
)
def test_wrong_arguments_fail_well(arguments, text):
    with pytest.raises(InputError, match=text):
        vehicle_clip(**arguments)
    with pytest.raises(InputError, match="split 'tests' is unknown; did you mean 'test'"):
        next(vehicle_clips("tests", 1))


BOXES = {
    "frame": np.array([0, 1]),
    "box": np.array([[0, 0, 4, 4], [1, 1, 3, 3]], np.float32),
    "label": np.array([0, 1]),
    "ignored": np.array([False, False]),
}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"box": np.array([[0, 0, 4, 4], [3, 1, 3, 3]], np.float32)},
            r"box of box 1 must have x1 > x0 and y1 > y0, got",
        ),
        ({"frame": np.array([0, 2])}, r"frame of box 1 must be 0\.\.1, got 2"),
        ({"label": np.array([-1, 0])}, r"label of box 0 must be 0\.\.1, got -1"),
        ({"ignored": np.array([False])}, r"ignored must have shape \[2\], got \[1\]"),
        ({"ids": (3,)}, "2 classes need as many ids, got 1"),
    ],
)
def test_boxes_that_do_not_belong_together_are_refused(change, text):
    with pytest.raises(InputError, match=text):
        BoxLabels(**{"frames": 2, "rows": 8, "cols": 8, "classes": ("car", "bus"), "ids": (3, 6), **BOXES, **change})
