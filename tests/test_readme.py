"""Is everything in README.md true: the example's output, every command, the recipe for one's own network and video?"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest

from skipsim.analysis.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPT = Path(sys.executable).with_name("skipsim")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON, SHELL, TOML = ([text for kind, text in BLOCKS if kind == wanted] for wanted in ("python", "shell", "toml"))
OUTPUT = next(text for kind, text in BLOCKS if kind == "text")
LINES = "".join(SHELL).splitlines()
COMMANDS = sorted({*LINES, *re.findall(r"`(skipsim .*?)`", README)})
LISTS = {
    "GATES": "traces/gates.py",
    "MODELS": "traces/models/__init__.py",
    "DATAFLOWS": "simulator/dataflow.py",
    "COMPARISONS": "analysis/validation/__main__.py",
}


def execute(command, folder):
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_example_prints_what_the_readme_says(tmp_path):
    (tmp_path / "example.py").write_text(PYTHON[0], encoding="utf-8")
    assert execute([sys.executable, "example.py"], tmp_path) == OUTPUT
    assert len([line for line in PYTHON[0].splitlines() if line.strip()]) <= 20


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_line_parses(line):
    words = shlex.split(line.partition(">")[0])[1:]
    command: click.Command = main
    context = click.Context(main, info_name="skipsim")
    while isinstance(command, click.Group) and words:
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
    wanted = [parameter for parameter in command.params if parameter.required]
    if words or not wanted:  # `skipsim sweep` alone is a mention, not an example
        command.make_context("skipsim", words, parent=context)


def test_every_command_is_in_the_readme():
    mentioned = {tuple(line.split()[1:]) for line in COMMANDS}
    for name, command in main.commands.items():
        assert any(words[:1] == (name,) for words in mentioned), name
        for part in command.commands if isinstance(command, click.Group) else ():
            assert any(words[:2] == (name, part) for words in mentioned) or f"`{name} {part}" in README, (name, part)


def test_links_lead_to_files():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    for link in links:
        if not link.startswith("docs/"):  # pictures are in the checkout only
            assert (ROOT / link).is_file(), link


@pytest.mark.checkout
def test_the_pictures_are_there_and_small():
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert pictures
    for picture in pictures:
        assert 10_000 < (ROOT / picture).stat().st_size < 200_000, picture


@pytest.mark.checkout
def test_the_files_to_edit_exist():
    for file in re.findall(r"`((?:traces|hwmodels|simulator|analysis)/[\w/]*(?:\.py)?)`", README):
        assert (ROOT / file).exists(), file
    for name, file in LISTS.items():
        assert f"`{name}`" in README
        assert re.search(rf"^{name}\b.*= \{{", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


def write_video(path, frames):
    """Write frames, uint8 [frames, rows, cols, 3], as a video file."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def test_the_recipe_for_an_own_network_on_an_own_video_works(tmp_path):
    street = np.broadcast_to(np.linspace(60, 200, 320).astype(np.uint8)[:, None], (12, 240, 320, 3)).copy()
    for number, frame in enumerate(street):
        frame[100:150, 20 * number : 20 * number + 60] = (220, 40, 40)  # a car
    write_video(tmp_path / "street.mp4", street)
    (tmp_path / "my_network.py").write_text(PYTHON[1], encoding="utf-8")
    (tmp_path / "street.toml").write_text(TOML[0], encoding="utf-8")
    outputs = {}
    for line in LINES:
        outputs[line] = execute([SCRIPT, *shlex.split(line)[1:]], tmp_path)
    recorded, masks, simulated, planned, swept, drawn, recommended = outputs.values()
    assert "MACs" in recorded
    assert re.search(r"^agreement  (1\.000|0\.9\d\d)$", recorded, re.MULTILINE)
    assert masks == "masks.png\n"
    assert (tmp_path / "masks.png").stat().st_size > 10_000
    assert simulated.startswith("my_network:build on edge-npu: 12 frames, tile ")
    assert planned.startswith("72 rows; to do: 6 of 6 recordings, 72 simulations; nothing was written\nabout ")
    assert swept == "72 results in street\n\nnext: skipsim plot street\n"
    assert {Path(file).stem for file in drawn.split()} >= {"latency-accuracy", "speedup-mac-reduction", "gate-masks"}
    assert recommended.startswith("edge-npu: ")
