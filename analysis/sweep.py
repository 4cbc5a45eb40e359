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
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd

from skipsim import __version__
from skipsim.analysis.progress import Bar
from skipsim.analysis.results import RESULTS, outcome_of, read_results, write_results
from skipsim.analysis.running.crew import Crew, gathered
from skipsim.analysis.running.final_table import table_parts
from skipsim.analysis.running.jobs import STORE, STUDY, Job, Plan, Recorded, make_plan, plan_of
from skipsim.analysis.running.machines import save_machines
from skipsim.analysis.running.parallel import WorkerDied
from skipsim.analysis.running.provenance import PROVENANCE, command_line
from skipsim.analysis.running.recordings import check_networks, coarsen_traces, record_traces
from skipsim.analysis.running.store import Spent, Store, count_missing
from skipsim.analysis.search import Trial, search
from skipsim.atomic import write_text
from skipsim.errors import InputError
from skipsim.hwmodels.hardware import Hardware
from skipsim.simulator.simulate import compile_engine, simulate
from skipsim.simulator.tiles import MODEL_VERSION
from skipsim.traces.trace import Trace, load_trace

LARGEST_BATCH = 64
BATCHES_PER_WORKER = 16
LONGEST_REASON = 300  # characters; compilers write pages


@dataclass(frozen=True)
class Finished:
    """What a study came to: how many rows, how many of them failed, and why the first of those; loops in the table."""

    rows: int = 0
    failed: int = 0
    reason: str = ""
    loops: frozenset[str] = frozenset()

    def with_part(self, part: pd.DataFrame) -> Finished:
        """Return it with the rows of another part of the table."""
        reasons = part["error"][part["error"] != ""]
        return Finished(
            self.rows + len(part),
            self.failed + len(reasons),
            self.reason or next(iter(reasons), ""),
            self.loops | set(part["loop"]),
        )


@dataclass(frozen=True)
class Pending:
    """What a sweep has to do: of how many rows and recordings, and how much of it is missing."""

    rows: int
    recordings: int
    missing_recordings: int
    missing_simulations: int


