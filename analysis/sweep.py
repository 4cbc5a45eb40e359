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
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import Any

import joblib
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from skipsim import __version__
from skipsim.analysis.jobs import STORE, STUDY, Job, Plan, Recorded, make_plan
from skipsim.analysis.machines import save_machines
from skipsim.analysis.parallel import WorkerDied, in_processes
from skipsim.analysis.provenance import PROVENANCE
from skipsim.analysis.recordings import RecordingTask, check_networks, coarsen_traces, is_recorded, record_traces
from skipsim.analysis.results import RESULTS, outcome_of, read_results, write_results
from skipsim.analysis.store import Store, read_finished
from skipsim.atomic import write_text
from skipsim.errors import InputError
from skipsim.simulator.simulate import compile_engine, simulate
from skipsim.simulator.tiles import MODEL_VERSION
from skipsim.traces.trace import Trace, load_trace

LARGEST_BATCH = 64
BATCHES_PER_WORKER = 16
LONGEST_REASON = 300  # characters; compilers write pages


@dataclass(frozen=True)
class Pending:
    """What a sweep has to do: of how many rows and recordings, and how much of it is missing."""

    rows: int
    recordings: int
    missing_recordings: int
    missing_simulations: int


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
    workers = joblib.cpu_count() if workers is None else workers
    if type(workers) is not int or workers < 1:
        raise InputError(f"sweep: workers must be a whole number >= 1, got {workers!r}")
    plan = make_plan(study, out)
    missing = plan.missing_recordings()
    if missing:
        list(in_processes(check_networks, [list(missing.values())], 1))
    with _locked(plan.directory, progress), _Bar(progress) as bar:
        _begin(plan)
        compiling = Thread(target=compile_engine)  # here and now, once: the workers that simulate then find it done
        compiling.start()
        failures = _record(missing, workers, bar)
        failures |= _coarsen(plan, failures, workers, bar)
        recorded = plan.recorded(failures)
        compiling.join()
        with Store(plan.directory / STORE) as store:
            _simulate(plan, plan.jobs(recorded), store, workers, bar)
            table = plan.table(recorded, store.outcome)
        write_results(plan.directory, table)
        _write_provenance(plan, recorded)
    return read_results(plan.directory)


def pending(study: str | Path, out: str | Path) -> Pending:
    """Say what `sweep` would do, without doing or writing anything; raises what it would raise."""
    plan = make_plan(study, out)
    missing = plan.missing_recordings()
    absent = dict.fromkeys([*missing, *(path for _, _, path in plan.missing_coarsenings())], "missing")
    recorded = plan.recorded(absent)
    there = plan.jobs(recorded)
    finished = read_finished(plan.directory / STORE)
    return Pending(
        rows=len(plan.sources) * len(plan.simulations),
        recordings=len({source.recording for source in plan.sources}),
        missing_recordings=len(missing),
        missing_simulations=sum(job.key not in finished for job in there)
        + len({one.path for one in recorded if one.error}) * len(plan.simulations),
    )


