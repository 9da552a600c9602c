"""ONNX files, opset 7 and up, of the standard operators.

Meanings are those of https://onnx.ai/onnx/operators, for the opset that the file names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, checker, helper, numpy_helper

from sw.importers.loaded import Inputs, ModelError, one_line, read_bytes
from sw.importers.translated import Builder, Function, Translated

_MIN_OPSET: Final = 7
_DOMAINS: Final = ("", "ai.onnx")
DTYPES: Final[Mapping[int, torch.dtype]] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}
#: Types that a network's inputs may have.
_INPUTS: Final = (TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)


class Call:
    """One node of the file, on its way into the builder.

    Parameters
    ----------
    builder : Builder
    node : onnx.NodeProto
    opset : int
    """

    def __init__(self, builder: Builder, node: onnx.NodeProto, opset: int) -> None:
        self.builder = builder
        self.kind = node.op_type
        self.opset = opset
        self.inputs: list[str] = list(node.input)
        self.outputs: list[str] = list(node.output)
        while self.outputs and not self.outputs[-1]:
            self.outputs.pop()
        self._attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute; text is decoded."""
        value = self._attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def has(self, index: int) -> bool:
        """Whether an optional input is given."""
        return len(self.inputs) > index and bool(self.inputs[index])

    def constant(self, index: int) -> torch.Tensor:
        """An input that must be constant."""
        return self.builder.constant(self.kind, self._input(index))

    def is_constant(self, index: int) -> bool:
        """Whether an input depends on no input of the network."""
        return self.has(index) and self.builder.is_constant(self.inputs[index])

    def integers(self, attribute: str, index: int) -> list[int] | None:
        """What was an attribute in old opsets and is an input in newer ones; None if not given."""
        given = self._attributes.get(attribute)
        if given is not None:
            return [int(n) for n in given]
        if not self.has(index):
            return None
        return [int(n) for n in self.constant(index).flatten()]

    def number(self, attribute: str, index: int) -> float | None:
        """As :meth:`integers`, for one real number."""
        given = self._attributes.get(attribute)
        if given is not None:
            return float(given)
        if not self.has(index):
            return None
        value = self.constant(index)
        if value.numel() != 1:
            raise self.error(f"must have one number for {attribute}, not {value.numel()}")
        return float(value)

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of an input."""
        return self.builder.shape(self.kind, self._input(index))

    def axis(self, value: int, rank: int | None = None) -> int:
        """A dimension, counted from the front."""
        rank = len(self.shape()) if rank is None else rank
        if not -rank <= value < rank:
            raise self.error(f"must name a dimension from {-rank} to {rank - 1}, not {value}")
        return value % rank

    def error(self, sentence: str) -> ModelError:
        """An exception: ``Slice`` and the sentence."""
        return self.builder.error(f"{self.kind} {sentence}")

    def emit(self, function: Function, *indices: int) -> None:
        """Make the outputs by a function of the inputs of these numbers (all, if none are given).

        Inputs that are not given are left out.
        """
        chosen = indices or range(len(self.inputs))
        names = [self.inputs[i] for i in chosen if self.has(i)]
        if len(names) < min(len(chosen), 1):
            raise self.error("must have its inputs")
        self.builder.add(self.kind, function, names, self.outputs)

    def _input(self, index: int) -> str:
        if not self.has(index):
            raise self.error(f"must have {index + 1} inputs, not {len(self.inputs)}")
        return self.inputs[index]


def load_onnx(
    path: Path, batch: int | None = None, sizes: Mapping[str, int] | None = None
) -> tuple[Translated, Inputs]:
    """Read a file.

    Parameters
    ----------
    path : Path
    batch : int, optional
        Size of every input's first dimension: by default 1 where the file leaves it open.
    sizes : mapping of str to int, optional
        Sizes of other dimensions that the file only names.

    Returns
    -------
    Translated
    tuple of torch.Tensor
        Inputs of zeros.

    Raises
    ------
    ModelError
        If the file is missing, corrupt, or holds operators or types that are not supported.
    """
    return parse_onnx(read_bytes(path), str(path), batch, sizes)


def parse_onnx(
    data: bytes,
    what: str = "onnx",
    batch: int | None = None,
    sizes: Mapping[str, int] | None = None,
) -> tuple[Translated, Inputs]:
    """As :func:`load_onnx`, from bytes."""
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError, TypeError) as error:
        raise ModelError(f"{what} must be a whole ONNX file ({one_line(error)})") from None
    if not model.graph.node:
        raise ModelError(f"{what} must be an ONNX file with operators")
    try:
        _check_stored(model, what)
        checker.check_model(model)
        return _translate(model, what, batch, sizes or {})
    except ModelError:
        raise
    except checker.ValidationError as error:
        raise ModelError(f"{what} must be a valid ONNX model ({one_line(error)})") from None
    except Exception as error:  # attributes of another type or number than an operator has
        raise ModelError(f"{what} must be a valid ONNX model ({one_line(error)})") from None


def _check_stored(model: onnx.ModelProto, what: str) -> None:
    """Refuse data that lies in other files, before anything could look for them."""
    stored = list(model.graph.initializer)
    stored += [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    for tensor in stored:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise ModelError(f"{what} must hold all its data, not refer to other files")
    if model.graph.sparse_initializer:
        raise ModelError(f"{what} must have dense constants")


def _translate(
    model: onnx.ModelProto, what: str, batch: int | None, sizes: Mapping[str, int]
) -> tuple[Translated, Inputs]:
    from sw.importers.onnx_operators import OPERATORS

    opset = _opset(model, what)
    builder = Builder(what)
    for tensor in model.graph.initializer:
        builder.add_constant(tensor.name, to_torch(builder, tensor.name, tensor))
    for value in model.graph.input:
        if not builder.is_known(value.name):
            _add_input(builder, value, batch, sizes)
    for node in model.graph.node:
        if node.domain not in _DOMAINS or node.op_type not in OPERATORS:
            kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise ModelError(f"{what} must have supported operators, not {kind}")
        OPERATORS[node.op_type](Call(builder, node, opset))
    return builder.build([value.name for value in model.graph.output])


def _opset(model: onnx.ModelProto, what: str) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in _DOMAINS]
    newest = onnx.defs.onnx_opset_version()
    if len(versions) != 1 or not _MIN_OPSET <= versions[0] <= newest:
        raise ModelError(f"{what} must be of one opset from {_MIN_OPSET} to {newest}")
    return int(versions[0])


def _add_input(
    builder: Builder, value: onnx.ValueInfoProto, batch: int | None, sizes: Mapping[str, int]
) -> None:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or kind.elem_type not in _INPUTS:
        names = ", ".join(TensorProto.DataType.Name(t) for t in _INPUTS)
        raise builder.error(f"its input {value.name} must be a tensor of {names}")
    if not kind.HasField("shape"):
        raise builder.error(f"its input {value.name} must have a shape")
    shape = [_size(dimension, i, batch, sizes) for i, dimension in enumerate(kind.shape.dim)]
    if None in shape:
        names = ", ".join(d.dim_param or str(d.dim_value) for d in kind.shape.dim)
        raise builder.error(
            f"its input {value.name} must have known sizes but for the first, not [{names}]"
        )
    builder.add_input(value.name, [n for n in shape if n is not None], DTYPES[kind.elem_type])


def _size(
    dimension: onnx.TensorShapeProto.Dimension,
    place: int,
    batch: int | None,
    sizes: Mapping[str, int],
) -> int | None:
    if place == 0 and batch is not None:
        return batch
    if dimension.HasField("dim_value"):
        return int(dimension.dim_value)
    if dimension.dim_param in sizes:
        return sizes[dimension.dim_param]
    return 1 if place == 0 else None


def to_torch(builder: Builder, name: str, tensor: onnx.TensorProto) -> torch.Tensor:
    """A constant of the file."""
    if tensor.data_type not in DTYPES:
        known = {v: k for k, v in TensorProto.DataType.items()}
        kind = known.get(tensor.data_type, tensor.data_type)
        raise builder.error(f"its constant {name} must have a supported type, not {kind}")
    if any(size < 0 for size in tensor.dims):
        raise builder.error(f"its constant {name} must have sizes of at least 0")
    try:
        return torch.tensor(numpy_helper.to_array(tensor))
    except (ValueError, TypeError) as error:
        raise builder.error(f"its constant {name} must be whole ({one_line(error)})") from None


def broadcast(sequences: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The shape that shapes become together."""
    shapes = (tuple(s) for s in sequences)
    return tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
