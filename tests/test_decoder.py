"""The instruction decoder and the register file against the tables."""

from __future__ import annotations

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hw.decoder import Decoder
from hw.host_port import divide
from hw.registers import RegisterFile
from sw.config import MachineConfig
from sw.isa import INSTRUCTIONS, WORD_BITS, decode
from sw.registers import REGISTERS, BMode, Register

PLAIN = MachineConfig()
FULL = MachineConfig(bits=8, rows=2, columns=3, blocks=True, table=True)


@pytest.mark.parametrize("config", [PLAIN, FULL], ids=["plain", "full"])
def test_every_word_decodes_as_in_the_table(config: MachineConfig) -> None:
    decoder = Decoder(config)

    async def bench(context: object) -> None:
        for word in range(0, 1 << WORD_BITS):
            low = word & 0xFFF
            # Every word of the extensions, and of the others those with at most a nibble set.
            if not 7 <= word >> 12 <= 9 and low & low - 1 and low & 0xF0F and low & 0x0FF:
                continue
            context.set(decoder.word, word)
            want = decode(word, 0, config)
            got = context.get(decoder.decoded)
            assert got["lines"] == 1 << (word >> 12)
            assert got["defined"] == (want is not None), f"{word:04x}"
            if want is None:
                continue
            for operand, value in zip(
                INSTRUCTIONS[want.opcode].operands, want.operands, strict=True
            ):
                if operand.width:
                    assert got[operand.name] == value, f"{word:04x} {operand.name}"

    simulate(decoder, bench)


def test_registers_keep_what_fits_and_return_to_their_defaults() -> None:
    file = RegisterFile(FULL)

    async def bench(context: object) -> None:
        for _ in range(2):
            for register, definition in REGISTERS.items():
                kind = definition.kind
                name, limit = register.name.lower(), 1 << kind.width(FULL)
                assert context.get(file.registers)[name] == kind.default(FULL), name
                for value, fits in ((limit - 1, 1), (limit, 0), (1 << 31, 0)):
                    fields = {"enable": 0, "number": register, "value": value}
                    context.set(file.set, fields)
                    await context.tick()
                    assert context.get(file.fits) == fits, name
                context.set(file.set, {"enable": 1, "number": register, "value": limit - 1})
                await context.tick()
                context.set(file.set, {"enable": 0, "number": register, "value": 0})
                await context.tick()
                assert context.get(file.registers)[name] == limit - 1
            context.set(file.set, {"enable": 0, "number": 0, "value": 0})
            context.set(file.identity, 1)
            assert context.get(file.registers.b_mode) == BMode.IDENTITY
            context.set(file.identity, 0)
            context.set(file.clear, 1)
            await context.tick()
            context.set(file.clear, 0)

    simulate(file, bench, clocked=True)


def test_undefined_register_fits_nothing() -> None:
    file = RegisterFile(FULL)

    async def bench(context: object) -> None:
        for number in range(256):
            context.set(file.set, {"enable": 0, "number": number, "value": 0})
            await context.tick()
            assert context.get(file.fits) == (number in list(Register))

    simulate(file, bench, clocked=True)


class Divider(wiring.Component):
    def __init__(self, divisor: int) -> None:
        self.divisor = divisor
        super().__init__({"i": In(9), "quotient": Out(9), "remainder": Out(6)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        quotient, remainder = divide(self.i, self.divisor)
        m.d.comb += [self.quotient.eq(quotient), self.remainder.eq(remainder)]
        return m


@pytest.mark.parametrize("divisor", range(1, 33))
def test_division_by_a_constant_is_exact(divisor: int) -> None:
    divider = Divider(divisor)

    async def bench(context: object) -> None:
        for value in range(1 << 9):
            context.set(divider.i, value)
            got = context.get(divider.quotient), context.get(divider.remainder)
            assert got == divmod(value, divisor)

    simulate(divider, bench)


def simulate(component: wiring.Component, bench: object, clocked: bool = False) -> None:
    simulator = Simulator(component)
    if clocked:
        simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
