"""Recordings of a study: which traces it needs, which of them exist, and the recording of those that don't.

A recording is kept as `traces/KEY.trace` in the study's folder; the key is a hash of everything that it depends on, so
that a changed axis records only what it touches. torch is imported by other processes only, one thread each: masks then
do not depend on the number of processes, and whoever only simulates needs no torch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skipsim import __version__
from skipsim.analysis.axes import Block, BlockPlan
from skipsim.analysis.inputs.clips import LoadedClip, absolute, load_clip
from skipsim.analysis.inputs.gate_files import SHIPPED, is_gate_file, shipped_gates
from skipsim.analysis.inputs.gated_network import Gating, gate_of, gated_network
from skipsim.analysis.inputs.labels import quality_of
from skipsim.analysis.inputs.networks import build_network, check_network_name, module_file
from skipsim.analysis.recording_axes import RecordingChoice
from skipsim.analysis.study import Study
from skipsim.errors import InputError
from skipsim.traces.coarsened import coarsened
from skipsim.traces.models import MODELS, WEIGHTS, usual_size
from skipsim.traces.trace import load_trace

# These end the study, which goes on when there is room: other rows would fail too.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class RecordingTask:
    """Everything that a process needs to record one trace; paths are absolute."""

    network: str
    weights: str | None
    clip: str
    frames: int | None
    size: tuple[int, int] | None  # rows, cols that the study asks for
    gate: str  # a name or a file
    threshold: float  # nan: the gate takes none, or is as trained
    block: Block | dict[str, Block]  # of all layers, or by group of layers
    update: str
    reset_every: int
    share: str | None
    signal: str | None
    folder: str  # where the user's own modules are looked for

    def content(self) -> dict[str, Any]:
        """Return what the recording depends on, files by the hash of their content."""
        return asdict(self) | {
            "folder": None,
            "block": list(self.block.items()) if isinstance(self.block, dict) else self.block,  # first match first
            "network": [self.network, _network_hash(self.network, self.folder)],
            "gate": self._gate_content(),
            "threshold": None if math.isnan(self.threshold) else self.threshold,
            "weights": self.weights and hash_files(Path(self.weights)),
            "clip": hash_files(Path(self.clip)) if Path(self.clip).exists() else self.clip,
            "size": self.frame_size(),
            "skipsim": __version__,
        }

    def _gate_content(self) -> Any:
        if is_gate_file(self.gate):
            return [Path(self.gate).name, hash_files(Path(self.gate))]
        if self.gate not in SHIPPED or (self.gate == "gumbel" and self.weights):
            return self.gate
        return [self.gate, hash_files(shipped_gates(self.gate, self.network, self.block))]

    def frame_size(self) -> tuple[int, int] | None:
        """Return the rows and cols that frames are resized to; None: as they are."""
        return self.size or usual_size(self.network)

    def load(self, frames: int | None = None) -> LoadedClip:
        """Open the clip, or at most so many of its frames."""
        return load_clip(self.clip, frames or self.frames, self.size, self.network)

    def gating(self) -> Gating:
        """Return how the network is gated."""
        if self.gate == "none":
            return Gating("none")
        return Gating(
            self.gate,
            None if math.isnan(self.threshold) else self.threshold,
            self.block,
            self.update,
            self.reset_every or None,
            self.share,
            self.signal,
        )

    def key(self) -> str:
        """Return the name under which the recording is kept."""
        return hashlib.sha256(json.dumps(self.content(), sort_keys=True).encode()).hexdigest()[:32]


def task_of(study: Study, choice: RecordingChoice) -> RecordingTask:
    """Return the task that records one combination of a study's axes; in open loop one of single pixels.

    Raises:
        InputError: weights that are not there.
    """
    axes = choice.axes
    weights = study.resolve(axes.weights).absolute() if axes.weights else None
    if weights and not weights.is_file():
        raise InputError(f"weights {weights}: no such file")
    return RecordingTask(
        network=choice.network,
        weights=str(weights) if weights else None,
        clip=absolute(choice.clip, study.folder),
        frames=axes.frames,
        size=choice.size,
        gate=str(study.resolve(choice.gate).absolute()) if is_gate_file(choice.gate) else choice.gate,
        threshold=choice.threshold,
        block=choice.block.setting() if choice.loop == "closed" else (1, 1),
        update=choice.update,
        reset_every=choice.reset_every,
        share=choice.share or None,
        signal=choice.signal or None,
        folder=str(study.folder.absolute()),
    )


def check_inputs(task: RecordingTask) -> None:
    """Check without torch that the network exists and that the clip yields a frame."""
    check_network_name(task.network, task.folder)
    next(iter(task.load(1).frames))


def check_networks(tasks: Sequence[RecordingTask]) -> list[None]:
    """Build every network and gate of the tasks once, which imports torch: for a process of its own."""
    models: dict[Any, Any] = {}
    for task in tasks:
        weights = None if task.gate == "gumbel" else task.weights  # the file has the gates, and perhaps the network
        source = (task.network, weights, task.folder)
        if source not in models:
            models[source] = build_network(*source)
        if task.gate != "none":
            gate_of(models[source], task.network, task.gating(), task.weights)
    return [None] * len(tasks)


def record_traces(tasks: Sequence[tuple[RecordingTask, Path]]) -> list[tuple[str, float]]:
    """Record tasks into their paths; each gives "" or the reason of its failure, and the seconds it took."""
    results = []
    for task, path in tasks:
        start, reason = time.perf_counter(), ""
        try:
            record_trace(task, path)
        except InputError as error:
            reason = str(error)
        except OSError as error:
            if error.errno in FULL_DISK:
                raise
            reason = str(error)
        except Exception as error:  # whatever went wrong, it costs this recording and not the study
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        results.append((reason, time.perf_counter() - start))
    return results


def record_trace(task: RecordingTask, path: Path) -> None:
    """Record one task into `path`, for a process of its own; whole or not at all, whoever else is recording it."""
    from skipsim.traces.record import record

    clip = task.load()
    gated = gated_network(task.network, task.gating(), task.weights, task.folder)

    def write(unfinished: Path) -> None:
        record(
            gated,
            clip.frames,
            cuts=clip.cuts,
            out=unfinished,
            quality=quality_of(clip, gated),
            agreement=True,
            network=task.network,
            progress=False,
        )

    _in_place(path, write)


def coarsen_traces(tasks: Sequence[tuple[Path, BlockPlan, Path]]) -> list[str]:
    """Coarsen recordings (first path) to blocks, into second paths; each gives "", or the reason of its failure."""
    reasons = []
    for fine, plan, path in tasks:
        try:
            _in_place(path, coarsened(load_trace(fine), plan.block_of).save)
            reasons.append("")
        except (InputError, OSError) as error:
            if isinstance(error, OSError) and error.errno in FULL_DISK:
                raise
            reasons.append(str(error))
    return reasons


def is_recorded(path: Path) -> bool:
    """Tell whether a finished trace lies in `path`."""
    try:
        return load_trace(path).complete
    except InputError:
        return False


def _in_place(path: Path, write: Callable[[Path], Any]) -> None:
    """Have a trace written beside `path` and renamed to it: whole or not at all, whoever else is writing it."""
    unfinished = path.with_name(f".{path.stem}.{platform.node()}.{os.getpid()}{path.suffix}")
    try:
        write(unfinished)
        if not is_recorded(path):
            shutil.rmtree(path, ignore_errors=True)
            unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def hash_files(path: Path) -> str:
    """Return the sha256 of a file's content, or of the names and contents of all files in a folder."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    entries = [[entry.name, hash_files(entry)] for entry in sorted(path.iterdir()) if entry.is_file()]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def _network_hash(name: str, folder: str) -> str:
    """Return a hash of the weights that ship with a network, or of the file that defines the user's own."""
    if ":" in name:
        file = module_file(name, folder)
    else:
        model = MODELS.get(name)
        file = WEIGHTS / model.weights if model and model.weights else None
    return hash_files(file) if file and file.is_file() else ""
