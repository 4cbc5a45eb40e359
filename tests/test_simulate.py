"""Does `simulate` answer what it was asked: tiles, updates, reference frames, residency, reports, helpful errors?"""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from skipsim.errors import InputError
from skipsim.hwmodels.area import area_mm2
from skipsim.hwmodels.energy import CONTROL, prices_pj
from skipsim.hwmodels.hardware import load_hardware, machines
from skipsim.simulator.baseline import WHOLE_MAP
from skipsim.simulator.counters import CAUSES
from skipsim.simulator.plan import Traffic
from skipsim.simulator.residency import dense_traffic, gated_traffic
from skipsim.simulator.simulate import parse_tile, simulate
from skipsim.simulator.tiles import W
from skipsim.traces.layer import Layer
from skipsim.traces.synthetic import synthetic_trace
from skipsim.traces.trace import Trace

PLAIN = load_hardware("systolic-32x32")
EDGE = load_hardware("edge-npu")
CHAIN = (
    Layer("stem", 3, 48, 40, 24, 24, 20, 3, 3, 2, 2, 1, 1),
    Layer("middle", 24, 24, 20, 40, 24, 20, 3, 3, padding_top=1, padding_left=1),
    Layer("depthwise", 40, 24, 20, 40, 24, 20, 3, 3, padding_top=1, padding_left=1, groups=40),
    Layer("head", 40, 24, 20, 17, 24, 20),
)


def clip(update: str = "recompute", reference_frames: tuple[int, ...] = (0,), frames: int = 3) -> Trace:
    return synthetic_trace(
        CHAIN, frames=frames, density=0.3, cluster_pixels=8, block=2, seed=4, update=update,
        reference_frames=reference_frames,
    )  # fmt: skip


# What a tile may be.


@pytest.mark.parametrize(
    ("tile", "meant"),
    [
        ((8, 4), (8, 4)), ([8, 4], (8, 4)), (8, (8, 8)), ("8x4", (8, 4)), ("8X4", (8, 4)), ("8", (8, 8)),
        ("full", WHOLE_MAP), ("auto", None),
    ],
)  # fmt: skip
def test_tiles_are_read(tile, meant):
    assert parse_tile(tile) == meant


BAD_TILES = [
    "0x4", "4x0", "-1x4", "8x", "x8", "axb", "8x8x8", "1.5", "", " ", "Full", (0, 4), (4,), (1, 2, 3), 0, -3, True,
    (True, 2), 1.5, (2.0, 2), None, frozenset(),
]  # fmt: skip


@pytest.mark.parametrize("tile", BAD_TILES, ids=repr)
def test_other_tiles_are_refused(tile):
    with pytest.raises(InputError) as error:
        simulate(clip(), EDGE, tile=tile)
    message = str(error.value)
    assert message.startswith("tile ")
    assert message.endswith(": must be ROWSxCOLUMNS of at least 1x1, 'full', 'auto' or 'per-layer'")
    assert "\n" not in message


def test_an_unknown_engine_names_the_nearest():
    with pytest.raises(InputError, match=r"engine 'fats' is unknown; did you mean 'fast'"):
        simulate(clip(), EDGE, engine="fats")


@pytest.mark.parametrize(
    ("trace_update", "machine_update", "choices"),
    [
        ("recompute", "difference", "auto, recompute"),
        ("recompute", "delta", "auto, recompute"),
        ("previous", "recompute", "auto, difference, delta"),
        ("accumulate", "recompute", "auto, difference, delta"),
    ],
)
def test_an_update_that_does_not_fit_the_trace_is_refused(trace_update, machine_update, choices):
    with pytest.raises(InputError) as error:
        simulate(clip(trace_update), EDGE.replace(**{"layer.update": machine_update}), tile=8)
    assert str(error.value) == (
        f"hardware 'edge-npu': layer.update = '{machine_update}' does not fit a trace of update '{trace_update}'; "
        f"choices: {choices}"
    )


@pytest.mark.parametrize("update", ["recompute", "previous", "accumulate"])
def test_auto_update_follows_the_trace(update):
    fitting = {"recompute": ["recompute"], "previous": ["difference", "delta"], "accumulate": ["difference", "delta"]}
    auto = simulate(clip(update), EDGE, tile=8)
    named = [simulate(clip(update), EDGE.replace(**{"layer.update": name}), tile=8) for name in fitting[update]]
    assert auto.cycles == named[0].cycles
    assert len({report.cycles for report in named}) == len(named), "the updates move different bytes"


