"""TimedNetwork: a whole network on the clock, sparse with masks that are given, and dense in PyTorch."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skipsim.hwmodels.kernels import Step
from skipsim.traces.convert import convert
from skipsim.traces.execute.assembly import Entry
from skipsim.traces.execute.sparse_network import SparseNetwork
from skipsim.traces.gates import InputNormGate
from skipsim.traces.layer import Layer
from skipsim.traces.models import network
from skipsim.traces.synthetic import synthetic_trace
from skipsim.traces.training.evaluation import flushing_denormals
from skipsim.traces.video import read_frames

Key = tuple[str, int]
Masks = Mapping[Key, NDArray[np.bool_]]


@dataclass(frozen=True)
class Timed:
    """What a network takes with some masks, least CPU time, ns.

    Attributes:
        whole_ns: a call, as a user makes it.
        kernels_ns: every kernel, in order. The rest is bringing the frame in, copies of the results out, Python code.
    """

    whole_ns: int
    kernels_ns: NDArray[np.int64]

    @property
    def rest_ns(self) -> int:
        """What is no kernel."""
        return self.whole_ns - int(self.kernels_ns.sum())


class TimedNetwork:
    """A network, gates of one block size, and frames that differ everywhere.

    `model`: any network that takes one picture; None: the registered one of that name, with random weights.
    """

    def __init__(
        self,
        name: str,
        rows: int,
        cols: int,
        block: int,
        threads: int = 1,
        seed: int = 0,
        model: nn.Module | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.name, self.rows, self.cols, self.block, self.threads = name, rows, cols, block, threads
        self.model: nn.Module = (network(name) if model is None else model).eval()
        self.frames = [torch.rand(1, 3, rows, cols) for _ in range(2)]
        self._masks: Masks = {}
        gated = convert(self.model, InputNormGate(threshold=0.0, block=block))
        self._sparse = SparseNetwork(gated, replay=lambda _frame: self._masks, threads=threads)
        self._sparse(self.frames[0])

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Geometry of all convolutions, in the order in which they run."""
        return self._sparse.layers

    @property
    def entries(self) -> list[Entry]:
        """What runs on a gated frame, in order."""
        return self._sparse.entries

    def draw(self, density: float, seed: int = 0) -> Masks:
        """Draw clustered masks that belong together, of a wanted density, for one frame."""
        trace = synthetic_trace(
            self.layers, rows=self.rows, cols=self.cols, frames=2, density=density, cluster_pixels=self.rows / 8,
            block=self.block, seed=seed,
        )  # fmt: skip
        return {layer.key: trace.mask(index, 1) for index, layer in enumerate(trace.layers)}

    @torch.inference_mode()
    def record(self, clip: str, share: float, frame: int = 4) -> Masks:
        """Let gates decide on a clip, with thresholds of a share of each layer's mean input; return a frame's masks."""
        pictures = list(read_frames(clip, size=(self.rows, self.cols), limit=frame + 1))
        frames = [torch.from_numpy(one).permute(2, 0, 1)[None].float() / 255 for one in pictures]
        means = mean_inputs(self.model, frames[0])
        gate = InputNormGate(threshold={name: share * mean for name, mean in means.items()}, block=self.block)
        deciding = SparseNetwork(convert(self.model, gate), graph=self._sparse.graph)
        for one in frames:
            deciding(one)
        return deciding.masks()

    def planned(self, masks: Masks) -> list[Entry]:
        """Return what a frame with these masks would run, its lists of positions made and nothing else."""
        return self._sparse.planned(masks)

    def macs(self, masks: Masks) -> float:
        """Return the multiply-accumulates that masks ask for; layers without a gate compute what they read changed."""
        shares = {layer.key: float(masks[layer.key].mean()) for layer in self.layers if layer.gate != "none"}
        return sum(layer.macs * shares.get(layer.key, 1.0) for layer in self.layers)

    @flushing_denormals()
    def time(self, masks: Masks, repeats: int) -> Timed:
        """Run masks so often, whole and kernel by kernel in turns; return the least times."""
        self._masks = masks
        whole: list[int] = []
        parts: list[NDArray[np.int64]] = []
        with _threads(self.threads):
            for _ in range(repeats + 1):
                begin = self._clock()
                self._sparse(self.frames[0])
                whole.append(self._clock() - begin)
                parts.append(np.array([timing.nanoseconds for timing in self._sparse.profile(self.frames[1])]))
        kernels = [False, *(isinstance(entry.item, Step) for entry in self.entries), False]
        # the first run brings the caches into the state of a clip
        return Timed(min(whole[1:]), np.min(parts[1:], axis=0)[kernels])

    @flushing_denormals()
    def dense_ns(self, repeats: int) -> int:
        """Return the least time of PyTorch's dense network: eager or frozen, channels first or last."""
        with _threads(self.threads):
            return min(self._least(run, frame, repeats) for run, frame in _dense_runs(self.model, self.frames[0]))

    def _least(self, run: nn.Module, frame: Tensor, repeats: int) -> int:
        times = []
        with torch.inference_mode():
            for _ in range(repeats + 2):  # a traced graph is optimised on its first runs
                begin = self._clock()
                run(frame)
                times.append(self._clock() - begin)
        return min(times[2:])

    def _clock(self) -> int:
        """Return this thread's CPU time with one thread, wall time with more: others work for it then."""
        return time.thread_time_ns() if self.threads == 1 else time.perf_counter_ns()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let PyTorch use so many threads, and put it back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def mean_inputs(model: nn.Module, frame: Tensor) -> dict[str, float]:
    """Return the mean of |x| over every convolution's input on one frame, by name; of several calls the first."""
    means: dict[str, float] = {}

    def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        means.setdefault(name, float(inputs[0].abs().mean()))

    handles = [
        module.register_forward_pre_hook(partial(note, name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    model(frame)
    for handle in handles:
        handle.remove()
    return means


def _dense_runs(model: nn.Module, frame: Tensor) -> list[tuple[nn.Module, Tensor]]:
    runs = []
    for order in (torch.contiguous_format, torch.channels_last):
        placed, input_ = model.to(memory_format=order), frame.contiguous(memory_format=order)  # type: ignore[call-overload]
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frozen = torch.jit.freeze(torch.jit.trace(placed, input_, check_trace=False))
        runs += [(placed, input_), (frozen, input_)]
    return runs
