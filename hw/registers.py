"""The register file: what SET writes and GEMM reads."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.machine_registers import registers_layout
from sw.config import MachineConfig
from sw.isa import VALUE_BITS
from sw.registers import REGISTERS, BMode, Register

#: Bits of a register's number.
NUMBER_BITS = 8


def set_layout() -> data.StructLayout:
    """A write to a register: ``enable``, its ``number`` and the ``value`` of 32 bits."""
    return data.StructLayout({"enable": 1, "number": NUMBER_BITS, "value": VALUE_BITS})


class RegisterFile(wiring.Component):
    """All registers, visible at once. A write of cycle c is seen from c + 2 on.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    clear : In(1)
        Puts all registers back to their defaults.
    set : In(set_layout())
        A value that does not fit is cut off.
    fits : Out(1)
        Whether ``set.value`` fits the register that ``set.number`` named in the cycle before, with
        or without ``enable``.
    identity : In(1)
        Shows B_MODE as the identity.
    registers : Out(registers_layout(config))
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "clear": In(1),
                "set": In(set_layout()),
                "fits": Out(1),
                "identity": In(1),
                "registers": Out(registers_layout(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        defaults = {
            register.name.lower(): definition.kind.default(self.config)
            for register, definition in REGISTERS.items()
        }
        held = Signal(registers_layout(self.config), init=defaults)
        m.d.comb += self.registers.eq(held)
        with m.If(self.identity):
            m.d.comb += self.registers.b_mode.eq(BMode.IDENTITY)
        self._judge(m, held)
        late = Signal(set_layout())
        m.d.sync += late.eq(self.set)
        with m.If(late.enable), m.Switch(late.number):
            for register in Register:
                with m.Case(register):
                    m.d.sync += held[register.name.lower()].eq(late.value)
        with m.If(self.clear):
            m.d.sync += held.eq(held.shape().const(defaults))
        return m

    def _judge(self, m: Module, held: data.View) -> None:
        """Whether the value fits: registers of one width are judged together."""
        by_width: dict[int, list[Register]] = {}
        for register in Register:
            by_width.setdefault(len(held[register.name.lower()]), []).append(register)
        fits = []
        for width, registers in by_width.items():
            named = Signal(name=f"names_{width}_bits")
            m.d.sync += named.eq(Cat(self.set.number == register for register in registers).any())
            fits.append(named & ~self.set.value[width:].any())
        m.d.comb += self.fits.eq(Cat(fits).any())
