"""PyTorch on the clock: dense convolutions, layer after layer.

Layers have weights and maps of their own and run one after the other, so that each finds the caches as a network
leaves them. Before its turn a layer's input is copied from elsewhere, untimed: the layer before has just written it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional

from skipsim.errors import InputError
from skipsim.hwmodels.design import Call
from skipsim.hwmodels.kernel_work import LayerShape, dense_work
from skipsim.hwmodels.kernels.torch_path import gather_convolve_scatter
from skipsim.hwmodels.measure import FLUSH_BYTES, CacheFlush, Minima, Plan, Say, touched_bytes
from skipsim.hwmodels.measured_chain import convolution_of
from skipsim.hwmodels.measurement_file import row_of

GPU_FLUSH_BYTES = 2**28  # more than the last cache of any GPU
GATHERED = ("blocks", "columns")
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True, eq=False)
class Tensors:
    """One layer's weight, its input, where that is copied from, and its kept output."""

    shape: LayerShape
    weight: Tensor
    bias: Tensor
    producer: Tensor
    x: Tensor
    y: Tensor

    @classmethod
    def of(cls, shape: LayerShape, layout: str, device: str, generator: Generator) -> Tensors:
        """Allocate and fill with normal values; an InputError if the device has no room."""
        sizes = (
            (shape.out_channels, shape.in_channels // shape.groups, shape.kernel_rows, shape.kernel_cols),
            (1, shape.in_channels, shape.in_rows, shape.in_cols),
            (1, shape.out_channels, shape.out_rows, shape.out_cols),
        )
        order = FORMATS[layout]
        try:
            weight, producer, y = (
                torch.from_numpy(generator.standard_normal(size, "float32")).to(device).contiguous(memory_format=order)
                for size in sizes
            )
            bias = torch.zeros(shape.out_channels, device=device)
            return cls(shape, weight * 0.1, bias, producer, producer.clone(memory_format=torch.preserve_format), y)
        except torch.OutOfMemoryError:
            raise InputError(
                f"calibrate: device {device!r} has no room for the layers that are measured; "
                "free its memory, or measure fewer with --shapes"
            ) from None


def cache_flush(device: str) -> Callable[[], object]:
    """Return what overwrites the caches of a device."""
    if device == "cpu":
        return CacheFlush()
    scratch = torch.ones(GPU_FLUSH_BYTES // 4, device=device)
    return lambda: scratch.add_(1)


@contextmanager
def measurable(threads: int) -> Iterator[None]:
    """Make PyTorch measurable, and put it back: so many threads, no gradients, denormals flushed (they are slow)."""
    before, flushed = torch.get_num_threads(), (torch.tensor([1e-40]) * 1.0).item() == 0
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(flushed)


def time_dense(layers: list[Tensors]) -> list[int]:
    """Run every layer densely once; return the times, ns."""

    def run(one: Tensors) -> None:
        shape = one.shape
        functional.conv2d(
            one.x,
            one.weight,
            one.bias,
            (shape.stride_rows, shape.stride_cols),
            (shape.padding_top, shape.padding_left),
            (shape.dilation_rows, shape.dilation_cols),
            shape.groups,
        )

    return [_timed(one, run) for one in layers]


def _timed(one: Tensors, run: Callable[[Tensors], None]) -> int:
    one.x.copy_(one.producer)
    if one.x.is_cuda:
        return _timed_on_gpu(one, run)
    begin = _clock()
    run(one)
    return _clock() - begin


def _timed_on_gpu(one: Tensors, run: Callable[[Tensors], None]) -> int:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run(one)
    end.record()
    end.synchronize()
    return int(begin.elapsed_time(end) * 1e6)


def _clock() -> int:
    """Return this thread's CPU time with one thread, wall time with more: others work for it then."""
    return time.thread_time_ns() if torch.get_num_threads() == 1 else time.perf_counter_ns()


def measure_dense(shapes: Sequence[LayerShape], what: str, plan: Plan, say: Say, device: str = "cpu") -> pd.DataFrame:
    """Measure dense layers, cold one after the other and hot, in both memory formats; each row has its faster one.

    `what` names the rows: "dense" are fitted, a "dense_layer", measured cold only, is taken as it is.
    """
    with measurable(plan.threads):
        generator = np.random.default_rng([plan.seed, 4])
        cold, hot, flush = {}, {}, cache_flush(device)
        for layout in FORMATS:
            say(f"dense, {layout}: {len(shapes)} layers")
            layers = [Tensors.of(shape, layout, device, generator) for shape in shapes]
            time_dense(layers)  # the first call of a shape makes its kernel
            cold[layout], hot[layout] = Minima.of(len(layers)), Minima.of(len(layers))
            for number in range(plan.passes):
                flush()
                late = 2 * number >= plan.passes
                cold[layout].add(time_dense(layers), late)
                if what == "dense":
                    hot[layout].add([min(time_dense([one] * 2)) for one in layers], late)
        return pd.DataFrame(
            row_of(what, Call(shape, (1, 1), 1.0, 0.0, 0), kept is hot, footprint) | best.columns(index)
            for index, shape in enumerate(shapes)
            for kept, footprint in ((cold, float(FLUSH_BYTES)), (hot, float(touched_bytes(dense_work(shape)))))
            if kept is cold or what == "dense"
            for best in [min(kept.values(), key=lambda one: one.columns(index)["ns"])]
        )


def measure_gathered(calls: Sequence[Sequence[Call]], plan: Plan, say: Say, device: str = "cpu") -> pd.DataFrame:
    """Measure PyTorch's gather, convolution and scatter cold, on chains of calls; both of its paths.

    The first pass does not count: PyTorch makes a kernel for every new number of blocks, which takes milliseconds and
    which a video with changing masks pays again and again.
    """
    with measurable(plan.threads):
        generator, rows = np.random.default_rng([plan.seed, 6]), []
        layers = [Tensors.of(call.shape, "nchw", device, generator) for call in calls[0]]
        for number, chain in enumerate(calls):
            for path in GATHERED:
                say(f"PyTorch's {path}: chain {number + 1} of {len(calls)}")
                chosen = [pair for pair in zip(chain, layers, strict=True) if _runs(pair[0], path)]
                minima, flush = Minima.of(len(chosen)), cache_flush(device)
                for index in range(1 + plan.passes):
                    flush()
                    times = [_gathered_ns(call, one, path) for call, one in chosen]
                    if index:
                        minima.add(times, late=2 * index > plan.passes)
                rows += [
                    row_of(f"torch_{path}", call, False, float(FLUSH_BYTES)) | minima.columns(index)
                    for index, (call, _) in enumerate(chosen)
                ]
        return pd.DataFrame(rows)


def _runs(call: Call, path: str) -> bool:
    """Tell whether a path is worth its time on a layer: columns of grouped layers would be mostly zeros."""
    return path == "blocks" or call.shape.groups == 1


def _gathered_ns(call: Call, one: Tensors, path: str) -> int:
    mask, geometry = torch.from_numpy(call.mask).to(one.x.device), convolution_of(call.shape)

    def run(tensors: Tensors) -> None:
        gather_convolve_scatter(tensors.x, tensors.weight, tensors.bias, geometry, tensors.y, mask, call.block, path)

    return _timed(one, run)
