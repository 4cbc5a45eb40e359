"""Are dense layer lists of other tools read as they are meant?"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from skipsim.errors import InputError
from skipsim.traces.layer import Layer
from skipsim.traces.topology import read_topology, topology_trace
from skipsim.traces.trace import load_trace

HEADER = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,"


def write_csv(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def message_of(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read_topology(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_sizes_of_resnet50_are_those_of_scale_sim(tmp_path: Path) -> None:
    """M, N and K (output pixels, filters, products per output) as SCALE-Sim 3.0.0 computes them from the same rows."""
    rows = {
        "conv1, 229, 229, 7, 7, 3, 64, 2,": (12544, 64, 147),
        "l1b0_1, 56, 56, 1, 1, 64, 64, 1,": (3136, 64, 64),
        "l1b0_2, 58, 58, 3, 3, 64, 64, 1,": (3136, 64, 576),
        "l4b2_2, 9, 9, 3, 3, 512, 512, 1,": (49, 512, 4608),
        "l4b2_3, 7, 7, 1, 1, 512, 2048, 1,": (49, 2048, 512),
    }
    layers = read_topology(write_csv(tmp_path / "net.csv", *rows))
    assert [(layer.out_pixels, layer.out_channels, layer.reduction) for layer in layers] == list(rows.values())
    assert [layer.name for layer in layers] == ["conv1", "l1b0_1", "l1b0_2", "l4b2_2", "l4b2_3"]
    assert all(layer.gate == "none" and layer.padding_top == layer.padding_left == 0 for layer in layers)


def test_every_field_has_its_place(tmp_path: Path) -> None:
    (layer,) = read_topology(write_csv(tmp_path / "net.csv", "a, 20, 31, 3, 5, 6, 8, 2,"))
    assert layer == Layer("a", 6, 20, 31, 8, 10, 14, 3, 5, 2, 2)  # ceil((20 - 3) / 2) + 1 and (31 - 5) / 2 + 1


def test_columns_are_found_by_name_and_empty_cells_do_not_matter(tmp_path: Path) -> None:
    header = '\ufeffStrides,num filter,Channels,Filter Width,"Filter  Height",IFMAP Width,IFMAP Height,LAYER NAME,Note'
    rows = ["2,8,6,5,3,31,20,a,hello", "", " , ,", "2, 8, 6, 5, 3, 31, 20, a"]
    first, second = read_topology(write_csv(tmp_path / "net.CSV", *rows, header=header))
    assert first == Layer("a", 6, 20, 31, 8, 10, 14, 3, 5, 2, 2)
    assert second == Layer("a", 6, 20, 31, 8, 10, 14, 3, 5, 2, 2, call=1)  # a name that returns is another call


def test_depthwise_by_name_or_by_groups(tmp_path: Path) -> None:
    rows = ["conv2DP, 10, 10, 3, 3, 32, 1, 1,", "multiplierDP, 10, 10, 3, 3, 32, 2, 1,"]
    layers = read_topology(write_csv(tmp_path / "dp.csv", *rows))
    # SCALE-Sim runs such a row once per channel, with one channel and `Num Filter` filters
    assert [(layer.groups, layer.out_channels, layer.macs) for layer in layers] == [
        (32, 32, 32 * 8 * 8 * 9),
        (32, 64, 32 * 8 * 8 * 9 * 2),
    ]
    rows = ["a, 10, 10, 3, 3, 32, 32, 1, 32,", "b, 10, 10, 3, 3, 32, 16, 1, 4,", "c, 10, 10, 3, 3, 32, 16, 1,,"]
    layers = read_topology(write_csv(tmp_path / "groups.csv", *rows, header=HEADER + " Groups,"))
    assert [(layer.groups, layer.depthwise, layer.reduction) for layer in layers] == [
        (32, True, 9),
        (4, False, 9 * 8),
        (1, False, 9 * 32),
    ]


def test_topology_is_a_trace_of_one_full_frame(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "net.topology.csv", "a, 19, 31, 3, 5, 6, 8, 2,", "b, 9, 14, 1, 1, 8, 4, 1,")
    trace = load_trace(path)
    assert (trace.frames, trace.reference(0), trace.density()) == (1, False, 1.0)
    assert trace.macs == trace.dense_macs == 9 * 14 * (3 * 5 * 6 * 8 + 8 * 4)
    assert [trace.mask(index, 0).shape for index in range(2)] == [(9, 14), (9, 14)]
    assert (trace.origin["kind"], trace.origin["network"]) == ("topology", "net")
    assert topology_trace(str(path)).hash == trace.hash == trace.save(tmp_path / "a.trace").hash


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ("a, 20, 31, 3, 5, 6, 8, x,", "line 3, column 'Strides': must be a whole number >= 1, got 'x'"),
        ("a, 20, 31, 3, 5, 6, 8", "line 3, column 'Strides': must be a whole number >= 1, got 'nothing'"),
        ("a, 20, 31, 3, 5, 6, 8, 0,", "line 3, column 'Strides': must be a whole number >= 1, got '0'"),
        ("a, -20, 31, 3, 5, 6, 8, 1,", "line 3, column 'IFMAP Height': must be a whole number >= 1, got '-20'"),
        ("a, 20, 3.5, 3, 5, 6, 8, 1,", "line 3, column 'IFMAP Width': must be a whole number >= 1, got '3.5'"),
        ("a, 20, 31, 21, 5, 6, 8, 1,", "line 3, column 'Filter Height': must be at most the IFMAP Height 20, got 21"),
        (", 20, 31, 3, 5, 6, 8, 1,", "line 3, column 'Layer name': must not be empty"),
        ("a, 20, 31, 3, 5, 6, 8, 1, 4", "line 3: layer 'a': in_channels must be a multiple of groups=4, got 6"),
    ],
)
def test_wrong_cell_is_named_with_line_and_column(tmp_path: Path, row: str, rule: str) -> None:
    path = write_csv(tmp_path / "net.csv", "good, 20, 31, 3, 5, 6, 8, 2,", row, header=HEADER + " Groups,")
    assert message_of(path) == f"{path}, {rule}"


def test_wrong_file_is_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "net.csv", header="Layer, M, N, K,")
    assert message_of(path) == f"{path}, line 1: the header must have one column 'Layer name', got Layer, M, N, K, "
    path = write_csv(tmp_path / "twice.csv", header=HEADER + " Strides,")
    assert message_of(path).startswith(f"{path}, line 1: the header must have one column 'Strides', got Layer name, ")
    path = write_csv(tmp_path / "none.csv")
    assert message_of(path) == f"{path}: holds no convolution"
    path.write_text("\n\n")
    assert message_of(path) == f"{path}: empty; a topology starts with the header {HEADER[:-1]}"
    path.write_bytes(b"\xff\xfe\x00\x81")
    assert message_of(path).startswith(f"{path}: not a CSV text file (")
    assert message_of(tmp_path / "nowhere.csv") == f"{tmp_path / 'nowhere.csv'}: no such file"
    assert message_of(tmp_path / "net.yaml").startswith(f"{tmp_path / 'net.yaml'}: a topology must end in .csv")
    (tmp_path / "folder.onnx").mkdir()
    assert message_of(tmp_path / "folder.onnx") == f"{tmp_path / 'folder.onnx'}: is a directory"


def write_onnx(
    path: Path, nodes: list[onnx.NodeProto], image: list[Any], weights: Mapping[str, tuple[int, ...]]
) -> Path:
    constants = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, np.ones(shape).ravel()) for name, shape in weights.items()
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.mark.parametrize("batch", [1, "batch"])
def test_onnx_network_becomes_its_convolutions(tmp_path: Path, batch: int | str) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["x0"], "stem", pads=[1, 2, 0, 1], strides=[2, 1]),
        helper.make_node("Relu", ["x0"], ["x1"]),
        helper.make_node("Conv", ["x1", "w1"], ["x2"], "depthwise", group=8, dilations=[2, 1], pads=[2, 1, 2, 1]),
        helper.make_node("Conv", ["x2", "w2"], ["x3"]),
        helper.make_node("Conv", ["x3", "w2"], ["x4"]),
    ]
    weights = {"w0": (8, 3, 3, 5), "w1": (8, 1, 3, 3), "w2": (8, 8, 1, 1)}
    path = write_onnx(tmp_path / "net.onnx", nodes, [batch, 3, 20, 30], weights)
    # rows: (20 + 1 + 0 - 3) // 2 + 1 = 10; columns: 30 + 2 + 1 - 5 + 1 = 29
    expected = (
        Layer("stem", 3, 20, 30, 8, 10, 29, 3, 5, 2, 1, 1, 2),
        Layer("depthwise", 8, 10, 29, 8, 10, 29, 3, 3, 1, 1, 2, 1, 2, 1, groups=8),
        Layer("x3", 8, 10, 29, 8, 10, 29),
        Layer("x4", 8, 10, 29, 8, 10, 29),
    )
    assert read_topology(path) == expected
    assert load_trace(path).origin["network"] == "net"
    assert load_trace(path).macs == 10 * 29 * 8 * (3 * 3 * 5 + 9 + 8 + 8)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation"), [(9, 3, 1, 1), (9, 4, 2, 1), (10, 3, 3, 1), (12, 4, 1, 2)]
)
def test_padding_is_where_onnx_itself_puts_it(
    tmp_path: Path, auto_pad: str, size: int, kernel: int, stride: int, dilation: int
) -> None:
    """Compare with ONNX's reference evaluator: convolve by hand with the geometry that was read."""
    attributes: dict[str, Any] = {"strides": [stride, 1], "dilations": [dilation, 1], "kernel_shape": [kernel, 1]}
    node = helper.make_node("Conv", ["image", "w"], ["out"], auto_pad=auto_pad, **attributes)
    path = write_onnx(tmp_path / "net.onnx", [node], [1, 1, size, 1], {"w": (1, 1, kernel, 1)})
    image = np.arange(1, size + 1, dtype=np.float32).reshape(1, 1, size, 1) ** 2
    (expected,) = map(np.asarray, ReferenceEvaluator(str(path)).run(None, {"image": image}))
    (layer,) = read_topology(path)
    column = dict(enumerate(image.ravel()))
    by_hand = [
        sum(column.get(row * stride + tap * dilation - layer.padding_top, 0.0) for tap in range(kernel))
        for row in range(layer.out_rows)
    ]
    assert by_hand == expected.ravel().tolist()
    assert layer.out_cols == 1


