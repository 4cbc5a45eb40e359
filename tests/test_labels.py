"""Are joints of the user's own clips scored right, in the video's own pixels, and do wrong files fail well?"""

from __future__ import annotations

import json

import numpy as np
import pytest

from skipsim import InputError
from skipsim.analysis.inputs.gated_network import Gating
from skipsim.analysis.inputs.labels import label_scorer
from skipsim.analysis.running.record_clip import record_clip

ROWS, COLS = 64, 128
SPOTS = [[(2, 3), (4, 7), (6, 1)], [(1, 1), (5, 6), (3, 4)]]  # (row, column) in heat maps of 8 x 8, per frame and joint


def heatmaps():
    """Return one output per frame, [1, joints, 8, 8], with a single peak per joint."""
    maps = np.zeros((2, 1, 3, 8, 8))
    for frame, spots in enumerate(SPOTS):
        for joint, (row, col) in enumerate(spots):
            maps[frame, 0, joint, row, col] = 1
    return list(maps)


def truth():
    """Return where these peaks lie in the video: a heat map pixel is 8 x 16 of its pixels, centres on centres."""
    return np.array([[((col + 0.5) * 16 - 0.5, (row + 0.5) * 8 - 0.5) for row, col in spots] for spots in SPOTS])


def save(folder, **arrays):
    np.savez(folder / "joints.npz", **arrays)
    return folder / "joints.npz"


def test_exact_joints_score_1_whatever_the_size_of_the_heat_maps(tmp_path):
    scores = label_scorer(save(tmp_path, joints=truth()), ROWS, COLS)(heatmaps())
    assert scores == {"pck@0.05": 1.0, "pck@0.1": 1.0, "pck@0.2": 1.0, "headline": "pck@0.05"}


def test_distance_is_divided_by_the_greater_side_of_the_box_or_by_the_given_scale(tmp_path):
    joints = truth()
    sides = [max(np.ptp(frame[:, 0]), np.ptp(frame[:, 1])) for frame in joints]
    moved = joints.copy()
    moved[0, 0, 1] += 0.07 * sides[0]  # down, inside the box: its size stays
    scores = label_scorer(save(tmp_path, joints=moved), ROWS, COLS)(heatmaps())
    assert (scores["pck@0.05"], scores["pck@0.1"]) == (5 / 6, 1.0)
    far = label_scorer(save(tmp_path, joints=moved, scale=np.array([1e-3, 1.0])), ROWS, COLS)(heatmaps())
    assert far["pck@0.2"] == 5 / 6


def test_invisible_joints_do_not_count(tmp_path):
    moved = truth()
    moved[1, 2] += 40
    visible = np.ones((2, 3), bool)
    assert label_scorer(save(tmp_path, joints=moved), ROWS, COLS)(heatmaps())["pck@0.2"] == 5 / 6
    visible[1, 2] = False
    assert label_scorer(save(tmp_path, joints=moved, visible=visible), ROWS, COLS)(heatmaps())["pck@0.2"] == 1


def test_only_the_recorded_frames_are_scored(tmp_path):
    score = label_scorer(save(tmp_path, joints=truth()), ROWS, COLS, frames=1)
    assert score(heatmaps()[:1])["pck@0.05"] == 1
    with pytest.raises(InputError, match=r"joints\.npz: are for 1 frames, the clip has 2"):
        score(heatmaps())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"visible": np.ones((2, 3))}, "array 'joints' is missing"),
        ({"joints": truth(), "visibel": np.ones((2, 3))}, "unknown array 'visibel'; did you mean 'visible'?"),
        ({"joints": truth()[0]}, r"joints must be finite numbers \[frames, joints, 2\], got \[3, 2\]"),
        ({"joints": np.full((2, 3, 2), np.nan)}, "joints must be finite numbers"),
        ({"joints": np.array([["left", "knee"]])}, "joints must be numbers, got <U4"),
        ({"joints": truth(), "visible": np.ones((3, 2))}, r"visible must have shape \[2, 3\], got \[3, 2\]"),
        ({"joints": truth(), "scale": np.ones(3)}, r"scale must have shape \[2\], got \[3\]"),
        ({"joints": np.float64(3)}, r"joints must be finite numbers \[frames, joints, 2\], got \[\]"),
        ({"joints": np.zeros((2, 0, 2))}, r"joints must be finite numbers \[frames, joints, 2\], got \[2, 0, 2\]"),
        ({"joints": truth(), "scale": np.array(["a", "b"])}, "scale must be numbers, got <U1"),
        ({"joints": truth(), "visible": np.full((2, 3), "yes")}, "visible must be numbers, got <U3"),
        ({"joints": truth(), "visible": np.zeros((2, 3), bool)}, "no joint is visible, so there is nothing to score"),
        ({"joints": truth(), "scale": np.array([1.0, np.nan])}, "scale, by default .*, must be > 0, got nan"),
        ({"joints": np.ones((2, 3, 2))}, "scale, by default .*, must be > 0, got 0"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message):
        label_scorer(save(tmp_path, **arrays), ROWS, COLS)


def test_outputs_that_are_no_heat_maps_of_these_joints_are_named(tmp_path):
    score = label_scorer(save(tmp_path, joints=truth()), ROWS, COLS)
    for output, got in (
        (np.zeros((1, 4, 8, 8)), r"\[1, 4, 8, 8\]"),
        (np.zeros((3, 8)), r"\[3, 8\]"),
        (([np.zeros((1, 3, 8, 8))], []), "tuple"),
    ):
        message = rf"joints\.npz: joints need a network that puts out a heat map for each, \[3, rows, cols\], got {got}"
        with pytest.raises(InputError, match=message):
            score([output, output])


@pytest.mark.parametrize(
    ("network", "size", "message"),
    [
        ("detection_small", 32, r"boxes\.json: are for frames of 32 x 64, those of film\.npy are 64 x 64"),
        (
            "pose_small",
            64,
            r"boxes\.json: boxes need a network with a method detect \(see README\); pose_small has none",
        ),
    ],
)
def test_boxes_that_do_not_fit_the_video_or_the_network_are_refused(tmp_path, monkeypatch, network, size, message):
    monkeypatch.chdir(tmp_path)
    np.save("film.npy", np.zeros((2, 64, 64, 3), np.uint8))
    images = [
        {"id": frame, "video_id": 1, "frame_id": frame, "file_name": "", "width": 64, "height": size}
        for frame in (0, 1)
    ]
    boxes = {"images": images, "annotations": [], "categories": [{"id": 3, "name": "car"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    with pytest.raises(InputError, match=message):
        record_clip(network, "film.npy", "a.trace", Gating("none"), labels="boxes.json")
    assert not (tmp_path / "a.trace").exists()


def test_clips_that_follow_each_other_each_begin_anew(tmp_path):
    trace = record_clip("pose_small", "pose:test:2", tmp_path / "a.trace", Gating(threshold=0.1), frames=2)
    assert trace.origin["clip_starts"] == [0, 2]
    assert [trace.reference(frame) for frame in range(trace.frames)] == [True, False, True, False]


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"joints\.npz: no such file"):
        label_scorer(tmp_path / "joints.npz", ROWS, COLS)
    for content in (b"", b"some text", b"PK\x03\x04 cut"):
        (tmp_path / "joints.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"must be an \.npz file of arrays joints, visible, scale"):
            label_scorer(tmp_path / "joints.npz", ROWS, COLS)
    np.save(tmp_path / "joints.npy", truth())
    with pytest.raises(InputError, match=r"must be an \.npz file of arrays"):
        label_scorer(tmp_path / "joints.npy", ROWS, COLS)
