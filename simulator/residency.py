"""What moves beside the input windows, and which maps stay on chip: Traffic of every layer of a trace on a machine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skipsim.errors import InputError
from skipsim.hwmodels.hardware import Hardware
from skipsim.simulator.plan import Traffic, bytes_of
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace

# Which hardware updates compute what a trace's update form computed; the first is what "auto" takes.
FITTING = {"recompute": ("recompute",), "previous": ("difference", "delta"), "accumulate": ("difference", "delta")}

KEPT_ON_REFERENCE_FRAMES = ("writes_reference", "input_in_dram", "output_in_dram", "reference_in_dram")


def hardware_update(trace: Trace, hardware: Hardware) -> str:
    """Return what moves per active tile, and check that it fits what the network computed."""
    wanted, fitting = hardware.layer.update, FITTING[trace.update]
    if wanted == "auto":
        return fitting[0]
    if wanted not in fitting and any(layer.gate != "none" for layer in trace.layers):
        raise InputError(
            f"hardware {hardware.name!r}: layer.update = {wanted!r} does not fit a trace of update {trace.update!r}; "
            f"choices: auto, {', '.join(fitting)}"
        )
    return wanted


def gated_traffic(trace: Trace, hardware: Hardware) -> list[Traffic]:
    """Return what every layer moves on a gated frame. Ungated layers move what they move in the dense schedule."""
    update, placement = hardware_update(trace, hardware), hardware.gate.placement
    if all(layer.gate in ("none", "hold") for layer in trace.layers):
        dense = dense_traffic(trace.layers, hardware)  # nothing is kept from frame to frame but the result
        return [
            replace(one, gated=layer.gate == "hold", kept=layer.skips_channels)
            for layer, one in zip(trace.layers, dense, strict=True)
        ]
    moves_reference = placement != "none" and trace.update != "previous" and update != "delta"
    gated = Traffic(
        gated=True,
        reads_reference=update == "difference",
        reads_state=update in ("difference", "delta"),
        writes_delta=update == "delta",
        writes_reference=moves_reference,
    )
    # A layer that shares an earlier layer's gate compares nothing, so a recomputed one keeps no reference.
    shared = replace(gated, writes_reference=moves_reference and update != "recompute")
    held = {"none": Traffic(), "shared": shared, "hold": shared}
    wanted = [held.get(layer.gate, gated) for layer in trace.layers]
    wanted = [
        replace(
            one,
            kept=layer.skips_channels,
            zero_inputs=hardware.array.skip_taps and number > 0 and _gives_zeros(trace.layers[number - 1], layer),
        )
        for number, (layer, one) in enumerate(zip(trace.layers, wanted, strict=True))
    ]
    return _resident_state(trace.layers, hardware, wanted)


def _gives_zeros(before: Layer, layer: Layer) -> bool:
    """Whether a layer reads a map of which the layer before skipped positions."""
    return before.gate != "none" and _follows(before, layer)


def reference_traffic(gated: tuple[Traffic, ...]) -> tuple[Traffic, ...]:
    """Return what every layer moves on a reference frame: all is computed, and gates' references renewed."""
    return tuple(replace(Traffic(), **{name: getattr(one, name) for name in KEPT_ON_REFERENCE_FRAMES}) for one in gated)


def _map_bytes(layer: Layer, hardware: Hardware) -> tuple[int, int]:
    bits = hardware.precision.activation_bits
    return (
        bytes_of(layer.in_channels * layer.in_rows * layer.in_cols, bits),
        bytes_of(layer.out_channels * layer.out_pixels, bits),
    )


def _follows(before: Layer, layer: Layer) -> bool:
    """Whether a layer reads what the one before it wrote, as far as sizes tell."""
    return (before.out_channels, before.out_rows, before.out_cols) == (layer.in_channels, layer.in_rows, layer.in_cols)


def _resident_state(layers: tuple[Layer, ...], hardware: Hardware, wanted: list[Traffic]) -> list[Traffic]:
    """Give the global buffer to outputs (state from frame to frame) and references, in layer order, while it lasts.

    The last layer's output leaves the chip. An input is on chip if the layer before wrote it there.
    """
    left, traffic, before = hardware.buffers.global_bytes, [], True
    state_bits = hardware.precision.state_bits or hardware.precision.activation_bits
    for number, (layer, one) in enumerate(zip(layers, wanted, strict=True)):
        inputs, outputs = _map_bytes(layer, hardware)
        kept = bytes_of(layer.out_channels * layer.out_pixels, state_bits) if one.reads_state else outputs
        needed = kept + (inputs if one.reads_reference or one.writes_reference else 0)
        fits = needed <= left and number + 1 < len(layers)
        left -= needed if fits else 0
        input_on_chip = number > 0 and not before and _follows(layers[number - 1], layer)
        traffic.append(
            replace(one, input_in_dram=not input_on_chip, output_in_dram=not fits, reference_in_dram=not fits)
        )
        before = not fits
    return traffic


def dense_traffic(layers: tuple[Layer, ...], hardware: Hardware) -> list[Traffic]:
    """Return what every layer moves in the dense schedule.

    A map stays on chip between two layers if the second reads what the first wrote and input plus output of both fit
    the global buffer.
    """
    sizes = [sum(_map_bytes(layer, hardware)) for layer in layers]
    fits = [size <= hardware.buffers.global_bytes for size in sizes]
    linked = [
        fits[number] and fits[number + 1] and _follows(layers[number], layers[number + 1])
        for number in range(len(layers) - 1)
    ]
    return [
        Traffic(input_in_dram=not before, output_in_dram=not after)
        for before, after in zip([False, *linked], [*linked, False], strict=True)
    ]


PAGE_BYTES = 4096  # assumed: allocators hand out whole pages


def addresses(layers: tuple[Layer, ...], hardware: Hardware) -> NDArray[np.int64]:
    """Lay out maps and weights one after the other, in layer order: int64 [layers, REGIONS] of lowering.py.

    A layer that reads what the one before wrote reads it where that one wrote it.
    """
    bits, free = hardware.precision, 0

    def take(size: int) -> int:
        nonlocal free
        begin, free = free, free + -(-size // PAGE_BYTES) * PAGE_BYTES
        return begin

    rows: list[list[int]] = []
    for number, layer in enumerate(layers):
        inputs, outputs = _map_bytes(layer, hardware)
        state = bytes_of(layer.out_channels * layer.out_pixels, bits.state_bits or bits.activation_bits)
        follows = number > 0 and _follows(layers[number - 1], layer)
        begin = rows[-1][2] if follows else take(inputs)
        rows.append([begin, take(inputs), take(max(outputs, state)), 0, take(outputs)])
        rows[-1].append(take(bytes_of(layer.weights, bits.weight_bits)))
    for number, row in enumerate(rows):  # what a fused gate compares with is the next layer's reference
        row[3] = rows[min(number + 1, len(rows) - 1)][1]
    return np.array(rows, np.int64)
