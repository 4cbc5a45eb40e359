"""Are procedural clips what their labels say, the same for the same seed, and never shared between splits?"""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from skipsim.errors import InputError
from skipsim.traces.datasets import SPLITS, pose_clip, pose_clips
from skipsim.traces.procedural.canvas import draw_capsule, draw_ellipse, draw_rectangle
from skipsim.traces.procedural.figure import ACTIVITIES, JOINTS, MIRRORED, Swing, random_figure


def test_shapes_and_types():
    clip = pose_clip(7, frames=3, rows=96, cols=120)
    assert clip.frames.shape == (3, 96, 120, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.joints.shape == (3, len(JOINTS), 2)
    assert clip.joints.dtype == clip.box.dtype == clip.scale.dtype == np.float32
    assert clip.visible.shape == (3, len(JOINTS))
    assert clip.visible.dtype == np.bool_
    assert (clip.seed, clip.camera) == (7, "static")


def test_same_seed_same_clip_other_seed_another():
    first, again, other = pose_clip(3, frames=2), pose_clip(3, frames=2), pose_clip(4, frames=2)
    assert (first.frames == again.frames).all()
    assert (first.joints == again.joints).all()
    assert (first.frames != other.frames).mean() > 0.5


def test_more_frames_continue_the_same_clip():
    for camera in ("static", "pan"):
        short, long = pose_clip(5, frames=2, camera=camera), pose_clip(5, frames=5, camera=camera)
        assert (long.frames[:2] == short.frames).all()
        assert (long.joints[:2] == short.joints).all()


def test_box_and_scale_follow_from_the_joints():
    clip = pose_clip(11, frames=4)
    for t in range(4):
        x, y = clip.joints[t, :, 0], clip.joints[t, :, 1]
        assert clip.box[t].tolist() == [x.min(), y.min(), x.max(), y.max()]
        assert clip.scale[t] == max(x.max() - x.min(), y.max() - y.min())


def test_joints_outside_the_picture_are_not_visible():
    found = 0
    for seed in range(40):
        clip = pose_clip(seed, frames=6, camera="pan", frames_per_second=2)
        outside = ((clip.joints < -0.5) | (clip.joints > 127.5)).any(axis=2)
        assert not (clip.visible & outside).any()
        found += int(outside.sum())
    assert found > 0


def test_objects_hide_some_joints_and_most_stay_visible():
    visible = np.concatenate([pose_clip(seed, frames=1).visible for seed in range(80)])
    assert 0.85 < visible.mean() < 0.99


def test_picture_changes_where_the_person_is_and_only_there_with_a_static_camera():
    quiet = near = 0
    for seed in range(12):
        clip = pose_clip(seed, frames=4)
        change = np.abs(np.diff(clip.frames.astype(int), axis=0)).mean(axis=(0, 3))
        # The noise of two frames differs by sqrt(2) x 1..3 grey levels: a mean of 1.1 to 3.4.
        quiet += (change < 6).mean()
        x0, y0, x1, y1 = clip.box[1].astype(int).clip(0, 127)
        near += change[y0 : y1 + 1, x0 : x1 + 1].mean() / change.mean()
    assert quiet / 12 > 0.85
    assert near / 12 > 1.3


def test_panning_camera_moves_the_background():
    static, pan = (pose_clip(21, frames=9, camera=camera).frames.astype(int) for camera in ("static", "pan"))
    assert np.abs(pan[8] - pan[0]).mean() > 2 * np.abs(static[8] - static[0]).mean()


def test_splits_never_share_a_seed_and_cameras_alternate():
    for one, other in combinations(SPLITS.values(), 2):
        assert max(one) < min(other) or max(other) < min(one)
    for split, seeds in SPLITS.items():
        clips = list(pose_clips(split, 3, first=4, frames=1, rows=32, cols=32))
        assert [clip.seed for clip in clips] == [seeds[4], seeds[5], seeds[6]]
        assert [clip.camera for clip in clips] == ["static", "pan", "static"]


def figure(**changes):
    made = random_figure(np.random.default_rng(0), height=80, ground=100, middle=64, room=0, activity="idle")
    return replace(made, **{"yaw": Swing(0), **changes})


def test_person_stands_on_the_ground_at_its_height_and_left_is_on_the_right_when_it_faces_the_camera():
    points = figure().points(0.0)
    names = {name: points[index] for index, name in enumerate(JOINTS)}
    lowest = max(names["right_ankle"][1], names["left_ankle"][1])
    assert 95 < lowest < 100
    assert 100 - 85 < names["face"][1] < 100 - 65
    for part in ("shoulder", "hip"):
        assert names[f"left_{part}"][0] > names[f"right_{part}"][0]
    turned = dict(zip(JOINTS, figure(yaw=Swing(180)).points(0.0), strict=False))
    assert turned["left_shoulder"][0] < turned["right_shoulder"][0]
    walking_right = dict(zip(JOINTS, figure(yaw=Swing(90)).points(0.0), strict=False))
    # Seen from the side, facing right: the right shoulder is nearer, and the face is in front of the neck.
    assert walking_right["right_shoulder"][2] > walking_right["left_shoulder"][2]
    assert walking_right["face"][0] > walking_right["neck"][0]


@pytest.mark.parametrize("activity", ACTIVITIES)
def test_limbs_keep_their_length_in_every_activity(activity):
    made = random_figure(np.random.default_rng(1), height=90, ground=110, middle=64, room=20, activity=activity)
    upper, lower = [], []
    for seconds in np.linspace(0, 3, 13):
        points = made.points(float(seconds))
        upper.append(np.linalg.norm(points[JOINTS.index("left_knee")] - points[JOINTS.index("left_hip")]))
        lower.append(np.linalg.norm(points[JOINTS.index("right_wrist")] - points[JOINTS.index("right_elbow")]))
    assert upper == pytest.approx([90 * made.body.thigh] * 13)
    assert lower == pytest.approx([90 * made.body.forearm] * 13)


def test_mirroring_swaps_left_and_right():
    swap = {"left": "right", "right": "left"}
    for index, name in enumerate(JOINTS):
        side, _, part = name.partition("_")
        assert JOINTS[MIRRORED[index]] == (f"{swap[side]}_{part}" if part else name)


def test_drawn_shapes_cover_their_area():
    # Areas in closed form: pi r^2 + 2 r l, pi a b, 4 a b; soft edges keep the sum.
    white = np.ones(3, np.float32)
    for draw, area in (
        (
            lambda image: draw_capsule(image, (20, 20), (50, 40), 6, 6, white, shading=0),
            np.pi * 36 + 12 * np.hypot(30, 20),
        ),
        (lambda image: draw_ellipse(image, (30, 30), (14, 9), white), np.pi * 14 * 9),
        (lambda image: draw_rectangle(image, (30, 30), (14, 9.5), white), 4 * 14 * 9.5),
    ):
        image = np.zeros((64, 64, 3), np.float32)
        draw(image)
        assert image[..., 0].sum() == pytest.approx(area, rel=0.02)
        assert image.min() >= 0
        assert image.max() <= 1


def test_shapes_outside_the_picture_draw_nothing():
    image = np.zeros((16, 16, 3), np.float32)
    draw_capsule(image, (-30, 5), (-20, 5), 3, 3, np.ones(3, np.float32))
    draw_ellipse(image, (40, 8), (3, 3), np.ones(3, np.float32))
    draw_rectangle(image, (8, -9), (3, 3), np.ones(3, np.float32))
    assert not image.any()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"frames": 0}, "pose clip: frames must be a whole number >= 1, got 0"),
        ({"rows": 31}, "pose clip: rows must be a whole number >= 32, got 31"),
        ({"cols": 64.5}, r"pose clip: cols must be a whole number >= 32, got 64\.5"),
        ({"seed": -1}, "pose clip: seed must be a whole number >= 0, got -1"),
        ({"camera": "pann"}, r"pose clip: camera 'pann' is unknown; did you mean 'pan'\?"),
        ({"frames_per_second": 0}, "pose clip: frames_per_second must be > 0, got 0"),
    ],
)
def test_bad_options_fail_well(options, text):
    with pytest.raises(InputError, match=text):
        pose_clip(**{"seed": 0, **options})


def test_bad_splits_fail_well():
    with pytest.raises(InputError, match=r"split 'tests' is unknown; did you mean 'test'\?"):
        list(pose_clips("tests", 1))
    with pytest.raises(InputError, match="test has 100000 clips, asked for 2 from 99999 on"):
        list(pose_clips("test", 2, first=99_999))
