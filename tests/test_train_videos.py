"""Are networks and gates trained on the videos that people have, on the pixels and by the scores of a recording?"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_hrnet import tiny_hrnet
from torch import nn
from video_folders import save_jhmdb_split, save_jhmdb_video, save_pictures, save_uavdt_video

from skipsim.analysis.cli import main
from skipsim.analysis.inputs.clips import load_clip
from skipsim.analysis.inputs.labels import quality_of
from skipsim.analysis.inputs.training_clips import training_clips
from skipsim.errors import InputError
from skipsim.traces.data_sets.jhmdb import JOINTS
from skipsim.traces.datasets import pose_clip
from skipsim.traces.gumbel import load_gumbel
from skipsim.traces.models.efficientdet import EfficientDet, Stage
from skipsim.traces.procedural import figure
from skipsim.traces.procedural.vehicle_clips import vehicle_clip
from skipsim.traces.record import record
from skipsim.traces.train import train
from skipsim.traces.training.detection_task import IGNORED, NOTHING, box_arrays, own_detection
from skipsim.traces.training.gumbel_training import GateSettings
from skipsim.traces.training.picture_pool import make_pool
from skipsim.traces.training.training_run import Plan
from skipsim.traces.training.training_videos import held_out
from skipsim.traces.training.video_task import output_distance, video_task

ROWS, COLS, FRAMES = 48, 64, 6
SMALL = {
    "seed": 3,
    "steps": 4,
    "batch": 4,
    "pool_clips": 12,
    "rows": 32,
    "cols": 32,
    "checkpoint_every": 2,
    "validation_clips": 1,
    "test_clips": 2,
    "test_frames": 3,
}
GATES = {"clip_frames": 3, "pool_frames": 3, "batch": 2}


def save_pose(root, action, video, seed, frames=FRAMES, visible=True):
    clip = pose_clip(seed, frames, ROWS, COLS)
    positions = clip.joints.transpose(2, 1, 0) + (1 if visible else 1000)
    mask = np.zeros((ROWS, COLS, frames), np.uint8)
    for frame, (x0, y0, x1, y1) in enumerate(np.clip(clip.box, 0, COLS - 1).astype(int)):
        mask[y0 : y1 + 1, x0 : x1 + 1, frame] = 1
    save_jhmdb_video(root, action, video, clip.frames, positions, mask)


@pytest.fixture(scope="module")
def jhmdb(tmp_path_factory):
    """Seven videos to train on and two for tests, of procedural persons."""
    root = tmp_path_factory.mktemp("jhmdb")
    for number in range(9):
        save_pose(root, "walk", f"v{number}", number)
    save_jhmdb_split(root, "walk", 1, [f"v{number}.avi {1 if number < 7 else 2}" for number in range(9)])
    return root


@pytest.fixture(scope="module")
def uavdt(tmp_path_factory):
    root = tmp_path_factory.mktemp("uavdt")
    for number in range(4):
        clip = vehicle_clip(number, 4, 72, 96)
        labels, lines = clip.labels, []
        for frame, (x0, y0, x1, y1), kind in zip(labels.frame, labels.box, labels.label, strict=True):
            lines.append(f"{frame + 1},1,{x0},{y0},{x1 - x0},{y1 - y0},1,1,{kind + 1}")
        save_uavdt_video(
            root, "train" if number < 3 else "test", f"M{number}", clip.frames, lines, ["1,-1,0,60,96,12,1,-1,-1"]
        )
    return root


def tiny_detection(outputs=3, anchor_scale=2.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stages = [Stage(8, 1, 1, 3, 1), Stage(8, 1, 2, 3, 2), Stage(8, 1, 2, 3, 2), Stage(8, 1, 2, 3, 2)]
        return EfficientDet(
            outputs, stem=8, stages=stages, channels=8, cells=1, repeats=1, levels=3, anchor_scale=anchor_scale
        )


def run(clips, out, network=None, gates=None, score_on=None, **changes):
    videos = training_clips(str(clips), score_on)
    plan = {**SMALL, **(GATES if gates else {}), **changes}
    return train(network or tiny_hrnet(), videos, out, gates=gates, progress=False, **plan)


def losses(out):
    return [float(row["loss"]) for row in csv.DictReader(out.with_suffix(".csv").open())]


# --- pixels and labels


def test_joints_are_those_of_the_procedural_clips_in_the_same_order():
    assert tuple(name.replace(" ", "_") for name in JOINTS) == figure.JOINTS
    sides = {"left": "right", "right": "left"}
    for name, other in zip(JOINTS, figure.MIRRORED, strict=True):
        assert JOINTS[other] == " ".join(sides.get(word, word) for word in name.split())


def test_procedural_vehicles_too_are_learnt_by_a_networks_own_anchors_and_classes(tmp_path):
    clip, small, whole = vehicle_clip(0, 2, 64, 64), tiny_detection(), tiny_detection(90, anchor_scale=4.0)
    assert (own_detection(small).labels(clip)[1] == box_arrays(clip.labels)[1]).all()
    boxes, kinds = (torch.from_numpy(one) for one in own_detection(whole).labels(clip))
    assert set(kinds.unique().tolist()) - {NOTHING, IGNORED} <= {2, 5, 7}  # car, bus, truck of COCO
    with torch.no_grad():
        maps = whole(torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 255)
    loss = own_detection(whole).loss(maps, (boxes, kinds), Plan())
    other = own_detection(tiny_detection(90)).loss(maps, (boxes, kinds), Plan())
    assert loss != other  # of anchors of another size
    plan = SMALL | {"rows": 64, "cols": 64, "pool_frames": 1}
    report = train(tiny_detection(90, 4.0), "detection", tmp_path / "a.safetensors", progress=False, **plan)
    assert 0 <= report["scores"]["all"]["ap"] <= 1


def test_windows_hold_the_pixels_that_a_recording_sees_and_labels_move_with_them(jhmdb):
    name = f"jhmdb:{jhmdb}:1:train"
    videos = training_clips(name)
    seen = np.stack(list(load_clip(name, size=(32, 32)).frames)).reshape(7, FRAMES, 32, 32, 3)
    plan = Plan(**{**SMALL, **GATES, "pool_clips": 100, "pool_frames_per_second": 12.5})
    task = video_task(videos, tiny_hrnet(), "tiny", plan, None)
    pool = make_pool(task, plan, lambda made: None)
    # Every other frame of 6, at two places, out of the six videos that are not held out.
    assert pool.pictures.shape == (12, 3, 32, 32, 3)
    for number, (pictures, joints, visible) in enumerate(zip(pool.pictures, *pool.labels, strict=True)):
        video, start = divmod(number, 2)
        clip = pose_clip(video, FRAMES, ROWS, COLS)
        frames = slice(start, start + 5, 2)
        assert (pictures == seen[video, frames]).all()
        assert joints == pytest.approx((clip.joints[frames] + 0.5) * (32 / COLS, 32 / ROWS) - 0.5, abs=1e-4)
        inside = (clip.joints[frames] >= -0.5) & (clip.joints[frames] < (COLS - 0.5, ROWS - 0.5))
        assert (visible == inside.all(axis=2)).all()


def test_videos_too_short_for_a_low_rate_are_taken_at_a_higher_one_and_shorter_ones_left_out(tmp_path):
    for number, frames in enumerate((5, 2, 13, 3)):
        save_pose(tmp_path, "walk", f"v{number}", number, frames)
    save_jhmdb_split(tmp_path, "walk", 1, ["v0.avi 1", "v1.avi 1", "v2.avi 1", "v3.avi 2"])
    videos = training_clips(f"jhmdb:{tmp_path}:1:train")
    assert [video.name for video in (*videos.train, *videos.validation, *videos.test)] == ["v0", "v1", "v2", "v3"]
    windows = list(videos("train", 9, frames=3, rows=32, cols=32, frames_per_second=5))
    assert [(window.video.name, len(window.video), window.camera) for window in windows] == [("v0", 3, "own")]
    files = [file.name for file in windows[0].video.files]
    assert files == ["00001.png", "00003.png", "00005.png"]  # 5 frames apart are 11 frames
    (test,) = videos("test", 9, frames=12, rows=32, cols=32)
    assert len(test.frames) == 3
    with pytest.raises(InputError, match=r"at least 6 frames \(pool_frames, in whole clip_frames\); the longest, 'v0'"):
        videos("train", 9, frames=6, rows=32, cols=32)


def test_one_video_is_held_out_by_its_end_and_several_by_the_last_of_them(tmp_path):
    np.save(tmp_path / "film.npy", np.zeros((20, 8, 8, 3), np.uint8))
    videos = training_clips(str(tmp_path / "film.npy"))
    assert (videos.train[0].frames, videos.validation[0].frames) == (range(17), range(17, 20))
    assert videos.test == videos.validation
    train_on, kept = held_out([videos.train[0]] * 13)
    assert (len(train_on), len(kept)) == (11, 2)


def test_uavdt_boxes_are_scaled_and_classes_are_the_networks(uavdt):
    videos = training_clips(f"uavdt:{uavdt}:train")
    plan = Plan(**{**SMALL, "rows": 64, "cols": 64})
    truth = vehicle_clip(0, 4, 72, 96).labels
    for network, classes in ((tiny_detection(), [0, 1, 2]), (tiny_detection(90), [2, 7, 5])):  # car, truck, bus
        task = video_task(videos, network, "tiny", plan, None)
        windows = list(videos("train", 99, frames=1, rows=64, cols=64))
        assert len(windows) == 2 * 4
        boxes, kinds = task.labels(windows[0])
        here = truth.frame == 0
        assert boxes[0, : here.sum()] == pytest.approx(truth.box[here] * ((64 / 96, 64 / 72) * 2), abs=1e-3)
        assert kinds[0, : here.sum()].tolist() == [classes[label] for label in truth.label[here]]
        assert kinds[0, here.sum()] == IGNORED
        assert set(kinds[0, here.sum() + 1 :]) <= {NOTHING}
    first = task.loss(network(torch.zeros(1, 3, 64, 64)), tuple(map(torch.from_numpy, (boxes, kinds))), plan)
    network.anchor_scale = 4.0
    other = video_task(videos, network, "tiny", plan, None)
    second = other.loss(network(torch.zeros(1, 3, 64, 64)), tuple(map(torch.from_numpy, (boxes, kinds))), plan)
    assert first != second  # the network's own anchors


def test_coco_videos_are_scored_on_other_files_of_the_same_classes(tmp_path):
    def save(name, classes):
        clip = vehicle_clip(3, 4, 72, 96)
        save_pictures(tmp_path / name, "{}.png", clip.frames)
        images = [
            {"id": k, "video_id": 1, "frame_id": k, "file_name": f"{name}/{k + 1}.png", "width": 96, "height": 72}
            for k in range(4)
        ]
        marked = [{"image_id": k, "category_id": 1, "bbox": [10 + k, 20, 30, 20]} for k in range(4)]
        categories = [{"id": number, "name": word} for number, word in enumerate(classes, 1)]
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({"images": images, "annotations": marked, "categories": categories}))
        return f"coco:{file}:{tmp_path}"

    train_on, score_on = save("train", ["van", "bike"]), save("val", ["van", "bike"])
    size, out = {"rows": 64, "cols": 64, "batch": 2, "steps": 2}, tmp_path / "weights.safetensors"
    report = run(train_on, out, tiny_detection(2), score_on=score_on, **size)
    assert report["videos"]["train"] == report["videos"]["validation"] == {"videos": 1, "frames": 2}
    assert report["videos"]["test"] == {"videos": 1, "frames": 4}
    assert report["scores"]["all"]["headline"] == "ap"
    other = tmp_path / "other.safetensors"
    with pytest.raises(InputError, match="and those scored must have the same classes"):
        run(train_on, other, tiny_detection(2), score_on=save("third", ["van", "boat"]), **size)


def test_distance_of_any_output_is_zero_where_equal_and_one_where_constant():
    wanted = {"maps": [torch.rand(2, 3, 4, 4), torch.rand(2, 5)]}
    assert output_distance(wanted, wanted).item() == 0
    flat = {"maps": [torch.full_like(part, part.mean().item()) for part in wanted["maps"]]}
    assert output_distance(flat, wanted).item() == pytest.approx(1)


# --- trainings


def test_training_on_jhmdb_lowers_the_loss_and_scores_as_a_recording_does(jhmdb, tmp_path):
    out, network = tmp_path / "weights.safetensors", tiny_hrnet()
    plan = {"steps": 60, "checkpoint_every": 20, "learning_rate": 0.02, "pool_clips": 40, "test_clips": 9}
    report = run(f"jhmdb:{jhmdb}:1:train", out, network, **plan)
    first, *_, last = losses(out)
    assert last < first - 0.3  # as on procedural clips: uniform heat maps of 8x8 start at log(64) = 4.16
    assert set(report["scores"]) == {"all"}
    assert report["videos"] == {
        "train": {"videos": 6, "frames": 36},
        "validation": {"videos": 1, "frames": 6},
        "test": {"videos": 2, "frames": 12},
    }
    clip = load_clip(f"jhmdb:{jhmdb}:1:test", size=(32, 32))
    trace = record(network, clip.frames, quality=quality_of(clip, network), progress=False)
    assert report["scores"]["all"] == trace.quality


def test_training_on_uavdt_lowers_the_loss_and_scores_as_a_recording_does(uavdt, tmp_path):
    out, network = tmp_path / "weights.safetensors", tiny_detection()
    plan = {"steps": 40, "checkpoint_every": 10, "learning_rate": 0.01, "rows": 64, "cols": 64, "test_frames": 4}
    report = run(f"uavdt:{uavdt}:train", out, network, **plan)
    first, *_, last = losses(out)
    assert last < 0.7 * first
    clip = load_clip(f"uavdt:{uavdt}:test", size=(64, 64))
    trace = record(network, clip.frames, quality=quality_of(clip, network), progress=False)
    assert report["scores"]["all"] == trace.quality
    assert trace.quality["headline"] == "ap@0.7"


# Kills itself, as hard as a process can die, in the step after the first checkpoint.
KILLED = """
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, {folder!r})
    import skipsim.traces.train as training
    from test_train_videos import run, GateSettings
    real, calls = training._take_step, []
    def step(*arguments):
        calls.append(0)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)
    training._take_step = step
    run({clips!r}, Path({out!r}), gates=GateSettings(2))
