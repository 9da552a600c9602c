"""The registers of the machine as one structure."""

from __future__ import annotations

from amaranth.lib import data

from sw.config import MachineConfig
from sw.registers import REGISTERS


def registers_layout(config: MachineConfig) -> data.StructLayout:
    """All registers, each under its name in lower case and as wide as its values."""
    return data.StructLayout(
        {
            register.name.lower(): definition.kind.width(config)
            for register, definition in REGISTERS.items()
        }
    )
