"""Plan: how one layer runs on one machine at one tile size, before any mask is known.

It decides what is split so that every pass fits the buffers, what moves with every tile, and what the layer costs
once. All integers, so that lowering can be compiled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError
from skipsim.hwmodels.dram import dram_part
from skipsim.hwmodels.hardware import Hardware, ratio
from skipsim.simulator.dataflow import DATAFLOWS, array_cost, convolution, stored_values
from skipsim.traces.layer import Layer

Tile = tuple[int, int]
Tiling = Mapping[str, Tile | None]  # by layer label; None: the layer stays dense
MOST_PACKED = 16  # beyond it a better-filled last fold is worth less than the overlap that large passes lose
FILLS_HIDDEN = 4  # streaming dataflows: pack until the stream is this many times the fill


@dataclass(frozen=True)
class Traffic:
    """What moves for a layer on a frame beside its input windows and its weights, and what of it leaves the chip."""

    gated: bool = False  # masks decide; otherwise every tile is active and there is no gate and no index
    kept: bool = False  # only the kept channels run; otherwise all
    zero_inputs: bool = False  # inputs that the layer before skipped are zero, and their taps take no time
    reads_reference: bool = False  # per tile: the reference input's window
    reads_state: bool = False  # per tile: the old output
    writes_delta: bool = False  # per tile: the change, for the consumer
    writes_reference: bool = False  # per tile: the input that becomes the new reference
    input_in_dram: bool = True
    output_in_dram: bool = True
    reference_in_dram: bool = True


class Share(NamedTuple):
    """One slice of a layer's channels that runs as a pass of its own: the array's cost and the bytes it needs."""

    fold_pixels: int
    cycles_per_fold: int
    cycles_per_pixel: int
    pixel_divisor: int
    inputs_per_pixel: int
    weights_per_fold: int
    outputs_per_pixel: int
    in_channels: int
    out_channels: int
    weight_bytes: int  # of the weights that must be there for this pass
    weight_group: int  # passes with the same number use the same weights


class Plan(NamedTuple):
    """Everything that lowering needs to know of a layer, a machine and a tile size."""

    in_rows: int
    in_cols: int
    in_channels: int
    out_rows: int
    out_cols: int
    out_channels: int
    extent_rows: int  # input rows under one output row
    extent_cols: int
    stride_rows: int
    stride_cols: int
    padding_top: int
    padding_left: int
    block_rows: int
    block_cols: int
    tile_rows: int
    tile_cols: int
    ins: int  # channels that run, of all that the maps have
    outs: int
    macs_per_pixel: int  # of the channels that run
    dense_macs_per_pixel: int
    dilation_rows: int
    dilation_cols: int
    kernel_rows: int
    kernel_cols: int
    zero_inputs: int
    gate_macs: int
    gate_elements: int
    activation_bits: int
    weight_bits: int
    accumulator_bits: int
    state_bits: int
    channels_first: int
    gated: int
    reads_reference: int
    reads_state: int
    writes_delta: int
    writes_reference: int
    fused_gate: int
    input_in_dram: int
    output_in_dram: int
    reference_in_dram: int
    first_share: int
    splits: int  # slices of the output channels (of the groups, in a grouped layer)
    chunks: int  # slices of the input channels, summed in the output buffer
    regroups: int  # slices of the outputs read the same inputs (1) or inputs of their own (0)
    packed: int  # tiles per pass
    launched: int
    launch: int
    gate_cycles: int
    gate_read_bytes: int
    gate_dram_bytes: int
    scan_blocks: int  # of the mask, by all cores
    scan_cycles: int
    index_cycles: int
    gather_setup: int
    gather_segment: int
    scatter_setup: int
    scatter_segment: int
    gather_rate: int  # bytes per gather_rate_cycles; 0 = no limit
    gather_rate_cycles: int
    scatter_rate: int
    scatter_rate_cycles: int
    gate_rate: int
    gate_rate_cycles: int
    memory_rate: int
    memory_rate_cycles: int
    burst: int
    banked: int
    merge_halo: int
    cores: int
    prefetch: int


PLAN = np.dtype([(name, np.int64) for name in Plan._fields])
SHARE = np.dtype([(name, np.int64) for name in Share._fields])


def bytes_of(values: int, bits: int) -> int:
    """Return the bytes that `values` numbers of `bits` bits take."""
    return -(-values * bits // 8)


def cycles_at(amount: int, rate: float) -> int:
    """Return the whole cycles that `amount` takes at `rate` per cycle (inf: none)."""
    units, cycles = ratio(rate)
    return -(-amount * cycles // units) if units else 0


def window(layer: Layer, tile: Tile) -> Tile:
    """Return the rows and columns of input under a tile, at most the whole map."""
    extent = ((layer.kernel_rows - 1) * layer.dilation_rows + 1, (layer.kernel_cols - 1) * layer.dilation_cols + 1)
    rows = (tile[0] - 1) * layer.stride_rows + extent[0]
    cols = (tile[1] - 1) * layer.stride_cols + extent[1]
    return min(rows, layer.in_rows), min(cols, layer.in_cols)


@dataclass(frozen=True)
class _Fit:
    """How a layer is cut: channels of each slice."""

    in_slices: tuple[int, ...]
    out_slices: tuple[int, ...]
    weights_per_chunk: bool


def _slices(total: int, most: int) -> tuple[int, ...]:
    return tuple(min(most, total - first) for first in range(0, total, most))


def _part(size: float, halves: int) -> int:
    """Bits in one part of a buffer; an endless one counts as 2^60."""
    return 2**60 if math.isinf(size) else int(size) // halves * 8


def _fit(layer: Layer, hardware: Hardware, tile: Tile) -> _Fit | None:
    """Cut channels so that every pass fits one part of each buffer; None if no cut does."""
    bits, buffers = hardware.precision, hardware.buffers
    in_part, weight_part, out_part = (
        _part(size, buffers.halves) for size in (buffers.input_bytes, buffers.weight_bytes, buffers.output_bytes)
    )
    rows, cols = window(layer, tile)
    taps, pixels = stored_values(layer, hardware), tile[0] * tile[1]
    in_each, out_each = rows * cols * bits.activation_bits, pixels * bits.accumulator_bits  # bits per channel
    if layer.groups > 1:
        ins, outs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
        most = min(
            in_part // (in_each * ins),
            out_part // (out_each * outs),
            weight_part // (taps * ins * outs * bits.weight_bits),
        )
        if most < 1:
            return None
        sizes = _slices(layer.groups, int(min(most, layer.groups)))
        return _Fit(tuple(n * ins for n in sizes), tuple(n * outs for n in sizes), weights_per_chunk=False)
    filters = min(layer.out_channels, hardware.array.cols)
    most_in = min(in_part // in_each, layer.in_channels)
    most_out = min(out_part // out_each, layer.out_channels)
    whole_filters = weight_part // (taps * layer.in_channels * bits.weight_bits)
    weights_per_chunk = whole_filters < min(filters, most_out)
    if weights_per_chunk:
        most_in = min(most_in, max(1, weight_part // (taps * max(1, min(filters, most_out)) * bits.weight_bits)))
        whole_filters = weight_part // (taps * max(1, most_in) * bits.weight_bits)
    most_out = min(most_out, whole_filters)
    if most_in < 1 or most_out < 1:
        return None
    if hardware.array.cols < most_out < layer.out_channels:
        most_out -= most_out % hardware.array.cols
    chunks = -(-layer.in_channels // int(most_in))
    return _Fit(
        _slices(layer.in_channels, -(-layer.in_channels // chunks)),
        _slices(layer.out_channels, int(most_out)),
        weights_per_chunk,
    )


def _largest_fitting(layer: Layer, hardware: Hardware) -> str:
    for size in (128, 64, 32, 16, 8, 4, 2, 1):
        tile = min(size, layer.out_rows), min(size, layer.out_cols)
        if _fit(layer, hardware, tile):
            return f"the largest square tile that fits is {tile[0]}x{tile[1]}"
    return "not even a 1x1 tile fits"


def _shares(layer: Layer, hardware: Hardware, fit: _Fit, tile: Tile, zero_inputs: bool) -> list[Share]:
    """List the slices, outputs outermost."""
    taps, bits, shares = stored_values(layer, hardware), hardware.precision.weight_bits, []
    for number, outs in enumerate(fit.out_slices):
        chunks = fit.in_slices if layer.groups == 1 else (fit.in_slices[number],)
        for chunk, ins in enumerate(chunks):
            cost = array_cost(layer, hardware, ins, outs, tile)
            if zero_inputs:  # cycles are then counted by taps, not by pixels
                cost = cost._replace(pixel_divisor=cost.pixel_divisor * layer.kernel_rows * layer.kernel_cols)
            if layer.groups > 1:
                needed, group = taps * outs * (layer.in_channels // layer.groups), number
            elif fit.weights_per_chunk:
                needed, group = taps * ins * outs, number * len(chunks) + chunk
            else:
                needed, group = taps * layer.in_channels * outs, number
            shares.append(Share(*cost, ins, outs, bytes_of(needed, bits), group))
    return shares


def _packed(layer: Layer, hardware: Hardware, tile: Tile, shares: list[Share]) -> int:
    """Return how many tiles share a pass: as few as fill its folds (or hide its fill) best, and as the buffers hold."""
    if not hardware.array.pack_tiles:
        return 1
    pixels, first = tile[0] * tile[1], shares[0]
    if first.fold_pixels < layer.out_pixels:
        most = max(MOST_PACKED, -(-first.fold_pixels // pixels))
        wanted = max(
            range(1, most + 1),
            key=lambda n: (n * pixels / (-(-n * pixels // first.fold_pixels) * first.fold_pixels), -n),
        )
    elif first.cycles_per_pixel and first.cycles_per_fold:
        wanted = -(-FILLS_HIDDEN * first.cycles_per_fold * first.pixel_divisor // (first.cycles_per_pixel * pixels))
    else:
        wanted = 1
    rows, cols = window(layer, tile)
    bits, buffers = hardware.precision, hardware.buffers
    for share in shares:
        held = _part(buffers.input_bytes, buffers.halves) // (rows * cols * share.in_channels * bits.activation_bits)
        kept = _part(buffers.output_bytes, buffers.halves) // (pixels * share.out_channels * bits.accumulator_bits)
        wanted = int(min(wanted, held, kept))
    return max(1, wanted)


def _gate_before(layer: Layer, hardware: Hardware, traffic: Traffic) -> tuple[int, int, int, int]:
    """Return what the gate costs before any tile is known: (elements, cycles, bytes read, of these from DRAM)."""
    placement, cores = hardware.gate.placement, hardware.cores
    if not traffic.gated or placement in ("none", "fused") or layer.gate in ("shared", "hold"):
        return 0, 0, 0, 0
    values = layer.in_channels * layer.in_rows * layer.in_cols
    elements = layer.gate_macs if layer.gate == "gumbel" else values
    if placement == "array":
        work = convolution(layer, 1, layer.in_channels, (layer.out_rows, layer.out_cols))
        cycles = DATAFLOWS[hardware.array.dataflow](work, hardware.array).cycles(-(-layer.out_pixels // cores))
    else:
        cycles = cycles_at(-(-elements // cores), hardware.gate.elements_per_cycle)
    each = bytes_of(values, hardware.precision.activation_bits)
    reads_reference = not traffic.writes_delta  # a delta is its own residual
    in_dram = each * traffic.input_in_dram + each * (reads_reference and traffic.reference_in_dram)
    return elements, cycles, each * (1 + reads_reference), in_dram


@lru_cache(maxsize=8192)
def plan(layer: Layer, hardware: Hardware, tile: Tile, traffic: Traffic) -> tuple[Plan, tuple[Share, ...]]:
    """Plan a layer; an InputError names the largest tile that fits when this one doesn't."""
    tile = min(tile[0], layer.out_rows), min(tile[1], layer.out_cols)
    run = layer.kept if traffic.kept else layer
    fit = _fit(run, hardware, tile)
    if fit is None:
        raise InputError(
            f"tile {tile[0]}x{tile[1]} of layer {layer.name!r} does not fit the buffers of {hardware.name!r}; "
            f"{_largest_fitting(run, hardware)}"
        )
    shares = _shares(run, hardware, fit, tile, traffic.zero_inputs)
    elements, gate_cycles, gate_bytes, gate_dram = _gate_before(layer, hardware, traffic)
    bits, memory = hardware.precision, hardware.dram
    held = traffic.gated and layer.gate == "hold"
    blocks = layer.grid_rows * layer.grid_cols if traffic.gated and not held else 0
    fused = traffic.gated and hardware.gate.placement == "fused" and layer.gate not in ("shared", "hold")
    return Plan(
        in_rows=layer.in_rows,
        in_cols=layer.in_cols,
        in_channels=layer.in_channels,
        out_rows=layer.out_rows,
        out_cols=layer.out_cols,
        out_channels=layer.out_channels,
        extent_rows=(layer.kernel_rows - 1) * layer.dilation_rows + 1,
        extent_cols=(layer.kernel_cols - 1) * layer.dilation_cols + 1,
        stride_rows=layer.stride_rows,
        stride_cols=layer.stride_cols,
        padding_top=layer.padding_top,
        padding_left=layer.padding_left,
        block_rows=layer.block_rows,
        block_cols=layer.block_cols,
        tile_rows=tile[0],
        tile_cols=tile[1],
        ins=run.in_channels,
        outs=run.out_channels,
        macs_per_pixel=run.macs_per_pixel,
        dense_macs_per_pixel=layer.macs_per_pixel,
        dilation_rows=layer.dilation_rows,
        dilation_cols=layer.dilation_cols,
        kernel_rows=layer.kernel_rows,
        kernel_cols=layer.kernel_cols,
        zero_inputs=int(traffic.zero_inputs),
        gate_macs=layer.gate_macs if traffic.gated else 0,
        gate_elements=elements,
        activation_bits=bits.activation_bits,
        weight_bits=bits.weight_bits,
        accumulator_bits=bits.accumulator_bits,
        state_bits=(bits.state_bits or bits.activation_bits) if traffic.reads_state else bits.activation_bits,
        channels_first=int(hardware.layer.layout == "nchw"),
        gated=int(traffic.gated),
        reads_reference=int(traffic.reads_reference),
        reads_state=int(traffic.reads_state),
        writes_delta=int(traffic.writes_delta),
        writes_reference=int(traffic.writes_reference),
        fused_gate=int(fused),
        input_in_dram=int(traffic.input_in_dram),
        output_in_dram=int(traffic.output_in_dram),
        reference_in_dram=int(traffic.reference_in_dram),
        first_share=0,
        splits=len(fit.out_slices),
        chunks=len(fit.in_slices) if layer.groups == 1 else 1,
        regroups=int(layer.groups == 1),
        packed=_packed(run, hardware, tile, shares),
        launched=int(not held),
        launch=0 if held else hardware.layer.launch_cycles,
        gate_cycles=gate_cycles,
        gate_read_bytes=gate_bytes,
        gate_dram_bytes=gate_dram,
        scan_blocks=blocks * hardware.cores,
        scan_cycles=cycles_at(blocks, hardware.index.blocks_per_cycle),
        index_cycles=hardware.index.cycles_per_tile if traffic.gated else 0,
        gather_setup=hardware.gather.setup_cycles,
        gather_segment=hardware.gather.cycles_per_segment,
        scatter_setup=hardware.scatter.setup_cycles,
        scatter_segment=hardware.scatter.cycles_per_segment,
        gather_rate=ratio(hardware.gather.bytes_per_cycle)[0],
        gather_rate_cycles=ratio(hardware.gather.bytes_per_cycle)[1],
        scatter_rate=ratio(hardware.scatter.bytes_per_cycle)[0],
        scatter_rate_cycles=ratio(hardware.scatter.bytes_per_cycle)[1],
        gate_rate=ratio(hardware.gate.elements_per_cycle)[0],
        gate_rate_cycles=ratio(hardware.gate.elements_per_cycle)[1],
        memory_rate=0 if memory.rule != "stream" else ratio(memory.bytes_per_cycle)[0],
        memory_rate_cycles=ratio(memory.bytes_per_cycle)[1],
        burst=dram_part(memory.part).burst_bytes if memory.rule == "banked" and memory.part else memory.burst_bytes,
        banked=int(memory.rule == "banked"),
        merge_halo=int(hardware.schedule.merge_halo),
        cores=hardware.cores,
        prefetch=int(hardware.schedule.prefetch_weights),
    ), tuple(shares)


def plan_arrays(plans: list[tuple[Plan, tuple[Share, ...]]]) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Stack plans and their shares into the record arrays that compiled lowering reads."""
    rows: list[Plan] = []
    shares: list[Share] = []
    for one, slices in plans:
        rows.append(one._replace(first_share=len(shares)))
        shares += slices
    return np.array(rows, PLAN), np.array(shares, SHARE)
