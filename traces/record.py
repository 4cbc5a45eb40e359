"""record(model, frames, gate) -> Trace: run a network over a clip and keep what every convolution computed."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from skipsim import __version__
from skipsim.errors import InputError
from skipsim.traces import trace_files
from skipsim.traces.agreement import Agreement
from skipsim.traces.batch_norm import Folded
from skipsim.traces.convert import convert, dense_copy, is_converted, left_dense, reset
from skipsim.traces.frame_reader import FrameReader, device_and_dtype, hash_values
from skipsim.traces.gates import BlockShape, Gate, block_shape
from skipsim.traces.layer import Layer
from skipsim.traces.models import network as make_network
from skipsim.traces.run_frame import run_frame
from skipsim.traces.skipconv import SkipConv2d
from skipsim.traces.trace import Trace, TraceWriter
from skipsim.traces.training.evaluation import evaluating, flushing_denormals
from skipsim.traces.watch import Masks, OwnMask, Watch

PROGRESS_AFTER_SECONDS = 1.0


def layers_of(
    model: nn.Module,
    example: Tensor | tuple[int, ...],
    *,
    block: BlockShape = 1,
    gate: str = "none",
) -> tuple[Layer, ...]:
    """Return the geometry of every convolution call of one frame, in call order.

    Runs the model once, in evaluation mode. Made under `torch.device("meta")`, it computes and holds nothing.

    Args:
        model: any module; the layers of a converted one have the gates and blocks that it was converted with.
        example: an input, or its shape, e.g. (1, 3, 256, 192).
        block: gate granularity to note: output pixels, one number or a pair (rows, cols).
        gate: gate kind to note.
    """
    if not isinstance(example, Tensor):
        device, dtype = device_and_dtype(model)
        example = torch.zeros(example, device=device, dtype=dtype)
    reset(model)
    try:
        with torch.inference_mode(), evaluating(model), Watch(model, block=block_shape(block), kind=gate) as watch:
            watch.begin_frame()
            model(example)
            watch.end_frame()
            return watch.layers()
    finally:
        reset(model)


def network_layers(name: str, rows: int, cols: int) -> tuple[Layer, ...]:
    """Return the layers of a registered network on images of that size; sizes only, nothing is held or computed."""
    with torch.device("meta"):
        model = make_network(name, weights=None)
    return layers_of(model, (1, 3, rows, cols))


def record(
    model: nn.Module,
    frames: Iterable[Any] | str | Path,
    gate: Gate | None = None,
    *,
    mask: OwnMask | None = None,
    block: BlockShape | None = None,
    update: str = "recompute",
    reset_every: int | None = None,
    cuts: Collection[int] = (),
    out: str | Path | None = None,
    preprocess: Callable[[Any], Tensor] | None = None,
    quality: Callable[[list[Any]], dict[str, Any]] | None = None,
    agreement: bool = False,
    network: str | None = None,
    progress: bool = True,
) -> Trace:
    """Run a network over a clip, frame by frame, and return the masks of all its convolutions as a trace.

    Four kinds of model:

    - any nn.Module and a `gate`: a copy is converted (see `convert`) and recorded;
    - a model that `convert` returned, with a gate or with masks of your own: recorded as it is;
    - a model that skips by itself, and `mask`: it runs as it is, and `mask=lambda module: module.last_mask` reads the
      masks from your modules after they have run (see `Watch`). Nothing is skipped for you here: to have the masks
      of your function applied to an ordinary network, record `convert(model, mask=...)`;
    - any nn.Module alone: recorded as computed, densely.

    Args:
        model: the network. It runs in evaluation mode, without gradients.
        frames: the clip: uint8 arrays [rows, cols, 3] or float tensors [3, rows, cols], from anything that can be
            iterated over, once; or what `read_frames` takes (a video file, a folder of images).
        gate: which changes are computed, e.g. InputNormGate(threshold=0.05, block=4).
        mask: for a model that skips by itself: reads the mask of a module that has just run.
        block: with `mask`: output pixels that share one decision, one number or a pair (rows, cols); default 1.
        update: with `gate` the update form to run with, with `mask` the one your model has.
        reset_every: with `gate`: compute every so many frames densely again.
        cuts: frames (from 0) at which a new clip starts: all state is dropped before them.
        out: directory of the trace, written while the recording runs; None keeps it in memory.
        preprocess: maps a frame to the network's input [3, rows, cols] or [1, 3, rows, cols]. Default: the model's own
            attribute `preprocess` if it has one, otherwise float / 255 for uint8 frames and nothing for tensors.
        quality: called once with the list of the network's outputs, one per frame, which are kept for it (on the CPU);
            returns what the trace's `quality` holds, e.g. {"pck@0.05": 0.93, "headline": "pck@0.05"}. If it has a
            method `keep`, what that makes of each output is kept instead, such as a detection network's few boxes.
        agreement: also run the dense network on every frame; adds "agreement" (as `quality.agreement` defines it), for
            a detection network "agreement_ap" (see `Agreement`), and, with `quality`, the dense network's numbers as
            "dense_<name>".
        network: the network's name in the trace's origin; default the name of its class.
        progress: whether to show a progress bar on work longer than a second.

    Raises:
        InputError: frames of changing size or wrong type, fewer than two of them for a gate, arguments that do not fit
            together, activations that are not finite, a model that fails on a frame. Nothing is left in `out` then.
    """
    running, dense = _prepare_models(model, gate, mask, block, update, reset_every, cuts, agreement)
    reader = FrameReader(model, preprocess)
    comparison = Agreement(model)
    outputs: list[Any] = []
    dense_outputs: list[Any] = []
    keep = getattr(quality, "keep", _on_cpu)
    name = network or type(model).__name__
    origin = _origin(running, mask, block, update, name) | {"clip_starts": sorted({0, *cuts})}
    gated = mask is not None or is_converted(running)
    reset(running)
    with ExitStack() as stack:
        stack.callback(reset, running)
        stack.enter_context(evaluating(running))
        if dense is not None:
            stack.enter_context(evaluating(dense))
        stack.enter_context(torch.inference_mode())
        stack.enter_context(flushing_denormals())
        watch = stack.enter_context(Watch(running, mask, block_shape(1 if block is None else block)))
        writer: TraceWriter | _Memory | None = None

        def write() -> TraceWriter | _Memory:
            nonlocal writer
            if writer is None:
                writer = _writer(out, watch.layers(), _update_of(running, update), origin)
                stack.enter_context(writer)
            for masks, reference in watch.take():
                writer.append(masks, reference=reference)
            return writer

        count = 0
        for x in _with_progress(map(reader.read, _open(frames)), _length(frames), progress):
            if count in cuts:
                reset(running)
            watch.begin_frame()
            output = run_frame(running, x, count, name)
            watch.end_frame()
            if quality is not None:
                outputs.append(keep(output))
            if dense is not None:
                dense_output = output if dense is running else dense(x)
                comparison.add(output, dense_output, *x.shape[-2:])
                if quality is not None:
                    dense_outputs.append(keep(dense_output))
            count += 1
            if count > 1:  # a model that skips by itself may show only on the second frame which layers have a gate
                write()
        if count == 0 or (count == 1 and gated):
            needed = "two (the first is computed densely)" if gated else "one"
            raise InputError(f"frames: a recording needs at least {needed}, got {count}")
        if gated and {*range(1, count)} <= {*cuts}:
            raise InputError(f"frames: a recording needs a clip of two frames at least, got {count} clips of one")
        if max(cuts, default=0) >= count:
            raise InputError(f"record: cuts must be frames of the clip, 0..{count - 1}, got {max(cuts)}")
        reached = _reached(quality, outputs, dense_outputs) | (comparison.result() if dense is not None else {})
        return write().finish(reached, origin=reader.origin())


class _Memory:
    """A TraceWriter that writes nowhere. Frames are packed at once: small arrays between large ones hold memory up."""

    def __init__(self, layers: tuple[Layer, ...], update: str, origin: dict[str, Any]) -> None:
        trace_files.check_layers(layers, update)
        self._layers = layers
        self._update = update
        self._origin = origin
        self._packer = trace_files.Packer(layers)
        self._rows: list[trace_files.Bytes] = []
        self._references: list[int] = []

    def __enter__(self) -> _Memory:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def append(self, masks: Masks, *, reference: bool) -> None:
        row = self._packer.pack(masks)
        if reference:
            trace_files.check_reference(self._layers, row, len(self._rows))
            self._references.append(len(self._rows))
        self._rows.append(row)

    def finish(self, quality: dict[str, Any], *, origin: dict[str, Any]) -> Trace:
        rows = np.stack(self._rows)
        rows.flags.writeable = False
        about = trace_files.plain(self._origin | origin)
        return Trace(self._layers, self._update, tuple(self._references), (rows,), about, trace_files.plain(quality))


def _prepare_models(
    model: nn.Module,
    gate: Gate | None,
    mask: OwnMask | None,
    block: BlockShape | None,
    update: str,
    reset_every: int | None,
    cuts: Collection[int],
    agreement: bool,
) -> tuple[nn.Module, nn.Module | None]:
    """Return the model that will be recorded, and the dense one to compare it with."""
    if mask is not None and gate is not None:
        raise InputError("record: give either a gate or a mask function, got both")
    if mask is None and block is not None:
        raise InputError("record: block is an argument only together with mask; a gate has its own")
    if getattr(model, "keeps_frames", False):
        raise InputError('record: the model runs sparsely and gives its masks itself; record it with execute="dense"')
    if is_converted(model):
        if gate is not None or mask is not None or reset_every is not None:
            raise InputError("record: the model is converted already; gate, mask and reset_every belong to convert")
        return model, dense_copy(model) if agreement else None
    if gate is not None:
        return convert(model, gate, update=update, reset_every=reset_every), model if agreement else None
    if reset_every is not None:
        raise InputError("record: reset_every is an argument only together with gate")
    if mask is not None and agreement:
        raise InputError("record: agreement needs the dense network, which a model that skips by itself does not show")
    if mask is not None and cuts:
        raise InputError("record: cuts drop the state of a converted model; one that skips by itself keeps its own")
    return model, model if agreement else None


def _update_of(model: nn.Module, update: str) -> str:
    forms = {module.update for module in model.modules() if isinstance(module, SkipConv2d)}
    if len(forms) > 1:
        raise InputError(f"record: all layers must have one update form, got {', '.join(sorted(forms))}")
    return forms.pop() if forms else update


def _origin(
    model: nn.Module, mask: OwnMask | None, block: BlockShape | None, update: str, network: str
) -> dict[str, Any]:
    first = next((module for module in model.modules() if isinstance(module, SkipConv2d)), None)
    gate: dict[str, Any] = {"gate": "none", "parameters": {}, "reset_every": None}
    if first is not None and first.gate is not None:
        gate = {
            "gate": first.gate.kind,
            "parameters": first.gate.parameters(),
            "reset_every": first.reset_every,
            "share": first.share,
            "signal": first.signal,
            "fold_batch_norm": any(isinstance(module, Folded) for module in model.modules()),
        }
    elif first is not None:
        gate = {"gate": "mask", "parameters": {"block": list(first.block)}, "reset_every": first.reset_every}
    elif mask is not None:
        gate = {"gate": "mask", "parameters": {"block": list(block_shape(1 if block is None else block))}}
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        hash_values(digest, tensor)
    return {
        "kind": "recorded",
        "network": network,
        **gate,
        "update": _update_of(model, update),
        "left_dense": left_dense(model) if first is not None else {},
        "weights_sha256": digest.hexdigest(),
        "versions": {
            "skipsim": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _writer(
    out: str | Path | None, layers: tuple[Layer, ...], update: str, origin: dict[str, Any]
) -> TraceWriter | _Memory:
    return _Memory(layers, update, origin) if out is None else TraceWriter(out, layers, update=update, origin=origin)


def _reached(
    quality: Callable[[list[Any]], dict[str, Any]] | None, outputs: list[Any], dense_outputs: list[Any]
) -> dict[str, Any]:
    if quality is None:
        return {}
    reached = dict(quality(outputs))
    if dense_outputs:
        reached |= {f"dense_{name}": value for name, value in quality(dense_outputs).items() if name != "headline"}
    return reached


def _open(frames: Iterable[Any] | str | Path) -> Iterable[Any]:
    if isinstance(frames, str | Path):
        from skipsim.traces.video import read_frames

        return read_frames(frames)
    if not isinstance(frames, Iterable):
        raise InputError(f"frames: must be something to iterate over, or a path, got {type(frames).__name__}")
    return frames


def _length(frames: Any) -> int | None:
    return len(frames) if hasattr(frames, "__len__") and not isinstance(frames, str) else None


def _with_progress(frames: Iterable[Tensor], total: int | None, wanted: bool) -> Iterator[Tensor]:
    """Pass the frames on, with a progress bar on standard error as soon as a second has gone by."""
    columns = (TextColumn("recording"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"), TimeRemainingColumn())
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("", total=total)
    start, shown = time.monotonic(), False
    try:
        for frame in frames:
            yield frame
            bar.advance(task)
            if wanted and not shown and time.monotonic() - start > PROGRESS_AFTER_SECONDS:
                bar.start()
                shown = True
    finally:
        if shown:
            bar.stop()


def _on_cpu(output: Any) -> Any:
    """Return an output with all its tensors on the CPU."""
    if isinstance(output, Tensor):
        return output.cpu()
    if isinstance(output, dict):
        return {key: _on_cpu(value) for key, value in output.items()}
    if isinstance(output, list | tuple) and not hasattr(output, "_fields"):
        return type(output)(_on_cpu(value) for value in output)
    return output
