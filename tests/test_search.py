"""Does the search find what the grid finds with fewer runs, keep constraints, and go on after a kill?"""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skipsim.analysis.pareto import hypervolume
from skipsim.analysis.search import Dimension, coarse_grid, space_of
from skipsim.analysis.study import load_study
from skipsim.analysis.sweep import pending, sweep
from skipsim.errors import InputError
from skipsim.hwmodels.area import area_mm2
from skipsim.hwmodels.hardware import load_hardware
from skipsim.traces.synthetic import synthetic_trace

STUDY = """
name = "search"
objectives = ["latency_ms", "area_mm2"]
[recording]
trace = "a.trace"
[simulation]
hardware = ["systolic-32x32", "edge-npu"]
tile = ["2x2", "4x4", "8x8"]
"gather.setup_cycles" = { from = 1, to = 64 }
"array.rows" = [8, 16, 32]
"""
SEARCH = "[search]\ntrials = 30\npopulation = 8\n"
OWN = """
from torch import manual_seed, nn

def make():
    manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3))
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    synthetic_trace("pose_small", rows=32, cols=32, frames=2, density=0.3, cluster_pixels=8, block=2).save(
        tmp_path / "a.trace"
    )
    (tmp_path / "study.toml").write_text(STUDY + SEARCH)
    return tmp_path / "study.toml"


def change(study: Path, old: str, new: str) -> None:
    text = study.read_text(encoding="utf-8")
    assert old in text
    study.write_text(text.replace(old, new), encoding="utf-8")


def test_every_axis_is_a_dimension(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(
        'name = "s"\n[recording]\nnetwork = "pose_small"\nclip = ["pose:1", "pose:2"]\n'
        'threshold = { from = 0.01, to = 1.0, log = true }\nblock = { "stage3.*" = [1, 2], "*" = [4, 8, 16] }\n'
        '[simulation]\nhardware = ["edge-npu", "auto-npu"]\ntile = [4, 8]\ncores = { from = 1, to = 4 }\n'
        "[search]\ntrials = 1\n"
    )
    space = {one.name: one.values for one in space_of(load_study(tmp_path / "study.toml"))}
    assert {name: len(values) for name, values in space.items() if len(values) > 1} == {
        "threshold": 101,
        "block stage3.*": 2,
        "block *": 3,
        "hardware": 2,
        "cores": 4,
        "tile": 2,
    }
    assert space["cores"] == (1, 2, 3, 4)
    assert space["threshold"][::50] == pytest.approx((0.01, 0.1, 1.0))


def test_the_first_trials_are_a_coarse_grid() -> None:
    space = [Dimension("share", ("",)), Dimension("tile", (2, 4)), Dimension("threshold", tuple(range(100)))]
    space += [Dimension("block stem", (1, 2, 4)), Dimension("block *", (1, 2, 4, 8, 16))]
    places = coarse_grid(space, 20)  # 2 tiles x 3 thresholds x 3 blocks
    assert [tuple(place.values()) for place in places] == [
        (0, tile, threshold, *blocks)
        for tile in (0, 1)
        for threshold in (0, 50, 99)
        for blocks in ((0, 0), (1, 2), (2, 4))
    ]
    assert [tuple(place.values()) for place in coarse_grid(space, 1)] == [(0, 1, 50, 1, 2)]
    assert len(coarse_grid(space[:2], 100)) == 2


def test_a_space_of_millions_is_not_enumerated(study: Path, tmp_path: Path) -> None:
    fine = "".join(f'"{key}" = {{ from = 1, to = 64 }}\n' for key in ("scatter.setup_cycles", "index.cycles_per_tile"))
    change(study, '"array.rows" = [8, 16, 32]', fine + '"dram.latency_cycles" = { from = 1, to = 100 }')
    assert math.prod(len(one.values) for one in space_of(load_study(study))) > 1e8
    change(study, "trials = 30", "trials = 4")
    assert len(sweep(study, tmp_path / "out", 1)) == 4
    change(study, "index.cycles_per_tile", "dram.bytes_per_cycle")
    change(study, 'to = 64 }\n"dram.l', 'to = -64 }\n"dram.l')
    with pytest.raises(InputError, match="bytes_per_cycle"):
        sweep(study, tmp_path / "out", 1)


def test_it_finds_the_corner_of_the_grid_with_fewer_runs(study: Path, tmp_path: Path) -> None:
    assert pending(study, tmp_path / "out").rows == 30
    table = sweep(study, tmp_path / "out", 1)
    assert len(table) <= 30
    assert not table.duplicated(["hardware", "tile", "gather.setup_cycles", "array.rows"]).any()
    # of 1152 combinations the smallest machine is known without a search; 30 runs are enough to meet it
    smallest = min(area_mm2(load_hardware("edge-npu").replace(**{"array.rows": rows}))["total"] for rows in (8, 16, 32))
    assert table["area_mm2"].min() == pytest.approx(smallest)
    front = table[table["on_front"] == 1]
    assert len(front) >= 2
    later, sooner = table, table.iloc[:15]  # all, and the half that is a coarse grid
    box = (table["latency_ms"].max() * 1.1, table["area_mm2"].max() * 1.1)
    volumes = [hypervolume(rows[["latency_ms", "area_mm2"]].to_numpy(), box) for rows in (later, sooner)]
    assert volumes[0] > volumes[1], "generations find more"


def test_constraints_steer_and_are_kept(study: Path, tmp_path: Path) -> None:
    limit = area_mm2(load_hardware("edge-npu").replace(**{"array.rows": 16}))["total"] + 1e-6
    change(study, "objectives", f'constraints = ["area_mm2 <= {limit}", "speedup >= 1"]\nobjectives')
    table = sweep(study, tmp_path / "out", 1)
    assert 0 < len(table) < 30, "what was too large has not been simulated"
    assert (table["area_mm2"] <= limit).all()
    assert ((table["violates"] == "") == (table["speedup"] >= 1)).all()


def test_more_trials_go_on_and_another_space_starts_anew(study: Path, tmp_path: Path) -> None:
    change(study, "trials = 30", "trials = 16")
    first = sweep(study, tmp_path / "out", 1)
    change(study, "trials = 16", "trials = 20")
    more = sweep(study, tmp_path / "out", 1)
    shared = ["job_key", "latency_ms"]
    pd.testing.assert_frame_equal(more[shared].head(len(first)), first[shared])
    assert len(more) > len(first)
    change(study, "[8, 16, 32]", "[8, 16]")
    change(study, "trials = 20", "trials = 8")
    assert set(sweep(study, tmp_path / "out", 1)["array.rows"]) == {8, 16}


def test_killed_at_any_moment_it_ends_in_the_same_table(study: Path, tmp_path: Path) -> None:
    change(study, "trials = 30", "trials = 20")
    undisturbed = sweep(study, tmp_path / "undisturbed", 1)
    out = tmp_path / "killed"
    code = f"import skipsim; skipsim.sweep({str(study)!r}, {str(out)!r}, workers=1)"
    for lines in (60, 130):  # in the middle of proposals or of a generation, wherever that is
        process = subprocess.Popen([sys.executable, "-c", code])
        while process.poll() is None and lines_of(out / "search.journal") < lines:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    with (out / "search.journal").open("ab") as file:
        file.write(b'{"op_code": 5, "half a li')  # what a kill in the middle of a write leaves
    if not (out / "search.journal.lock").is_symlink():  # and this too
        (out / "search.journal.lock").symlink_to(out / "search.journal")
    table = sweep(study, out, 1)
    pd.testing.assert_frame_equal(table, undisturbed)
    assert (out / "results.parquet").read_bytes() == (tmp_path / "undisturbed" / "results.parquet").read_bytes()


def lines_of(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_recordings_are_reused_and_averaged_over_clips(tmp_path: Path) -> None:
    (tmp_path / "search_network.py").write_text(OWN)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 256, (2, 16, 16, 3), np.uint8))
    study = tmp_path / "study.toml"
    study.write_text(
        'name = "own"\n[recording]\nnetwork = "search_network:make"\nclip = ["a.npy", "b.npy"]\n'
        'threshold = [0.05, 0.2]\nblock = { "0" = [1, 2], "*" = 4 }\n[simulation]\nhardware = "edge-npu"\n'
        "tile = [2, 4]\n[search]\ntrials = 6\npopulation = 4\n"
    )
    table = sweep(study, tmp_path / "out", 1)
    assert (table["error"] == "").all()
    assert table.groupby(["threshold", "block", "tile"])["clip"].nunique().eq(2).all()
    recorded = table[["threshold", "block", "clip"]].drop_duplicates()
    assert len(recorded) == len(list((tmp_path / "out" / "traces").iterdir())) <= 8


def test_a_space_smaller_than_the_budget_is_searched_once(study: Path, tmp_path: Path) -> None:
    change(study, "{ from = 1, to = 64 }", "3")
    change(study, "[8, 16, 32]", "[8, 16]")
    change(study, '["2x2", "4x4", "8x8"]', '"4x4"')
    table = sweep(study, tmp_path / "out", 1)
    assert sorted(zip(table["hardware"], table["array.rows"], strict=True)) == [
        (machine, rows) for machine in ("edge-npu", "systolic-32x32") for rows in (8, 16)
    ]


def test_an_objective_that_is_not_measured(study: Path, tmp_path: Path) -> None:
    change(study, '"area_mm2"]', '"quality_drop"]')
    with pytest.raises(InputError, match="no row has the objective 'quality_drop'; choose other objectives"):
        sweep(study, tmp_path / "out", 1)


def test_hypervolume_is_the_area_that_is_beaten() -> None:
    points = np.array([[1.0, 3.0], [2.0, 1.0], [3.0, 3.0]])
    assert hypervolume(points, (4.0, 4.0)) == pytest.approx(3 * 1 + 2 * 2)
    assert hypervolume(points + 10, (4.0, 4.0)) == 0
    cube = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    assert hypervolume(cube, (2.0, 2.0, 2.0)) == pytest.approx(4 * 1 + 1 * 1 * 2 - 1)