# A tile that no buffer holds.

WIDE = Layer("wide", 4, 64, 64, 4, 64, 64, 3, 3, padding_top=1, padding_left=1, gate="mask")


def sparse(layer: Layer) -> Trace:
    mask = np.zeros((1, layer.grid_rows, layer.grid_cols), np.bool_)
    mask[0, 0, 0] = True
    return Trace.from_masks([layer], [mask])


@pytest.mark.parametrize(
    ("input_bytes", "largest"),
    # a 3x3 layer's n x n tile needs (n + 2)^2 bytes per channel in one of two halves, at most 64^2
    [(2 * 34**2, 32), (2 * 34**2 - 2, 16), (2 * 10**2, 8), (2 * 3**2, 1)],
)
def test_a_tile_too_large_names_the_largest_that_fits(input_bytes, largest):
    hardware = PLAIN.replace(**{"buffers.input_bytes": input_bytes})
    with pytest.raises(InputError) as error:
        simulate(sparse(WIDE), hardware, tile="full")
    assert str(error.value) == (
        f"tile 64x64 of layer 'wide' does not fit the buffers of 'systolic-32x32'; "
        f"the largest square tile that fits is {largest}x{largest}"
    )
    assert simulate(sparse(WIDE), hardware, tile=largest).active_tiles == 1
    with pytest.raises(InputError, match=f"the largest square tile that fits is {largest}x{largest}"):
        simulate(sparse(WIDE), hardware, tile=largest * 2)


@pytest.mark.parametrize(
    "buffers", [{"buffers.input_bytes": 17}, {"buffers.weight_bytes": 17}, {"buffers.output_bytes": 7}]
)
def test_a_layer_that_fits_at_no_tile_says_so(buffers):
    """A 1x1 tile needs 9 bytes of one input channel, 9 of one kernel, 4 of one sum; in one of two halves."""
    with pytest.raises(InputError, match="not even a 1x1 tile fits"):
        simulate(sparse(WIDE), PLAIN.replace(**buffers), tile=1)
    (key, size) = next(iter(buffers.items()))
    assert simulate(sparse(WIDE), PLAIN.replace(**{key: size + 1}), tile=1).active_tiles == 1


# Tile sizes that are chosen.


def test_auto_is_the_fastest_tile():
    trace = clip()
    auto = simulate(trace, EDGE, tile="auto")
    cycles = {tile: simulate(trace, EDGE, tile=tile).cycles for tile in ("full", 64, 32, 16, 8, 4, 2)}
    assert auto.cycles == min(cycles.values())
    assert simulate(trace, EDGE, tile=auto.tile).cycles == auto.cycles


def test_auto_leaves_out_what_does_not_fit():
    hardware = EDGE.replace(**{"buffers.input_bytes": 2 * 6**2 * 40})
    auto = simulate(clip(), hardware, tile="auto")
    with pytest.raises(InputError, match="does not fit"):
        simulate(clip(), hardware, tile="full")
    assert auto.cycles <= simulate(clip(), hardware, tile=4).cycles


def test_the_dense_schedule_is_at_least_as_fast_as_any_tile_for_all_layers():
    trace = clip()
    best = simulate(trace, EDGE, dense=True)
    for tile in ("full", 64, 32, 16, 8, 4, (4, 20), (8, 20)):
        assert best.cycles <= simulate(trace, EDGE, tile=tile, dense=True).cycles


# Layers without gates, and frames without gates.


@pytest.mark.parametrize("global_bytes", [0, 20_000, 40_000, 60_000])
@pytest.mark.parametrize("tile", ["full", 8])
def test_without_any_gate_there_is_only_the_dense_schedule(tile, global_bytes):
    """Nothing is gated, so nothing is kept from frame to frame: every number is that of the dense schedule.

    Input and output of the layers take 17,280 to 38,400 bytes, all outputs but the last 49,920.
    """
    layers = [replace(layer, gate="none") for layer in CHAIN]
    trace = Trace.from_masks(layers, [np.ones((2, layer.grid_rows, layer.grid_cols), np.bool_) for layer in layers])
    hardware = EDGE.replace(**{"buffers.global_bytes": global_bytes})
    report, dense = (simulate(trace, hardware, tile=tile, dense=only) for only in (False, True))
    assert report.layers.to_dict("list") == dense.layers.to_dict("list")
    assert report.energy == dense.energy


