"""What serial control takes to check a GEMM or ADD, up to the fault that it finds."""

from __future__ import annotations

from typing import Final

from sw.checks import IDENTITY_SHIFT_BITS, Gemm
from sw.config import COUNT_BITS
from sw.isa import Destination, Fault, Flag, Function, Opcode
from sw.registers import AMode, BMode, Register
from sw.serial_timing import WORDS, multiply

#: ``product`` to ``defined``: b_mode, function, destination, and what ends it.
_B_MODE, _FUNCTION, _DESTINATION = 3, 12, 14
#: ``counts``: up to the count that is 0, and all of a turn.
_COUNT, _COUNTED = 4, 9
#: ``span`` with its operands and call, but for the product and a carry.
_SPAN, _SPAN_CARRY = 15, 2
#: ``in_memory`` with its call.
_IN_MEMORY: Final = 9


class SerialChecks:
    """The checks of one GEMM or ADD.

    Parameters
    ----------
    gemm : Gemm

    Attributes
    ----------
    steps : int
        From the first of the opcode's own to ``checked``, or to the jump that ends it.
    fault : Fault
        Why it ended, NONE if it did not.
    """

    def __init__(self, gemm: Gemm) -> None:
        self._gemm = gemm
        self._overflow = False
        self._extent = 0
        self.steps = 0
        self.fault = self._encoding() or self._sizes() or self._extents()

    def _encoding(self) -> Fault:
        gemm = self._gemm
        adds = gemm.instruction.opcode == Opcode.ADD
        destination, function, _ = gemm.instruction.operands
        self.steps += 3
        if gemm.flags & (Flag.BLOCK | (Flag.SKIP if adds else 0)):
            return Fault.ENCODING
        self.steps += 1 + adds + _B_MODE
        if gemm.b_mode not in tuple(BMode):
            return Fault.ENCODING
        self.steps += _FUNCTION
        if function >= Function.TABLE:
            return Fault.ENCODING
        self.steps += _DESTINATION
        if destination > Destination.EXACT:
            return Fault.ENCODING
        if destination == Destination.EXACT:
            self.steps += 2
            if function != Function.LINEAR:
                return Fault.ENCODING
        self.steps += 2
        return Fault.NONE if gemm.config.unity else self._identity()

    def _identity(self) -> Fault:
        """``2**0`` is no word where all ones is not 1."""
        gemm, mask = self._gemm, (1 << IDENTITY_SHIFT_BITS) - 1
        self.steps += 3
        if gemm.b_mode != BMode.IDENTITY:
            return Fault.NONE
        self.steps += 3
        if not gemm[Register.B_K0] & mask:
            return Fault.ENCODING
        self.steps += 3
        if gemm[Register.K1] == 1:
            return Fault.NONE
        self.steps += 1
        if gemm[Register.K1] == 0:
            return Fault.NONE
        self.steps += 3
        return Fault.NONE if gemm[Register.B_K1] & mask else Fault.ENCODING

    def _sizes(self) -> Fault:
        gemm, config = self._gemm, self._gemm.config
        self.steps += 3
        for register in Register:
            if register > Register.G:
                break
            if gemm[register] == 0:
                self.steps += _COUNT
                return Fault.SIZE
            self.steps += _COUNTED
        self.steps += 3
        if gemm[Register.NL] > config.columns:
            return Fault.SIZE
        inner = self._product(gemm[Register.K0], gemm[Register.K1])
        terms = self._product(inner, gemm[Register.K2])
        columns = self._product(config.columns, gemm[Register.NT] - 1)
        self.steps += 5 + 5 + 2 + 6 + 3
        if columns + gemm[Register.NL] >= WORDS:
            return Fault.SIZE
        self._rows = self._product(gemm[Register.MX], gemm[Register.MY])
        self.steps += 5 + 2 + 2
        if self._overflow:
            return Fault.SIZE
        self.steps += 3
        return Fault.SIZE if terms > min(config.max_terms, (1 << COUNT_BITS) - 1) else Fault.NONE

    def _extents(self) -> Fault:
        gemm = self._gemm
        self.steps += 5
        if gemm[Register.NT] == 1:
            self.steps += 3 + (0 if gemm.flags & Flag.SKIP else 2)
        a_end = self._extent_of_a()
        if a_end is None:
            return Fault.RANGE
        self.steps += 3
        b_end = -1
        if gemm.b_mode != BMode.IDENTITY:
            found = self._extent_of_b()
            if found is None:
                return Fault.RANGE
            b_end = found
        self.steps += 2
        if gemm.instruction.operands[0] != Destination.MEMORY:
            return Fault.NONE
        o_end = self._extent_of_o()
        if o_end is None:
            return Fault.RANGE
        return self._overlap(a_end, b_end, o_end)

    def _extent_of_a(self) -> int | None:
        gemm = self._gemm
        self._begin("A")
        self.steps += 2
        if gemm[Register.A_MODE] == AMode.LANES:
            self._span(gemm[Register.A_X], gemm[Register.MX])
            self._span(gemm[Register.A_Y], gemm[Register.MY])
            self._span(1, gemm[Register.K0])
            self.steps += 1
        else:
            self._span(1, self._rows)
            self._span(gemm[Register.A_K0], gemm[Register.K0])
        return self._in_memory()

    def _extent_of_b(self) -> int | None:
        gemm = self._gemm
        self._begin("B")
        self.steps += 2
        if gemm.b_mode == BMode.SLICES:
            self._span(1, gemm.widest_tile)
            self._span(gemm[Register.B_K0], gemm[Register.K0])
            self.steps += 1
        else:
            self._span(gemm[Register.B_X], gemm.widest_tile)
            self._span(1, gemm[Register.K0])
        return self._in_memory()

    def _extent_of_o(self) -> int | None:
        gemm = self._gemm
        self._extent = gemm[Register.O_BASE]
        self.steps += 2
        for count, stride in (("MX", "O_X"), ("MY", "O_Y"), ("NT", "O_N"), ("G", "O_G")):
            self._span(gemm[Register[stride]], gemm[Register[count]])
        self._span(1, gemm.widest_tile)
        return self._in_memory()

    def _overlap(self, a_end: int, b_end: int, o_end: int) -> Fault:
        gemm = self._gemm
        self.steps += 3
        if a_end >= gemm[Register.O_BASE]:
            self.steps += 3
            if o_end >= gemm[Register.A_BASE]:
                return Fault.OVERLAP
        self.steps += 3
        if gemm.b_mode == BMode.IDENTITY:
            return Fault.NONE
        self.steps += 3
        if b_end < gemm[Register.O_BASE]:
            return Fault.NONE
        self.steps += 3
        if o_end >= gemm[Register.B_BASE]:
            return Fault.OVERLAP
        self.steps += 1
        return Fault.NONE

    # The microcode's subroutines

    def _begin(self, side: str) -> None:
        """An operand's base, and the spans of its outer counts."""
        self._extent = self._gemm[Register[f"{side}_BASE"]]
        self.steps += 2
        for count, stride in (("K1", "K1"), ("K2", "K2"), ("NT", "N"), ("G", "G")):
            self._span(self._gemm[Register[f"{side}_{stride}"]], self._gemm[Register[count]])

    def _product(self, factor: int, times: int) -> int:
        found = multiply(factor, times)
        self.steps += found.steps
        self._overflow |= found.overflow
        return found.value

    def _span(self, stride: int, count: int) -> None:
        self.steps += _SPAN
        self._extent += self._product(stride, count - 1)
        if self._extent >= WORDS:
            self._extent %= WORDS
            self._overflow = True
            self.steps += _SPAN_CARRY

    def _in_memory(self) -> int | None:
        """The extent; None if it leaves memory."""
        if self._overflow:
            self.steps += 4
            return None
        if self._extent >= self._gemm.config.memory_words:
            self.steps += 7
            return None
        self.steps += _IN_MEMORY + 1
        return self._extent
