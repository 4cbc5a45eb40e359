"""Does the command line do what its help says? Everything runs the real console script, in a folder of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest

from skipsim import Layer, Trace, load_hardware, load_trace, machines
from skipsim.analysis.cli import main
from skipsim.analysis.conventions import print_json

SCRIPT = Path(sys.executable).with_name("skipsim")
HEADER = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,\n"
# name, input height, width, kernel, channels, filters, stride; the input includes the padding
TOPOLOGY = [("conv1", 34, 34, 3, 16, 40, 1), ("conv2", 33, 33, 3, 40, 64, 2), ("conv3", 16, 16, 1, 64, 100, 1)]
STUDY = """name = "small"
[recording]
trace = ["a.trace"]
[simulation]
hardware = ["edge-npu", "systolic-32x32"]
tile = ["4x4", "8x8"]
"""
OWN_NETWORK = """from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 15, 3, padding=1))
"""


def rows_of(topology):
    return "".join(f"{name}, {h}, {w}, {k}, {k}, {c}, {n}, {s},\n" for name, h, w, k, c, n, s in topology)


def masks_of(layer, density):
    mask = np.random.default_rng(7).random((5, layer.grid_rows, layer.grid_cols)) < density
    mask[0] = True
    return mask


LAYERS = [
    Layer("first", 3, 16, 16, 8, 16, 16, 3, 3, padding_top=1, padding_left=1, block_rows=4, block_cols=4, gate="mask"),
    Layer("second", 8, 16, 16, 16, 8, 8, 3, 3, 2, 2, 1, 1, block_rows=4, block_cols=4, gate="mask"),
]
MASKS = [masks_of(layer, 0.5) for layer in LAYERS]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Make what the tests work on: a trace, topologies, studies, a network."""
    folder = tmp_path_factory.mktemp("originals")
    origin = {"kind": "synthetic", "network": "two"}
    Trace.from_masks(LAYERS, MASKS, reference_frames=[0], origin=origin).save(folder / "a.trace")
    (folder / "net.csv").write_text(HEADER + rows_of(TOPOLOGY))
    (folder / "large.csv").write_text(HEADER + rows_of([("conv1", 258, 258, 3, 64, 64, 1)]))
    (folder / "study.toml").write_text(STUDY)
    (folder / "half.toml").write_text(STUDY.replace('"a.trace"', '"large.csv"').replace('"8x8"', '"full"'))
    (folder / "my_network.py").write_text(OWN_NETWORK)
    return folder


@pytest.fixture
def folder(originals, tmp_path):
    shutil.copytree(originals, tmp_path, dirs_exist_ok=True)
    return tmp_path


def run(folder, *arguments):
    command = [SCRIPT, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, encoding="utf-8")


def answer(folder, *arguments):
    result = run(folder, *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def test_a_failing_row_is_exit_code_1_and_the_others_are_there(folder):
    result = run(folder, "sweep", "half.toml", "--workers", "1")
    assert result.returncode == 1
    assert result.stdout == "3 results in half\n\nnext: skipsim plot half\n"
    assert result.stderr == (
        "skipsim: 1 of 4 runs failed, the first: tile 256x256 of layer 'conv1' does not fit the buffers of 'edge-npu'; "
        "the largest square tile that fits is 128x128\n"
    )


# --- traces


def test_trace_info_counts_what_the_masks_hold(folder):
    facts = json.loads(answer(folder, "trace", "info", "a.trace", "--json"))
    pixels = [int(mask.sum()) * 16 for mask in MASKS]  # 4x4 blocks that fit their maps exactly
    macs = sum(count * kernel for count, kernel in zip(pixels, (9 * 3 * 8, 9 * 8 * 16), strict=True))
    dense = 5 * (256 * 9 * 3 * 8 + 64 * 9 * 8 * 16)
    assert (facts["frames"], facts["reference_frames"], facts["complete"]) == (5, [0], True)
    assert (facts["macs"], facts["dense_macs"]) == (macs, dense)
    assert facts["mac_reduction"] == dense / macs
    assert facts["density"] == sum(pixels) / (5 * (256 + 64))
    assert [layer["density"] for layer in facts["layers"]] == [pixels[0] / 1280, pixels[1] / 320]
    text = answer(folder, "trace", "info", "a.trace")
    assert "network  two, 2 convolutions\n" in text
    assert f"density  {facts['density']:.1%} of the output pixels are computed\n" in text


def test_trace_masks_draws_a_picture(folder):
    for name, start in (("masks.png", b"\x89PNG"), ("masks.pdf", b"%PDF"), ("masks.svg", b"<?xml")):
        said = answer(folder, "trace", "masks", "a.trace", "-o", name, "--layer", "second", "--frame", "3")
        assert said == f"{name}\n"
        assert (folder / name).read_bytes().startswith(start)


def test_trace_check_says_what_is_damaged(folder):
    assert answer(folder, "trace", "check", "a.trace") == "a.trace: intact\n"
    assert json.loads(answer(folder, "trace", "check", "a.trace", "--json")) == {"intact": True, "findings": []}
    segment = folder / "a.trace" / "segment-00000.safetensors"
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    result = run(folder, "trace", "check", "a.trace")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "skipsim: a.trace/segment-00000.safetensors: damaged: its content does not match its sha256\n"
    )


