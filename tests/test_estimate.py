"""Does a dry run measure how long a study takes, from its own runs or a probe, and write nothing?"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skipsim.analysis.running.dry_run import dry_run
from skipsim.analysis.running.estimate import Estimate
from skipsim.analysis.running.jobs import STORE
from skipsim.analysis.running.store import Spent, Store, read_spent
from skipsim.analysis.sweep import sweep

STUDY = """
name = "own"
[recording]
network = "small_network:make"
clip = "clip.npy"
threshold = [0.1, 0.2]
block = [1, 4]
[simulation]
hardware = "systolic-32x32"
tile = ["2x2", "4x4"]
"""


@pytest.fixture
def study(tmp_path: Path, small_network: str) -> Path:
    np.save(tmp_path / "clip.npy", np.random.default_rng(1).integers(0, 256, (8, 16, 16, 3), np.uint8))
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path / "study.toml"


def test_from_a_probe_then_from_what_its_own_runs_took(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = dry_run(study, out, 2)
    assert not out.exists()
    assert found.estimate.basis == "a probe of 6 frames"
    assert found.estimate.recording_seconds > 0 < found.estimate.simulation_seconds
    cost = found.estimate
    assert cost.starting_seconds > 0 < cost.table_seconds
    work = (cost.recording_seconds + cost.simulation_seconds) / 2
    assert cost.seconds == pytest.approx(cost.starting_seconds + work + cost.table_seconds)
    later = dry_run(study, out, 2, started_seconds=100).estimate
    assert later.seconds > 100 + later.table_seconds, "the process that sweeps has to start too"
    words = found.words()
    assert words.startswith("8 rows; to do: 4 of 4 recordings, 8 simulations; nothing was written\nabout ")
    some = r"[\d.]+ (?:s|min|h)"
    assert re.search(
        rf"{some} on 2 workers \(starting {some}; recordings {some} and simulations {some} of one core; ", words
    )

    sweep(study, out, 1)
    spent = read_spent(out / STORE)
    assert {kind: (one.runs, one.frames) for kind, one in spent.items()} == {
        "recording": (4, 4 * 8),
        "simulation": (8, 8 * 8),
    }
    assert dry_run(study, out, 2).words() == "8 rows; to do: 0 of 4 recordings, 0 simulations; nothing was written"
    study.write_text(STUDY.replace("[1, 4]", "[1, 4, 8]"))
    with Store(out / STORE) as store:  # as if every frame had taken a second so far to record, two to simulate
        recorded, simulated = spent["recording"], spent["simulation"]
        store.spend("recording", Spent(0, 0, 32 - recorded.seconds))
        store.spend("simulation", Spent(0, 0, 128 - simulated.seconds))
    found = dry_run(study, out, 2)
    assert found.estimate.basis == "earlier runs"
    assert found.estimate.recording_seconds == pytest.approx(2 * 8 * 1)
    assert found.estimate.simulation_seconds == pytest.approx(4 * 8 * 2)
    assert found.estimate.seconds == pytest.approx(
        found.estimate.starting_seconds + (16 + 64) / 2 + found.estimate.table_seconds
    )
    assert "recordings 16 s and simulations 64 s of one core; measured on earlier runs)" in found.words()


def test_a_single_recording_keeps_one_worker_busy() -> None:
    one = Estimate(
        1.0, recording_seconds=30, simulation_seconds=8, table_seconds=2, missing_recordings=1, workers=4, basis=""
    )
    assert one.seconds == 1 + 30 + 8 / 4 + 2
    assert replace(one, missing_recordings=5).seconds == 1 + 30 * 2 / 5 + 8 / 4 + 2, "two rounds of the five"
