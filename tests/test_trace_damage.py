"""Is damage found, and told in one line that names the file and the rule?"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from skipsim.errors import InputError
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace, load_trace
from skipsim.traces.trace_check import check

Fields = dict[str, Any]
SEGMENT = "segment-00000.safetensors"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a sound trace of 3 frames of one layer with 5 x 5 blocks: 4 bytes per frame."""
    layer = Layer("stem", 3, 10, 10, 8, 5, 5, 3, 3, 2, 2, 1, 1, gate="input_norm")
    masks = np.random.default_rng(0).random((3, 5, 5)) < 0.5
    masks[0] = True
    Trace.from_masks([layer], [masks], reference_frames=[0], origin={"seed": 1}).save(tmp_path / "a.trace")
    return tmp_path / "a.trace"


def message_of(function: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(InputError) as error:
        function(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_sound_trace_has_no_finding(path: Path) -> None:
    assert check(path) == []


def test_every_flipped_byte_of_the_masks_is_found(path: Path) -> None:
    content = (path / SEGMENT).read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0x01
        (path / SEGMENT).write_bytes(damaged)
        findings = check(path)
        assert len(findings) == 1
        assert findings[0].startswith(f"{path / SEGMENT}: ")
    (path / SEGMENT).write_bytes(content)
    assert check(path) == []


@pytest.mark.parametrize("flip", [0x01, 0x20, 0xFF])
def test_every_flipped_byte_of_the_manifest_is_found(path: Path, flip: int) -> None:
    content = (path / "manifest.json").read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= flip
        (path / "manifest.json").write_bytes(damaged)
        for function in (load_trace, check):
            assert message_of(function, path).startswith(f"{path / 'manifest.json'}: ")


def test_every_truncation_is_found(path: Path) -> None:
    for name in (SEGMENT, "manifest.json"):
        content = (path / name).read_bytes()
        for length in range(len(content)):
            (path / name).write_bytes(content[:length])
            assert re.match(
                re.escape(f"{path / name}: ") + "(truncated|edited) or damaged: ", message_of(load_trace, path)
            )
        (path / name).write_bytes(content)


def write_masks(file: Path, frames: int, width: int, name: str = "masks", kind: type = np.uint8) -> None:
    save_file({name: np.zeros((frames, width), kind)}, file)


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (lambda file: file.unlink(), "missing: the manifest lists this segment"),
        (lambda file: file.write_bytes(file.read_bytes() + b"x"), "truncated or damaged: not a safetensors file"),
        (lambda file: file.write_text("hello world" * 9), "truncated or damaged: not a safetensors file"),
        (
            lambda file: write_masks(file, 2, 4),
            "must hold (type, frames, bytes per frame) {'masks': ('U8', 3, 4)}, got ",
        ),
        (
            lambda file: write_masks(file, 3, 5),
            "must hold (type, frames, bytes per frame) {'masks': ('U8', 3, 4)}, got ",
        ),
        (
            lambda file: write_masks(file, 3, 4, "mask"),
            "must hold (type, frames, bytes per frame) {'masks': ('U8', 3, 4)",
        ),
        (
            lambda file: write_masks(file, 3, 4, kind=np.int8),
            "must hold (type, frames, bytes per frame) {'masks': ('U8',",
        ),
    ],
)
def test_wrong_segment_is_named_when_opened(path: Path, damage: Callable[[Path], None], rule: str) -> None:
    damage(path / SEGMENT)
    assert message_of(load_trace, path).startswith(f"{path / SEGMENT}: {rule}")
    assert check(path) == [message_of(load_trace, path)]


def test_swapped_content_of_the_right_size_is_found_by_check(path: Path) -> None:
    write_masks(path / SEGMENT, 3, 4)
    assert load_trace(path).frames == 3  # opening is cheap and reads no content
    assert check(path) == [f"{path / SEGMENT}: damaged: its content does not match its sha256"]


def test_all_damaged_segments_are_listed(tmp_path: Path) -> None:
    layer = Layer("stem", 3, 10, 10, 8, 5, 5, 3, 3, 2, 2, 1, 1, gate="input_norm")
    path = tmp_path / "a.trace"
    Trace.from_masks([layer], [np.ones((100, 5, 5), np.bool_)]).save(path)
    (path / "segment-00001.safetensors").unlink()
    write_masks(path / "segment-00003.safetensors", 4, 4)
    findings = check(path)
    assert [Path(finding.split(": ")[0]).name for finding in findings] == [
        "segment-00001.safetensors",
        "segment-00003.safetensors",
    ]


def sign(path: Path, change: Callable[[Fields], object]) -> None:
    """Change a manifest as a program would that knows the rule of the checksum."""
    fields = json.loads((path / "manifest.json").read_text())
    change(fields)
    fields.pop("sha256")
    lines = []
    for name, value in fields.items():
        entries = [json.dumps(entry) for entry in value] if isinstance(value, list) else []
        text = "[\n  " + ",\n  ".join(entries) + "\n ]" if entries else json.dumps(value)
        lines.append(f'"{name}": {text}')
    body = ",\n ".join(lines)
    checksum = hashlib.sha256(body.encode()).hexdigest()
    (path / "manifest.json").write_text(f'{{\n {body},\n "sha256": "{checksum}"\n}}\n')


