"""read_graph(model, example) -> Graph: what a network does with one frame, exported by torch, in our operations."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram, export
from torch.fx import Node
from torch.fx.node import map_arg

from skipsim.errors import InputError
from skipsim.traces.execute import map_reader
from skipsim.traces.execute.fusion import fuse
from skipsim.traces.execute.graph import (
    Affine,
    ChannelScale,
    Convolution,
    Graph,
    MapShape,
    Operation,
    Reference,
    Sum,
    TorchCall,
)
from skipsim.traces.layer import Layer

_aten = torch.ops.aten


def read_graph(model: nn.Module, example: Tensor) -> Graph:
    """Return the operations of one frame of a network in evaluation mode, batch normalisation and activations fused.

    Args:
        model: any module that `torch.export` takes: what it does may depend on the sizes, not on the values.
        example: an input [1, channels, rows, cols]; the graph is for this size only.

    Raises:
        InputError: a network that can't be exported, with the reason.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            exported = export(model, (example,), strict=False)
            if any(_in_place(node) for node in exported.graph.nodes):
                exported = exported.run_decompositions({})
    except Exception as error:  # torch.export raises whatever the model's code or its own tracing runs into
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"network {type(model).__name__}: can't be read as a graph of operations: {reason}") from None
    finally:
        model.train(training)
    with torch.no_grad():
        return fuse(_Reader(model, exported).read())


def _in_place(node: Node) -> bool:
    return (
        node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
    )


