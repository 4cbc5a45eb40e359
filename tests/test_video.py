"""Do frames come out of every kind of source as they went in?"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from skipsim.errors import InputError
from skipsim.traces.video import read_frames

Frames = NDArray[np.uint8]


def some_frames(count: int = 5, rows: int = 24, cols: int = 32) -> Frames:
    """Return frames that differ everywhere: in rows, columns, channels and time."""
    frame, row, col, channel = np.ogrid[:count, :rows, :cols, :3]
    return np.asarray((40 * frame + 5 * row + 3 * col + 80 * channel) % 256, np.uint8)


def encode(path: Path, frames: Frames, codec: str, pixel_format: str) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def message_of(source: Any, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        list(read_frames(source, **options))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_lossless_video_comes_out_as_it_went_in(tmp_path: Path) -> None:
    frames = some_frames(7)
    path = encode(tmp_path / "clip.mkv", frames, "ffv1", "bgr0")
    read = list(read_frames(path))
    assert all(frame.dtype == np.uint8 and frame.flags.writeable for frame in read)
    np.testing.assert_array_equal(read, frames)
    np.testing.assert_array_equal(list(read_frames(str(path), limit=3)), frames[:3])


def test_compressed_video_has_its_colours_in_order(tmp_path: Path) -> None:
    frames = np.zeros((6, 64, 64, 3), np.uint8)
    frames[:, :, :32] = (200, 40, 40)
    frames[:, :, 32:] = (40, 40, 200)
    read = np.array(list(read_frames(encode(tmp_path / "clip.mp4", frames, "libx264", "yuv420p"))))
    assert read.shape == frames.shape
    assert np.abs(read[:, 8:56, 8:24].astype(int) - (200, 40, 40)).max() < 12
    assert np.abs(read[:, 8:56, 40:56].astype(int) - (40, 40, 200)).max() < 12


def test_images_come_in_natural_order(tmp_path: Path) -> None:
    frames = some_frames(12)
    for index, frame in enumerate(frames):
        suffix = (".png", ".PNG", ".bmp", ".tiff")[index % 4]
        Image.fromarray(frame).save(tmp_path / f"frame{index}{suffix}")
    (tmp_path / "labels.txt").write_text("not an image")
    (tmp_path / ".frame99.png").write_text("left by an editor")
    np.testing.assert_array_equal(list(read_frames(tmp_path)), frames)
    np.testing.assert_array_equal(list(read_frames(tmp_path, limit=11)), frames[:11])


def test_images_of_other_kinds_become_upright_rgb(tmp_path: Path) -> None:
    grey = some_frames(1)[0, :, :, 0]
    Image.fromarray(grey).save(tmp_path / "0.png")
    (frame,) = read_frames(tmp_path)
    np.testing.assert_array_equal(frame, np.repeat(grey[:, :, None], 3, axis=2))
    turned = Image.fromarray(some_frames(1)[0])
    exif = turned.getexif()
    exif[0x0112] = 6  # orientation: the camera was turned, show the picture turned clockwise (EXIF 2.32, table 4)
    turned.save(tmp_path / "0.png", exif=exif)
    (frame,) = read_frames(tmp_path)
    np.testing.assert_array_equal(frame, np.rot90(some_frames(1)[0], -1))


def test_arrays_in_memory_and_in_files(tmp_path: Path) -> None:
    frames = some_frames()
    np.save(tmp_path / "clip.npy", frames)
    np.savez(tmp_path / "one.npz", clip=frames)
    np.savez_compressed(tmp_path / "named.npz", labels=np.zeros(5), frames=frames)
    sources: list[Any] = [
        frames,
        list(frames),
        iter(frames),
        *(tmp_path / name for name in ("clip.npy", "one.npz", "named.npz")),
    ]
    for source in sources:
        read = list(read_frames(source, limit=4))
        np.testing.assert_array_equal(read, frames[:4])
        read[0][:] = 0  # a frame is the caller's own
    np.testing.assert_array_equal(frames, some_frames())


def test_resizing_keeps_the_picture(tmp_path: Path) -> None:
    frames = np.zeros((2, 40, 60, 3), np.uint8)
    frames[:, 20:, :, 0] = 250
    frames[:, :, 30:, 2] = 100
    for source in (frames, encode(tmp_path / "clip.mkv", frames, "ffv1", "bgr0")):
        read = np.array(list(read_frames(source, size=(20, 15))))
        assert read.shape == (2, 20, 15, 3)
        assert (read[:, :9, :, 0] == 0).all()
        assert (read[:, 11:, :, 0] == 250).all()
        assert (read[:, :, :6, 2] == 0).all()
        assert (read[:, :, 9:, 2] == 100).all()
    np.testing.assert_array_equal(list(read_frames(frames, size=(40, 60))), frames)


def test_procedural_clip_follows_from_its_seed() -> None:
    first, again, other = (np.array(list(read_frames(f"pose:{seed}", limit=3, size=(48, 64)))) for seed in (7, 7, 8))
    assert first.shape == (3, 48, 64, 3)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len(list(read_frames("pose:7:pan", limit=2))) == 2


def test_nothing_is_read_ahead_of_the_limit() -> None:
    endless = itertools.repeat(some_frames()[0])
    assert len(list(read_frames(endless, limit=3))) == 3


def test_frames_of_changing_size_are_refused_unless_resized(tmp_path: Path) -> None:
    sizes = [(24, 32), (24, 32), (24, 30)]
    for index, (rows, cols) in enumerate(sizes):
        Image.fromarray(some_frames(1, rows, cols)[0]).save(tmp_path / f"{index}.png")
    rule = "all frames must have one size, 24 x 32 like the first, got 24 x 30; or give a size to resize to"
    assert message_of(tmp_path) == f"{tmp_path / '2.png'}: {rule}"
    assert message_of([some_frames(1, *size)[0] for size in sizes]) == f"frames, frame 2: {rule}"
    assert [frame.shape for frame in read_frames(tmp_path, size=(8, 8))] == [(8, 8, 3)] * 3


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    contents = {
        "text.mp4": b"this is not a video\n" * 50,
        "terminal.txt": b"FFmpeg would show this as a film of text\n" * 50,
        "empty.mkv": b"",
        "table.csv": b"a,b\n1,2\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert message_of(tmp_path / name).startswith(f"{tmp_path / name}: not a video: ")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    assert message_of(tmp_path / "sound.wav") == f"{tmp_path / 'sound.wav'}: not a video: it holds no picture"


def test_wrong_sources_are_refused_before_the_first_frame(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.npy").write_bytes(b"not an array")
    (tmp_path / "bad.npz").write_bytes(b"not an archive")
    np.save(tmp_path / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "float.npy", np.zeros((2, 4, 4, 3)))
    np.savez(tmp_path / "two.npz", a=np.zeros(2), b=np.zeros(2))
    rules = {
        "nowhere.mp4": "no such file or folder",
        "empty": "holds no images; choices: .bmp, .jpeg, .jpg, .png, .ppm, .tif, .tiff, .webp",
        "bad.npy": "not a readable array file: ",
        "bad.npz": "not a readable array file: ",
        "object.npy": "not a readable array file: ",
        "float.npy": "must be uint8 [frames, rows, cols, 3] (RGB, 0 to 255), got float64 [2, 4, 4, 3]",
        "two.npz": "must hold one array or one named 'frames', got a, b",
    }
    for name, rule in rules.items():
        with pytest.raises(InputError) as error:
            read_frames(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name}: {rule}")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("pose:x", {}, "pose:x: a clip is named pose:SEED with a whole number >= 0, got 'x'"),
        ("pose:-1", {}, "pose:-1: a clip is named pose:SEED with a whole number >= 0, got '-1'"),
        ("posse:1", {}, "posse:1: no such file, and no clip 'posse'; did you mean 'pose'? choices: detection, pose"),
        ("pose:1:zoom", {}, "pose clip: camera 'zoom' is unknown; choices: pan, static"),
        (some_frames()[0], {}, "array: must be uint8 [frames, rows, cols, 3] (RGB, 0 to 255), got uint8 [24, 32, 3]"),
        (some_frames(0), {}, "array: must be uint8 [frames, rows, cols, 3] (RGB, 0 to 255), got uint8 [0, 24, 32, 3]"),
        ([], {}, "frames: holds no frame"),
        ([np.zeros((4, 4))], {}, "frames, frame 0: must be a uint8 array [rows, cols, 3], got float64 [4, 4]"),
        ([None], {}, "frames, frame 0: must be a uint8 array [rows, cols, 3], got NoneType"),
        (some_frames(), {"limit": 0}, "limit: must be a whole number of frames >= 1, got 0"),
        (some_frames(), {"size": (0, 8)}, "size: must be (rows, cols), whole numbers >= 1, got (0, 8)"),
        (some_frames(), {"size": (8,)}, "size: must be (rows, cols), whole numbers >= 1, got (8,)"),
    ],
)
def test_wrong_wishes_are_one_line(source: Any, options: dict[str, Any], message: str) -> None:
    assert message_of(source, **options) == message


def test_damaged_frames_are_named(tmp_path: Path) -> None:
    for index, frame in enumerate(some_frames(3)):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    assert message_of(tmp_path).startswith(f"{tmp_path / '1.png'}: not a readable image: ")
    Image.fromarray(np.zeros((24, 32), np.uint16)).save(tmp_path / "1.png")
    assert message_of(tmp_path) == f"{tmp_path / '1.png'}: must have 8 bits per channel, got mode 'I;16'"


def test_missing_video_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "clip.mkv", some_frames(), "ffv1", "bgr0")
    monkeypatch.setitem(sys.modules, "av", None)
    assert message_of(path) == f"{path}: reading video files needs PyAV: pip install 'skipsim[video]'"


def test_damaged_video_names_the_frame(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    path = encode(tmp_path / "clip.mov", noise, "png", "rgb24")
    content = path.read_bytes()
    signature = b"\x89PNG"
    assert content.count(signature) == 6
    pictures = content.split(signature)
    path.write_bytes(signature.join([*pictures[:4], b"x" * len(pictures[4]), *pictures[5:]]))
    assert message_of(path).startswith(f"{path}, frame 3: cannot be decoded: ")
