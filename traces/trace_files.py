"""The files of a trace on disk: one manifest and its segments, each either whole or absent.

`manifest.json` lists layers, origin, quality and segments and ends with a checksum of itself. A segment is a
safetensors file with one tensor `masks`, uint8 [frames, bytes per frame]: the masks of a frame bit-packed
(`np.packbits`, first block in the highest bit) layer after layer, every layer starting on a byte. The segments of a
new recording never take the name of an old one's, so that the manifest alone decides which recording counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from skipsim.atomic import replacing, write_text
from skipsim.errors import InputError, nearest
from skipsim.traces.layer import Layer

FORMAT = "skipsim-trace"
VERSION = 1
MANIFEST = "manifest.json"
UPDATES = ("previous", "accumulate", "recompute")
SEGMENT_NAME = re.compile(r"segment-(\d{5,})\.safetensors")
LEFTOVER_NAME = re.compile(r"segment-\d{5,}\.safetensors|\.(segment-\d{5,}|manifest)\.\w+\.\d+\.tmp\.\w+")

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Segment:
    """One segment file: how many frames it holds, which of them (counted over the clip) are reference frames."""

    file: str
    frames: int
    sha256: str
    reference: tuple[int, ...]


@dataclass(frozen=True)
class Manifest:
    """Everything of a trace but its masks; `complete` is False until the recording was finished."""

    layers: tuple[Layer, ...]
    update: str
    origin: dict[str, Any]
    quality: dict[str, Any]
    segments: tuple[Segment, ...]
    complete: bool


def check_layers(layers: Sequence[Layer], update: str) -> None:
    """Check what a trace is about: at least one layer, every (name, call index) once, a known update form."""
    if not layers:
        raise InputError("layers: a trace needs at least one")
    seen = set()
    for layer in layers:
        if not isinstance(layer.name, str):
            raise InputError(f"layer {layer.name!r}: name must be text")
        if layer.key in seen:
            raise InputError(f"layer {layer.name!r}: call {layer.call} occurs twice; (name, call) must be unique")
        seen.add(layer.key)
    if update not in UPDATES:
        raise InputError(f"update: {update!r} is unknown; {nearest(str(update), UPDATES)}")


def byte_offsets(layers: Sequence[Layer]) -> list[int]:
    """Return where each layer's mask starts in a packed frame, in bytes, and at the end the bytes of a frame."""
    return [0, *accumulate(-(-layer.grid_rows * layer.grid_cols // 8) for layer in layers)]


def check_mask(layer: Layer, mask: Mask, shape: tuple[int, ...]) -> None:
    """Check the mask (or the masks over the frames) of one layer."""
    if mask.shape != shape or mask.dtype != np.bool_:
        raise InputError(
            f"mask of layer {layer.name!r}: must be bool of shape {shape}, got {mask.dtype} of shape {mask.shape}"
        )


class Packer:
    """Pack the masks of one frame after the other, as a trace keeps them."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        offsets = byte_offsets(layers)
        self.bytes_per_frame = offsets[-1]
        self._layers = tuple(layers)
        self._shapes = [(layer.grid_rows, layer.grid_cols) for layer in layers]
        self._starts = [8 * offset for offset in offsets[:-1]]
        self._bits = np.zeros(8 * offsets[-1], np.bool_)

    def pack(self, masks: Sequence[Mask]) -> Bytes:
        """Return a frame's masks, a bool array [grid_rows, grid_cols] per layer, as one row of bytes."""
        if len(masks) != len(self._layers):
            raise InputError(f"masks: one array per layer is needed, {len(self._layers)}, got {len(masks)}")
        for layer, mask, shape, start in zip(self._layers, masks, self._shapes, self._starts, strict=True):
            check_mask(layer, mask, shape)
            self._bits[start : start + mask.size] = mask.ravel()
        return np.packbits(self._bits)


def check_reference(layers: Sequence[Layer], row: Bytes, frame: int, where: str = "") -> None:
    """Check that the packed masks of a reference frame compute everything."""
    for layer, start in zip(layers, byte_offsets(layers), strict=False):
        if not np.unpackbits(row[start:], count=layer.grid_rows * layer.grid_cols).all():
            raise InputError(
                f"{where}frame {frame}: a reference frame computes all blocks, layer {layer.name!r} skips some"
            )


def json_text(data: Any) -> str:
    """Return `data` as one line of JSON, numpy numbers and arrays included; NaN is a ValueError."""
    return json.dumps(data, allow_nan=False, default=_from_numpy)


def _from_numpy(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r}")


def plain(data: dict[str, Any]) -> dict[str, Any]:
    """Return origin or quality as it will be read back from a file; what JSON cannot hold is an InputError."""
    try:
        return dict(json.loads(json_text(data)))
    except (TypeError, ValueError) as error:
        raise InputError(f"origin and quality of a trace must be JSON data: {error}") from None


def render(fields: dict[str, Any]) -> str:
    """Return the text of a manifest: one line per field, layer and segment, then the checksum of all of it."""
    lines = []
    for name, value in fields.items():
        if name == "sha256":
            continue
        if isinstance(value, list) and value:
            lines.append(f"{json_text(name)}: [\n  " + ",\n  ".join(json_text(entry) for entry in value) + "\n ]")
        else:
            lines.append(f"{json_text(name)}: {json_text(value)}")
    body = ",\n ".join(lines)
    return f'{{\n {body},\n "sha256": "{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n'


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write or replace the manifest; from then on its segments count."""
    fields = {
        "format": FORMAT,
        "version": VERSION,
        "complete": manifest.complete,
        "update": manifest.update,
        "origin": manifest.origin,
        "quality": manifest.quality,
        "segments": [vars(segment) for segment in manifest.segments],
        "layers": [layer.to_dict() for layer in manifest.layers],
    }
    write_text(directory / MANIFEST, render(fields))


def read_manifest(directory: Path) -> Manifest:
    """Read and check the manifest of a trace directory; anything wrong is an InputError naming file and rule."""
    file = directory / MANIFEST
    fields = _read_fields(file)
    try:
        layers = tuple(Layer.from_dict(dict(entry)) for entry in fields["layers"])
        segments = tuple(Segment(**{**entry, "reference": tuple(entry["reference"])}) for entry in fields["segments"])
        manifest = Manifest(
            layers,
            fields["update"],
            dict(fields["origin"]),
            dict(fields["quality"]),
            segments,
            bool(fields["complete"]),
        )
        check_layers(layers, manifest.update)
        start = 0
        for segment in segments:
            if not SEGMENT_NAME.fullmatch(segment.file):
                raise InputError(f"segment file must be named like segment-00000.safetensors, got {segment.file!r}")
            if type(segment.frames) is not int or segment.frames < 1:
                raise InputError(f"{segment.file}: frames must be a whole number >= 1, got {segment.frames!r}")
            if not set(segment.reference) <= set(range(start, start + segment.frames)):
                raise InputError(f"{segment.file}: reference frames must be among its own, got {segment.reference}")
            start += segment.frames
    except KeyError as error:
        raise InputError(f"{file}: field {error} is missing") from None
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{file}: a field has the wrong type ({error})") from None
    return manifest


def _read_fields(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        fields = json.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{file.parent}: not a trace: no {MANIFEST} in it") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: truncated or damaged: not JSON ({error})") from None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        found = fields.get("format") if isinstance(fields, dict) else None
        raise InputError(f"{file}: not the manifest of a trace: format must be {FORMAT!r}, got {found!r}")
    if fields.get("version") != VERSION:
        raise InputError(f"{file}: format version must be {VERSION}, got {fields.get('version')!r}")
    try:
        intact = text == render(fields)
    except ValueError:  # NaN is no JSON, but Python reads it
        intact = False
    if not intact:
        raise InputError(f"{file}: edited or damaged: it does not match its own checksum")
    return fields


def write_segment(directory: Path, number: int, rows: Bytes, reference: tuple[int, ...]) -> Segment:
    """Write one segment, flushed to the disk before it gets its name; a name that is taken is an InputError."""
    file = directory / f"segment-{number:05d}.safetensors"
    if file.exists():
        raise InputError(f"{file}: exists: is another recording running into the same directory?")
    content = safetensors.numpy.save({"masks": rows})
    with replacing(file) as temporary:
        temporary.write_bytes(content)
    return Segment(file.name, len(rows), hashlib.sha256(content).hexdigest(), reference)


def open_segment(directory: Path, segment: Segment, bytes_per_frame: int) -> Bytes:
    """Map the packed masks of a segment, uint8 [frames, bytes_per_frame]; check size and header, not the content."""
    file = directory / segment.file
    try:
        with safe_open(file, framework="numpy") as tensors:
            views = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 (not a dict)
            found = {name: (view.get_dtype(), *view.get_shape()) for name, view in views.items()}
    except FileNotFoundError:
        raise InputError(f"{file}: missing: the manifest lists this segment") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{file}: truncated or damaged: not a safetensors file ({error})") from None
    wanted = {"masks": ("U8", segment.frames, bytes_per_frame)}
    if found != wanted:
        raise InputError(f"{file}: must hold (type, frames, bytes per frame) {wanted}, got {found}")
    # safetensors accepts no gap and no trailing byte, so the one tensor is the end of the file
    offset = file.stat().st_size - segment.frames * bytes_per_frame
    return np.memmap(file, np.uint8, "r", offset, (segment.frames, bytes_per_frame)).view(np.ndarray)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file as it lies on the disk now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def claim(directory: Path) -> int:
    """Check that a trace may be written here, and return the first free segment number; nothing is written.

    Allowed: a new path under a writable directory, an empty directory, a trace, or what a killed recording left of one.
    """
    if not directory.exists():
        parent = next(parent for parent in directory.absolute().parents if parent.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(f"{directory}: cannot be written: {parent} is not a writable directory")
        return 0
    if not directory.is_dir():
        raise InputError(f"{directory}: a file lies in this place; a trace is a directory")
    names = [entry.name for entry in directory.iterdir()]
    if MANIFEST in names:
        try:
            ours = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["format"] == FORMAT
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            ours = False
    else:
        ours = all(LEFTOVER_NAME.fullmatch(name) for name in names)
    if not ours:
        raise InputError(f"{directory}: holds something that is not a trace; choose another path or remove it")
    numbers = [int(match[1]) for name in names if (match := SEGMENT_NAME.fullmatch(name))]
    return max(numbers, default=-1) + 1


def remove_leftovers(directory: Path, keep: tuple[Segment, ...]) -> None:
    """Remove segments that the manifest does not list, and temporary files of recordings that were killed."""
    kept = {segment.file for segment in keep}
    for entry in list(directory.iterdir()):
        if LEFTOVER_NAME.fullmatch(entry.name) and entry.name not in kept:
            entry.unlink(missing_ok=True)
