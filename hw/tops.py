"""The tops: every unit that is emitted by name, its options and the meaning of its ports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from amaranth.lib import wiring

from hw.activation import ActivationUnit
from hw.convert import Binary16ToSFx, Binary32ToSFx, SFxToBinary32
from hw.coprocessor import Coprocessor
from hw.cycle_count import CycleCount
from hw.detect import UnityDetector, ZeroDetector
from hw.drain import Drain
from hw.encoder import check_rounding
from hw.fma import FusedMultiplyAdd, FusedMultiplyAddStream
from hw.mac import MultiplyAccumulate
from hw.machine import make_machine
from hw.multiplier import AUTO, check_multiplier, check_target, make_multiplier, table_entry
from hw.operand_hold import OperandHold
from hw.product import WordProduct
from hw.shift_register import ShiftRegister
from sw.config import MachineConfig
from sw.format import MAX_BITS, MAX_TERMS, MIN_BITS, Rounding, SFx

#: Largest accepted number of lanes, words or terms: far beyond any part that can be bought.
_MAX_COUNT: Final = 1 << 32
_MACHINE: Final = MachineConfig()
#: Fields of MachineConfig that the top of the machine takes.
MACHINE: Final = (
    *("bits", "unity", "multiplier", "rows", "columns", "max_terms", "output_bits"),
    *("bias_bits", "slots", "parameters", "row_parameters", "blocks", "table", "hold"),
    *("skipping", "wide", "counters", "control"),
)


@dataclass(frozen=True, slots=True)
class Options:
    """What a top may be built with. Each top takes some of them: see :attr:`Top.options`.

    Parameters
    ----------
    bits : int
        x, bits of a word, 3 to 16.
    unity : bool
        Whether all ones means 1.
    rounding : {"nearest", "truncate"}
    multiplier : {"array", "dadda", "chain", "operator", "auto"}
    target : {"generic", "ecp5", "ice40", "osu018"}
    rows, columns : int
        Lanes or size of an array, at least 1.
    depth : int
        Words per lane of a shift register, at least 1.
    size_bits : int
        Bits of a matrix size, 1 to 32.
    max_terms : int
        K_max, at least 2.
    output_bits, bias_bits : int, optional
        Bits of a drain's result and of its bias, 3 to 16; ``bits`` if omitted.
    slots, parameters, row_parameters, blocks, table, hold, skipping, wide, counters, control
        Of the machine, as in MachineConfig.

    Raises
    ------
    ValueError
        If an option is out of range.
    TypeError
        If a number is not an integer.
    """

    bits: int = 8
    unity: bool = True
    rounding: Rounding = "nearest"
    multiplier: str = AUTO
    target: str = "generic"
    rows: int = 8
    columns: int = 8
    depth: int = 8
    size_bits: int = 4
    max_terms: int = MAX_TERMS
    output_bits: int | None = None
    bias_bits: int | None = None
    slots: int = _MACHINE.slots
    parameters: int = _MACHINE.parameters
    row_parameters: int = _MACHINE.row_parameters
    blocks: bool = _MACHINE.blocks
    table: bool = _MACHINE.table
    hold: bool = _MACHINE.hold
    skipping: bool = _MACHINE.skipping
    wide: bool = _MACHINE.wide
    counters: str = _MACHINE.counters
    control: str = _MACHINE.control

    def __post_init__(self) -> None:
        _check_range("bits", self.bits, MIN_BITS, MAX_BITS)
        for name in ("output_bits", "bias_bits"):
            if getattr(self, name) is not None:
                _check_range(name, getattr(self, name), MIN_BITS, MAX_BITS)
        for name, least, largest in (
            ("rows", 1, 256),
            ("columns", 1, 256),
            ("depth", 1, 1024),
            ("size_bits", 1, 32),
            ("max_terms", 2, _MAX_COUNT),
        ):
            _check_range(name, getattr(self, name), least, largest)
        check_rounding(self.rounding)
        check_multiplier(self.multiplier)
        check_target(self.target)

    @property
    def format(self) -> SFx:
        """The format of the words."""
        return SFx(self.bits, self.unity)

    @property
    def output_format(self) -> SFx:
        """The format of a drain's result."""
        return SFx(self.output_bits or self.bits, self.unity)

    @property
    def bias_format(self) -> SFx:
        """The format of a drain's bias."""
        return SFx(self.bias_bits or self.bits, self.unity)

    @property
    def resolved_multiplier(self) -> str:
        """The multiplier that ``auto`` stands for."""
        if self.multiplier != AUTO:
            return self.multiplier
        return table_entry(self.target, self.bits - 1)[AUTO]

    @property
    def machine(self) -> MachineConfig:
        """The machine's configuration; ValueError if a size is none of a machine's."""
        if self.rounding != "nearest":
            raise ValueError(f"rounding must be nearest in the machine, not {self.rounding}")
        sizes = {name: getattr(self, name) for name in MACHINE}
        return MachineConfig(**sizes | {"multiplier": self.resolved_multiplier})


