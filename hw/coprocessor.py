"""The machine as a coprocessor of a RISC-V core."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from hw.custom_instructions import XLEN, CustomInstructions
from hw.machine import make_machine
from sw.config import MachineConfig


class Coprocessor(wiring.Component):
    """The machine and its custom instructions, on PicoRV32's coprocessor interface.

    Parameters
    ----------
    config : MachineConfig
    target : {"generic", "ecp5", "ice40", "osu018"}

    Members
    -------
    valid, instruction, rs1, rs2 : In(1), In(32), In(32), In(32)
    ready, write, rd, claimed : Out(1), Out(1), Out(32), Out(1)
        As :class:`hw.custom_instructions.CustomInstructions` has them.
    busy : Out(1)
        A program runs, or the memory clears itself after reset.
    """

    latency = None  # depends on the program
    unread_fields = True  # as in its parts

    def __init__(self, config: MachineConfig, target: str = "generic") -> None:
        self.config = config
        self.target = target
        given = {"valid": In(1), "instruction": In(XLEN), "rs1": In(XLEN), "rs2": In(XLEN)}
        answer = {"ready": Out(1), "write": Out(1), "rd": Out(XLEN), "claimed": Out(1)}
        super().__init__(given | answer | {"busy": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.machine = machine = make_machine(self.config, self.target)
        m.submodules.custom = custom = CustomInstructions(self.config)
        connect(m, custom.instructions, machine.instructions)
        connect(m, custom.host, machine.host)
        connect(m, machine.results, custom.results)
        connect(m, machine.status, custom.status)
        for name in ("valid", "instruction", "rs1", "rs2"):
            m.d.comb += getattr(custom, name).eq(getattr(self, name))
        for name in ("ready", "write", "rd", "claimed"):
            m.d.comb += getattr(self, name).eq(getattr(custom, name))
        m.d.comb += self.busy.eq(machine.busy)
        return m
