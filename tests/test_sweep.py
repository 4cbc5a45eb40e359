"""Does a sweep give every row of its study exactly once, whatever happens to it on the way?"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import fastparquet
import numpy as np
import pandas as pd
import pytest

import skipsim
from skipsim.analysis.results import COLUMNS, mean_over_clips, read_results
from skipsim.analysis.running import parallel
from skipsim.analysis.running.keys import job_key, machine_hash
from skipsim.analysis.running.parallel import WorkerDied, in_processes
from skipsim.analysis.sweep import Pending, pending, sweep
from skipsim.errors import InputError
from skipsim.hwmodels.hardware import load_hardware
from skipsim.simulator.counters import CAUSES
from skipsim.simulator.simulate import simulate
from skipsim.simulator.tiles import MODEL_VERSION
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace, load_trace

STUDY = """
name = "trial"
[recording]
trace = ["fine.trace", "coarse.trace"]
[simulation]
hardware = ["edge-npu", "systolic-32x32"]
tile = ["4x4", "full"]
"gather.setup_cycles" = [4, 32]
"""
QUALITY = {"pck@0.05": 0.91, "dense_pck@0.05": 0.94, "headline": "pck@0.05"}


def write_traces(folder: Path) -> None:
    """Write two small traces of the same two layers, one of 2x2 and one of 4x4 blocks."""
    rng = np.random.default_rng(0)
    for name, block in (("fine", 2), ("coarse", 4)):
        layers = [
            Layer(f"conv{size}", 8, size, size, 16, size, size, 3, 3, 1, 1, 1, 1, 1, 1, 1, block, block, "input_norm")
            for size in (16, 10)
        ]
        masks = [rng.random((3, layer.grid_rows, layer.grid_cols)) < 0.4 for layer in layers]
        for mask in masks:
            mask[0] = True
        origin = {"kind": "recorded", "network": "two", "gate": "input_norm", "parameters": {"threshold": 0.05}}
        trace = Trace.from_masks(layers, masks, reference_frames=[0], origin=origin, quality=QUALITY)
        trace.save(folder / f"{name}.trace")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_traces(tmp_path)
    file = tmp_path / "study.toml"
    file.write_text(STUDY, encoding="utf-8")
    return file


def change(study: Path, old: str, new: str) -> None:
    text = study.read_text(encoding="utf-8")
    assert old in text
    study.write_text(text.replace(old, new), encoding="utf-8")


def outcomes(folder: Path) -> dict[str, dict[str, object]]:
    """Return what lies in a study's SQLite file, without disturbing a process that is writing it."""
    connection = sqlite3.connect(f"file:{folder / 'results.sqlite'}?mode=ro", uri=True)
    try:
        return {key: json.loads(text) for key, text in connection.execute("SELECT job_key, outcome FROM simulations")}
    finally:
        connection.close()


def edit(folder: Path, statement: str) -> None:
    """Change a study's SQLite file and leave it closed."""
    connection = sqlite3.connect(folder / "results.sqlite")
    with connection:
        connection.execute(statement)
    connection.close()


def run_in_a_process(study: Path, out: Path, workers: int) -> subprocess.Popen[str]:
    code = f"import skipsim; skipsim.sweep({str(study)!r}, {str(out)!r}, workers={workers})"
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


# --- the table


def test_every_combination_is_a_row_in_the_order_of_the_axes(study: Path, tmp_path: Path) -> None:
    table = sweep(study, tmp_path / "out", 1)
    seen = table[["block", "hardware", "gather.setup_cycles", "tile"]].itertuples(index=False, name=None)
    assert list(seen) == [
        (block, machine, cycles, tile)
        for block in ("2x2", "4x4")
        for machine in ("edge-npu", "systolic-32x32")
        for cycles in (4, 32)
        for tile in ("4x4", "full")
    ]
    assert [name for name in table if name not in COLUMNS] == ["gather.setup_cycles"]
    assert set(COLUMNS) <= set(table)
    assert (table["error"] == "").all()


