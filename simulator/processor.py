"""A trace on a measured processor: counted work x fitted coefficients, as the Report that every machine gives.

The cycles of a stage are nanoseconds at `clock_hz`. Their causes are those of the accelerators: launch; gate; index
(blocks looked at, blocks computed); weights; gather_issue (pixels and runs of them); gather_transfer and gather_latency
(input bytes, and the first access to a run); compute (register tiles and their multiply-adds); scatter (output bytes).
Nothing overlaps: overlap is in the coefficients, which were fitted to whole calls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError
from skipsim.hwmodels.anchor import Anchor, anchor_of
from skipsim.hwmodels.hardware import Hardware
from skipsim.hwmodels.kernel_paths import KERNELS
from skipsim.hwmodels.kernel_work import (
    FLOAT_BYTES,
    LayerClass,
    LayerShape,
    Residency,
    StageName,
    Work,
    change_work,
    combine_work,
    decide_work,
    dense_work,
    features,
    list_work,
    move_work,
    watch_work,
)
from skipsim.hwmodels.mask_pixels import (
    START_BYTES,
    Counts,
    Masks,
    Touched,
    coarsen,
    computed_pixels,
    segments,
    tile_pixels,
)
from skipsim.hwmodels.processor import Cost, Processor, residency_of
from skipsim.simulator.baseline import WHOLE_MAP
from skipsim.simulator.clip_cost import clip_cost_of_arrays
from skipsim.simulator.counters import CAUSES, C
from skipsim.simulator.plan import Tile, Tiling
from skipsim.simulator.report import Report
from skipsim.simulator.schedule import tile_name, tiles_by_layer
from skipsim.simulator.tiles import WORK_COLUMNS, W
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace

AUTO_SIZES = (64, 32, 16, 8, 4, 2, 1)
CAUSE_OF = {
    "launch_ns": "launch",
    "memory_launch_ns": "launch",
    "ns_per_block": "index",
    "ns_per_tile": "index",
    "ns_per_pixel": "gather_issue",
    "ns_per_segment": "gather_issue",
    "ns_per_register_tile": "compute",
    "ns_per_tap": "compute",
    "ns_per_mac": "compute",
    "ns_per_element": "gate",
    "ns_per_cached_input_byte": "gather_transfer",
    "ns_per_memory_input_byte": "gather_transfer",
    "ns_per_memory_run": "gather_latency",
    "ns_per_memory_start_byte": "gather_latency",
    "ns_per_cached_output_byte": "scatter",
    "ns_per_memory_output_byte": "scatter",
    "ns_per_cached_weight_byte": "weights",
    "ns_per_memory_weight_byte": "weights",
    "ns_per_memory_panel": "weights",
    "ns_per_exposed_weight_byte": "weights",
}


@dataclass(frozen=True)
class Stages:
    """Stages of one layer, one per frame: nanoseconds by cause and columns of work."""

    causes_ns: NDArray[np.float64]  # [frames, causes]
    work: NDArray[np.int64]  # [frames, work columns]


def simulate_processor(trace: Trace, hardware: Hardware, tile: Tile | Tiling | str | None, dense: bool) -> Report:
    """Predict a trace on a measured machine.

    `tile`: one for all gated layers; one for each by label; "per-layer": each at its own fastest; None: the fastest.
    """
    processor = hardware.processor
    assert processor is not None, "only for machines with a [processor]"
    _check(trace, hardware)
    footprint = processor.footprint_bytes or network_bytes(trace.layers)
    anchor = anchor_of(processor.anchors, trace.layers)
    whole = [dense_stages(layer, processor, footprint, trace.frames, anchor) for layer in trace.layers]
    baseline = _report(hardware, trace, "dense", whole, None)
    if dense:
        return baseline
    sizes = [WHOLE_MAP, *((size, size) for size in AUTO_SIZES if size >= _finest(trace))]
    run = partial(_gated, trace, hardware, footprint, whole, anchor)
    if tile is None:
        reports = [_report(hardware, trace, tile_name(size), run(size), baseline) for size in sizes]
        return min(reports, key=lambda report: report.cycles)  # of equally fast ones the largest tile
    if isinstance(tile, tuple):
        return _report(hardware, trace, tile_name(tile), run(tile), baseline)
    tiling = _best_tiling(trace, sizes, [run(size) for size in sizes]) if isinstance(tile, str) else tile
    return replace(_report(hardware, trace, "per-layer", run(tiling), baseline), tiling=tiling)


def _best_tiling(trace: Trace, sizes: list[Tile], stages: list[list[Stages]]) -> Tiling:
    """Return every gated layer's fastest tile, by label."""
    return {
        layer.label: min(zip(sizes, column, strict=True), key=lambda found: float(found[1].causes_ns.sum()))[0]
        for layer, *column in zip(trace.layers, *stages, strict=True)
        if layer.gate != "none"
    }


