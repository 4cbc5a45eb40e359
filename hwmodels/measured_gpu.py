"""A GPU on the clock: the Triton kernel and what a gate needs around it, timed by events on the device.

The same designed runs as on a CPU: chains of layers with tensors of their own, cold after the caches were overwritten,
and every call alone, hot. A layer that the device has no room for is left out, and that is said.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from skipsim.errors import InputError
from skipsim.hwmodels.design import Call, draw_calls, draw_shapes, work_of
from skipsim.hwmodels.fit import significant
from skipsim.hwmodels.host import describe_host
from skipsim.hwmodels.kernel_work import LayerShape, Registers
from skipsim.hwmodels.mask_pixels import read_pixels
from skipsim.hwmodels.measure import Minima, Plan, Say, touched_bytes
from skipsim.hwmodels.measured_chain import convolution_of
from skipsim.hwmodels.measured_torch import GPU_FLUSH_BYTES
from skipsim.hwmodels.measurement_file import Measurements, row_of
from skipsim.hwmodels.processor import Peaks

FOOTPRINTS = tuple(2**power for power in range(20, 30))
REGISTERS = Registers(pixels=64, vectors=2, lanes=32)
"""A program of the Triton kernel computes 64 pixels by up to 64 channels, padded to a power of two from 16 on."""
SIDE = 4096  # of the square matrices whose product is the peak
REPEATS = 5

Run = Callable[[], Any]
Clock = Callable[[Run], float]


@dataclass(frozen=True, eq=False)
class GpuLayer:
    """What one layer owns on the device; maps are [rows, cols, channels]."""

    shape: LayerShape
    weight: Tensor
    bias: Tensor
    x: Tensor
    reference: Tensor
    y: Tensor

    @classmethod
    def of(cls, shape: LayerShape, device: str, generator: Generator) -> GpuLayer:
        """Allocate and fill with normal values."""
        from skipsim.hwmodels.kernels.triton_kernel import pack_for_gpu

        kernel = (shape.out_channels, shape.in_channels // shape.groups, shape.kernel_rows, shape.kernel_cols)
        ins, outs = (
            (shape.in_rows, shape.in_cols, shape.in_channels),
            (shape.out_rows, shape.out_cols, shape.out_channels),
        )
        weight, x, reference, y = (
            torch.from_numpy(generator.standard_normal(size, "float32")).to(device) for size in (kernel, ins, ins, outs)
        )
        packed = pack_for_gpu(weight * 0.1, convolution_of(shape))
        return cls(shape, packed, torch.zeros(shape.out_channels, device=device), x, reference, y)


def event_clock(run: Run) -> float:
    """Return nanoseconds between two events on the device around what `run` asks of it."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end) * 1e6)


def steps_of(call: Call, layer: GpuLayer) -> dict[str, Run]:
    """Return what runs for a gated layer, in order, by the name of the stage or path."""
    from skipsim.hwmodels.kernels.triton_kernel import list_positions, sparse_convolve

    shape, device, geometry = call.shape, layer.x.device, convolution_of(call.shape)
    mask = torch.from_numpy(call.mask).to(device)
    size = (shape.out_rows, shape.out_cols)
    read = read_pixels(call.masks, shape, call.block)
    written = _positions(read[0], device)
    settled = _positions((read & ~read_pixels(~call.masks, shape, call.block))[0], device)
    x, reference = (one.reshape(-1, shape.in_channels) for one in (layer.x, layer.reference))
    change = torch.zeros(shape.in_rows * shape.in_cols, device=device)
    positions = list_positions(mask, call.block, size)
    return {
        "change": lambda: change.index_copy_(0, written, (x[written] - reference[written]).abs().mean(1)),
        "decide": lambda: _decide(change, call),
        "list": lambda: list_positions(mask, call.block, size),
        "triton": lambda: sparse_convolve(layer.x, layer.weight, layer.bias, geometry, layer.y, positions, "relu"),
        "move": lambda: reference.index_copy_(0, settled, x[settled]),
    }


def _decide(change: Tensor, call: Call) -> Tensor:
    """Return which blocks have a position whose receptive field changed."""
    shape, geometry = call.shape, convolution_of(call.shape)
    top, bottom, left, right = geometry.padding
    field = functional.pad(change.reshape(1, 1, shape.in_rows, shape.in_cols), (left, right, top, bottom))
    taps = torch.ones(1, 1, shape.kernel_rows, shape.kernel_cols, device=change.device)
    sums = functional.conv2d(field, taps, None, geometry.stride, 0, geometry.dilation)
    return functional.max_pool2d(sums, call.block, ceil_mode=True) > 0


