"""The sizes of one machine: what hardware, assembler and models derive theirs from."""

from __future__ import annotations

from dataclasses import dataclass

from sw.format import MAX_TERMS, SFx
from sw.scale import MAX_SPREAD

#: Rows and columns that an array can have.
MAX_SIDE = 32
#: Bits of a count register; a matrix has at most ``2**16 - 1`` rows, columns or terms.
COUNT_BITS = 16
#: Which performance counters a machine has.
COUNTERS = ("all", "cycles", "none")
#: The multipliers of our own by name; ``auto`` stands for a measured table's choice among them.
MULTIPLIERS = ("array", "dadda", "chain")
#: ``a * b`` as it is, for tools that know better.
OPERATOR = "operator"
AUTO = "auto"
#: A multiplier block of an FPGA, in an array shared by as many cells as it holds products of.
DSP = "dsp"
MULTIPLIER_NAMES = (*MULTIPLIERS, OPERATOR, DSP, AUTO)
#: How a machine is controlled: by units that work side by side, or by microcode.
CONTROLS = ("parallel", "serial")
#: Words of a serial machine's parameters, and of its activation buffer.
_SERIAL_PARAMETERS = 3072
_SERIAL_SLOT = 256
_SERIAL_BITS = 8
_SERIAL_COUNTERS = ("cycles", "none")


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """One configuration of the machine. It rounds to nearest, as the base instructions do.

    Parameters
    ----------
    bits, unity
        The format of the words.
    rows, columns : int
        Of the array, 1 to 32.
    slots : int
        Tile slots of ``rows * columns`` words in the tile memory, 1 to 65536.
    max_terms : int
        K_max, the longest dot product.
    bias_bits, output_bits : int, optional
        Widths of the bias and of words that leave on the result stream; ``bits`` if omitted.
    parameters : int
        Column parameter entries per column, a power of two.
    row_parameters : int
        Row parameter entries, a power of two.
    blocks : bool
        Whether the machine can align block sums (a scale per 32 terms along K).
    table : bool
        Whether the machine has the piecewise-linear activation.
    max_spread : int
        R, in bits: how far the scales of blocks may lie apart.
    hold : bool
        Whether a lane of the array keeps its operand where the next one is zero: exact, and more
        power on seven of eight layers measured (docs/netlists.md).
    skipping : bool
        Whether the machine keeps zero flags, so that slices of zeros can cost no cycle.
    wide : bool
        Whether a vector is twice the array's longer side, so that ragged runs read in lanes keep
        the array busy; else it is once that.
    counters : {"all", "cycles", "none"}
        The performance counters: all, CYCLES alone, or none. Others read 0.
    multiplier : str
        Of magnitudes, one of :data:`MULTIPLIER_NAMES`.
    control : {"parallel", "serial"}
        Serial is much smaller and slower: one processor with microcode does what the other has
        units for. It has words of at most 8 bits, no blocks, table, hold, skipping, wide vectors,
        counters but CYCLES or output of another width, and at most 65536 words of tile memory.

    Raises
    ------
    TypeError, ValueError
        For a size of the wrong kind or out of range.
    """

    bits: int = 16
    unity: bool = True
    rows: int = 8
    columns: int = 8
    slots: int = 16
    max_terms: int = MAX_TERMS
    bias_bits: int | None = None
    output_bits: int | None = None
    parameters: int = 256
    row_parameters: int = 1024
    blocks: bool = False
    table: bool = False
    max_spread: int = MAX_SPREAD
    hold: bool = False
    skipping: bool = True
    wide: bool = True
    counters: str = "all"
    multiplier: str = AUTO
    control: str = "parallel"

    def __post_init__(self) -> None:
        for name, low, high in (
            ("rows", 1, MAX_SIDE),
            ("columns", 1, MAX_SIDE),
            ("slots", 1, 1 << COUNT_BITS),
            ("max_terms", 2, (1 << COUNT_BITS)),
            ("parameters", 1, 1 << COUNT_BITS),
            ("row_parameters", 1, 1 << COUNT_BITS),
            ("max_spread", 0, MAX_SPREAD),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if not low <= value <= high:
                raise ValueError(f"{name} must be {low} to {high}, not {value!r}")
        for name in ("parameters", "row_parameters"):
            if getattr(self, name).bit_count() != 1:
                raise ValueError(f"{name} must be a power of two, not {getattr(self, name)!r}")
        for name in ("unity", "blocks", "table", "hold", "skipping", "wide"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, not {getattr(self, name)!r}")
        if self.counters not in COUNTERS:
            raise ValueError(f"counters must be {_either(COUNTERS)}, not {self.counters!r}")
        if self.multiplier not in MULTIPLIER_NAMES:
            names = ", ".join(MULTIPLIER_NAMES)
            raise ValueError(f"multiplier must be one of {names}, not {self.multiplier!r}")
        # A base MATMUL sums up to this many terms without being asked about its size.
        if self.max_terms < min(self.rows, self.columns):
            raise ValueError(
                f"max_terms must be at least {min(self.rows, self.columns)} on a {self.rows} x "
                f"{self.columns} array, not {self.max_terms!r}"
            )
        if not self.wide and self.memory_words <= self.vector:
            least = self.vector // self.slot_words + 1
            raise ValueError(
                f"slots must be at least {least} where wide is False, not {self.slots!r}"
            )
        _ = self.format, self.bias_format, self.output  # each checks its width
        if self.control not in CONTROLS:
            raise ValueError(f"control must be {_either(CONTROLS)}, not {self.control!r}")
        if self.control == "serial":
            self._check_serial()

    def _check_serial(self) -> None:
        """What microcode does not do is refused."""
        for name, only in (
            *(("blocks", False), ("table", False), ("hold", False)),
            *(("skipping", False), ("wide", False)),
        ):
            if getattr(self, name) != only:
                raise ValueError(
                    f"{name} must be {only} where control is serial, not {getattr(self, name)!r}"
                )
        if self.counters not in _SERIAL_COUNTERS:
            raise ValueError(
                f"counters must be {_either(_SERIAL_COUNTERS)} where control is serial, "
                f"not {self.counters!r}"
            )
        for name, value, most in (
            ("bits", self.bits, _SERIAL_BITS),
            ("tile memory", self.memory_words, 1 << COUNT_BITS),
            ("rows * columns", self.slot_words, _SERIAL_SLOT),
        ):
            if value > most:
                raise ValueError(
                    f"{name} must be at most {most} where control is serial, not {value!r}"
                )
        per_entry = (1 + self.wide_bias) * self.columns
        words = self.parameters * per_entry + self.row_parameters
        if words > _SERIAL_PARAMETERS:
            each = "2 * " if self.wide_bias else ""
            most = (_SERIAL_PARAMETERS - self.row_parameters) // per_entry
            nearest = f": parameters of {1 << most.bit_length() - 1} fit" if most > 0 else ""
            raise ValueError(
                f"{each}parameters * columns + row_parameters must be at most "
                f"{_SERIAL_PARAMETERS} where control is serial, not {words!r}{nearest}"
            )
        if self.output.bits != self.bits:
            raise ValueError(
                f"output_bits must be {self.bits} where control is serial, not {self.output.bits!r}"
            )

    @property
    def format(self) -> SFx:
        """Of the words in tile memory."""
        return SFx(self.bits, self.unity)

    @property
    def bias_format(self) -> SFx:
        """Of the biases."""
        return SFx(self.bits if self.bias_bits is None else self.bias_bits, self.unity)

    @property
    def wide_bias(self) -> bool:
        """Whether a serial machine keeps a bias apart from its column's shift."""
        return self.bias_format.bits > _SERIAL_BITS

    @property
    def output(self) -> SFx:
        """Of the words that leave on the result stream."""
        return SFx(self.bits if self.output_bits is None else self.output_bits, self.unity)

    @property
    def slot_words(self) -> int:
        """Words of a tile slot."""
        return self.rows * self.columns

    @property
    def vector(self) -> int:
        """V: words that the tile memory reads or writes in one cycle, a power of two."""
        return max(2, self.side << self.wide)

    @property
    def side(self) -> int:
        """The array's longer side, rounded up to a power of two."""
        return 1 << (max(self.rows, self.columns) - 1).bit_length()

    @property
    def memory_words(self) -> int:
        """Words of the tile memory: its slots, rounded up to whole vectors."""
        return -(-self.slots * self.slot_words // self.vector) * self.vector

    @property
    def address_bits(self) -> int:
        """Bits of a word address."""
        return max(1, (self.memory_words - 1).bit_length())

    @property
    def accumulator_bits(self) -> int:
        """Bits of a cell's accumulator."""
        return self.format.accumulator_bits(self.max_terms)

    @property
    def aligned_bits(self) -> int:
        """Bits of an accumulator behind the block aligner."""
        return self.accumulator_bits + (2 * self.max_spread if self.blocks else 0)

    @property
    def result_bits(self) -> int:
        """Bits of one lane of the result stream."""
        return max(self.aligned_bits, self.output.bits)

    @property
    def skips(self) -> bool:
        """Whether the tile memory keeps zero flags of segments: columns is a power of two."""
        return self.skipping and self.columns.bit_count() == 1


def _either(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