def network_bytes(layers: tuple[Layer, ...]) -> float:
    """Return what a network touches between two uses of the same byte: weights, inputs, references and outputs."""
    shapes = [LayerShape.of(layer) for layer in layers]
    return float(sum(shape.weight_bytes + 2 * shape.in_bytes + shape.out_bytes for shape in shapes))


def causes_ns(work: Work, cost: Cost, residency: Residency) -> NDArray[np.float64]:
    """Return nanoseconds by cause, [frames, causes]."""
    causes = np.zeros((len(work.calls), len(CAUSES)))
    for name, amount in features(work, residency).items():
        causes[:, C[CAUSE_OF[name]]] += amount * getattr(cost, name)
    return causes


def dense_stages(
    layer: Layer, processor: Processor, footprint_bytes: float, frames: int, anchor: Anchor | None = None
) -> Stages:
    """Return the dense layer: as it was measured, if its shape was; otherwise the fitted sum, by class.

    With an anchor, all of them together take what the dense network took.
    """
    shape = LayerShape.of(layer)
    residency, work = residency_of(shape, processor.peaks, footprint_bytes), dense_work(shape, frames)
    causes = causes_ns(work, cost_of(processor.dense, shape, "dense"), residency)
    measured = processor.dense_layers_ns.get(shape.name)
    if measured is not None:
        causes *= measured / causes.sum(axis=1, keepdims=True)
    if anchor is not None:
        causes *= anchor.dense_scale
    pixels = np.full(frames, float(layer.out_pixels))
    return Stages(causes, _columns(layer, work, causes, residency, pixels, pixels, gate_macs=0, tiles=1))


def gated_stages(
    layer: Layer,
    processor: Processor,
    placement: str,
    masks: Masks,
    tile: Tile,
    footprint_bytes: float,
    anchor: Anchor | None = None,
) -> Stages:
    """Return a gated layer on every frame: gate, then the kernel on the tiles that its mask touches."""
    shape = LayerShape.of(layer)
    tile = min(tile[0], layer.out_rows), min(tile[1], layer.out_cols)
    residency = residency_of(shape, processor.peaks, footprint_bytes)
    tiles = coarsen(masks, shape, (layer.block_rows, layer.block_cols), tile)
    work = KERNELS[processor.path](shape, tiles, tile, processor.registers)
    causes = causes_ns(work, cost_of(processor.kernels[processor.path], shape, processor.path), residency)
    if processor.path == "compiled":  # the others make their own lists
        causes[:, C["index"]] += causes_ns(list_work(shape, tiles, tile), stage_of(processor, "list"), residency).sum(1)
    causes[:, C["gate"]] += _gate_ns(layer, shape, processor, placement, tiles, tile, residency)
    if anchor is not None:
        causes *= anchor.scales[shape.name]
    asked = computed_pixels(masks, shape, (layer.block_rows, layer.block_cols))
    done = computed_pixels(tiles, shape, tile)
    columns = _columns(layer, work, causes, residency, asked, done, layer.gate_macs, tiles[0].size)
    return Stages(causes, columns)


