"""Plan: what a study and a folder together ask for, recordings and simulations, checked and named by content."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skipsim.analysis.axes import SINGLE_PIXELS, BlockPlan
from skipsim.analysis.recording_axes import RecordingChoice
from skipsim.analysis.results import recording_columns, trace_columns
from skipsim.analysis.running.keys import job_key
from skipsim.analysis.running.recordings import RecordingTask, check_inputs, is_recorded, task_of
from skipsim.analysis.running.simulations import SimulationChoice
from skipsim.analysis.running.store import check_store
from skipsim.analysis.search import Trial
from skipsim.analysis.study import Study, load_study
from skipsim.errors import InputError
from skipsim.traces.trace import load_trace

STUDY = "study.toml"
STORE = "results.sqlite"


@dataclass(frozen=True)
class Job:
    """One simulation: a trace, on what; `key` is a hash of their content and of the model's version."""

    key: str
    trace: Path
    trace_hash: str
    frames: int
    simulation: SimulationChoice


@dataclass(frozen=True)
class Recorded:
    """One recording of the study: its columns of the table, and its trace or the reason why there is none."""

    columns: dict[str, Any]
    path: Path
    error: str = ""
    size: str = ""  # of the frames of an existing trace, where it is known

    @property
    def trace_hash(self) -> str:
        """The trace's content hash; "" without a trace."""
        return str(self.columns.get("trace_hash", ""))


@dataclass(frozen=True)
class Source:
    """Where the trace of a recording choice comes from, and where it is or will be.

    `task` records it into `recording`; None where that exists already. In open loop `path` is that recording coarsened.
    """

    choice: RecordingChoice
    task: RecordingTask | None
    recording: Path
    path: Path


@dataclass(frozen=True)
class Plan:
    """What is to be run in a folder: recordings, and what each is simulated on, row by row of the table.

    `tried` are the rows of a search, in order: the numbers of a source and of a simulation. Without it there is a row
    for every simulation of every source. Rows are counted and made when asked for, never all at a time.
    """

    study: Study
    directory: Path
    sources: tuple[Source, ...]
    simulations: Sequence[SimulationChoice]
    tried: tuple[tuple[int, int], ...] | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.sources) * len(self.simulations) if self.tried is None else len(self.tried)

    def pair(self, row: int) -> tuple[int, int]:
        """Return the numbers of the source and of the simulation of a row."""
        return divmod(row, len(self.simulations)) if self.tried is None else self.tried[row]

    def missing_recordings(self) -> dict[Path, RecordingTask]:
        """Return what has yet to be recorded, by the path that it will have."""
        tasks = {source.recording: source.task for source in self.sources if source.task is not None}
        return {path: task for path, task in tasks.items() if not is_recorded(path)}

    def missing_coarsenings(self) -> list[tuple[Path, BlockPlan, Path]]:
        """Return which recordings have yet to be coarsened: from which path, to which blocks, into which path."""
        wanted = {source.path: source for source in self.sources if source.path != source.recording}
        return [
            (source.recording, source.choice.block, path) for path, source in wanted.items() if not is_recorded(path)
        ]

    def recorded(self, failures: Mapping[Path, str]) -> list[Recorded]:
        """Open every source, in order; `failures` are the reasons of those that failed, by path."""
        opened: dict[Path, Recorded] = {}
        return _sizes_told_apart([_recorded(self.study, source, failures, opened) for source in self.sources])

    def keys(self, recorded: Sequence[Recorded]) -> Iterator[str]:
        """Yield the job key of every row; "" where there is no recording."""
        for row in range(self.rows):
            source, simulation = self.pair(row)
            yield "" if recorded[source].error else self._key(recorded[source], self.simulations[simulation])

    def names(self, recorded: Sequence[Recorded]) -> Iterator[str]:
        """Yield a name of every row's simulation: its key, or where there is no recording, of what it will be."""
        for row in range(self.rows):
            source, simulation = self.pair(row)
            one, choice = recorded[source], self.simulations[simulation]
            yield f"{one.path} {choice.machine} {choice.tile}" if one.error else self._key(one, choice)

    def job(self, recorded: Sequence[Recorded], row: int) -> Job:
        """Return the simulation that a row stands for."""
        source, simulation = self.pair(row)
        one, choice = recorded[source], self.simulations[simulation]
        return Job(self._key(one, choice), one.path.absolute(), one.trace_hash, one.columns["frames"], choice)

    @staticmethod
    def _key(recorded: Recorded, choice: SimulationChoice) -> str:
        return job_key(recorded.trace_hash, choice.machine, choice.tile)


