"""How long the rest of a study will take: from what its own runs took, or from a short probe of them.

Nothing is written into the study's folder. A probe records the first missing recording for a few frames, in a process
of its own and a temporary folder, and simulates a few jobs; two lengths tell what a frame takes from what a run takes.
What processes take to start, PyTorch or the compiled engine included, is timed on such a process too.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from skipsim.analysis.running.jobs import STORE, Plan
from skipsim.analysis.running.parallel import in_processes
from skipsim.analysis.running.recordings import RecordingTask, check_networks, record_traces
from skipsim.analysis.running.simulations import SimulationChoice
from skipsim.analysis.running.store import Spent, read_spent
from skipsim.errors import InputError
from skipsim.simulator.simulate import compile_engine, simulate
from skipsim.traces.trace import Trace, load_trace

PROBE_FRAMES = (2, 6)
PROBE_PLACES = 3  # of the grid, at which neighbouring jobs are tried: tiles of one machine share its dense schedule
PROBE_NEIGHBOURS = 4
ROW_SECONDS = 0.0007  # of the scheduling process for plan, store and table: benchmarks/sweep_scale.py, docs/studies.md


@dataclass(frozen=True)
class Estimate:
    """Seconds for what is missing, and what they were measured on.

    Starting is over before the work begins, and writing the table comes after it; recordings and simulations are in
    seconds of one core.
    """

    starting_seconds: float
    recording_seconds: float
    simulation_seconds: float
    table_seconds: float
    missing_recordings: int
    workers: int
    basis: str

    @property
    def seconds(self) -> float:
        """Seconds on all workers; the last of a few recordings keeps one busy and lets the others wait."""
        at_a_time = self.missing_recordings / max(1, -(-self.missing_recordings // self.workers))
        recording = self.recording_seconds / max(1.0, at_a_time)
        return self.starting_seconds + recording + self.simulation_seconds / self.workers + self.table_seconds


def estimate(plan: Plan, missing_recordings: int, missing_simulations: int, workers: int) -> Estimate:
    """Say how long so many of the missing recordings and so many missing simulations of a plan take.

    Raises:
        InputError: a recording that cannot be made.
    """
    missing = list(plan.missing_recordings().values())
    spent = read_spent(plan.directory / STORE)
    recordings, simulations = spent.get("recording"), spent.get("simulation")
    probes: list[tuple[int, float, Path]] = []
    anything = bool(missing or missing_simulations)
    starting = _starting(missing, workers) if anything else 0.0
    with tempfile.TemporaryDirectory() as folder:
        if missing and (recordings is None or simulations is None):
            probes = _probe(missing[0], Path(folder))
        record = _per_run(recordings) if recordings else _line([(frames, took) for frames, took, _ in probes])
        traces = [load_trace(path) for _, _, path in probes] or _existing(plan)
        run = _per_run(simulations) if simulations or not missing_simulations else _timed(traces, _spread(plan))
    lengths = {(task.clip, task.frames): _frames(task) for task in missing}
    frames = [lengths[task.clip, task.frames] for task in missing]
    typical = frames or [trace.frames for trace in _existing(plan)]
    basis = f"a probe of {PROBE_FRAMES[-1]} frames" if probes else "one trace" if not simulations else "earlier runs"
    return Estimate(
        starting_seconds=starting,
        recording_seconds=missing_recordings * sum(map(record, frames)) / max(1, len(frames)),
        simulation_seconds=missing_simulations * run(round(sum(typical) / max(1, len(typical)))),
        table_seconds=anything * plan.rows * ROW_SECONDS,
        missing_recordings=missing_recordings,
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


def _starting(missing: Sequence[RecordingTask], workers: int) -> float:
    """Return the seconds that pass until all processes have started, from what one takes.

    Before recordings, one imports PyTorch and builds the networks, and the others follow beside its first recording.
    All of them, and the scheduling process, load the compiled engine at the same time.
    """
    start = time.perf_counter()
    if missing:
        list(in_processes(check_networks, [missing[:1]], 1))
    with_torch = time.perf_counter()
    list(in_processes(load_engine, [[None]], 1))
    torch, engine = with_torch - start, time.perf_counter() - with_torch
    return torch * (2 - 1 / workers) + engine * (1 + 1 / workers)


def load_engine(items: Sequence[None]) -> Sequence[None]:
    """Load the compiled engine, for a process of its own."""
    compile_engine()
    return items


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


def _spread(plan: Plan) -> list[SimulationChoice]:
    """Return some neighbours at a few places of the grid."""
    count = len(plan.simulations)
    begins = range(0, count, max(1, -(-count // PROBE_PLACES)))
    return [choice for begin in begins for choice in plan.simulations[begin : begin + PROBE_NEIGHBOURS]]


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
    return sum(1 for _ in task.load().frames)