class _Reader:
    """Walk over an exported graph, node by node."""

    def __init__(self, model: nn.Module, exported: ExportedProgram) -> None:
        self.exported = exported
        self.modules = dict(model.named_modules())
        self.constants: dict[Any, Any] = {}
        self.numbers: dict[Any, int] = {}
        self.shapes: dict[int, MapShape] = {}
        self.operations: list[Operation] = []
        self.calls: dict[str, int] = {}

    def read(self) -> Graph:
        """Return the graph as exported, one operation per node."""
        inputs: list[int] = []
        outputs: tuple[Any, ...] = ()
        given = set(self.exported.graph_signature.user_inputs)
        for node in self.exported.graph.nodes:
            if node.op == "placeholder" and node.name in given:
                inputs.append(self.number(node))
            elif node.op == "placeholder":
                self.constants[node] = self.parameter(node.name)
            elif node.op == "call_function":
                self.read_call(node)
            elif node.op == "output":
                outputs = map_arg(tuple(node.args[0]), self.place)
        structure = self.exported.call_spec.out_spec
        assert structure is not None
        return Graph(tuple(self.operations), self.shapes, tuple(inputs), outputs, structure)

    def place(self, node: Any) -> Any:
        """Return a constant as it is, and a reference to any other value."""
        return self.constants[node] if node in self.constants else Reference(self.numbers[node])

    def parameter(self, name: str) -> Any:
        """Return a parameter or buffer by the name of its placeholder."""
        signature = self.exported.graph_signature
        for table in (signature.inputs_to_parameters, signature.inputs_to_buffers):
            if name in table:
                target = table[name]
                state = self.exported.state_dict
                return (state[target] if target in state else self.exported.constants[target]).detach()
        return self.exported.constants[signature.inputs_to_lifted_tensor_constants[name]].detach()

    def number(self, node: Any) -> int:
        """Give a node's value a number, and a shape if it is a map."""
        value = self.numbers.setdefault(node, len(self.numbers))
        tensor = node.meta.get("val")
        if isinstance(tensor, Tensor) and tensor.dim() == 4 and tensor.shape[0] == 1 and tensor.dtype == torch.float32:
            self.shapes[value] = MapShape(int(tensor.shape[1]), int(tensor.shape[2]), int(tensor.shape[3]))
        return value

    def shape(self, node: Any) -> MapShape | None:
        """Return the size of a node's value if it is a map that is computed anew on every frame."""
        return self.shapes.get(self.numbers[node]) if isinstance(node, Node) and node in self.numbers else None

    def read_call(self, node: Any) -> None:
        """Add the operation of a node; a node that depends on constants only becomes one."""
        needed = node.all_input_nodes
        if all(source in self.constants for source in needed):
            arguments = map_arg(node.args, self.constants.__getitem__)
            self.constants[node] = node.target(*arguments, **map_arg(node.kwargs, self.constants.__getitem__))
            return
        if node.target in ALIASES and node.args[0] in self.numbers:
            self.numbers[node] = self.numbers[node.args[0]]
            return
        output = self.number(node)
        read = READERS.get(node.target)
        operation = read(self, node, output) if read is not None and output in self.shapes else None
        self.operations.append(operation or self.torch_call(node, output))

    def torch_call(self, node: Any, output: int) -> TorchCall:
        """Return a node as a call of torch."""
        arguments, options = map_arg(node.args, self.place), map_arg(node.kwargs, self.place)
        sources = tuple(
            dict.fromkeys(self.numbers[source] for source in node.all_input_nodes if source in self.numbers)
        )
        function = _aten.reshape.default if node.target in VIEWS else node.target
        return TorchCall(node.name, sources, output, function, tuple(arguments), dict(options))

    def module_of(self, node: Node) -> tuple[str, nn.Module | None]:
        """Return the name and the module whose forward() made this call."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        name = stack[-1][0].split("@")[0] if stack else ""
        return name, self.modules.get(name)


def _convolution(reader: _Reader, node: Any, output: int) -> Operation | None:
    schema = node.target._schema
    given = {argument.name: argument.default_value for argument in schema.arguments}
    given |= dict(zip(given, node.args, strict=False)) | node.kwargs
    source, inp, out = given["input"], reader.shape(given["input"]), reader.shapes[output]
    weight, bias = reader.constants.get(given["weight"]), given["bias"]
    if inp is None or weight is None or (bias is not None and bias not in reader.constants):
        return None
    kernel, stride, dilation = (
        tuple(weight.shape[2:]),
        map_reader.pair(given["stride"]),
        map_reader.pair(given["dilation"]),
    )
    padding = _padding(given["padding"], kernel, dilation)
    name, module = reader.module_of(node)
    gateable = False
    if isinstance(module, nn.Conv2d):
        gateable = type(module).forward is nn.Conv2d.forward and module.padding_mode == "zeros"
        name = name or type(module).__name__
    else:
        name = node.name
    call = reader.calls[name] = reader.calls.get(name, -1) + 1
    layer = Layer(
        name=name,
        in_channels=inp.channels,
        in_rows=inp.rows,
        in_cols=inp.cols,
        out_channels=out.channels,
        out_rows=out.rows,
        out_cols=out.cols,
        kernel_rows=kernel[0],
        kernel_cols=kernel[1],
        stride_rows=stride[0],
        stride_cols=stride[1],
        padding_top=padding[0],
        padding_left=padding[2],
        dilation_rows=dilation[0],
        dilation_cols=dilation[1],
        groups=given["groups"],
        call=call,
    )
    return Convolution(
        layer=layer,
        source=reader.numbers[source],
        output=output,
        weight=weight,
        bias=torch.zeros(out.channels) if bias is None else reader.constants[bias],
        padding=padding,
        gateable=gateable,
    )


def _batch_norm(reader: _Reader, node: Any, output: int) -> Operation | None:
    source, weight, bias, mean, variance = (
        reader.constants.get(argument, argument) if isinstance(argument, Node) else argument
        for argument in node.args[:5]
    )
    epsilon = node.args[7] if len(node.args) > 7 else node.args[6]  # after the decomposition two flags fewer
    if reader.shape(source) is None or mean is None or variance is None:
        return None
    scale = torch.rsqrt(variance.double() + epsilon) * (1 if weight is None else weight.double())
    shift = (0 if bias is None else bias.double()) - mean.double() * scale
    return Affine(node.name, reader.numbers[source], output, scale.float(), shift.float())


def _item(reader: _Reader, node: Any, output: int) -> Operation | None:
    """Read the first of several results where the operation that gives them is one of ours (batch normalisation)."""
    source, index = node.args
    if index != 0 or source.target not in (_aten._native_batch_norm_legit_no_training.default,):
        return None
    for position, operation in enumerate(reader.operations):
        if operation.output == reader.numbers[source]:
            del reader.operations[position]
            return _batch_norm(reader, source, output)
    return None


def _activation(kind: str) -> Callable[[_Reader, Any, int], Operation | None]:
    def read(reader: _Reader, node: Any, output: int) -> Operation | None:
        source = node.args[0]
        if reader.shape(source) is None:
            return None
        return Sum(node.name, (reader.numbers[source],), output, (1.0,), ((1, 1),), kind)

    return read


def _add(reader: _Reader, node: Any, output: int) -> Operation | None:
    a, b = node.args[:2]
    alpha = float(node.kwargs.get("alpha", 1)) * (-1.0 if node.target is _aten.sub.Tensor else 1.0)
    out = reader.shapes[output]
    if reader.shape(a) == out and reader.shape(b) == out:
        sources = (reader.numbers[a], reader.numbers[b])
        return Sum(node.name, sources, output, (1.0, alpha), ((1, 1), (1, 1)))
    if reader.shape(a) == out:
        shift = _per_channel(reader, b, out.channels)
        return (
            None
            if shift is None
            else Affine(node.name, reader.numbers[a], output, torch.ones(out.channels), shift * alpha)
        )
    shift = _per_channel(reader, a, out.channels)
    if reader.shape(b) != out or shift is None:
        return None
    return Affine(node.name, reader.numbers[b], output, torch.full((out.channels,), alpha), shift)


def _multiply(reader: _Reader, node: Any, output: int) -> Operation | None:
    a, b = node.args[:2]
    out = reader.shapes[output]
    if reader.shape(a) != out:
        a, b = b, a
    shape = reader.shape(b)
    if reader.shape(a) != out:
        return None
    source = reader.numbers[a]
    if shape == MapShape(out.channels, 1, 1):
        return ChannelScale(node.name, source, reader.numbers[b], output)
    for x, gate in ((a, b), (b, a)):  # x * sigmoid(x), written out
        if isinstance(gate, Node) and gate.target is _aten.sigmoid.default and gate.args[0] is x:
            return Sum(node.name, (source if x is a else reader.numbers[x],), output, (1.0,), ((1, 1),), "silu")
    scale = _per_channel(reader, b, out.channels)
    return None if scale is None else _scaled(node, source, output, scale)


def _divide(reader: _Reader, node: Any, output: int) -> Operation | None:
    out = reader.shapes[output]
    divisor = _per_channel(reader, node.args[1], out.channels)
    if reader.shape(node.args[0]) != out or divisor is None:
        return None
    return _scaled(node, reader.numbers[node.args[0]], output, 1 / divisor)


def _scaled(node: Any, source: int, output: int, scale: Tensor) -> Operation:
    if bool((scale == scale[0]).all()):
        return Sum(node.name, (source,), output, (float(scale[0]),), ((1, 1),))
    return Affine(node.name, source, output, scale, torch.zeros_like(scale))


def _per_channel(reader: _Reader, value: Any, channels: int) -> Tensor | None:
    """Return a constant as one number per channel; None if it is no constant or has another shape."""
    if isinstance(value, Node):
        if value not in reader.constants:
            return None
        value = reader.constants[value]
    tensor = torch.as_tensor(value, dtype=torch.float32)
    if tensor.numel() == 1:
        return tensor.reshape(1).expand(channels)
    if tensor.shape[-3:] == (channels, 1, 1) and tensor.numel() == channels:
        return tensor.reshape(channels)
    return None


def _padding(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right); torch puts the odd pixel of "same" below and to the right."""
    if padding == "same":
        spare = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
        return spare[0] // 2, spare[0] - spare[0] // 2, spare[1] // 2, spare[1] - spare[1] // 2
    if padding == "valid":
        return 0, 0, 0, 0
    rows, cols = map_reader.pair(padding)
    return rows, rows, cols, cols


