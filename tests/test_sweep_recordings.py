"""Does a sweep record what its study asks for, once, and check first what can be wrong with it?"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skipsim.analysis.sweep import Pending, pending, sweep
from skipsim.errors import InputError
from skipsim.traces.trace import load_trace

OWN = """
from torch import manual_seed, nn

def make():
    manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3))

class Broken(nn.Sequential):
    def forward(self, x):
        raise RuntimeError("out of ideas")

def broken():
    return Broken(nn.Conv2d(3, 2, 1))
"""
OWN_STUDY = """
name = "own"
[recording]
network = ["own_network:make"]
clip = "clip.npy"
frames = 3
threshold = [0, 0.2]
block = [1, 4]
[simulation]
hardware = "edge-npu"
tile = "4x4"
"""


def change(study: Path, old: str, new: str) -> None:
    text = study.read_text(encoding="utf-8")
    assert old in text
    study.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def own_study(tmp_path: Path) -> Path:
    (tmp_path / "own_network.py").write_text(OWN)
    rng = np.random.default_rng(1)
    clip = np.repeat(rng.integers(0, 256, (1, 18, 20, 3), np.uint8), 4, axis=0)
    for frame in range(1, 4):
        clip[frame, 4 : 8 + frame, 5:9] = rng.integers(0, 256, 3)
    np.save(tmp_path / "clip.npy", clip)
    file = tmp_path / "study.toml"
    file.write_text(OWN_STUDY)
    return file


def test_own_network_on_own_clip_is_recorded_per_block_and_threshold(own_study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    table = sweep(own_study, out, 2)
    assert (table["error"] == "").all()
    assert table[["block", "threshold"]].values.tolist() == [["1x1", 0], ["1x1", 0.2], ["4x4", 0], ["4x4", 0.2]]
    assert (table["quality_metric"] == "agreement").all()
    assert (table["frames"] == 3).all()
    exact = table["threshold"] == 0
    assert table["quality"][exact].tolist() == pytest.approx([1, 1], abs=1e-6)
    assert (table["quality"][~exact] < 1).all()
    density = table.set_index(["block", "threshold"])["density"]
    assert density["4x4", 0.2] > density["1x1", 0.2]
    assert density["1x1", 0] > density["1x1", 0.2]

    traces = {path.name: path.stat().st_ino for path in (out / "traces").iterdir()}
    assert len(traces) == 4
    change(own_study, "[1, 4]", "[1, 2]")
    assert pending(own_study, out) == Pending(rows=4, recordings=4, missing_recordings=2, missing_simulations=2)
    again = sweep(own_study, out, 1)
    assert traces.items() <= {path.name: path.stat().st_ino for path in (out / "traces").iterdir()}.items()
    pd.testing.assert_frame_equal(again[again["block"] == "1x1"], table[table["block"] == "1x1"])
    # another content under the same name is another recording
    np.save(tmp_path / "clip.npy", np.load(tmp_path / "clip.npy")[::-1])
    assert pending(own_study, out).missing_recordings == 4


def test_how_gates_look_and_share_are_axes(own_study: Path, tmp_path: Path) -> None:
    change(own_study, "threshold = [0, 0.2]", 'threshold = 0.2\nsignal = ["", "frame"]\nshare = ["", "network"]')
    change(own_study, "block = [1, 4]", 'update = ["recompute", "previous"]\nreset_every = [0, 2]')
    table = sweep(own_study, tmp_path / "out", 2)
    assert (table["error"] == "").all()
    axes = ["share", "signal", "update", "reset_every"]
    seen = list(table[axes].itertuples(index=False, name=None))
    assert seen == list(product(["", "network"], ["", "frame"], ["recompute", "previous"], [0, 2]))
    density = table.set_index(axes)["density"]
    # frames of 0..1 lie above the threshold nearly everywhere, also where nothing moves; resets compute a frame more
    assert density["", "frame", "recompute", 0] > 2 * density["", "", "recompute", 0]
    assert density["", "", "recompute", 2] > density["", "", "recompute", 0]
    assert table["trace_hash"].nunique() > 8


def test_a_recording_that_fails_is_rows_with_its_reason(own_study: Path, tmp_path: Path) -> None:
    change(own_study, '"own_network:make"', '"own_network:make", "own_network:broken"')
    table = sweep(own_study, tmp_path / "out", 1)
    broken = table["network"] == "own_network:broken"
    assert broken.tolist() == [False] * 4 + [True] * 4
    assert set(table["error"][broken]) == {
        "recording: network own_network:broken: failed on frame 0, input [1, 3, 18, 20] in own_network.py, line 10: "
        "RuntimeError: out of ideas"
    }
    assert (table["error"][~broken] == "").all()
    assert pending(own_study, tmp_path / "out").missing_recordings == 4


@pytest.mark.parametrize("size", ["", "size = [64, 64]"])
def test_a_video_of_changing_size_is_resized_only_on_request(own_study: Path, tmp_path: Path, size: str) -> None:
    (tmp_path / "film").mkdir()
    for frame, cols in enumerate((32, 32, 9)):
        Image.fromarray(np.zeros((24, cols, 3), np.uint8)).save(tmp_path / "film" / f"{frame}.png")
    change(own_study, '"own_network:make"', '"pose_small"')
    change(own_study, 'clip = "clip.npy"', f'clip = "film"\n{size}')
    change(own_study, "block = [1, 4]", "block = 4")
    errors = set(sweep(own_study, tmp_path / "out", 1)["error"])
    rule = "all frames must have one size, 24 x 32 like the first, got 24 x 9; or give a size to resize to"
    assert errors == ({""} if size else {f"recording: {tmp_path}/film/2.png: {rule}"})


def test_a_changed_module_is_read_anew_by_processes_that_live_on(own_study: Path, tmp_path: Path) -> None:
    sweep(own_study, tmp_path / "out", 1)
    file = tmp_path / "own_network.py"
    file.write_text(
        OWN.replace("nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4", "nn.Conv2d(3, 5, 1), nn.Conv2d(5")
    )
    sweep(own_study, tmp_path / "out", 1)
    layers = [load_trace(path).layers[0].out_channels for path in (tmp_path / "out" / "traces").iterdir()]
    assert sorted(layers) == [4] * 4 + [5] * 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"own_network:make"', '"own_network:mak"', "module 'own_network' has no function 'mak'"),
        ("threshold = [0, 0.2]", 'threshold = 0.2\ngate = "input_nrm"', "gate 'input_nrm' is unknown; did you mean"),
        ("threshold = [0, 0.2]", 'threshold = 0.2\nweights = "clip.npy"', "not a PyTorch file"),
    ],
)
def test_what_only_torch_can_check_is_checked_before_anything_is_written(
    own_study: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    change(own_study, old, new)
    with pytest.raises(InputError, match=message):
        sweep(own_study, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_procedural_clips_are_scored_by_their_labels(tmp_path: Path) -> None:
    study = tmp_path / "pose.toml"
    study.write_text(
        'name = "pose"\n[recording]\nnetwork = "pose_small"\nclip = "pose:test:2"\nframes = 2\nthreshold = 0\n'
        '[simulation]\nhardware = "edge-npu"\ntile = "full"\n'
    )
    (row,) = sweep(study, tmp_path / "out", 1).to_dict("records")
    assert (row["quality_metric"], row["frames"], row["error"]) == ("pck@0.05", 4, "")
    assert row["quality"] == row["dense_quality"] > 0.5
    (trace,) = (tmp_path / "out" / "traces").iterdir()
    assert load_trace(trace).reference_frames == (0, 2)
