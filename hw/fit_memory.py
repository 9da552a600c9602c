"""The memories of a machine, and what each becomes in an FPGA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hw.fit_census import Census, Kept
from hw.fit_placer import LUT_RAM
from hw.memory_attributes import BLOCK, bank_attributes
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
#: How Yosys chooses (``tests/test_fit.py`` asks it): the cost of a block RAM, and more where a read
#: in the cycle of a write gives something definite; that of LUT RAM of 16 words is one per bit of
#: width, on ECP5 rounded up to the four of a primitive; a bit of a multiplexer behind it costs a
#: half. What is only read becomes logic, at 16 bits for one, unless that is more than a block RAM.
_BLOCK_COST, _CHECK_COST = 128, 8
_ROM_COST: Final = {"ecp5": 132, "ice40": 66, "gowin": 132}
_ROM_BITS: Final = 16
_LUT_RAM_WORDS, _LUT_RAM_BITS = 16, 4
#: Registers whose place one takes.
LUT_RAM_REGISTERS: Final = {"gowin": 6}
#: Bits up to which iCE40, which has no LUT RAM, keeps a memory in registers.
_REGISTER_BITS: Final = 64
#: Bits from which a product is one of multiplier blocks, and bits of a block's operands.
_PRODUCT_BITS, _BLOCK_BITS = 4, 18


def block_rams(target: str, memory: Kept) -> int:
    """Block RAMs of a memory; 0 if it becomes something else.

    Parameters
    ----------
    target : {"ecp5", "ice40", "gowin"}
    memory : Kept
    """
    width, depth = memory.width, memory.depth
    number = min(-(-width // w) * -(-depth // d) for w, d in SHAPES[target].items())
    if not memory.clocked:
        return 0
    if memory.wanted:
        return number
    if not memory.written:
        return 0 if width * depth <= number * _ROM_COST[target] * _ROM_BITS else number
    if target == "ice40":
        return number if width * depth > _REGISTER_BITS else 0
    cost = number * (_BLOCK_COST + _CHECK_COST * memory.checked)
    return number if _lut_ram_cost(target, width, depth) > cost else 0


def blocks(family: str, found: Census, sprams: int = 0) -> int:
    """Block RAMs of all memories.

    Parameters
    ----------
    family : {"ecp5", "ice40", "gowin"}
    found : Census
    sprams : int
        Memories of one port and 16384 words of 16 bits that the device has besides: they take the
        large memories, if they can take all.
    """
    aside = _sprams(found) <= sprams
    return sum(
        number * block_rams(family, memory)
        for memory, number in found.memories.items()
        if not (memory.large and aside)
    )


def _sprams(found: Census) -> int:
    """Memories of 16384 words of 16 bits (Lattice FPGA-TN-02022) that the large ones take."""
    return sum(
        number * -(-memory.width // 16) * -(-memory.depth // 16384)
        for memory, number in found.memories.items()
        if memory.large
    )


def port_bits(family: str, found: Census) -> int:
    """Bits of data and address of all memories in block RAM whose reads and writes may collide.

    A read in the cycle of a write to the same word gives the old one, or the new one; block RAM
    promises neither, so Yosys holds the write back and looks for it, at a cost per bit.
    """
    return sum(
        number * (memory.width + (memory.depth - 1).bit_length())
        for memory, number in found.memories.items()
        if memory.checked and memory.written and block_rams(family, memory)
    )


def kept_bits(family: str, found: Census) -> int:
    """Bits of memories in registers, one per bit: on iCE40, which has no LUT RAM."""
    if family in LUT_RAM:
        return 0
    return sum(n * memory.width * memory.depth for memory, n in _others(family, found))


def _lut_ram_cost(target: str, width: int, depth: int) -> float:
    """What Yosys takes LUT RAM to cost, with what selects among its parts."""
    deep = -(-depth // _LUT_RAM_WORDS)
    wide = -(-width // _LUT_RAM_BITS) * _LUT_RAM_BITS if target == "ecp5" else width
    return deep * wide + (deep - 1) * width / 2


def lut_rams(width: int, depth: int) -> int:
    """Primitives of LUT RAM that hold a memory: each has 16 words of 4 bits."""
    return -(-width // _LUT_RAM_BITS) * -(-depth // _LUT_RAM_WORDS)


def memory_luts(family: str, found: Census) -> float:
    """Look-up tables of all memories in LUT RAM or logic, and of what selects among their parts.

    Memories in registers are left to a cost per bit (``kept_bits``).
    """
    roms = sum(
        number * memory.width * memory.depth / _ROM_BITS
        for memory, number in found.memories.items()
        if not memory.written and not block_rams(family, memory)
    )
    if family not in LUT_RAM:
        return roms
    each = LUT_RAM[family][1]
    return roms + sum(
        number * (each * lut_rams(m.width, m.depth) + m.width * (-(-m.depth // _LUT_RAM_WORDS) - 1))
        for m, number in _others(family, found)
    )


def memory_registers(family: str, found: Census) -> int:
    """Registers of memories: behind LUT RAM, which reads at once, or instead of block RAM."""
    others = _others(family, found)
    behind = sum(n * m.width for m, n in others if m.clocked)
    each = LUT_RAM_REGISTERS.get(family, 0)
    places = each * sum(n * lut_rams(m.width, m.depth) for m, n in others) if each else 0
    return behind + places + kept_bits(family, found)


def _others(family: str, found: Census) -> list[tuple[Kept, int]]:
    """The memories that are written and are no block RAM."""
    return [
        (memory, number)
        for memory, number in found.memories.items()
        if memory.written and not block_rams(family, memory)
    ]


def multipliers(family: str, found: Census) -> int:
    """Multiplier blocks that Yosys takes for a machine's own products, those of cells apart."""
    return sum(n * blocks_of_product(family, *size) for size, n in found.products.items())


def blocks_of_product(family: str, a: int, b: int) -> int:
    """Multiplier blocks of a product of two values of so many bits.

    On Gowin alone, for elsewhere Yosys is told to take none (``hw.board_tools``): from 4 bits on,
    as its ``synth_gowin`` has it, and one per 18 bits of each.
    """
    if family != "gowin" or min(a, b) < _PRODUCT_BITS:
        return 0
    return -(-a // _BLOCK_BITS) * -(-b // _BLOCK_BITS)


def product_bits(family: str, found: Census) -> int:
    """Bits of sums that products in logic come to."""
    return sum(
        n * a * b for (a, b), n in found.products.items() if not blocks_of_product(family, a, b)
    )


def tile_banks(config: MachineConfig) -> tuple[Kept, int]:
    """A bank of the tile memory's words, and how many banks there are."""
    word = config.bits + 1 + config.unity  # with a flag for zero, and one for unity
    depth = max(2, config.memory_words // config.vector)
    wanted = BLOCK.items() <= bank_attributes(depth).items()
    return Kept(word, depth, wanted=wanted), 2 * config.vector
