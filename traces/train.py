"""Training a network on procedural clips: seeded, resumable after a kill, the same weights either way."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from skipsim import __version__
from skipsim.atomic import write_text
from skipsim.errors import InputError, nearest
from skipsim.traces.datasets import CAMERAS
from skipsim.traces.models import network as make_network
from skipsim.traces.picture_pool import PicturePool, make_pool
from skipsim.traces.pose_task import POSE
from skipsim.traces.task import Task
from skipsim.traces.training_run import Plan, TrainingRun

# To add a task: write its file (see pose_task.py) and add a line.
TASKS: dict[str, Task] = {"pose": POSE}


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
    learning rate, loss, validation score). While it runs, a checkpoint lies beside them; a second call with the same
    plan goes on from there and ends with the weights that an undisturbed run would have given.

    Args:
        network: a name for `skipsim.network`, started at random, or a module that maps RGB in 0..1 [N, 3, rows, cols]
            to what the task's loss takes ("pose": heat maps [N, 15, any rows, any cols]); a module is trained in place.
        clips: a name in TASKS.
        out: where the weights go; ends in .safetensors.
        resume: whether to go on from a checkpoint; False starts again.
        progress: whether to show a progress bar.
        command: the command line to note beside the weights.
        plan: fields of `Plan`; what is not given is the task's default, then `Plan`'s.

    Returns:
        what the .json file holds.

    Raises:
        InputError: unknown network, clips or plan field, or a checkpoint of another plan.
    """
    if clips not in TASKS:
        raise InputError(f"training: clips {clips!r} are unknown; {nearest(str(clips), TASKS)}")
    task = TASKS[clips]
    chosen, out = make_plan(task, plan), Path(out)
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
    _descend(run, task, device, progress)
    scores = score(model, task, _sample(task, "test", chosen.test_clips, chosen.test_frames, chosen), device)
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


def make_plan(task: Task, given: dict[str, Any]) -> Plan:
    """Return the plan of a training: what is given, else the task's default, else that of `Plan`."""
    known = [field.name for field in fields(Plan)]
    for key in given:
        if key not in known:
            raise InputError(f"training: unknown option {key!r}; {nearest(key, known)}")
    return Plan(**{**task.defaults, **given})


def _fresh(name: str, seed: int) -> nn.Module:
    """Make a network with random weights that follow from the seed, and leave torch's own generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_network(name, weights=None)


def _descend(run: TrainingRun, task: Task, device: torch.device, progress: bool) -> None:
    """Take all steps that are left, with a checkpoint every so many and at the end."""
    plan = run.plan
    if run.step >= plan.steps:
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) if progress else nullcontext() as bar:
        pool = _pool_with_bar(task, plan, bar)
        validation = _sample(task, "validation", plan.validation_clips, 4, plan)
        shown = bar.add_task("training", total=plan.steps, completed=run.step) if bar else None
        began, losses = monotonic() - run.seconds, []
        while run.step < plan.steps:
            losses.append(_take_step(run, task, pool, device))
            if bar and shown is not None:
                bar.update(shown, completed=run.step, description=f"loss {np.mean(losses[-20:]):.3f}")
            if run.step % plan.checkpoint_every == 0 or run.step == plan.steps:
                reached = score(run.model, task, validation, device)["all"]
                metric = reached["headline"]
                run.seconds = monotonic() - began
                run.note({"loss": float(np.mean(losses)), f"validation_{metric}": reached[metric]})
                losses.clear()
                run.save()
                if bar:
                    bar.console.print(f"step {run.step}: {run.latest()}")


def _take_step(run: TrainingRun, task: Task, pool: PicturePool, device: torch.device) -> float:
    """Take one step of the optimiser; return the loss before it."""
    plan, model = run.plan, run.model
    model.train()
    for group in run.optimiser.param_groups:
        group["lr"] = plan.rate(run.step)
    pictures, labels = pool.batch(plan, run.step)
    singles = pictures.flatten(0, 1).to(device).contiguous(memory_format=torch.channels_last)
    loss = task.loss(model(singles), tuple(label.flatten(0, 1).to(device) for label in labels), plan)
    if not torch.isfinite(loss):
        raise InputError(f"training: the loss became {loss.item()} at step {run.step}; lower learning_rate")
    run.optimiser.zero_grad()
    loss.backward()
    run.optimiser.step()
    run.step += 1
    return loss.item()


def _pool_with_bar(task: Task, plan: Plan, bar: Progress | None) -> PicturePool:
    shown = bar.add_task("making clips", total=plan.pool_clips) if bar else None

    def advance(made: int) -> None:
        if bar and shown is not None:
            bar.update(shown, completed=made)

    return make_pool(task, plan, advance)


def _sample(task: Task, split: str, count: int, frames: int, plan: Plan) -> list[Any]:
    return list(task.clips(split, count, frames=frames, rows=plan.rows, cols=plan.cols))


def score(model: nn.Module, task: Task, clips: Sequence[Any], device: torch.device) -> dict[str, dict[str, Any]]:
    """Return the scores of the dense network on clips: all, and per camera where there are clips of it."""
    model.eval()
    outputs = []
    with torch.inference_mode():
        for clip in clips:
            pictures = torch.from_numpy(clip.frames).to(device).permute(0, 3, 1, 2).float() / 255
            output = model(pictures)
            outputs.append([_frame_of(output, frame) for frame in range(len(pictures))])
    return scores_by_camera(task, outputs, clips)


def scores_by_camera(task: Task, outputs: Sequence[Sequence[Any]], clips: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Score one list of outputs per clip, one per frame: all, and per camera where there are clips of it."""
    scores = {}
    for camera in ("all", *CAMERAS):
        chosen = [index for index, clip in enumerate(clips) if camera in ("all", clip.camera)]
        if chosen:
            flat = [output for index in chosen for output in outputs[index]]
            scores[camera] = task.scorer([clips[index] for index in chosen])(flat)
    return scores


def _frame_of(output: Any, frame: int) -> Any:
    """Return the part of a batch's output that belongs to one picture, on the CPU, with a batch axis of length 1."""
    if isinstance(output, Tensor):
        return output[frame : frame + 1].float().cpu()
    if isinstance(output, dict):
        return {name: _frame_of(value, frame) for name, value in output.items()}
    return type(output)(_frame_of(value, frame) for value in output)