def test_quantised_onnx_convolutions_are_read(tmp_path: Path) -> None:
    names = ["image", "s", "z", "w", "s", "z", "s", "z"]
    graph = helper.make_graph(
        [helper.make_node("QLinearConv", names, ["out"], "q", pads=[1, 1, 1, 1])],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.UINT8, None)],
        [
            helper.make_tensor("s", TensorProto.FLOAT, (), [1.0]),
            helper.make_tensor("z", TensorProto.UINT8, (), [0]),
            helper.make_tensor("w", TensorProto.UINT8, (4, 3, 3, 3), np.ones(108, int)),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "q.onnx")
    assert read_topology(tmp_path / "q.onnx") == (Layer("q", 3, 8, 8, 4, 8, 8, 3, 3, 1, 1, 1, 1),)


def test_onnx_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    conv = helper.make_node("Conv", ["image", "w"], ["out"], "c")
    path = tmp_path / "net.onnx"
    fixed = "dimensions of known size, got {}; export the model with a fixed input size"
    write_onnx(path, [conv], [1, 3, "height", 8], {"w": (4, 3, 1, 1)})
    assert message_of(path) == f"{path}, node 'c': its input must have 4 {fixed.format([1, 3, 'height', 8])}"
    write_onnx(path, [conv], [1, 3, 8], {"w": (4, 3, 1)})
    assert message_of(path) == f"{path}, node 'c': its input must have 4 {fixed.format([1, 3, 8])}"
    write_onnx(path, [conv], [2, 3, 8, 8], {"w": (4, 3, 1, 1)})
    assert message_of(path) == f"{path}, node 'c': the batch size must be 1 (one frame), got 2"
    write_onnx(path, [helper.make_node("Relu", ["image"], ["out"])], [1, 3, 8, 8], {})
    assert message_of(path) == f"{path}: holds no convolution"
    path.write_bytes(b"this is not a model")
    assert message_of(path).startswith(f"{path}: not a valid ONNX model (")


def test_missing_onnx_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_onnx(tmp_path / "net.onnx", [helper.make_node("Relu", ["image"], ["out"])], [1], {})
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert message_of(path) == f"{path}: reading ONNX needs the onnx package: pip install 'skipsim[onnx]'"
