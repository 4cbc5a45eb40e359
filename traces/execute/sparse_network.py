"""SparseNetwork: a gated network on the block-sparse kernels; what `convert(model, gate, execute="sparse")` returns."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skipsim.errors import InputError, nearest
from skipsim.hwmodels import kernels
from skipsim.hwmodels.anchor import anchor_of
from skipsim.hwmodels.choice import faster_dense, machine_at_hand
from skipsim.hwmodels.hardware import Hardware
from skipsim.hwmodels.kernel_work import LayerShape
from skipsim.hwmodels.processor import Processor
from skipsim.traces.convert import DenseLayers, LayerGate, dense_copy, layer_gates, reset
from skipsim.traces.execute.assembly import Assembler, Entry, RunningLayer, blocked
from skipsim.traces.execute.decision import CustomGate, Decision, Dense, Follow, GivenMask, NormGate, Shared
from skipsim.traces.execute.graph import Convolution, Graph
from skipsim.traces.execute.graph_reader import read_graph
from skipsim.traces.execute.running import Running
from skipsim.traces.gates import InputNormGate, OutputNormGate, one_threshold, weight_norm
from skipsim.traces.layer import Layer
from skipsim.traces.skipconv import SkipConv2d

Key = tuple[str, int]
Replay = Callable[[int], Mapping[Key, NDArray[np.bool_]]]

Machine = Hardware | str | Path | None

DENSITY = 0.25
PLACEMENTS = ("fused", "separate")
ANNOUNCED_AFTER_SECONDS = 1.0


@dataclass(frozen=True)
class Timing:
    """Time of one kernel, or of one piece of Python code, on one frame.

    Attributes:
        operation: the operation's name; a convolution's is that of its layer.
        part: "input" and "output": bringing the frame in and copies of the results out; "index": masks and lists of
            positions; "gate": measuring the change and deciding; "convolve"; "reference": moving what gates compare
            with; "combine": sums, scaling, pooling, upsampling; "torch": what has no sparse form.
        nanoseconds: time of the calling thread.
    """

    operation: str
    part: str
    nanoseconds: int


@contextmanager
def _announced(what: str) -> Iterator[None]:
    """Say on standard error what is under way, if it takes longer than a moment."""
    text = f"{what}; this takes some seconds, on the first frame only"
    timer = threading.Timer(ANNOUNCED_AFTER_SECONDS, print, (text,), {"file": sys.stderr})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class SparseNetwork(nn.Module):
    """A network that computes, on every frame, only what its gates let through and what reads that.

    Call it with one frame after the other, as any converted model. What is computed and what the gates compare with is
    what SkipConv2d says about `recompute`: masks and outputs are those of `execute="dense"`, to float tolerance. The
    differences lie outside the convolutions. Every map is kept from frame to frame; activations, additions, upsampling
    and pooling are computed where one of their sources was written, and batch normalisation is folded into the
    weights. An operation that has no sparse form here is computed on whole maps by torch; `fallbacks` names them.

    The graph is read on the first frame (it must not depend on the values in the maps), for that frame's size; weights
    are read then too, later changes are not seen.

    Args:
        converted: what `convert` made, with its gates.
        dense_layers: convolutions that run on the whole map, without a gate and by torch's own kernels: their names,
            or a function that tells from a layer's geometry whether it is one. None: the layers with gates of their own
            that `machine` predicts to be faster so, at a density of `density`.
        machine: a measured machine, its name or file; "auto": the one of this host, if any; None: predict nothing.
        density: share of the positions that is expected to be computed.
        placement: "fused": a gate sees a position when its producer writes it; "separate": every gated layer first
            compares its whole input with the reference, as a gate that is a network layer of its own does. The masks
            are the same.
        replay: masks by (layer name, call) to be executed instead of what the gates say, for a frame of that number.
            The gates are evaluated nevertheless, so that their time counts.
        graph: the network's operations, for a network that was read before; see `read_graph`.
        threads: threads of one frame.
    """

    keeps_frames = True  # by this `convert.reset` knows it

    def __init__(
        self,
        converted: nn.Module,
        *,
        dense_layers: DenseLayers | None = (),
        machine: Machine = None,
        density: float = DENSITY,
        placement: str = "fused",
        replay: Replay | None = None,
        graph: Graph | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__()
        if placement not in PLACEMENTS:
            raise InputError(f"convert: placement {placement!r} is unknown; {nearest(str(placement), PLACEMENTS)}")
        self.network = converted
        self.frame = -1
        self.threads = threads
        self._gates: dict[Key, LayerGate] = {}
        self._gated = {m.layer_name: m for m in converted.modules() if isinstance(m, SkipConv2d)}
        self._placement, self._replay, self._density = placement, replay, density
        self._dense: DenseLayers = () if dense_layers is None else dense_layers
        found = machine_at_hand(machine, _warn) if dense_layers is None else None
        self._processor = None if found is None else found.processor
        self._reset_every = next(iter(self._gated.values())).reset_every
        self._graph = graph
        self._running: Running | None = None
        updates = {module.update for module in self._gated.values()} - {"recompute"}
        if updates:
            raise InputError(f'convert: execute="sparse" runs the update form "recompute", got {updates.pop()!r}')
        if not callable(self._dense):
            for name in self._dense:
                if name not in self._gated:
                    raise InputError(f"convert: dense_layers: no layer {name!r}; {nearest(str(name), self._gated)}")

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Any:
        """Map the next frame [1, channels, rows, cols] to what the network returns, maps channels last in memory."""
        running = self._begin(x)
        for item in running.reference_frame if self.reference else running.frame:
            if isinstance(item, kernels.Program):
                item.run(threads=self.threads)
            else:
                item()
        return running.outputs()

    def profile(self, x: Tensor) -> list[Timing]:
        """Run the next frame as a call does, and return the time of every part, in the order in which they ran.

        Every layer runs inside the network: with its own weights and state, after the layers before it have filled the
        caches with theirs. One thread: its CPU time, so that preemption does not count; more: wall time.
        """
        clock = time.thread_time_ns if self.threads == 1 else time.perf_counter_ns
        with torch.inference_mode():
            start = clock()
            running = self._begin(x)
            taken = clock() - start
            items = running.reference_frame if self.reference else running.frame
            spans: list[int] = []
            for item in items:
                if isinstance(item, kernels.Program):
                    spans.extend(int(span) for span in item.time(1, self.threads)[0])
                else:
                    start = clock()
                    item()
                    spans.append(clock() - start)
            start = clock()
            running.outputs()
            returned = clock() - start
        entries = running.assembler.reference_frame if self.reference else running.assembler.frame
        timings = [Timing(e.operation, e.part, span) for e, span in zip(entries, spans, strict=True)]
        return [Timing("input", "input", taken), *timings, Timing("output", "output", returned)]

    @property
    def graph(self) -> Graph | None:
        """The network's operations, for another network with the same; known from the first frame on."""
        return self._graph

    @property
    def entries(self) -> list[Entry]:
        """What runs on a gated frame, in order; known from the first frame on."""
        return self._started().assembler.frame

    @torch.inference_mode()
    def planned(self, masks: Mapping[Key, NDArray[np.bool_]]) -> list[Entry]:
        """Return what a frame with these masks, new everywhere, would run; its lists of positions are made, no more."""
        self._started().expect(masks)
        lists = [e.item for e in self.entries if e.part == "index" and isinstance(e.item, kernels.Step)]
        kernels.Program(lists).run()
        return self.entries

    def forget(self) -> None:
        """Make the next frame the first of a new clip; the memory stays for it."""
        self.frame = -1

    @property
    def reference(self) -> bool:
        """Whether the last frame was computed densely."""
        return self.frame == 0 or (self._reset_every is not None and self.frame % self._reset_every == 0)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Geometry of all convolutions in the order in which they run; known from the first frame on."""
        return tuple(running_layer.layer for running_layer in self._layers())

    @property
    def dense_layers(self) -> tuple[str, ...]:
        """Labels of the layers that run whole, on torch's kernels; known from the first frame on."""
        return tuple(each.layer.label for each in self._layers() if each.dense)

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Names of the operations that torch computes on whole maps; known from the first frame on."""
        entries = self._started().assembler.frame
        return tuple(dict.fromkeys(entry.operation for entry in entries if entry.part == "torch"))

    def masks(self) -> dict[Key, NDArray[np.bool_]]:
        """Return what every convolution computed on the last frame: bool [grid rows, grid cols] by (name, call)."""
        return {
            each.layer.key: np.ones_like(each.change.mask, np.bool_)
            if self.reference or each.dense
            else each.change.mask.astype(np.bool_)
            for each in self._layers()
        }

    def macs(self) -> int:
        """Return the multiply-accumulates that the last frame executed, gates not included."""
        total = 0
        for each in self._layers():
            layer = each.layer
            full = self.reference or each.dense
            pixels = layer.out_pixels if full else int(each.change.active.count[0])
            total += pixels * layer.macs_per_pixel
        return total

    def _started(self) -> Running:
        if self._running is None:
            raise InputError("sparse network: layers and masks are known from the first frame on; call it with one")
        return self._running

    def _layers(self) -> list[RunningLayer]:
        return self._started().assembler.layers

    def _begin(self, x: Tensor) -> Running:
        if not isinstance(x, Tensor):
            raise InputError(
                "sparse network: a frame must be a float32 tensor [1, channels, rows, cols], got a "
                f"{type(x).__name__}; torch.from_numpy makes one of an array"
            )
        if x.dim() != 4 or x.shape[0] != 1 or x.dtype != torch.float32 or x.device.type != "cpu":
            raise InputError(
                "sparse network: a frame must be a float32 tensor [1, channels, rows, cols] on the CPU, got "
                f"{x.dtype} {list(x.shape)} on {x.device}"
            )
        if self._running is None:
            with _announced(f"sparse network: reading the graph and making kernels for {tuple(x.shape[2:])} frames"):
                self._running = self._start(x)
        self._running.take(x)
        self.frame += 1
        if self._replay is not None and not self.reference:
            self._running.impose(self._replay(self.frame))
        return self._running

    def _start(self, x: Tensor) -> Running:
        """Read gates and graph at a frame's size, and assemble what runs them."""
        self._gates = self._read_gates(x)
        self._graph = self._graph or read_graph(dense_copy(self.network), x)
        if self._processor is not None:
            self._dense = self._predicted_dense(self._processor)
        return Running(
            Assembler(self._graph, self._decide, replayed=self._replay is not None, placement=self._placement)
        )

    def _read_gates(self, x: Tensor) -> dict[Key, LayerGate]:
        """Run one frame densely, after which every call of every layer knows its gate."""
        self.network(x)
        gates = {gate.layer.key: gate for gate in layer_gates(self.network)}
        reset(self.network)
        return gates

    def _predicted_dense(self, processor: Processor) -> DenseLayers:
        """Return which layers are predicted to be faster dense, of those that share their gate with no other."""
        own = [known.layer for key, known in self._gates.items() if self._gated[key[0]].share == "layer"]
        gated = {layer.label: layer for layer in own if layer.gate != "none"}
        names = {label: (LayerShape.of(layer), (layer.block_rows, layer.block_cols)) for label, layer in gated.items()}
        layers = [known.layer for known in self._gates.values()]
        anchor = anchor_of(processor.anchors, layers)
        if anchor is not None and (difference := anchor.difference(layers, self.threads)):
            _warn(difference)
        chosen = faster_dense(names, processor, self._density, anchor)
        return lambda layer: layer.label in chosen

    def _decide(self, operation: Convolution) -> Decision:
        module, known = self._gated.get(operation.layer.name), self._gates.get(operation.layer.key)
        if self._runs_dense(operation.layer):
            return Dense()
        if module is None or known is None or not operation.gateable or known.layer.gate == "none":
            return Follow()
        block = (known.layer.block_rows, known.layer.block_cols)
        if known.leader is not None:
            return Shared(known.leader, block, module.share == "network")
        if known.gate is None:
            layer = blocked(operation, block)
            return GivenMask(lambda: self._ask(module, layer), block)
        if module.signal == "residual" and isinstance(known.gate, InputNormGate):
            return NormGate(one_threshold(known.gate), block)
        if module.signal == "residual" and isinstance(known.gate, OutputNormGate):
            norm = weight_norm(module)
            return NormGate(one_threshold(known.gate) / norm if norm else np.inf, block)
        return CustomGate(known.gate, module, block, module.signal)

    def _runs_dense(self, layer: Layer) -> bool:
        return self._dense(layer) if callable(self._dense) else layer.name in self._dense

    def _ask(self, module: SkipConv2d, layer: Layer) -> Any:
        module.frame, module.call, module.last_layer = self.frame, layer.call, layer
        return None if module._mask is None else module._mask(module)


def _warn(text: str) -> None:
    warnings.warn(f"convert: {text}", stacklevel=4)
