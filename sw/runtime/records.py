"""Frozen dataclasses as plain data for JSON and back, every type checked on the way in.

A dataclass becomes a dict with its class's name under ``is``; tensors stay outside, under their
path. Nothing that is read can name a class or a function other than those of the fields' types.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import types
import typing
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from typing import Any, Final

import torch

from sw.compiler.graph import Argument, Ref

#: Makes plain data of a tensor, or a tensor of plain data; the path is where it was found.
Keep = Callable[[str, Any], Any]
DTYPES: Final = {
    str(kind).removeprefix("torch."): kind
    for kind in (
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16),
        *(torch.complex64, torch.complex128),
    )
}
#: Fields that hold arguments of graph nodes, which are told apart by their values.
_ARGUMENTS: Final = {"args", "kwargs"}


class DamagedRecord(ValueError):
    """Plain data that is not what was written; the message says where."""


def to_plain(value: object, keep: Keep, path: str = "") -> Any:
    """A dataclass, or a tuple, mapping or atom of them, as plain data.

    Parameters
    ----------
    value : object
    keep : callable
        Given the path and a tensor, puts the tensor away and returns plain data that names it.
    path : str
        Of ``value``.

    Raises
    ------
    TypeError
        For a value that has no plain form; the message has its path.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _record(value, keep, path)
    if isinstance(value, torch.Tensor):
        return keep(path, value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(part, keep, _join(path, key)) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(part, keep, _join(path, i)) for i, part in enumerate(value)]
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, torch.dtype):
        return _dtype_name(value, path)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise TypeError(f"{path} must be plain data, not {value!r}")


def from_plain(kind: Any, data: Any, keep: Keep, path: str = "") -> Any:
    """The value of a type, from what :func:`to_plain` made of it.

    Raises
    ------
    DamagedRecord
        For data of another type, and for what a dataclass refuses itself.
    """
    if kind is torch.Tensor:
        return keep(path, data)
    if kind is torch.dtype:
        return _dtype(data, path)
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _one_of(typing.get_args(kind), data, keep, path)
    if origin is tuple:
        return _tuple(typing.get_args(kind), data, keep, path)
    if origin is not None and issubclass(origin, Mapping):
        part = typing.get_args(kind)[1]
        entries = _checked(dict, data, path).items()
        return {key: from_plain(part, value, keep, _join(path, key)) for key, value in entries}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, data, keep, path)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        try:
            return kind(data)
        except ValueError:
            choices = ", ".join(kind)
            raise DamagedRecord(f"{path} must be one of {choices}, not {data!r}") from None
    if kind is float:
        return float(_checked((float, int), data, path))
    return _checked(type(None) if kind is None else kind, data, path)


def argument_to_plain(argument: Argument, path: str) -> Any:
    """An argument of a graph's node as plain data."""
    if isinstance(argument, Ref):
        return {"ref": argument.name}
    if isinstance(argument, torch.dtype):
        return {"dtype": _dtype_name(argument, path)}
    if isinstance(argument, torch.device):
        return {"device": str(argument)}
    if isinstance(argument, tuple | list):
        return [argument_to_plain(part, _join(path, i)) for i, part in enumerate(argument)]
    if isinstance(argument, float) and not math.isfinite(argument):
        return {"float": repr(argument)}
    if argument is None or isinstance(argument, bool | int | float | str):
        return argument
    raise TypeError(f"{path} must be an argument of a graph's node, not {argument!r}")


def argument_from_plain(data: Any, path: str) -> Argument:
    """The inverse of :func:`argument_to_plain`."""
    if isinstance(data, list):
        return tuple(argument_from_plain(part, _join(path, i)) for i, part in enumerate(data))
    if data is None or isinstance(data, bool | int | float | str):
        return data
    if isinstance(data, dict) and len(data) == 1:
        ((kind, value),) = data.items()
        if kind == "ref" and isinstance(value, str):
            return Ref(value)
        if kind == "dtype":
            return _dtype(value, path)
        if kind == "device" and value == "cpu":
            return torch.device("cpu")
        if kind == "float" and value in ("inf", "-inf", "nan"):
            return float(value)
    raise DamagedRecord(f"{path} must be an argument of a graph's node, not {data!r}")


