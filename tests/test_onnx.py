"""ONNX files: every operator against ONNX's own reference, a real network, hostile files."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sw import datasets
from sw.importers.loaded import ModelError
from sw.importers.onnx_file import load_onnx, parse_onnx

data = pytest.mark.skipif(
    not os.environ.get("ATREIDES_DATA"), reason="ATREIDES_DATA names no folder of data sets"
)
RNG = np.random.default_rng(7)
TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64,
         np.dtype(np.bool_): TensorProto.BOOL}  # fmt: skip


def real(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def whole(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def network(
    nodes: list[onnx.NodeProto],
    inputs: list[np.ndarray],
    constants: dict[str, np.ndarray],
    outputs: list[str],
    opset: int,
) -> onnx.ModelProto:
    given = [
        helper.make_tensor_value_info(f"x{i}", TYPES[x.dtype], x.shape)
        for i, x in enumerate(inputs)
    ]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in outputs]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "test", given, made, stored)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 21 else 10
    )


def check(model: onnx.ModelProto, inputs: list[np.ndarray], tolerance: float = 1e-5) -> None:
    """The module gives what the reference gives, traced or not."""
    module, examples = parse_onnx(model.SerializeToString())
    assert [tuple(e.shape) for e in examples] == [x.shape for x in inputs]
    tensors = tuple(torch.tensor(x) for x in inputs)
    with torch.no_grad():
        got = module(*tensors)
    want = ReferenceEvaluator(model).run(None, {f"x{i}": x for i, x in enumerate(inputs)})
    for mine, theirs in zip(got if isinstance(got, tuple) else (got,), want, strict=True):
        assert tuple(mine.shape) == np.shape(theirs)
        np.testing.assert_allclose(mine.numpy(), theirs, atol=tolerance, rtol=1e-4)


def case(
    kind: str, *inputs: np.ndarray, constants=(), opset: int = 17, outputs: int = 1, **attributes
):
    """Inputs of the node: the network's, then constants (None: not given)."""
    shown = ",".join(f"{k}={v}" for k, v in attributes.items())
    name = f"{kind}-{opset}-{shown}"
    return pytest.param(kind, inputs, constants, opset, outputs, attributes, id=name)


ELEMENTWISE = ["Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish", "Identity", "Neg", "Relu",
               "Round", "Sigmoid", "Sign", "Sin", "Softplus", "Tanh"]  # fmt: skip
