"""The serial control's microcode for one machine: constants, data, and the text put together."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Shape

from hw.operand_feed import DEPTH, LANE_BITS
from hw.serial_assembly import DataMap, Flags, assemble
from hw.serial_checks import CHECKS
from hw.serial_gemm import GEMM
from hw.serial_instructions import HOST, INSTRUCTIONS
from hw.tile_record import index_bits
from sw.config import COUNT_BITS, MachineConfig
from sw.isa import FIELD_BITS, Destination, Fault, Flag, Function, Opcode
from sw.registers import REGISTERS, BMode, Counter, Register, ResultKind, Space

#: Registers that the tables have room for, at the numbers of the instruction set.
_REGISTERS: Final = 64
#: In the place of a register's limit: there is none.
_NO_REGISTER: Final = 0xFFFF
#: The first bit that GO looks at besides the number of slices.
_FIRST: Final = 0x8000
#: Where each opcode's microcode begins.
_ENTRIES: Final = {
    Opcode.NOP: "nothing",
    Opcode.STR: "store_tile",
    Opcode.LDR: "load_rows",
    Opcode.LDC: "load_columns",
    Opcode.MATMUL: "matmul",
    Opcode.RELU: "drain_relu",
    Opcode.LIN: "drain_linear",
    Opcode.SET: "set_register",
    Opcode.GEMM: "gemm",
    Opcode.ADD: "add_tiles",
    Opcode.FENCE: "nothing",
    Opcode.HALT: "halt",
}
#: What each function's activation is called.
_ACTIVATIONS: Final = {
    Function.LINEAR: "linear",
    Function.RELU: "relu",
    Function.CLAMP: "clamp",
}


class Microcode:
    """What both memories of the processor hold at power-up.

    Parameters
    ----------
    config : MachineConfig
    sum_delay : int
        Of the operand feed.

    Attributes
    ----------
    words : list of int
    data : DataMap
        The registers lie at their numbers.
    """

    def __init__(self, config: MachineConfig, sum_delay: int) -> None:
        self.config = config
        self.data = DataMap()
        self._allocate()
        text = HOST + INSTRUCTIONS + CHECKS + GEMM
        self.words, labels = assemble(text, self.data, self._numbers(sum_delay))
        table = self.data.addresses["opcodes"]
        for opcode in range(1 << FIELD_BITS):
            label = _ENTRIES.get(opcode, "encoding")  # type: ignore[call-overload]
            self.data.init[table + opcode] = labels[label]
        for function, label in _ACTIVATIONS.items():
            self.data.init[self.data.addresses["activations"] + function] = labels[label]

    def _allocate(self) -> None:
        """Registers and tables; the instruction set's numbers are addresses."""
        data, config = self.data, self.config
        names = {register.value: register.name for register in Register}
        for number in range(_REGISTERS):
            data.allocate(names.get(number, f"register_{number}"))
        kinds = {register: definition.kind for register, definition in REGISTERS.items()}
        defaults, limits = [0] * _REGISTERS, [_NO_REGISTER] * _REGISTERS
        for register, kind in kinds.items():
            defaults[register] = kind.default(config)
            limits[register] = -1 << kind.width(config) & 0xFFFF
        data.allocate("defaults", defaults)
        data.allocate("limits", limits)
        data.allocate("opcodes", 1 << FIELD_BITS)
        data.allocate("activations", len(_ACTIVATIONS))
        data.allocate("powers", self._powers())
        data.allocate("row_offsets", config.rows)
        data.allocate("output_offsets", config.rows)
        data.allocate("column_offsets", config.columns)
        data.allocate("activation", config.slot_words)
        data.allocate("columns", config.parameters * config.columns)
        if config.wide_bias:
            data.allocate("column_shifts", config.parameters * config.columns)
        data.allocate("rows", config.row_parameters)

    def _powers(self) -> list[int]:
        """``2**-S`` by S, as words."""
        fraction_bits = self.config.format.fraction_bits
        smaller = [1 << fraction_bits - s if s <= fraction_bits else 0 for s in range(1, 16)]
        return [self.config.format.max_code, *smaller]

    def _numbers(self, sum_delay: int) -> dict[str, int]:
        """What the microcode's constants are called."""
        config = self.config
        entries = config.parameters * config.columns
        return {
            **{f"F_{flag.name}": flag.value for flag in Flags},
            **{fault.name: fault.value for fault in Fault},
            **{flag.name: flag.value for flag in (Flag.SKIP, Flag.COLUMN, Flag.ROW)},
            "FLAGS": (1 << FIELD_BITS) - 1,
            "TABLE_FUNCTION": Function.TABLE,
            "EXACT": Destination.EXACT,
            "IDENTITY": BMode.IDENTITY,
            "COUNTERS": Space.COUNTERS,
            "COUNTER_NUMBERS": (1 << Shape.cast(Counter).width) - 1,
            "CYCLES": Counter.CYCLES,
            "WIDE_BIAS": int(config.wide_bias),
            "BEHIND_BIAS": entries,
            # No machine of this kind has block scales; ADD does not skip.
            "GEMM_UNDEFINED": Flag.BLOCK,
            "ADD_UNDEFINED": Flag.BLOCK | Flag.SKIP,
            "WORDS": config.memory_words,
            "LAST_WORD": config.memory_words - 1,
            "LAST_SLOT": config.slots - 1,
            "SLOT_WORDS": config.slot_words,
            "ROWS": config.rows,
            "COLUMNS": config.columns,
            "COUNTS": Register.G + 1,
            "MOST_TERMS": min(config.max_terms, (1 << COUNT_BITS) - 1),
            "UNITY": int(config.unity),
            "SIGN": config.format.sign_bit,
            "REGISTERS": _REGISTERS,
            "NO_REGISTER": _NO_REGISTER,
            "COLUMN_MASK": (1 << index_bits(entries)) - 1,
            "COLUMN_ENTRIES": entries,
            "COLUMN_ENTRY_MASK": config.parameters - 1,
            "ROW_MASK": config.row_parameters - 1,
            "COUNT_MASK": (1 << index_bits(config.columns)) - 1 << 3,
            "READ_BEAT": ResultKind.READ | 1 << 2 | 1 << 3,
            "LAST": 1 << 2,
            "SIDE_B": 1 << LANE_BITS,
            "FIRST": _FIRST,
            "DEPTH": DEPTH,
            "SUM_DELAY": sum_delay,
        }