def _record(value: Any, keep: Keep, path: str) -> dict[str, Any]:
    found: dict[str, Any] = {"is": type(value).__name__}
    for field in dataclasses.fields(value):
        part, where = getattr(value, field.name), _join(path, field.name)
        if field.name == "args":
            found[field.name] = argument_to_plain(part, where)
        elif field.name == "kwargs":
            found[field.name] = {k: argument_to_plain(v, _join(where, k)) for k, v in part.items()}
        else:
            found[field.name] = to_plain(part, keep, where)
    return found


def _dataclass(kind: Any, data: Any, keep: Keep, path: str) -> Any:
    fields = {field.name for field in dataclasses.fields(kind)}
    given = _checked(dict, data, path)
    if given.get("is") != kind.__name__ or set(given) != fields | {"is"}:
        raise DamagedRecord(f"{path} must be a {kind.__name__} with {sorted(fields)}")
    values: dict[str, Any] = {}
    hints = _hints(kind)
    for name in fields:
        where = _join(path, name)
        if name not in _ARGUMENTS:
            values[name] = from_plain(hints[name], given[name], keep, where)
            continue
        parts = _checked(list if name == "args" else dict, given[name], where)
        if isinstance(parts, dict):
            values[name] = {k: argument_from_plain(v, _join(where, k)) for k, v in parts.items()}
        else:
            values[name] = argument_from_plain(parts, where)
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise DamagedRecord(f"{path}: {error}") from None


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Types of the fields, but for those that hold arguments: their type refers to itself."""
    names = [f.name for f in dataclasses.fields(kind) if f.name not in _ARGUMENTS]
    scope = vars(sys.modules[kind.__module__])
    bare = type(kind.__name__, (), {"__annotations__": {n: kind.__annotations__[n] for n in names}})
    return typing.get_type_hints(bare, globalns=scope)


def _one_of(kinds: tuple[Any, ...], data: Any, keep: Keep, path: str) -> Any:
    if data is None and type(None) in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    if len(kinds) == 1:
        return from_plain(kinds[0], data, keep, path)
    name = _checked(dict, data, path).get("is")
    for kind in kinds:
        if kind.__name__ == name:
            return from_plain(kind, data, keep, path)
    raise DamagedRecord(f"{path} must be one of {', '.join(k.__name__ for k in kinds)}")


def _tuple(parts: tuple[Any, ...], data: Any, keep: Keep, path: str) -> tuple[Any, ...]:
    given = _checked(list, data, path)
    if len(parts) == 2 and parts[1] is Ellipsis:
        parts = (parts[0],) * len(given)
    if len(parts) != len(given):
        raise DamagedRecord(f"{path} must have {len(parts)} entries, not {len(given)}")
    pairs = enumerate(zip(parts, given, strict=True))
    return tuple(from_plain(kind, value, keep, _join(path, i)) for i, (kind, value) in pairs)


def _checked(kind: Any, data: Any, path: str) -> Any:
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        name = getattr(kind, "__name__", "number")
        raise DamagedRecord(f"{path} must be of type {name}, not {data!r}"[:200])
    return data


def _dtype_name(value: torch.dtype, path: str) -> str:
    name = str(value).removeprefix("torch.")
    if name not in DTYPES:
        raise TypeError(f"{path} must have a dtype of {', '.join(DTYPES)}, not {name}")
    return name


def _dtype(data: Any, path: str) -> torch.dtype:
    if not isinstance(data, str) or data not in DTYPES:
        raise DamagedRecord(f"{path} must be one of {', '.join(DTYPES)}, not {data!r}")
    return DTYPES[data]


def _join(path: str, part: object) -> str:
    return f"{path}.{part}" if path else str(part)
