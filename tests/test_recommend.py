"""Is the recommended configuration the fastest allowed one, and do its words add up?"""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
import pytest

from skipsim.analysis.recommend import recommend
from skipsim.analysis.results import make_table
from skipsim.errors import InputError

DENSE_MS = 2.0


def row(block: str, tile: str, latency_ms: float, drop: float, **more: Any) -> dict[str, Any]:
    """Return a row of a machine whose array computes 80 % of the dense cycles and waits for memory in 20 %."""
    return {
        "network": "net", "clip": "a", "gate": "input_norm", "threshold": 0.1, "block": block, "update": "recompute",
        "reset_every": 0, "hardware": "chip", "tile": tile, "chosen_tile": tile, "quality_metric": "pck@0.05",
        "quality": 0.95 - drop / 100, "dense_quality": 0.95, "quality_drop": drop, "density": 0.4,
        "effective_density": 0.5, "mac_reduction": 2.5, "speedup": DENSE_MS / latency_ms,
        "realised": DENSE_MS / latency_ms / 2.5, "latency_ms": latency_ms, "dense_latency_ms": DENSE_MS,
        "energy_uj": 60.0, "dense_energy_uj": 100.0, "cause_compute_share": 0.5, "cause_gather_transfer_share": 0.25,
        "cause_gather_queue_share": 0.15, "cause_launch_share": 0.1, "dense_cause_compute_share": 0.8,
        "dense_cause_gather_transfer_share": 0.2,
        **dict.fromkeys(ZEROS, 0.0), **more,
    }  # fmt: skip


ZEROS = (
    *(f"cause_{name}_share" for name in ("gate", "index", "weights", "gather_issue", "gather_latency", "scatter")),
    "cause_barrier_share",
    *(f"dense_cause_{name}_share" for name in ("launch", "gate", "index", "weights", "gather_issue", "gather_queue")),
    *(f"dense_cause_{name}_share" for name in ("gather_latency", "scatter", "barrier")),
)


def table(*rows: dict[str, Any], overrides: tuple[str, ...] = ()) -> pd.DataFrame:
    return make_table(rows, overrides)


def test_the_fastest_within_the_drop() -> None:
    rows = table(
        row("1x1", "4x4", 1.5, 0.1),
        row("4x4", "4x4", 1.25, 1.0),  # exactly as much as is allowed
        row("4x4", "8x8", 1.4, 0.9),
        row("8x8", "8x8", 1.0, 1.01),
        row("8x8", "4x4", 0.5, 9.0),
        row("2x2", "2x2", 0.1, 0.0, error="does not fit"),
        row("1x1", "2x2", 0.2, 0.0, violates="latency_ms >= 1"),
        row("2x2", "2x2", 0.1, 0.0, hardware="other chip"),
    )
    best = recommend(rows, "chip", 1.0)
    assert (best.configuration["block"], best.configuration["tile"]) == ("4x4", "4x4")
    assert best.row["speedup"] == pytest.approx(1.6)
    assert recommend(rows, "chip", 0.5).configuration["block"] == "1x1"
    assert recommend(rows, "chip", 2).configuration["block"] == "8x8"
    assert recommend(rows, "other chip").configuration["block"] == "2x2"


def test_of_equally_fast_ones_the_most_accurate() -> None:
    rows = table(row("1x1", "4x4", 1.0, 0.8), row("4x4", "4x4", 1.0, 0.2), row("8x8", "4x4", 1.0, 0.5))
    assert recommend(rows, "chip").configuration["block"] == "4x4"


