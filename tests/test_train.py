"""Does training learn, and does a run that was killed end with the weights of an undisturbed one?"""

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_hrnet import tiny_hrnet

from skipsim.errors import InputError
from skipsim.traces.datasets import pose_clips
from skipsim.traces.train import Plan, train
from skipsim.traces.training.detection_task import DETECTION
from skipsim.traces.training.gumbel_training import GateSettings
from skipsim.traces.training.picture_pool import make_pool
from skipsim.traces.training.pose_task import POSE, heatmap_loss

SMALL = {
    "seed": 3,
    "steps": 5,
    "batch": 4,
    "pool_clips": 4,
    "pool_frames": 2,
    "rows": 32,
    "cols": 32,
    "checkpoint_every": 2,
    "validation_clips": 1,
    "test_clips": 2,
    "test_frames": 2,
}


def run(out, **changes):
    return train(tiny_hrnet(), "pose", out, progress=False, **{**SMALL, **changes})


# Kills itself, as hard as a process can die, while the step after the second checkpoint is under way.
KILLED = """
    import os, signal, sys
    sys.path.insert(0, {folder!r})
    import skipsim.traces.training.pose_task as pose
    import skipsim.traces.train as training
    from tiny_hrnet import tiny_hrnet
    real = pose.heatmap_loss
    calls = []
    def loss(*arguments):
        calls.append(0)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)
    pose.heatmap_loss = loss
    training.train(tiny_hrnet(), "pose", {out!r}, progress=False, **{small!r})
"""


def test_killed_and_resumed_run_ends_with_the_same_weights(tmp_path):
    straight, killed = tmp_path / "straight.safetensors", tmp_path / "killed.safetensors"
    run(straight)
    script = textwrap.dedent(KILLED.format(folder=str(Path(__file__).parent), out=str(killed), small=SMALL))
    died = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=os.environ)
    assert died.returncode == -signal.SIGKILL, died.stderr
    checkpoint = tmp_path / "killed.checkpoint.safetensors"
    assert checkpoint.exists()
    assert not killed.exists()

    run(killed)
    one, other = load_file(straight), load_file(killed)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert straight.with_suffix(".csv").read_text() == killed.with_suffix(".csv").read_text()
    assert not checkpoint.exists()


def test_resume_really_skips_the_steps_already_taken(tmp_path, monkeypatch):
    out = tmp_path / "weights.safetensors"
    calls = []
    real = heatmap_loss

    def loss(*arguments):
        calls.append(0)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr("skipsim.traces.training.pose_task.heatmap_loss", loss)
    with pytest.raises(KeyboardInterrupt):
        run(out)
    assert len(calls) == 4
    run(out)
    # Three steps were taken and the checkpoint holds two: of five steps, three are left.
    assert len(calls) == 4 + 3