def make_plan(study: str | Path, out: str | Path) -> Plan:
    """Read a study and check it and the folder, without writing anything; whatever is wrong is an InputError.

    A study with [search] has no rows yet, but all its sources: what it may record.
    """
    chosen, directory = load_study(study), Path(out)
    simulations = chosen.simulation_choices()
    sources = [source_of(chosen, directory.absolute(), choice) for choice in chosen.recording_choices()]
    _check_sources(sources)
    _check_folder(chosen, directory)
    return Plan(chosen, directory.absolute(), tuple(sources), simulations, () if chosen.search else None)


def plan_of(study: Study, directory: Path, trials: Iterable[Trial]) -> Plan:
    """Return the plan that runs some combinations of a study, a row for every clip of each."""
    sources: dict[RecordingChoice, int] = {}
    simulations: dict[SimulationChoice, int] = {}
    tried = tuple(
        (sources.setdefault(choice, len(sources)), simulations.setdefault(trial.simulation, len(simulations)))
        for trial in trials
        for choice in trial.recordings
    )
    found = tuple(source_of(study, directory, choice) for choice in sources)
    return Plan(study, directory, found, tuple(simulations), tried)


def source_of(study: Study, directory: Path, choice: RecordingChoice) -> Source:
    """Say where the trace of a recording choice is or will be."""
    if choice.trace is not None:
        path = study.resolve(choice.trace)
        return Source(choice, None, path, path)
    task = task_of(study, choice)
    recording = directory / "traces" / f"{task.key()}.trace"
    if choice.loop == "closed" or choice.block == SINGLE_PIXELS:
        return Source(choice, task, recording, recording)
    key = hashlib.sha256(json.dumps([task.key(), str(choice.block)]).encode()).hexdigest()[:32]
    return Source(choice, task, recording, directory / "traces" / f"{key}.trace")


def _check_sources(sources: Iterable[Source]) -> None:
    """Check, without torch, that existing traces are whole and that networks and clips to be recorded exist."""
    seen = set()
    for source in sources:
        if source.task is None and not load_trace(source.path).complete:
            raise InputError(f"{source.path}: the recording was cut off; record it again")
        task = source.task
        if task and (inputs := (task.network, task.weights, task.clip, task.size)) not in seen:
            check_inputs(task)
            seen.add(inputs)


def _recorded(study: Study, source: Source, failures: Mapping[Path, str], opened: dict[Path, Recorded]) -> Recorded:
    columns = {"study": study.name} | source.choice.columns()
    error = failures.get(source.recording) or failures.get(source.path)
    if error:
        return Recorded(columns, source.path, error)
    if source.path not in opened:
        trace = load_trace(source.path)
        size = "x".join(map(str, trace.origin.get("input", ())[1:]))
        opened[source.path] = Recorded(recording_columns(trace) | trace_columns(trace), source.path, size=size)
    known = opened[source.path]
    return replace(known, columns=known.columns | columns, size=known.size if source.task is None else "")


def _sizes_told_apart(recorded: list[Recorded]) -> list[Recorded]:
    """Name the size behind the network of existing traces where a study has several of one network."""
    sizes: dict[str, set[str]] = {}
    for one in recorded:
        if one.size:
            sizes.setdefault(one.columns["network"], set()).add(one.size)
    return [
        replace(one, columns=one.columns | {"network": f"{one.columns['network']} {one.size}"})
        if one.size and len(sizes[one.columns["network"]]) > 1
        else one
        for one in recorded
    ]


def _check_folder(study: Study, directory: Path) -> None:
    """Check that a folder is new, empty, or that of this study and this version."""
    if directory.exists() and not directory.is_dir():
        raise InputError(f"results folder {directory}: not a folder")
    if not directory.exists() or not any(entry.name[0] != "." for entry in directory.iterdir()):
        return
    copy = directory / STUDY
    if not copy.is_file():
        raise InputError(f"results folder {directory}: holds something that is not a study; give another folder")
    try:
        name = tomllib.loads(copy.read_text(encoding="utf-8")).get("name")
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{copy}: not valid TOML: {error}") from None
    if name != study.name:
        raise InputError(
            f"results folder {directory}: holds study {name!r}, this is study {study.name!r}; give another folder"
        )
    check_store(directory / STORE)