@dataclass(frozen=True, slots=True)
class Top:
    """A unit that can be emitted.

    Parameters
    ----------
    description : str
        One line.
    options : tuple of str
        Fields of :class:`Options` that it takes.
    build : callable
        From options to a component, whose attribute ``latency`` (0 if absent) counts cycles.
    meanings : mapping of str to str
        What each port carries.
    """

    description: str
    options: tuple[str, ...]
    build: Callable[[Options], wiring.Component]
    meanings: Mapping[str, str] = field(default_factory=dict)


def build_top(name: str, options: Options) -> wiring.Component:
    """A top by name, not elaborated. ValueError if there is none of that name."""
    if name not in TOPS:
        raise ValueError(f"top must be one of {', '.join(TOPS)}, not {name!r}")
    return TOPS[name].build(options)


def _check_range(name: str, value: int, least: int, largest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not least <= value <= largest:
        raise ValueError(f"{name} must be {least} to {largest}, not {value!r}")


_WORD = ("bits", "unity")
_PRODUCT = (*_WORD, "multiplier", "target")
_FMA = (*_WORD, "rounding", "multiplier", "target")
_CONVERT = (*_WORD, "rounding")
_RESULT = "word, never minus zero"
_PAIR = {"a": "first word", "b": "second word"}

_STREAM = {"valid": "a payload is offered", "ready": "it is taken at this clock edge if offered"}


def _stream(name: str, payload: str) -> dict[str, str]:
    """The meanings of a stream's ports; the payload's fields from the lowest bit on."""
    return {f"{name}_payload": payload} | {f"{name}_{end}": text for end, text in _STREAM.items()}


TOPS: Final[Mapping[str, Top]] = {
    "multiplier": Top(
        "product of two magnitudes",
        ("bits", "multiplier", "target"),
        lambda o: make_multiplier(o.multiplier, o.bits - 1, o.target),
        {"a": "magnitude", "b": "magnitude", "product": "a * b, exact"},
    ),
    "product": Top(
        "exact product of two words in sign-magnitude form",
        _PRODUCT,
        lambda o: WordProduct(o.format, o.multiplier, o.target),
        {
            **_PAIR,
            "sign": "exclusive or of the words' signs",
            "magnitude": "M(a) * M(b) in units of 2**-2F",
        },
    ),
    "fma": Top(
        "fused multiply-add on words, rounded once, combinational",
        _FMA,
        lambda o: FusedMultiplyAdd(o.format, o.rounding, o.multiplier, o.target),
        {**_PAIR, "c": "word to add", "o": f"a * b + c rounded to a {_RESULT}"},
    ),
    "fma-stream": Top(
        "fused multiply-add in three pipeline stages with back pressure",
        _FMA,
        lambda o: FusedMultiplyAddStream(o.format, o.rounding, o.multiplier, o.target),
        {
            "i_payload": "words a (lowest bits), b and c (highest bits)",
            "i_valid": "a, b and c are offered",
            "i_ready": "a, b and c are taken at this clock edge if valid",
            "o_payload": f"a * b + c rounded to a {_RESULT}",
            "o_valid": "a result is offered",
            "o_ready": "the result is taken at this clock edge if valid",
        },
    ),
    "mac": Top(
        "exact multiply-accumulate of words",
        (*_PRODUCT, "max_terms"),
        lambda o: MultiplyAccumulate(o.format, o.max_terms, o.multiplier, o.target),
        {
            **_PAIR,
            "first": "the product starts a new sum",
            "valid": "0: a, b and first are ignored",
            "accumulator": "sum in units of 2**-2F, two's complement",
        },
    ),
    "drain": Top(
        "accumulator to word: shift, bias, activation, rounded once",
        (*_CONVERT, "max_terms", "output_bits", "bias_bits"),
        lambda o: Drain(o.format, o.max_terms, o.output_format, o.bias_format, o.rounding),
        {
            "accumulator": "sum in units of 2**-2F",
            "row_shift": "row's part of the shift; positive divides",
            "column_shift": "column's part of the shift; positive divides",
            "bias": "word in the output's scale",
            "select": "0 linear, 1 ReLU",
            "o": _RESULT,
        },
    ),
    "convert-binary32": Top(
        "IEEE 754 binary32 to word",
        _CONVERT,
        lambda o: Binary32ToSFx(o.format, o.rounding),
        {"i": "binary32 number; NaN gives zero, infinities saturate", "o": _RESULT},
    ),
    "convert-binary16": Top(
        "IEEE 754 binary16 to word",
        _CONVERT,
        lambda o: Binary16ToSFx(o.format, o.rounding),
        {"i": "binary16 number; NaN gives zero, infinities saturate", "o": _RESULT},
    ),
    "sfx-to-binary32": Top(
        "word to IEEE 754 binary32, exact",
        _WORD,
        lambda o: SFxToBinary32(o.format),
        {"i": "word", "o": "binary32 number, never minus zero"},
    ),
    "zero-detector": Top(
        "whether a word is zero",
        ("bits",),
        lambda o: ZeroDetector(o.format),
        {"word": "word", "zero": "the word is zero, plus or minus"},
    ),
    "unity-detector": Top(
        "whether a word is 1 or -1",
        _WORD,
        lambda o: UnityDetector(o.format),
        {"word": "word", "unity": "the word is 1 or -1; constant 0 without unity"},
    ),
    "operand-hold": Top(
        "operands of a multiplier, held while a product is zero",
        _WORD,
        lambda o: OperandHold(o.format),
        {
            **_PAIR,
            "valid": "0: a and b are ignored",
            "held_a": "first word of the last valid pair without a zero",
            "held_b": "second word of that pair",
            "a_unity": "held_a is 1 or -1; constant 0 without unity",
            "b_unity": "held_b is 1 or -1; constant 0 without unity",
            "held_valid": "valid, one cycle ago",
            "zero": "the pair of one cycle ago was valid and had a zero",
        },
    ),
    "shift-register": Top(
        "one shift register per row, all words visible",
        ("bits", "rows", "depth"),
        lambda o: ShiftRegister(o.rows, o.depth, o.bits),
        {
            "enable": "shift all lanes by a word",
            "i": "next word per lane, lane 0 lowest",
            "taps": "words per lane, lane 0 lowest, the newest word of a lane lowest",
        },
    ),
    "activation": Top(
        "linear or ReLU on a word",
        ("bits",),
        lambda o: ActivationUnit(o.format),
        {"i": "word", "select": "0 linear, 1 ReLU", "o": _RESULT},
    ),
    "cycle-count": Top(
        "cycles of a matrix product in the published array",
        ("size_bits",),
        lambda o: CycleCount(o.size_bits),
        {
            "rows": "R1, 0 for the largest size",
            "inner": "R2, 0 for the largest size",
            "columns": "R3, 0 for the largest size",
            "cycles": "R1 + R2 + R3 - 2",
        },
    ),
    "atreides": Top(
        "the machine: runs programs on a systolic array",
        (*MACHINE, "target"),
        lambda o: make_machine(o.machine, o.target),
        {
            **_stream("instructions", "word (16 bits), last of the program"),
            **_stream("host", "space (3), write, count - 1 (as columns - 1), address (32), data"),
            **_stream("results", "kind (2), count, last row, data: a lane per column"),
            **_stream("status", "fault (4), counter (32): one beat as a program ends"),
            "busy": "a program runs, or memory clears itself after reset",
        },
    ),
    "coprocessor": Top(
        "the machine behind RV32 custom instructions, for PicoRV32's coprocessor interface",
        (*MACHINE, "target"),
        lambda o: Coprocessor(o.machine, o.target),
        {
            "valid": "an instruction is offered, until ready",
            "instruction": "RV32 instruction",
            "rs1": "value of its first source register",
            "rs2": "value of its second source register",
            "ready": "the instruction is done",
            "write": "rd is the value for its destination register",
            "rd": "result",
            "claimed": "the instruction is one of these: ready will come (PicoRV32: wait)",
            "busy": "a program runs, or memory clears itself after reset",
        },
    ),
}