def test_the_difference_is_shared_out_exactly() -> None:
    best = recommend(table(row("4x4", "8x8", 1.25, 0.5)), "chip")
    # 62.5 of 100 dense cycles are left, 40 if time followed the MACs
    assert best.proportional_cycles == pytest.approx(40)
    assert best.gated_cycles["array computes"] == pytest.approx(0.5 * 62.5)
    assert best.gated_cycles["memory transfer"] == pytest.approx(0.4 * 62.5)
    assert best.dense_cycles["memory transfer"] == pytest.approx(20)
    assert best.excess_cycles["array computes"] == pytest.approx(0.5 * 62.5 - 80 / 2.5)
    assert best.excess_cycles["memory transfer"] == pytest.approx(0.4 * 62.5 - 20 / 2.5)
    assert best.excess_cycles["starting layers"] == pytest.approx(0.1 * 62.5)
    assert sum(best.excess_cycles.values()) == pytest.approx(62.5 - 40)


def test_words() -> None:
    best = recommend(table(row("4x4", "8x8", 1.25, 0.5)), "chip")
    assert best.worthwhile
    assert best.words().splitlines() == [
        "chip: block 4x4, tile 8x8, threshold 0.1 (input_norm gate, update recompute)",
        "  pck@0.05 94.50%, dense 95.00%: 0.50 points lost, 1 allowed.",
        "  MAC reduction 2.50x, speed-up 1.60x (1.25 ms a frame, dense 2 ms), energy 60% of dense.",
        "  64% of the MAC reduction is realised: of 100 dense cycles 40.0 would be left if time followed the MACs, "
        "62.5 are.",
        "  The difference of +22.5: memory transfer +17.0, starting layers +6.2, array computes -0.8.",
        "  The gates ask for 40.0% of the MACs; 8x8 tiles compute 50.0%.",
        "  Of 100 cycles with gates: array computes 50, memory transfer 40, starting layers 10.",
    ]


def test_words_when_nothing_is_faster() -> None:
    best = recommend(table(row("4x4", "auto", 2.5, -0.2, chosen_tile="16x16", reset_every=8)), "chip", 0)
    assert not best.worthwhile
    first, second, *_ = best.words().splitlines()
    assert first == (
        "chip: stay dense; nothing allowed is faster. The best with gates: block 4x4, tile 16x16, threshold 0.1 "
        "(input_norm gate, update recompute, reset every 8 frames)"
    )
    assert second.endswith("nothing lost, 0 allowed.")


def test_without_accuracy_everything_is_allowed() -> None:
    unknown = {"quality": math.nan, "dense_quality": math.nan, "quality_metric": "", "threshold": math.nan}
    rows = table(row("1x1", "4x4", 1.5, math.nan, **unknown), row("4x4", "full", 1.2, math.nan, **unknown))
    best = recommend(rows, "chip")
    assert best.configuration["block"] == "4x4"
    assert best.words().splitlines()[:2] == [
        "chip: block 4x4, tile full (input_norm gate, update recompute)",
        "  Accuracy was not measured.",
    ]
    assert "tiles of the whole map compute 50.0%" in best.words()


def test_a_row_without_accuracy_among_others_is_not_allowed() -> None:
    rows = table(row("1x1", "4x4", 1.5, 0.5), row("4x4", "4x4", 1.2, math.nan))
    assert recommend(rows, "chip").configuration["block"] == "1x1"


def test_clips_are_averaged() -> None:
    rows = table(
        row("1x1", "4x4", 1.0, 0.0),
        row("1x1", "4x4", 1.0, 3.0, clip="b"),  # fast, but 1.5 points on average
        row("4x4", "4x4", 1.2, 1.8),
        row("4x4", "4x4", 1.6, 0.0, clip="b"),
    )
    best = recommend(rows, "chip")
    assert best.configuration["block"] == "4x4"
    assert best.row["latency_ms"] == pytest.approx(1.4)
    assert best.row["quality_drop"] == pytest.approx(0.9)
    assert best.row["speedup"] == pytest.approx(2 / 1.4)


def test_overridden_keys_are_named() -> None:
    rows = table(
        row("1x1", "4x4", 1.5, 0.5, **{"dram.bytes_per_cycle": 8}),
        row("1x1", "4x4", 1.2, 0.5, **{"dram.bytes_per_cycle": 16}),
        overrides=("dram.bytes_per_cycle",),
    )
    best = recommend(rows, "chip")
    assert best.configuration["dram.bytes_per_cycle"] == 16
    assert "dram.bytes_per_cycle = 16)" in best.words().splitlines()[0]


