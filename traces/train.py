"""Training a pose network on procedural clips: seeded, resumable after a kill, the same weights either way."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from skipsim import __version__
from skipsim.atomic import write_text
from skipsim.errors import InputError, nearest
from skipsim.traces.datasets import CAMERAS, Clip, pose_clips
from skipsim.traces.figure import JOINT_COUNT, MIRRORED
from skipsim.traces.models import network as make_network
from skipsim.traces.quality import pose_quality
from skipsim.traces.training_run import Plan, TrainingRun

CLIPS = ("pose",)


@dataclass(frozen=True)
class _Pool:
    """Training pictures: uint8 [P, rows, cols, 3], joints float32 [P, J, 2], visible bool [P, J]."""

    pictures: NDArray[np.uint8]
    joints: NDArray[np.float32]
    visible: NDArray[np.bool_]

    def batch(self, plan: Plan, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pictures, joints and visibility of a step: a function of plan and step alone."""
        epoch, place = divmod(step * plan.batch, len(self.pictures) // plan.batch * plan.batch)
        order = np.random.default_rng([plan.seed, 0, epoch]).permutation(len(self.pictures))
        chosen = order[place : place + plan.batch]
        rng = np.random.default_rng([plan.seed, 1, step])
        pictures = self.pictures[chosen].astype(np.float32) / 255
        joints, visible = self.joints[chosen].copy(), self.visible[chosen].copy()
        mirror = rng.random(len(chosen)) < 0.5
        pictures[mirror] = pictures[mirror][:, :, ::-1]
        joints[mirror] = joints[mirror][:, MIRRORED]
        joints[mirror, :, 0] = plan.cols - 1 - joints[mirror, :, 0]
        visible[mirror] = visible[mirror][:, MIRRORED]
        tint = rng.uniform(0.75, 1.25, (len(chosen), 1, 1, 3)).astype(np.float32)
        shift = rng.uniform(-0.1, 0.1, (len(chosen), 1, 1, 1)).astype(np.float32)
        pictures = np.clip((pictures - 0.5) * tint + 0.5 + shift, 0, 1)
        return torch.from_numpy(pictures.transpose(0, 3, 1, 2)), torch.from_numpy(joints), torch.from_numpy(visible)


def train(
    network: str | nn.Module,
    clips: str = "pose",
    out: str | Path = "weights.safetensors",
    *,
    resume: bool = True,
    progress: bool = True,
    command: str | None = None,
    **plan: Any,
) -> dict[str, Any]:
    """Train a network and write its weights, with what they reached beside them.

    Writes `out` (safetensors), the same name with .json (plan, scores on test clips, versions) and with .csv (step,
    learning rate, loss, validation PCK). While it runs, a checkpoint lies beside them; a second call with the same plan
    goes on from there and ends with the weights that an undisturbed run would have given.

    Args:
        network: a name for `skipsim.network`, started at random, or a module that maps RGB in 0..1 [N, 3, rows, cols]
            to heat maps [N, 15, any rows, any cols]; a module is trained in place.
        clips: "pose".
        out: where the weights go; ends in .safetensors.
        resume: whether to go on from a checkpoint; False starts again.
        progress: whether to show a progress bar.
        command: the command line to note beside the weights.
        plan: fields of `Plan`.

    Returns:
        what the .json file holds.

    Raises:
        InputError: unknown network, clips or plan field, or a checkpoint of another plan.
    """
    if clips not in CLIPS:
        raise InputError(f"training: clips {clips!r} are unknown; {nearest(str(clips), CLIPS)}")
    known = [field.name for field in fields(Plan)]
    for key in plan:
        if key not in known:
            raise InputError(f"training: unknown option {key!r}; {nearest(key, known)}")
    chosen, out = Plan(**plan), Path(out)
    if out.suffix != ".safetensors":
        raise InputError(f"training: the output must end in .safetensors, got {out}")
    if not out.parent.is_dir():
        raise InputError(f"training: no such folder {out.parent}")
    name = network if isinstance(network, str) else type(network).__name__
    model = _fresh(network, chosen.seed) if isinstance(network, str) else network
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's annotations
    run = TrainingRun(model, chosen, {"network": name, "clips": clips, "plan": asdict(chosen)}, out)
    if resume:
        run.load()
    _descend(run, device, progress)
    scores = _score(model, _sample("test", chosen.test_clips, chosen.test_frames, chosen), device)
    run.save_weights()
    report = {
        **run.identity,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "scores": scores,
        "command": command or f"skipsim train {name} --clips {clips} -o {out.name}",
        "training_seconds": round(run.seconds),
        "device": str(device),
        "versions": {
            "skipsim": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_text(out.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
    run.checkpoint.unlink(missing_ok=True)
    return report


def _fresh(name: str, seed: int) -> nn.Module:
    """Make a network with random weights that follow from the seed, and leave torch's own generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_network(name, weights=None)


def _descend(run: TrainingRun, device: torch.device, progress: bool) -> None:
    """Take all steps that are left, with a checkpoint every so many and at the end."""
    plan, model = run.plan, run.model
    if run.step >= plan.steps:
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) if progress else nullcontext() as bar:
        pool = _make_pool(plan, bar)
        validation = _sample("validation", plan.validation_clips, 4, plan)
        task = bar.add_task("training", total=plan.steps, completed=run.step) if bar else None
        began, losses = monotonic() - run.seconds, []
        while run.step < plan.steps:
            model.train()
            for group in run.optimiser.param_groups:
                group["lr"] = plan.rate(run.step)
            pictures, joints, visible = (tensor.to(device) for tensor in pool.batch(plan, run.step))
            heatmaps = model(pictures.contiguous(memory_format=torch.channels_last))
            loss = heatmap_loss(heatmaps, joints, visible, plan.rows, plan.cols, plan.heatmap_sigma)
            if not torch.isfinite(loss):
                raise InputError(f"training: the loss became {loss.item()} at step {run.step}; lower learning_rate")
            run.optimiser.zero_grad()
            loss.backward()
            run.optimiser.step()
            run.step += 1
            losses.append(loss.item())
            if bar and task is not None:
                bar.update(task, completed=run.step, description=f"loss {np.mean(losses[-20:]):.3f}")
            if run.step % plan.checkpoint_every == 0 or run.step == plan.steps:
                score = _score(model, validation, device)["all"]["pck@0.05"]
                run.seconds = monotonic() - began
                run.history.append([run.step, plan.rate(run.step - 1), float(np.mean(losses)), score])
                losses.clear()
                run.save()
                if bar:
                    bar.console.print(
                        f"step {run.step}: loss {run.history[-1][2]:.3f}, validation PCK@0.05 {score:.3f}"
                    )


def heatmap_loss(heatmaps: Tensor, joints: Tensor, visible: Tensor, rows: int, cols: int, sigma: float = 1.0) -> Tensor:
    """Return the cross-entropy of the heat maps' softmax against a Gaussian around each visible joint: the mean.

    Args:
        heatmaps: [N, J, heatmap rows, heatmap cols], logits.
        joints: [N, J, 2], (x, y) in pixels of a picture of rows x cols.
        visible: bool [N, J]; other joints do not count.
        rows: picture height in pixels.
        cols: picture width in pixels.
        sigma: standard deviation of the Gaussian in heat map pixels.
    """
    height, width = heatmaps.shape[-2:]
    x = (joints[..., 0] + 0.5) * (width / cols) - 0.5
    y = (joints[..., 1] + 0.5) * (height / rows) - 0.5
    across = torch.arange(width, device=heatmaps.device) - x[..., None]
    down = torch.arange(height, device=heatmaps.device) - y[..., None]
    wanted = torch.softmax(-(across**2) / (2 * sigma**2), -1)[..., None, :]
    wanted = wanted * torch.softmax(-(down**2) / (2 * sigma**2), -1)[..., :, None]
    entropy = -(wanted.flatten(2) * heatmaps.float().flatten(2).log_softmax(-1)).sum(-1)
    return (entropy * visible).sum() / visible.sum().clamp(min=1)


def _make_pool(plan: Plan, bar: Progress | None) -> _Pool:
    """Make all training pictures once; they follow from the plan's sizes alone."""
    total = plan.pool_clips * plan.pool_frames
    pictures = np.empty((total, plan.rows, plan.cols, 3), np.uint8)
    joints, visible = np.empty((total, JOINT_COUNT, 2), np.float32), np.empty((total, JOINT_COUNT), np.bool_)
    task = bar.add_task("making clips", total=plan.pool_clips) if bar else None
    for index, clip in enumerate(
        pose_clips(
            "train",
            plan.pool_clips,
            frames=plan.pool_frames,
            rows=plan.rows,
            cols=plan.cols,
            frames_per_second=plan.pool_frames_per_second,
        )
    ):
        place = slice(index * plan.pool_frames, (index + 1) * plan.pool_frames)
        pictures[place], joints[place], visible[place] = clip.frames, clip.joints, clip.visible
        if bar and task is not None:
            bar.update(task, completed=index + 1)
    return _Pool(pictures, joints, visible)


def _sample(split: str, count: int, frames: int, plan: Plan) -> list[Clip]:
    return list(pose_clips(split, count, frames=frames, rows=plan.rows, cols=plan.cols))


def _score(model: nn.Module, clips: Sequence[Clip], device: torch.device) -> dict[str, dict[str, Any]]:
    """Return the PCK of the dense network on clips: all, and per camera where there are clips of it."""
    model.eval()
    heatmaps = []
    with torch.inference_mode():
        for clip in clips:
            pictures = torch.from_numpy(clip.frames).to(device).permute(0, 3, 1, 2).float() / 255
            heatmaps.append(model(pictures).float().cpu().numpy())
    scores = {"all": pose_quality(heatmaps, clips)}
    for camera in CAMERAS:
        chosen = [index for index, clip in enumerate(clips) if clip.camera == camera]
        if chosen:
            scores[camera] = pose_quality([heatmaps[i] for i in chosen], [clips[i] for i in chosen])
    return scores
