"""Training a network together with its Gumbel gates, on sequences of frames.

On the first frame of a sequence everything is computed. On every other frame the gates draw their decisions, and the
layers update their state as they will at test time, for a whole batch of sequences at once; the gradient passes through
the decisions (straight-through) and through the state, back to the first frame. The loss is

    task + beta / (T - 1) x sum over frames 2..T and layers of macs_l x E[g_l] / sum over layers of macs_l

so that beta is the price of computing everything, in units of the task's loss. With `freeze`, the network stays as it
is, gates alone are trained, and in place of the task's loss stands how far the outputs are from the dense network's. A
block's decision is drawn once, from the greatest logit of its positions: at test time that is the same as "on if any
position is", and in training a block does not open merely because it has many positions to draw for.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from skipsim.errors import InputError, nearest
from skipsim.traces.convert import LayerGate, convert, layer_gates
from skipsim.traces.gates import InputNormGate
from skipsim.traces.gumbel import Block, GumbelGate, gate_logits, weights_hash
from skipsim.traces.gumbel_file import HEADER
from skipsim.traces.layer import Layer
from skipsim.traces.per_layer import value_for
from skipsim.traces.receptive_field import ReceptiveField
from skipsim.traces.record import record
from skipsim.traces.sharing import batch_readers, settled_batch
from skipsim.traces.skipconv import SIGNALS, UPDATES
from skipsim.traces.training.first_gates import FILTERS, first_gates
from skipsim.traces.training.objective import Scores, by_camera
from skipsim.traces.training.task import Task
from skipsim.traces.training.training_run import Plan

TEMPERATURE = 2 / 3  # of the Gumbel reparametrisation; Habibian et al., CVPR 2021, section 3.2


@dataclass(frozen=True)
class GateSettings:
    """How gates are trained, and will have to be used.

    Attributes:
        block: output pixels that share one decision: a number, a pair, or a table by layer (see per_layer.py).
        share: which layers go by one gate, as `convert` takes it.
        signal: what gates look at, as `convert` takes it.
        update: the update form, as `convert` takes it.
        filter: "convolution": with the layer's kernel, as the method has it; "channels": one weight per channel.
        freeze: whether the network stays as it is.
        thresholds: of input-norm gates, by layer, that the gates decide like before their first step; None leaves a
            layer dense. Without them gates start open.
    """

    block: Block = 1
    share: str = "layer"
    signal: str = "residual"
    update: str = "recompute"
    filter: str = "convolution"
    freeze: bool = False
    thresholds: Mapping[str, float | None] | None = None

    def __post_init__(self) -> None:
        """Check what fits together."""
        if self.filter not in FILTERS:
            raise InputError(f"training: filter {self.filter!r} is unknown; {nearest(self.filter, FILTERS)}")
        if self.thresholds is not None and self.signal != "magnitude":
            raise InputError("training: thresholds are of the change's magnitude; train with signal 'magnitude'")


@dataclass
class _Call:
    """One call of one layer: how it decides, and its state while a sequence runs."""

    layer: Layer
    leader: str | None
    gated: bool
    field: ReceptiveField
    reference: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))
    output: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))

    @property
    def dense(self) -> bool:
        return not self.gated and self.leader is None


class _GatedConv2d(nn.Conv2d):
    """A convolution that asks the running sequence what to compute."""

    layer_name: str
    sequence: _Sequence

    def forward(self, input: Tensor) -> Tensor:
        return self.sequence.run(self, input)


class _Sequence:
    """A batch of sequences on its way through the network, frame by frame."""

    def __init__(self, calls: dict[tuple[str, int], _Call], settings: GateSettings) -> None:
        self.calls, self.settings = calls, settings
        self.gates: dict[str, tuple[Tensor, Tensor]] = {}
        self.noise = torch.Generator()
        self.costs: list[Tensor] = []
        self.first = True
        self._counted: Counter[str] = Counter()
        self._carried: dict[str, Tensor] = {}  # by leader, the pixels that the group's last layer changed

    def begin_frame(self, first: bool) -> None:
        self.first = first
        self._counted.clear()

    def run(self, conv: _GatedConv2d, x: Tensor) -> Tensor:
        call = self.calls[conv.layer_name, self._counted[conv.layer_name]]
        self._counted[conv.layer_name] += 1
        if self.first or call.dense:
            call.reference, call.output = x, conv._conv_forward(x, conv.weight, conv.bias)
            if not self.first:
                self.costs.append(x.new_full((), call.layer.macs))
            return call.output
        pixels, share = self._decide(conv, call, x)
        self.costs.append(call.layer.macs * share)
        fresh, reference = _UPDATES[self.settings.update](conv, call, x, pixels)
        call.output = pixels * fresh + (1 - pixels) * call.output
        call.reference = reference
        return call.output

    def _decide(self, conv: _GatedConv2d, call: _Call, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the computed pixels [N, 1, out_rows, out_cols], 0 or 1 with a gradient, and their expected share."""
        layer = call.layer
        sides = min(layer.block_rows, layer.out_rows), min(layer.block_cols, layer.out_cols)
        if call.leader is not None:
            reached = self._reached(call)
            pixels = _refine(functional.max_pool2d(reached, sides, ceil_mode=True), layer)
            return pixels, pixels.mean()
        signal = SIGNALS[self.settings.signal](x, call.reference)
        logits = gate_logits(signal, conv, *self.gates[layer.label])
        logits = functional.max_pool2d(logits, sides, ceil_mode=True)
        pixels = _refine(draw(logits, self.noise), layer)
        self._carried[layer.name] = pixels
        return pixels, _refine(logits.sigmoid(), layer).mean()

    def _reached(self, call: _Call) -> Tensor:
        assert call.leader is not None
        before = self._carried[call.leader]
        if self.settings.share == "network":
            before = functional.adaptive_max_pool2d(before, (call.field.rows, call.field.cols))
            return batch_readers(before, call.field)
        self._carried[call.leader] = batch_readers(before, call.field)
        return self._carried[call.leader]


