"""Read dense layer lists, SCALE-Sim topologies (CSV) and ONNX graphs, into layers or into a trace with full masks."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skipsim.errors import InputError
from skipsim.traces.layer import Layer
from skipsim.traces.trace import Trace
from skipsim.traces.trace_files import file_sha256

if TYPE_CHECKING:
    import onnx

CSV_SIZES = ("IFMAP Height", "IFMAP Width", "Filter Height", "Filter Width", "Channels", "Num Filter", "Strides")
CSV_COLUMNS = ("Layer name", *CSV_SIZES)
# Operator and the position of the filter among its inputs: ONNX operator specification.
ONNX_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}


@dataclass(frozen=True)
class _Entry:
    """One convolution as a file has it: where it stands, its name, and the sizes of a Layer."""

    where: str
    name: str
    sizes: dict[str, Any]  # whole numbers; Any because Layer takes text too


def read_topology(path: str | Path) -> tuple[Layer, ...]:
    """Read the convolutions of a SCALE-Sim topology (.csv) or of an ONNX model (.onnx), in file order, gate "none"."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".onnx"):
        raise InputError(f"{path}: a topology must end in .csv (SCALE-Sim) or .onnx, got {suffix!r}")
    if not path.is_file():
        raise InputError(f"{path}: {'is a directory' if path.is_dir() else 'no such file'}")
    calls: Counter[str] = Counter()
    layers = []
    for entry in _read_csv(path) if suffix == ".csv" else _read_onnx(path):
        try:
            layers.append(Layer(name=entry.name, call=calls[entry.name], **entry.sizes))
        except InputError as error:
            raise InputError(f"{entry.where}: {error}") from None
        calls[entry.name] += 1
    if not layers:
        raise InputError(f"{path}: holds no convolution")
    return tuple(layers)


def topology_trace(path: str | Path) -> Trace:
    """Read a topology as a trace of one frame that computes everything with no gate (and is no reference frame)."""
    path = Path(path)
    layers = read_topology(path)
    masks = [np.ones((1, layer.grid_rows, layer.grid_cols), np.bool_) for layer in layers]
    origin = {"kind": "topology", "network": path.name.split(".")[0], "file": path.name, "sha256": file_sha256(path)}
    return Trace.from_masks(layers, masks, origin=origin)


def _read_csv(path: Path) -> Iterator[_Entry]:
    """Yield the rows of a SCALE-Sim topology; columns are found by name, empty cells at the end of a row are allowed.

    The format's input size includes the padding. "DP" in a name makes a layer depthwise, with `Num Filter` filters per
    channel (SCALE-Sim, topology_utils.py); an optional column `Groups` says it outright and `Num Filter` then counts
    all filters. A last window that is only partly inside the map gives no output, as in PyTorch and ONNX; where a
    stride leaves such a rest SCALE-Sim itself counts one more.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [(line, [cell.strip() for cell in row]) for line, row in enumerate(csv.reader(file), 1)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV text file ({error})") from None
    rows = [(line, row) for line, row in rows if any(row)]
    if not rows:
        raise InputError(f"{path}: empty; a topology starts with the header {', '.join(CSV_COLUMNS)}")
    line, header = rows[0]
    titles = [" ".join(cell.lower().split()) for cell in header]
    for column in CSV_COLUMNS:
        if titles.count(column.lower()) != 1:
            raise InputError(
                f"{path}, line {line}: the header must have one column {column!r}, got {', '.join(header)}"
            )
    for line, row in rows[1:]:
        yield _csv_entry(f"{path}, line {line}", dict(zip(titles, row, strict=False)))


def _csv_entry(where: str, cells: dict[str, str]) -> _Entry:
    def number(column: str) -> int:
        value = cells.get(column.lower(), "")
        if not (value.isascii() and value.isdigit() and int(value) >= 1):
            raise InputError(f"{where}, column {column!r}: must be a whole number >= 1, got {value or 'nothing'!r}")
        return int(value)

    name = cells.get("layer name", "")
    if not name:
        raise InputError(f"{where}, column 'Layer name': must not be empty")
    height, width, kernel_rows, kernel_cols, channels, filters, stride = map(number, CSV_SIZES)
    for side, size, kernel in (("Height", height, kernel_rows), ("Width", width, kernel_cols)):
        if kernel > size:
            raise InputError(f"{where}, column 'Filter {side}': must be at most the IFMAP {side} {size}, got {kernel}")
    groups = 1
    if cells.get("groups"):
        groups = number("Groups")
    elif "DP" in name:
        groups, filters = channels, channels * filters
    sizes = {
        "in_channels": channels,
        "in_rows": height,
        "in_cols": width,
        "out_channels": filters,
        "out_rows": -(-(height - kernel_rows) // stride) + 1,  # SCALE-Sim rounds up where the stride leaves a rest
        "out_cols": -(-(width - kernel_cols) // stride) + 1,
        "kernel_rows": kernel_rows,
        "kernel_cols": kernel_cols,
        "stride_rows": stride,
        "stride_cols": stride,
        "groups": groups,
    }
    return _Entry(where, name, sizes)


def _read_onnx(path: Path) -> Iterator[_Entry]:
    """Yield the two-dimensional convolutions of an ONNX graph, float or quantised, in the order of its nodes.

    Matrix products and transposed convolutions are not layers here; subgraphs (If, Loop) are not entered.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise InputError(f"{path}: reading ONNX needs the onnx package: pip install 'skipsim[onnx]'") from None
    try:
        model = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False), data_prop=True)
    except (DecodeError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not a valid ONNX model ({' '.join(str(error).split())})") from None
    graph = model.graph
    shapes: dict[str, list[int | str]] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]
    for tensor in graph.initializer:
        shapes[tensor.name] = list(tensor.dims)
    for node in graph.node:
        if node.op_type in ONNX_CONVOLUTIONS:
            name = node.name or node.output[0]
            where = f"{path}, node {name!r}"
            image = shapes.get(node.input[0], [])
            filters = shapes.get(node.input[ONNX_CONVOLUTIONS[node.op_type]], [])
            yield _Entry(where, name, _onnx_sizes(where, node, image, filters))


