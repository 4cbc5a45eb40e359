"""Does a study that is killed again and again, while it records, simulates and writes, end as one that never was?

Moments are counted in what the study has done, never in time: the process kills itself before or after its n-th record
of a recording, its n-th write of outcomes, or its n-th renaming of a finished file.
"""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from skipsim.analysis.sweep import pending, sweep

STUDY = """
name = "killed"
[recording]
network = "small_network:make"
clip = "clip.npy"
threshold = [0.05, 0.1, 0.2]
block = [1, 2]
loop = ["closed", "open"]
[simulation]
hardware = "systolic-32x32"
tile = ["2x2", "4x4"]
"gather.setup_cycles" = { from = 1, to = 10, steps = 10 }
"""
RECORDINGS = 6
KILLED = """
import os, signal, sys

import skipsim
from skipsim.analysis.running.store import Store

study, out, what, count, after = sys.argv[1:]
left = int(count)

def step(kind):
    global left
    left -= kind == what
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

def around(method, kind_of):
    def counted(self, *arguments):
        if after == "after":
            method(self, *arguments)
        step(kind_of(*arguments))
        if after == "before":
            method(self, *arguments)
    return counted

Store.spend = around(Store.spend, lambda kind, spent: kind)
Store.add = around(Store.add, lambda outcomes: "outcomes")
sys.addaudithook(lambda event, arguments: step("renaming") if event == "os.rename" else None)
skipsim.sweep(study, out, workers=1)
"""


@pytest.fixture
def study(tmp_path: Path, small_network: str) -> Path:
    draw = np.random.default_rng(0)
    clip = np.repeat(draw.integers(0, 256, (1, 16, 16, 3), np.uint8), 4, axis=0)
    for frame in range(1, 4):  # most of the picture stands still, so that thresholds and blocks have masks of their own
        clip[frame, 4 : 7 + frame, 5:9] = draw.integers(0, 256, 3)
    np.save(tmp_path / "clip.npy", clip)
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path / "study.toml"


def recordings_in(out: Path) -> dict[str, int]:
    """Return when each finished trace was written, in nanoseconds."""
    manifests = (out / "traces").glob("[!.]*/manifest.json")
    return {file.parent.name: file.stat().st_mtime_ns for file in manifests}


def outcomes_in(out: Path) -> dict[str, str]:
    if not (out / "results.sqlite").exists():
        return {}
    with closing(sqlite3.connect(f"file:{out / 'results.sqlite'}?mode=ro", uri=True)) as connection:
        return dict(connection.execute("SELECT job_key, outcome FROM simulations"))


def test_killed_at_random_moments_it_ends_as_if_undisturbed(study: Path, tmp_path: Path) -> None:
    undisturbed = sweep(study, tmp_path / "undisturbed", 1)
    assert not undisturbed.duplicated(["threshold", "block", "loop", "tile", "gather.setup_cycles"]).any()
    whole = outcomes_in(tmp_path / "undisturbed")
    draw = random.Random(6)
    moments = [
        ("recording", draw.randint(1, 2)),
        ("recording", draw.randint(1, 2)),
        ("outcomes", draw.randint(1, 6)),
        ("outcomes", draw.randint(1, 6)),
        ("renaming", 1),  # of the finished table
    ]
    out, finished, recorded = tmp_path / "killed", dict[str, str](), dict[str, int]()
    seen = []
    for what, count in moments:
        after = draw.choice(["before", "after"])
        command = [sys.executable, "-c", KILLED, str(study), str(out), what, str(count), after]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == -signal.SIGKILL, (what, count, after, ended.stderr)
        assert recorded.items() <= recordings_in(out).items(), "a finished recording is kept, not made again"
        assert finished.items() <= outcomes_in(out).items(), "a finished row is kept"
        finished, recorded = outcomes_in(out), recordings_in(out)
        seen.append((len(recorded), len(finished)))
        assert not (out / "results.parquet").exists()
    assert 0 < seen[0][0] < RECORDINGS, "killed while recording"
    assert 0 < seen[2][1] < seen[3][1] < len(whole), "killed twice while simulating"
    assert len(finished) == len(whole), "killed while the table was written"

    assert pending(study, out).missing_simulations == 0
    assert sweep(study, out, 1).equals(undisturbed)
    assert outcomes_in(out) == finished == whole
    assert (out / "results.parquet").read_bytes() == (tmp_path / "undisturbed" / "results.parquet").read_bytes()
    assert not list(out.rglob("*.tmp*")), "nothing half-written is left"
