"""sweep(study) -> table: first all recordings, then all simulations, in parallel and resumable at any point.

In the folder of a study lie `study.toml` (a copy), `traces/` (recordings by content), `results.sqlite` (outcomes of
simulations by job key, written while it runs), `results.parquet` (the table, there if and only if every row of
study.toml is in it) and `provenance.json`. A second run does only what is missing; failed jobs are tried again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import platform
import shutil
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from skipsim import __version__
from skipsim.analysis import recordings
from skipsim.analysis.parallel import WorkerDied, in_processes
from skipsim.analysis.recordings import RecordingTask
from skipsim.analysis.results import (
    RESULTS,
    block_columns,
    make_table,
    outcome_of,
    read_results,
    recording_columns,
    trace_columns,
    write_results,
)
from skipsim.analysis.store import Store, check_store
from skipsim.analysis.study import RecordingChoice, SimulationChoice, Study, load_study
from skipsim.atomic import write_text
from skipsim.errors import InputError
from skipsim.hwmodels.hardware import Hardware
from skipsim.simulator.simulate import simulate
from skipsim.simulator.tiles import MODEL_VERSION
from skipsim.traces.trace import Trace, load_trace

LARGEST_BATCH = 64
BATCHES_PER_WORKER = 16


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
    """One recording of the study: its columns, and its trace or the reason why there is none."""

    columns: dict[str, Any]
    path: Path
    error: str = ""

    @property
    def trace_hash(self) -> str:
        """The trace's content hash."""
        return str(self.columns.get("trace_hash", ""))


def sweep(study: str | Path, out: str | Path, workers: int | None = None, *, progress: bool = True) -> pd.DataFrame:
    """Run a study, or what is missing of it, and return its table (see results.py for the columns).

    Rows stand in the order of the study's axes. Jobs that failed are rows with their reason in `error`.

    Args:
        study: a study file.
        out: the study's folder; made if it is missing.
        workers: number of processes; None: one per core.
        progress: whether to show a progress bar on standard error.

    Raises:
        InputError: anything wrong with the study or the folder; nothing has been written then.
    """
    chosen = load_study(study)
    directory = Path(out)
    workers = joblib.cpu_count() if workers is None else workers
    if type(workers) is not int or workers < 1:
        raise InputError(f"sweep: workers must be a whole number >= 1, got {workers!r}")
    simulations = chosen.simulation_choices()
    choices = chosen.recording_choices()
    tasks = [None if choice.trace else recordings.task_of(chosen, choice) for choice in choices]
    _check_inputs(chosen, choices, tasks)
    _check_folder(chosen, directory)
    paths = [_trace_path(chosen, directory, choice, task) for choice, task in zip(choices, tasks, strict=True)]
    missing = {path: task for path, task in zip(paths, tasks, strict=True) if task and not recordings.is_recorded(path)}
    if missing:
        list(in_processes(recordings.check_networks, [list(missing.values())], 1))
    with _locked(directory, progress), _Bar(progress) as bar:
        _begin(chosen, directory)
        failures = _record(missing, workers, bar)
        recorded = [
            _recorded(chosen, choice, path, failures.get(path, "")) for choice, path in zip(choices, paths, strict=True)
        ]
        with Store(directory / "results.sqlite") as store:
            _simulate(_jobs(recorded, simulations), store, workers, directory, bar)
            table = _table(chosen, recorded, simulations, store)
        write_results(directory, table)
        _write_provenance(chosen, directory, recorded, tasks)
    return read_results(directory)


def machine_text(hardware: Hardware) -> str:
    """Return a machine's numbers as one text; its name and sources change no result and are left out."""
    machine = {
        key: {name: entry for name, entry in value.items() if name != "source"} if isinstance(value, dict) else value
        for key, value in hardware.model_dump().items()
        if key not in ("name", "source")
    }
    return json.dumps(machine, sort_keys=True)


def job_key(trace_hash: str, machine: str, tile: str) -> str:
    """Return the hash that names a simulation: of the trace's content, `machine_text`, tile and model version."""
    return hashlib.sha256(json.dumps([trace_hash, machine, tile, MODEL_VERSION]).encode()).hexdigest()