def _onnx_sizes(where: str, node: onnx.NodeProto, image: list[int | str], filters: list[int | str]) -> dict[str, int]:
    """Return the geometry of a convolution from its attributes (ONNX operator specification, Conv)."""
    from onnx.helper import get_attribute_value

    attributes: dict[str, Any] = {entry.name: get_attribute_value(entry) for entry in node.attribute}
    for what, shape in (("input", image), ("filter", filters)):
        fixed = shape if what == "filter" else shape[1:]
        if len(shape) != 4 or not all(isinstance(size, int) and size > 0 for size in fixed):
            raise InputError(
                f"{where}: its {what} must have 4 dimensions of known size, got {shape or 'no shape'}; "
                "export the model with a fixed input size"
            )
    if isinstance(image[0], int) and image[0] != 1:
        raise InputError(f"{where}: the batch size must be 1 (one frame), got {image[0]}")
    in_channels, in_rows, in_cols = (int(size) for size in image[1:])
    out_channels, group_channels, kernel_rows, kernel_cols = (int(size) for size in filters)
    groups = int(attributes.get("group", 1))
    if group_channels * groups != in_channels:
        raise InputError(
            f"{where}: filters of {group_channels} channels x {groups} groups do not fit {in_channels} channels"
        )
    stride_rows, stride_cols = attributes.get("strides", (1, 1))
    dilation_rows, dilation_cols = attributes.get("dilations", (1, 1))
    pads = attributes.get("pads", (0, 0, 0, 0))
    auto_pad = attributes.get("auto_pad", b"NOTSET").decode()
    out_rows, padding_top = _span(
        in_rows, dilation_rows * (kernel_rows - 1) + 1, stride_rows, auto_pad, pads[0], pads[2]
    )
    out_cols, padding_left = _span(
        in_cols, dilation_cols * (kernel_cols - 1) + 1, stride_cols, auto_pad, pads[1], pads[3]
    )
    return {
        "in_channels": in_channels,
        "in_rows": in_rows,
        "in_cols": in_cols,
        "out_channels": out_channels,
        "out_rows": out_rows,
        "out_cols": out_cols,
        "kernel_rows": kernel_rows,
        "kernel_cols": kernel_cols,
        "stride_rows": stride_rows,
        "stride_cols": stride_cols,
        "padding_top": padding_top,
        "padding_left": padding_left,
        "dilation_rows": dilation_rows,
        "dilation_cols": dilation_cols,
        "groups": groups,
    }


def _span(size: int, window: int, stride: int, auto_pad: str, before: int, after: int) -> tuple[int, int]:
    """Return output size and padding before the first pixel along one axis."""
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        out = -(-size // stride)
        padding = max(0, (out - 1) * stride + window - size)
        return out, padding // 2 if auto_pad == "SAME_UPPER" else -(-padding // 2)
    if auto_pad == "VALID":
        before = after = 0
    return (size + before + after - window) // stride + 1, before
