"""Whether a product's sizes and addresses fit the machine, before it starts."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.machine_registers import registers_layout
from hw.serial_sum import SerialSum
from sw.config import COUNT_BITS, MachineConfig
from sw.isa import Fault
from sw.registers import AMode, BMode

#: Counts in the order in which they are multiplied; ``lanes`` are the columns of a full tile.
STEPS: Final = ("mx", "my", "k0", "k1", "k2", "nt", "g", "lanes")
#: The counts among them that are registers.
COUNTS: Final = STEPS[:-1]


class RangeCheck(wiring.Component):
    """Multiplies the sizes of a product out and finds the first fault that they have.

    Extents are those of the instruction set's page: from the base to the base plus each stride
    times its count minus one. All sums run side by side, a count after the other, a bit per cycle.
    With ``start`` in cycle s, ``done`` is in cycle ``s + 1`` where a count is 0 or NL is larger
    than the array, else in cycle ``s + 1 + sum(1 + bits(count - 1))`` over :data:`STEPS`, where
    ``bits(0)`` is 0. Encodings (modes, and block scales with K1 or K2 beyond 1) are not checked.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    start : In(1)
        For one cycle, while not busy.
    registers : In(registers_layout(config))
        Unchanged from ``start`` to ``done``.
    memory : In(1)
        Whether the output goes to tile memory: only then has it an extent. Constant as well.
    skip : In(1)
        Whether the instruction skips zeros: its tiles count as full. Constant as well.
    busy : Out(1)
        From the cycle after ``start`` to ``done``.
    done : Out(1)
        For one cycle.
    fault : Out(Fault)
        NONE, SIZE, RANGE or OVERLAP, the first in this order; from ``done`` to the next ``start``.
    rows, terms : Out(16)
        M and K, as long as ``fault`` where it is not SIZE.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "registers": In(registers_layout(config)),
                "memory": In(1),
                "skip": In(1),
                "busy": Out(1),
                "done": Out(1),
                "fault": Out(4),
                "rows": Out(COUNT_BITS),
                "terms": Out(COUNT_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        registers = self.registers
        step = Signal(range(len(STEPS) + 1))
        count = Signal(COUNT_BITS)  # what is left of the count minus one
        malformed = Signal()
        load = Signal()
        ended = Signal()
        # The zero flag of a whole segment is looked at, however few of its words are B's.
        full = (registers.nt > 1) | self.skip
        lanes = Signal.like(registers.nl)
        m.d.sync += lanes.eq(Mux(full, self.config.columns, registers.nl))
        m.d.comb += [
            ended.eq(malformed | ((step == len(STEPS)) & ~count.any())),
            self.done.eq(self.busy & ended),
            load.eq(self.busy & ~ended & ~count.any()),
        ]
        with m.If(self.start):
            zero = Const(0)
            for name in COUNTS:
                zero |= registers[name] == 0
            zero |= registers.nl == 0
            m.d.sync += [
                self.busy.eq(1),
                step.eq(0),
                count.eq(0),
                malformed.eq(zero | (registers.nl > self.config.columns)),
            ]
        with m.Elif(self.done):
            m.d.sync += self.busy.eq(0)
        with m.Elif(load):
            m.d.sync += step.eq(step + 1)
            with m.Switch(step):
                for i, name in enumerate(STEPS):
                    with m.Case(i):
                        m.d.sync += count.eq((registers[name] if name in COUNTS else lanes) - 1)
        with m.Else():
            m.d.sync += count.eq(count >> 1)
        sums = self._sums(m, step, load, count[0] & ~load)
        m.d.comb += [self.rows.eq(sums["rows"].total), self.terms.eq(sums["terms"].total)]
        self._judge(m, malformed, sums)
        return m

    def _sums(self, m: Module, step: Value, load: Value, bit: Value) -> dict[str, SerialSum]:
        """Every sum, fed with its stride of the step."""
        registers, address_bits = self.registers, self.config.address_bits
        sums = {
            name: SerialSum(bits, max(bits, COUNT_BITS))
            for name, bits in (
                *dict.fromkeys("abo", address_bits).items(),
                *dict.fromkeys(("rows", "terms", "columns"), COUNT_BITS).items(),
            )
        }
        bases = {
            **{name: registers[f"{name}_base"] for name in "abo"},
            **{"rows": 1, "terms": 1, "columns": registers.nl},
        }
        strides = self._strides({name: unit.total for name, unit in sums.items()})
        for name, unit in sums.items():
            m.submodules[name] = unit
            m.d.comb += [
                unit.clear.eq(self.start),
                unit.base.eq(bases[name]),
                unit.load.eq(load),
                unit.bit.eq(bit),
            ]
            with m.Switch(step):
                for i, count in enumerate(STEPS):
                    if count in strides[name]:
                        with m.Case(i):
                            m.d.comb += unit.stride.eq(strides[name][count])
        return sums

    def _strides(self, totals: dict[str, Value]) -> dict[str, dict[str, Value | int]]:
        """Per sum, what a count is multiplied by; 0 where it is not named."""
        registers = self.registers
        a_slices = registers.a_mode == AMode.SLICES
        b_lanes = registers.b_mode == BMode.LANES
        both = {
            side: {
                "k1": registers[f"{side}_k1"],
                "k2": registers[f"{side}_k2"],
                "nt": registers[f"{side}_n"],
                "g": registers[f"{side}_g"],
            }
            for side in "ab"
        }
        return {
            "a": both["a"]
            | {
                # rows are contiguous in slices: M - 1 = (MX - 1) + (MY - 1) * MX
                "mx": Mux(a_slices, 1, registers.a_x),
                "my": Mux(a_slices, totals["rows"], registers.a_y),
                "k0": Mux(a_slices, registers.a_k0, 1),
            },
            "b": both["b"]
            | {
                "k0": Mux(b_lanes, 1, registers.b_k0),
                "lanes": Mux(b_lanes, registers.b_x, 1),
            },
            "o": {
                "mx": registers.o_x,
                "my": registers.o_y,
                "nt": registers.o_n,
                "g": registers.o_g,
                "lanes": 1,
            },
            "rows": {"mx": 1, "my": totals["rows"]},
            "terms": {"k0": 1, "k1": totals["terms"], "k2": totals["terms"]},
            "columns": {"nt": self.config.columns},
        }

    def _judge(self, m: Module, malformed: Value, sums: dict[str, SerialSum]) -> None:
        a, b, o = (sums[name] for name in "abo")
        registers = self.registers
        in_memory = {
            name: ~sums[name].overflow & (sums[name].total < self.config.memory_words)
            for name in "abo"
        }
        b_used = registers.b_mode != BMode.IDENTITY
        size = Signal()
        outside = Signal()
        overlap = Signal()
        m.d.comb += [
            size.eq(
                malformed
                | sums["rows"].overflow
                | sums["terms"].overflow
                | sums["columns"].overflow
                | (sums["terms"].total > self.config.max_terms)
            ),
            outside.eq(
                ~in_memory["a"] | (~in_memory["b"] & b_used) | (~in_memory["o"] & self.memory)
            ),
            overlap.eq(
                self.memory
                & (
                    (registers.o_base <= a.total) & (registers.a_base <= o.total)
                    | (registers.o_base <= b.total) & (registers.b_base <= o.total) & b_used
                )
            ),
        ]
        with m.If(size):
            m.d.comb += self.fault.eq(Fault.SIZE)
        with m.Elif(outside):
            m.d.comb += self.fault.eq(Fault.RANGE)
        with m.Elif(overlap):
            m.d.comb += self.fault.eq(Fault.OVERLAP)
        with m.Else():
            m.d.comb += self.fault.eq(Fault.NONE)
