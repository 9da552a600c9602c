"""Small TensorFlow Lite files, written with the schema of the ``tflite`` package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
import tflite

_TYPES = {np.float32: "FLOAT32", np.int8: "INT8", np.int32: "INT32"}
#: name of the operator, its options, numbers of its inputs, number of its output
Line = tuple[str, "Options | None", Sequence[int], int]


class Options:
    """Options of an operator: the schema's table, and its fields."""

    def __init__(self, name: str, **fields: Any) -> None:
        self.name = name
        self.fields = fields

    def write(self, builder: flatbuffers.Builder) -> int:
        module = getattr(tflite, self.name + "Start")
        module(builder)
        for field, value in self.fields.items():
            getattr(tflite, f"{self.name}Add{field}")(builder, value)
        return getattr(tflite, self.name + "End")(builder)


def write(
    lines: Sequence[Line],
    inputs: Sequence[tuple[int, ...]],
    constants: Sequence[np.ndarray],
    scales: Mapping[int, np.ndarray] | None = None,
    dtype: type = np.float32,
) -> bytes:
    """A file: tensors are the inputs, then the constants, then what the lines make."""
    b = flatbuffers.Builder(1024)
    last = lines[-1][3]
    shapes = [*inputs, *(c.shape for c in constants)]
    shapes += [()] * (last + 1 - len(shapes))
    buffers = [_buffer(b, b"")]
    tensors = []
    for number, shape in enumerate(shapes):
        constant = number - len(inputs)
        buffer, kind = 0, _TYPES[dtype]
        if 0 <= constant < len(constants):
            value = constants[constant]
            buffer, kind = len(buffers), _TYPES[value.dtype.type]
            buffers.append(_buffer(b, value.tobytes()))
        tensors.append(_tensor(b, shape, kind, buffer, (scales or {}).get(number)))
    kinds = sorted({line[0] for line in lines})
    codes = [_code(b, getattr(tflite.BuiltinOperator, kind)) for kind in kinds]
    operators = [_operator(b, kinds.index(line[0]), line) for line in lines]
    graph = _graph(b, tensors, operators, range(len(inputs)), last)
    parts = [_tables(b, part) for part in (codes, [graph], buffers)]
    tflite.ModelStart(b)
    tflite.ModelAddVersion(b, 3)
    tflite.ModelAddOperatorCodes(b, parts[0])
    tflite.ModelAddSubgraphs(b, parts[1])
    tflite.ModelAddBuffers(b, parts[2])
    b.Finish(tflite.ModelEnd(b), b"TFL3")
    return bytes(b.Output())


def _tables(b: flatbuffers.Builder, tables: Sequence[int]) -> int:
    b.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        b.PrependUOffsetTRelative(table)
    return b.EndVector()


def _integers(b: flatbuffers.Builder, values: Sequence[int]) -> int:
    return b.CreateNumpyVector(np.array(values, np.int32))


def _buffer(b: flatbuffers.Builder, content: bytes) -> int:
    vector = b.CreateByteVector(content) if content else None
    tflite.BufferStart(b)
    if vector is not None:
        tflite.BufferAddData(b, vector)
    return tflite.BufferEnd(b)


def _tensor(b, shape, kind: str, buffer: int, scales: np.ndarray | None) -> int:
    sizes = _integers(b, shape)
    quantization = None
    if scales is not None:
        vector = b.CreateNumpyVector(scales)
        tflite.QuantizationParametersStart(b)
        tflite.QuantizationParametersAddScale(b, vector)
        quantization = tflite.QuantizationParametersEnd(b)
    tflite.TensorStart(b)
    tflite.TensorAddShape(b, sizes)
    tflite.TensorAddType(b, getattr(tflite.TensorType, kind))
    tflite.TensorAddBuffer(b, buffer)
    if quantization is not None:
        tflite.TensorAddQuantization(b, quantization)
    return tflite.TensorEnd(b)


def _code(b: flatbuffers.Builder, number: int) -> int:
    tflite.OperatorCodeStart(b)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(number, 127))
    tflite.OperatorCodeAddBuiltinCode(b, number)
    return tflite.OperatorCodeEnd(b)


def _operator(b: flatbuffers.Builder, code: int, line: Line) -> int:
    _, options, inputs, output = line
    given, made = _integers(b, inputs), _integers(b, [output])
    table = None if options is None else options.write(b)
    tflite.OperatorStart(b)
    tflite.OperatorAddOpcodeIndex(b, code)
    tflite.OperatorAddInputs(b, given)
    tflite.OperatorAddOutputs(b, made)
    if options is not None:
        tflite.OperatorAddBuiltinOptionsType(b, getattr(tflite.BuiltinOptions, options.name))
        tflite.OperatorAddBuiltinOptions(b, table)
    return tflite.OperatorEnd(b)


def _graph(b, tensors, operators, inputs, output: int) -> int:
    vectors = [_tables(b, tensors), _integers(b, list(inputs)), _integers(b, [output])]
    vectors.append(_tables(b, operators))
    tflite.SubGraphStart(b)
    tflite.SubGraphAddTensors(b, vectors[0])
    tflite.SubGraphAddInputs(b, vectors[1])
    tflite.SubGraphAddOutputs(b, vectors[2])
    tflite.SubGraphAddOperators(b, vectors[3])
    return tflite.SubGraphEnd(b)