def test_a_layer_without_a_gate_runs_as_in_the_dense_schedule():
    gated = clip(reference_frames=())
    layers = [replace(layer, gate="none" if layer.name == "middle" else layer.gate) for layer in gated.layers]
    masks = [gated.masks(number) for number in range(4)]
    masks[1] = np.ones_like(masks[1])
    trace = Trace.from_masks(layers, masks)
    hardware = EDGE.replace(**{"buffers.global_bytes": 0, "gate.placement": "none"})
    dense = simulate(trace, hardware, dense=True).layers
    for tile in (2, 8):
        rows = simulate(trace, hardware, tile=tile).layers
        middle, everywhere = rows[rows["name"] == "middle"], dense[dense["name"] == "middle"]
        assert middle.to_dict("list") == everywhere.to_dict("list")
        others = rows[rows["name"] != "middle"]
        assert (others["cause_index"] > 0).all()
        assert (others["active_tiles"] < others["tiles"]).any()


def test_reference_frames_run_the_dense_schedule():
    hardware = EDGE.replace(**{"buffers.global_bytes": 0, "gate.placement": "none"})
    report = simulate(clip(reference_frames=(0, 2), frames=4), hardware, tile=4)
    rows, dense = report.layers, report.dense.layers
    for frame in (0, 2):
        assert rows[rows["frame"] == frame].to_dict("list") == dense[dense["frame"] == frame].to_dict("list")
    for frame in (1, 3):
        assert (rows[rows["frame"] == frame]["cause_index"] > 0).all()


def test_reference_frames_renew_what_the_gates_compare_with():
    """With a gate on the machine, every input map is also written as the new reference."""
    hardware = PLAIN.replace(**{"gate.placement": "fused"})
    report = simulate(clip(reference_frames=(0,)), hardware, tile=4)
    rows, dense = report.layers, report.dense.layers
    for layer, ours, theirs in zip(CHAIN, rows.itertuples(), dense.itertuples(), strict=False):
        inputs = layer.in_channels * layer.in_rows * layer.in_cols
        assert ours.dram_write_bytes == theirs.dram_write_bytes + inputs
        assert ours.dram_read_bytes == theirs.dram_read_bytes


def test_every_frame_depends_on_its_own_masks_only():
    trace = clip(reference_frames=(1,), frames=4)
    whole = simulate(trace, EDGE, tile=4).layers
    for frame in range(4):
        alone = Trace.from_masks(
            trace.layers,
            [trace.masks(number)[frame : frame + 1] for number in range(4)],
            reference_frames=(0,) if trace.reference(frame) else (),
        )
        rows = whole[whole["frame"] == frame].assign(frame=0)
        assert simulate(alone, EDGE, tile=4).layers.to_dict("list") == rows.to_dict("list")


# What stays on chip.

MAP = 16 * 8 * 8  # bytes of every map of the three layers below
MAPS = tuple(Layer(f"map{n}", 16, 8, 8, 16, 8, 8, 3, 3, padding_top=1, padding_left=1, gate="mask") for n in range(3))


def on_chip(traffic: list[Traffic]) -> list[str]:
    """Name what each layer keeps on chip by its first letter: input, output, reference."""
    return [
        "".join(
            letter
            for letter, in_dram in zip(
                "IOR", (one.input_in_dram, one.output_in_dram, one.reference_in_dram), strict=True
            )
            if not in_dram
        )
        for one in traffic
    ]


@pytest.mark.parametrize(
    ("size", "kept"), [(0, ["", "", ""]), (2 * MAP - 1, ["", "", ""]), (2 * MAP, ["O", "IO", "I"])]
)
def test_dense_maps_stay_between_two_layers_that_fit_with_them(size, kept):
    hardware = PLAIN.replace(**{"buffers.global_bytes": size})
    assert on_chip(dense_traffic(MAPS, hardware)) == kept


@pytest.mark.parametrize(
    ("size", "placement", "kept"),
    [
        # given masks: outputs are kept, layer after layer while there is room; the last one leaves
        (MAP - 1, "none", ["", "", ""]),
        (MAP, "none", ["OR", "I", ""]),
        (2 * MAP, "none", ["OR", "IOR", "I"]),
        (9 * MAP, "none", ["OR", "IOR", "I"]),
        # a gate on the machine: the reference input as well
        (2 * MAP - 1, "fused", ["", "", ""]),
        (2 * MAP, "fused", ["OR", "I", ""]),
        (4 * MAP, "fused", ["OR", "IOR", "I"]),
    ],
)
def test_state_stays_in_layer_order_while_there_is_room(size, placement, kept):
    hardware = PLAIN.replace(**{"buffers.global_bytes": size, "gate.placement": placement})
    trace = Trace.from_masks(MAPS, [np.ones((1, 8, 8), np.bool_)] * 3)
    assert on_chip(gated_traffic(trace, hardware)) == kept


