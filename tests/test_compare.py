"""Does the comparison of two studies pair the right rows and say by how much they differ?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from skipsim.analysis.cli import main
from skipsim.analysis.compare import compare
from skipsim.analysis.results import make_table, write_results
from skipsim.analysis.running.machines import save_machines
from skipsim.errors import InputError
from skipsim.hwmodels.hardware import load_hardware
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace


def row(tile: str, latency: float, drop: float = 0.0, **others: Any) -> dict[str, Any]:
    row = {"network": "n", "clip": "c", "block": "4x4", "block_rows": 4, "block_cols": 4, "threshold": 0.1}
    row |= {"hardware": "h", "tile": tile, "latency_ms": latency, "quality_drop": drop, "energy_uj": 5.0}
    return row | others


def write(folder: Path, rows: list[dict[str, Any]], overrides: tuple[str, ...] = (), study: str = "s") -> Path:
    folder.mkdir()
    write_results(folder, [make_table([{"study": study, **one} for one in rows], overrides)])
    return folder


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    before = [row("2x2", 8.0), row("4x4", 10.0, 1.0), row("8x8", 5.0), row("16x16", 1.0), row("full", 3.0)]
    after = [
        row("full", 2.0, error="broken"),
        row("8x8", 5.0 + 1e-12, model_version=99),
        row("4x4", 15.0, 0.25),
        row("2x2", 6.0),
        row("32x32", 1.0),
    ]
    return write(tmp_path / "before", before), write(tmp_path / "after", after, study="renamed")


def test_rows_are_joined_on_what_they_are(two: tuple[Path, Path]) -> None:
    found = compare(*two)
    rows = found.rows.set_index("tile")
    assert rows["state"].to_dict() == {
        "2x2": "changed",
        "4x4": "changed",
        "8x8": "same",
        "16x16": "only before",
        "full": "failed after",
        "32x32": "only after",
    }
    assert rows.loc["2x2", "latency_ms_change"] == pytest.approx(6 / 8 - 1)
    assert rows.loc["4x4", ["latency_ms_before", "latency_ms_after"]].tolist() == [10, 15]
    assert rows.loc["4x4", "quality_drop_change"] == pytest.approx(-0.75), "points are subtracted"
    assert rows.loc["4x4", "energy_uj_change"] == 0
    assert rows.loc["full", "error_after"] == "broken"
    assert found.states == {"changed": 2, "same": 1, "only before": 1, "only after": 1, "failed after": 1}


def test_words_and_json(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    def answer(*options: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["compare", *map(str, two), *options])
        assert ended.value.code == 0
        return capsys.readouterr().out

    said = answer()
    assert "2 changed" in said
    lines = [line.split() for line in said.splitlines()]
    assert ["latency_ms", "2", "-25.00%", "+12.50%", "+50.00%"] in lines
    assert ["quality_drop", "1", "-0.75", "-0.75", "-0.75"] in lines
    assert lines[-2] == ["4x4", "10", "->", "15", "+50.00%", "1", "->", "0.25", "-0.75"]
    data = json.loads(answer("--json"))
    assert data["states"]["changed"] == 2
    assert data["model_versions"][1][-1] == 99
    assert {one["tile"]: one["latency_ms_change"] for one in data["rows"]}["4x4"] == pytest.approx(0.5)


def test_an_axis_of_both_is_part_of_the_key_and_one_of_a_single_study_is_not(tmp_path: Path) -> None:
    cores, twice = "cores", "dram.bytes_per_cycle"
    a = write(tmp_path / "a", [row("4x4", 1.0, cores=n) for n in (1, 2)], (cores,))
    b = write(tmp_path / "b", [row("4x4", 2.0 * n, **{cores: n, twice: 8}) for n in (1, 2)], (cores, twice))
    assert compare(a, b).rows["latency_ms_change"].tolist() == pytest.approx([1, 3])
    c = write(tmp_path / "c", [row("4x4", 1.0)])
    with pytest.raises(InputError, match="a varies 'cores' and the other study does not: no row"):
        compare(a, c)


def test_nothing_to_compare(two: tuple[Path, Path], tmp_path: Path) -> None:
    other = write(tmp_path / "other", [row("4x4", 1.0, network="m")])
    with pytest.raises(InputError, match="share no configuration"):
        compare(two[0], other)
    with pytest.raises(InputError, match="no such folder"):
        compare(two[0], tmp_path / "absent")
    doubled = write(tmp_path / "doubled", [row("4x4", 1.0), row("4x4", 2.0)])
    with pytest.raises(InputError, match="doubled has several rows of one configuration"):
        compare(two[0], doubled)


def test_results_of_a_version_without_constraints_can_still_be_read(tmp_path: Path) -> None:
    old = write(tmp_path / "old", [row("4x4", 1.0)])
    table = make_table([{"study": "s", **row("4x4", 2.0)}]).drop(columns=["violates", "on_front"])
    (tmp_path / "new").mkdir()
    write_results(tmp_path / "new", [table])
    found = compare(tmp_path / "new", old)
    assert found.rows["latency_ms_change"].tolist() == [-0.5]
    assert isinstance(found.rows, pd.DataFrame)


# --- what stands behind the names


def made_from(folder: Path, network: str, weights: str, frames: str, bandwidth: float) -> None:
    """Lay down a provenance, a trace that says what it was recorded from, and a machine."""
    layer = Layer("conv", 3, 8, 8, 4, 8, 8)
    origin = {"kind": "recorded", "weights_sha256": weights, "frames_sha256": frames}
    Trace.from_masks([layer], [np.ones((1, 8, 8), bool)], origin=origin).save(folder / "traces" / "one.trace")
    content = {"network": ["n", network]}
    entry = {"trace": "traces/one.trace", "trace_hash": "0", "clip": "/somewhere/c.mp4", "content": content}
    about = {"skipsim": "0.1.0", "python": "3.11.7", "packages": {"numpy": "2.4.6"}, "recordings": [entry]}
    (folder / "provenance.json").write_text(json.dumps(about))
    machine = load_hardware("edge-npu").replace(**{"dram.bytes_per_cycle": bandwidth})
    save_machines(folder, [machine])


def test_what_was_behind_the_names_is_said_on_top(two: tuple[Path, Path]) -> None:
    for folder in two:
        made_from(folder, "aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc", 8)
    assert compare(*two).origins == ()
    made_from(two[1], "dddddddddd", "eeeeeeeeee", "ffffffffff", 16)
    about = json.loads((two[1] / "provenance.json").read_text())
    (two[1] / "provenance.json").write_text(json.dumps(about | {"skipsim": "0.2.0", "packages": {"numpy": "2.5.0"}}))
    lines = [
        "skipsim 0.1.0 -> 0.2.0",
        "numpy 2.4.6 -> 2.5.0",
        "definitions of network n differ: sha256 aaaaaaaa... -> dddddddd...",
        "weights of network n differ: sha256 bbbbbbbb... -> eeeeeeee...",
        "frames of clip c.mp4 differ: sha256 cccccccc... -> ffffffff...",
        "machine edge-npu: dram.bytes_per_cycle 8.0 -> 16.0",
    ]
    found = compare(*two)
    assert list(found.origins) == lines == found.to_dict()["origins"]
    said = found.words().splitlines()
    place = said.index("not made from the same:")
    assert [line.strip() for line in said[place + 1 : place + 7]] == lines
    assert place < said.index(next(line for line in said if line.startswith("metric")))
