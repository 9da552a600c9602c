"""TensorFlow Lite files with float32 activations.

The layout is that of the schema in the ``tflite`` package. Weights that are stored as float16 or as
integers with a scale become float32 once; activations stay float32 (TensorFlow Lite itself encodes
them in int8, layer by layer, where weights are integers: its results differ by that).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import tflite  # type: ignore[import-untyped]
import torch

from sw.importers.loaded import Inputs, ModelError, one_line, read_bytes
from sw.importers.translated import Builder, Translated

_IDENTIFIER: Final = b"TFL3"
_MAX_TENSORS: Final = 100_000
_TYPES: Final[Mapping[int, np.dtype[Any]]] = {
    tflite.TensorType.FLOAT32: np.dtype("<f4"),
    tflite.TensorType.FLOAT16: np.dtype("<f2"),
    tflite.TensorType.INT8: np.dtype("i1"),
    tflite.TensorType.UINT8: np.dtype("u1"),
    tflite.TensorType.INT32: np.dtype("<i4"),
    tflite.TensorType.INT64: np.dtype("<i8"),
}
_NAMES: Final = {v: k for k, v in vars(tflite.TensorType).items() if isinstance(v, int)}
_OPERATORS: Final = {v: k for k, v in vars(tflite.BuiltinOperator).items() if isinstance(v, int)}


class Operator:
    """One operator of the file.

    Parameters
    ----------
    what : str
        The file and the operator, as sentences name them.
    table : tflite.Operator
    kind : str
        Its name in the schema, ``CONV_2D``.
    """

    def __init__(self, what: str, table: Any, kind: str) -> None:
        self.what = what
        self.kind = kind
        self.inputs = [table.Inputs(i) for i in range(table.InputsLength())]
        self.outputs = [table.Outputs(i) for i in range(table.OutputsLength())]
        self._table = table

    def options(self, name: str) -> Any:
        """Its options, of the schema's table of this name.

        Raises
        ------
        ModelError
            If it has others, or none.
        """
        table = self._table.BuiltinOptions()
        if table is None or self._table.BuiltinOptionsType() != getattr(
            tflite.BuiltinOptions, name
        ):
            raise ModelError(f"{self.what}: {self.kind} must have {name}")
        options = getattr(tflite, name)()
        options.Init(table.Bytes, table.Pos)
        return options

    def check_counts(self, inputs: tuple[int, int], outputs: int = 1) -> None:
        """Refuse an operator with fewer or more inputs, or other outputs, than it can have."""
        low, high = inputs
        if not low <= len(self.inputs) <= high or len(self.outputs) != outputs:
            raise ModelError(
                f"{self.what}: {self.kind} must have {low} to {high} inputs and {outputs} outputs, "
                f"not {len(self.inputs)} and {len(self.outputs)}"
            )


class Translator:
    """Values of a file's subgraph and the layout that each is computed in.

    Four-dimensional values lie channels first from the first convolution or pooling on, and are
    permuted only where an operator or the output needs them as the file has them.

    Parameters
    ----------
    builder : Builder
    tensors : list of tflite.Tensor
    """

    def __init__(self, builder: Builder, tensors: list[Any]) -> None:
        self.builder = builder
        self._tensors = tensors
        self._first: set[int] = set()

    def check(self, operator: str, index: int) -> int:
        """An index of a tensor, if there is such a tensor."""
        if not 0 <= index < len(self._tensors):
            raise self.builder.error(f"{operator} must name tensors that there are, not {index}")
        return index

    def shape(self, operator: str, index: int) -> tuple[int, ...]:
        """Shape of a value as the file has it: channels last."""
        name = self._name(self.check(operator, index))
        if index in self._first:
            n, c, h, w = self.builder.shape(operator, name + "_first")
            return n, h, w, c
        return self.builder.shape(operator, name)

    def is_channels_first(self, index: int) -> bool:
        """Whether a value is computed channels first."""
        return index in self._first

    def constant(self, operator: str, index: int) -> torch.Tensor:
        """A constant of the file."""
        return self.builder.constant(operator, self._name(self.check(operator, index)))

    def is_constant(self, index: int) -> bool:
        """Whether a value depends on no input."""
        return self.builder.is_constant(self._name(index))

    def plain(self, operator: str, index: int) -> str:
        """Name of a value laid out as the file has it."""
        name = self._name(self.check(operator, index))
        if index in self._first and not self.builder.is_known(name):
            self.builder.add("channels_last", _channels_last, [name + "_first"], [name])
        return name

    def first(self, operator: str, index: int) -> str:
        """Name of a four-dimensional value laid out channels first."""
        name = self._name(self.check(operator, index))
        if not self.builder.is_known(name + "_first"):
            if len(self.builder.shape(operator, name)) != 4:
                raise self.builder.error(f"{operator} must read a value of four dimensions")
            self.builder.add("channels_first", _channels_first, [name], [name + "_first"])
        return name + "_first"

    def make(
        self,
        operator: str,
        function: Callable[..., torch.Tensor],
        inputs: list[str],
        output: int,
        channels_first: bool = False,
    ) -> None:
        """Add the step that computes a tensor of the file."""
        name = self._name(self.check(operator, output))
        if channels_first:
            self._first.add(output)
            name += "_first"
        self.builder.add(operator, function, inputs, [name])
        declared = self._tensors[output]
        shape = tuple(declared.Shape(i) for i in range(declared.ShapeLength()))
        got = self.shape(operator, output)
        if len(shape) == len(got) and shape[1:] != got[1:]:
            raise self.builder.error(f"{operator} must make {list(shape)}, not {list(got)}")

    @staticmethod
    def _name(index: int) -> str:
        return f"t{index}"


def load_tflite(path: Path, batch: int | None = None) -> tuple[Translated, Inputs]:
    """Read a file.

    Parameters
    ----------
    path : Path
    batch : int, optional
        Size of the inputs' first dimension, if it is not what the file says.

    Returns
    -------
    Translated
        Takes and gives what the file says: four-dimensional inputs channels last.
    tuple of torch.Tensor
        Inputs of zeros.

    Raises
    ------
    ModelError
        If the file is missing, corrupt, or holds operators or types that are not supported.
    """
    return parse_tflite(read_bytes(path), str(path), batch)


def parse_tflite(
    data: bytes, what: str = "tflite", batch: int | None = None
) -> tuple[Translated, Inputs]:
    """As :func:`load_tflite`, from bytes."""
    if data[4:8] != _IDENTIFIER:
        raise ModelError(f"{what} must be a tflite file, with {_IDENTIFIER.decode()} in its header")
    try:
        return _translate(data, what, batch)
    except ModelError:
        raise
    except Exception as error:  # the reader follows the file's offsets, and fails in many ways
        raise ModelError(f"{what} must be a whole tflite file ({one_line(error)})") from None


def _translate(data: bytes, what: str, batch: int | None) -> tuple[Translated, Inputs]:
    from sw.importers.tflite_operators import OPERATORS

    model = tflite.Model.GetRootAs(data, 0)
    if model.SubgraphsLength() != 1:
        raise ModelError(f"{what} must have one subgraph, not {model.SubgraphsLength()}")
    graph = model.Subgraphs(0)
    for length in (graph.TensorsLength(), graph.OperatorsLength()):
        if not 0 < length <= _MAX_TENSORS:
            raise ModelError(f"{what} must have 1 to {_MAX_TENSORS} tensors and operators")
    builder = Builder(what)
    tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
    _add_constants(model, builder, tensors)
    translator = Translator(builder, tensors)
    for i in range(graph.InputsLength()):
        _add_input(builder, translator, tensors, graph.Inputs(i), batch)
    for i in range(graph.OperatorsLength()):
        table = graph.Operators(i)
        code = model.OperatorCodes(table.OpcodeIndex())
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        kind = _OPERATORS.get(number, str(number))
        if kind not in OPERATORS:
            raise ModelError(f"{what} must have supported operators, not {kind}")
        OPERATORS[kind](translator, Operator(what, table, kind))
    outputs = [graph.Outputs(i) for i in range(graph.OutputsLength())]
    return builder.build([translator.plain("the network's output", i) for i in outputs])


def _add_input(
    builder: Builder, translator: Translator, tensors: list[Any], index: int, batch: int | None
) -> None:
    tensor = tensors[translator.check("the network's input", index)]
    if tensor.Type() != tflite.TensorType.FLOAT32:
        kind = _NAMES.get(tensor.Type(), tensor.Type())
        raise builder.error(f"its input {index} must be FLOAT32, not {kind}")
    shape = [tensor.Shape(i) for i in range(tensor.ShapeLength())]
    if batch is not None and shape:
        shape[0] = batch
    builder.add_input(f"t{index}", shape, torch.float32)


def _add_constants(model: Any, builder: Builder, tensors: list[Any]) -> None:
    """Declare the tensors that have data."""
    for index, tensor in enumerate(tensors):
        buffer = model.Buffers(tensor.Buffer())
        if tensor.Buffer() == 0 or not buffer.DataLength():
            continue
        shape = [tensor.Shape(i) for i in range(tensor.ShapeLength())]
        if tensor.Type() not in _TYPES or tensor.Sparsity() is not None:
            kind = _NAMES.get(tensor.Type(), tensor.Type())
            raise builder.error(f"its tensor {index} must be dense and of a known type, not {kind}")
        dtype = _TYPES[tensor.Type()]
        count = int(np.prod([int(size) for size in shape], dtype=object)) if shape else 1
        if min(shape, default=1) < 1 or count * dtype.itemsize != buffer.DataLength():
            raise builder.error(
                f"its tensor {index} must have {buffer.DataLength()} bytes, not shape {shape}"
            )
        values = np.frombuffer(buffer.DataAsNumpy().tobytes(), dtype).reshape(shape)
        builder.add_constant(f"t{index}", _real(builder, index, tensor, torch.tensor(values)))


def _real(builder: Builder, index: int, tensor: Any, values: torch.Tensor) -> torch.Tensor:
    """Integers with a scale, and float16, as float32; anything else as it is."""
    if values.dtype == torch.float16:
        return values.float()
    quantization = tensor.Quantization()
    count = 0 if quantization is None else quantization.ScaleLength()
    if not count or values.dtype not in (torch.int8, torch.uint8, torch.int32):
        return values
    axis = quantization.QuantizedDimension() if count > 1 else 0
    if not 0 <= axis < max(values.dim(), 1) or count not in (1, *values.shape[axis : axis + 1]):
        raise builder.error(f"its tensor {index} must have a scale, or one per channel")
    if quantization.ZeroPointLength() not in (0, count):
        raise builder.error(f"its tensor {index} must have a zero point per scale")
    shape = [count if d == axis else 1 for d in range(values.dim())]
    scale = torch.tensor([quantization.Scale(i) for i in range(count)]).reshape(shape)
    zeros = [quantization.ZeroPoint(i) for i in range(quantization.ZeroPointLength())]
    zero = torch.tensor(zeros or [0] * count).reshape(shape)
    return (values.long() - zero).float() * scale.float()


def _channels_first(value: torch.Tensor) -> torch.Tensor:
    return value.permute(0, 3, 1, 2)


def _channels_last(value: torch.Tensor) -> torch.Tensor:
    return value.permute(0, 2, 3, 1)