def test_state_of_more_bits_takes_more_room():
    trace = Trace.from_masks(MAPS, [np.ones((1, 8, 8), np.bool_)] * 3, update="previous")
    changes = {"precision.state_bits": 32, "layer.update": "delta"}
    for size, kept in ((4 * MAP - 1, ["", "", ""]), (4 * MAP, ["OR", "I", ""])):
        hardware = PLAIN.replace(**changes, **{"buffers.global_bytes": size})
        assert on_chip(gated_traffic(trace, hardware)) == kept


def test_a_map_of_another_size_is_not_what_the_layer_before_wrote():
    layers = (MAPS[0], replace(MAPS[1], in_rows=16, in_cols=16, stride_rows=2, stride_cols=2), MAPS[2])
    hardware = PLAIN.replace(**{"buffers.global_bytes": 10 * MAP})
    assert on_chip(dense_traffic(layers, hardware)) == ["", "O", "I"]
    trace = Trace.from_masks(layers, [np.ones((1, 8, 8), np.bool_)] * 3)
    assert on_chip(gated_traffic(trace, hardware)) == ["OR", "OR", "I"]


def test_what_stays_on_chip_never_crosses_the_memory_port():
    hardware = PLAIN.replace(**{"buffers.global_bytes": 2 * MAP})
    trace = Trace.from_masks(MAPS, [np.ones((1, 8, 8), np.bool_)] * 3)
    for report in (simulate(trace, hardware, tile="full"), simulate(trace, hardware, tile="full", dense=True)):
        weights = 3 * 16 * 16 * 9
        assert report.dram_read_bytes == MAP + weights  # the clip's input
        assert report.dram_write_bytes == MAP  # the last output


# Reports.

DESIGN_TOTALS = {
    "cycles", "latency_ms", "energy_uj", "macs", "dense_macs", "dram_read_bytes", "dram_write_bytes",
}  # fmt: skip


def test_cores_and_frames_sum_to_the_clip():
    report = simulate(clip(), load_hardware("auto-npu"), tile=(4, 8))
    cores, frames = report.by_core, report.by_frame
    assert len(cores) == report.hardware.cores == 8
    assert (cores.sum(axis=1) == report.cycles).all()
    assert dict(cores.sum()) == report.causes
    assert frames["cycles"].sum() == report.cycles
    assert frames["energy_uj"].sum() == pytest.approx(report.energy_uj)
    assert report.to_dict()["causes_by_core"] == cores.to_dict("records")


def test_energy_has_a_part_for_control_that_counts_what_is_told_to_units():
    trace = clip()
    report = simulate(trace, EDGE, tile=(4, 8))
    prices, work = prices_pj(EDGE), report.work.sum(axis=(0, 1))
    counted = {name: int(work[W[name]]) for name in CONTROL}
    assert report.energy["control"] == pytest.approx(sum(prices[name] * n for name, n in counted.items()) * 1e-6)
    assert counted["commands"] == 3 * len(CHAIN) + int(work[W["passes"]])
    gated_blocks = sum(layer.grid_rows * layer.grid_cols for layer in trace.layers if layer.gate != "none")
    assert counted["scanned_blocks"] == 2 * gated_blocks * EDGE.cores  # the first frame is a reference
    assert counted["descriptors"] >= 2 * report.active_tiles  # one to read a tile, one to write it
    assert counted["segments"] >= counted["descriptors"]


DESIGN_LAYER = {"name", "frame", "cycles", "array_cycles", "tiles", "active_tiles", "density", "effective_density"}


