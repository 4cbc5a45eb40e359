"""Training a network on procedural clips or videos: seeded, resumable after a kill, the same weights either way."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from skipsim import __version__
from skipsim.atomic import write_text
from skipsim.errors import InputError, nearest
from skipsim.traces.models import MODELS, SHIPPED
from skipsim.traces.models import network as make_network
from skipsim.traces.models.checkpoint import load_weights
from skipsim.traces.training.detection_task import DETECTION, own_detection
from skipsim.traces.training.evaluation import flushing_denormals
from skipsim.traces.training.gumbel_training import GateSettings, GumbelTraining
from skipsim.traces.training.objective import Objective, PlainTraining
from skipsim.traces.training.picture_pool import PicturePool, make_pool
from skipsim.traces.training.pose_task import POSE
from skipsim.traces.training.task import Task
from skipsim.traces.training.training_run import Plan, TrainingRun
from skipsim.traces.training.training_videos import TrainingVideos
from skipsim.traces.training.video_task import labelled_task, video_defaults, video_task

# To add a task: write its file (see pose_task.py) and add a line.
TASKS: dict[str, Task] = {"pose": POSE, "detection": DETECTION}

# Fine-tuning with gates: few steps from a trained network, on short sequences, their frames a sixth of a second apart.
# Gates must see how large a change grows before it hurts, and four successive frames of the full rate are over before
# it does: gates trained on those let errors grow, and lost 10 points on clips of 12 frames.
GATE_DEFAULTS: dict[str, Any] = {
    "steps": 150,
    "batch": 4,
    "clip_frames": 4,
    "learning_rate": 3e-4,
    "gate_rate": 100.0,
    "beta": 0.2,
    "pool_clips": 150,
    "pool_frames": 4,
    "pool_frames_per_second": 6.25,
    "checkpoint_every": 50,
    "validation_clips": 6,
    "test_clips": 10,
    "test_frames": 8,
}


def train(
    network: str | nn.Module,
    clips: str | TrainingVideos = "pose",
    out: str | Path = "weights.safetensors",
    *,
    gates: GateSettings | None = None,
    start: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
    command: str | None = None,
    **plan: Any,
) -> dict[str, Any]:
    """Train a network, or a trained one together with its Gumbel gates; write the weights and what they reached.

    Writes `out` (safetensors), the same name with .json (plan, scores on test clips, versions) and with .csv (step,
    learning rate, loss, validation scores). While it runs, a checkpoint lies beside them; a second call with the same
    plan goes on from there and ends with the weights that an undisturbed run would have given.

    Args:
        network: a name for `skipsim.network`, started at random, or a module that maps RGB in 0..1 [N, 3, rows, cols]
            to what the task's loss takes ("pose": heat maps [N, 15, any rows, any cols]); a module is trained in place.
        clips: a name in TASKS, procedural clips; or videos.
        out: where the weights go; ends in .safetensors.
        gates: how to train gates with the network (see gumbel_training.py); None trains the network alone.
        start: weights to start from, or "shipped", a named network's own. None: with gates its own, without at random.
        resume: whether to go on from a checkpoint; False starts again.
        progress: whether to show a progress bar.
        command: the command line to note beside the weights.
        plan: fields of `Plan`; what is not given is, with gates, GATE_DEFAULTS, on videos what `video_defaults`
            returns, then the task's default, then `Plan`'s.

    Returns:
        what the .json file holds.

    Raises:
        InputError: unknown network, clips or plan field, weights that do not fit, or a checkpoint of another plan.
    """
    if isinstance(clips, str) and clips not in TASKS:
        raise InputError(f"training: clips {clips!r} are unknown; {nearest(clips, TASKS)}")
    videos = clips if isinstance(clips, TrainingVideos) else None
    task = TASKS[clips] if isinstance(clips, str) else labelled_task(clips)
    name = network if isinstance(network, str) else type(network).__name__
    defaults = {**(video_defaults(name) if videos else {}), **(GATE_DEFAULTS if gates else {})}
    chosen, out = make_plan(task, plan, defaults), Path(out)
    if out.suffix != ".safetensors":
        raise InputError(f"training: the output must end in .safetensors, got {out}")
    if gates and chosen.smallest < 1:
        raise InputError(f"training: smallest must be 1 with gates, whose maps have one size, got {chosen.smallest}")
    if not out.parent.is_dir():
        raise InputError(f"training: no such folder {out.parent}")
    device = training_device()
    model = _first(network, start, chosen.seed, trained=gates is not None)
    if videos:
        task = video_task(videos, model, name, chosen, gates)
    elif task is TASKS["detection"]:
        task = own_detection(model)
    # Masked layers are a quarter slower with channels last.
    layout = torch.channels_last if gates is None else torch.contiguous_format
    model.to(device, memory_format=layout)  # type: ignore[call-overload]  # missing from torch's annotations
    objective: Objective = (
        PlainTraining(model, task, chosen) if gates is None else GumbelTraining(model, task, chosen, gates)
    )
    said = videos.name if videos else clips
    identity = {"network": name, "clips": said, "plan": asdict(chosen), **objective.identity}
    if videos:
        identity["videos"] = videos.facts()
    if start is not None:
        identity["start"] = SHIPPED if str(start) == SHIPPED else hashlib.sha256(Path(start).read_bytes()).hexdigest()
    run = TrainingRun(objective.module, objective.parameter_groups(), chosen, json.loads(json.dumps(identity)), out)
    if resume:
        run.load()
    tested = _sample(task, "test", chosen.test_clips, chosen.test_frames, chosen)
    _descend(run, objective, task, device, progress)
    scores = objective.score(list(tested))
    run.save_weights(*objective.weights())
    report = {
        **run.identity,
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "scores": scores,
        "command": command or f"skipsim train {name} --clips {said} -o {out.name}",
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


def training_device() -> torch.device:
    """Return where training runs: on a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_plan(task: Task, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Plan:
    """Return the plan of a training: what is given, else `defaults`, else the task's default, else that of `Plan`."""
    known = [field.name for field in fields(Plan)]
    for key in given:
        if key not in known:
            raise InputError(f"training: unknown option {key!r}; {nearest(key, known)}")
    return Plan(**{**task.defaults, **defaults, **given})


def _first(network: str | nn.Module, start: str | Path | None, seed: int, trained: bool) -> nn.Module:
    """Return the network as its training begins; random weights follow from the seed alone."""
    shipped = str(start) == SHIPPED
    if isinstance(network, nn.Module):
        model = network
    elif shipped or (trained and start is None):
        if MODELS[network].weights is None if network in MODELS else False:
            reason = "to start from 'shipped' asks for" if shipped else "gates need"
            raise InputError(f"training: {reason} a trained network, and {network!r} ships without weights; give some")
        return make_network(network)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = make_network(network, weights=None)
    if start is not None:
        load_weights(model, start)
    return model


def _descend(run: TrainingRun, objective: Objective, task: Task, device: torch.device, progress: bool) -> None:
    """Take all steps that are left, with a checkpoint every so many and at the end."""
    plan = run.plan
    if run.step >= plan.steps:
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # What gates skip keeps differences that decay into denormal numbers, and a step on those takes longer.
    with flushing_denormals(), Progress(*columns) if progress else nullcontext() as bar:
        pool = _pool_with_bar(task, plan, bar)
        validation = list(_sample(task, "validation", plan.validation_clips, 4, plan))
        shown = bar.add_task("training", total=plan.steps, completed=run.step) if bar else None
        began, losses = monotonic() - run.seconds, []
        while run.step < plan.steps:
            losses.append(_take_step(run, objective, pool, device))
            if bar and shown is not None:
                bar.update(shown, completed=run.step, description=f"loss {np.mean(losses[-20:]):.3f}")
            if run.step % plan.checkpoint_every == 0 or run.step == plan.steps:
                reached = objective.score(validation)["all"]
                kept = (reached["headline"], *(name for name in ("gated_mac_reduction",) if name in reached))
                run.seconds = monotonic() - began
                run.note({"loss": float(np.mean(losses)), **{f"validation_{name}": reached[name] for name in kept}})
                losses.clear()
                run.save()
                if bar:
                    bar.console.print(f"step {run.step}: {run.latest()}")


def _take_step(run: TrainingRun, objective: Objective, pool: PicturePool, device: torch.device) -> float:
    """Take one step of the optimiser; return the loss before it."""
    objective.prepare()
    run.set_rates()
    pictures, labels = pool.batch(run.plan, run.step)
    try:
        loss = objective.loss(pictures.to(device), tuple(label.to(device) for label in labels), run.step)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        seen = run.step and run.plan.smallest == 1  # pictures of this size have fitted
        if seen or isinstance(error, InputError):
            raise
        raise InputError(
            f"training: {run.identity['network']} cannot be trained on clips {run.identity['clips']!r}: its output for "
            f"pictures {list(pictures.shape[2:])} does not fit the task ({type(error).__name__}: {error})"
        ) from error
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


def _sample(task: Task, split: str, count: int, frames: int, plan: Plan) -> Iterator[Any]:
    return task.clips(split, count, frames=frames, rows=plan.rows, cols=plan.cols)