# --- machines


def test_hardware_list_show_and_check_agree(folder):
    listed = json.loads(answer(folder, "hardware", "list", "--json"))
    assert [machine["name"] for machine in listed] == machines()
    lines = answer(folder, "hardware", "list").splitlines()
    assert [line.split()[0] for line in lines] == ["machine", *machines()]
    text = answer(folder, "hardware", "show", "systolic-32x32")
    (folder / "mine.toml").write_text(text, encoding="utf-8")
    assert load_hardware(folder / "mine.toml") == load_hardware("systolic-32x32")
    checked = answer(folder, "hardware", "check", "mine.toml")
    assert checked.startswith("mine.toml: ok\n")
    assert checked.splitlines()[-1].split()[:3] == ["systolic-32x32", "1", "32x32"]
    shown = json.loads(answer(folder, "hardware", "show", "mine.toml", "--json"))
    assert shown["dram"]["bytes_per_cycle"] == "inf"  # JSON has no number for it
    assert shown["array"]["rows"] == 32


# --- simulation


def systolic_cycles(topology, rows, cols):
    """Return SCALE-Sim's cycles of an output-stationary array: ceil(M / R) ceil(N / C) (K + R + C - 2) per layer."""
    counts = []
    for _, height, width, kernel, channels, filters, stride in topology:
        pixels = ((height - kernel) // stride + 1) * ((width - kernel) // stride + 1)
        counts.append(-(-pixels // rows) * -(-filters // cols) * (kernel**2 * channels + rows + cols - 2))
    return counts


@pytest.mark.parametrize(("rows", "cols"), [(32, 32), (16, 8)])
def test_simulated_topology_takes_the_closed_form_of_a_systolic_array(folder, rows, cols):
    arguments = ["simulate", "net.csv", "--hardware", "systolic-32x32", "--tile", "full", "--json"]
    data = json.loads(answer(folder, *arguments, "--set", f"array.rows={rows}", "--set", f"array.cols={cols}"))
    expected = systolic_cycles(TOPOLOGY, rows, cols)
    assert [layer["name"] for layer in data["layers"]] == ["conv1", "conv2", "conv3"]
    assert [layer["array_cycles"] for layer in data["layers"]] == expected
    assert [layer["cycles"] for layer in data["layers"]] == expected
    assert data["total"]["cycles"] == sum(expected)
    assert data["total"]["latency_ms"] == pytest.approx(sum(expected) / 1e9 * 1e3)  # at 1 GHz
    macs = 32 * 32 * 9 * 16 * 40 + 16 * 16 * 9 * 40 * 64 + 16 * 16 * 64 * 100
    assert (data["total"]["macs"], data["total"]["dense_macs"]) == (macs, macs)
    assert (data["speedup"], data["mac_reduction"], data["realised"]) == (1, 1, 1)


def test_simulate_json_has_the_promised_keys_and_keeps_the_laws(folder):
    data = json.loads(answer(folder, "simulate", "a.trace", "--hardware", "edge-npu", "--tile", "4x4", "--json"))
    total = {"cycles", "latency_ms", "energy_uj", "macs", "dense_macs", "dram_read_bytes", "dram_write_bytes"}
    layer = {
        "name",
        "frame",
        "cycles",
        "array_cycles",
        "tiles",
        "active_tiles",
        "density",
        "effective_density",
        "causes",
    }
    assert {"total", "dense", "speedup", "mac_reduction", "realised", "layers"} <= set(data)
    assert total <= set(data["total"])
    assert total <= set(data["dense"])
    assert len(data["layers"]) == 2 * 5
    assert all(layer | {"causes"} <= set(row) for row in data["layers"])
    assert sum(row["cycles"] for row in data["layers"]) == data["total"]["cycles"]
    assert all(sum(row["causes"].values()) == 2 * row["cycles"] for row in data["layers"])  # two cores
    gated = [row for row in data["layers"] if row["frame"] > 0]
    assert [row["active_tiles"] for row in gated] == [int(mask[frame].sum()) for frame in range(1, 5) for mask in MASKS]
    trace = load_trace(folder / "a.trace")
    assert (data["total"]["macs"], data["dense"]["macs"]) == (trace.macs, trace.dense_macs)
    assert data["speedup"] == data["dense"]["cycles"] / data["total"]["cycles"]
    assert data["realised"] == pytest.approx(data["speedup"] / data["mac_reduction"])
    plain = ["simulate", "a.trace", "--hardware", "edge-npu", "--tile", "4x4", "--engine", "reference", "--json"]
    assert json.loads(answer(folder, *plain)) == data
    dense = json.loads(answer(folder, "simulate", "a.trace", "--hardware", "edge-npu", "--dense", "--json"))
    assert dense["total"] == data["dense"]


def test_simulate_for_people_says_the_same(folder):
    text = answer(folder, "simulate", "net.csv", "--hardware", "systolic-32x32", "--tile", "full")
    milliseconds = f"{sum(systolic_cycles(TOPOLOGY, 32, 32)) / 1e6:#.3g} ms"
    latency = next(line for line in text.splitlines() if line.startswith("latency"))
    assert latency.split("  ")[0] == "latency"
    assert latency.count(milliseconds) == 2  # itself and the dense schedule
    assert text.startswith("net on systolic-32x32: 1 frame, tile full\n")
    assert "array computes  100%" in text


def test_a_layer_list_at_the_best_tile_is_the_dense_schedule_and_shown_once(folder):
    text = answer(folder, "simulate", "net.csv", "--hardware", "systolic-32x32")
    assert text.startswith("net on systolic-32x32: 1 frame, the dense schedule\n")
    assert next(line for line in text.splitlines() if line.startswith("latency")).count(" ms") == 1
    assert "realised" not in text


def test_simulate_shows_cores_and_frames_on_request(folder):
    command = ["simulate", "a.trace", "--hardware", "edge-npu", "--tile", "4x4"]
    data = json.loads(answer(folder, *command, "--json"))
    short, text = answer(folder, *command), answer(folder, *command, "--cores", "--frames")
    assert "frame by frame" not in short
    assert text.startswith(short.rstrip())
    lines = text.splitlines()
    cores = lines[lines.index(next(line for line in lines if line.startswith("what every core does"))) :]
    cycles = data["total"]["cycles"]
    assert cores[0].endswith(f"in shares of its {cycles} cycles")
    for line, causes in zip(cores[2:4], data["causes_by_core"], strict=True):
        assert f"{causes['compute'] / cycles:.1%}" in line.split()
    busy = [causes["compute"] for causes in data["causes_by_core"]]
    assert cores[4] == f"imbalance: the busiest core computes {max(busy) / (sum(busy) / 2):.2f}x the mean"
    frames = lines[lines.index("frame by frame") + 2 :]
    assert [line.split()[:2] for line in frames] == [
        [str(row["frame"]), f"{row['latency_ms']:#.3g}"] for row in data["by_frame"]
    ]
    control = data["energy_uj"]["control"] / sum(data["energy_uj"].values())
    assert f"{control:.1%}" in next(line for line in lines if line.startswith("control"))


def test_timeline_is_written_for_the_first_gated_frame(folder):
    answer(folder, "simulate", "a.trace", "--hardware", "edge-npu", "--tile", "4x4", "--timeline", "frame.json")
    events = json.loads((folder / "frame.json").read_text())["traceEvents"]
    passes = [event for event in events if event["ph"] == "X" and event["name"] == "second"]
    assert passes
    assert {event["args"]["layer"] for event in passes} == {"second"}


# --- studies


def test_study_from_dry_run_to_recommendation(folder):
    said = answer(folder, "sweep", "study.toml", "--dry-run")
    todo, duration = said.splitlines()
    assert todo == "4 rows; to do: 0 of 1 recordings, 4 simulations; nothing was written"
    assert re.fullmatch(
        r"about \S+ s on \d+ workers? \(starting .* s; recordings 0\.0 s and simulations .*; measured on one trace\)",
        duration,
    )
    assert not (folder / "study").exists()
    assert answer(folder, "sweep", "study.toml") == "4 results in study\n\nnext: skipsim plot study\n"
    done = json.loads(answer(folder, "sweep", "study.toml", "--dry-run", "--json"))
    assert (done["rows"], done["recordings"]) == (4, 1)
    assert (done["missing_recordings"], done["missing_simulations"], done["seconds"]) == (0, 0, 0)
    rows = json.loads(answer(folder, "sweep", "study.toml", "--json"))
    assert [(row["hardware"], row["tile"]) for row in rows] == [
        (machine, tile) for machine in ("edge-npu", "systolic-32x32") for tile in ("4x4", "8x8")
    ]
    found = json.loads(answer(folder, "recommend", "study", "--hardware", "systolic-32x32", "--json"))
    assert found["speedup"] == max(row["speedup"] for row in rows if row["hardware"] == "systolic-32x32")
    words = answer(folder, "recommend", "study", "--hardware", "systolic-32x32")
    assert words.startswith("systolic-32x32: ")
    figures = answer(folder, "plot", "study").split()
    assert figures
    assert all((folder / figure).stat().st_size > 0 for figure in figures)


# --- recording and training


def test_record_own_network_with_own_labels(folder):
    rng = np.random.default_rng(0)
    np.save(folder / "clip.npy", rng.integers(0, 255, (4, 32, 48, 3), dtype=np.uint8))
    np.savez(folder / "joints.npz", joints=rng.uniform(2, 30, (4, 15, 2)))
    command = "record my_network:build clip.npy -o own.trace --threshold 0.05 --block 2x4 --labels joints.npz --json"
    facts = json.loads(answer(folder, *shlex.split(command)))
    assert (facts["frames"], facts["reference_frames"]) == (4, [0])
    assert [(layer["block_rows"], layer["block_cols"]) for layer in facts["layers"]] == [(2, 4)] * 2
    assert [(layer["out_rows"], layer["out_cols"]) for layer in facts["layers"]] == [(16, 24)] * 2
    assert facts["quality"]["headline"] == "pck@0.05"
    assert 0 <= facts["quality"]["dense_pck@0.05"] <= 1
    assert facts["quality"]["agreement"] <= 1
    assert answer(folder, "trace", "check", "own.trace") == "own.trace: intact\n"
    again = answer(folder, *shlex.split(command.replace(" --json", "").replace("0.05", "0.1")))
    assert again.startswith("own.trace: in the place of an earlier recording\n")


def test_train_writes_weights_that_record_takes(folder):
    plan = "steps=1 batch=2 pool_clips=2 pool_frames=1 rows=32 cols=32 validation_clips=1 test_clips=1 test_frames=1"
    settings = [word for entry in plan.split() for word in ("--set", entry)]
    report = json.loads(answer(folder, "train", "my_network:build", "-o", "own.safetensors", *settings, "--json"))
    assert report["plan"]["steps"] == 1
    command = "record my_network:build pose:test -o own.trace --gate none --frames 2 --size 32x32 --json"
    facts = json.loads(answer(folder, *shlex.split(command), "--weights", "own.safetensors"))
    assert (facts["mac_reduction"], facts["density"]) == (1, 1)
    assert set(facts["quality"]) == {"pck@0.05", "pck@0.1", "pck@0.2", "headline"}


# --- help


def commands(group, path=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def check_command_line(line):
    """Parse `skipsim ...` as the command line would, without running it."""
    words = shlex.split(line)
    assert words[0] == "skipsim"
    command, context, words = main, click.Context(main, info_name="skipsim"), words[1:]
    while isinstance(command, click.Group):
        name, command, words = command.resolve_command(context, words)
    command.make_context(name, words, parent=context)


COMMANDS = {" ".join(path): command for path, command in commands(main)}


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_explains_itself_with_examples_that_parse(path):
    command = COMMANDS[path]
    assert command.help
    lines = [line.strip() for line in (command.epilog or "").splitlines()]
    examples = [line for line in lines if line.startswith("skipsim ")]
    assert examples, "an example at the end of the help"
    for example in examples:
        assert example.startswith(f"skipsim {path}")
        check_command_line(example.partition(">")[0])
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help


def test_help_of_a_command_is_printed(folder):
    text = answer(folder, "simulate", "--help")
    assert text.startswith("Usage: skipsim simulate [OPTIONS] TRACE|TOPOLOGY\n")
    assert "Example:\n    skipsim simulate" in text
    assert answer(folder, "--version") == "skipsim 0.1.0\n"


def test_a_closed_pipe_is_no_error():
    line = f"{shlex.quote(str(SCRIPT))} hardware show edge-npu | head -n 1"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, env=os.environ)
    assert result.stdout.startswith("#")
    assert result.stderr == ""


@pytest.mark.parametrize("rows", [[], [{"frame": 0, "causes": {"compute": 1}}, {"frame": 1, "density": float("nan")}]])
def test_json_of_many_rows_is_written_row_by_row(rows, capsys) -> None:
    written = []

    def watched():
        for row in rows:
            written.append(len(capsys.readouterr().out))  # what stood there before this row was asked for
            yield row

    print_json({"name": "run", "rows": rows}, watched=iter(rows))
    data = json.loads(capsys.readouterr().out)
    assert data["watched"] == data["rows"] == json.loads(json.dumps(rows).replace("NaN", "null"))
    print_json({"name": "run"}, rows=watched())
    assert all(written)