X = real(2, 3, 4, 5)
CASES = [
    *(case(kind, real(2, 3)) for kind in ELEMENTWISE),
    *(case(kind, abs(real(2, 3)) + 0.1) for kind in ("Log", "Sqrt", "Reciprocal")),
    *(case(kind, real(2, 3, 4), real(3, 1)) for kind in ("Add", "Sub", "Mul", "Div")),
    *(case(kind, real(2, 3), real(3), real(2, 1)) for kind in ("Max", "Min")),
    *(case(kind, real(2, 3), real(3)) for kind in ("Less", "Greater", "LessOrEqual")),
    case("Equal", real(3), real(3)),
    case("Where", real(2, 3) > 0, real(2, 3), real(3)),
    case("Not", real(2, 3) > 0),
    case("And", real(2, 3) > 0, real(2, 3) > 0),
    case("Div", whole(7, -7, 9), constants=[whole(2, 2, -4)]),
    case("Pow", real(2, 3), constants=[np.array(2, np.float32)]),
    case("Pow", abs(real(2, 3)), real(3)),
    case("PRelu", real(2, 3), constants=[real(3)]),
    case("LeakyRelu", real(2, 3), alpha=0.3),
    case("Elu", real(2, 3), alpha=0.7),
    case("HardSigmoid", 4 * real(2, 3), alpha=0.3),
    case("Gelu", real(2, 3), opset=20),
    case("Gelu", real(2, 3), opset=20, approximate="tanh"),
    case("Mish", real(2, 3), opset=18),
    case("Clip", real(2, 9), constants=[np.float32(-0.3), np.float32(0.4)]),
    case("Clip", real(2, 9), constants=[None, np.float32(0.4)]),
    case("Clip", real(2, 9), opset=7, min=-0.2, max=0.1),
    case("Cast", 3 * real(2, 3), to=TensorProto.INT64),
    case("Dropout", real(2, 3)),
    case("Softmax", X, axis=1),
    case("Softmax", X, axis=-1),
    case("Softmax", X, opset=11, axis=3),
    case("LogSoftmax", X, axis=2),
    case("Conv", X, constants=[real(6, 3, 3, 2), real(6)], pads=[1, 0, 1, 0], strides=[2, 1]),
    case("Conv", X, constants=[real(6, 3, 3, 2)], pads=[0, 1, 2, 0], dilations=[1, 2]),
    case("Conv", X, constants=[real(6, 1, 3, 3)], group=3, auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", X, constants=[real(6, 3, 2, 2)], auto_pad="SAME_LOWER"),
    case("Conv", real(1, 3, 9), constants=[real(4, 3, 3), real(4)], pads=[1, 1]),
    case("ConvTranspose", X, constants=[real(3, 2, 3, 3), real(2)], strides=[2, 2],
         pads=[1, 1, 1, 1], output_padding=[1, 1]),
    case("MaxPool", X, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
    case("MaxPool", X, kernel_shape=[2, 3], pads=[0, 1, 1, 0]),
    case("MaxPool", X, kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1),
    case("MaxPool", X, kernel_shape=[2, 2], auto_pad="SAME_UPPER", strides=[2, 2]),
    case("AveragePool", X, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    case("AveragePool", X, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", X, kernel_shape=[2, 2], pads=[0, 1, 1, 0]),
    case("AveragePool", X, kernel_shape=[2, 2], pads=[0, 1, 1, 0], count_include_pad=1),
    case("GlobalAveragePool", X),
    case("GlobalMaxPool", X),
    case("Gemm", real(2, 3), constants=[real(4, 3), real(4)], transB=1),
    case("Gemm", real(2, 3), constants=[real(3, 4), real(4)]),
    case("Gemm", real(3, 2), constants=[real(4, 3), real(2, 1)], transA=1, transB=1, alpha=0.5,
         beta=2.0),
    case("MatMul", real(2, 5, 3), constants=[real(3, 4)]),
    case("MatMul", real(2, 5, 3), real(2, 3, 4)),
    case("MatMul", real(5, 3), real(2, 3, 4)),
    case("BatchNormalization", X, constants=[real(3), real(3), real(3), abs(real(3))],
         epsilon=1e-3),
    case("InstanceNormalization", X, constants=[real(3), real(3)]),
    case("LayerNormalization", X, constants=[real(4, 5), real(4, 5)], axis=-2),
    case("LayerNormalization", X, constants=[real(5)]),
    case("LpNormalization", real(2, 5), axis=1, p=2),
    case("ReduceMean", X, axes=[1, -1], keepdims=0),
    case("ReduceMean", X, constants=[whole(2)], opset=18),
    case("ReduceSum", X, constants=[whole(0, 3)], keepdims=0),
    case("ReduceMax", X, axes=[2]),
    case("ReduceMin", X),
    case("ArgMax", X, axis=1, keepdims=0),
    case("Concat", real(2, 3), real(2, 1), axis=-1),
    case("Reshape", X, constants=[whole(0, -1, 5)]),
    case("Flatten", X, axis=2),
    case("Flatten", X, axis=0),
    case("Transpose", X, perm=[0, 2, 3, 1]),
    case("Transpose", X),
    case("Squeeze", real(2, 1, 3, 1), constants=[whole(1, -1)]),
    case("Squeeze", real(2, 1, 3, 1), opset=11, axes=[1]),
    case("Unsqueeze", real(2, 3), constants=[whole(0, -1)]),
    case("Slice", X, constants=[whole(1, -1), whole(100, -(1 << 62)), whole(2, 3), whole(2, -2)]),
    case("Slice", X, opset=9, starts=[1, 0], ends=[3, -1], axes=[2, 3]),
    case("Split", X, constants=[whole(1, 3)], outputs=2, axis=2),
    case("Split", X, outputs=3, axis=1),
    case("Gather", X, constants=[whole(2, -1, 0)], axis=3),
    case("Gather", X, constants=[np.array(-2)], axis=2),
    case("Gather", X, constants=[np.array([[0, 1], [2, 2]])], axis=1),
    case("Expand", real(3, 1), constants=[whole(2, 1, 4)]),
    case("Tile", real(2, 3), constants=[whole(2, 2)]),
    case("Pad", X, constants=[whole(0, 0, 1, 2, 0, 1, 0, 3), np.float32(0.5)]),
    case("Pad", X, constants=[whole(0, 0, 1, 2, 0, 0, 0, 3)], mode="reflect"),
    case("Pad", X, opset=10, pads=[0, 0, 1, 2, 0, 0, 0, 3], value=1.5),
    case("DepthToSpace", real(1, 8, 2, 3), blocksize=2),
    case("DepthToSpace", real(1, 8, 2, 3), blocksize=2, mode="CRD"),
    case("Trilu", real(3, 4), constants=[np.array(1)], upper=0),
    *(
        case("Resize", X, constants=[None, np.array([1, 1, s, t], np.float32)],
             coordinate_transformation_mode=mode, nearest_mode=rounding)
        for s, t, mode in (
            (2, 2, "asymmetric"), (1.5, 0.6, "asymmetric"), (2, 2, "half_pixel"),
            (1.5, 0.6, "half_pixel"), (2, 2, "align_corners"),
        )
        for rounding in ("floor", "round_prefer_floor", "ceil")
    ),
    case("Resize", X, constants=[None, None, whole(2, 3, 7, 9)], mode="linear"),
    case("Resize", X, constants=[None, None, whole(2, 3, 7, 9)], mode="linear",
         coordinate_transformation_mode="align_corners"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "inputs", "constants", "opset", "outputs", "attributes"), CASES)
def test_operator_equals_the_reference(
    kind: str, inputs, constants, opset: int, outputs: int, attributes
) -> None:
    names = [f"x{i}" for i in range(len(inputs))]
    stored = {}
    for i, constant in enumerate(constants):
        names.append("" if constant is None else f"c{i}")
        if constant is not None:
            stored[f"c{i}"] = np.asarray(constant)
    made = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(kind, names, made, **attributes)
    check(network([node], list(inputs), stored, made, opset), list(inputs))


def test_shapes_that_are_computed_are_folded() -> None:
    """What exporters write for a flattening view, and for attention's sizes."""
    nodes = [
        helper.make_node("Shape", ["x0"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["nn"]),
        helper.make_node("Concat", ["nn", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x0", "shape"], ["flat"]),
        helper.make_node("ConstantOfShape", ["shape_of_fill"], ["fill"],
                         value=helper.make_tensor("v", TensorProto.FLOAT, [1], [2.0])),
        helper.make_node("Range", ["zero", "limit", "one"], ["range"]),
        helper.make_node("Cast", ["range"], ["steps"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["flat", "fill"], ["scaled"]),
        helper.make_node("Add", ["scaled", "steps"], ["y0"]),
    ]  # fmt: skip
    constants = {"zero": np.array(0), "axis": whole(0), "rest": whole(-1), "one": np.array(1),
                 "shape_of_fill": whole(12), "limit": np.array(12)}  # fmt: skip
    model = network(nodes, [real(2, 3, 4)], constants, ["y0"], 17)
    check(model, [real(2, 3, 4)])
    module, _ = parse_onnx(model.SerializeToString())
    assert [name.split("_")[0] for name, _ in module.named_children()] == ["reshape", "mul", "add"]


def test_a_traced_network_computes_the_same() -> None:
    """Embedding, attention, norm and gated feed-forward, as a transformer is exported."""
    nodes = [
        helper.make_node("Gather", ["table", "x0"], ["e"]),
        helper.make_node("LayerNormalization", ["e", "scale", "shift"], ["h"]),
        helper.make_node("MatMul", ["h", "q"], ["query"]),
        helper.make_node("Transpose", ["h"], ["key"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["query", "key"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "h"], ["mixed"]),
        helper.make_node("Add", ["e", "mixed"], ["y0"]),
    ]
    constants = {"table": real(11, 6), "scale": real(6), "shift": real(6), "q": real(6, 6)}
    tokens = whole(3, 1, 4, 10, 0).reshape(1, 5)
    model = network(nodes, [tokens], constants, ["y0"], 17)
    check(model, [tokens])
    module, _ = parse_onnx(model.SerializeToString())
    traced = torch.export.export(module, (torch.tensor(tokens),)).module()
    with torch.no_grad():
        assert torch.equal(traced(torch.tensor(tokens)), module(torch.tensor(tokens)))


def relu(shape: list, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "test",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_open_sizes_are_given_or_one() -> None:
    model = relu(["batch", 3, "width"]).SerializeToString()
    _, (example,) = parse_onnx(model, sizes={"width": 7})
    assert tuple(example.shape) == (1, 3, 7)
    _, (example,) = parse_onnx(model, batch=4, sizes={"width": 7})
    assert tuple(example.shape) == (4, 3, 7)
    with pytest.raises(ModelError, match=r"known sizes but for the first, not \[batch, 3, width\]"):
        parse_onnx(model)


def test_what_is_not_supported_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="must exist"):
        load_onnx(tmp_path / "nowhere.onnx")
    with pytest.raises(ModelError, match="ONNX file"):
        parse_onnx(b"hello, this is text")
    with pytest.raises(ModelError, match="input x must be a tensor of FLOAT"):
        parse_onnx(relu([1, 3], TensorProto.DOUBLE).SerializeToString())
    node = helper.make_node("Det", ["x0"], ["y0"])
    with pytest.raises(ModelError, match="supported operators, not Det"):
        parse_onnx(network([node], [real(1, 2, 2)], {}, ["y0"], 17).SerializeToString())
    node = helper.make_node("Reshape", ["x0", "x1"], ["y0"])
    model = network([node], [real(2, 3), whole(3, 2)], {}, ["y0"], 17)
    with pytest.raises(ModelError, match="Reshape must have a constant x1"):
        parse_onnx(model.SerializeToString())


def test_lying_sizes_allocate_nothing() -> None:
    with pytest.raises(ModelError, match="at most"):
        parse_onnx(relu([1 << 31, 1 << 31]).SerializeToString())
    fill = helper.make_node("ConstantOfShape", ["huge"], ["fill"])
    add = helper.make_node("Add", ["x0", "fill"], ["y0"])
    model = network([fill, add], [real(1)], {"huge": whole(1 << 40)}, ["y0"], 17)
    with pytest.raises(ModelError, match="at most"):
        parse_onnx(model.SerializeToString())
    stored = relu([1, 3])
    stored.graph.initializer.append(
        TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 40], raw_data=b"\0" * 16)
    )
    with pytest.raises(ModelError):
        parse_onnx(stored.SerializeToString())


def test_data_in_other_files_is_refused(tmp_path: Path) -> None:
    model = relu([1, 3])
    outside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3])
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="/etc/hostname")
    model.graph.initializer.append(outside)
    with pytest.raises(ModelError, match="not refer to other files"):
        parse_onnx(model.SerializeToString())


SMALL = network(
    [
        helper.make_node("Conv", ["x0", "w", "b"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["y0"]),
    ],
    [real(1, 2, 4, 4)],
    {"w": real(2, 2, 3, 3), "b": real(2), "shape": whole(1, -1)},
    ["y0"],
    17,
).SerializeToString()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_broken_files_give_one_kind_of_error(draw: st.DataObject) -> None:
    broken = bytearray(SMALL)
    for _ in range(draw.draw(st.integers(0, 3))):
        place = draw.draw(st.integers(0, len(broken) - 1))
        broken[place] ^= 1 << draw.draw(st.integers(0, 7))
    if draw.draw(st.booleans()):
        place = draw.draw(st.integers(0, len(broken) - 8))
        struct.pack_into("<Q", broken, place, draw.draw(st.integers(0, (1 << 64) - 1)))
    # Whatever is left may still be a model; nothing but ModelError may come out.
    with contextlib.suppress(ModelError):
        parse_onnx(bytes(broken[: draw.draw(st.integers(len(broken) // 2, len(broken)))]))


@data
def test_yolox_nano_loads_with_all_its_parameters() -> None:
    module, (example,) = load_onnx(datasets.path_of("yolox-nano", "yolox_nano.onnx"))
    assert tuple(example.shape) == (1, 3, 416, 416)
    # As published, less 18 elements of shapes, slices and scales, which are settled at loading.
    assert sum(p.numel() for p in module.parameters()) == 904_481 - 18


@data
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_yolox_nano_equals_the_reference() -> None:
    path = datasets.path_of("yolox-nano", "yolox_nano.onnx")
    module, _ = load_onnx(path)
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 416, 416)).astype(np.float32)
    with torch.no_grad():
        got = module(torch.tensor(image)).numpy()
    (want,) = ReferenceEvaluator(str(path)).run(None, {"images": image})
    np.testing.assert_allclose(got, want, atol=1e-4)
