"""How long, and in how much memory? Whole `skipsim` commands, start to end, each alone in processes of its own. Bounds:

    ResNet-50 dense on a 32x32 array with `banked` memory: under 5 seconds and 500 MB
    HRNet-W32 at 256x256: under 2 GB at any length of the clip
    a clip of 40 frames of it on 100 machines: under 60 seconds on two cores
    the second `skipsim simulate` of a small trace: under 2 seconds

Memory is the largest resident set of any one process (wait4). This script imports nothing large, because a process
that is started counts what its parent held before.

Measured on two virtual cores of a quiet machine (AMD EPYC, model 17): a small trace 1.2 s; ResNet-50 1.5 s and
240 MB; HRNet-W32, 40 frames 1.3 s and 221 MB, 200 frames 1.4 s and 223 MB, 5000 frames 3.5 s and 231 MB; 1000 frames
with a row per layer and frame as JSON 21 s and 263 MB; 100 machines 14 s. Before only sums were kept, 0.27 MB a frame
were added.

Run by hand: .venv/bin/python benchmarks/peak_memory.py [--machines 100] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESNET50 = Path(__file__).parent.parent / "tests" / "oracles" / "scalesim" / "resnet50.topology.csv"
SKIPSIM = str(Path(sys.executable).with_name("skipsim"))
HRNET = ["edge-npu", "--tile", "8x8"]
BANKED = ["dram.rule=banked", "dram.part=LPDDR4X-4266", "dram.channels=2"]
BUFFERS = [f"buffers.{name}_bytes=1048576" for name in ("input", "weight", "output")]
MAKE_CLIP = """
import sys
from skipsim.traces.synthetic import synthetic_trace
from skipsim.traces.trace import TraceWriter
path, frames = sys.argv[1], int(sys.argv[2])
clip = synthetic_trace("hrnet_w32", rows=256, cols=256, frames=40, density=0.2, cluster_pixels=16, block=8)
with TraceWriter(path, clip.layers, update=clip.update, origin=clip.origin) as writer:
    for frame in range(frames):  # the same 40 again and again
        writer.append_packed(clip.packed(frame % 40), reference=clip.reference(frame % 40))
"""
MAKE_SMALL = """
import sys
from skipsim.traces.layer import Layer
from skipsim.traces.synthetic import synthetic_trace
layers = [Layer("layer", 8, 16, 16, 8, 16, 16, 3, 3, padding_top=1, padding_left=1, gate="input_norm")]
synthetic_trace(layers, frames=4, density=0.3, cluster_pixels=4, block=4).save(sys.argv[1])
"""
STUDY = """
name = "machines"
[recording]
trace = "{trace}"
[simulation]
hardware = ["edge-npu"]
tile = ["8x8"]
"dram.bytes_per_cycle" = {{ from = 4, to = 64, steps = {machines} }}
"""


def alone(command: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds of wall clock and the megabytes of its largest process."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return seconds, used.ru_maxrss * 1024 / 1e6


def simulate(trace: Path, machine: str, *rest: str) -> list[str]:
    return [SKIPSIM, "simulate", str(trace), "--hardware", machine, *rest]


def main() -> None:
    """Measure every command, print a table and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=100)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, study = folder / "small.trace", folder / "study.toml"
        clips = {frames: folder / f"clip{frames}.trace" for frames in (40, 200, 1000, 5000)}
        alone([sys.executable, "-c", MAKE_SMALL, str(small)])
        for frames, clip in clips.items():
            alone([sys.executable, "-c", MAKE_CLIP, str(clip), str(frames)])
        study.write_text(STUDY.format(trace=clips[40], machines=arguments.machines), encoding="utf-8")
        settings = [word for setting in BANKED + BUFFERS for word in ("--set", setting)]
        commands = {
            "simulate, a small trace, again": (simulate(small, "edge-npu", "--json"), "< 2 s"),
            "ResNet-50 dense, 32x32, banked": (
                simulate(RESNET50, "systolic-32x32", "--dense", "--json", *settings),
                "< 5 s, < 500 MB",
            ),
            **{
                f"HRNet-W32, {frames} frames, stream": (simulate(clips[frames], *HRNET), "< 2000 MB")
                for frames in (40, 200, 5000)
            },
            "HRNet-W32, 1000 frames, stream, --json": (simulate(clips[1000], *HRNET, "--json"), "< 2000 MB"),
            f"HRNet-W32, 40 frames, {arguments.machines} machines, 2 processes": (
                [SKIPSIM, "sweep", str(study), "-o", str(folder / "out"), "--workers", "2"],
                "< 60 s, < 2000 MB" if arguments.machines == 100 else "",
            ),
        }
        alone(commands["simulate, a small trace, again"][0])  # compiles, if nobody did before
        rows = []
        print(f"{'command':<54} {'seconds':>8} {'MB':>6}  bound")
        for what, (command, bound) in commands.items():
            seconds, megabytes = alone(command)
            rows.append({"command": what, "seconds": seconds, "peak_mb": megabytes, "bound": bound})
            print(f"{what:<54} {seconds:>8.2f} {megabytes:>6.0f}  {bound}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
