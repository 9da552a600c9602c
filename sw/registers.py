"""What a program and its host see of the machine's state: registers, counters, spaces, beats."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from sw.config import COUNT_BITS, MachineConfig


class Register(IntEnum):
    """What SET writes, by number."""

    MX = 0
    MY = 1
    K0 = 2
    K1 = 3
    K2 = 4
    NT = 5
    NL = 6
    G = 7
    A_BASE = 8
    A_X = 9
    A_Y = 10
    A_K0 = 11
    A_K1 = 12
    A_K2 = 13
    A_N = 14
    A_G = 15
    B_BASE = 16
    B_X = 17
    B_K0 = 19
    B_K1 = 20
    B_K2 = 21
    B_N = 22
    B_G = 23
    O_BASE = 24
    O_X = 25
    O_Y = 26
    O_N = 27
    O_G = 28
    P_COLUMN = 32
    P_COLUMN_G = 33
    P_ROW = 34
    P_ROW_G = 35
    CLAMP = 36
    A_MODE = 40
    B_MODE = 41
    TILE_BASE = 42


class Kind(Enum):
    """What a register holds, which decides its width and what it holds as a program starts."""

    COUNT = "count"
    LAST_COLUMNS = "count of the last tile's columns"
    ADDRESS = "address or stride"
    INDEX = "index"
    WORD = "word"
    A_MODE = "mode of A"
    B_MODE = "mode of B"

    def width(self, config: MachineConfig) -> int:
        """Bits of a register of this kind."""
        widths = {
            Kind.ADDRESS: config.address_bits,
            Kind.WORD: config.bits,
            Kind.A_MODE: 1,
            Kind.B_MODE: 2,
        }
        return widths.get(self, COUNT_BITS)

    def default(self, config: MachineConfig) -> int:
        """What a register of this kind holds after reset and as a program starts."""
        return {Kind.COUNT: 1, Kind.LAST_COLUMNS: config.columns}.get(self, 0)


@dataclass(frozen=True, slots=True)
class RegisterDefinition:
    """What a register holds and what for."""

    register: Register
    kind: Kind
    meaning: str


_STEP = "added to the address of {} for the next {}"
REGISTERS: Final[dict[Register, RegisterDefinition]] = {
    register: RegisterDefinition(register, kind, meaning)
    for register, kind, meaning in (
        (Register.MX, Kind.COUNT, "output rows along x; M = MX * MY, x fastest"),
        (Register.MY, Kind.COUNT, "output rows along y"),
        (Register.K0, Kind.COUNT, "inner count of the sum; K = K0 * K1 * K2, k0 fastest"),
        (Register.K1, Kind.COUNT, "middle count of the sum"),
        (Register.K2, Kind.COUNT, "outer count of the sum"),
        (Register.NT, Kind.COUNT, "column tiles; N = (NT - 1) * columns + NL"),
        (Register.NL, Kind.LAST_COLUMNS, "columns of the last column tile"),
        (Register.G, Kind.COUNT, "batches"),
        (Register.A_BASE, Kind.ADDRESS, "address of A"),
        (Register.A_X, Kind.ADDRESS, _STEP.format("A", "x (A_MODE 0)")),
        (Register.A_Y, Kind.ADDRESS, _STEP.format("A", "y (A_MODE 0)")),
        (Register.A_K0, Kind.ADDRESS, _STEP.format("A", "k0 (A_MODE 1; else 1)")),
        (Register.A_K1, Kind.ADDRESS, _STEP.format("A", "k1")),
        (Register.A_K2, Kind.ADDRESS, _STEP.format("A", "k2")),
        (Register.A_N, Kind.ADDRESS, _STEP.format("A", "column tile")),
        (Register.A_G, Kind.ADDRESS, _STEP.format("A", "batch")),
        (Register.B_BASE, Kind.ADDRESS, "address of B"),
        (Register.B_X, Kind.ADDRESS, _STEP.format("B", "column (B_MODE 1; else 1)")),
        (
            Register.B_K0,
            Kind.ADDRESS,
            _STEP.format("B", "k0 (B_MODE 0; 1 in B_MODE 1); in B_MODE 2 the shift where k1 = 0"),
        ),
        (
            Register.B_K1,
            Kind.ADDRESS,
            _STEP.format("B", "k1; in B_MODE 2 the shift where k1 > 0"),
        ),
        (Register.B_K2, Kind.ADDRESS, _STEP.format("B", "k2")),
        (Register.B_N, Kind.ADDRESS, _STEP.format("B", "column tile")),
        (Register.B_G, Kind.ADDRESS, _STEP.format("B", "batch")),
        (Register.O_BASE, Kind.ADDRESS, "address of the output"),
        (Register.O_X, Kind.ADDRESS, _STEP.format("the output", "x")),
        (Register.O_Y, Kind.ADDRESS, _STEP.format("the output", "y")),
        (Register.O_N, Kind.ADDRESS, _STEP.format("the output", "column tile")),
        (Register.O_G, Kind.ADDRESS, _STEP.format("the output", "batch")),
        (Register.P_COLUMN, Kind.INDEX, "first column parameter entry"),
        (Register.P_COLUMN_G, Kind.INDEX, "column parameter entries from one batch to the next"),
        (Register.P_ROW, Kind.INDEX, "first row parameter entry"),
        (Register.P_ROW_G, Kind.INDEX, "row parameter entries from one batch to the next"),
        (Register.CLAMP, Kind.WORD, "largest word of the activation clamp"),
        (
            Register.A_MODE,
            Kind.A_MODE,
            "0: in lanes (k0 contiguous), 1: in slices (m contiguous)",
        ),
        (
            Register.B_MODE,
            Kind.B_MODE,
            "0: in slices (columns contiguous), 1: in lanes (k0 contiguous), 2: identity",
        ),
        (Register.TILE_BASE, Kind.INDEX, "added to the tile slot of LDR, LDC and STR"),
    )
}


class AMode(IntEnum):
    """How A lies in memory, as A_MODE names it."""

    LANES = 0
    SLICES = 1


class BMode(IntEnum):
    """How B lies in memory, as B_MODE names it."""

    SLICES = 0
    LANES = 1
    IDENTITY = 2


class Counter(IntEnum):
    """The performance counters, by number."""

    CYCLES = 0
    MATMUL_CYCLES = 1
    COMPUTE_CYCLES = 2
    MACS = 3
    SLICES = 4
    SKIPPED_SLICES = 5
    STALL_A = 6
    STALL_B = 7
    STALL_DRAIN = 8
    STALL_RESULTS = 9
    ZERO_OPERANDS = 10
    HELD_OPERANDS = 11
    UNITY_OPERANDS = 12
    INSTRUCTIONS = 13
    WORDS_WRITTEN = 14


#: The counters that a machine has, by its ``counters``; the others read 0.
COUNTED: Final[dict[str, frozenset[Counter]]] = {
    "all": frozenset(Counter),
    "cycles": frozenset({Counter.CYCLES}),
    "none": frozenset(),
}
#: Bits of a performance counter.
COUNTER_BITS: Final = 48
COUNTER_MEANINGS: Final[dict[Counter, str]] = {
    Counter.CYCLES: "from the first instruction word taken to the status offered",
    Counter.MATMUL_CYCLES: "M + K + N - 2 of the last MATMUL",
    Counter.COMPUTE_CYCLES: "from a GEMM's first load to its last result, summed over GEMMs",
    Counter.MACS: "products accumulated: lanes of A times lanes of B, summed over slices",
    Counter.SLICES: "slices that entered the array",
    Counter.SKIPPED_SLICES: "slices of zeros that cost no cycle of the array",
    Counter.STALL_A: "cycles in which a slice was wanted and A had none",
    Counter.STALL_B: "cycles in which a slice was wanted and B had none",
    Counter.STALL_DRAIN: "cycles in which a tile's end waited for the tile before to drain",
    Counter.STALL_RESULTS: "cycles in which a tile's end waited for room for its results",
    Counter.ZERO_OPERANDS: "words that were zero among those that entered the array",
    Counter.HELD_OPERANDS: "zero words whose lane held its last operand instead",
    Counter.UNITY_OPERANDS: "words that were unity among those that entered the array",
    Counter.INSTRUCTIONS: "instructions that took effect",
    Counter.WORDS_WRITTEN: "words written to tile memory by STR, GEMM and ADD",
}


class Space(IntEnum):
    """What the host port addresses."""

    TILES = 0
    COLUMN_PARAMETERS = 1
    ROW_PARAMETERS = 2
    TABLE = 3
    COUNTERS = 4


class ResultKind(IntEnum):
    """What a beat of the result stream carries."""

    WORDS = 0
    EXACT = 1
    READ = 2