def _positions(pixels: NDArray[np.bool_], device: torch.device) -> Tensor:
    return torch.from_numpy(np.flatnonzero(pixels)).to(device)


@torch.no_grad()
def measure_gpu(
    plan: Plan, say: Say, device: str = "cuda", clock: Clock = event_clock, flush_bytes: int = GPU_FLUSH_BYTES
) -> pd.DataFrame:
    """Measure the Triton kernel and the gate's stages, cold and hot; rows as those of `measure_compiled`.

    Raises:
        InputError: the device has no room for any layer.
    """
    generator, scratch = np.random.default_rng([plan.seed, 3]), _allocated(flush_bytes, device)
    shapes = draw_shapes(plan.seed, plan.per_class)
    layers = {}
    for shape in shapes:
        try:
            layers[shape] = GpuLayer.of(shape, device, generator)
        except torch.OutOfMemoryError:
            say(f"warning: calibrate: device {device!r} has no room for layer {shape.name}: left out")
    if not layers:
        raise InputError(f"calibrate: device {device!r} has no room for a single layer; free its memory")
    rows: list[dict[str, Any]] = []
    for number, chain in enumerate(draw_calls(shapes, plan.seed, plan.configurations)):
        say(f"{device}, chain {number + 1} of {plan.configurations}")
        steps = [
            (name, call, run)
            for call in chain
            if call.shape in layers
            for name, run in steps_of(call, layers[call.shape]).items()
        ]
        rows += _timed(steps, plan, say, clock, scratch)
    return pd.DataFrame(rows)


def _timed(
    steps: list[tuple[str, Call, Run]], plan: Plan, say: Say, clock: Clock, scratch: Tensor
) -> list[dict[str, Any]]:
    """Time a chain cold, again and again, and every step of it hot; steps that run out of memory are left out."""
    kept = [step for step in steps if _runs(step, clock, say)]
    cold, hot = Minima.of(len(kept)), Minima.of(len(kept))
    for number in range(plan.passes):
        late = 2 * number >= plan.passes
        scratch += 1
        cold.add([clock(run) for _, _, run in kept], late)
        hot.add([min(clock(run) for _ in range(2)) for _, _, run in kept], late)
    return [
        row_of(name, call, is_hot, footprint) | minima.columns(index)
        for index, (name, call, _) in enumerate(kept)
        for is_hot, minima, footprint in (
            (False, cold, float(scratch.nbytes)),
            (True, hot, touched_bytes(work_of("triton", call, REGISTERS))),
        )
    ]


def _runs(step: tuple[str, Call, Run], clock: Clock, say: Say) -> bool:
    """Run a step once, which makes its kernel; say so if the device has no room for it."""
    name, call, run = step
    try:
        clock(run)
    except torch.OutOfMemoryError:
        say(f"warning: calibrate: no room for {name} of layer {call.shape.name}, block {call.block[0]}: left out")
        return False
    return True


def gpu_peaks(
    device: str = "cuda", clock: Clock = event_clock, side: int = SIDE, footprints: tuple[int, ...] = FOOTPRINTS
) -> Peaks:
    """Measure products of large matrices in full float32, copies over footprints, and random reads in flight."""
    torch.backends.cuda.matmul.allow_tf32 = False
    matrix = torch.ones(side, side, device=device)
    rates = []
    for size in footprints:
        source = _allocated(size // 2, device)
        target = torch.empty_like(source)
        rates.append(significant(2 * source.nbytes / _best(partial(target.copy_, source), clock)))
    lines = _allocated(footprints[-1] // 2, device).reshape(-1, 16)
    order = torch.randperm(len(lines), device=device)
    return Peaks(
        source="measured by events: best of repeated runs; random reads as many as fit at a time",
        fma_gflops=significant(2 * side**3 / _best(lambda: matrix @ matrix, clock)),
        random_read_ns=significant(_best(lambda: lines[order], clock) / len(lines)),
        footprint_bytes=tuple(map(float, footprints)),
        stream_gb_per_s=tuple(rates),
    )


def measured_on_gpu(table: pd.DataFrame, peaks: Peaks, seed: int, device: str = "cuda") -> Measurements:
    """Return a table of this GPU's times with what it was measured on."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Measurements(table, describe_host(device), peaks, today, seed, REGISTERS.lanes, REGISTERS.pixels)


def _best(run: Run, clock: Clock) -> float:
    run()
    return min(clock(run) for _ in range(REPEATS))


def _allocated(size_bytes: int, device: str) -> Tensor:
    try:
        return torch.ones(size_bytes // 4, device=device)
    except torch.OutOfMemoryError:
        raise InputError(
            f"calibrate: device {device!r} has no room for {size_bytes >> 20} MiB; free its memory"
        ) from None