READERS: dict[Any, Callable[[_Reader, Any, int], Operation | None]] = {
    _aten.conv2d.default: _convolution,
    _aten.conv2d.padding: _convolution,
    _aten.batch_norm.default: _batch_norm,
    operator.getitem: _item,
    _aten.relu.default: _activation("relu"),
    _aten.silu.default: _activation("silu"),
    _aten.sigmoid.default: _activation("sigmoid"),
    _aten.add.Tensor: _add,
    _aten.sub.Tensor: _add,
    _aten.mul.Tensor: _multiply,
    _aten.div.Tensor: _divide,
    _aten.upsample_nearest2d.vec: map_reader.nearest,
    _aten.upsample_bilinear2d.vec: map_reader.bilinear,
    _aten.max_pool2d.default: map_reader.pool("max"),
    _aten.avg_pool2d.default: map_reader.pool("average"),
    _aten.pad.default: map_reader.pad,
    _aten.constant_pad_nd.default: map_reader.pad,
    _aten.adaptive_avg_pool2d.default: map_reader.adaptive_mean,
    _aten.mean.dim: map_reader.mean,
    _aten.cat.default: map_reader.concatenate,
}

# In evaluation mode these hand on what they get; nothing in an exported graph changes a tensor in place.
ALIASES = (
    _aten.dropout.default,
    _aten.clone.default,
    _aten.contiguous.default,
    _aten.alias.default,
    _aten.detach.default,
)
# Maps lie in memory in another order here than when the graph was exported.
VIEWS = (_aten.view.default, _aten._unsafe_view.default)
