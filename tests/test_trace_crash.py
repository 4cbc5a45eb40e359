"""What is left of a recording that is killed, interrupted or refused?"""

from __future__ import annotations

import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from skipsim.errors import InputError
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace, TraceWriter, load_trace
from skipsim.traces.trace_check import check

LAYERS = (
    Layer("a", 3, 40, 40, 8, 40, 40, 3, 3, 1, 1, 1, 1, gate="input_norm"),
    Layer("b", 8, 40, 40, 8, 20, 20, 3, 3, 2, 2, 1, 1, block_rows=4, block_cols=4, gate="input_norm"),
)
SEGMENT_FRAMES = 4

# Records a trace again and again, each time in a child that kills itself one step later than the one before: before or
# after one of the calls that change the disk. Stops at the first that survives. What a child knows to be acknowledged
# goes to a log.
KILLING_RECORDER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_trace_crash as crash

folder, old_frames, frames = crash.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

def record_until(kill_at, path, log):
    steps = 0
    def killing(function):
        def step(*arguments, **options):
            nonlocal steps
            steps += 1
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **options)
            steps += 1
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return step
    if old_frames:
        crash.record(path, 1, old_frames)
    for name in ("replace", "fsync", "mkdir", "unlink"):
        setattr(os, name, killing(getattr(os, name)))
    with crash.TraceWriter(path, crash.LAYERS, update="recompute", origin={}, segment_frames=4) as writer:
        for frame in range(frames):
            writer.append(crash.masks(2, frame), reference=frame == 0)
            print(writer.acknowledged_frames, file=log, flush=True)
        writer.finish({})
    print(frames, file=log, flush=True)

for kill_at in range(1, 200):
    child = os.fork()
    if not child:
        with open(folder / f"{kill_at}.log", "w") as log:
            record_until(kill_at, folder / f"{kill_at}.trace", log)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        sys.exit(0)
sys.exit("every recorder was killed")
"""

ENDLESS_RECORDER = """
import sys
sys.path.insert(0, sys.argv[1])
import test_trace_crash as crash

with crash.TraceWriter(sys.argv[2], crash.LAYERS, update="recompute", origin={}, segment_frames=4) as writer:
    for frame in range(1_000_000):
        writer.append(crash.masks(1, frame), reference=frame == 0)
        print(writer.acknowledged_frames, flush=True)
