"""What an instruction finds in the buffers, and the faults that follow."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Const, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.decoder import decoded_layout
from hw.machine_registers import registers_layout
from sw.config import COUNT_BITS, MachineConfig
from sw.isa import MAX_SIZE, Fault, Flag, Opcode
from sw.registers import BMode

SIZE_BITS: Final = MAX_SIZE.bit_length()
#: Bits of the shift that an identity B takes from a stride.
IDENTITY_SHIFT_BITS: Final = 4
_SHAPE: Final = data.StructLayout({"valid": 1, "rows": SIZE_BITS, "columns": SIZE_BITS})


def job_layout(config: MachineConfig) -> data.StructLayout:
    """What a base instruction works on.

    ``rows``, ``columns``: of the tile, or M and N of the product; ``terms``: K of a MATMUL;
    ``address``: of the tile's first word.
    """
    sizes = dict.fromkeys(("rows", "columns", "terms"), SIZE_BITS)
    return data.StructLayout({**sizes, "address": config.address_bits})


class InstructionCheck(wiring.Component):
    """Keeps the shapes in the buffers and finds an instruction's fault, sizes of GEMM excepted.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    decoded : In(decoded_layout())
    registers : In(registers_layout(config))
    clear : In(1)
        Empties all buffers.
    take : In(1)
        The instruction takes effect: shapes and ``job`` follow it from the next cycle on.
    fault : Out(Fault)
        Of the instruction, combinational; NONE if it may take effect.
    job : Out(job_layout(config))
        Of the last instruction taken.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "decoded": In(decoded_layout()),
                "registers": In(registers_layout(config)),
                "clear": In(1),
                "take": In(1),
                "fault": Out(Fault),
                "job": Out(job_layout(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shapes = [
            Signal(_SHAPE, name=name)
            for name in ("row_buffer", "column_buffer", "output", "activation")
        ]
        self._find_fault(m, *shapes)
        with m.If(self.take):
            self._follow(m, *shapes)
        with m.If(self.clear):
            m.d.sync += [shape.valid.eq(0) for shape in shapes]
        return m

    def _line(self, *opcodes: Opcode) -> Value:
        found: Value = Const(0, 1)
        for opcode in opcodes:
            found |= self.decoded.lines[opcode]
        return found

    def _slot(self) -> Value:
        return self.decoded.addr + self.registers.tile_base

    def _find_fault(self, m: Module, row: Value, column: Value, output: Value, kept: Value) -> None:
        decoded, config = self.decoded, self.config
        tile = self._line(Opcode.LDR, Opcode.LDC, Opcode.STR)
        matmul, product = self._line(Opcode.MATMUL), self._line(Opcode.GEMM, Opcode.ADD)
        stored = kept.valid & (kept.rows == decoded.row) & (kept.columns == decoded.col)
        too_large = (decoded.row > config.rows) | (decoded.col > config.columns)
        for fault, applies in reversed(
            (
                (Fault.ENCODING, ~decoded.defined | (product & self._is_undefined())),
                (Fault.SIZE, tile & too_large),
                (Fault.EMPTY_BUFFER, matmul & ~(row.valid & column.valid)),
                (Fault.INNER_SIZE, matmul & (row.columns != column.rows)),
                (Fault.NO_RESULT, self._line(Opcode.RELU, Opcode.LIN) & ~output.valid),
                (Fault.STORE_SHAPE, self._line(Opcode.STR) & ~stored),
                (Fault.RANGE, tile & (self._slot() >= config.slots)),
            )
        ):
            with m.If(applies):
                m.d.comb += self.fault.eq(fault)

    def _is_undefined(self) -> Value:
        """Whether registers name a mode that there is not, or that another forbids."""
        registers = self.registers
        block = self.decoded.flags[Flag.BLOCK.bit_length() - 1]
        undefined = (registers.b_mode > max(BMode)) | (
            block & ((registers.k1 != 1) | (registers.k2 != 1))
        )
        if not self.config.unity:  # 2**0 is no word
            first = ~registers.b_k0[:IDENTITY_SHIFT_BITS].any()
            second = ~registers.b_k1[:IDENTITY_SHIFT_BITS].any() & (registers.k1 > 1)
            undefined |= (registers.b_mode == BMode.IDENTITY) & (first | second)
        return undefined

    def _follow(self, m: Module, row: Value, column: Value, output: Value, kept: Value) -> None:
        decoded, job = self.decoded, self.job
        m.d.sync += [
            job.rows.eq(decoded.row),
            job.columns.eq(decoded.col),
            job.address.eq(self._slot()[:COUNT_BITS] * self.config.slot_words),
        ]
        for opcode, shape in ((Opcode.LDR, row), (Opcode.LDC, column)):
            with m.If(self._line(opcode)):
                m.d.sync += _set(shape, decoded.row, decoded.col)
        with m.If(self._line(Opcode.MATMUL)):
            m.d.sync += [
                job.rows.eq(row.rows),
                job.columns.eq(column.columns),
                job.terms.eq(row.columns),
                *_set(output, row.rows, column.columns),
            ]
        with m.If(self._line(Opcode.RELU, Opcode.LIN)):
            m.d.sync += [job.rows.eq(output.rows), job.columns.eq(output.columns), kept.eq(output)]
        with m.If(self._line(Opcode.MATMUL, Opcode.GEMM, Opcode.ADD)):
            m.d.sync += [row.valid.eq(0), column.valid.eq(0)]
        with m.If(self._line(Opcode.GEMM, Opcode.ADD)):
            m.d.sync += output.valid.eq(0)


def _set(shape: Value, rows: Value, columns: Value) -> list[Value]:
    return [shape.valid.eq(1), shape.rows.eq(rows), shape.columns.eq(columns)]