def draw(logits: Tensor, generator: torch.Generator, temperature: float = TEMPERATURE) -> Tensor:
    """Draw from Bernoulli(sigmoid(logits)), 0 or 1, with the gradient of the relaxed draw at this temperature.

    The difference of two Gumbel variables is logistic: logit + log(u / (1 - u)) >= 0 has probability sigmoid(logit).
    """
    uniform = torch.rand(logits.shape, generator=generator).clamp_(1e-6, 1 - 1e-6).to(logits)
    moved = logits + torch.logit(uniform)
    relaxed = (moved / temperature).sigmoid()
    return (moved >= 0).to(logits) + (relaxed - relaxed.detach())


def _refine(grid: Tensor, layer: Layer) -> Tensor:
    """Repeat [N, 1, grid rows, grid cols] over each block's pixels: [N, 1, out_rows, out_cols]."""
    rows = grid.repeat_interleave(layer.block_rows, 2) if layer.block_rows > 1 else grid
    whole = rows.repeat_interleave(layer.block_cols, 3) if layer.block_cols > 1 else rows
    return whole[:, :, : layer.out_rows, : layer.out_cols]


def _previous(conv: _GatedConv2d, call: _Call, x: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    return call.output + conv._conv_forward(x - call.reference, conv.weight, None), x


def _accumulate(conv: _GatedConv2d, call: _Call, x: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    reference = torch.where(settled_batch(pixels.detach() > 0, call.field), x, call.reference)
    return call.output + conv._conv_forward(reference - call.reference, conv.weight, None), reference


def _recompute(conv: _GatedConv2d, call: _Call, x: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    fresh = conv._conv_forward(x, conv.weight, conv.bias)
    if call.leader is not None:
        return fresh, call.reference
    return fresh, torch.where(settled_batch(pixels.detach() > 0, call.field), x, call.reference)


_UPDATES = {"previous": _previous, "accumulate": _accumulate, "recompute": _recompute}
assert _UPDATES.keys() == UPDATES.keys()


class GumbelTraining:
    """A trained network and its gates, trained on together; an `Objective`.

    Batch normalisation keeps the statistics of the trained network: those of a few frames, most of whose change is
    skipped, would be others than at test time.
    """

    def __init__(self, network: nn.Module, task: Task, plan: Plan, settings: GateSettings) -> None:
        if plan.clip_frames < 2:
            raise InputError(f"training: clip_frames must be at least 2 to train gates, got {plan.clip_frames}")
        if plan.test_frames < 2:
            raise InputError(f"training: test_frames must be at least 2 to score gates, got {plan.test_frames}")
        self._plain = copy.deepcopy(network)  # what the trained tensors are put into to be scored
        self._task, self._plan, self._settings = task, plan, settings
        found = _layer_gates(network, plan, settings)
        followed = {one.leader for one in found}
        calls = {one.layer.key: _call(network, one, one.layer.name in followed, settings) for one in found}
        self._dense_macs = sum(call.layer.macs for call in calls.values())
        self._gate_macs = sum(call.layer.gate_macs for call in calls.values())
        gated = [call.layer for call in calls.values() if call.gated]
        if not gated:
            raise InputError("training: no layer of this network can have a gate of its own")
        self._sequence = _Sequence(calls, settings)
        device = next(network.parameters()).device
        self.module = nn.Module()
        self.module.add_module("network", _gated(network, self._sequence))
        filters = first_gates(gated, settings.filter, settings.signal, settings.thresholds, plan.seed)
        self.module.add_module("filters", filters.to(device))
        self._names = [layer.label for layer in gated]
        self._dense = copy.deepcopy(self._plain) if settings.freeze else None
        self.module.get_submodule("network").requires_grad_(not settings.freeze)
        self.identity: dict[str, Any] = {"gate": {"gate": "gumbel", **asdict(settings)}}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the network's and the gates' parameters; gates learn faster, and their weights don't decay."""
        network, filters = self.module.get_submodule("network"), self.module.get_submodule("filters")
        gates = {"params": list(filters.parameters()), "rate": self._plan.gate_rate, "weight_decay": 0.0}
        return [gates] if self._settings.freeze else [{"params": list(network.parameters())}, gates]

    def prepare(self) -> None:
        """Keep the statistics of batch normalisation."""
        self.module.eval()

    def gates(self) -> GumbelGate:
        """Return the gates as they are now."""
        filters = list(self.module.get_submodule("filters"))  # type: ignore[call-overload]  # a ModuleList
        weights = {
            name: (part.weight.detach().cpu().clone(), part.bias.detach().cpu().clone())
            for name, part in zip(self._names, filters, strict=True)
        }
        return GumbelGate(weights, self._settings.block, share=self._settings.share, signal=self._settings.signal)

    def loss(self, pictures: Tensor, labels: tuple[Tensor, ...], step: int) -> Tensor:
        """Return task loss plus the price of what is expected to be computed."""
        task, computed = self.parts(pictures, labels, step)
        return task + self._plan.price(step) * computed

    def parts(self, pictures: Tensor, labels: tuple[Tensor, ...], step: int) -> tuple[Tensor, Tensor]:
        """Return (the task's loss over all frames, expected share of the dense MACs computed, gates included)."""
        sequence, network = self._sequence, self.module.get_submodule("network")
        filters = list(self.module.get_submodule("filters"))  # type: ignore[call-overload]  # a ModuleList
        sequence.gates = {name: (part.weight, part.bias) for name, part in zip(self._names, filters, strict=True)}
        sequence.noise.manual_seed(self._plan.seed * 1_000_003 + step)
        sequence.costs = []
        frames = pictures.shape[1]
        losses = []
        for frame in range(frames):
            sequence.begin_frame(frame == 0)
            picture = pictures[:, frame].contiguous(memory_format=torch.channels_last)
            output = network(picture)
            if self._dense is None:
                losses.append(self._task.loss(output, tuple(label[:, frame] for label in labels), self._plan))
            elif frame:
                with torch.no_grad():
                    wanted = self._dense(picture)
                losses.append(self._task.distance(output, wanted))
        computed = torch.stack(sequence.costs).sum() / (frames - 1) + self._gate_macs
        return torch.stack(losses).mean(), computed / self._dense_macs

    def score(self, clips: Sequence[Any]) -> Scores:
        """Return the task's scores of the gated network, frame by frame, and what it saves."""
        tensors = self.module.get_submodule("network").state_dict()
        self._plain.load_state_dict({name: tensors[name] for name in self._plain.state_dict()})
        converted = convert(self._plain.cpu().eval(), self.gates(), update=self._settings.update)

        def score(chosen: Sequence[int]) -> dict[str, Any]:
            picked = [clips[index] for index in chosen]
            frames = [frame for clip in picked for frame in clip.frames]
            cuts = [sum(len(clip.frames) for clip in picked[:place]) for place in range(1, len(picked))]
            quality = self._task.scorer(picked)
            trace = record(converted, frames, cuts=cuts, quality=quality, agreement=quality is None, progress=False)
            return {
                "headline": "agreement",  # where nothing else is scored
                **trace.quality,
                "mac_reduction": trace.mac_reduction,
                "gated_mac_reduction": trace.gated_mac_reduction,
            }

        return by_camera(clips, score)

    def weights(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the network's tensors under their own names, the gates' beside them, and how they decide."""
        gates = self.gates()
        if self._dense is not None:
            return gates.tensors(), {HEADER: json.dumps(gates.facts() | {"network": weights_hash(self._dense)})}
        return {**self.module.get_submodule("network").state_dict(), **gates.tensors()}, {HEADER: gates.header()}


def _layer_gates(network: nn.Module, plan: Plan, settings: GateSettings) -> tuple[LayerGate, ...]:
    """Run the network once to see its calls and who shares whose gate."""
    probe = convert(
        network,
        InputNormGate(0.0, settings.block),
        share=settings.share,
        signal=settings.signal,
        update=settings.update,
    )
    device = next(network.parameters()).device
    with torch.no_grad():
        probe.eval()(torch.zeros((1, 3, plan.rows, plan.cols), device=device))
    return layer_gates(probe)


def _call(network: nn.Module, one: LayerGate, followed: bool, settings: GateSettings) -> _Call:
    """Say how a call decides. A depthwise layer that nobody follows is dense: a whole filter would cost as much."""
    conv = network.get_submodule(one.layer.name)
    assert isinstance(conv, nn.Conv2d)
    whole = settings.filter == "convolution"
    left = (whole and one.layer.depthwise and not followed) or (
        settings.thresholds is not None and value_for(settings.thresholds, one.layer, "training: thresholds") is None
    )
    gated = one.leader is None and not left
    pooled = not whole and conv.kernel_size != (1, 1)
    kind = ("input_norm" if pooled else "gumbel") if gated else "none" if one.leader is None else "shared"
    fields = one.layer.to_dict() | {"gate": kind}
    return _Call(
        Layer.from_dict(fields), one.leader, gated, ReceptiveField.of(conv, one.layer.in_rows, one.layer.in_cols)
    )


def _gated(network: nn.Module, sequence: _Sequence) -> nn.Module:
    named = {name for name, _ in sequence.calls}
    for name, module in network.named_modules():
        if name in named:
            module.__class__ = _GatedConv2d
            assert isinstance(module, _GatedConv2d)
            module.layer_name, module.sequence = name, sequence
    return network
