"""How fast does PyTorch convolve a stack of small windows, as its gather, convolve, scatter path makes them?

The time depends on which product runs: from some number of windows on PyTorch hands 1x1 layers to oneDNN, with fewer
it multiplies window after window itself. ONEDNN_VERBOSE=profile_exec before the command prints every call that oneDNN
gets, with its kernel. One thread, warm caches, denormals flushed, least CPU time of so many runs.

Run by hand: .venv/bin/python benchmarks/windows.py [--runs 40]
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.nn import functional

CASES = (  # channels in and out, kernel, stride, side of a window in outputs, numbers of windows
    (64, 64, 1, 1, 4, (12, 15, 16, 24)),
    (64, 64, 1, 1, 2, (15, 16)),
    (256, 64, 1, 1, 2, (15, 16)),
    (768, 3072, 1, 1, 2, (6,)),
    (768, 3072, 1, 1, 4, (6,)),
    (96, 384, 1, 1, 2, (256,)),
    (96, 384, 1, 1, 8, (16,)),
    (96, 384, 1, 1, 16, (4,)),
    (64, 64, 3, 2, 1, (1, 64, 512)),
    (64, 64, 3, 2, 16, (1, 2)),
    (128, 256, 3, 2, 1, (64, 512)),
    (128, 256, 3, 2, 16, (1, 2)),
)


def least_us(ins: int, outs: int, kernel: int, stride: int, side: int, windows: int, runs: int) -> float:
    """Return the least CPU time of a convolution of gathered windows, microseconds."""
    span = stride * (side - 1) + kernel
    stack = torch.randn(ins, windows, span, span).transpose(0, 1)  # as indexing all channels at once leaves it
    weight, bias = torch.randn(outs, ins, kernel, kernel) * 0.1, torch.zeros(outs)
    times = []
    for _ in range(runs + 1):  # the first makes the kernel
        begin = time.thread_time_ns()
        functional.conv2d(stack, weight, bias, stride)
        times.append(time.thread_time_ns() - begin)
    return min(times[1:]) / 1e3


def main() -> None:
    """Print a line per layer, window and number of windows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    print(f"{'layer':<16} {'windows':>12} {'us':>9} {'GFLOP/s':>8}")
    with torch.inference_mode():
        for ins, outs, kernel, stride, side, counts in CASES:
            for windows in counts:
                us = least_us(ins, outs, kernel, stride, side, windows, runs)
                gflops = 2e-3 * ins * outs * (kernel * side) ** 2 * windows / us
                layer = f"{ins}->{outs} {kernel}x{kernel}" + (f"/{stride}" if stride > 1 else "")
                print(f"{layer:<16} {f'{windows} of {side}x{side}':>12} {us:>9.0f} {gflops:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
