"""A network from a file as a module: steps of torch functions over named values.

A :class:`Builder` runs each step on tensors without data as it is added, so that shapes are known,
mistakes of the file are found before anything is computed, and no size in a file is believed
before it is bounded. Steps whose inputs are all constant are computed once, as they are added.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from sw.importers.loaded import ModelError, one_line

Function: TypeAlias = Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]

#: Most elements that one value may have, 1 GiB as float32.
MAX_ELEMENTS: Final = 1 << 28
#: Most elements of a value that is computed while loading.
_MAX_FOLDED: Final = 1 << 24


class Step(nn.Module):
    """One operation, a module so that traces say where each node came from.

    Parameters
    ----------
    function : callable
        Takes and gives tensors.
    """

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *values: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The function of the values."""
        return self.function(*values)


@dataclass(frozen=True, slots=True)
class _Wire:
    """Names of what a step reads and makes."""

    module: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Translated(nn.Module):
    """The steps in order; floating constants are parameters, others buffers.

    Calling it with the network's inputs gives its output, or a tuple of several.
    """

    def __init__(self) -> None:
        super().__init__()
        self._wires: list[_Wire] = []
        self._inputs: tuple[str, ...] = ()
        self._outputs: tuple[str, ...] = ()
        self._constants: dict[str, str] = {}

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The outputs for these inputs."""
        values = dict(zip(self._inputs, inputs, strict=True))
        for name, attribute in self._constants.items():
            values[name] = getattr(self, attribute)
        for wire in self._wires:
            made = getattr(self, wire.module)(*(values[name] for name in wire.inputs))
            parts = made if isinstance(made, tuple) else (made,)
            values.update(zip(wire.outputs, parts, strict=True))
        outputs = tuple(values[name] for name in self._outputs)
        return outputs[0] if len(outputs) == 1 else outputs


class Builder:
    """Puts a :class:`Translated` together.

    Parameters
    ----------
    what : str
        The file, as sentences name it.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.module = Translated()
        self._mode = FakeTensorMode()
        self._constants: dict[str, torch.Tensor] = {}
        self._values: dict[str, FakeTensor] = {}
        self._inputs: list[str] = []

    def error(self, sentence: str) -> ModelError:
        """An exception about this file."""
        return ModelError(f"{self.what}: {sentence}")

    def add_input(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> None:
        """Declare the next input."""
        self._check_new(name)
        self.check_size(name, shape)
        with self._mode:
            self._values[name] = torch.empty(tuple(shape), dtype=dtype)  # type: ignore[assignment]
        self._inputs.append(name)

    def add_constant(self, name: str, value: torch.Tensor) -> None:
        """Declare a value that the file holds."""
        self._check_new(name)
        self._constants[name] = value.detach()

    def add(
        self, operator: str, function: Function, inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        """Append a step, or compute it now if nothing that it reads depends on an input.

        Raises
        ------
        ModelError
            If a name is unknown or not new, or torch refuses the shapes.
        """
        for name in inputs:
            self._check_known(operator, name)
        for name in outputs:
            self._check_new(name)
        shapes = self._infer(operator, function, inputs, outputs)
        if all(name in self._constants for name in inputs):
            self._fold(operator, function, inputs, outputs, shapes)
            return
        module = self._attribute(f"{operator}_{len(self.module._wires)}".lower())
        self.module.add_module(module, Step(function))
        self.module._wires.append(_Wire(module, tuple(inputs), tuple(outputs)))
        self._values.update(zip(outputs, shapes, strict=True))

    def is_constant(self, name: str) -> bool:
        """Whether a value depends on no input."""
        return name in self._constants

    def is_known(self, name: str) -> bool:
        """Whether a value has been declared or made."""
        return name in self._constants or name in self._values

    def constant(self, operator: str, name: str) -> torch.Tensor:
        """A value that must be known before the network runs."""
        self._check_known(operator, name)
        if name not in self._constants:
            raise self.error(f"{operator} must have a constant {name}, not one that is computed")
        return self._constants[name]

    def shape(self, operator: str, name: str) -> tuple[int, ...]:
        """Shape of a value."""
        return tuple(self._get(operator, name).shape)

    def dtype(self, operator: str, name: str) -> torch.dtype:
        """Type of a value's elements."""
        return self._get(operator, name).dtype

    def build(self, outputs: Sequence[str]) -> tuple[Translated, tuple[torch.Tensor, ...]]:
        """The module in evaluation mode, and inputs of zeros.

        Raises
        ------
        ModelError
            If an output does not depend on any input, or there is nothing to compute.
        """
        for name in outputs:
            self._check_known("the network's output", name)
            if name in self._constants:
                raise self.error(f"its output {name} must depend on an input")
        if not outputs or not self.module._wires:
            raise self.error("it must compute something")
        used = {name for wire in self.module._wires for name in wire.inputs}
        for name, value in self._constants.items():
            if name in used:
                self._register(name, value)
        self.module._inputs = tuple(self._inputs)
        self.module._outputs = tuple(outputs)
        values = [self._values[name] for name in self._inputs]
        examples = tuple(torch.zeros(tuple(v.shape), dtype=v.dtype) for v in values)
        return self.module.eval(), examples

    def check_size(self, name: str, shape: Sequence[int]) -> None:
        """Refuse a value that no machine should be asked to hold."""
        count = 1
        for size in shape:
            if size < 1:
                raise self.error(f"{name} must have sizes of at least 1, not {list(shape)}")
            count *= size
        if count > MAX_ELEMENTS:
            raise self.error(f"{name} must have at most {MAX_ELEMENTS} elements, not {count}")

    def _infer(
        self, operator: str, function: Function, inputs: Sequence[str], outputs: Sequence[str]
    ) -> tuple[FakeTensor, ...]:
        """What the step makes, without its data."""
        values = [self._fake(name) for name in inputs]
        try:
            with self._mode, torch.no_grad():
                made = function(*values)
        except ModelError:
            raise
        except Exception as error:  # whatever torch says of shapes that a hostile file gives
            raise self.error(f"{operator} cannot be computed ({one_line(error)})") from None
        parts = made if isinstance(made, tuple) else (made,)
        if len(parts) != len(outputs):
            raise self.error(f"{operator} must have {len(parts)} outputs, not {len(outputs)}")
        for name, part in zip(outputs, parts, strict=True):
            self.check_size(f"{operator}'s value {name}", part.shape)
        return parts  # type: ignore[return-value]

    def _fold(
        self,
        operator: str,
        function: Function,
        inputs: Sequence[str],
        outputs: Sequence[str],
        shapes: Sequence[FakeTensor],
    ) -> None:
        count = sum(shape.numel() for shape in shapes)
        if count > _MAX_FOLDED:
            raise self.error(f"{operator} must make at most {_MAX_FOLDED} constants, not {count}")
        try:
            with torch.no_grad():
                made = function(*(self._constants[name] for name in inputs))
        except Exception as error:  # as above: an index out of range shows only with data
            raise self.error(f"{operator} cannot be computed ({one_line(error)})") from None
        parts = made if isinstance(made, tuple) else (made,)
        self._constants.update(zip(outputs, parts, strict=True))

    def _fake(self, name: str) -> torch.Tensor:
        if name in self._values:
            return self._values[name]
        return self._mode.from_tensor(self._constants[name])

    def _get(self, operator: str, name: str) -> torch.Tensor:
        self._check_known(operator, name)
        return self._values[name] if name in self._values else self._constants[name]

    def _register(self, name: str, value: torch.Tensor) -> None:
        attribute = self._attribute(f"constant_{name}")
        if value.is_floating_point():
            self.module.register_parameter(attribute, nn.Parameter(value.contiguous().clone()))
        else:
            self.module.register_buffer(attribute, value.contiguous().clone())
        self.module._constants[name] = attribute

    def _attribute(self, name: str) -> str:
        """A name that no attribute of the module has."""
        base = re.sub(r"\W", "_", name, flags=re.ASCII)
        candidate, number = base, 1
        while hasattr(self.module, candidate):
            number += 1
            candidate = f"{base}_{number}"
        return candidate

    def _check_known(self, operator: str, name: str) -> None:
        if not self.is_known(name):
            raise self.error(f"{operator} must read values made before it, not {name!r}")

    def _check_new(self, name: str) -> None:
        if self.is_known(name):
            raise self.error(f"{name!r} must be made once")