def test_a_row_holds_what_its_simulation_says(study: Path, tmp_path: Path) -> None:
    table = sweep(study, tmp_path / "out", 1)
    for _, row in table.iterrows():
        trace = load_trace(tmp_path / ("fine.trace" if row["block"] == "2x2" else "coarse.trace"))
        hardware = load_hardware(row["hardware"]).replace(**{"gather.setup_cycles": row["gather.setup_cycles"]})
        report = simulate(trace, hardware, row["tile"])
        dense = report.dense
        assert dense is not None
        assert (row["cycles"], row["dense_cycles"], row["frames"]) == (report.cycles, dense.cycles, 3)
        assert row["latency_ms"] == pytest.approx(report.cycles / hardware.clock_hz / 3 * 1000)
        assert row["dense_latency_ms"] == pytest.approx(dense.cycles / hardware.clock_hz / 3 * 1000)
        assert row["speedup"] == pytest.approx(dense.cycles / report.cycles)
        assert row["mac_reduction"] == pytest.approx(report.dense_macs / report.macs)
        assert row["realised"] == pytest.approx(row["speedup"] / row["mac_reduction"])
        assert row["energy_uj"] == pytest.approx(sum(report.energy.values()) / 3)
        assert row["dram_read_mb"] == pytest.approx(report.dram_read_bytes / 3e6)
        assert row["dram_write_mb"] == pytest.approx(report.dram_write_bytes / 3e6)
        for cause in CAUSES:
            assert row[f"cause_{cause}_share"] == pytest.approx(report.causes[cause] / sum(report.causes.values()))
        assert sum(row[f"dense_cause_{cause}_share"] for cause in CAUSES) == pytest.approx(1)
        assert (row["network"], row["threshold"], row["update"], row["loop"]) == ("two", 0.05, "recompute", "closed")
        assert (row["quality_metric"], row["quality"], row["dense_quality"]) == ("pck@0.05", 0.91, 0.94)
        assert row["quality_drop"] == pytest.approx(3.0)
        assert (row["trace_hash"], row["model_version"]) == (trace.hash, MODEL_VERSION)
        assert row["job_key"] == job_key(trace.hash, machine_hash(hardware), row["tile"])


def test_the_files_give_the_same_table_however_many_processes(study: Path, tmp_path: Path) -> None:
    table = sweep(study, tmp_path / "one", 1)
    sweep(study, tmp_path / "two", 2)
    files = [(tmp_path / name / "results.parquet").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]
    pd.testing.assert_frame_equal(read_results(tmp_path / "one"), table)
    assert (tmp_path / "one" / "study.toml").read_text() == STUDY
    provenance = json.loads((tmp_path / "one" / "provenance.json").read_text())
    assert provenance["model_version"] == MODEL_VERSION
    assert [entry["trace"] for entry in provenance["recordings"]] == [
        str(tmp_path / "fine.trace"),
        str(tmp_path / "coarse.trace"),
    ]


def test_a_key_is_the_content_and_not_the_name() -> None:
    hardware = load_hardware("edge-npu")
    renamed = hardware.replace(name="other", source="elsewhere")
    assert machine_hash(renamed) == machine_hash(hardware)
    assert machine_hash(hardware.replace(**{"dram.latency_cycles": 7})) != machine_hash(hardware)
    keys = {job_key(trace, machine, tile) for trace in "ab" for machine in "mn" for tile in ("4x4", "8x8")}
    assert len(keys) == 8


# --- what fails


def test_a_failing_job_is_a_row_with_its_reason(study: Path, tmp_path: Path) -> None:
    change(study, '"gather.setup_cycles" = [4, 32]', '"buffers.input_bytes" = [64, 131072]')
    table = sweep(study, tmp_path / "out", 1)
    failed = table["buffers.input_bytes"] == 64
    assert len(table) == 16
    assert (table["error"][failed].str.contains("does not fit the buffers")).all()
    assert table.loc[failed, "cycles"].isna().all()
    assert (table["error"][~failed] == "").all()
    assert table.loc[~failed, "cycles"].notna().all()
    assert read_results(tmp_path / "out").dtypes.equals(table.dtypes)
    # a failure is tried again, and nothing else
    assert pending(study, tmp_path / "out").missing_simulations == failed.sum()


def test_types_do_not_depend_on_failures(study: Path, tmp_path: Path) -> None:
    good = sweep(study, tmp_path / "good", 1)
    change(study, "[4, 32]", "[4, 32]\ncores = [1]\nbuffers.output_bytes = [1]")
    bad = sweep(study, tmp_path / "bad", 1)
    assert (bad["error"] != "").all()
    assert bad[list(COLUMNS)].dtypes.equals(good[list(COLUMNS)].dtypes)


TRACES = 'trace = ["fine.trace", "coarse.trace"]'
BAD = [
    ("tile =", "tyle =", "unknown axis 'simulation.tyle'; did you mean 'tile'?"),
    ('"edge-npu"', '"edge-mpu"', "hardware 'edge-mpu' is unknown"),
    ("gather.setup", "gather.set_up", "unknown axis 'simulation.gather.set_up_cycles'"),
    ('"fine.trace", "coarse.trace"', "", "recording.trace is empty"),
    ("fine.trace", "absent.trace", "absent.trace: no such file"),
    ("fine.trace", "study.toml", "a trace is a directory"),
    (TRACES, 'network = "pose_smal"\nclip = "pose:1"\nthreshold = 1', "did you mean 'pose_small'?"),
    (TRACES, 'network = "pose_small"\nclip = "no.mp4"\nthreshold = 1', "no.mp4: no such file"),
    (TRACES, 'network = "pose_small"\nclip = "pose:tset"\nthreshold = 1', "did you mean 'test'?"),
    (TRACES, 'network = "no_module:make"\nclip = "pose:1"\nthreshold = 1', "no module 'no_module'"),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD)
