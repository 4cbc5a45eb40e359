"""Does bad input fail well: one line that says what to do, exit code 2, nothing written? Through the console script."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skipsim import Layer, Trace, machines, networks

SCRIPT = Path(sys.executable).with_name("skipsim")
TOPOLOGY = """Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,
conv1, 258, 258, 3, 3, 64, 64, 1,
"""
STUDY = """name = "small"
[recording]
trace = ["a.trace"]
[simulation]
hardware = ["edge-npu"]
tiel = ["4x4", "8x8"]
"""
RECORDING_STUDY = """name = "small"
[recording]
network = "pose_small"
clip = "pose:test"
thresholdd = 0.1
[simulation]
hardware = "edge-npu"
"""


def run(folder, *arguments):
    command = [SCRIPT, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, encoding="utf-8")


def listing(folder):
    """Return every file with a hash of its content, and every folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


MACHINES = f"choices: {', '.join(machines())}"
NETWORKS = f"choices: {', '.join(networks())}"
RECORD = "record pose_small pose:test -o new.trace"
BAD = {
    "simulate no.trace --hardware edge-npu": "no.trace: no such file",
    "simulate film.mp4 --hardware edge-npu": ("film.mp4: a trace is a directory, a topology ends in .csv or .onnx"),
    "simulate cut.trace --hardware edge-npu": (
        "cut.trace/segment-00000.safetensors: truncated or damaged: not a safetensors file "
        "(Error while deserializing header: incomplete metadata, file not fully covered)"
    ),
    "trace check cut.trace": (
        "cut.trace/segment-00000.safetensors: truncated or damaged: not a safetensors file "
        "(Error while deserializing header: incomplete metadata, file not fully covered)"
    ),
    "trace info film.mp4": "film.mp4: a trace is a directory, a topology ends in .csv or .onnx",
    "trace masks no.trace": "no.trace: no such file",
    "trace masks a.trace -o masks.gif": "picture masks.gif: must end in .png, .pdf, .svg, got '.gif'",
    "trace masks a.trace --frame 5": "trace: frame must be in 0..4, got 5",
    "trace masks a.trace --layer seconds": ("trace: no layer 'seconds'; did you mean 'second'? choices: first, second"),
    "simulate a.trace --hardware edge-np": (
        f"hardware 'edge-np' is unknown; did you mean 'edge-npu'? {MACHINES}; or the path of a .toml file"
    ),
    "simulate a.trace --hardware no.toml": "hardware file 'no.toml': no such file",
    "hardware check wrong.toml": (
        "hardware file 'wrong.toml': unknown key 'clok_hz'; did you mean 'clock_hz'? keys start with: array, buffers, "
        "clock_hz, cores, dram, energy, gate, gather, index, layer, name, precision, processor, scatter, schedule, "
        "source (and 13 more)"
    ),
    "simulate a.trace --hardware edge-npu --set dram.bytes_per_cycl=8": (
        "hardware 'edge-npu': unknown key 'dram.bytes_per_cycl'; did you mean 'dram.bytes_per_cycle'? keys start with: "
        "array, buffers, clock_hz, cores, dram, energy, gate, gather, index, layer, name, precision, processor, "
        "scatter, schedule, source"
    ),
    "simulate a.trace --hardware edge-npu --set dram.bytes_per_cycle=0": (
        "hardware 'edge-npu': dram.bytes_per_cycle: input should be greater than 0, got 0"
    ),
    "simulate a.trace --hardware edge-npu --set cores": (
        "--set 'cores': must be KEY=VALUE, for example dram.bytes_per_cycle=8"
    ),
    "simulate a.trace --hardware edge-npu --tile 0x8": (
        "tile '0x8': must be ROWSxCOLUMNS of at least 1x1, 'full', 'auto' or 'per-layer'"
    ),
    "simulate large.csv --hardware edge-npu --tile full": (
        "tile 256x256 of layer 'conv1' does not fit the buffers of 'edge-npu'; "
        "the largest square tile that fits is 128x128"
    ),
    "simulate a.trace --hardware edge-npu --engine fats": (
        "engine 'fats' is unknown; did you mean 'fast'? choices: fast, reference"
    ),
    "simulate a.trace --hardware edge-npu --timeline no/frame.json": "timeline 'no/frame.json': no such folder: no",
    "simulate a.trace --hardware edge-npu --timeline frame.json --frame 5": "timeline: frame must be in 0..4, got 5",
    "simulate a.trace --hardware edge-npu --frame 1": "--frame: says which frame --timeline is of; give both",
    "simulate a.trace": "Missing option '--hardware'. (see: skipsim simulate --help)",
    "simulate a.trace --hardwar edge-npu": (
        "No such option '--hardwar'. Did you mean '--hardware'? (see: skipsim simulate --help)"
    ),
    "simulat a.trace": "No such command 'simulat'. Did you mean 'simulate'? (see: skipsim --help)",
    "record pose_small film.mp4 -o new.trace --threshold 0.1": (
        "film.mp4: not a video: Invalid data found when processing input"
    ),
    "record pose_small no.mp4 -o new.trace --threshold 0.1": "no.mp4: no such file or folder",
    "record pose_smal pose:test -o new.trace --threshold 0.1": (
        f"network 'pose_smal' is unknown; did you mean 'pose_small'? {NETWORKS}; or package.module:factory"
    ),
    "record no_module:build pose:test -o new.trace --threshold 0.1": (
        "network 'no_module:build': no module 'no_module' in . or where Python looks"
    ),
    f"{RECORD} --threshold 0.1 --block 0": (
        "--block '0': must be a whole number >= 1, or ROWSxCOLS, for example 4 or 4x8"
    ),
    f"{RECORD} --threshold 0.1 --labels labels.npz": "labels labels.npz: clip 'pose:test' has labels of its own",
    f"{RECORD} --frames 2": "gate 'input_norm': threshold is missing",  # the one bad record here that imports torch
    "sweep misspelt.toml": (
        "study misspelt.toml: unknown axis 'simulation.tiel'; did you mean 'tile'? keys start with: array, buffers, "
        "clock_hz, cores, dram, energy, gate, gather, hardware, index, layer, precision, processor, scatter, "
        "schedule, tile"
    ),
    "sweep misspelt2.toml --dry-run": (
        "study misspelt2.toml: unknown axis 'recording.thresholdd'; did you mean 'threshold'? choices: block, clip, "
        "frames, gate, loop, network, reset_every, share, signal, size, threshold, trace, update, weights"
    ),
    "sweep no.toml": "study no.toml: no such file",
    "plot no-study": "results folder no-study: no such folder",
    "recommend a.trace --hardware edge-npu": ("results folder a.trace: no results.parquet: not the output of a sweep"),
    "train pose_small -o weights.safetensors --block 4": "--block: is of gates, and --gate is 'none'; choices: gumbel",
    "train pose_small -o weights.safetensors --freeze": "--freeze: is of gates, and --gate is 'none'; choices: gumbel",
    "train pose_smal -o weights.safetensors": (
        f"network 'pose_smal' is unknown; did you mean 'pose_small'? {NETWORKS}; or package.module:factory"
    ),
}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """Make a good trace, and everything that can be wrong."""
    folder = tmp_path_factory.mktemp("untouched")
    layers = [Layer(name, 3, 16, 16, 8, 16, 16, gate="mask") for name in ("first", "second")]
    masks = [np.ones((5, 16, 16), bool)] * 2
    Trace.from_masks(layers, masks, reference_frames=[0]).save(folder / "a.trace")
    shutil.copytree(folder / "a.trace", folder / "cut.trace")
    segment = folder / "cut.trace" / "segment-00000.safetensors"
    segment.write_bytes(segment.read_bytes()[:-1])
    (folder / "large.csv").write_text(TOPOLOGY)
    (folder / "film.mp4").write_text("no film\n")
    (folder / "misspelt.toml").write_text(STUDY)
    (folder / "misspelt2.toml").write_text(RECORDING_STUDY)
    (folder / "wrong.toml").write_text('name = "mine"\nclok_hz = 5\n')
    (folder / "labels.npz").write_text("no labels\n")
    return folder


@pytest.mark.parametrize("command", BAD)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(command, untouched):
    before = listing(untouched)
    result = run(untouched, *shlex.split(command))
    assert result.stderr == f"skipsim: {BAD[command]}\n"
    assert (result.returncode, result.stdout) == (2, "")
    assert listing(untouched) == before