def test_same_seed_same_weights_other_seed_others(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(tmp_path / f"{name}.safetensors", seed=seed, steps=2)
    a, b, c = (load_file(tmp_path / f"{name}.safetensors") for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["conv1.weight"], c["conv1.weight"])


def test_weights_report_and_curve_are_written(tmp_path):
    out = tmp_path / "weights.safetensors"
    model = tiny_hrnet()
    report = train(model, "pose", out, progress=False, **SMALL)
    assert json.loads(out.with_suffix(".json").read_text()) == report
    assert report["plan"] == {**vars(Plan()), **SMALL}
    assert set(report["scores"]) == {"all", "static", "pan"}
    assert set(report["scores"]["all"]) == {"pck@0.05", "pck@0.1", "pck@0.2", "headline"}
    assert report["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert [int(row["step"]) for row in rows] == [2, 4, 5]
    assert all(float(row["loss"]) > 0 for row in rows)
    saved = load_file(out)
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())
    assert out.stat().st_mode == out.with_suffix(".csv").stat().st_mode  # whoever may read the one may read the other


def test_training_lowers_the_loss(tmp_path):
    out = tmp_path / "weights.safetensors"
    run(out, steps=60, checkpoint_every=20, learning_rate=0.02)
    losses = [float(row["loss"]) for row in csv.DictReader(out.with_suffix(".csv").open())]
    # 15 uniform heat maps of 8x8 start at log(64) = 4.16.
    assert losses[-1] < losses[0] - 0.3
    assert losses[-1] < 3.8


def test_loss_equals_the_cross_entropy_written_out():
    rng = np.random.default_rng(0)
    maps, joints = rng.normal(size=(2, 3, 4, 6)), rng.uniform(0, 16, (2, 3, 2))
    visible = np.array([[True, False, True], [True, True, False]])
    total = 0.0
    for n in range(2):
        for j in range(3):
            if visible[n, j]:
                x, y = (joints[n, j, 0] + 0.5) * 6 / 24 - 0.5, (joints[n, j, 1] + 0.5) * 4 / 16 - 0.5
                wanted = np.array(
                    [[np.exp(-((c - x) ** 2 + (r - y) ** 2) / (2 * 0.8**2)) for c in range(6)] for r in range(4)]
                )
                share = np.exp(maps[n, j]) / np.exp(maps[n, j]).sum()
                total -= (wanted / wanted.sum() * np.log(share)).sum()
    loss = heatmap_loss(*(torch.tensor(value) for value in (maps, joints, visible)), rows=16, cols=24, sigma=0.8)
    assert loss.item() == pytest.approx(total / 4, rel=1e-5)


def test_learning_rate_rises_then_falls_to_zero():
    plan = Plan(steps=100, learning_rate=1.0)
    assert [plan.rate(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert plan.rate(10) == pytest.approx(1.0)
    assert plan.rate(55) == pytest.approx(0.5)
    assert plan.rate(100) == pytest.approx(0.0)


def test_batches_are_a_function_of_the_step_and_mirroring_keeps_joints_on_the_person():
    plan = replace(Plan(), **{**SMALL, "batch": 8})
    pool = make_pool(POSE, plan, lambda made: None)
    pictures, labels = pool.batch(plan, 7)
    again, same_labels = pool.batch(plan, 7)
    assert torch.equal(pictures, again)
    assert all(torch.equal(label, same) for label, same in zip(labels, same_labels, strict=True))
    mirrored = 0
    clips = list(pose_clips("train", 4, frames=2, rows=32, cols=32, frames_per_second=plan.pool_frames_per_second))
    truth = np.concatenate([clip.joints for clip in clips])
    for joints in labels[0][:, 0].numpy():
        straight = np.abs(truth - joints).max(axis=(1, 2)).min()
        flipped = truth[:, [0, 1, 2, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13]] * (-1, 1) + (31, 0)
        assert min(straight, np.abs(flipped - joints).max(axis=(1, 2)).min()) < 1e-4
        mirrored += straight > 1e-4
    assert 0 < mirrored < 8


def test_at_several_sizes_each_step_has_one_and_labels_follow():
    options = {**SMALL, "rows": 64, "cols": 64}
    whole, several = Plan(**options), Plan(**options, smallest=0.6)
    assert {several.share(step) for step in range(60)} == {0.625, 0.75, 0.875, 1.0}
    assert {whole.share(step) for step in range(60)} == {1.0}
    step = next(step for step in range(60) if several.share(step) == 0.75)
    for task in (POSE, DETECTION):
        pool = make_pool(task, whole, lambda made: None)
        pictures, labels = pool.batch(whole, step)
        smaller, fitting = pool.batch(several, step)
        assert smaller.shape == (4, 1, 3, 48, 48)
        # Their overlaps aside, the pixels of a smaller picture are means of the larger one's.
        assert torch.allclose(smaller.mean((3, 4)), pictures.mean((3, 4)), atol=0.02)
        share = 0.75 if task is DETECTION else 1.0  # heat maps are places in the picture, whatever its size
        assert torch.allclose(fitting[0], labels[0] * share)
        assert torch.equal(fitting[1], labels[1])


def test_a_size_that_a_network_cannot_take_is_one_line_at_whatever_step_it_comes(tmp_path):
    plan = {**SMALL, "smallest": 0.5, "steps": 40}
    shares = [Plan(**plan).share(step) for step in range(40)]
    assert shares[0] == 1, "a later step is the first with a smaller picture"
    assert min(shares) < 30 / 32
    with pytest.raises(InputError, match=r"Conv2d cannot be trained on .*pictures \[3, \d+, \d+\] does not fit"):
        train(torch.nn.Conv2d(3, 15, 30), "pose", tmp_path / "w.safetensors", progress=False, **plan)


def test_checkpoint_of_another_plan_or_a_damaged_one_is_refused(tmp_path, monkeypatch):
    out = tmp_path / "weights.safetensors"
    import skipsim.traces.train as training

    monkeypatch.setattr(training.TrainingRun, "save_weights", lambda self, *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(out)
    with pytest.raises(InputError, match=r"checkpoint .*is of another run \(steps was 5, is 6\)"):
        run(out, steps=6)
    checkpoint = tmp_path / "weights.checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(InputError, match=r"checkpoint .*: not readable .*; remove it to start again"):
        run(out)


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        (("pose_small", "poses"), {}, r"training: clips 'poses' are unknown; did you mean 'pose'\?"),
        (("pose_smal", "pose"), {}, r"network 'pose_smal' is unknown; did you mean 'pose_small'\?"),
        (("pose_small", "pose"), {"stepps": 3}, r"training: unknown option 'stepps'; did you mean 'steps'\?"),
        (("pose_small", "pose"), {"steps": 0}, "training: steps must be a whole number >= 1, got 0"),
        (
            ("pose_small", "pose"),
            {"learning_rate": float("nan")},
            "training: learning_rate must be a number >= 1e-09, got nan",
        ),
        (
            ("pose_small", "pose"),
            {"batch": 9, "pool_clips": 4, "pool_frames": 2},
            "batch must be at most .* = 8, got 9",
        ),
        (
            ("pose_small", "pose"),
            {"batch": 5, "pool_clips": 4, "pool_frames": 7, "clip_frames": 4},
            r"batch must be at most pool_clips x \(pool_frames // clip_frames\) = 4, got 5",
        ),
        (("pose_small", "pose"), {"smallest": 0.1}, "smallest must be a share of the sides, 0.125 to 1, got 0.1"),
        (("pose_small", "pose"), {"smallest": 1.5}, "smallest must be a share of the sides, 0.125 to 1, got 1.5"),
        (("pose_small", "pose"), {"clip_frames": 7}, "clip_frames must be at most pool_frames = 6, got 7"),
        (("pose_small", "pose", "weights.pth"), {}, "the output must end in .safetensors, got weights.pth"),
        (("pose_small", "pose", "absent/w.safetensors"), {}, "no such folder absent"),
        (
            ("detection_small", "pose"),
            SMALL,
            r"detection_small cannot be trained on clips 'pose': its output for pictures \[3, 32, 32\] does not fit",
        ),
        (
            ("pose_small", "pose"),
            {"gates": GateSettings(), "smallest": 0.5},
            "smallest must be 1 with gates, whose maps have one size, got 0.5",
        ),
        (
            ("pose_small", "detection"),
            {**SMALL, "rows": 64, "cols": 64},
            r"pose_small cannot be trained on clips 'detection': its output for pictures \[3, 64, 64\] does not fit",
        ),
    ],
)
def test_bad_input_fails_well_and_writes_nothing(tmp_path, monkeypatch, arguments, options, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=text):
        train(*arguments, progress=False, **options)
    assert not list(tmp_path.iterdir())


def test_a_sequence_is_successive_frames_of_one_clip_all_varied_alike():
    plan = Plan(**{**SMALL, "pool_clips": 2, "pool_frames": 5, "clip_frames": 2, "batch": 4})
    pool = make_pool(POSE, plan, lambda made: None)
    assert pool.pictures.shape == (4, 2, 32, 32, 3)  # the fifth frame of each clip has no partner
    clips = list(pose_clips("train", 2, frames=4, rows=32, cols=32, frames_per_second=plan.pool_frames_per_second))
    pairs = [clip.joints[first : first + 2] for clip in clips for first in (0, 2)]
    pictures, (joints, _) = pool.batch(plan, 0)
    assert pictures.shape == (4, 2, 3, 32, 32)
    for pair in joints.numpy():
        straight = min(np.abs(pair - truth).max() for truth in pairs)
        flipped = min(np.abs(POSE.mirror((truth, truth[..., 0] > 0), 32)[0] - pair).max() for truth in pairs)
        assert min(straight, flipped) < 1e-4