def test_bad_input_is_one_line_and_nothing_is_written(
    study: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    change(study, old, new)
    with pytest.raises(InputError) as caught:
        sweep(study, tmp_path / "out", 1)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_no_workers(study: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="workers must be a whole number >= 1, got 0"):
        sweep(study, tmp_path / "out", 0)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="holds something that is not a study; give another folder"):
        sweep(study, out, 1)
    assert [entry.name for entry in out.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="not a folder"):
        sweep(study, study, 1)


def test_results_of_another_version_or_study_are_left_alone(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sweep(study, out, 1)
    before = (out / "results.parquet").read_bytes()
    edit(out, f"PRAGMA user_version = {MODEL_VERSION + 1}")
    rule = f"holds results of model version {MODEL_VERSION + 1}, this is version {MODEL_VERSION}; give another folder"
    with pytest.raises(InputError, match=rule):
        sweep(study, out, 1)
    change(study, 'name = "trial"', 'name = "error"')
    with pytest.raises(InputError, match="holds study 'trial', this is study 'error'; give another folder"):
        sweep(study, out, 1)
    change(study, 'name = "error"', 'name = "trial"')
    (out / "results.sqlite").write_text("not a database, but long enough to look at" * 100)
    with pytest.raises(InputError, match=r"results\.sqlite: not a results file"):
        sweep(study, out, 1)
    assert (out / "results.parquet").read_bytes() == before


def test_reading_what_is_no_result(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="no such folder"):
        read_results(out)
    out.mkdir()
    with pytest.raises(InputError, match="not the output of a sweep"):
        read_results(out)
    (out / "study.toml").write_text(STUDY)
    with pytest.raises(InputError, match="the study is not finished; run its sweep again"):
        read_results(out)
    (out / "results.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match="not a readable table"):
        read_results(out)
    fastparquet.write(str(out / "results.parquet"), pd.DataFrame({"a": [1.0]}))
    with pytest.raises(InputError, match="column 'study' is missing"):
        read_results(out)


# --- nothing twice


def test_only_what_is_missing_is_simulated(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert pending(study, out) == Pending(rows=16, recordings=2, missing_recordings=0, missing_simulations=16)
    assert not out.exists()
    sweep(study, out, 1)
    assert pending(study, out) == Pending(rows=16, recordings=2, missing_recordings=0, missing_simulations=0)
    # a mark in a finished outcome shows whether it is computed again
    edit(out, "UPDATE simulations SET outcome = json_set(outcome, '$.speedup', 77.0)")
    assert (sweep(study, out, 1)["speedup"] == 77).all()
    change(study, '"full"', '"full", "8x8"')
    assert pending(study, out).missing_simulations == 8
    table = sweep(study, out, 1)
    assert len(table) == 24
    assert ((table["speedup"] == 77) == (table["tile"] != "8x8")).all()
    change(study, '"edge-npu", ', "")  # the table is that of the study, the outcomes stay
    assert len(sweep(study, out, 1)) == 12
    assert len(outcomes(out)) == 24


def test_equal_masks_share_their_simulation(study: Path, tmp_path: Path) -> None:
    (tmp_path / "fine.trace").rename(tmp_path / "a.trace")
    trace = load_trace(tmp_path / "a.trace")
    masks = [trace.masks(index) for index in range(2)]
    Trace.from_masks(trace.layers, masks, reference_frames=[0], quality={"agreement": 0.5}).save(tmp_path / "b.trace")
    change(study, '"fine.trace", "coarse.trace"', '"a.trace", "b.trace"')
    table = sweep(study, tmp_path / "out", 1)
    assert len(table) == 16
    assert table["job_key"].nunique() == len(outcomes(tmp_path / "out")) == 8
    assert table["quality"].tolist() == [0.91] * 8 + [0.5] * 8
    assert table["quality_drop"].tolist() == pytest.approx([3.0] * 8 + [50.0] * 8)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_study_goes_on_where_it_was(study: Path, tmp_path: Path, workers: int) -> None:
    change(study, "[4, 32]", "{ from = 1, to = 30, steps = 30 }")
    out, rows = tmp_path / "killed", 2 * 2 * 2 * 30
    process = run_in_a_process(study, out, workers)
    finished: dict[str, dict[str, object]] = {}
    while process.poll() is None and not finished:
        time.sleep(0.002)
        try:
            finished = outcomes(out)
        except sqlite3.Error:
            continue
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = outcomes(out)
    assert process.returncode == -signal.SIGKILL
    assert 0 < len(finished) < rows, "killed in the middle"
    assert not (out / "results.parquet").exists()
    assert pending(study, out).missing_simulations == rows - len(finished)

    table = sweep(study, out, workers)
    assert finished.items() <= outcomes(out).items()
    assert len(table) == table["job_key"].nunique() == len(outcomes(out)) == rows
    sweep(study, tmp_path / "undisturbed", workers)
    assert (out / "results.parquet").read_bytes() == (tmp_path / "undisturbed" / "results.parquet").read_bytes()


def test_two_processes_on_one_study(study: Path, tmp_path: Path) -> None:
    processes = [run_in_a_process(study, tmp_path / "both", 1) for _ in range(2)]
    assert [process.communicate()[1].count("Traceback") for process in processes] == [0, 0]
    assert [process.returncode for process in processes] == [0, 0]
    sweep(study, tmp_path / "alone", 1)
    assert len(outcomes(tmp_path / "both")) == 16
    files = [(tmp_path / name / "results.parquet").read_bytes() for name in ("both", "alone")]
    assert files[0] == files[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_process_that_dies_costs_one_item(workers: int) -> None:
    def double_or_die(items: Sequence[int]) -> list[int]:
        if 13 in items:
            os.kill(os.getpid(), signal.SIGKILL)
        return [2 * item for item in items]

    batches = [list(range(start, start + 5)) for start in range(0, 40, 5)]
    results: dict[int, object] = {}
    for batch, doubled in in_processes(double_or_die, batches, workers):
        for item, result in zip(batch, doubled, strict=True):
            assert item not in results
            results[item] = result
    assert isinstance(results.pop(13), WorkerDied)
    assert results == {item: 2 * item for item in range(40) if item != 13}


def test_processes_end_when_nobody_has_used_them_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are ended from outside: one that ends itself may do so just as it is handed work, which loky warns of."""

    def pids(items: Sequence[int]) -> list[int]:
        return [os.getpid() for _ in items]

    def is_there(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    monkeypatch.setattr(parallel, "IDLE_SECONDS", 0.1)
    ((_, (first,)),) = in_processes(pids, [[0]], 1)
    for _ in range(600):
        if not is_there(first):
            break
        time.sleep(0.05)
    assert not is_there(first)
    monkeypatch.setattr(parallel, "IDLE_SECONDS", 300.0)
    ((_, (second,)),) = in_processes(pids, [[0]], 1)
    ((_, (third,)),) = in_processes(pids, [[0]], 1)
    assert second != first
    assert third == second


# --- means


def test_mean_over_clips_weighs_times_and_not_ratios(study: Path, tmp_path: Path) -> None:
    table = sweep(study, tmp_path / "out", 1)
    one = table[table["block"] == "2x2"].reset_index(drop=True)
    slower, denser = 3 * one["latency_ms"], one["mac_reduction"] / 2
    other = one.assign(clip="other", latency_ms=slower, mac_reduction=denser, quality=0.81, cause_compute_share=1.0)
    mean = mean_over_clips(pd.concat([one, other], ignore_index=True))
    assert len(mean) == len(one) == 8
    assert set(mean["clip"]) == {"2 clips"}
    assert mean["latency_ms"].tolist() == pytest.approx(2 * one["latency_ms"])
    assert mean["speedup"].tolist() == pytest.approx(one["dense_latency_ms"] / (2 * one["latency_ms"]))
    assert mean["mac_reduction"].tolist() == pytest.approx(
        one["mac_reduction"] / 1.5
    )  # of executed MACs: 1 and 2 parts
    assert mean["quality"].tolist() == pytest.approx([0.86] * 8)
    assert mean["cause_compute_share"].tolist() == pytest.approx((one["cause_compute_share"] + 3) / 4)
    assert mean["realised"].tolist() == pytest.approx(mean["speedup"] / mean["mac_reduction"])


def test_mean_over_clips_leaves_out_what_failed_on_one_and_keeps_what_is_no_grid(study: Path, tmp_path: Path) -> None:
    table = sweep(study, tmp_path / "out", 1)
    both = pd.concat([table.assign(clip="a"), table.assign(clip="b")], ignore_index=True)
    both.loc[0, "error"] = "broken"
    assert len(mean_over_clips(both)) == 15
    pd.testing.assert_frame_equal(mean_over_clips(table), table)  # every block has a clip of its own


def test_the_face_has_sweep() -> None:
    assert skipsim.sweep is sweep
