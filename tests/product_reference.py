"""What GEMM and ADD compute, word by word, from the address formulas: slow and obvious."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sw import activation
from sw.checks import IDENTITY_SHIFT_BITS, Gemm
from sw.isa import Destination, Flag, Function
from sw.registers import AMode, BMode, Register, ResultKind
from sw.scale import align_blocks

#: Terms of a block that has scales of its own.
BLOCK = 32
ACTIVATIONS = {f: f.name.lower() for f in Function}


@dataclass(frozen=True, slots=True)
class Scale:
    """An entry of the column parameters, or, without the bias, of the row parameters."""

    bias: int = 0
    shift: int = 0
    lift: int = 0


@dataclass(slots=True)
class Parameters:
    """Column parameters by (entry, column), row parameters by entry, and the table."""

    columns: dict[tuple[int, int], Scale] = field(default_factory=dict)
    rows: dict[int, Scale] = field(default_factory=dict)
    table: activation.Table | None = None


@dataclass(frozen=True, slots=True)
class Beat:
    """A row on the result stream."""

    kind: int
    last: bool
    values: tuple[int, ...]


class Product:
    """A GEMM on a memory.

    Parameters
    ----------
    gemm : Gemm
        One without a fault.
    memory : list of int
        Words; left as it is.
    parameters : Parameters
    """

    def __init__(self, gemm: Gemm, memory: list[int], parameters: Parameters) -> None:
        self.gemm, self.memory, self.parameters = gemm, memory, parameters
        self.config = gemm.config
        self.format = gemm.config.format
        self.registers: Mapping[Register, int] = gemm.registers

    def __getitem__(self, name: str) -> int:
        return self.registers[Register[name]]

    def run(self) -> tuple[list[int], list[Beat]]:
        """Memory after it and the rows on the stream."""
        memory, beats = list(self.memory), []
        destination = self.gemm.instruction.operands[0]
        places = list(self.places())
        for g, t, m in places:
            lanes = self.lanes(t)
            values = tuple(self.value(g, t, m, j) for j in range(lanes))
            if destination == Destination.MEMORY:
                y, x = divmod(m, self["MX"])
                start = self["O_BASE"] + g * self["O_G"] + t * self["O_N"]
                start += x * self["O_X"] + y * self["O_Y"]
                memory[start : start + lanes] = values
            else:
                exact = destination == Destination.EXACT
                kind = ResultKind.EXACT if exact else ResultKind.WORDS
                beats.append(Beat(kind, (g, t, m) == places[-1], values))
        return memory, beats

    def places(self) -> Iterator[tuple[int, int, int]]:
        """Batch, column tile and row of each row of results, in the order of the machine."""
        rows = self.config.rows
        for g in range(self["G"]):
            for first in range(0, self.gemm.rows, rows):
                for t in range(self["NT"]):
                    for m in range(first, min(first + rows, self.gemm.rows)):
                        yield g, t, m

    def lanes(self, t: int) -> int:
        return self.config.columns if t + 1 < self["NT"] else self["NL"]

    def value(self, g: int, t: int, m: int, j: int) -> int:
        """A word, or an exact accumulator."""
        destination, function, flags = self.gemm.instruction.operands
        terms = [self.term(g, t, m, j, k) for k in range(self.gemm.inner)]
        column, row = Scale(), Scale()
        if flags & Flag.BLOCK:
            accumulator, row, column = self.blocks(g, t, m, j, terms)
        else:
            accumulator = sum(terms)
            if flags & Flag.COLUMN:
                column = self.column(self["P_COLUMN"] + g * self["P_COLUMN_G"] + t, j)
            if flags & Flag.ROW:
                row = self.row(self["P_ROW"] + g * self["P_ROW_G"] + m)
        if destination == Destination.EXACT:
            return accumulator
        output = self.config.output if destination == Destination.STREAM else self.format
        return activation.drain(
            self.format,
            accumulator,
            row_shift=row.shift,
            column_shift=column.shift,
            bias=column.bias,
            bias_format=self.config.bias_format,
            activation=ACTIVATIONS[Function(function)],
            limit=self["CLAMP"],
            table=self.parameters.table,
            output=output,
        )

    def blocks(self, g: int, t: int, m: int, j: int, terms: list[int]) -> tuple[int, Scale, Scale]:
        sums = [sum(terms[k : k + BLOCK]) for k in range(0, len(terms), BLOCK)]
        number = len(sums)
        first_column = self["P_COLUMN"] + g * self["P_COLUMN_G"] + t * number
        first_row = self["P_ROW"] + g * self["P_ROW_G"] + m * number
        columns = [self.column(first_column + b, j) for b in range(number)]
        rows = [self.row(first_row + b) for b in range(number)]
        accumulator, row_shift, column_shift = align_blocks(
            sums,
            [rows[-1].shift - r.lift for r in rows],
            [columns[-1].shift - c.lift for c in columns],
            self.config.max_spread,
        )
        return accumulator, Scale(0, row_shift), Scale(columns[-1].bias, column_shift)

    def column(self, entry: int, j: int) -> Scale:
        return self.parameters.columns.get((entry % self.config.parameters, j), Scale())

    def row(self, entry: int) -> Scale:
        return self.parameters.rows.get(entry % self.config.row_parameters, Scale())

    def term(self, g: int, t: int, m: int, j: int, k: int) -> int:
        """One product, in units of ``2**-2F``."""
        rest, k0 = divmod(k, self["K0"])
        k2, k1 = divmod(rest, self["K1"])
        a = self["A_BASE"] + g * self["A_G"] + t * self["A_N"]
        a += k1 * self["A_K1"] + k2 * self["A_K2"]
        if self["A_MODE"] == AMode.LANES:
            y, x = divmod(m, self["MX"])
            a += x * self["A_X"] + y * self["A_Y"] + k0
        else:
            a += m + k0 * self["A_K0"]
        return self.format.operand(self.memory[a]) * self.b(g, t, j, (k0, k1, k2))

    def b(self, g: int, t: int, j: int, k: tuple[int, int, int]) -> int:
        """An operand of B, in units of ``2**-F``."""
        k0, k1, k2 = k
        if self.gemm.b_mode == BMode.IDENTITY:
            shift = self["B_K1" if k1 else "B_K0"] % (1 << IDENTITY_SHIFT_BITS)
            return (1 << self.format.fraction_bits) >> shift if k0 == j else 0
        b = self["B_BASE"] + g * self["B_G"] + t * self["B_N"]
        b += k1 * self["B_K1"] + k2 * self["B_K2"]
        if self.gemm.b_mode == BMode.LANES:
            b += j * self["B_X"] + k0
        else:
            b += j + k0 * self["B_K0"]
        return self.format.operand(self.memory[b])
