"""What does a job cost beside its simulation, and does memory stay flat? 100,000 jobs of a tiny trace.

Prints a table of sizes: CPU time of the scheduling process per job (plan, keys, hand-out, store, table; the simulations
run in others), wall time of the whole sweep, time per row of a second run that finds everything done, the largest
resident memory of the scheduling process and of a worker, and that of a process that reads the finished table whole.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from joblib.externals.loky import get_reusable_executor

from skipsim.analysis.results import read_results
from skipsim.analysis.sweep import run_study
from skipsim.simulator.simulate import compile_engine
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace

STUDY = """
name = "scale"
[recording]
trace = "tiny.trace"
[simulation]
hardware = "systolic-32x32"
tile = ["1x1", "2x2", "4x4", "8x8"]
"gather.setup_cycles" = {{ from = 1, to = {across}, steps = {across} }}
"scatter.setup_cycles" = {{ from = 1, to = {down}, steps = {down} }}
"""


def prepare(folder: Path, jobs: int) -> Path:
    layer = Layer(
        "conv", 4, 8, 8, 4, 8, 8, 3, 3, padding_top=1, padding_left=1, block_rows=4, block_cols=4, gate="mask"
    )
    masks = [np.ones((2, 2, 2), np.bool_)]
    Trace.from_masks([layer], masks, reference_frames=[0]).save(folder / "tiny.trace")
    study = folder / "study.toml"
    study.write_text(STUDY.format(across=jobs // 400, down=100))
    return study


def measure(jobs: int, workers: int) -> dict[str, float]:
    """Run one size in this process and return what it took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = prepare(folder, jobs)
        compile_engine()
        before = peak_mb(resource.RUSAGE_SELF)
        start, start_cpu = time.perf_counter(), time.process_time()
        finished = run_study(study, folder / "out", workers, progress=False)
        first, scheduling = time.perf_counter() - start, time.process_time() - start_cpu
        assert (finished.rows, finished.failed) == (jobs, 0)
        get_reusable_executor(reuse=True).shutdown(wait=True)  # whose processes' memory is known when they have ended
        start = time.perf_counter()
        run_study(study, folder / "out", 1, progress=False)
        again, peak = time.perf_counter() - start, peak_mb(resource.RUSAGE_SELF)
        worker = peak_mb(resource.RUSAGE_CHILDREN)
        assert len(read_results(folder / "out")) == jobs
        store = (folder / "out" / "results.sqlite").stat().st_size
    return {
        "jobs": jobs,
        "seconds": first,
        "scheduling_ms_per_job": 1e3 * scheduling / jobs,
        "second_run_ms_per_job": 1e3 * again / jobs,
        "memory_before_mb": before,
        "memory_mb": peak,
        "worker_memory_mb": worker,
        "memory_with_table_mb": peak_mb(resource.RUSAGE_SELF),
        "store_mb": store / 1e6,
    }


def peak_mb(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, nargs="*", default=[10_000, 50_000, 100_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--one", action="store_true", help="measure a single size here and print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.jobs[0], options.workers)))
        return
    print(
        "   jobs  total s  scheduling ms/job  second run ms/job  before MB  peak MB  worker MB  with table MB  store MB"
    )
    for jobs in options.jobs:  # every size in a process of its own: memory is the peak of a process
        command = [sys.executable, __file__, "--one", "--jobs", str(jobs), "--workers", str(options.workers)]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(
            f"{found['jobs']:7,} {found['seconds']:8.1f} {found['scheduling_ms_per_job']:18.3f} "
            f"{found['second_run_ms_per_job']:18.3f} {found['memory_before_mb']:10.0f} {found['memory_mb']:8.0f} "
            f"{found['worker_memory_mb']:10.0f} {found['memory_with_table_mb']:14.0f} {found['store_mb']:9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