def sweep(
    study: str | Path,
    out: str | Path,
    workers: int | None = None,
    *,
    cluster: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Run a study, or what is missing of it, and return its table (see results.py for the columns).

    Rows stand in the order of the study's axes. Jobs that failed are rows with their reason in `error`. Arguments and
    errors are those of `run_study`.
    """
    run_study(study, out, workers, cluster=cluster, progress=progress)
    return read_results(out)


def run_study(
    study: str | Path,
    out: str | Path,
    workers: int | None = None,
    *,
    cluster: str | None = None,
    progress: bool = True,
) -> Finished:
    """Run a study, or what is missing of it; its table is a file then, and was never whole in memory.

    Args:
        study: a study file.
        out: the study's folder; made if it is missing.
        workers: number of processes; None: one per core.
        cluster: address of a Dask scheduler whose workers do the work instead; they must share the file system.
        progress: whether to show a progress bar on standard error.

    Raises:
        InputError: anything wrong with the study or the folder; nothing has been written then.
    """
    if workers is not None and (type(workers) is not int or workers < 1):
        raise InputError(f"sweep: workers must be a whole number >= 1, got {workers!r}")
    plan = make_plan(study, out)
    missing = plan.missing_recordings()
    finished = Finished()

    def seen(parts: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        nonlocal finished
        for part in parts:
            finished = finished.with_part(part)
            yield part

    with gathered(plan.directory, workers, cluster) as crew:
        if missing:
            list(crew.run(check_networks, [list(missing.values())]))
        with _locked(plan.directory, progress), Bar(progress) as bar:
            _begin(plan)
            compiling = Thread(target=compile_engine)  # here and now, once: workers that simulate then find it done
            compiling.start()
            with Store(plan.directory / STORE) as store:
                chosen = _searched(plan, crew, store, bar) if plan.study.search else plan
                recorded = _run(chosen, crew, store, bar)
                write_results(plan.directory, seen(table_parts(chosen, recorded, store.outcome)))
            compiling.join()
            _write_provenance(chosen, recorded)
    return finished


def _run(plan: Plan, crew: Crew, store: Store, bar: Bar) -> list[Recorded]:
    """Record, coarsen and simulate what is missing of a plan; return its recordings."""
    failures = _record(plan, crew, store, bar)
    failures |= _coarsen(plan, failures, crew, bar)
    recorded = plan.recorded(failures)
    _simulate(plan, recorded, store, crew, bar)
    return recorded


def _searched(plan: Plan, crew: Crew, store: Store, bar: Bar) -> Plan:
    """Search, then return the plan of all that was tried."""

    def run(trials: Sequence[Trial]) -> pd.DataFrame:
        tried = plan_of(plan.study, plan.directory, trials)
        return pd.concat(table_parts(tried, _run(tried, crew, store, bar), store.outcome), ignore_index=True)

    return plan_of(plan.study, plan.directory, search(plan.study, plan.directory, run))


def pending(study: str | Path, out: str | Path) -> Pending:
    """Say what `sweep` would do, without doing or writing anything; raises what it would raise.

    Of a search it says what it does at most.
    """
    plan = make_plan(study, out)
    missing = plan.missing_recordings()
    if plan.study.search:
        rows = plan.study.search.trials * len(plan.study.recording[0].clip or ("one trace",))
        most = min(rows, len({source.recording for source in plan.sources}))
        return Pending(rows, most, min(rows, len(missing)), rows)
    absent = dict.fromkeys([*missing, *(path for _, _, path in plan.missing_coarsenings())], "missing")
    recorded = plan.recorded(absent)
    return Pending(
        rows=plan.rows,
        recordings=len({source.recording for source in plan.sources}),
        missing_recordings=len(missing),
        missing_simulations=count_missing(plan.directory / STORE, plan.names(recorded)),
    )


def simulate_jobs(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Simulate jobs one after the other.

    Each gives its outcome, or the reason of its failure under "error"; and under "seconds" what it took.
    """
    outcomes = []
    machines: dict[str, Hardware] = {}  # by hash: what is cached by machine is found fast by the same object
    for job in jobs:
        start = time.perf_counter()
        outcome = _simulate_job(job, machines)
        outcomes.append({**outcome, "seconds": time.perf_counter() - start})
    return outcomes


def _simulate_job(job: Job, machines: dict[str, Hardware]) -> dict[str, Any]:
    try:
        chosen = job.simulation
        machine = machines.get(chosen.machine) or machines.setdefault(chosen.machine, chosen.hardware)
        return outcome_of(simulate(_open_trace(job.trace, job.trace_hash), machine, chosen.tile))
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


def _record(plan: Plan, crew: Crew, store: Store, bar: Bar) -> dict[Path, str]:
    """Record what is missing; return the reasons of those that failed."""
    failures = {}
    missing = plan.missing_recordings()
    batches = [[(task, path)] for path, task in missing.items()]
    for folder in {path.parent for path in missing}:
        folder.mkdir(exist_ok=True)
    bar.begin("recording", len(batches))
    for batch, results in crew.run(record_traces, batches, ahead=1):
        for (_, path), result in zip(batch, results, strict=True):
            if isinstance(result, WorkerDied):
                failures[path] = "recording: the process was killed twice"
            elif result[0]:
                failures[path] = f"recording: {result[0]}"
            else:
                store.spend("recording", Spent(1, load_trace(path).frames, result[1]))
        bar.advance(len(batch))
    return failures


def _coarsen(plan: Plan, failures: Mapping[Path, str], crew: Crew, bar: Bar) -> dict[Path, str]:
    """Coarsen recordings for the open loop; return the reasons of those that failed."""
    batches = [[task] for task in plan.missing_coarsenings() if task[0] not in failures]
    bar.begin("coarsening", len(batches))
    failed = {}
    for (task,), (result,) in crew.run(coarsen_traces, batches):
        if result:
            failed[task[2]] = (
                f"coarsening: {'the process was killed twice' if isinstance(result, WorkerDied) else result}"
            )
        bar.advance(1)
    return failed


def _simulate(plan: Plan, recorded: Sequence[Recorded], store: Store, crew: Crew, bar: Bar) -> None:
    """Simulate the jobs that are not in the store, and put them there batch by batch."""
    count = store.want(plan.keys(recorded))
    if count:
        (plan.directory / RESULTS).unlink(missing_ok=True)
    bar.begin("simulating", count)
    jobs = (plan.job(recorded, row) for row in store.missing())
    batches = _batches(jobs, max(1, min(LARGEST_BATCH, -(-count // (crew.workers * BATCHES_PER_WORKER)))))
    here = crew.workers == 1 and not crew.remote  # one process is this one
    done = ((batch, simulate_jobs(batch)) for batch in batches) if here else crew.run(simulate_jobs, batches)
    killed: dict[str, Any] = {"error": "the process that simulated it was killed twice", "seconds": 0.0}
    for batch, results in done:
        outcomes = [dict(killed) if isinstance(result, WorkerDied) else result for result in results]
        seconds = sum(outcome.pop("seconds") for outcome in outcomes)
        store.spend("simulation", Spent(len(batch), sum(job.frames for job in batch), seconds))
        store.add({job.key: outcome for job, outcome in zip(batch, outcomes, strict=True)})
        bar.advance(len(batch))


def _batches(jobs: Iterable[Job], size: int) -> Iterator[list[Job]]:
    """Cut jobs into batches of one trace each."""
    batch: list[Job] = []
    for job in jobs:
        if batch and (len(batch) == size or batch[-1].trace != job.trace):
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch


def _write_provenance(plan: Plan, recorded: Sequence[Recorded]) -> None:
    """Note what the results came from: versions, and for every trace where its frames can be seen again."""
    traces = []
    for source, one in zip(plan.sources, recorded, strict=True):
        task = source.task
        place = one.path.absolute() if task is None else one.path.relative_to(plan.directory)
        entry: dict[str, Any] = {"trace": str(place), "trace_hash": one.trace_hash}
        if task:
            entry |= {"clip": task.clip, "frames": task.frames, "size": task.frame_size(), "content": task.content()}
        traces.append(entry)
    packages = ("numpy", "pandas", "numba", "joblib", "fastparquet")
    content = {
        "study": plan.study.name,
        "command": command_line(),
        "study_sha256": hashlib.sha256(plan.study.text.encode()).hexdigest(),
        "skipsim": __version__,
        "model_version": MODEL_VERSION,
        "python": platform.python_version(),
        "packages": {package: metadata.version(package) for package in packages},
        "recordings": traces,
    }
    save_machines(plan.directory, plan.study.machines)
    write_text(plan.directory / PROVENANCE, json.dumps(content, indent=1) + "\n")
