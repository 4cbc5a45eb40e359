"""How long the rest of a study will take: from what its own runs took, or from a short probe of them.

Nothing is written into the study's folder. A probe records the first missing recording for a few frames, in a process
of its own and a temporary folder, and simulates a few jobs; two lengths tell what a frame takes from what a run takes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from skipsim.analysis.clips import load_clip
from skipsim.analysis.jobs import STORE, Plan
from skipsim.analysis.parallel import in_processes
from skipsim.analysis.recordings import RecordingTask, record_traces
from skipsim.analysis.simulations import SimulationChoice
from skipsim.analysis.store import Spent, read_spent
from skipsim.errors import InputError
from skipsim.simulator.simulate import compile_engine, simulate
from skipsim.traces.trace import Trace, load_trace

PROBE_FRAMES = (2, 6)
PROBE_JOBS = 3


@dataclass(frozen=True)
class Estimate:
    """Seconds of one core for what is missing, and what they were measured on."""

    recording_seconds: float
    simulation_seconds: float
    workers: int
    basis: str

    @property
    def seconds(self) -> float:
        """Seconds on all workers, if they are kept busy."""
        return (self.recording_seconds + self.simulation_seconds) / self.workers


def estimate(plan: Plan, missing_recordings: int, missing_simulations: int, workers: int) -> Estimate:
    """Say how long so many of the missing recordings and so many missing simulations of a plan take.

    Raises:
        InputError: a recording that cannot be made.
    """
    missing = list(plan.missing_recordings().values())
    spent = read_spent(plan.directory / STORE)
    recordings, simulations = spent.get("recording"), spent.get("simulation")
    probes: list[tuple[int, float, Path]] = []
    with tempfile.TemporaryDirectory() as folder:
        if missing and (recordings is None or simulations is None):
            probes = _probe(missing[0], Path(folder))
        record = _per_run(recordings) if recordings else _line([(frames, took) for frames, took, _ in probes])
        traces = [load_trace(path) for _, _, path in probes] or _existing(plan)
        choices = _spread(plan.simulations)
        run = _per_run(simulations) if simulations or not missing_simulations else _timed(traces, choices)
    lengths = {(task.clip, task.frames): _frames(task) for task in missing}
    frames = [lengths[task.clip, task.frames] for task in missing]
    typical = frames or [trace.frames for trace in _existing(plan)]
    basis = f"a probe of {PROBE_FRAMES[-1]} frames" if probes else "one trace" if not simulations else "earlier runs"
    return Estimate(
        recording_seconds=missing_recordings * sum(map(record, frames)) / max(1, len(frames)),
        simulation_seconds=missing_simulations * run(round(sum(typical) / max(1, len(typical)))),
        workers=workers,
        basis=basis,
    )


Cost = Callable[[int], float]  # seconds of one run over so many frames


def _per_run(spent: Spent | None) -> Cost:
    """Return the mean cost of earlier runs, in proportion to the frames."""
    per_frame = spent.seconds / max(1, spent.frames) if spent else 0.0
    return lambda frames: per_frame * frames


def _line(points: Sequence[tuple[int, float]]) -> Cost:
    """Return the line through the first and the last measurement, not falling; one measurement: in proportion."""
    if not points:
        return lambda frames: 0.0
    (first, low), (last, high) = points[0], points[-1]
    if first == last:
        return lambda frames: high * frames / last
    slope = max(0.0, (high - low) / (last - first))
    return lambda frames: max(0.0, high + slope * (frames - last))


def _probe(task: RecordingTask, folder: Path) -> list[tuple[int, float, Path]]:
    """Record a task for a few frames, twice in one process; return frames, seconds and trace of each."""
    short = [(replace(task, frames=frames), folder / f"{frames}.trace") for frames in PROBE_FRAMES]
    warm = (short[0][0], folder / "warm.trace")  # imports and first calls are paid once per process, not per recording
    probes = []
    for _, results in in_processes(record_traces, [[warm, *short]], 1):
        for (_, path), result in zip(short, results[1:], strict=True):
            if not isinstance(result, tuple) or result[0]:
                raise InputError(f"recording: {result[0] if isinstance(result, tuple) else 'the process was killed'}")
            probes.append((load_trace(path).frames, result[1], path))
    return probes


def _timed(traces: Sequence[Trace], choices: Sequence[SimulationChoice]) -> Cost:
    """Simulate traces of different lengths on a few choices; jobs that fail cost what they cost."""
    compile_engine()
    points = []
    for trace in sorted(traces, key=lambda trace: trace.frames)[:: max(1, len(traces) - 1)]:
        start = time.perf_counter()
        for choice in choices:
            try:
                simulate(trace, choice.hardware, choice.tile)
            except InputError:
                continue
        points.append((trace.frames, (time.perf_counter() - start) / len(choices)))
    return _line(points)


def _spread(choices: Sequence[SimulationChoice]) -> list[SimulationChoice]:
    return list(choices[:: max(1, -(-len(choices) // PROBE_JOBS))])


def _existing(plan: Plan) -> list[Trace]:
    traces = []
    for path in dict.fromkeys(source.path for source in plan.sources):
        try:
            traces.append(load_trace(path))
        except InputError:
            continue
    return traces


def _frames(task: RecordingTask) -> int:
    """Count the frames of a task's clip, as far as they are recorded."""
    return sum(1 for _ in load_clip(task.clip, task.frames, task.size).frames)
