"""Thresholds by layer: what each layer's gate may neglect so that a network as a whole loses least.

One threshold for all layers means different things to different layers: an error is harmless in one and not in the
next, and a layer of few MACs that feeds everything (the channel gates of squeeze and excitation) is never worth
skipping. `damage_curves` runs a gated network on clips and measures, for every layer and threshold, MACs and damage
(see damage.py); `thresholds_for` then takes that threshold of every layer at which the next MAC saved costs as much
damage as in all others: the least damage in all, to first order, at the MAC reduction that is asked for.

Residuals depend on thresholds, since what is skipped stays in them. So curves are measured more than once, each time
with the thresholds that followed from the last.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skipsim.errors import InputError
from skipsim.traces.convert import convert, reset
from skipsim.traces.damage import EDGES, Curve, Gradients, Probe, output_gradients
from skipsim.traces.frame_reader import FrameReader
from skipsim.traces.gates import NormGate
from skipsim.traces.run_frame import run_frame
from skipsim.traces.training.evaluation import evaluating, flushing_denormals
from skipsim.traces.training.task import Labels

ROUNDS = 2
TYPICAL_REDUCTION = 4.0  # of the gated frames, whose residuals the last round sees

Loss = Callable[..., Tensor]  # (output, frame=its position) -> a scalar
Thresholds = dict[str, float | None]


def damage_curves(
    model: nn.Module,
    frames: Sequence[Any],
    loss: Loss,
    gate: NormGate,
    *,
    cuts: Collection[int] = (),
    progress: Callable[[float], None] = lambda share: None,
    **conversion: Any,
) -> tuple[Curve, ...]:
    """Measure what a gate's thresholds would save and harm in every layer of a network.

    Args:
        model: the dense network; `gate` and `conversion` are given to `convert`.
        frames: clips one after the other, as `record` takes them.
        loss: (the network's output, frame=its position) -> a scalar with a gradient; see `projected` for one that
            needs no labels.
        gate: a norm gate; only its blocks count, thresholds are the outcome.
        cuts: frames (from 0) at which a new clip starts.
        progress: called with the share of the work that is done.

    Raises:
        InputError: no frame but first ones, or what `convert` does not take.
    """
    if len(frames) <= len(cuts) + 1:
        raise InputError(f"tune: clips need two frames or more, got {len(frames)} frames in {len(cuts) + 1} clips")
    running, curves = replace(gate, threshold=0.0), dict[tuple[str, int], Curve]()
    for number in range(ROUNDS):
        curves = {}
        gradients: Gradients = {}
        gated = convert(model, Probe(running, gradients, curves), **conversion)
        reader = FrameReader(model, None)
        with flushing_denormals(), evaluating(model), evaluating(gated):
            for position, frame in enumerate(frames):
                picture = reader.read(frame)
                if position in cuts:
                    reset(gated)
                if position and position not in cuts:
                    gradients.clear()
                    gradients.update(output_gradients(model, picture, partial(loss, frame=position)))
                with torch.inference_mode():
                    run_frame(gated, picture, position, type(model).__name__)
                progress((number + (position + 1) / len(frames)) / ROUNDS)
        running = replace(gate, threshold=thresholds_for(tuple(curves.values()), TYPICAL_REDUCTION))
    return tuple(curves.values())


def thresholds_for(curves: Sequence[Curve], mac_reduction: float) -> Thresholds:
    """Return the thresholds of least damage that reduce MACs, gates included, so many times on gated frames.

    Returns a table for a norm gate: by layer name, "name@call" for a layer's later calls; None leaves a layer dense,
    where that costs no more than its gate. Where less than asked for can be reached, the most that can.
    """
    if not mac_reduction >= 1:
        raise InputError(f"tune: mac_reduction must be a number >= 1, got {mac_reduction!r}")
    dense = sum(curve.layer.macs for curve in curves)
    low, high = -30.0, 10.0  # decimal logarithm of the price of a MAC, in damage
    for _ in range(60):
        middle = (low + high) / 2
        cost = sum(_cheapest(curve, 10**middle)[1] for curve in curves)
        low, high = (middle, high) if dense < mac_reduction * cost else (low, middle)
    found = {curve.layer.label: _cheapest(curve, 10**high)[0] for curve in curves}
    return dict(sorted(found.items(), key=lambda entry: "@" not in entry[0]))  # "name" fits "name@1" too: last


def _cheapest(curve: Curve, price: float) -> tuple[float | None, float]:
    """Return (threshold, MACs of a frame) of the lowest damage plus price of its MACs."""
    computed = curve.computed()
    total = curve.harm() + price * computed
    best = int(total.argmin())
    if price * curve.layer.macs <= float(total[best]):
        return None, float(curve.layer.macs)
    return float(EDGES[best]), float(computed[best])


def labelled(labels: Sequence[Labels], loss: Callable[..., Tensor]) -> Loss:
    """Return the loss of a task on labelled clips run one after the other.

    Args:
        labels: of each clip, arrays [T, ...].
        loss: (output on one picture, tensors [1, ...] of its labels) -> a scalar.
    """
    every = [torch.from_numpy(np.concatenate(part)) for part in zip(*labels, strict=True)]

    def of_frame(output: Any, frame: int) -> Tensor:
        return loss(output, *(part[frame : frame + 1] for part in every))

    return of_frame


def projected(seed: int = 0) -> Loss:
    """Return a loss without labels: the outputs' product with random directions, each tensor by its own spread.

    Its gradient's expected square at a layer is what an error there changes in all outputs alike.
    """
    generator = torch.Generator().manual_seed(seed)

    def loss(output: Any, frame: int) -> Tensor:
        total = torch.zeros(())
        for tensor in _tensors(output):
            spread = tensor.detach().double().std().clamp(min=1e-12) * tensor.numel() ** 0.5
            direction = torch.randn(tensor.shape, generator=generator).to(tensor)
            total = total.to(tensor) + (tensor * direction).sum() / spread.to(tensor)
        return total

    return loss


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output] if output.numel() > 1 else []
    entries = output.values() if isinstance(output, dict) else output
    return [tensor for entry in entries for tensor in _tensors(entry)]