"""


def test_killed_and_resumed_training_on_videos_ends_with_the_same_weights(jhmdb, tmp_path):
    straight, killed = tmp_path / "straight.safetensors", tmp_path / "killed.safetensors"
    clips = f"jhmdb:{jhmdb}:1:train"
    report = run(clips, straight, gates=GateSettings(2))
    assert set(report["scores"]["all"]) >= {"pck@0.05", "mac_reduction", "gated_mac_reduction"}
    script = textwrap.dedent(KILLED.format(folder=str(Path(__file__).parent), clips=clips, out=str(killed)))
    died = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=os.environ)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert (tmp_path / "killed.checkpoint.safetensors").exists()
    run(clips, killed, gates=GateSettings(2))
    one, other = load_file(straight), load_file(killed)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert straight.with_suffix(".csv").read_text() == killed.with_suffix(".csv").read_text()


def film(folder, kind):
    """Save a film without labels, in which a square moves, and return where it lies."""
    pictures = np.random.default_rng(0).integers(0, 100, (1, 24, 24, 3), np.uint8).repeat(18, axis=0)
    for number, picture in enumerate(pictures):
        picture[number // 2 : number // 2 + 6, 4:10] += 120
    if kind == "npy":
        np.save(folder / "film.npy", pictures)
        return folder / "film.npy"
    save_pictures(folder / "film", "{}.png", pictures)
    return folder / "film"


@pytest.mark.parametrize("kind", ["npy", "folder"])
def test_gates_alone_learn_on_a_video_without_labels(tmp_path, kind):
    def network():
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 1)).eval()

    out = tmp_path / "gates.safetensors"
    options = {"rows": 24, "cols": 24, "beta": 0.5, "beta_rise": 0.0, "steps": 30, "checkpoint_every": 10}
    gates = GateSettings(2, signal="magnitude", filter="channels", freeze=True)
    report = run(film(tmp_path, kind), out, network(), gates, learning_rate=0.01, gate_rate=30.0, **options)
    scores = report["scores"]["all"]
    assert scores["headline"] == "agreement"
    assert scores["agreement"] <= 1
    assert scores["gated_mac_reduction"] > 0
    assert losses(out)[-1] < losses(out)[0]
    assert load_gumbel(network(), out, block=2).weights


def test_gates_alone_go_by_the_dense_network_where_labels_are_not_its_own(jhmdb, tmp_path):
    gates, network = GateSettings(2, freeze=True), tiny_hrnet(outputs=4)
    report = run(f"jhmdb:{jhmdb}:1:train", tmp_path / "gates.safetensors", network, gates, steps=1)
    assert report["scores"]["all"]["headline"] == "agreement"


# --- bad input

NOT_ITS_TASK = "without labels that fit, gates alone are trained, towards the dense network (--gate gumbel --freeze)"


def refused(text, clips, tmp_path, network=None, gates=None, **changes):
    with pytest.raises(InputError) as caught:
        run(clips, tmp_path / "weights.safetensors", network, gates, **changes)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "weights.safetensors").exists()


def test_labels_of_another_task_are_refused(jhmdb, uavdt, tmp_path):
    pose, detection = f"jhmdb:{jhmdb}:1:train", f"uavdt:{uavdt}:train"
    size = {"rows": 64, "cols": 64}
    joints = "they have joints, for which EfficientDet must put out heat maps [N, 15, any rows, any cols]"
    refused(f"cannot train EfficientDet: {joints}; {NOT_ITS_TASK}", pose, tmp_path, tiny_detection(), **size)
    refused("for which HRNet must put out heat maps [N, 15,", pose, tmp_path, tiny_hrnet(17))
    boxes = (
        "they have boxes, for which HRNet must put out class and box maps, and have a method detect and an attribute"
    )
    refused(f"cannot train HRNet: {boxes} outputs; {NOT_ITS_TASK}", detection, tmp_path, gates=GateSettings())
    classes = "the network has 2 classes; must be 3 (car, truck, bus) or the 90 of COCO"
    refused(classes, detection, tmp_path, tiny_detection(2), **size)
    refused("must be labelled alike: with joints, boxes or nothing", pose, tmp_path, score_on=detection)
    own = tiny_hrnet()
    own.preprocess = lambda frame: torch.from_numpy(frame)
    refused("HRNet must take RGB in 0..1 to be trained on videos; it has a method preprocess", pose, tmp_path, own)


def test_a_video_without_labels_trains_gates_alone(tmp_path):
    clips = film(tmp_path, "npy")
    for gates in (None, GateSettings()):
        refused(f"cannot train HRNet: they have no labels; {NOT_ITS_TASK}", clips, tmp_path, gates=gates)


def test_videos_too_few_or_too_short_are_refused(jhmdb, tmp_path):
    pose = f"jhmdb:{jhmdb}:1:train"
    longest = "at least 7 frames (pool_frames, in whole clip_frames); the longest, 'v0', has 6 of them"
    refused(longest, pose, tmp_path, gates=GateSettings(), clip_frames=7, pool_frames=7)
    refused("batch must be at most 36, the sequences that there are, got 37", pose, tmp_path, batch=37, pool_clips=99)
    refused("camera must be 'all'", pose, tmp_path, camera="pan")


def test_videos_in_which_nothing_is_labelled_are_refused(tmp_path):
    save_pose(tmp_path, "walk", "v0", 0, visible=False)
    save_pose(tmp_path, "walk", "v1", 1)
    save_pose(tmp_path, "walk", "v2", 2)
    save_jhmdb_split(tmp_path, "walk", 1, ["v0.avi 1", "v1.avi 1", "v2.avi 2"])
    clips = f"jhmdb:{tmp_path}:1:train"
    refused("no joint is visible in any of the 6 windows for train", clips, tmp_path)
    save_jhmdb_split(tmp_path, "walk", 1, ["v0.avi 2", "v1.avi 1", "v2.avi 1"])
    refused("no joint is visible in any of the 2 windows for test", clips, tmp_path)


@pytest.mark.parametrize(
    ("clips", "text"),
    [
        ("jhmdb:{}:1:test", "test videos are for scoring; train on jhmdb:FOLDER:SPLIT:train[:VIDEO]"),
        ("jhmdb:{}", "test videos are for scoring"),
        ("jhmdb:{}:2:train", "splits: holds no CLASS_test_split2.txt"),
        ("jhmdb:{}:1:train:v8", "no video 'v8'"),
        ("jhmdb:{}:1:train:v0:x", "must be jhmdb:FOLDER:SPLIT:train|test[:VIDEO]"),
        ("jhmbd:{}:1:train", "no such file, and no clips 'jhmbd' to train on; did you mean 'jhmdb'?"),
        ("absent", "clips 'absent': no such file"),
        ("pose:train:4", "to train on procedural clips, name their kind alone, 'pose'"),
    ],
)
def test_clips_that_cannot_be_trained_on_are_named(jhmdb, clips, text):
    with pytest.raises(InputError) as caught:
        training_clips(clips.format(jhmdb))
    assert text in str(caught.value)


# --- the command line


def test_command_line_trains_on_a_data_set_and_records_with_the_weights(jhmdb, tmp_path, monkeypatch, capsys):
    (tmp_path / "own.py").write_text("from tiny_hrnet import tiny_hrnet\n\ndef build():\n    return tiny_hrnet()\n")
    monkeypatch.chdir(tmp_path)

    def answer(*words):
        with pytest.raises(SystemExit) as ended:
            main(words)
        printed = capsys.readouterr()
        assert ended.value.code == 0, printed.err
        return json.loads(printed.out)

    settings = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    words = ["own:build", "--clips", f"jhmdb:{jhmdb}:1:train", "-o", "own.safetensors", *settings, "--json"]
    report = answer("train", *words, "--score-on", f"jhmdb:{jhmdb}:1:test:v8", "--set", "test_clips=9")
    assert report["videos"]["test"] == {"videos": 1, "frames": 6}
    recorded = ["--gate", "none", "--size", "32x32", "--weights", "own.safetensors", "--json", "-o", "own.trace"]
    facts = answer("record", "own:build", f"jhmdb:{jhmdb}:1:test:v8", *recorded)
    assert facts["quality"] == report["scores"]["all"]
