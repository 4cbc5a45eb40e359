"""Running: an assembled network, ready for its frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from skipsim.errors import InputError
from skipsim.hwmodels.kernels import Program, Step
from skipsim.traces.execute.assemble_convolution import assemble_convolution
from skipsim.traces.execute.assemble_maps import ASSEMBLE
from skipsim.traces.execute.assembly import PIXEL, Action, Assembler, Entry, empty_grid
from skipsim.traces.execute.decision import Dense, Follow, Shared
from skipsim.traces.execute.graph import Convolution, Reference


class Running:
    """The maps, kernels and lists of a network, and what moves frames in and results out.

    Attributes:
        assembler: what was assembled.
        frame: what runs on a frame, in order: programs of kernels, and Python code between them.
        reference_frame: what runs on a reference frame.
    """

    def __init__(self, assembler: Assembler) -> None:
        self.assembler = assembler
        self._inputs: list[tuple[Tensor, Tensor, Tensor]] = []
        for value in assembler.graph.inputs:
            shape = assembler.graph.shapes[value]
            mask = empty_grid(shape, PIXEL)
            assembler.begin("input")
            assembler.changes[value] = assembler.listed(mask, PIXEL, shape)
            before = torch.full((1, shape.channels, shape.rows, shape.cols), torch.nan)
            self._inputs.append((assembler.tensor(value), before, torch.from_numpy(mask)))
        for operation in assembler.graph.operations:
            assembler.begin(operation.name)
            if isinstance(operation, Convolution):
                assemble_convolution(assembler, operation)
            else:
                ASSEMBLE[type(operation)](assembler, operation)
        self._imposed = [
            (each.layer.key, each.change.mask)
            for each in assembler.layers
            if not isinstance(each.decision, Dense | Follow | Shared)
        ]
        self.frame = _grouped(assembler.frame)
        self.reference_frame = _grouped(assembler.reference_frame)

    def take(self, x: Tensor) -> None:
        """Bring a frame in, and note which of its positions differ from the frame before."""
        for kept, before, mask in self._inputs:
            if x.shape != kept.shape:
                raise InputError(
                    f"sparse network: input size changed from {list(kept.shape)} to {list(x.shape)}; it runs frames of "
                    "the size that it was first called with"
                )
            torch.amax((x != before)[0].view(torch.uint8), 0, out=mask)
            before.copy_(x)
            kept.copy_(x)

    def impose(self, masks: Mapping[tuple[str, int], NDArray[np.bool_]]) -> None:
        """Set the masks of the gated layers for the frame to come."""
        for key, target in self._imposed:
            mask = masks.get(key)
            if mask is None or mask.shape != target.shape:
                got = "none" if mask is None else list(mask.shape)
                raise InputError(
                    f"replay: mask of layer {key[0]!r}, call {key[1]}, must have one entry per block, "
                    f"{list(target.shape)}, got {got}"
                )
            target[...] = mask

    def expect(self, masks: Mapping[tuple[str, int], NDArray[np.bool_]]) -> None:
        """Set the masks of a frame that is not there yet, and take it to differ everywhere from the one before."""
        for _, _, changed in self._inputs:
            changed.fill_(1)
        self.impose(masks)

    def outputs(self) -> Any:
        """Return copies of what the network returns, arranged as it arranges them; maps lie channels last in memory."""
        graph = self.assembler.graph
        leaves = [self.assembler.value(leaf.value) if isinstance(leaf, Reference) else leaf for leaf in graph.outputs]
        copies = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return pytree.tree_unflatten(copies, graph.structure)


def _grouped(entries: Sequence[Entry]) -> list[Program | Action]:
    """Join neighbouring kernels into programs."""
    items: list[Program | Action] = []
    steps: list[Step] = []
    for entry in entries:
        if isinstance(entry.item, Step):
            steps.append(entry.item)
            continue
        if steps:
            items.append(Program(steps))
        items.append(entry.item)
        steps = []
    return [*items, Program(steps)] if steps else items
