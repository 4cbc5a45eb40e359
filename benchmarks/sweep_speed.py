"""How long do 10,000 simulations of the 40-frame pose_small clip take? And the demo's study from cached recordings?

Two machines, four tiles, 25 memory widths and 50 set-up times on one recorded clip: 10,000 rows. --jobs takes a sample.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from skipsim.analysis.record_clip import record_clip
from skipsim.analysis.sweep import sweep
from skipsim.simulator.simulate import compile_engine

STUDY = """
name = "speed"
[recording]
trace = "clip.trace"
[simulation]
hardware = ["edge-npu", "systolic-32x32"]
tile = ["4x4", "8x8", "16x16", "full"]
"dram.bytes_per_cycle" = {{ from = 4, to = 52, steps = {widths} }}
"gather.setup_cycles" = {{ from = 1, to = 99, steps = 50 }}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000, help="a multiple of 400, at least 800")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--trace", type=Path, help="a recorded clip; default: one is recorded")
    options = parser.parse_args()
    compile_engine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.trace:
            (folder / "clip.trace").symlink_to(options.trace.absolute())
        else:
            record_clip("pose_small", "pose:2000001:pan", folder / "clip.trace", threshold=0.1, block=(4, 4), frames=40)
        (folder / "study.toml").write_text(STUDY.format(widths=options.jobs // 400))
        start = time.perf_counter()
        table = sweep(folder / "study.toml", folder / "out", options.workers, progress=False)
        took = time.perf_counter() - start
        assert len(table) == options.jobs
        assert (table["error"] == "").all()
    print(
        f"{len(table):,} simulations of {table['frames'].iloc[0]} frames on {options.workers} processes: {took:.0f} s"
    )


if __name__ == "__main__":
    main()