def every_position_ms(layers: tuple[Layer, ...], hardware: Hardware) -> float:
    """Return milliseconds per frame of the gated layers' own kernels where they compute every position, without gates.

    Dense layers run in PyTorch; the difference is what a speed-up owes to the kernels alone.
    """
    processor = hardware.processor
    assert processor is not None, "only for machines with a [processor]"
    footprint = processor.footprint_bytes or network_bytes(layers)
    anchor = anchor_of(processor.anchors, layers)
    spent_ns = 0.0
    for layer in layers:
        if layer.gate == "none":
            one = dense_stages(layer, processor, footprint, 1, anchor)
        else:
            masks = np.ones((1, layer.grid_rows, layer.grid_cols), np.bool_)
            one = gated_stages(layer, processor, "none", masks, WHOLE_MAP, footprint, anchor)
        spent_ns += float(one.causes_ns.sum())
    return spent_ns * 1e-6


def cost_of(costs: dict[LayerClass, Cost], shape: LayerShape, what: str) -> Cost:
    """Return the coefficients of a layer's class."""
    if shape.kind not in costs:
        raise InputError(f"processor: {what} was not measured on {shape.kind} layers; choices: {', '.join(costs)}")
    return costs[shape.kind]


def _gate_ns(
    layer: Layer, shape: LayerShape, processor: Processor, placement: str, tiles: Masks, tile: Tile, where: Residency
) -> NDArray[np.float64]:
    """Return nanoseconds per frame of comparing, deciding and moving references; a user's mask costs nothing."""
    frames = len(tiles)
    if placement == "none" or layer.gate in ("none", "mask"):
        return np.zeros(frames)
    if layer.gate == "gumbel":
        head = replace(shape, out_channels=1, groups=1)
        cost = cost_of(processor.dense, head, "dense")
        return np.asarray(causes_ns(dense_work(head, frames), cost, where).sum(axis=1))
    # what the layer before has computed: taken to be as large a share of its map
    fresh = computed_pixels(tiles, shape, tile) / layer.out_pixels * (layer.in_rows * layer.in_cols)
    fused, runs = placement == "fused", segments(tiles, shape, tile)
    starts = np.minimum(fresh * layer.in_channels * FLOAT_BYTES, runs * START_BYTES)
    works: dict[StageName, Work] = {
        "decide": decide_work(shape, tiles, tile),
        "move": move_work(shape, tiles, tile),
        "watch" if fused else "change": (
            watch_work(shape, tiles, tile) if fused else change_work(Touched(fresh, runs, starts), layer.in_channels)
        ),
    }
    spent = [causes_ns(work, stage_of(processor, name), where) for name, work in works.items()]
    return np.asarray(np.sum(spent, axis=(0, 2)))


def stage_of(processor: Processor, name: StageName) -> Cost:
    """Return the coefficients of a stage around the convolutions."""
    if name not in processor.stages:
        raise InputError(f"processor: stage {name!r} was not measured; choices: {', '.join(processor.stages)}")
    return processor.stages[name]


def _gated(
    trace: Trace,
    hardware: Hardware,
    footprint_bytes: float,
    dense: list[Stages],
    anchor: Anchor | None,
    tile: Tile | Tiling,
) -> list[Stages]:
    """Return every layer's stages; dense on reference frames, without a gate, and where that is faster on average."""
    processor = hardware.processor
    assert processor is not None
    reference = np.array([trace.reference(frame) for frame in range(trace.frames)])
    sizes = (
        dict(tiles_by_layer(trace.layers, tile)) if not isinstance(tile, tuple) else dict.fromkeys(trace.layers, tile)
    )
    stages = []
    for number, (layer, whole) in enumerate(zip(trace.layers, dense, strict=True)):
        size = sizes[layer]
        if layer.gate == "none" or reference.all() or size is None:
            stages.append(whole)
            continue
        one = gated_stages(
            layer, processor, hardware.gate.placement, trace.masks(number), size, footprint_bytes, anchor
        )
        gated = ~reference
        if processor.fallback and one.causes_ns[gated].sum() > whole.causes_ns[gated].sum():
            stages.append(whole)
            continue
        stages.append(
            Stages(
                np.where(reference[:, None], whole.causes_ns, one.causes_ns),
                np.where(reference[:, None], whole.work, one.work),
            )
        )
    if anchor is None or not any(one is not whole for one, whole in zip(stages, dense, strict=True)):
        return stages
    rest_ns = np.where(reference, 0.0, anchor.rest_of(copies_ns(trace, processor, footprint_bytes)))
    return _with_rest(stages, rest_ns)


