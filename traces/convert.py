"""convert(model, gate): a copy of a network in which every convolution skips what its gate leaves out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.parameter import is_lazy

from skipsim.errors import InputError, nearest
from skipsim.traces.batch_norm import fold
from skipsim.traces.gates import GATES, BlockShape, Gate, block_shape, is_gate
from skipsim.traces.gumbel import GumbelGate
from skipsim.traces.layer import Layer
from skipsim.traces.sharing import SHARES, groups_of
from skipsim.traces.skipconv import SIGNALS, UPDATES, FrameClock, MaskHook, SkipConv2d

if TYPE_CHECKING:
    from skipsim.hwmodels.hardware import Hardware

DenseLayers = Collection[str] | Callable[[Layer], bool]
EXECUTIONS = ("dense", "sparse")


def convert(
    model: nn.Module,
    gate: Gate | None = None,
    *,
    update: str = "recompute",
    reset_every: int | None = None,
    share: str | None = None,
    signal: str | None = None,
    fold_batch_norm: bool = False,
    mask: MaskHook | None = None,
    block: BlockShape | None = None,
    execute: str = "dense",
    dense_layers: DenseLayers | None = None,
    machine: Hardware | str | Path | None = "auto",
    density: float | None = None,
) -> nn.Module:
    """Return a copy of a model in which every nn.Conv2d skips what its gate leaves out; the given model stays as it is.

    Call the copy with one frame after the other: each call is one frame, the first one is computed densely. A module
    that runs several times per frame keeps state for each call. Everything but the convolutions stays, batch
    normalisation included, and so do all names: state dicts fit both ways. Run it in evaluation mode.

    Args:
        model: any module. nn.Conv2d subclasses with a forward() of their own, Conv1d, Conv3d and transposed
            convolutions stay dense; a warning names them (see `left_dense`).
        gate: decides from the change of the input, e.g. InputNormGate(threshold=0.05, block=4).
        update: "recompute", "accumulate" or "previous"; see SkipConv2d.
        reset_every: compute every so many frames densely again; None = only the first.
        share: "layer": each has a gate of its own; "block": one gate for the layers of a residual or inverted-residual
            block; "network": one that looks at the frame only; see sharing.py. None: as a trained gate was trained,
            otherwise "layer".
        signal: what gates look at: "residual", "magnitude" or "frame"; see SIGNALS. None: as a trained gate was
            trained, otherwise "residual".
        fold_batch_norm: put every batch normalisation into the convolution before it, so that bias and scale stand
            where they act: what a layer keeps is then what the next one reads, and an output-norm gate weighs the
            change that arrives there. The copy's state dict is no longer the model's.
        mask: instead of a gate, your own decision: a function that is called with each SkipConv2d on each frame but the
            reference frames, and returns its mask (see `grid_mask`), or None to compute all. `module.layer_name`,
            `module.call` and `module.frame` say which is asked for.
        block: with `mask`: output pixels that share one decision, one number or a pair (rows, cols); default 1.
        execute: "dense": every layer computes all and then selects; "sparse": only what the gates let through is
            computed, on the block-sparse kernels of this machine's CPU, which is what saves time (see SparseNetwork).
        dense_layers: with execute="sparse": layers that are computed whole, without a gate and by torch's own kernels,
            where that is faster: their names, or a function of a Layer. None: where `machine` predicts it to be.
        machine: with execute="sparse": a machine that `skipsim calibrate` measured, its name or file; "auto": the one
            that the environment variable SKIPSIM_MACHINE names, otherwise a packaged one that was measured on a
            processor like this; None: no layer runs densely by prediction. A warning says where it differs.
        density: with `machine`: share of the positions that is expected to be computed; None: a quarter.

    Raises:
        InputError: a model without convolutions or one converted before, both or neither of gate and mask, bad values.
    """
    if execute not in EXECUTIONS:
        raise InputError(f"convert: execute {execute!r} is unknown; {nearest(str(execute), EXECUTIONS)}")
    for name, given in (("dense_layers", dense_layers), ("density", density)):
        if execute == "dense" and given is not None:
            raise InputError(f'convert: {name} is an argument only together with execute="sparse"')
    if density is not None and not 0 < density <= 1:
        raise InputError(f"convert: density must be in (0, 1], got {density!r}")
    _check_choice(gate, mask, block)
    share = _chosen("share", share, gate, SHARES)
    signal = _chosen("signal", signal, gate, SIGNALS)
    if mask is not None and share != "layer":
        raise InputError(f"convert: share={share!r} needs a gate; a mask function is asked for every layer")
    if update not in UPDATES:
        raise InputError(f"convert: update {update!r} is unknown; {nearest(str(update), UPDATES)}")
    if reset_every is not None and (
        isinstance(reset_every, bool) or not isinstance(reset_every, int) or reset_every < 1
    ):
        raise InputError(f"convert: reset_every must be a whole number >= 1 or None, got {reset_every!r}")
    if is_converted(model):
        raise InputError("convert: the model is converted already; convert the original")
    if isinstance(gate, GumbelGate):
        gate.check(model)
    converted = copy.deepcopy(model)
    if fold_batch_norm:
        fold(converted)
    clock, groups = FrameClock(reset_every), groups_of(converted, share)
    found = False
    for name, module in converted.named_modules():
        if isinstance(module, nn.Conv2d) and any(is_lazy(parameter) for parameter in module.parameters()):
            raise InputError(f"convert: layer {name!r} has no weights yet (a lazy module); run the model once before")
        if not _convertible(module):
            continue
        found = True
        # Changing the class in place keeps parameters, hooks and every reference to the module, shared ones included.
        _set_class(module, _skipping_class(type(module)))
        assert isinstance(module, SkipConv2d)
        module.layer_name = name or type(model).__name__
        module._clock, module._gate, module._mask, module._update = clock, gate, mask, update
        module._signal, module._share, module._group = signal, share, groups.get(name)
        module._block = block_shape(1 if block is None else block)
        module.forget()
    if not found:
        raise InputError(f"convert: {type(model).__name__} has no nn.Conv2d that can be converted (a scripted model?)")
    converted.register_forward_pre_hook(clock.start_frame)
    dense = left_dense(converted)
    if dense:
        listed = ", ".join(f"{name} ({kind})" for name, kind in dense.items())
        warnings.warn(f"convert: left dense, because only plain nn.Conv2d is converted: {listed}", stacklevel=2)
    if execute == "sparse":
        from skipsim.traces.execute.sparse_network import DENSITY, SparseNetwork  # needs this module

        return SparseNetwork(converted, dense_layers=dense_layers, machine=machine, density=density or DENSITY)
    return converted


@dataclass(frozen=True)
class LayerGate:
    """How one call of one layer decides, known after the first frame.

    Attributes:
        layer: geometry, with gate kind and block.
        gate: the gate of this layer alone; None where it is dense, goes by the user's mask or shares a gate.
        leader: name of the layer whose gate it shares; None where it shares none.
    """

    layer: Layer
    gate: Gate | None
    leader: str | None


def layer_gates(model: nn.Module) -> tuple[LayerGate, ...]:
    """Return how every call of a converted model decides, by module and call; InputError before the first frame."""
    found = [
        LayerGate(state.layer, state.gate, None if state.group is None else state.group.leader)
        for module in model.modules()
        if isinstance(module, SkipConv2d)
        for _, state in sorted(module._states.items())
    ]
    if not found:
        raise InputError("layer_gates: gates are known after the first frame; call the converted model once")
    return tuple(found)


def reset(model: nn.Module) -> None:
    """Make the next frame of a converted model the first of a new clip; frees all state."""
    for module in model.modules():
        if isinstance(module, SkipConv2d) or getattr(module, "keeps_frames", False):
            module.forget()  # type: ignore[operator]  # a SparseNetwork; its module imports this one


def is_converted(model: nn.Module) -> bool:
    """Tell whether any convolution of the model has been converted."""
    return any(isinstance(module, SkipConv2d) for module in model.modules())


def left_dense(model: nn.Module) -> dict[str, str]:
    """Return the convolutions that `convert` does not or did not convert: {name: class}."""
    kinds = (nn.modules.conv._ConvNd,)
    return {
        name or type(model).__name__: type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, kinds) and not isinstance(module, SkipConv2d) and not _convertible(module)
    }


def dense_copy(model: nn.Module) -> nn.Module:
    """Return a converted model as it was before; the copy shares parameters and buffers with the given one."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    shared |= {id(module._states): {} for module in model.modules() if isinstance(module, SkipConv2d)}
    plain = copy.deepcopy(model, shared)
    for module in plain.modules():
        if isinstance(module, SkipConv2d):
            _set_class(module, module.plain_class)
    return plain


