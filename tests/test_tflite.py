"""TensorFlow Lite files: every operator against numpy, real networks, hostile files."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import tflite
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sw import datasets
from sw.importers.loaded import ModelError
from sw.importers.tflite_file import load_tflite, parse_tflite
from tests.tflite_writer import Options, write

data = pytest.mark.skipif(
    not os.environ.get("ATREIDES_DATA"), reason="ATREIDES_DATA names no folder of data sets"
)
RNG = np.random.default_rng(5)
RELU = tflite.ActivationFunctionType.RELU
RELU6 = tflite.ActivationFunctionType.RELU6
SAME, VALID = tflite.Padding.SAME, tflite.Padding.VALID


def real(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def windows(x: np.ndarray, kernel, stride, padding, fill: float, dilation=(1, 1)) -> np.ndarray:
    """[n, out h, out w, kernel h, kernel w, c] of [n, h, w, c], padded as TensorFlow says."""
    sides = [(0, 0)]
    outs = []
    for size, k, s, d in zip(x.shape[1:3], kernel, stride, dilation, strict=True):
        reach = (k - 1) * d + 1
        out = -(-size // s) if padding == SAME else (size - reach) // s + 1
        total = max((out - 1) * s + reach - size, 0) if padding == SAME else 0
        sides.append((total // 2, total - total // 2))
        outs.append(out)
    padded = np.pad(x, [*sides, (0, 0)], constant_values=fill)
    found = np.empty((len(x), *outs, *kernel, x.shape[3]), x.dtype)
    for i in range(outs[0]):
        for j in range(outs[1]):
            for u in range(kernel[0]):
                for v in range(kernel[1]):
                    row, column = i * stride[0] + u * dilation[0], j * stride[1] + v * dilation[1]
                    found[:, i, j, u, v] = padded[:, row, column]
    return found


def run(model: bytes, *inputs: np.ndarray) -> np.ndarray:
    module, examples = parse_tflite(model)
    assert [tuple(e.shape) for e in examples] == [x.shape for x in inputs]
    with torch.no_grad():
        return module(*map(torch.tensor, inputs)).numpy()


@pytest.mark.parametrize("padding", [SAME, VALID])
@pytest.mark.parametrize("size", [(8, 7), (5, 5)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
def test_convolution_equals_its_definition(padding, size, stride, dilation) -> None:
    x, w, b = real(2, *size, 3), real(4, 3, 2, 3), real(4)
    options = Options("Conv2DOptions", Padding=padding, StrideH=stride[0], StrideW=stride[1],
                      DilationHFactor=dilation[0], DilationWFactor=dilation[1],
                      FusedActivationFunction=RELU)  # fmt: skip
    want = np.einsum("nijuvc,ouvc->nijo", windows(x, (3, 2), stride, padding, 0, dilation), w) + b
    got = run(write([("CONV_2D", options, [0, 1, 2], 3)], [x.shape], [w, b]), x)
    np.testing.assert_allclose(got, np.maximum(want, 0), atol=1e-5)
    assert (got == 0).any()


@pytest.mark.parametrize("padding", [SAME, VALID])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_convolution_equals_its_definition(padding, stride: int) -> None:
    x, w, b = real(1, 6, 6, 3), real(1, 3, 3, 6), real(6)
    options = Options("DepthwiseConv2DOptions", Padding=padding, StrideH=stride, StrideW=stride,
                      DepthMultiplier=2, DilationHFactor=1, DilationWFactor=1)  # fmt: skip
    found = windows(x, (3, 3), (stride, stride), padding, 0)
    want = np.einsum("nijuvcm,uvcm->nijcm", found[..., None], w.reshape(3, 3, 3, 2))
    got = run(write([("DEPTHWISE_CONV_2D", options, [0, 1, 2], 3)], [x.shape], [w, b]), x)
    np.testing.assert_allclose(got, want.reshape(got.shape) + b, atol=1e-5)


@pytest.mark.parametrize("padding", [SAME, VALID])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
def test_pooling_equals_its_definition(padding, stride: int, kind: str) -> None:
    x = real(1, 6, 7, 2)
    options = Options("Pool2DOptions", Padding=padding, StrideH=stride, StrideW=stride,
                      FilterHeight=2, FilterWidth=3)  # fmt: skip
    found = windows(x, (2, 3), (stride, stride), padding, np.nan)
    reduce = np.nanmean if kind.startswith("AVERAGE") else np.nanmax
    got = run(write([(kind, options, [0], 1)], [x.shape], []), x)
    np.testing.assert_allclose(got, reduce(found, (3, 4)), atol=1e-6)


def test_fully_connected_sums_broadcasts_and_shapes() -> None:
    x, w, b, scale = real(2, 3, 4, 5), real(6, 60), real(6), real(5)
    relu6 = Options("AddOptions", FusedActivationFunction=RELU6)
    model = write(
        [
            ("MUL", Options("MulOptions"), [0, 3], 4),
            ("ADD", relu6, [4, 0], 5),
            ("FULLY_CONNECTED", Options("FullyConnectedOptions"), [5, 1, 2], 6),
            ("SOFTMAX", Options("SoftmaxOptions", Beta=2.0), [6], 7),
        ],
        [x.shape],
        [w, b, scale],
    )
    hidden = np.clip(x * scale + x, 0, 6).reshape(2, 60) @ w.T + b
    want = np.exp(2 * (hidden - hidden.max(1, keepdims=True)))
    np.testing.assert_allclose(run(model, x), want / want.sum(1, keepdims=True), atol=1e-5)


def test_layouts_are_right_behind_a_convolution() -> None:
    """Joining, padding, means, scaling and reshaping of a value that is computed channels first."""
    x, w, scale, vector = real(1, 4, 5, 3), real(3, 1, 1, 3), real(5, 3), real(3)
    conv = Options("Conv2DOptions", Padding=VALID, StrideH=1, StrideW=1, DilationHFactor=1,
                   DilationWFactor=1)  # fmt: skip
    pads = np.array([[0, 0], [1, 0], [0, 2], [0, 1]], np.int32)
    model = write(
        [
            ("CONV_2D", conv, [0, 1], 7),
            ("MUL", Options("MulOptions"), [7, 2], 8),
            ("ADD", Options("AddOptions"), [8, 3], 9),
            ("CONCATENATION", Options("ConcatenationOptions", Axis=2), [9, 0], 10),
            ("PAD", None, [10, 4], 11),
            ("TANH", None, [11], 12),
            ("MEAN", Options("ReducerOptions", KeepDims=True), [12, 5], 13),
            ("SUB", Options("SubOptions"), [12, 13], 14),
            ("RESHAPE", None, [14, 6], 15),
        ],
        [x.shape],
        [w, scale, vector, pads, np.array([1], np.int32), np.array([1, -1], np.int32)],
    )
    hidden = np.einsum("nijc,oc->nijo", x, w[:, 0, 0]) * scale + vector
    hidden = np.tanh(np.pad(np.concatenate([hidden, x], 2), pads))
    want = (hidden - hidden.mean(1, keepdims=True)).reshape(1, -1)
    np.testing.assert_allclose(run(model, x), want, atol=1e-5)


def test_integer_weights_become_real_by_their_scales() -> None:
    x = real(2, 4)
    w = RNG.integers(-128, 128, (3, 4)).astype(np.int8)
    scales = np.array([0.5, 0.25, 2.0], np.float32)
    options = Options("FullyConnectedOptions")
    model = write([("FULLY_CONNECTED", options, [0, 1], 2)], [x.shape], [w], scales={1: scales})
    np.testing.assert_allclose(run(model, x), x @ (w * scales[:, None]).T, rtol=1e-5, atol=1e-4)


def test_what_is_not_supported_is_named() -> None:
    x = real(1, 4)
    with pytest.raises(ModelError, match="supported operators, not COS"):
        parse_tflite(write([("COS", None, [0], 1)], [x.shape], []))
    with pytest.raises(ModelError, match="must be FLOAT32, not INT8"):
        parse_tflite(write([("RELU", None, [0], 1)], [x.shape], [], dtype=np.int8))
    with pytest.raises(ModelError, match="header"):
        parse_tflite(b"hello, this is text and no model")
    with pytest.raises(ModelError, match="must exist"):
        load_tflite(Path("nowhere.tflite"))


def test_a_lying_size_allocates_nothing() -> None:
    with pytest.raises(ModelError, match="at most"):
        parse_tflite(write([("RELU", None, [0], 1)], [(1 << 20, 1 << 20)], []))


def small() -> bytes:
    w, b = np.ones((2, 3, 3, 2), np.float32), np.ones(2, np.float32)
    conv = Options("Conv2DOptions", Padding=SAME, StrideH=2, StrideW=2, DilationHFactor=1,
                   DilationWFactor=1)  # fmt: skip
    return write([("CONV_2D", conv, [0, 1, 2], 3)], [(1, 4, 4, 2)], [w, b])


SMALL = small()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_broken_files_give_one_kind_of_error(draw: st.DataObject) -> None:
    broken = bytearray(SMALL)
    for _ in range(draw.draw(st.integers(0, 3))):
        place = draw.draw(st.integers(0, len(broken) - 1))
        broken[place] ^= 1 << draw.draw(st.integers(0, 7))
    if draw.draw(st.booleans()):
        (value,) = draw.draw(st.tuples(st.sampled_from([0, 1, 1 << 31, (1 << 32) - 1])))
        place = draw.draw(st.integers(0, len(broken) // 4 - 1)) * 4
        struct.pack_into("<I", broken, place, value)
    # Whatever is left may still be a model; nothing but ModelError may come out.
    with contextlib.suppress(ModelError):
        parse_tflite(bytes(broken[: draw.draw(st.integers(len(broken) // 2, len(broken)))]))


@data
def test_resnet8_is_right_on_as_many_images_as_published() -> None:
    module, _ = load_tflite(datasets.path_of("mlperf-tiny", "pretrainedResnet.tflite"))
    images = datasets.cifar10()
    with torch.no_grad():
        right = module(images.images[::10].float()).argmax(1) == images.labels[::10]
    # Counted once with TensorFlow Lite's own interpreter, as are the 1,528 of all 2,000.
    assert int(right.sum()) == 156


@data
@pytest.mark.slow
def test_resnet8_has_its_accuracy_on_all_images() -> None:
    module, _ = load_tflite(datasets.path_of("mlperf-tiny", "pretrainedResnet.tflite"))
    images = datasets.cifar10()
    with torch.no_grad():
        right = module(images.images.float()).argmax(1) == images.labels
    assert int(right.sum()) == 1528  # 76.40 %


@data
@pytest.mark.parametrize(
    ("file", "given", "made"),
    [
        ("ad01_fp32", (1, 640), (1, 640)),
        ("vww_96_float", (1, 96, 96, 3), (1, 2)),
        ("kws_ref_model_float32", (1, 49, 10, 1), (1, 12)),
    ],
)
def test_mlperf_tiny_models_run(file: str, given: tuple, made: tuple) -> None:
    module, examples = load_tflite(datasets.path_of("mlperf-tiny", f"{file}.tflite"))
    assert tuple(examples[0].shape) == given
    with torch.no_grad():
        output = module(torch.rand(given, generator=torch.Generator().manual_seed(0)))
    assert tuple(output.shape) == made
    assert bool(output.isfinite().all())
    if made[1] < 100:
        assert abs(float(output.sum()) - 1) < 1e-5
