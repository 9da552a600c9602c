"""Where the ports of a unit lie in its lane of a harness' buses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Field:
    """One port of a unit within its lane.

    Parameters
    ----------
    name : str
        The port's name in emitted Verilog.
    width : int
        Bits.
    offset : int
        Position of its bit 0 within the lane.
    """

    name: str
    width: int
    offset: int

    def extract(self, lane: int) -> int:
        """The port's value in the lane's."""
        return (lane >> self.offset) & ((1 << self.width) - 1)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the ports of one unit lie in its lane of the two buses.

    Parameters
    ----------
    inputs, outputs : tuple of Field
        In the order of the unit's signature. A lane takes whole bytes.
    """

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]

    @property
    def input_bytes(self) -> int:
        """Bytes of the input bus that the lane takes."""
        return _bytes(self.inputs)

    @property
    def output_bytes(self) -> int:
        """Bytes of the output bus that the lane takes."""
        return _bytes(self.outputs)

    def pack_inputs(self, values: Mapping[str, int]) -> int:
        """The lane of the input bus with these ports driven and the others 0."""
        return _pack(self.inputs, values)

    def pack_outputs(self, values: Mapping[str, int]) -> int:
        """The lane of the output bus with these values and the others 0."""
        return _pack(self.outputs, values)


def _bytes(fields: Sequence[Field]) -> int:
    return (sum(field.width for field in fields) + 7) // 8


def _pack(fields: Sequence[Field], values: Mapping[str, int]) -> int:
    """Two's complement for negative values; every field named exactly."""
    known = {field.name: field for field in fields}
    lane = 0
    for name, value in values.items():
        field = known[name]
        if not -(1 << field.width) <= 2 * value < 2 << field.width:
            raise ValueError(f"{name} must fit in {field.width} bits, not {value!r}")
        lane |= (value & ((1 << field.width) - 1)) << field.offset
    return lane