def simulate_jobs(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Simulate jobs one after the other; each gives its outcome, or the reason of its failure under "error"."""
    return [_simulate_job(job) for job in jobs]


def _simulate_job(job: Job) -> dict[str, Any]:
    try:
        return outcome_of(simulate(_open_trace(job.trace, job.trace_hash), job.hardware, job.tile))
    except Exception as error:  # whatever went wrong, it costs this row and not the study
        return {"error": _reason(error)}


@lru_cache(maxsize=2)
def _open_trace(path: Path, trace_hash: str) -> Trace:
    """Open a trace once per process; its masks are memory-mapped, so that processes share them."""
    return load_trace(path)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


def _check_inputs(study: Study, choices: Sequence[RecordingChoice], tasks: Sequence[RecordingTask | None]) -> None:
    """Check everything that the study names, as far as that needs neither torch nor much time."""
    for choice in choices:
        if choice.trace and not load_trace(study.resolve(choice.trace)).complete:
            raise InputError(f"{study.resolve(choice.trace)}: the recording was cut off; record it again")
    seen = set()
    for task in tasks:
        if task and (task.network, task.clip) not in seen:
            recordings.check_inputs(task)
            seen.add((task.network, task.clip))


def _check_folder(study: Study, directory: Path) -> None:
    """Check that a folder is new, empty, or that of this study and this version."""
    if directory.exists() and not directory.is_dir():
        raise InputError(f"results folder {directory}: not a folder")
    if not directory.exists() or not any(entry.name[0] != "." for entry in directory.iterdir()):
        return
    copy = directory / "study.toml"
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
    check_store(directory / "results.sqlite")


def _trace_path(study: Study, directory: Path, choice: RecordingChoice, task: RecordingTask | None) -> Path:
    if task is None:
        assert choice.trace is not None, "a choice is a trace or a task"
        return study.resolve(choice.trace)
    return directory / "traces" / f"{task.key()}.trace"


@contextmanager
def _locked(directory: Path, progress: bool) -> Iterator[None]:
    """Wait until no other process works on the folder; the lock ends with the process, however it ends."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if progress:
                print(f"{directory}: waiting for another process to finish this study", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _begin(study: Study, directory: Path) -> None:
    """Remove what a killed run left, and the table if it is another study's; note which study this is."""
    traces = directory / "traces"
    if traces.is_dir():
        for entry in traces.iterdir():
            if entry.name[0] == ".":
                shutil.rmtree(entry, ignore_errors=True)
    for entry in directory.glob(".*.tmp.*"):
        entry.unlink(missing_ok=True)
    copy = directory / "study.toml"
    if not copy.exists() or copy.read_text(encoding="utf-8") != study.text:
        (directory / RESULTS).unlink(missing_ok=True)
        write_text(copy, study.text)


def _record(missing: dict[Path, RecordingTask], workers: int, bar: _Bar) -> dict[Path, str]:
    """Record what is missing; return the reasons of those that failed."""
    failures = {}
    # another process may have recorded them while this one waited for the lock
    batches = [[(task, path)] for path, task in missing.items() if not recordings.is_recorded(path)]
    for path in {path.parent for path in missing}:
        path.mkdir(exist_ok=True)
    bar.begin("recording", len(batches))
    for batch, results in in_processes(recordings.record_traces, batches, workers, ahead=1):
        for (_, path), result in zip(batch, results, strict=True):
            if isinstance(result, WorkerDied):
                failures[path] = "recording: the process was killed twice"
            elif result:
                failures[path] = f"recording: {result}"
        bar.advance(len(batch))
    return failures


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
    if error:
        return Recorded(columns, path, error)
    return Recorded(columns | trace_columns(load_trace(path)), path)


def _jobs(recorded: Sequence[Recorded], simulations: Sequence[SimulationChoice]) -> list[Job]:
    """Return every simulation once, also where recordings gave the same masks or machines the same numbers."""
    machines = [machine_text(choice.hardware) for choice in simulations]
    jobs: dict[str, Job] = {}
    for one in recorded:
        if not one.error:
            for choice, machine in zip(simulations, machines, strict=True):
                key = job_key(one.trace_hash, machine, choice.tile)
                jobs.setdefault(key, Job(key, one.path, one.trace_hash, choice.hardware, choice.tile))
    return list(jobs.values())


def _simulate(jobs: Sequence[Job], store: Store, workers: int, directory: Path, bar: _Bar) -> None:
    finished = store.finished()
    todo = [job for job in jobs if job.key not in finished]
    if todo:
        (directory / RESULTS).unlink(missing_ok=True)
    bar.begin("simulating", len(todo))
    batches = _batches(todo, min(LARGEST_BATCH, -(-len(todo) // (workers * BATCHES_PER_WORKER))))
    done = in_processes(simulate_jobs, batches, workers) if workers > 1 else ((b, simulate_jobs(b)) for b in batches)
    for batch, outcomes in done:
        store.add(
            {
                job.key: {"error": "the process that simulated it was killed twice"}
                if isinstance(out, WorkerDied)
                else out
                for job, out in zip(batch, outcomes, strict=True)
            }
        )
        bar.advance(len(batch))


def _batches(jobs: Sequence[Job], size: int) -> list[list[Job]]:
    """Cut jobs into batches of one trace each."""
    batches: list[list[Job]] = []
    for job in jobs:
        if not batches or len(batches[-1]) == size or batches[-1][0].trace != job.trace:
            batches.append([])
        batches[-1].append(job)
    return batches


def _table(
    study: Study, recorded: Sequence[Recorded], simulations: Sequence[SimulationChoice], store: Store
) -> pd.DataFrame:
    machines = [machine_text(choice.hardware) for choice in simulations]
    rows: list[dict[str, Any]] = []
    for one in recorded:
        for choice, machine in zip(simulations, machines, strict=True):
            labels = {"hardware": choice.hardware.name, "tile": choice.tile, **dict(choice.overrides)}
            key = "" if one.error else job_key(one.trace_hash, machine, choice.tile)
            rows.append({**one.columns, **labels, "job_key": key, "error": one.error})
    outcomes = store.outcomes(row["job_key"] for row in rows)
    for row in rows:
        row.update(outcomes.get(row["job_key"], {}))
    return make_table(rows, study.simulation.overrides)


def _write_provenance(
    study: Study, directory: Path, recorded: Sequence[Recorded], tasks: Sequence[RecordingTask | None]
) -> None:
    """Note what the results came from: versions, and for every trace where its frames can be seen again."""
    traces = []
    for one, task in zip(recorded, tasks, strict=True):
        inside = one.path.parent.parent == directory
        entry: dict[str, Any] = {
            "trace": str(one.path.relative_to(directory) if inside else one.path.absolute()),
            "trace_hash": one.trace_hash,
        }
        if task:
            entry |= {"clip": task.clip, "frames": task.frames, "size": task.size, "content": task.content()}
        traces.append(entry)
    packages = ("numpy", "pandas", "numba", "joblib", "fastparquet")
    content = {
        "study": study.name,
        "study_sha256": hashlib.sha256(study.text.encode()).hexdigest(),
        "skipsim": __version__,
        "model_version": MODEL_VERSION,
        "python": platform.python_version(),
        "packages": {package: metadata.version(package) for package in packages},
        "recordings": traces,
    }
    write_text(directory / "provenance.json", json.dumps(content, indent=1) + "\n")


class _Bar:
    """A progress bar on standard error that disappears when its work is done."""

    def __init__(self, wanted: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        self._progress = Progress(
            *columns, console=console, transient=True, disable=not wanted or not console.is_terminal
        )
        self._task = self._progress.add_task("", total=None, visible=False)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def begin(self, what: str, total: int) -> None:
        """Start with a new kind of work."""
        self._progress.reset(self._task, description=what, total=total, visible=total > 0)

    def advance(self, count: int) -> None:
        """Note that so many pieces are done."""
        self._progress.advance(self._task, count)
