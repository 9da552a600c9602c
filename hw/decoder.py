"""The instruction decoder: from a word to an opcode and its operands."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from sw.config import MachineConfig
from sw.isa import FIELD_BITS, INSTRUCTIONS, WORD_BITS, Opcode, Operand, Undefined

#: The operand fields of all instructions by name; a name has one place in the word.
OPERANDS: Final[dict[str, Operand]] = {
    operand.name: operand
    for definition in INSTRUCTIONS.values()
    for operand in definition.operands
    if operand.width
}


def decoded_layout() -> data.StructLayout:
    """An instruction word taken apart.

    ``lines``: one bit per opcode, 16 of them, exactly one is 1. ``defined``: whether the machine
    has such an instruction. Then each operand by its name, with sizes of 1 to 16 as they are.
    """
    operands = {name: operand.high.bit_length() for name, operand in OPERANDS.items()}
    return data.StructLayout({"lines": 1 << FIELD_BITS, "defined": 1, **operands})


class Decoder(wiring.Component):
    """Decodes by the table of ``sw.isa``. Combinational, latency 0.

    Parameters
    ----------
    config : MachineConfig
        Its extensions decide which words are defined.

    Members
    -------
    word : In(16)
    decoded : Out(decoded_layout())
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({"word": In(WORD_BITS), "decoded": Out(decoded_layout())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        opcode = self.word[-FIELD_BITS:]
        m.d.comb += self.decoded.lines.eq(Cat(opcode == i for i in range(1 << FIELD_BITS)))
        for name, operand in OPERANDS.items():
            field = self.word.bit_select(operand.offset, operand.width)
            m.d.comb += self.decoded[name].eq(
                Mux(field == 0, operand.high, field) if operand.low else field
            )
        with m.Switch(opcode):
            for definition in INSTRUCTIONS.values():
                with m.Case(definition.opcode):
                    m.d.comb += self.decoded.defined.eq(self._is_defined(m, definition.opcode))
        return m

    def _is_defined(self, m: Module, opcode: Opcode) -> Value:
        """Whether a word of this opcode is in the table."""
        definition = INSTRUCTIONS[opcode]
        unused = [i for i in range(WORD_BITS) if not definition.used_mask >> i & 1]
        in_range = [
            self.word.bit_select(o.offset, o.width) <= o.high
            for o in definition.operands
            if not o.low and o.high < (1 << o.width) - 1
        ]
        excluded = Signal(name=f"{opcode.name.lower()}_excluded")
        patterns = [_pattern(u) for u in definition.undefined if not self._supports(u)]
        if patterns:
            with m.Switch(self.word), m.Case(*patterns):
                m.d.comb += excluded.eq(1)
        return ~Cat(self.word[i] for i in unused).any() & Cat(in_range).all() & ~excluded

    def _supports(self, undefined: Undefined) -> bool:
        return bool(undefined.unless) and bool(getattr(self.config, undefined.unless))


def _pattern(undefined: Undefined) -> str:
    """The words as a pattern of bits, highest first, ``-`` for any."""
    return "".join(
        str(undefined.match >> i & 1) if undefined.mask >> i & 1 else "-"
        for i in reversed(range(WORD_BITS))
    )