def test_signing_as_documented_is_accepted(path: Path) -> None:
    sign(path, lambda fields: fields["origin"].update(note="äöü", ratio=0.1))
    assert load_trace(path).origin == {"seed": 1, "note": "äöü", "ratio": 0.1}
    assert check(path) == []


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda m: m.update(version=2), "format version must be 1, got 2"),
        (lambda m: m.update(version="1"), "format version must be 1, got '1'"),
        (
            lambda m: m.update(format="other"),
            "not the manifest of a trace: format must be 'skipsim-trace', got 'other'",
        ),
        (lambda m: m.pop("layers"), "field 'layers' is missing"),
        (lambda m: m.pop("quality"), "field 'quality' is missing"),
        (lambda m: m.update(layers=[]), "layers: a trace needs at least one"),
        (lambda m: m.update(layers=7), "a field has the wrong type ('int' object is not iterable)"),
        (lambda m: m.update(layers=["stem"]), "a field has the wrong type (dictionary update sequence"),
        (lambda m: m["layers"][0].update(out_rows=-5), "layer 'stem': out_rows must be a whole number >= 1, got -5"),
        (lambda m: m["layers"][0].update(out_rows=5.0), "layer 'stem': out_rows must be a whole number >= 1, got 5.0"),
        (lambda m: m["layers"][0].update(name=5), "layer 5: name must be text"),
        (lambda m: m["layers"][0].update(colour=1), "layer 'stem': unknown field 'colour'"),
        (lambda m: m["layers"][0].pop("out_rows"), "layer 'stem': Layer.__init__() missing 1 required"),
        (lambda m: m.update(layers=m["layers"] * 2), "layer 'stem': call 0 occurs twice"),
        (lambda m: m.update(update="never"), "update: 'never' is unknown; choices: accumulate, previous, recompute"),
        (lambda m: m.update(update=["never"]), "update: ['never'] is unknown; choices:"),
        (lambda m: m.update(origin=3), "a field has the wrong type ('int' object is not iterable)"),
        (lambda m: m["segments"][0].update(frames=0), f"{SEGMENT}: frames must be a whole number >= 1, got 0"),
        (lambda m: m["segments"][0].update(frames="3"), f"{SEGMENT}: frames must be a whole number >= 1, got '3'"),
        (lambda m: m["segments"][0].update(file="../x"), "segment file must be named like segment-00000.safetensors"),
        (lambda m: m["segments"][0].pop("sha256"), "a field has the wrong type (Segment.__init__() missing"),
        (
            lambda m: m["segments"][0].update(reference=[3]),
            f"{SEGMENT}: reference frames must be among its own, got (3,)",
        ),
    ],
)
def test_wrong_manifest_is_named(path: Path, change: Callable[[Fields], object], rule: str) -> None:
    sign(path, change)
    for function in (load_trace, check):
        message = message_of(function, path)
        assert message.startswith(f"{path / 'manifest.json'}: {rule}")


def test_wrong_geometry_does_not_fit_the_segments(path: Path) -> None:
    sign(path, lambda fields: fields["layers"][0].update(block_rows=2))  # 3 x 5 blocks: 2 bytes a frame
    rule = "must hold (type, frames, bytes per frame) {'masks': ('U8', 3, 2)}, got {'masks': ('U8', 3, 4)}"
    assert message_of(load_trace, path) == f"{path / SEGMENT}: {rule}"


def test_trace_without_frames_is_refused(path: Path) -> None:
    sign(path, lambda fields: fields.update(segments=[]))
    for function in (load_trace, check):
        assert message_of(function, path) == f"{path}: holds no complete frame"


def test_reference_frame_that_skips_is_found_by_check(path: Path) -> None:
    sign(path, lambda fields: fields["segments"][0].update(reference=[0, 1]))
    assert check(path) == [f"{path / SEGMENT}, frame 1: a reference frame computes all blocks, layer 'stem' skips some"]


@pytest.mark.parametrize("text", ["", "[1, 2]", "null", "[" * 100_000, '{"format": "skipsim-trace"}', "\xff"])
def test_alien_manifest_is_refused(path: Path, text: str) -> None:
    (path / "manifest.json").write_text(text, encoding="latin-1")
    assert message_of(load_trace, path).startswith(f"{path / 'manifest.json'}: ")


def test_not_a_number_in_a_manifest_is_refused(path: Path) -> None:
    file = path / "manifest.json"
    file.write_text(file.read_text().replace('"seed": 1', '"seed": NaN'))
    assert message_of(load_trace, path) == f"{file}: edited or damaged: it does not match its own checksum"


def test_what_is_no_trace_is_named(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_text("text")
    (tmp_path / "folder").mkdir()
    cases = {
        "nowhere": "no such file",
        "clip.mp4": "a trace is a directory, a topology ends in .csv or .onnx",
        "folder": "not a trace: no manifest.json in it",
        "nowhere.csv": "no such file",
        "nowhere.onnx": "no such file",
    }
    for name, rule in cases.items():
        assert re.fullmatch(re.escape(f"{tmp_path / name}: {rule}"), message_of(load_trace, tmp_path / name))
