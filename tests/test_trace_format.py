"""Is a trace what was recorded: in memory, on disk, and through the hash?"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from skipsim.errors import InputError
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace, TraceWriter, load_trace
from skipsim.traces.trace_check import check

Mask = NDArray[np.bool_]

# Odd sizes on purpose: grids of 3x2, 5x4 and 1x1 blocks, clipped edges, a stride, depthwise layers, a repeated module.
LAYERS = (
    Layer("stem", 3, 10, 8, 4, 5, 4, 3, 3, 2, 2, 1, 1, block_rows=2, block_cols=3, gate="input_norm"),
    Layer("head", 4, 5, 4, 4, 5, 4, 3, 3, 1, 1, 1, 1, groups=4, gate="gumbel"),
    Layer("head", 4, 3, 3, 4, 3, 3, 3, 3, 1, 1, 1, 1, groups=4, block_rows=8, block_cols=8, gate="mask", call=1),
)
ORIGIN = {"kind": "recorded", "gate": {"threshold": 0.05, "block": [2, 3]}, "seed": 0}
REFERENCE = (0, 7)
FRAMES = 11


def random_masks(seed: int = 0) -> list[Mask]:
    generator = np.random.default_rng(seed)
    masks = [generator.random((FRAMES, layer.grid_rows, layer.grid_cols)) < 0.4 for layer in LAYERS]
    for mask in masks:
        mask[list(REFERENCE)] = True
    return masks


def record(path: Path, masks: list[Mask], segment_frames: int = 4) -> Trace:
    with TraceWriter(path, LAYERS, update="recompute", origin=ORIGIN, segment_frames=segment_frames) as writer:
        for frame in range(FRAMES):
            writer.append([mask[frame] for mask in masks], reference=frame in REFERENCE)
        return writer.finish({"pck@0.05": np.float32(0.5)})


def in_memory(masks: list[Mask]) -> Trace:
    return Trace.from_masks(LAYERS, masks, reference_frames=REFERENCE, origin=ORIGIN, quality={"pck@0.05": 0.5})


@pytest.fixture(params=["memory", "recorded", "saved", "saved over itself"])
def trace(request: pytest.FixtureRequest, tmp_path: Path) -> Trace:
    if request.param == "recorded":
        return record(tmp_path / "a.trace", random_masks())
    trace = in_memory(random_masks())
    if request.param != "memory":
        trace = trace.save(tmp_path / "a.trace")
    return trace.save(tmp_path / "a.trace") if request.param == "saved over itself" else trace


def test_trace_gives_back_what_was_appended(trace: Trace) -> None:
    assert (trace.layers, trace.frames, trace.update, trace.complete) == (LAYERS, FRAMES, "recompute", True)
    assert (trace.origin, trace.quality) == (ORIGIN, {"pck@0.05": 0.5})
    assert [trace.reference(frame) for frame in range(FRAMES)] == [frame in REFERENCE for frame in range(FRAMES)]
    assert trace.mask_bits == (0, 8, 32)  # 3 x 2 blocks fill one byte, 5 x 4 three
    for index, expected in enumerate(random_masks()):
        assert trace.masks(index).dtype == trace.mask(index, 0).dtype == np.bool_
        np.testing.assert_array_equal(trace.masks(index), expected)
        for frame in range(FRAMES):
            np.testing.assert_array_equal(trace.mask(index, frame), expected[frame])
            bits = trace.frame_bits(frame)[trace.mask_bits[index] :][: expected[frame].size]
            np.testing.assert_array_equal(bits.reshape(expected[frame].shape), expected[frame])


def test_counts_follow_from_pixels_one_by_one(trace: Trace) -> None:
    masks = random_masks()
    pixels = np.zeros((FRAMES, len(LAYERS)), int)
    for frame in range(FRAMES):
        for index, layer in enumerate(LAYERS):
            for row in range(layer.out_rows):
                for col in range(layer.out_cols):
                    block = row // layer.block_rows, col // layer.block_cols
                    pixels[frame, index] += masks[index][frame][block]
    sizes = np.array([5 * 4, 5 * 4, 3 * 3])
    np.testing.assert_array_equal(trace.computed_pixels, pixels)
    assert trace.density() == pixels.sum() / (FRAMES * sizes.sum())
    assert trace.density("stem") == pixels[:, 0].sum() / (FRAMES * 20)
    assert trace.density(frame=3) == pixels[3].sum() / sizes.sum()
    assert trace.density(("head", 1), 5) == pixels[5, 2] / 9
    assert trace.density(frame=7) == 1.0
    per_pixel = np.array([3 * 3 * 3 * 4, 3 * 3 * 4, 3 * 3 * 4])
    # input norm: |difference| per input value and 9 additions per output; Gumbel: 9 x 4 products per output; user's: 0
    gates = (3 * 10 * 8 + 9 * 20) + (9 * 4 * 20)
    assert trace.dense_macs == FRAMES * (per_pixel * sizes).sum()
    assert trace.macs == (pixels.sum(axis=0) * per_pixel).sum() + (FRAMES - 2) * gates
    assert trace.mac_reduction == trace.dense_macs / trace.macs


def test_nothing_executed_is_an_infinite_reduction() -> None:
    layer = Layer("a", 1, 4, 4, 1, 4, 4, gate="mask")
    trace = Trace.from_masks([layer], [np.zeros((2, 4, 4), np.bool_)])
    assert (trace.density(), trace.macs, trace.mac_reduction) == (0.0, 0, float("inf"))


def test_hash_is_of_the_content_only(tmp_path: Path) -> None:
    masks = random_masks()
    same = [record(tmp_path / f"{length}", masks, length) for length in (1, 4, 11, 32)]
    same += [in_memory(masks), in_memory(masks).save(tmp_path / "deep" / "er")]
    same += [Trace.from_masks(LAYERS, masks, reference_frames=REFERENCE, origin={"seed": 1})]
    hashes = {trace.hash for trace in same}
    assert len(hashes) == 1
    flipped = random_masks()
    flipped[2][4] ^= True
    others = [
        Trace.from_masks(LAYERS, flipped, reference_frames=REFERENCE),
        Trace.from_masks(LAYERS, masks, reference_frames=(0,)),
        Trace.from_masks(LAYERS, masks, reference_frames=REFERENCE, update="previous"),
        Trace.from_masks((replace(LAYERS[0], stride_rows=1), *LAYERS[1:]), masks, reference_frames=REFERENCE),
    ]
    assert len(hashes | {trace.hash for trace in others}) == 5


def test_files_can_be_read_without_skipsim(tmp_path: Path) -> None:
    masks = random_masks()
    record(tmp_path / "a.trace", masks)
    manifest = json.loads((tmp_path / "a.trace" / "manifest.json").read_text())
    assert (manifest["format"], manifest["version"], manifest["complete"]) == ("skipsim-trace", 1, True)
    assert [segment["frames"] for segment in manifest["segments"]] == [4, 4, 3]
    assert [segment["reference"] for segment in manifest["segments"]] == [[0], [7], []]
    assert [layer["name"] for layer in manifest["layers"]] == ["stem", "head", "head"]
    rows = np.concatenate(
        [load_file(tmp_path / "a.trace" / segment["file"])["masks"] for segment in manifest["segments"]]
    )
    assert rows.shape == (FRAMES, 1 + 3 + 1)
    bits = np.unpackbits(rows[:, 1:4], axis=1)[:, :20].reshape(FRAMES, 5, 4)
    np.testing.assert_array_equal(bits, masks[1])


def test_disk_holds_little_more_than_one_bit_per_block(tmp_path: Path) -> None:
    layers = [Layer(f"layer{i}", 32, 32, 32, 32, 32, 32, 3, 3, 1, 1, 1, 1, gate="input_norm") for i in range(60)]
    mask = np.random.default_rng(0).random((32, 32)) < 0.3
    with TraceWriter(tmp_path / "a.trace", layers, update="recompute", origin={}) as writer:
        for _ in range(100):
            writer.append([mask] * 60, reference=False)
    size = sum(file.stat().st_size for file in (tmp_path / "a.trace").iterdir())
    bits = 100 * 60 * 32 * 32
    assert bits / 8 < size < bits / 8 + 40_000  # the manifest takes some 450 bytes per layer


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    record(tmp_path / "a.trace", random_masks())
    code = "import sys; from skipsim import load_trace; t = load_trace(sys.argv[1]); print(t, 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, str(tmp_path / "a.trace")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == f"<Trace of 11 frames x 3 layers, recompute at {tmp_path / 'a.trace'}> False\n"


def test_leaving_the_block_finishes_and_a_finished_trace_is_closed(tmp_path: Path) -> None:
    masks = [mask[0] for mask in random_masks()]
    with TraceWriter(tmp_path / "a.trace", LAYERS, update="accumulate", origin={}) as writer:
        writer.append(masks, reference=True)
        assert (writer.frames, writer.acknowledged_frames) == (1, 0)
    assert (writer.frames, writer.acknowledged_frames) == (1, 1)
    trace = load_trace(tmp_path / "a.trace")
    assert (trace.complete, trace.update, trace.quality, check(tmp_path / "a.trace")) == (True, "accumulate", {}, [])
    with pytest.raises(ValueError, match=r"a\.trace: the trace is finished"):
        writer.append(masks, reference=True)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("stam", "trace: no layer 'stam'; did you mean 'stem'? choices: head, stem"),
        (("head", 2), "trace: no layer ('head', 2); did you mean 'head'? choices: head, stem"),
        ("head", "trace: layer 'head' runs 2 times a frame; give (name, call index)"),
        (3, "trace: layer index must be in 0..2, got 3"),
        (-1, "trace: layer index must be in 0..2, got -1"),
    ],
)
def test_unknown_layer_is_one_line(layer: int | str | tuple[str, int], message: str) -> None:
    with pytest.raises(InputError) as error:
        in_memory(random_masks()).mask(layer, 0)
    assert str(error.value) == message


@pytest.mark.parametrize("frame", [-1, 11])
def test_unknown_frame_is_one_line(frame: int) -> None:
    trace = in_memory(random_masks())
    for ask in (trace.frame_bits, trace.reference, lambda frame: trace.density(frame=frame)):
        with pytest.raises(InputError) as error:
            ask(frame)
        assert str(error.value) == f"trace: frame must be in 0..10, got {frame}"


def test_wrong_masks_are_refused(tmp_path: Path) -> None:
    good = [mask[1] for mask in random_masks()]
    small = "mask of layer 'head': must be bool of shape (5, 4), got bool of shape (4, 4)"
    number = "mask of layer 'head': must be bool of shape (5, 4), got uint8 of shape (5, 4)"
    cases = [
        ([good[0], good[1][:4], good[2]], False, small),
        ([good[0], good[1].astype(np.uint8), good[2]], False, number),
        (good[:2], False, "masks: one array per layer is needed, 3, got 2"),
        (good, True, "frame 0: a reference frame computes all blocks, layer 'stem' skips some"),
    ]
    for masks, reference, message in cases:
        with (
            pytest.raises(InputError) as error,
            TraceWriter(tmp_path / "a.trace", LAYERS, update="recompute", origin={}) as writer,
        ):
            writer.append(masks, reference=reference)
        assert str(error.value) == message
        with pytest.raises(InputError):
            Trace.from_masks(LAYERS, [mask[None] for mask in masks], reference_frames=[0] if reference else [])
    assert not (tmp_path / "a.trace").exists()


def test_impossible_traces_are_refused() -> None:
    layer = Layer("a", 1, 4, 4, 1, 4, 4)
    full = np.ones((2, 4, 4), np.bool_)
    cases: dict[str, Callable[[], object]] = {
        "layers: a trace needs at least one": lambda: Trace.from_masks([], []),
        "layer 'a': call 0 occurs twice; (name, call) must be unique": lambda: Trace.from_masks(
            [layer] * 2, [full] * 2
        ),
        "trace: holds no complete frame": lambda: Trace.from_masks([layer], [full[:0]]),
        "trace: reference frames must be in 0..1, got 2": lambda: Trace.from_masks(
            [layer], [full], reference_frames=[0, 2]
        ),
        "update: 'recomputed' is unknown; did you mean 'recompute'? choices: accumulate, previous, recompute": (
            lambda: Trace.from_masks([layer], [full], update="recomputed")
        ),
        "origin and quality of a trace must be JSON data: PosixPath PosixPath('a')": lambda: Trace.from_masks(
            [layer], [full], origin={"video": Path("a")}
        ),
    }
    for message, make in cases.items():
        with pytest.raises(InputError) as error:
            make()
        assert str(error.value) == message
