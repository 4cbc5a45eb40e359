"""What graph_reader reads of operations on maps that are no convolution: resizing, pooling, padding, joining.

Each takes a node of the exported graph and the number of its output; None: not one of ours, torch runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from skipsim.traces.execute.graph import Concatenate, GlobalMean, Operation, Pad, Pool, Resize, Sum

if TYPE_CHECKING:
    from skipsim.traces.execute.graph_reader import _Reader

_aten = torch.ops.aten


def nearest(reader: _Reader, node: Any, output: int) -> Operation | None:
    """Read a nearest upsampling by whole numbers: a sum of one map."""
    inp, out = reader.shape(node.args[0]), reader.shapes[output]
    if inp is None or out.rows % inp.rows or out.cols % inp.cols:
        return None
    factor = (out.rows // inp.rows, out.cols // inp.cols)
    return Sum(node.name, (reader.numbers[node.args[0]],), output, (1.0,), (factor,))


def bilinear(reader: _Reader, node: Any, output: int) -> Operation | None:
    """Read a bilinear resizing."""
    source, _, align, scales = (*node.args, None, None, None)[:4]
    if reader.shape(source) is None:
        return None
    pair = (0.0, 0.0) if scales is None else (float(scales[0]), float(scales[1]))
    return Resize(node.name, reader.numbers[source], output, bool(align), pair)


def pool(kind: str) -> Callable[[_Reader, Any, int], Operation | None]:
    """Return a reader of poolings of a kind, with neither dilation nor rounding up, and padding that does not count."""

    def read(reader: _Reader, node: Any, output: int) -> Operation | None:
        given = dict(enumerate(node.args))
        kernel = pair(given[1])
        stride, padding = pair(given.get(2) or kernel), pair(given.get(3, 0))
        if reader.shape(given[0]) is None or (kind == "max" and pair(given.get(4, 1)) != (1, 1)):
            return None
        ceil = given.get(5 if kind == "max" else 4, False)
        counts_padding = kind == "average" and padding != (0, 0) and given.get(5, True)
        if ceil or counts_padding or given.get(6) is not None:
            return None
        return Pool(
            node.name,
            reader.numbers[given[0]],
            output,
            kind,
            kernel,
            stride,
            (padding[0], padding[0], padding[1], padding[1]),
        )

    return read


def pad(reader: _Reader, node: Any, output: int) -> Operation | None:
    """Read a padding with one value, of rows and columns only; torch names the last axis first."""
    source, sides, *rest = node.args
    mode, value = (*rest, "constant", None)[:2] if node.target is _aten.pad.default else ("constant", *rest, 0.0)[:2]
    left, right, top, bottom = (*sides, 0, 0)[:4]
    if reader.shape(source) is None or mode != "constant" or len(sides) > 4 or min(sides) < 0:
        return None
    return Pad(node.name, reader.numbers[source], output, (top, bottom, left, right), float(value or 0.0))


def adaptive_mean(reader: _Reader, node: Any, output: int) -> Operation | None:
    """Read an adaptive average pooling to one pixel."""
    source, out = node.args[0], reader.shapes[output]
    if reader.shape(source) is None or (out.rows, out.cols) != (1, 1):
        return None
    return GlobalMean(node.name, reader.numbers[source], output)


def mean(reader: _Reader, node: Any, output: int) -> Operation | None:
    """Read a mean over rows and columns."""
    axes = sorted(axis % 4 for axis in node.args[1])
    return adaptive_mean(reader, node, output) if axes == [2, 3] else None


def concatenate(reader: _Reader, node: Any, output: int) -> Operation | None:
    """Read a concatenation of channels."""
    sources, axis = node.args[0], node.args[1] if len(node.args) > 1 else 0
    if axis not in (1, -3) or any(reader.shape(source) is None for source in sources):
        return None
    return Concatenate(node.name, tuple(reader.numbers[source] for source in sources), output)


def pair(value: Any) -> tuple[int, int]:
    """Return an argument of torch that is one number or two as two."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return (int(values[0]), int(values[-1]))
