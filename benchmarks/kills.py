"""Kill a study, or one of its workers, at random times until it is done: is its table that of an undisturbed one?

Twelve recordings and 960 rows on two processes. Every run of the study is killed after a random time (SIGKILL) until
so many kills have been; before every third kill a worker is killed, which costs the study nothing. A study that is done
before is followed by another one. Checks after each kill that what was finished is still there, and at the end of each
study that its table is that of an undisturbed run, byte for byte.
"""

from __future__ import annotations

import argparse
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from skipsim.analysis.sweep import sweep
from skipsim.simulator.simulate import compile_engine

STUDY = """
name = "kills"
[recording]
network = "pose_small"
clip = ["pose:2000000:static", "pose:2000001:pan"]
frames = 6
threshold = [0.05, 0.1, 0.2]
block = [1, 4]
loop = ["closed", "open"]
[simulation]
hardware = ["edge-npu", "systolic-32x32"]
tile = ["4x4", "8x8"]
"gather.setup_cycles" = { from = 1, to = 10, steps = 10 }
"""


def outcomes_in(out: Path) -> dict[str, str]:
    try:
        with closing(sqlite3.connect(f"file:{out / 'results.sqlite'}?mode=ro", uri=True)) as connection:
            return dict(connection.execute("SELECT job_key, outcome FROM simulations"))
    except sqlite3.Error:
        return {}


def recordings_in(out: Path) -> dict[str, int]:
    manifests = (out / "traces").glob("[!.]*/manifest.json")
    return {file.parent.name: file.stat().st_mtime_ns for file in manifests}


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(child) for child in found.split()]


def run_with_kills(study: Path, out: Path, kills: int, longest: float, draw: random.Random) -> tuple[int, int]:
    """Run a study until it is done, killed up to so many times; return the kills, and how many workers died before."""
    code = f"import skipsim; skipsim.sweep({str(study)!r}, {str(out)!r}, workers=2, progress=False)"
    finished: dict[str, str] = {}
    recorded: dict[str, int] = {}
    killed = deaths = 0
    while True:
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        pause = draw.uniform(0.5, longest)
        if killed < kills:
            try:
                process.wait(pause)
            except subprocess.TimeoutExpired:
                workers = children_of(process.pid)
                if draw.random() < 1 / 3 and workers:
                    subprocess.run(["kill", "-9", str(draw.choice(workers))], check=False)
                    deaths += 1
                    time.sleep(draw.uniform(0.1, 2))
                process.send_signal(signal.SIGKILL)
                killed += 1
        process.wait()
        assert finished.items() <= outcomes_in(out).items(), "a finished simulation is gone or was made again"
        assert recorded.items() <= recordings_in(out).items(), "a finished recording is gone or was made again"
        finished, recorded = outcomes_in(out), recordings_in(out)
        print(f"{killed:4} {pause:8.1f} {len(recorded):11} {len(finished):21}", flush=True)
        if process.returncode == 0:
            return killed, deaths
        assert process.returncode == -signal.SIGKILL, process.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--longest", type=float, help="seconds that a run has at most; default: what a whole one takes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    compile_engine()  # takes up to a minute where it was not done before: no run would come further
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = folder / "study.toml"
        study.write_text(STUDY)
        start = time.monotonic()
        rows = len(sweep(study, folder / "undisturbed", 2, progress=False))
        longest = options.longest or time.monotonic() - start
        table = (folder / "undisturbed" / "results.parquet").read_bytes()
        kills = deaths = studies = 0
        print("kill  after s  recordings  finished simulations")
        while kills < options.kills:  # a study that was done too early is followed by another one
            out = folder / f"killed-{studies}"
            killed, died = run_with_kills(study, out, options.kills - kills, longest, draw)
            kills, deaths, studies = kills + killed, deaths + died, studies + 1
            assert (out / "results.parquet").read_bytes() == table, "the tables differ"
        print(f"{kills} kills in {studies} studies of {rows} rows, {deaths} after a worker's: tables byte-identical")


if __name__ == "__main__":
    main()
