"""Trace: what a gated network really computed, one bit per block, layer and frame; in memory or on disk."""

from __future__ import annotations

import hashlib
import json
import math
import operator
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError, nearest
from skipsim.traces import trace_files
from skipsim.traces.layer import Layer
from skipsim.traces.trace_files import MANIFEST, Bytes, Manifest, Mask, Segment


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """A read-only recording: layers, their masks over the frames, where they came from and how good the output was.

    `update` is the form the network ran with, `reference_frames` the frames computed densely with no gate evaluated.
    `complete` is False when the recording was cut off: all frames present are whole, but `quality` was never measured.
    `segments` are the packed masks, uint8 [frames, bytes_per_frame] each: memory maps if the trace lies on disk.
    """

    layers: tuple[Layer, ...]
    update: str
    reference_frames: tuple[int, ...]
    segments: tuple[Bytes, ...]
    origin: dict[str, Any]
    quality: dict[str, Any]
    path: Path | None = None
    complete: bool = True

    def __post_init__(self) -> None:
        trace_files.check_layers(self.layers, self.update)
        where = self.path or "trace"
        if self.frames < 1:
            raise InputError(f"{where}: holds no complete frame")
        for frame in self.reference_frames:
            if type(frame) is not int or not 0 <= frame < self.frames:
                raise InputError(f"{where}: reference frames must be in 0..{self.frames - 1}, got {frame!r}")
        if list(self.reference_frames) != sorted(set(self.reference_frames)):
            raise InputError(f"{where}: reference frames must ascend, got {self.reference_frames}")

    @classmethod
    def from_masks(
        cls,
        layers: Sequence[Layer],
        masks: Sequence[Mask],
        *,
        update: str = "recompute",
        reference_frames: Iterable[int] = (),
        origin: dict[str, Any] | None = None,
        quality: dict[str, Any] | None = None,
    ) -> Trace:
        """Make a trace in memory from one bool array [frames, grid_rows, grid_cols] per layer."""
        trace_files.check_layers(layers, update)
        if len(masks) != len(layers):
            raise InputError(f"masks: one array per layer is needed, {len(layers)}, got {len(masks)}")
        offsets = trace_files.byte_offsets(layers)
        rows = np.zeros((len(masks[0]), offsets[-1]), np.uint8)
        for layer, mask, start, stop in zip(layers, masks, offsets, offsets[1:], strict=False):
            trace_files.check_mask(layer, mask, (len(rows), layer.grid_rows, layer.grid_cols))
            rows[:, start:stop] = np.packbits(mask.reshape(len(rows), layer.grid_rows * layer.grid_cols), axis=1)
        rows.flags.writeable = False
        reference = tuple(sorted({operator.index(frame) for frame in reference_frames}))
        trace = cls(
            tuple(layers), update, reference, (rows,), trace_files.plain(origin or {}), trace_files.plain(quality or {})
        )
        for frame in reference:
            trace_files.check_reference(trace.layers, rows[frame], frame)
        return trace

    @cached_property
    def frames(self) -> int:
        """Number of frames."""
        return sum(map(len, self.segments))

    @cached_property
    def mask_bits(self) -> tuple[int, ...]:
        """Offset of every layer's mask inside `frame_bits`, in bits."""
        return tuple(8 * start for start in trace_files.byte_offsets(self.layers)[:-1])

    @cached_property
    def hash(self) -> str:
        """Sha256 of the content: layers, update, reference frames and masks; the same wherever and however it lies."""
        head = {
            "layers": [layer.to_dict() for layer in self.layers],
            "update": self.update,
            "frames": self.frames,
            "reference": self.reference_frames,
        }
        digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
        for segment in self.segments:
            digest.update(segment.data)
        return digest.hexdigest()

    def reference(self, frame: int) -> bool:
        """Tell whether a frame was computed densely, with no gate evaluated."""
        self._check_frame(frame)
        return frame in self._references

    def packed(self, frame: int) -> Bytes:
        """Return the masks of one frame as stored: uint8 [bytes per frame]."""
        self._check_frame(frame)
        segment = bisect_right(self._starts, frame) - 1
        row: Bytes = self.segments[segment][frame - self._starts[segment]]
        return row

    def frame_bits(self, frame: int) -> Bytes:
        """Return the masks of one frame as uint8 zeros and ones; layer i's grid starts at `mask_bits[i]`."""
        return np.unpackbits(self.packed(frame))

    def mask(self, layer: int | str | tuple[str, int], frame: int) -> Mask:
        """Return one layer's decisions on one frame: bool [grid_rows, grid_cols], True = computed."""
        index = self.index(layer)
        shape = self.layers[index].grid_rows, self.layers[index].grid_cols
        start = self.mask_bits[index] // 8
        return np.unpackbits(self.packed(frame)[start:], count=math.prod(shape)).reshape(shape).view(np.bool_)

    def masks(self, layer: int | str | tuple[str, int]) -> Mask:
        """Return one layer's decisions on all frames: bool [frames, grid_rows, grid_cols]."""
        index = self.index(layer)
        rows, cols = self.layers[index].grid_rows, self.layers[index].grid_cols
        start = self.mask_bits[index] // 8
        packed = np.concatenate([segment[:, start : start - (-rows * cols // 8)] for segment in self.segments])
        return np.unpackbits(packed, axis=1, count=rows * cols).reshape(-1, rows, cols).view(np.bool_)

    def index(self, layer: int | str | tuple[str, int]) -> int:
        """Return the position of a layer given by position, by name, or by (name, call index) if it runs repeatedly."""
        if isinstance(layer, int):
            if 0 <= layer < len(self.layers):
                return layer
            raise InputError(f"trace: layer index must be in 0..{len(self.layers) - 1}, got {layer}")
        found = [i for i, other in enumerate(self.layers) if layer in (other.name, other.key)]
        if not found:
            name = layer if isinstance(layer, str) else layer[0]
            raise InputError(f"trace: no layer {layer!r}; {nearest(name, {other.name for other in self.layers})}")
        if len(found) > 1:
            raise InputError(f"trace: layer {layer!r} runs {len(found)} times a frame; give (name, call index)")
        return found[0]

    @cached_property
    def computed_pixels(self) -> NDArray[np.int64]:
        """Output pixels computed, int64 [frames, layers]; a clipped edge block counts its real pixels."""
        block_pixels = np.zeros(8 * trace_files.byte_offsets(self.layers)[-1], np.int32)
        for layer, start in zip(self.layers, self.mask_bits, strict=True):
            heights = np.diff(np.append(np.arange(layer.grid_rows) * layer.block_rows, layer.out_rows))
            widths = np.diff(np.append(np.arange(layer.grid_cols) * layer.block_cols, layer.out_cols))
            block_pixels[start : start + heights.size * widths.size] = np.outer(heights, widths).ravel()
        sums = [
            np.add.reduceat(block_pixels * self.frame_bits(frame), self.mask_bits, dtype=np.int64)
            for frame in range(self.frames)
        ]
        return np.stack(sums)

    def density(self, layer: int | str | tuple[str, int] | None = None, frame: int | None = None) -> float:
        """Return the computed share of output pixels of one layer or all, on one frame or all (reference ones too)."""
        layers = range(len(self.layers)) if layer is None else [self.index(layer)]
        if frame is not None:
            self._check_frame(frame)
        frames = range(self.frames) if frame is None else [frame]
        computed = int(self.computed_pixels[np.ix_(frames, layers)].sum())
        return computed / (len(frames) * sum(self.layers[i].out_pixels for i in layers))

    @cached_property
    def dense_macs(self) -> int:
        """Multiply-accumulates of the whole clip if nothing is skipped and no gate evaluated."""
        return self.frames * sum(layer.macs for layer in self.layers)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates executed over the whole clip, with those of the gates on all but reference frames."""
        pixels = self.computed_pixels[[frame for frame in range(self.frames) if not self.reference(frame)]]
        gated = zip(self.layers, pixels.sum(axis=0).tolist(), strict=True)
        executed = sum(layer.kept.macs_per_pixel * count + len(pixels) * layer.gate_macs for layer, count in gated)
        return int(executed) + (self.frames - len(pixels)) * sum(layer.macs for layer in self.layers)

    @property
    def mac_reduction(self) -> float:
        """Dense over executed multiply-accumulates; infinite if nothing at all was executed."""
        return self.dense_macs / self.macs if self.macs else math.inf

    @property
    def gated_mac_reduction(self) -> float:
        """The same over the frames that are not reference frames; 1 where all are."""
        references = len(self.reference_frames)
        dense = sum(layer.macs for layer in self.layers)
        gated = self.macs - references * dense
        if self.frames == references:
            return 1.0
        return (self.frames - references) * dense / gated if gated else math.inf

    def save(self, path: str | Path) -> Trace:
        """Write the trace to a directory and return it as read from there; another trace in that place is replaced."""
        with TraceWriter(path, self.layers, update=self.update, origin=self.origin) as writer:
            for frame in range(self.frames):
                writer.append_packed(self.packed(frame), reference=self.reference(frame))
            return writer.finish(self.quality, complete=self.complete)

    def __repr__(self) -> str:
        place = f" at {self.path}" if self.path else ""
        return f"<Trace of {self.frames} frames x {len(self.layers)} layers, {self.update}{place}>"

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(map(len, self.segments))][:-1]

    @cached_property
    def _references(self) -> frozenset[int]:
        return frozenset(self.reference_frames)

    def _check_frame(self, frame: int) -> None:
        if not 0 <= frame < self.frames:
            raise InputError(f"trace: frame must be in 0..{self.frames - 1}, got {frame}")


class TraceWriter:
    """Record a trace frame by frame; use it as a context manager.

    A frame is acknowledged when its segment's file has got its name and the manifest that lists it has replaced the one
    before (`acknowledged_frames` of them so far). Whatever kills the program afterwards, the directory is a valid trace
    of exactly the acknowledged frames. Where a trace lies already, that one stays whole and valid until `finish`
    replaces it at one stroke; nothing of the new one counts before.

    Leaving the block finishes the trace. Leaving it by an error keeps the frames appended so far as an incomplete
    trace, except that an InputError leaves nothing behind.
    """

    def __init__(
        self,
        path: str | Path,
        layers: Sequence[Layer],
        *,
        update: str,
        origin: dict[str, Any],
        segment_frames: int = 32,
    ) -> None:
        """Check that a trace may be written to `path`; nothing is written before the first segment is full."""
        trace_files.check_layers(layers, update)
        if segment_frames < 1:
            raise InputError(f"trace: segment_frames must be a whole number >= 1, got {segment_frames}")
        self.path = Path(path)
        self.acknowledged_frames = 0
        self._layers = tuple(layers)
        self._update = update
        self._origin = trace_files.plain(origin)
        self._next_number = trace_files.claim(self.path)
        self._replaces = (self.path / MANIFEST).exists()
        self._made: list[Path] = []
        self._segments: list[Segment] = []
        self._finished = False
        self._packer = trace_files.Packer(layers)
        self._pending = np.zeros((segment_frames, self._packer.bytes_per_frame), np.uint8)
        self._pending_frames = 0
        self._pending_reference: list[int] = []

    @property
    def frames(self) -> int:
        """Number of frames appended so far, acknowledged or not."""
        return sum(segment.frames for segment in self._segments) + self._pending_frames

    def append(self, masks: Sequence[Mask], *, reference: bool) -> None:
        """Append one frame: a bool array [grid_rows, grid_cols] per layer, all True on a reference frame."""
        self.append_packed(self._packer.pack(masks), reference=reference)

    def append_packed(self, row: Bytes, *, reference: bool) -> None:
        """Append one frame whose masks are packed already, as `Trace.packed` returns them."""
        if self._finished:
            raise ValueError(f"{self.path}: the trace is finished; no frame can be appended")
        if reference:
            trace_files.check_reference(self._layers, row, self.frames)
            self._pending_reference.append(self.frames)
        self._pending[self._pending_frames] = row
        self._pending_frames += 1
        if self._pending_frames == len(self._pending):
            self._flush()

    def finish(self, quality: dict[str, Any], *, complete: bool = True, origin: dict[str, Any] | None = None) -> Trace:
        """Write what is pending, make the trace valid as a whole, and return it as read from the disk.

        `origin` adds to the origin what is known only at the end, such as a hash over all frames.
        """
        quality = dict(json.loads(trace_files.json_text(quality)))
        self._origin |= trace_files.plain(origin or {})
        if not self.frames:
            raise InputError(f"{self.path}: no frame was recorded")
        if self._pending_frames:
            self._flush()
        segments = tuple(self._segments)
        trace_files.write_manifest(
            self.path, Manifest(self._layers, self._update, self._origin, quality, segments, complete)
        )
        self._finished = True
        self.acknowledged_frames = self.frames
        trace_files.remove_leftovers(self.path, keep=segments)
        return load_trace(self.path)

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._finished:
            return
        if error is None:
            self.finish({})
        elif self._replaces or isinstance(error, InputError):
            self._discard()
        elif self._pending_frames:
            with suppress(OSError):  # such as a full disk, which `error` says already
                self._flush()
            if not self.acknowledged_frames:
                self._discard()

    def _flush(self) -> None:
        if not self._segments:
            self._made = self._made or [one for one in (self.path, *self.path.parents) if not one.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
        rows = self._pending[: self._pending_frames]
        segment = trace_files.write_segment(self.path, self._next_number, rows, tuple(self._pending_reference))
        self._segments.append(segment)
        self._next_number += 1
        self._pending_frames = 0
        self._pending_reference = []
        if not self._replaces:
            segments = tuple(self._segments)
            trace_files.write_manifest(
                self.path, Manifest(self._layers, self._update, self._origin, {}, segments, complete=False)
            )
            self.acknowledged_frames = self.frames

    def _discard(self) -> None:
        if self._segments and not self._replaces:
            (self.path / MANIFEST).unlink(missing_ok=True)
        for segment in self._segments:
            (self.path / segment.file).unlink(missing_ok=True)
        for place in self._made:
            with suppress(OSError):
                place.rmdir()
        self._finished = True


def load_trace(path: str | Path) -> Trace:
    """Open a trace directory, or a SCALE-Sim topology (.csv) or ONNX file as one dense frame.

    Manifest, segment sizes and headers are checked; the content of the segments is mapped, not read (see `check`).
    Anything wrong is an InputError that names the file and the rule.
    """
    path = Path(path)
    if path.suffix.lower() in (".csv", ".onnx") and not path.is_dir():
        from skipsim.traces.topology import topology_trace

        return topology_trace(path)
    if not path.is_dir():
        rule = "a trace is a directory, a topology ends in .csv or .onnx" if path.exists() else "no such file"
        raise InputError(f"{path}: {rule}")
    manifest = trace_files.read_manifest(path)
    bytes_per_frame = trace_files.byte_offsets(manifest.layers)[-1]
    return Trace(
        manifest.layers,
        manifest.update,
        tuple(frame for segment in manifest.segments for frame in segment.reference),
        tuple(trace_files.open_segment(path, segment, bytes_per_frame) for segment in manifest.segments),
        manifest.origin,
        manifest.quality,
        path,
        manifest.complete,
    )