def test_a_reports_numbers_belong_together():
    trace = clip()
    report = simulate(trace, EDGE, tile=(4, 8))
    dense, table = report.dense, report.layers
    assert report.tile == "4x8"
    assert (report.frames, dense.frames, dense.dense) == (3, 3, None)
    assert report.latency_ms == pytest.approx(report.cycles / 1e9 * 1e3)
    assert report.latency_ms_per_frame == pytest.approx(report.latency_ms / 3)
    assert report.speedup == pytest.approx(dense.cycles / report.cycles)
    assert report.mac_reduction == pytest.approx(trace.mac_reduction)
    assert report.realised == pytest.approx(report.speedup / report.mac_reduction)
    assert report.energy_uj == pytest.approx(sum(report.energy.values()))
    assert report.energy["mac"] == pytest.approx(report.computed_macs * prices_pj(EDGE)["macs"] * 1e-6)
    assert report.tiles == 3 * sum(-(-layer.out_rows // 4) * -(-layer.out_cols // 8) for layer in CHAIN) - sum(
        -(-layer.out_rows // 4) * -(-layer.out_cols // 8) for layer in CHAIN
    ) + int(table[table["frame"] == 0]["tiles"].sum())
    assert report.active_tiles == table["active_tiles"].sum() <= report.tiles
    assert list(table["name"]) == [layer.name for layer in CHAIN] * 3
    assert list(table["frame"]) == [0] * 4 + [1] * 4 + [2] * 4
    for number, row in enumerate(table.itertuples()):
        assert row.density == pytest.approx(trace.density(number % 4, number // 4))
        assert row.density <= row.effective_density <= 1
    assert 0 < report.density <= report.effective_density < 1
    assert dense.density == dense.effective_density == dense.mac_reduction == dense.speedup == 1
    assert report.area_mm2 > 0
    for text in ("edge-npu", "4x8", f"{report.speedup:.2f}"):
        assert text in repr(report)


def test_a_layer_called_twice_has_two_names():
    layers = [CHAIN[1], replace(CHAIN[1], call=1)]
    trace = Trace.from_masks(layers, [np.ones((1, 24, 20), np.bool_)] * 2)
    assert list(simulate(trace, PLAIN).layers["name"]) == ["middle", "middle@1"]


@pytest.mark.parametrize("only_dense", [False, True])
def test_the_json_form_has_designs_keys(only_dense):
    report = simulate(clip(), EDGE, tile=4, dense=only_dense)
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["total"].keys() >= DESIGN_TOTALS
    assert data["dense"].keys() == data["total"].keys()
    assert data.keys() >= {"speedup", "mac_reduction", "realised", "layers"}
    assert len(data["layers"]) == 12
    for row in data["layers"]:
        assert row.keys() >= DESIGN_LAYER
        assert tuple(row["causes"]) == CAUSES
        assert sum(row["causes"].values()) == row["cycles"] * EDGE.cores
    assert data["total"]["cycles"] == report.cycles == sum(row["cycles"] for row in data["layers"])
    assert [row["frame"] for row in data["by_frame"]] == list(range(report.frames))
    for row in data["by_frame"]:
        assert row["cycles"] == sum(layer["cycles"] for layer in data["layers"] if layer["frame"] == row["frame"])
        assert sum(row["causes"].values()) == row["cycles"] * EDGE.cores
    assert data["area_mm2"] == area_mm2(EDGE)["total"]
    assert data["dense"]["cycles"] == (report.cycles if only_dense else report.dense.cycles)
    assert all(re.fullmatch(r"[a-z_0-9]+", key) for key in data)


# Both engines behind the same door.


def fitting_updates(name: str) -> tuple[str, ...]:
    """Return the update forms of traces that a machine can run; one built for a single form fits no other."""
    fixed = {"recompute": ("recompute",), "difference": ("previous", "accumulate"), "delta": ("previous", "accumulate")}
    return fixed.get(load_hardware(name).layer.update, ("recompute", "previous", "accumulate"))


@pytest.mark.parametrize(
    ("name", "update"),
    [
        (name, update)
        for name in machines()
        if load_hardware(name).processor is None  # a measured one has no engine
        for update in fitting_updates(name)
    ],
)
def test_both_engines_give_the_same_report(name, update):
    trace, hardware = clip(update), load_hardware(name)
    for tile in (2, "full"):
        ours, theirs = (simulate(trace, hardware, tile=tile, engine=engine) for engine in ("fast", "reference"))
        for one, other in ((ours, theirs), (ours.dense, theirs.dense)):
            assert np.array_equal(one.cycles_by_stage, other.cycles_by_stage)
            assert np.array_equal(one.causes_by_stage, other.causes_by_stage)
            assert np.array_equal(one.work, other.work)
        assert ours.to_dict() == theirs.to_dict()


@pytest.mark.parametrize("name", machines())
def test_a_trace_runs_on_every_machine(name):
    report = simulate(clip(fitting_updates(name)[0]), load_hardware(name), tile="auto")
    assert report.cycles > 0
    assert report.dense.cycles > 0
    assert report.mac_reduction > 1