def _set_class(module: nn.Module, kind: type[nn.Module]) -> None:
    module.__class__ = kind


def _convertible(module: nn.Module) -> bool:
    kind = type(module)
    if not issubclass(kind, nn.Conv2d) or issubclass(kind, SkipConv2d):
        return False
    return kind.forward is nn.Conv2d.forward and kind._conv_forward is nn.Conv2d._conv_forward


def _skipping_class(plain: type) -> type[SkipConv2d]:
    if plain is nn.Conv2d:
        return SkipConv2d
    return type(f"Skip{plain.__name__}", (SkipConv2d, plain), {"plain_class": plain})


def _chosen(name: str, given: str | None, gate: Any, choices: Iterable[str]) -> str:
    """Return share or signal: what is given, else as the gate was trained, else the first choice."""
    trained = getattr(gate, name, None)
    if given is None:
        return trained if isinstance(trained, str) else next(iter(choices))
    if given not in choices:
        raise InputError(f"convert: {name} {given!r} is unknown; {nearest(str(given), choices)}")
    if trained is not None and given != trained:
        raise InputError(f"convert: these gates were trained with {name} {trained!r}, got {given!r}")
    return given


def _check_choice(gate: Any, mask: Any, block: Any) -> None:
    if isinstance(gate, str):
        hint = nearest(gate, GATES)
        raise InputError(f"convert: gate must be a gate such as InputNormGate(threshold=0.05), got {gate!r}; {hint}")
    if gate is not None and not is_gate(gate):
        raise InputError(f"convert: gate must be a gate such as InputNormGate(threshold=0.05), got {gate!r}")
    if mask is not None and not callable(mask):
        raise InputError(f"convert: mask must be a function of the module, got {mask!r}")
    if (gate is None) == (mask is None):
        raise InputError(f"convert: give either a gate or a mask function, got {'neither' if gate is None else 'both'}")
    if gate is not None and block is not None:
        raise InputError("convert: block belongs to the gate; it is an argument only together with mask")
    if block is not None:
        block_shape(block)
