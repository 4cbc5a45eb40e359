"""Watch: notes every convolution call of a running model, in call order, and what it computed on each frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from skipsim.errors import InputError
from skipsim.traces.gates import grid_mask
from skipsim.traces.layer import Layer
from skipsim.traces.receptive_field import layer_of
from skipsim.traces.skipconv import SkipConv2d

Masks = list[NDArray[np.bool_]]
OwnMask = Callable[[nn.Module], Any]


class Watch:
    """Watch a model while it runs frame after frame; use it as a context manager around the runs.

    Every nn.Conv2d counts, subclasses with a forward() of their own too. The mask of a SkipConv2d is what it decided. A
    model that skips by itself is asked through `own_mask`: after each convolution that function is called with it, and
    after each module that contains convolutions with that module; what it returns first holds for all convolutions that
    ran inside. So the mask may be an attribute of the convolution or of any module around it. An AttributeError or None
    means: this module has none. Convolutions without a mask count as computed densely.

    Args:
        model: the model that will run.
        own_mask: reads the mask of a module (see `gates.grid_mask`) that has just run.
        block: output pixels (rows, cols) that share one decision of `own_mask`.
        kind: gate kind noted for convolutions that have no gate.
    """

    def __init__(
        self,
        model: nn.Module,
        own_mask: OwnMask | None = None,
        block: tuple[int, int] = (1, 1),
        kind: str = "none",
    ) -> None:
        self._model = model
        self._own_mask = own_mask
        self._block = block
        self._kind = kind
        self._own_error = ""
        self._hooks: list[Any] = []
        self._layers: list[Layer] = []
        self._gated: set[int] = set()
        self._fixed = False
        self._frames = 0
        self._masks: list[Tensor | None] = []  # of the running frame, one per call so far
        self._references: list[bool] = []
        self._entered: list[int] = []  # number of calls at the start of each module that is running now
        self._waiting: list[tuple[list[Tensor | None], bool]] = []  # frames that have run and were not taken

    def __enter__(self) -> Watch:
        for name, module in self._model.named_modules():
            if isinstance(module, nn.Conv2d):
                note = self._noter(name or type(module).__name__)
                self._hooks.append(module.register_forward_hook(note, with_kwargs=True))
            elif self._own_mask and any(isinstance(inner, nn.Conv2d) for inner in module.modules()):
                self._hooks.append(module.register_forward_pre_hook(self._enter))
                self._hooks.append(module.register_forward_hook(self._leave))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def begin_frame(self) -> None:
        """Say that the model is about to run on the next frame."""
        self._masks, self._references, self._entered = [], [], []

    def end_frame(self) -> None:
        """Say that the model has run on the frame."""
        if len(self._masks) != len(self._layers):
            raise InputError(
                f"model: every frame must run the same convolutions; this one ran {len(self._masks)} calls, the first "
                f"{len(self._layers)}"
            )
        self._frames += 1
        self._waiting.append((self._masks, all(self._references)))

    def layers(self) -> tuple[Layer, ...]:
        """Return the layers in call order; from now on it is fixed which of them have a gate.

        Raises:
            InputError: no convolution has run, or `own_mask` has given no mask on any frame so far.
        """
        if not self._layers:
            raise InputError(f"model: {type(self._model).__name__} ran no nn.Conv2d, so there is nothing to record")
        if not self._fixed:
            if self._own_mask and not self._gated:
                detail = f" ({self._own_error})" if self._own_error else ""
                raise InputError(f"mask: the function gave no mask for any module on the frames so far{detail}")
            if self._own_mask:
                self._layers = [
                    replace(layer, gate="mask") if index in self._gated else replace(layer, block_rows=1, block_cols=1)
                    for index, layer in enumerate(self._layers)
                ]
            self._fixed = True
        return tuple(self._layers)

    def take(self) -> list[tuple[Masks, bool]]:
        """Return (mask per layer, whether it is a reference frame) of each frame since the last call.

        Where the model skips by itself, a frame on which every gated layer computed everything is a reference frame.
        """
        layers = self.layers()
        taken = []
        for masks, reference in self._waiting:
            arrays = [
                np.ones((layer.grid_rows, layer.grid_cols), np.bool_) if mask is None else mask.cpu().numpy()
                for layer, mask in zip(layers, masks, strict=True)
            ]
            if self._own_mask:
                reference = all(array.all() for array in arrays)
            taken.append((arrays, reference and any(layer.gate != "none" for layer in layers)))
        self._waiting = []
        return taken

    def _noter(self, name: str) -> Callable[[nn.Module, Any, Any, Tensor], None]:
        def note(module: nn.Module, arguments: Any, keywords: Any, output: Tensor) -> None:
            assert isinstance(module, nn.Conv2d)
            index = len(self._masks)
            if not self._frames:
                self._layers.append(self._new_layer(name, module, arguments or tuple(keywords.values()), output))
            elif index >= len(self._layers) or self._layers[index].name != name:
                expected = self._layers[index].name if index < len(self._layers) else "none"
                raise InputError(
                    f"model: every frame must run the same convolutions; call {index} was {expected!r} and is {name!r}"
                )
            layer = self._layers[index]
            if (layer.out_rows, layer.out_cols) != tuple(output.shape[-2:]):
                raise InputError(
                    f"layer {name!r}: output size changed from {[layer.out_rows, layer.out_cols]} to "
                    f"{list(output.shape[-2:])} between frames"
                )
            if isinstance(module, SkipConv2d):
                self._masks.append(module.last_mask)
                self._references.append(module.last_reference)
            else:
                self._masks.append(None)
                self._references.append(True)
                self._ask(module, index)

        return note

    def _new_layer(self, name: str, conv: nn.Conv2d, arguments: Any, output: Tensor) -> Layer:
        if isinstance(conv, SkipConv2d):
            return replace(conv.last_layer, name=name)
        call = Counter(layer.name for layer in self._layers)[name]
        return layer_of(conv, arguments[0], output, name=name, call=call, block=self._block, gate=self._kind)

    def _enter(self, module: nn.Module, arguments: Any) -> None:
        self._entered.append(len(self._masks))

    def _leave(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self._ask(module, self._entered.pop())

    def _ask(self, module: nn.Module, first: int) -> None:
        """Ask for the mask of a module that has run, for the calls from number `first` on that have none yet."""
        calls = [index for index in range(first, len(self._masks)) if self._masks[index] is None]
        if not calls or self._own_mask is None:
            return
        try:
            given = self._own_mask(module)
        except AttributeError as error:  # most modules around and besides the gated ones have no such attribute
            self._own_error = str(error)
            return
        if given is None:
            return
        for index in calls:
            if self._fixed and index not in self._gated:
                name = self._layers[index].name
                raise InputError(f"layer {name!r}: its first mask comes too late; give one on frame 0 or 1")
            self._masks[index] = grid_mask(given, self._layers[index])
            self._gated.add(index)
