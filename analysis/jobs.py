"""Plan: what a study and a folder together ask for, recordings and simulations, checked and named by content."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from skipsim.analysis.recordings import RecordingTask, check_inputs, is_recorded, task_of
from skipsim.analysis.results import block_columns, make_table, recording_columns, trace_columns
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
class Plan:
    """A study that is to be run in a folder: its recordings in the order of their axes, and what each is simulated on.

    `tasks` are None where a recording is an existing trace; `paths` say where the traces are or will be.
    """

    study: Study
    directory: Path
    choices: tuple[RecordingChoice, ...]
    tasks: tuple[RecordingTask | None, ...]
    paths: tuple[Path, ...]
    simulations: tuple[SimulationChoice, ...]

    def missing_recordings(self) -> dict[Path, RecordingTask]:
        """Return what has yet to be recorded, by the path that it will have."""
        tasks = {path: task for path, task in zip(self.paths, self.tasks, strict=True) if task is not None}
        return {path: task for path, task in tasks.items() if not is_recorded(path)}

    def recorded(self, failures: Mapping[Path, str]) -> list[Recorded]:
        """Open every recording, in order; `failures` are the reasons of those that failed."""
        return [
            _recorded(self.study, choice, path, failures.get(path, ""))
            for choice, path in zip(self.choices, self.paths, strict=True)
        ]

    def jobs(self, recorded: Sequence[Recorded]) -> list[Job]:
        """Return every simulation once, also where recordings gave the same masks or machines the same numbers."""
        jobs: dict[str, Job] = {}
        for one in recorded:
            if not one.error:
                for choice, machine in zip(self.simulations, self._machines, strict=True):
                    key = job_key(one.trace_hash, machine, choice.tile)
                    jobs.setdefault(key, Job(key, one.path, one.trace_hash, choice.hardware, choice.tile))
        return list(jobs.values())

    def table(self, recorded: Sequence[Recorded], outcome_of: Callable[[str], Mapping[str, Any]]) -> pd.DataFrame:
        """Make the results table, one row per recording and simulation in order; outcomes are asked for by key."""
        return make_table(self._rows(recorded, outcome_of), self.study.simulation.overrides)

    def _rows(
        self, recorded: Sequence[Recorded], outcome_of: Callable[[str], Mapping[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        for one in recorded:
            for choice, machine in zip(self.simulations, self._machines, strict=True):
                labels = {"hardware": choice.hardware.name, "tile": choice.tile, **dict(choice.overrides)}
                key = "" if one.error else job_key(one.trace_hash, machine, choice.tile)
                outcome = {"error": one.error} if one.error else outcome_of(key)
                yield {**one.columns, **labels, "job_key": key, **outcome}

    @cached_property
    def _machines(self) -> list[str]:
        return [machine_text(choice.hardware) for choice in self.simulations]


def make_plan(study: str | Path, out: str | Path) -> Plan:
    """Read a study and check it and the folder, without writing anything; whatever is wrong is an InputError."""
    chosen, directory = load_study(study), Path(out)
    simulations = chosen.simulation_choices()
    choices = chosen.recording_choices()
    tasks = [None if choice.trace else task_of(chosen, choice) for choice in choices]
    seen = set()
    for choice, task in zip(choices, tasks, strict=True):
        if choice.trace and not load_trace(chosen.resolve(choice.trace)).complete:
            raise InputError(f"{chosen.resolve(choice.trace)}: the recording was cut off; record it again")
        if task and (task.network, task.clip) not in seen:
            check_inputs(task)
            seen.add((task.network, task.clip))
    _check_folder(chosen, directory)
    paths = [
        directory / "traces" / f"{task.key()}.trace" if task else chosen.resolve(choice.trace or "")
        for choice, task in zip(choices, tasks, strict=True)
    ]
    return Plan(chosen, directory, tuple(choices), tuple(tasks), tuple(paths), tuple(simulations))


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


def _recorded(study: Study, choice: RecordingChoice, path: Path, error: str) -> Recorded:
    columns: dict[str, Any] = {"study": study.name}
    if choice.trace:
        trace = load_trace(path)
        return Recorded(columns | recording_columns(trace) | trace_columns(trace), path)
    columns |= {
        "network": choice.network,
        "clip": choice.clip,
        "gate": choice.gate,
        "threshold": choice.threshold,
        **block_columns(choice.block),
        "update": choice.update,
        "reset_every": choice.reset_every,
    }
    return Recorded(columns, path, error) if error else Recorded(columns | trace_columns(load_trace(path)), path)


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