"""


def masks(seed: int, frame: int) -> list[NDArray[np.bool_]]:
    generator = np.random.default_rng([seed, frame])
    return [generator.random((layer.grid_rows, layer.grid_cols)) < (2 if frame == 0 else 0.3) for layer in LAYERS]


def assert_holds(trace: Trace, seed: int, frames: int) -> None:
    assert trace.frames == frames
    for frame in range(frames):
        assert trace.reference(frame) == (frame == 0)
        for index, expected in enumerate(masks(seed, frame)):
            np.testing.assert_array_equal(trace.mask(index, frame), expected)


def record(path: Path, seed: int, frames: int) -> Trace:
    with TraceWriter(path, LAYERS, update="recompute", origin={}, segment_frames=SEGMENT_FRAMES) as writer:
        for frame in range(frames):
            writer.append(masks(seed, frame), reference=frame == 0)
        return writer.finish({"seed": seed})


def test_kill_in_mid_append_keeps_every_acknowledged_frame(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENDLESS_RECORDER, str(Path(__file__).parent), str(tmp_path / "a.trace")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = 0
    for line in process.stdout:
        acknowledged = int(line)
        if acknowledged >= 10 * SEGMENT_FRAMES:
            break
    process.send_signal(signal.SIGKILL)
    acknowledged = max([acknowledged, *map(int, process.stdout.read().split("\n")[:-1])])  # said before it died
    assert process.wait() == -signal.SIGKILL
    trace = load_trace(tmp_path / "a.trace")
    assert trace.frames in (acknowledged, acknowledged + SEGMENT_FRAMES)  # or died between the manifest and saying so
    assert not trace.complete
    assert check(tmp_path / "a.trace") == []
    assert_holds(trace, 1, trace.frames)


def run_killing_recorder(folder: Path, *, old_frames: int, frames: int) -> Iterator[tuple[Path, int]]:
    """Yield the path of every recording and how many frames it said were acknowledged."""
    command = [sys.executable, "-c", KILLING_RECORDER, str(Path(__file__).parent), str(folder)]
    subprocess.run([*command, str(old_frames), str(frames)], check=True)
    for log in sorted(folder.glob("*.log")):
        yield log.with_suffix(".trace"), max(map(int, log.read_text().split()), default=0)


def test_kill_at_every_step_leaves_the_acknowledged_frames(tmp_path: Path) -> None:
    outcomes = set()
    for path, acknowledged in run_killing_recorder(tmp_path, old_frames=0, frames=9):
        if (path / "manifest.json").exists():
            trace = load_trace(path)
            assert check(path) == []
            assert trace.frames in (acknowledged, min(acknowledged + SEGMENT_FRAMES, 9))
            assert_holds(trace, 2, trace.frames)
            outcomes.add((acknowledged, trace.frames, trace.complete))
        else:
            assert acknowledged == 0
            outcomes.add((0, 0, False))
        assert_holds(record(path, 3, 5), 3, 5)  # what a killed recording left is no obstacle to the next
        assert sorted(file.name.split("-")[0] for file in path.iterdir()) == ["manifest.json", "segment", "segment"]
    acknowledged_in_time = {(0, 0, False), (4, 4, False), (8, 8, False), (9, 9, True)}
    died_before_saying_so = {(0, 4, False), (4, 8, False), (8, 9, False), (8, 9, True)}
    assert outcomes == acknowledged_in_time | died_before_saying_so


def test_kill_while_replacing_leaves_the_old_trace_or_the_new_one(tmp_path: Path) -> None:
    held = set()
    for path, acknowledged in run_killing_recorder(tmp_path, old_frames=9, frames=5):
        trace = load_trace(path)
        assert check(path) == []
        assert trace.complete
        assert_holds(trace, seed=1 if trace.frames == 9 else 2, frames=trace.frames)
        held.add((acknowledged, trace.frames))
        if acknowledged == 5:
            assert len(list(path.iterdir())) == 3
    assert held == {(0, 9), (0, 5), (5, 5)}


def test_old_trace_counts_until_the_new_one_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    old = record(path, 6, 10)
    (path / "notes.txt").write_text("mine")
    with TraceWriter(path, LAYERS, update="previous", origin={}, segment_frames=2) as writer:
        for frame in range(5):
            writer.append(masks(7, frame), reference=frame == 0)
            assert writer.acknowledged_frames == 0
            assert load_trace(path).hash == old.hash
        new = writer.finish({})
    assert_holds(new, 7, 5)
    assert_holds(old, 6, 10)  # still readable by who has it open
    assert sorted(file.name for file in path.iterdir())[0] == "manifest.json"
    assert sorted(file.name for file in path.iterdir())[1] == "notes.txt"
    assert len(list(path.iterdir())) == 5


def record_until(path: Path, frames: int, error: BaseException) -> None:
    with TraceWriter(path, LAYERS, update="recompute", origin={}, segment_frames=SEGMENT_FRAMES) as writer:
        for frame in range(frames):
            writer.append(masks(8, frame), reference=frame == 0)
        raise error


def test_interruption_keeps_the_frames_so_far(tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    with pytest.raises(KeyboardInterrupt):
        record_until(path, 6, KeyboardInterrupt())
    assert_holds(load_trace(path), 8, 6)
    assert not load_trace(path).complete


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError])
def test_interrupted_replacement_leaves_the_old_trace_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.trace"
    record(path, 9, 7)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(error):
        record_until(path, 6, error("stop"))
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


@pytest.mark.parametrize("frames", [0, 1, 6])
def test_bad_input_leaves_nothing(tmp_path: Path, frames: int) -> None:
    path = tmp_path / "new" / "a.trace"
    with pytest.raises(InputError, match="frame has another size"):
        record_until(path, frames, InputError("frame has another size"))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing_or_what_was_finished(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.trace"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # no file may be larger
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            record(path, 1, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(path / "segment-00000.safetensors")
    assert list(tmp_path.iterdir()) == []
    assert_holds(record(path, 1, 3), 1, 3)


def test_no_frame_is_no_trace(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"a\.trace: no frame was recorded"),
        TraceWriter(tmp_path / "a.trace", LAYERS, update="recompute", origin={}),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_recordings_into_one_place_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    first, second = (TraceWriter(path, LAYERS, update="recompute", origin={}, segment_frames=1) for _ in range(2))
    with first:
        first.append(masks(1, 0), reference=True)
        with pytest.raises(InputError, match=r"segment-00000\.safetensors: exists"), second:
            second.append(masks(2, 0), reference=True)
        first.append(masks(1, 1), reference=False)
    assert_holds(load_trace(path), 1, 2)


def test_what_is_no_trace_is_never_overwritten(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    web = tmp_path / "web"
    web.mkdir()
    (web / "manifest.json").write_text('{"name": "app"}')
    broken = tmp_path / "broken"
    record(broken, 1, 3)
    (broken / "manifest.json").write_text((broken / "manifest.json").read_text()[:50])
    file = tmp_path / "file"
    file.write_text("text")
    rules = {
        foreign: "holds something that is not a trace; choose another path or remove it",
        web: "holds something that is not a trace; choose another path or remove it",
        broken: "holds something that is not a trace; choose another path or remove it",
        file: "a file lies in this place; a trace is a directory",
        file / "under": f"cannot be written: {file} is not a writable directory",
    }
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for path, rule in rules.items():
        with pytest.raises(InputError, match=re.escape(f"{path}: {rule}")):
            TraceWriter(path, LAYERS, update="recompute", origin={})
        with pytest.raises(InputError, match=re.escape(f"{path}: {rule}")):
            load_trace(record(tmp_path / "good", 1, 1).path or "").save(path)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "good" not in path.parts}
    assert after == before
