"""Does a study that runs out of room say so in one line, keep what is finished, and go on when there is room again?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from skipsim.analysis.sweep import pending, sweep
from skipsim.traces.synthetic import synthetic_trace

STUDY = """
name = "full"
[recording]
trace = "a.trace"
[simulation]
hardware = "systolic-32x32"
tile = "4x4"
"gather.setup_cycles" = { from = 1, to = 60, steps = 60 }
"""
ROOM_BYTES = 150_000  # for any file: sixty rows take twice as much
LIMITED = """
import resource
from skipsim.simulator.simulate import compile_engine
compile_engine()
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
from skipsim.analysis.cli import main
main(["sweep", {study!r}, "-o", {out!r}, "--workers", "1"])
"""


def test_a_full_disk(tmp_path: Path) -> None:
    synthetic_trace("pose_small", rows=32, cols=32, frames=2, density=0.3, cluster_pixels=8, block=2).save(
        tmp_path / "a.trace"
    )
    study, out = tmp_path / "study.toml", tmp_path / "out"
    study.write_text(STUDY)
    code = LIMITED.format(room=ROOM_BYTES, study=str(study), out=str(out))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"skipsim: {out / 'results.sqlite'}: ")
    assert line.endswith("finished rows are kept; make room and start the study again")
    assert not (out / "results.parquet").exists()
    assert not list(out.glob(".*.tmp*"))
    left = pending(study, out).missing_simulations
    assert 0 < left < 60, "some are finished"
    assert len(sweep(study, out, 1)) == 60
    sweep(study, tmp_path / "undisturbed", 1)
    assert (out / "results.parquet").read_bytes() == (tmp_path / "undisturbed" / "results.parquet").read_bytes()
