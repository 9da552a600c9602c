"""What a machine holds, as text for a person: registers, buffers, tiles."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

from sw.machine import Machine
from sw.registers import REGISTERS, Kind


def dump_registers(machine: Machine) -> str:
    """Every register with its value and meaning, a line each; addresses in hexadecimal too."""
    lines = []
    for register, definition in REGISTERS.items():
        value = machine.state.registers[register]
        text = f"{value}"
        if definition.kind in (Kind.ADDRESS, Kind.WORD):
            text += f" (0x{value:x})"
        lines.append(f"{register.name:<10} {text:<16} {definition.meaning}")
    return "\n".join(lines)


def dump_buffers(machine: Machine) -> str:
    """The row and column buffer, the array's sums and the activation buffer, as far as filled."""
    parts = []
    digits = _digits(machine)
    for name, shape, values in (
        ("row buffer", machine.state.row_buffer, machine.row_buffer),
        ("column buffer", machine.state.column_buffer, machine.column_buffer),
        ("array", machine.state.output, machine.sums),
        ("activation buffer", machine.state.activation, machine.activation),
    ):
        if shape is None:
            parts.append(f"{name}: empty")
            continue
        width = max(len(str(v)) for v in values.ravel().tolist())
        show = f"{width}d" if name == "array" else f"0{digits}x"
        parts.append(f"{name}: {shape[0]} x {shape[1]}\n{_matrix(values, show)}")
    return "\n".join(parts)


def dump_tile(machine: Machine, slot: int) -> str:
    """The words of a tile slot in hexadecimal, row by row."""
    if not 0 <= slot < machine.config.slots:
        raise ValueError(f"slot must be 0 to {machine.config.slots - 1}, not {slot!r}")
    return f"tile {slot}:\n{_matrix(machine.tiles[slot], f'0{_digits(machine)}x')}"


def _digits(machine: Machine) -> int:
    return -(-machine.config.bits // 4)


def _matrix(values: NDArray[Any], show: str) -> str:
    rows: Iterable[list[int]] = values.tolist()
    return "\n".join("  " + " ".join(format(value, show) for value in row) for row in rows)
