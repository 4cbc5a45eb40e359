"""Plan: what a study and a folder together ask for, recordings and simulations, checked and named by content."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from skipsim.analysis.axes import SINGLE_PIXELS, BlockPlan
from skipsim.analysis.constraints import violations
from skipsim.analysis.keys import job_key
from skipsim.analysis.pareto import on_front
from skipsim.analysis.recordings import RecordingTask, check_inputs, is_recorded, task_of
from skipsim.analysis.results import make_table, recording_columns, trace_columns
from skipsim.analysis.search import Trial
from skipsim.analysis.store import check_store
from skipsim.analysis.study import RecordingChoice, SimulationChoice, Study, load_study
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

    `runs` are the rows, in order: the number of a source, and a simulation of it.
    """

    study: Study
    directory: Path
    sources: tuple[Source, ...]
    runs: tuple[tuple[int, SimulationChoice], ...]

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
        return [_recorded(self.study, source, failures, opened) for source in self.sources]

    def keys(self, recorded: Sequence[Recorded]) -> list[str]:
        """Return the job key of every run; "" where there is no recording."""
        return [
            "" if recorded[number].error else job_key(recorded[number].trace_hash, choice.machine, choice.tile)
            for number, choice in self.runs
        ]

    def jobs(self, recorded: Sequence[Recorded], keys: Sequence[str]) -> list[Job]:
        """Return every simulation once, also where recordings gave the same masks or machines the same numbers."""
        jobs: dict[str, Job] = {}
        for key, (number, choice) in zip(keys, self.runs, strict=True):
            if key and key not in jobs:
                one = recorded[number]
                jobs[key] = Job(key, one.path.absolute(), one.trace_hash, one.columns["frames"], choice)
        return list(jobs.values())

    def table(
        self, recorded: Sequence[Recorded], keys: Sequence[str], outcome_of: Callable[[str], Mapping[str, Any]]
    ) -> pd.DataFrame:
        """Make the results table, one row per run in order; outcomes are asked for by key."""
        table = make_table(self._rows(recorded, keys, outcome_of), self.study.simulation.overrides)
        table["violates"] = violations(table, self.study.late_constraints)
        table["on_front"] = on_front(table, self.study.objectives)
        return table

    def _rows(
        self, recorded: Sequence[Recorded], keys: Sequence[str], outcome_of: Callable[[str], Mapping[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        for key, (number, choice) in zip(keys, self.runs, strict=True):
            one = recorded[number]
            outcome = outcome_of(key) if key else {"error": one.error}
            yield {**one.columns, **choice.columns(), "job_key": key, **outcome}


def make_plan(study: str | Path, out: str | Path) -> Plan:
    """Read a study and check it and the folder, without writing anything; whatever is wrong is an InputError.

    A study with [search] has no runs yet, but all its sources: what it may record.
    """
    chosen, directory = load_study(study), Path(out)
    simulations = chosen.simulation_choices()
    sources = [source_of(chosen, directory.absolute(), choice) for choice in chosen.recording_choices()]
    _check_sources(sources)
    _check_folder(chosen, directory)
    runs = [] if chosen.search else [(number, choice) for number in range(len(sources)) for choice in simulations]
    return Plan(chosen, directory.absolute(), tuple(sources), tuple(runs))


def plan_of(study: Study, directory: Path, trials: Iterable[Trial]) -> Plan:
    """Return the plan that runs some combinations of a study, a row for every clip of each."""
    numbers: dict[RecordingChoice, int] = {}
    runs = [
        (numbers.setdefault(choice, len(numbers)), trial.simulation) for trial in trials for choice in trial.recordings
    ]
    return Plan(study, directory, tuple(source_of(study, directory, choice) for choice in numbers), tuple(runs))


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
        if source.task and (source.task.network, source.task.clip) not in seen:
            check_inputs(source.task)
            seen.add((source.task.network, source.task.clip))


def _recorded(study: Study, source: Source, failures: Mapping[Path, str], opened: dict[Path, Recorded]) -> Recorded:
    columns = {"study": study.name} | source.choice.columns()
    error = failures.get(source.recording) or failures.get(source.path)
    if error:
        return Recorded(columns, source.path, error)
    if source.path not in opened:
        trace = load_trace(source.path)
        opened[source.path] = Recorded(recording_columns(trace) | trace_columns(trace), source.path)
    return Recorded(opened[source.path].columns | columns, source.path)


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
