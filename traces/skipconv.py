"""SkipConv2d: a convolution that computes only the blocks its gate lets through; `convert` makes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skipsim.errors import InputError
from skipsim.traces.gates import Gate, coarsen, grid_mask, refine, shared_block
from skipsim.traces.layer import Layer
from skipsim.traces.receptive_field import ReceptiveField, layer_of
from skipsim.traces.sharing import GateGroup

MaskHook = Callable[["SkipConv2d"], Any]

# What a gate looks at, from x_t and x_ref: the change; the frame itself, the ablation of the method's paper; or the
# change without its sign, which a trained gate, being linear, cannot make of it by itself.
SIGNALS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "residual": lambda x, reference: x - reference,
    "frame": lambda x, reference: x,
    "magnitude": lambda x, reference: (x - reference).abs(),
}


class FrameClock:
    """Count the frames of a clip: one per call of the converted model."""

    def __init__(self, reset_every: int | None) -> None:
        self.reset_every = reset_every
        self.frame = -1

    def start_frame(self, module: nn.Module, arguments: Any) -> None:
        """Begin the next frame; registered as a forward pre-hook of the converted model."""
        self.frame += 1

    @property
    def reference(self) -> bool:
        """Whether this frame is computed densely."""
        return self.frame == 0 if self.reset_every is None else self.frame % self.reset_every == 0


@dataclass
class _State:
    """What one call of one layer keeps from frame to frame: reference input and output, before any normalisation.

    `group` is set if the call goes by the mask of an earlier layer.
    """

    layer: Layer
    gate: Gate | None
    group: GateGroup | None
    field: ReceptiveField
    reference: Tensor
    output: Tensor


class SkipConv2d(nn.Conv2d):
    """A convolution with a gate, one clip at a time (batch size 1); made by `convert`.

    On a reference frame all of z = w * x_t + b is computed. On every other frame the gate sees r = x_t - x_ref (or
    another of SIGNALS), or the layer goes by the mask of the one whose gate it shares (see sharing.py). That decides
    which output positions are computed; the others keep z, bit for bit. What is computed, and how x_ref moves:

    - `previous`: z += w * r, without bias, and x_ref = x_t everywhere. A change that stays below the threshold from
      frame to frame is forgotten, so that skipped positions drift without bound until a reference frame.
    - `recompute`: z = w * x_t + b; x_ref becomes x_t on the *settled* pixels, those all of whose reading positions were
      computed on this frame.
    - `accumulate`: z += w * s, where s is r on the settled pixels and 0 elsewhere; x_ref becomes x_t on the settled
      pixels.

    Why settled pixels. Receptive fields overlap, so the change of one pixel may be read by a computed and by a skipped
    position. If x_ref moved on every pixel that *some* computed position reads, the skipped position would never learn
    of that change: it would be forgotten, on one frame after the other, and drift without bound beside a moving object.
    Since x_ref moves only where *nobody* who reads the pixel was skipped, nothing is forgotten: a change that somebody
    has not used stays in r and keeps voting in the gates until it is used or gone. In `accumulate` z = w * x_ref + b
    holds everywhere, up to rounding: no change counts twice or is lost (a computed position adds s, not r: as x_ref
    stays on the other pixels, adding r would count their change again on the next frame). In `recompute` a computed
    position is exact. The price: positions at the rim of the computed area may be computed again on the next frame,
    although they are up to date. The bound: an unsettled pixel was read by a position whose mean stayed within the
    threshold, so with an input-norm gate and K taps its change is at most K x threshold. The input that a position
    was computed from thus differs from x_t, on average over its receptive field, by at most: in `recompute` 0 where it
    is computed and (K + 1) x threshold where it is skipped, in `accumulate` K x threshold and 1 x threshold; however
    long the clip.

    The layer computes densely and then selects: results, masks and quality are those of a sparse implementation, run
    time is not. Parameters, buffers, hooks and state dict are those of the convolution it was made from.

    Attributes:
        layer_name: the layer's name in its model.
        frame: frame of the clip that was last begun, from 0.
        call: which call of this module within the frame, from 0; every call keeps state of its own.
        last_layer: geometry of the last call.
        last_mask: decisions of the last call, bool [grid_rows, grid_cols], True = computed.
        last_reference: whether the frame of the last call is one that is computed densely, with no gate evaluated.
    """

    plain_class: type[nn.Conv2d] = nn.Conv2d
    layer_name: str
    frame: int
    call: int
    last_layer: Layer
    last_mask: Tensor
    last_reference: bool
    _clock: FrameClock
    _gate: Gate | None
    _mask: MaskHook | None
    _block: tuple[int, int]
    _update: str
    _signal: str
    _share: str
    _group: GateGroup | None
    _states: dict[int, _State]

    def forward(self, input: Tensor) -> Tensor:
        """Map x_t [1, in_channels, rows, cols] to z_t [1, out_channels, out_rows, out_cols]."""
        self._begin_call()
        state = self._states.get(self.call)
        self._check_input(input, state)
        if state is None or self._clock.reference or state.layer.gate == "none":
            return self._compute_densely(input, state)
        pixels = self._decide(input, state)
        fresh, reference = UPDATES[self._update](self, state, input, pixels)
        self._check_finite(fresh, input)
        self._keep(state, reference, torch.where(pixels, fresh, state.output))
        return state.output.clone()  # what follows may change it in place

    def forget(self) -> None:
        """Drop all state, so that the next frame is the first of a clip."""
        self._states = {}
        if self._group is not None:
            self._group.forget()
        self.frame = self.call = -1
        self._clock.frame = -1

    @property
    def update(self) -> str:
        """The update form, one of UPDATES."""
        return self._update

    @property
    def signal(self) -> str:
        """What the gate looks at, one of SIGNALS."""
        return self._signal

    @property
    def share(self) -> str:
        """Which layers go by one gate: "layer", "block" or "network"."""
        return self._share

    @property
    def reset_every(self) -> int | None:
        """Frames between reference frames; None if only the first is one."""
        return self._clock.reset_every

    @property
    def block(self) -> tuple[int, int]:
        """Output pixels (rows, cols) that share one decision, where the user's own masks decide."""
        return self._block

    @property
    def gate(self) -> Gate | None:
        """The gate that `convert` was given; None where the user's own masks decide."""
        return self._gate

    def _begin_call(self) -> None:
        if self._clock.frame < 0:
            raise InputError(
                f"layer {self.layer_name!r}: call the converted model itself, model(frame); its forward() or a part "
                "of it does not start a frame"
            )
        self.call = self.call + 1 if self.frame == self._clock.frame else 0
        self.frame = self._clock.frame

    def _compute_densely(self, x: Tensor, state: _State | None) -> Tensor:
        fresh = self._conv_forward(x, self.weight, self.bias)
        self._check_finite(fresh, x)
        if state is None:
            state = self._first_state(x, fresh)
            self._states[self.call] = state
        self._keep(state, x.clone(), fresh)
        layer = state.layer
        self.last_layer, self.last_reference = layer, self._clock.reference
        self.last_mask = torch.ones((layer.grid_rows, layer.grid_cols), dtype=torch.bool, device=x.device)
        if self._leads(state):
            self._lead(torch.ones((layer.out_rows, layer.out_cols), dtype=torch.bool, device=x.device))
        output: Tensor = fresh.clone()
        return output

    def _first_state(self, x: Tensor, output: Tensor) -> _State:
        names = {"name": self.layer_name, "call": self.call}
        gate, group, block, kind = None, None, self._block, "mask"
        if self._gate is not None:
            plain = layer_of(self, x, output, **names)  # type: ignore[arg-type]
            if self._group is not None and self._group.joins(plain):
                group, block, kind = self._group, shared_block(self._gate, plain), "shared"
            else:
                gate = self._gate.for_layer(plain)
                block, kind = ((1, 1), "none") if gate is None else (gate.block_shape, gate.kind)
        layer = layer_of(self, x, output, block=block, gate=kind, **names)  # type: ignore[arg-type]
        return _State(layer, gate, group, ReceptiveField.of(self, layer.in_rows, layer.in_cols), x, output)

    def _leads(self, state: _State) -> bool:
        return self._group is not None and state.group is None and state.layer.name == self._group.leader

    def _lead(self, pixels: Tensor) -> None:
        assert self._group is not None
        self._group.decide(pixels)

    def _decide(self, x: Tensor, state: _State) -> Tensor:
        """Ask the gate, the group or the user's hook; return the computed pixels, bool [out_rows, out_cols]."""
        layer = state.layer
        if state.group is not None:
            reached = state.group.carry_on(state.field)
            mask = coarsen(reached.to(torch.float32), (layer.block_rows, layer.block_cols)) > 0
        elif state.gate is not None:
            mask = state.gate.mask(SIGNALS[self._signal](x, state.reference), self)
            if mask.dtype != torch.bool or mask.shape != (layer.grid_rows, layer.grid_cols):
                mask = grid_mask(mask, layer)
        else:
            given = None if self._mask is None else self._mask(self)
            full = torch.ones((layer.grid_rows, layer.grid_cols), dtype=torch.bool)
            mask = (full if given is None else grid_mask(given, layer)).to(x.device)
        self.last_layer, self.last_mask, self.last_reference = layer, mask, False
        pixels = refine(mask, (layer.block_rows, layer.block_cols), layer.out_rows, layer.out_cols)
        if self._leads(state):
            self._lead(pixels)
        return pixels

    def _keep(self, state: _State, reference: Tensor, output: Tensor) -> None:
        # In training, gradients flow from frame to frame; otherwise a long clip would keep the graph of all its frames.
        state.reference = reference if self.training else reference.detach()
        state.output = output if self.training else output.detach()

    def _check_input(self, x: Tensor, state: _State | None) -> None:
        if x.dim() == 4 and x.shape[0] != 1:
            raise InputError(
                f"layer {self.layer_name!r}: batch size must be 1 (one clip, frame by frame), got {x.shape[0]}"
            )
        if state is not None and x.shape != state.reference.shape:
            raise InputError(
                f"layer {self.layer_name!r}: input size changed from {list(state.reference.shape)} to {list(x.shape)} "
                "in mid-clip; all frames of a clip must have one size (before a new clip, call reset)"
            )

    def _check_finite(self, fresh: Tensor, x: Tensor) -> None:
        if fresh.is_meta:
            return
        total = fresh.detach().sum(dtype=torch.float64 if fresh.dtype == torch.float64 else torch.float32)
        if math.isfinite(total.item()):
            return
        if not bool(torch.isfinite(x).all()):
            cause = "so is its input"
        elif not all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters()):
            cause = "so are its weights"
        else:
            cause = "its input and weights are finite"
        raise InputError(
            f"layer {self.layer_name!r}: output of frame {self.frame} is NaN or infinite somewhere; {cause}"
        )


def _previous(conv: SkipConv2d, state: _State, x: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    change = conv._conv_forward(x - state.reference, conv.weight, None)
    return state.output + change, x.clone()


def _accumulate(conv: SkipConv2d, state: _State, x: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    reference = torch.where(state.field.settled(pixels), x, state.reference)
    change = conv._conv_forward(reference - state.reference, conv.weight, None)
    return state.output + change, reference


def _recompute(conv: SkipConv2d, state: _State, x: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    if state.group is not None:  # nothing is compared with its input, so no reference is kept
        return conv._conv_forward(x, conv.weight, conv.bias), state.reference
    reference = torch.where(state.field.settled(pixels), x, state.reference)
    return conv._conv_forward(x, conv.weight, conv.bias), reference


# What a computed position becomes, and the reference that the next frame is compared with.
UPDATES: dict[str, Callable[[SkipConv2d, _State, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "previous": _previous,
    "accumulate": _accumulate,
    "recompute": _recompute,
}
