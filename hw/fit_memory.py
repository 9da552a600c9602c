"""The memories of a machine, and what each becomes in an FPGA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hw.board_tools import TABLES
from hw.fit_census import Census, Size
from sw.config import MachineConfig

#: Depths by width of a block RAM, for a memory with a port to read and one to write: DP16KD with
#: PDPW16KD (Lattice FPGA-TN-02204), SB_RAM40_4K (Lattice FPGA-TN-02002), SDPB and SDPX9B (Gowin
#: UG285).
_18K: Final = {36: 512, 18: 1024, 9: 2048, 4: 4096, 2: 8192, 1: 16384}
SHAPES: Final[Mapping[str, Mapping[int, int]]] = {
    "ecp5": _18K,
    "ice40": {16: 256, 8: 512, 4: 1024, 2: 2048},
    "gowin": _18K,
}
#: How Yosys chooses (``tests/test_fit.py`` asks it): the cost of a block RAM; that of LUT RAM of 16
#: words is one per bit of width, on ECP5 rounded up to the four of a primitive; a bit of a
#: multiplexer behind it costs a half. What is only read becomes logic, at 16 bits for one, unless
#: that is more than a block RAM.
_BLOCK_COST: Final = 136
_ROM_COST: Final = {"ecp5": 132, "ice40": 66, "gowin": 132}
_ROM_BITS: Final = 16
_LUT_RAM_WORDS, _LUT_RAM_BITS = 16, 4
#: The primitive of LUT RAM, by family.
_LUT_RAM: Final = {"ecp5": "TRELLIS_DPR16X4", "gowin": "RAM16SDP4"}
#: Bits up to which iCE40, which has no LUT RAM, keeps a memory in registers.
_REGISTER_BITS: Final = 64


def block_rams(target: str, width: int, depth: int) -> int:
    """Block RAMs of a memory; 0 if it becomes something else.

    Parameters
    ----------
    target : {"ecp5", "ice40", "gowin"}
    width : int
        Bits of a word.
    depth : int
        Words.
    """
    if target == "ice40":
        if width * depth <= _REGISTER_BITS:
            return 0
    elif _lut_ram_cost(target, width, depth) <= _BLOCK_COST:
        return 0
    return min(-(-width // w) * -(-depth // d) for w, d in SHAPES[target].items())


def rom_blocks(family: str, width: int, depth: int) -> int:
    """Block RAMs of a memory that is only read; 0 if it becomes look-up tables."""
    number = min(-(-width // w) * -(-depth // d) for w, d in SHAPES[family].items())
    return 0 if width * depth <= number * _ROM_COST[family] * _ROM_BITS else number


def blocks(family: str, found: Census) -> int:
    """Block RAMs of all memories."""
    written = sum(n * block_rams(family, *size) for size, n in found.memories.items())
    return written + sum(n * rom_blocks(family, *size) for size, n in found.roms.items())


def port_bits(family: str, found: Census) -> int:
    """Bits of data and address of all memories that are written and are block RAM.

    A read in the cycle of a write to the same word gives the old one; where block RAM does not
    promise that, Yosys holds the write back and looks for it, at a cost per bit.
    """
    return sum(
        number * (width + (depth - 1).bit_length())
        for (width, depth), number in found.memories.items()
        if block_rams(family, width, depth)
    )


def _lut_ram_cost(target: str, width: int, depth: int) -> float:
    """What Yosys takes LUT RAM to cost, with what selects among its parts."""
    deep = -(-depth // _LUT_RAM_WORDS)
    wide = -(-width // _LUT_RAM_BITS) * _LUT_RAM_BITS if target == "ecp5" else width
    return deep * wide + (deep - 1) * width / 2


def lut_rams(width: int, depth: int) -> int:
    """Primitives of LUT RAM that hold a memory: each has 16 words of 4 bits."""
    return -(-width // _LUT_RAM_BITS) * -(-depth // _LUT_RAM_WORDS)


def memory_luts(family: str, found: Census) -> float:
    """Look-up tables of all memories that are no block RAM, and of what selects among their parts.

    On iCE40 those of a memory in registers are logic like any other: a choice between two bits per
    bit and more.
    """
    roms = sum(
        number * width * depth / _ROM_BITS
        for (width, depth), number in found.roms.items()
        if not rom_blocks(family, width, depth)
    )
    if family not in _LUT_RAM:
        return roms + sum(
            number * width * depth for (width, depth), number in _others(family, found)
        )
    each = TABLES[family][_LUT_RAM[family]]
    return roms + sum(
        number * (each * lut_rams(width, depth) + width * (-(-depth // _LUT_RAM_WORDS) - 1))
        for (width, depth), number in _others(family, found)
    )


def memory_registers(family: str, found: Census) -> int:
    """Registers of memories: behind LUT RAM, which reads at once, or instead of block RAM."""
    deep = family == "ice40"  # it has no LUT RAM: every word is in registers
    return sum(
        number * width * (depth + 1 if deep else 1)
        for (width, depth), number in _others(family, found)
    )


def _others(family: str, found: Census) -> list[tuple[Size, int]]:
    """The memories that are written and are no block RAM."""
    return [(size, n) for size, n in found.memories.items() if not block_rams(family, *size)]


def tile_banks(config: MachineConfig) -> tuple[Size, int]:
    """Width and depth of a bank of the tile memory's words, and how many banks there are."""
    word = config.bits + 1 + config.unity  # with a flag for zero, and one for unity
    return (word, max(2, config.memory_words // config.vector)), 2 * config.vector
