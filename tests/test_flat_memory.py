"""Does a study of many simulations take the memory of one of few, and do they wait on disk rather than in memory?"""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from skipsim.analysis.results import OUTCOME_COLUMNS, read_results
from skipsim.analysis.running import final_table
from skipsim.analysis.running.jobs import Job, make_plan
from skipsim.analysis.running.parallel import in_processes
from skipsim.analysis.sweep import run_study
from skipsim.traces.synthetic import synthetic_trace

STUDY = """
name = "long"
[recording]
trace = ["a.trace", "b.trace"]
[simulation]
hardware = "systolic-32x32"
tile = ["4x4", "8x8"]
"gather.setup_cycles" = {{ from = 1, to = {steps}, steps = {steps} }}
"""
PART_ROWS = 400  # of a part of the table, so that a short study has several


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, density in (("a", 0.3), ("b", 0.6)):
        trace = synthetic_trace("pose_small", rows=32, cols=32, frames=2, density=density, cluster_pixels=8, block=4)
        trace.save(tmp_path / f"{name}.trace")
    return tmp_path


def write_study(folder: Path, steps: int) -> Path:
    """Write a study of 4 x steps simulations."""
    (folder / f"{steps}.toml").write_text(STUDY.format(steps=steps))
    return folder / f"{steps}.toml"


def outcome(job: Job) -> dict[str, Any]:
    """Stand for a simulation: what it takes itself is another question."""
    cycles = dict(job.simulation.overrides)["gather.setup_cycles"]
    known: dict[str, Any] = {name: 0.5 if kind == "real" else cycles for name, kind in OUTCOME_COLUMNS.items()}
    return known | {"chosen_tile": job.simulation.tile, "latency_ms": float(cycles), "seconds": 0.0}


def test_memory_does_not_grow_with_the_number_of_simulations(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skipsim.analysis.sweep.simulate_jobs", lambda jobs: [outcome(job) for job in jobs])
    monkeypatch.setattr("skipsim.analysis.sweep.LARGEST_BATCH", 10)
    monkeypatch.setattr(final_table, "PART_ROWS", PART_ROWS)
    peaks = {}
    for steps in (5, 100, 500):  # the first for what is made once per process
        study = write_study(folder, steps)
        tracemalloc.start()
        finished = run_study(study, folder / f"out{steps}", 1, progress=False)
        peaks[steps] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (finished.rows, finished.failed) == (4 * steps, 0)
        assert len(read_results(folder / f"out{steps}")) == 4 * steps
    growth_bytes = (peaks[500] - peaks[100]) / (4 * 400)
    assert growth_bytes < 800, f"{growth_bytes:.0f} bytes a simulation: a row alone would take 4000 as a dictionary"


def test_jobs_exist_batch_by_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Job] = weakref.WeakSet()
    most = 0

    def simulate_jobs(jobs: Sequence[Job]) -> list[dict[str, Any]]:
        nonlocal most
        alive.update(jobs)
        most = max(most, len(alive))
        return [outcome(job) for job in jobs]

    monkeypatch.setattr("skipsim.analysis.sweep.simulate_jobs", simulate_jobs)
    monkeypatch.setattr("skipsim.analysis.sweep.LARGEST_BATCH", 10)
    run_study(write_study(folder, 50), folder / "out", 1, progress=False)
    assert 10 <= most <= 2 * 10, "the batch at work, and the one that was"


def test_the_table_is_the_same_in_one_part_and_in_many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skipsim.analysis.sweep.simulate_jobs", lambda jobs: [outcome(job) for job in jobs])
    study = write_study(folder, 40)
    run_study(study, folder / "one", 1, progress=False)
    monkeypatch.setattr(final_table, "PART_ROWS", 50)
    run_study(study, folder / "many", 1, progress=False)
    one, many = read_results(folder / "one"), read_results(folder / "many")
    assert one.equals(many)
    assert one.dtypes.equals(many.dtypes)
    # of every machine and tile there are two rows, one per trace; the fastest, and no accuracy: one on each front
    assert one["on_front"].sum() == (one["latency_ms"] == 1).sum() == 4
    assert one["gather.setup_cycles"].tolist() == 2 * [cycles for cycles in range(1, 41) for _ in range(2)]


def test_a_grid_makes_what_it_is_asked_for(folder: Path) -> None:
    grid = make_plan(write_study(folder, 30), folder / "out").simulations
    assert len(grid) == 60
    assert [choice.columns() for choice in grid] == [
        {"hardware": "systolic-32x32", "tile": tile, "gather.setup_cycles": cycles}
        for cycles in range(1, 31)
        for tile in ("4x4", "8x8")
    ]
    assert grid[-1] == grid[59] == grid[58:][1]
    assert len({choice.machine for choice in grid}) == 30
    with pytest.raises(IndexError):
        grid[60]


def test_batches_are_taken_when_somebody_is_free(tmp_path: Path) -> None:
    taken = 0

    def batches() -> Iterator[list[int]]:
        nonlocal taken
        for number in range(40):
            taken += 1
            yield [number]

    seen = []
    for consumed, (batch, results) in enumerate(in_processes(doubled, batches(), 2, ahead=2)):
        assert taken <= consumed + 4, "results that nobody has consumed hold no more than four batches in memory"
        seen += list(zip(batch, results, strict=True))
    assert sorted(seen) == [(number, 2 * number) for number in range(40)]


def doubled(batch: Sequence[int]) -> list[int]:
    return [2 * number for number in batch]
