"""How long do 10,000 simulations of the 40-frame pose_small clip take? And the demo's study from cached recordings?

Two machines, four tiles, 25 memory widths and 50 set-up times on one recorded clip: 10,000 rows. --jobs takes a sample.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from joblib.externals.loky import get_reusable_executor

from skipsim.analysis.inputs.gated_network import Gating
from skipsim.analysis.running.record_clip import record_clip
from skipsim.analysis.sweep import run_study
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
            record_clip(
                "pose_small", "pose:2000001:pan", folder / "clip.trace", Gating(threshold=0.1, block=(4, 4)), frames=40
            )
        (folder / "study.toml").write_text(STUDY.format(widths=options.jobs // 400))
        start, start_cpu = time.perf_counter(), process_seconds()
        finished = run_study(folder / "study.toml", folder / "out", options.workers, progress=False)
        get_reusable_executor(reuse=True).shutdown(wait=True)  # whose processes' time is known when they have ended
        took, cpu = time.perf_counter() - start, process_seconds() - start_cpu
    assert (finished.rows, finished.failed) == (options.jobs, 0)
    print(
        f"{finished.rows:,} simulations of 40 frames on {options.workers} processes: {took:.0f} s, {cpu:.0f} s of CPU, "
        f"{1e3 * cpu / finished.rows:.1f} ms a simulation"
    )


def process_seconds() -> float:
    """Return the CPU time of this process and of those that it has started and that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


if __name__ == "__main__":
    main()
