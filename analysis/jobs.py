"""Plan: what a study and a folder together ask for, recordings and simulations, checked and named by content."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from skipsim.analysis.axes import SINGLE_PIXELS, BlockPlan
from skipsim.analysis.constraints import violations
from skipsim.analysis.pareto import on_front
from skipsim.analysis.recordings import RecordingTask, check_inputs, is_recorded, task_of
from skipsim.analysis.results import make_table, recording_columns, trace_columns
from skipsim.analysis.store import check_store
from skipsim.analysis.study import RecordingChoice, SimulationChoice, Study, load_study
from skipsim.errors import InputError
from skipsim.hwmodels.hardware import Hardware
from skipsim.simulator.tiles import MODEL_VERSION
from skipsim.traces.trace import load_trace

STUDY = "study.toml"
STORE = "results.sqlite"


@dataclass(frozen=True)
class Job:
    """One simulation: a trace, a machine, a tile; `key` is a hash of their content and of the model's version."""

    key: str
    trace: Path
    trace_hash: str
    hardware: Hardware
    tile: str


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
    """A study that is to be run in a folder: its recordings in the order of their axes, what each is simulated on."""

    study: Study
    directory: Path
    sources: tuple[Source, ...]
    simulations: tuple[SimulationChoice, ...]

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
        """Open every recording, in order; `failures` are the reasons of those that failed, by path."""
        opened: dict[Path, Recorded] = {}
        return [_recorded(self.study, source, failures, opened) for source in self.sources]

    def jobs(self, recorded: Sequence[Recorded]) -> list[Job]:
        """Return every simulation once, also where recordings gave the same masks or machines the same numbers."""
        jobs: dict[str, Job] = {}
        for one in recorded:
            if not one.error:
                for choice, machine in zip(self.simulations, self._machines, strict=True):
                    key = job_key(one.trace_hash, machine, choice.tile)
                    if key not in jobs:
                        jobs[key] = Job(key, one.path.absolute(), one.trace_hash, choice.hardware, choice.tile)
        return list(jobs.values())

    def table(self, recorded: Sequence[Recorded], outcome_of: Callable[[str], Mapping[str, Any]]) -> pd.DataFrame:
        """Make the results table, one row per recording and simulation in order; outcomes are asked for by key."""
        table = make_table(self._rows(recorded, outcome_of), self.study.simulation.overrides)
        table["violates"] = violations(table, self.study.late_constraints)
        table["on_front"] = on_front(table, self.study.objectives)
        return table

    def _rows(
        self, recorded: Sequence[Recorded], outcome_of: Callable[[str], Mapping[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        labels = [choice.columns() for choice in self.simulations]
        for one in recorded:
            for label, choice, machine in zip(labels, self.simulations, self._machines, strict=True):
                key = "" if one.error else job_key(one.trace_hash, machine, choice.tile)
                outcome = {"error": one.error} if one.error else outcome_of(key)
                yield {**one.columns, **label, "job_key": key, **outcome}

    @cached_property
    def _machines(self) -> list[str]:
        return [machine_text(choice.hardware) for choice in self.simulations]


def make_plan(study: str | Path, out: str | Path) -> Plan:
    """Read a study and check it and the folder, without writing anything; whatever is wrong is an InputError."""
    chosen, directory = load_study(study), Path(out)
    simulations = chosen.simulation_choices()
    sources = [source_of(chosen, directory, choice) for choice in chosen.recording_choices()]
    check_sources(sources)
    check_folder(chosen, directory)
    return Plan(chosen, directory, tuple(sources), tuple(simulations))


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


def check_sources(sources: Iterable[Source]) -> None:
    """Check, without torch, that existing traces are whole and that networks and clips to be recorded exist."""
    seen = set()
    for source in sources:
        if source.task is None and not load_trace(source.path).complete:
            raise InputError(f"{source.path}: the recording was cut off; record it again")
        if source.task and (source.task.network, source.task.clip) not in seen:
            check_inputs(source.task)
            seen.add((source.task.network, source.task.clip))


def machine_text(hardware: Hardware) -> str:
    """Return a machine's numbers as one text; its name and sources change no result and are left out."""
    numbers = {
        key: {name: entry for name, entry in value.items() if name != "source"} if isinstance(value, dict) else value
        for key, value in hardware.model_dump().items()
        if key not in ("name", "source") and value is not None
    }
    return json.dumps(numbers, sort_keys=True)


def job_key(trace_hash: str, machine: str, tile: str) -> str:
    """Return the hash that names a simulation: of the trace's content, `machine_text`, tile and model version."""
    return hashlib.sha256(json.dumps([trace_hash, machine, tile, MODEL_VERSION]).encode()).hexdigest()


def _recorded(study: Study, source: Source, failures: Mapping[Path, str], opened: dict[Path, Recorded]) -> Recorded:
    columns = {"study": study.name} | source.choice.columns()
    error = failures.get(source.recording) or failures.get(source.path)
    if error:
        return Recorded(columns, source.path, error)
    if source.path not in opened:
        trace = load_trace(source.path)
        opened[source.path] = Recorded(recording_columns(trace) | trace_columns(trace), source.path)
    return Recorded(opened[source.path].columns | columns, source.path)


def check_folder(study: Study, directory: Path) -> None:
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
