"""The machine of a configuration: with units that work side by side, or with serial control."""

from __future__ import annotations

from amaranth.hdl import Signal

from hw.core import Atreides
from hw.reset_chain import RESET_CYCLES
from hw.serial_core import SerialAtreides
from sw.config import MachineConfig


def reset_cycles(config: MachineConfig) -> int:
    """Cycles that a machine's reset must last: serial control has one register for all of it."""
    return 1 if config.control == "serial" else RESET_CYCLES


def make_machine(
    config: MachineConfig, target: str = "generic", reset: Signal | None = None
) -> Atreides | SerialAtreides:
    """The machine that ``config.control`` names; both have the same ports.

    Parameters
    ----------
    config : MachineConfig
    target : {"generic", "ecp5", "ice40", "osu018"}
        What the logic will become.
    reset : Signal, optional
        As in Atreides.
    """
    kind = SerialAtreides if config.control == "serial" else Atreides
    return kind(config, target, reset)