def test_the_data_are_json() -> None:
    rows = table(row("4x4", "8x8", 1.25, math.nan, threshold=math.nan), overrides=())
    data = recommend(rows, "chip").to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["configuration"] == {
        "block": "4x4", "tile": "8x8", "threshold": None, "gate": "input_norm", "update": "recompute", "reset_every": 0
    }  # fmt: skip
    assert (data["speedup"], data["quality_drop"], data["worthwhile"]) == (pytest.approx(1.6), None, True)


def test_bad_input() -> None:
    rows = table(
        row("1x1", "4x4", 1.5, 1.5), row("4x4", "4x4", 1.2, 2.5), row("1x1", "4x4", 1, 0, hardware="b", error="x")
    )
    with pytest.raises(InputError, match="no hardware 'chop' in the table; did you mean 'chip'"):
        recommend(rows, "chop")
    with pytest.raises(InputError, match=r"every configuration of 'chip' loses more than 1 points; the least is 1\.50"):
        recommend(rows, "chip")
    with pytest.raises(InputError, match="max_drop must be a number of points >= 0, got -1"):
        recommend(rows, "chip", -1)
    with pytest.raises(InputError, match="all 1 rows of 'b' failed"):
        recommend(rows, "b")
    both = table(row("1x1", "4x4", 1.5, 0), row("1x1", "4x4", 1.2, 0, network="other"))
    with pytest.raises(InputError, match="several networks; name one of: net, other"):
        recommend(both, "chip")
    assert recommend(both, "chip", network="net").row["latency_ms"] == 1.5
    with pytest.raises(InputError, match="no network 'nat' in the table; did you mean 'net'"):
        recommend(both, "chip", network="nat")


def test_budgets_of_latency_and_energy_lose_as_little_as_possible() -> None:
    rows = table(
        row("1x1", "4x4", 1.5, 0.1, energy_uj=90.0),
        row("4x4", "4x4", 1.2, 0.9, energy_uj=70.0),
        row("8x8", "8x8", 1.0, 3.0, energy_uj=50.0),
    )
    assert recommend(rows, "chip", max_latency_ms=1.3).configuration["block"] == "4x4"
    assert recommend(rows, "chip", max_energy_uj=60).configuration["block"] == "8x8"
    assert recommend(rows, "chip", max_latency_ms=2).configuration["block"] == "1x1"
    assert recommend(rows, "chip", 5, max_energy_uj=80).configuration["block"] == "8x8"  # a drop is given: the fastest
    unlimited = recommend(rows, "chip", max_latency_ms=1.3)
    assert unlimited.to_dict()["max_drop"] is None
    assert unlimited.words().splitlines()[1].endswith("0.90 points lost.")
    with pytest.raises(InputError, match=r"'chip' that is left takes more than latency_ms = 0\.5; the least is 1"):
        recommend(rows, "chip", max_latency_ms=0.5)
    with pytest.raises(InputError, match="max_energy_uj must be a number >= 0, got -1"):
        recommend(rows, "chip", max_energy_uj=-1)


def test_whose_mask_a_layer_takes_is_named_where_it_varies() -> None:
    rows = table(row("4x4", "4x4", 1.5, 0.1, share=""), row("4x4", "4x4", 1.2, 0.1, share="block"))
    best = recommend(rows, "chip", 1.0)
    assert best.configuration["share"] == "block"
    assert "share = block" in best.headline()
    own = recommend(rows.assign(latency_ms=[1.2, 1.5], speedup=[1.7, 1.3]), "chip", 1.0)
    assert own.configuration["share"] == ""
    assert "share" not in own.headline()
    assert "share" not in recommend(rows[:1], "chip", 1.0).configuration
