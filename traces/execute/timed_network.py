"""TimedNetwork: a whole network on the clock, sparse with masks that are given, and dense in PyTorch."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skipsim.hwmodels.kernels import Step
from skipsim.traces.convert import convert
from skipsim.traces.evaluation import flushing_denormals
from skipsim.traces.execute.sparse_network import SparseNetwork
from skipsim.traces.gates import InputNormGate
from skipsim.traces.layer import Layer
from skipsim.traces.models import network
from skipsim.traces.synthetic import synthetic_trace

Key = tuple[str, int]
Masks = Mapping[Key, NDArray[np.bool_]]


@dataclass(frozen=True)
class TimedPart:
    """One thing that ran on a frame: what it belongs to, its bound kernel (None: Python code), and its least time."""

    operation: str
    step: Step | None
    nanoseconds: int


class TimedNetwork:
    """A registered network with random weights, gates of one block size, and frames that differ everywhere."""

    def __init__(self, name: str, rows: int, cols: int, block: int, seed: int = 0) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self.name, self.rows, self.cols, self.block = name, rows, cols, block
        self.model: nn.Module = network(name).eval()
        self.frames = [torch.rand(1, 3, rows, cols) for _ in range(2)]
        self._masks: Masks = {}
        gated = convert(self.model, InputNormGate(threshold=0.0, block=block))
        self._sparse = SparseNetwork(gated, replay=lambda _frame: self._masks)
        self._sparse(self.frames[0])

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Geometry of all convolutions, in the order in which they run."""
        return self._sparse.layers

    def draw(self, density: float, seed: int = 0) -> Masks:
        """Draw clustered masks that belong together, of a wanted density, for one frame."""
        trace = synthetic_trace(
            self.layers, rows=self.rows, cols=self.cols, frames=2, density=density, cluster_pixels=self.rows / 8,
            block=self.block, seed=seed,
        )  # fmt: skip
        return {layer.key: trace.mask(index, 1) for index, layer in enumerate(trace.layers)}

    @flushing_denormals()
    def parts(self, masks: Masks, repeats: int) -> list[TimedPart]:
        """Run masks so often and return the least time of every part; "input" and "output" are the first and last."""
        self._masks = masks
        best: NDArray[np.int64] | None = None
        for number in range(repeats + 1):
            timings = self._sparse.profile(self.frames[number % 2])
            times = np.array([timing.nanoseconds for timing in timings])
            if number:  # the first brings the caches into the state of a clip
                best = times if best is None else np.minimum(best, times)
        assert best is not None
        entries = self._sparse._started().assembler.frame
        items = [None, *(entry.item for entry in entries), None]
        return [
            TimedPart(timing.operation, item if isinstance(item, Step) else None, int(ns))
            for timing, item, ns in zip(timings, items, best, strict=True)
        ]

    @flushing_denormals()
    def whole_ns(self, masks: Masks, repeats: int) -> int:
        """Run masks so often as a user calls the network; return the least CPU time of a call."""
        self._masks = masks
        times = []
        for number in range(repeats + 1):
            begin = time.thread_time_ns()
            self._sparse(self.frames[number % 2])
            times.append(time.thread_time_ns() - begin)
        return min(times[1:])

    @flushing_denormals()
    def dense_ns(self, repeats: int) -> int:
        """Return the least CPU time of PyTorch's dense network: eager or frozen, channels first or last."""
        return min(_least(run, frame, repeats) for run, frame in _dense_runs(self.model, self.frames[0]))


def _dense_runs(model: nn.Module, frame: Tensor) -> list[tuple[nn.Module, Tensor]]:
    runs = []
    for order in (torch.contiguous_format, torch.channels_last):
        placed, input_ = model.to(memory_format=order), frame.contiguous(memory_format=order)  # type: ignore[call-overload]
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frozen = torch.jit.freeze(torch.jit.trace(placed, input_, check_trace=False))
        runs += [(placed, input_), (frozen, input_)]
    return runs


def _least(run: nn.Module, frame: Tensor, repeats: int) -> int:
    times = []
    with torch.inference_mode():
        for _ in range(repeats + 2):
            begin = time.thread_time_ns()
            run(frame)
            times.append(time.thread_time_ns() - begin)
    return min(times[2:])