def simulate_jobs(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Simulate jobs one after the other; each gives its outcome, or the reason of its failure under "error"."""
    return [_simulate_job(job) for job in jobs]


def _simulate_job(job: Job) -> dict[str, Any]:
    try:
        return outcome_of(simulate(_open_trace(job.trace, job.trace_hash), job.hardware, job.tile))
    except InputError as error:
        return {"error": str(error)}
    except Exception as error:  # whatever went wrong, it costs this row and not the study
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:LONGEST_REASON]}


@lru_cache(maxsize=2)
def _open_trace(path: Path, trace_hash: str) -> Trace:
    """Open a trace once per process; its masks are memory-mapped, so that processes share them."""
    return load_trace(path)


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


def _begin(plan: Plan) -> None:
    """Remove what a killed run left, and the table if it is that of other axes; note which study this is."""
    traces = plan.directory / "traces"
    if traces.is_dir():
        for entry in traces.iterdir():
            if entry.name[0] == ".":
                shutil.rmtree(entry, ignore_errors=True)
    for entry in plan.directory.glob(".*.tmp.*"):
        entry.unlink(missing_ok=True)
    copy = plan.directory / STUDY
    if not copy.exists() or copy.read_text(encoding="utf-8") != plan.study.text:
        (plan.directory / RESULTS).unlink(missing_ok=True)
        write_text(copy, plan.study.text)


def _record(missing: Mapping[Path, RecordingTask], workers: int, bar: _Bar) -> dict[Path, str]:
    """Record what is missing; return the reasons of those that failed."""
    failures = {}
    # another process may have recorded them while this one waited for the lock
    batches = [[(task, path)] for path, task in missing.items() if not is_recorded(path)]
    for folder in {path.parent for path in missing}:
        folder.mkdir(exist_ok=True)
    bar.begin("recording", len(batches))
    for batch, results in in_processes(record_traces, batches, workers, ahead=1):
        for (_, path), result in zip(batch, results, strict=True):
            if isinstance(result, WorkerDied):
                failures[path] = "recording: the process was killed twice"
            elif result:
                failures[path] = f"recording: {result}"
        bar.advance(len(batch))
    return failures


def _coarsen(plan: Plan, failures: Mapping[Path, str], workers: int, bar: _Bar) -> dict[Path, str]:
    """Coarsen recordings for the open loop; return the reasons of those that failed."""
    batches = [[task] for task in plan.missing_coarsenings() if task[0] not in failures]
    bar.begin("coarsening", len(batches))
    failed = {}
    for (task,), (result,) in in_processes(coarsen_traces, batches, workers):
        if result:
            failed[task[2]] = (
                f"coarsening: {'the process was killed twice' if isinstance(result, WorkerDied) else result}"
            )
        bar.advance(1)
    return failed


def _simulate(plan: Plan, jobs: Sequence[Job], store: Store, workers: int, bar: _Bar) -> None:
    """Simulate the jobs that are not in the store, and put them there batch by batch."""
    finished = store.finished()
    todo = [job for job in jobs if job.key not in finished]
    if todo:
        (plan.directory / RESULTS).unlink(missing_ok=True)
    bar.begin("simulating", len(todo))
    batches = _batches(todo, min(LARGEST_BATCH, -(-len(todo) // (workers * BATCHES_PER_WORKER))))
    done = in_processes(simulate_jobs, batches, workers) if workers > 1 else ((b, simulate_jobs(b)) for b in batches)
    killed = {"error": "the process that simulated it was killed twice"}
    for batch, results in done:
        outcomes = [killed if isinstance(result, WorkerDied) else result for result in results]
        store.add({job.key: outcome for job, outcome in zip(batch, outcomes, strict=True)})
        bar.advance(len(batch))


def _batches(jobs: Sequence[Job], size: int) -> list[list[Job]]:
    """Cut jobs into batches of one trace each."""
    batches: list[list[Job]] = []
    for job in jobs:
        if not batches or len(batches[-1]) == size or batches[-1][0].trace != job.trace:
            batches.append([])
        batches[-1].append(job)
    return batches


def _write_provenance(plan: Plan, recorded: Sequence[Recorded]) -> None:
    """Note what the results came from: versions, and for every trace where its frames can be seen again."""
    traces = []
    for one, task in zip(recorded, (source.task for source in plan.sources), strict=True):
        place = one.path.absolute() if task is None else one.path.relative_to(plan.directory)
        entry: dict[str, Any] = {"trace": str(place), "trace_hash": one.trace_hash}
        if task:
            entry |= {"clip": task.clip, "frames": task.frames, "size": task.size, "content": task.content()}
        traces.append(entry)
    packages = ("numpy", "pandas", "numba", "joblib", "fastparquet")
    content = {
        "study": plan.study.name,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "study_sha256": hashlib.sha256(plan.study.text.encode()).hexdigest(),
        "skipsim": __version__,
        "model_version": MODEL_VERSION,
        "python": platform.python_version(),
        "packages": {package: metadata.version(package) for package in packages},
        "recordings": traces,
    }
    save_machines(plan.directory, [choice.hardware for choice in plan.simulations])
    write_text(plan.directory / PROVENANCE, json.dumps(content, indent=1) + "\n")


class _Bar:
    """A progress bar on standard error that disappears when its work is done."""

    def __init__(self, wanted: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        shown = wanted and console.is_terminal
        self._progress = Progress(*columns, console=console, transient=True, disable=not shown)
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
