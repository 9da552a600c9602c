"""ECP5 carry chains with logic absorbed into their look-up tables, and their behavioural twin."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Const, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

#: Propagate ``(a & b) ^ (c & d)``, generate ``a & b``: adds two gated operands.
GATED_SUM: Final = 0x7888
#: Propagate ``(a & b) ^ c ^ d``, generate ``a & b``: adds c, or subtracts it if d and carry are 1.
GATED_ACCUMULATE: Final = 0x8778
#: Propagate ``(a & ~b) ^ c ^ d``, generate ``a & ~b``: the same where b clears a.
CLEARED_ACCUMULATE: Final = 0x2DD2


class _Behavioural:
    def __repr__(self) -> str:
        return "BEHAVIOURAL"


#: Elaborate for this "platform" to run ECP5 forms in Amaranth's simulator:
#: ``Simulator(Fragment.get(design, BEHAVIOURAL))``. Each chain then is the function of its tables
#: and of the carry multiplexers; all wiring around it stays as it is.
BEHAVIOURAL: Final = _Behavioural()


class CarryChain(wiring.Component):
    """A chain of CCU2C primitives with the same table at every bit. Combinational, latency 0.

    Parameters
    ----------
    length : int
        Bits.
    table : int
        The 16 bits of the look-up table, indexed by ``d c b a``. At each bit it gives the
        propagate signal; its lower 4 bits, indexed by ``b a``, give the generate signal that takes
        the carry's place where propagate is 0.

    Members
    -------
    a, b, c, d : In(length)
    carry : In(1)
        Into bit 0.
    sum : Out(length)
        Propagate exclusive-or carry, per bit.

    Notes
    -----
    Source: the simulation model of CCU2C in yosys, ``techlibs/lattice/ccu2c_sim.vh``.
    """

    def __init__(self, length: int, table: int) -> None:
        self.length = length
        self.table = table
        super().__init__(
            {
                **{name: In(length) for name in "abcd"},
                "carry": In(1),
                "sum": Out(length),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if platform is BEHAVIOURAL:
            self._elaborate_twin(m)
        else:
            self._elaborate_primitives(m)
        return m

    def _elaborate_primitives(self, m: Module) -> None:
        carry = self.carry
        for low in range(0, self.length, 2):
            high_used = low + 1 < self.length
            next_carry = Signal(name=f"carry_{low + 2}")
            ports = {"i_CIN": carry, "o_COUT": next_carry, "o_S0": self.sum[low]}
            for name in "ABCD":
                operand = getattr(self, name.lower())
                ports[f"i_{name}0"] = operand[low]
                ports[f"i_{name}1"] = operand[low + 1] if high_used else Const(0, 1)
            if high_used:
                ports["o_S1"] = self.sum[low + 1]
            m.submodules[f"bits_{low}"] = Instance(
                "CCU2C",
                p_INIT0=Const(self.table, 16),
                p_INIT1=Const(self.table, 16),
                p_INJECT1_0="NO",
                p_INJECT1_1="NO",
                **ports,
            )
            carry = next_carry

    def _elaborate_twin(self, m: Module) -> None:
        propagate = Signal(self.length)
        generate = Signal(self.length)
        operands = (self.a, self.b, self.c, self.d)
        m.d.comb += [
            propagate.eq(_look_up(self.table, operands)),
            generate.eq(_look_up(self.table & 15, operands[:2])),
            # Two numbers whose addition propagates and generates carries exactly so:
            self.sum.eq((generate & ~propagate) + (generate | propagate) + self.carry),
        ]


def _look_up(table: int, operands: tuple[Signal, ...]):
    """The table applied at every bit of the operands, as a sum of minterms."""
    width = len(operands[0])
    result = Const(0, width)
    for index in range(1 << len(operands)):
        if table >> index & 1:
            term = Const((1 << width) - 1, width)
            for position, operand in enumerate(operands):
                term &= operand if index >> position & 1 else ~operand
            result |= term
    return result