def copies_ns(trace: Trace, processor: Processor, footprint_bytes: float) -> NDArray[np.float64]:
    """Return what copying every layer's computed outputs would take, [frames]: what sums between layers grow like."""
    spent = np.zeros(trace.frames)
    for number, layer in enumerate(trace.layers):
        shape, block = LayerShape.of(layer), (layer.block_rows, layer.block_cols)
        where = residency_of(shape, processor.peaks, footprint_bytes)
        touched = Touched.of(tile_pixels(trace.masks(number), shape, block), layer.out_channels * FLOAT_BYTES)
        work = combine_work(layer.out_channels, 1, touched)
        spent += causes_ns(work, stage_of(processor, "combine"), where).sum(axis=1)
    return spent


def _with_rest(stages: list[Stages], rest_ns: NDArray[np.float64]) -> list[Stages]:
    """Add what belongs to no layer: every layer and cause takes it in proportion to its own time."""
    layers_ns = sum(one.causes_ns.sum(axis=1) for one in stages)
    growth = 1 + rest_ns[:, None] / np.maximum(layers_ns, 1e-9)[:, None]
    return [replace(one, causes_ns=one.causes_ns * growth) for one in stages]


def _columns(
    layer: Layer,
    work: Work,
    causes: NDArray[np.float64],
    residency: Residency,
    asked: Counts,
    done: Counts,
    gate_macs: int,
    tiles: int,
) -> NDArray[np.int64]:
    """Fill the columns of work that a processor has: multiply-adds, tiles, pixels, bytes from and to memory."""
    columns = np.zeros((len(asked), len(WORK_COLUMNS)), np.int64)
    active = work.tiles if work.tiles.any() else (done > 0).astype(float)
    for name, amount in (
        ("macs", asked * layer.macs_per_pixel + gate_macs),
        ("computed_macs", done * layer.macs_per_pixel),
        ("dense_macs", np.full(len(asked), layer.macs)),
        ("gate_elements", work.elements),
        ("tiles", np.full(len(asked), tiles)),
        ("active_tiles", active),
        ("passes", active),
        ("computed_pixels", done),
        ("active_pixels", asked),
        (
            "dram_read_bytes",
            work.input_bytes * residency.inputs
            + work.output_bytes / 2 * residency.state
            + work.weight_bytes * residency.weights,
        ),
        ("dram_write_bytes", work.output_bytes / 2 * residency.state),
        ("weight_read_bytes", work.weight_bytes * residency.weights),
    ):
        columns[:, W[name]] = np.rint(amount)
    return columns


def _report(hardware: Hardware, trace: Trace, tile: str, stages: list[Stages], baseline: Report | None) -> Report:
    causes_ns = np.stack([one.causes_ns for one in stages], axis=1)  # [frames, layers, causes]
    causes = np.rint(causes_ns * hardware.clock_hz * 1e-9).astype(np.int64)
    work = np.stack([one.work for one in stages], axis=1)
    work[:, :, W["array_cycles"]] = causes[:, :, C["compute"]]
    return Report(hardware, trace.layers, tile, clip_cost_of_arrays(causes, work), baseline)


def _finest(trace: Trace) -> int:
    return min(min(layer.block_rows, layer.block_cols) for layer in trace.layers)


def _check(trace: Trace, hardware: Hardware) -> None:
    placement, processor = hardware.gate.placement, hardware.processor
    assert processor is not None
    for layer in trace.layers:
        if layer.skips_channels:
            raise InputError(
                f"hardware {hardware.name!r}: layer {layer.name!r} skips channels; kernels compute them all"
            )
    if placement == "array":
        raise InputError(
            f"hardware {hardware.name!r}: gate.placement: a processor has no array; choices: none, separate, fused"
        )
