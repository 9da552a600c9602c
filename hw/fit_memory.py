"""The memories of a machine, and what each becomes in an FPGA."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from amaranth.hdl import Elaboratable, Module, Shape
from amaranth.lib.memory import Memory

from hw.array import SystolicArray
from hw.board_top import CheckedMachine
from hw.edge import ArrayEdge
from sw.config import MachineConfig
from sw.link import BUILD_BYTES, DEFAULT_LIMIT, FLAG, Greeting

#: Depths by width of a block RAM, for a memory with a port to read and one to write: DP16KD with
#: PDPW16KD (Lattice FPGA-TN-02204), SB_RAM40_4K (Lattice FPGA-TN-02002).
SHAPES: Final[Mapping[str, Mapping[int, int]]] = {
    "ecp5": {36: 512, 18: 1024, 9: 2048, 4: 4096, 2: 8192, 1: 16384},
    "ice40": {16: 256, 8: 512, 4: 1024, 2: 2048},
}
#: How Yosys chooses (``tests/test_fit.py`` asks it): the costs of a block RAM, and of a LUT RAM of
#: 16 words of 4 bits; a bit of a multiplexer behind it costs a half.
_BLOCK_COST: Final = 136
_LUT_RAM_COST: Final = 4
_LUT_RAM_WORDS, _LUT_RAM_BITS = 16, 4
#: Bits up to which iCE40, which has no LUT RAM, keeps a memory in registers.
_REGISTER_BITS: Final = 64
#: Bytes of a self-test.
TEST_BYTES: Final = 400

Size = tuple[int, int]


def block_rams(target: str, width: int, depth: int) -> int:
    """Block RAMs of a memory; 0 if it becomes something else.

    Parameters
    ----------
    target : {"ecp5", "ice40"}
    width : int
        Bits of a word.
    depth : int
        Words.
    """
    if target == "ice40" and width * depth <= _REGISTER_BITS:
        return 0
    if target == "ecp5":
        deep = -(-depth // _LUT_RAM_WORDS)
        joined = (deep - 1) * width / 2
        if _LUT_RAM_COST * ram_luts(width, depth) // 4 + joined <= _BLOCK_COST:
            return 0
    return min(-(-width // w) * -(-depth // d) for w, d in SHAPES[target].items())


def ram_luts(width: int, depth: int) -> int:
    """Look-up tables that hold a memory as LUT RAM of ECP5: four per 16 words of 4 bits."""
    return 4 * -(-width // _LUT_RAM_BITS) * -(-depth // _LUT_RAM_WORDS)


def memory_luts(target: str, found: Mapping[Size, int]) -> int:
    """Look-up tables of all memories that are LUT RAM, and of what selects among its parts."""
    if target != "ecp5":
        return 0
    return sum(
        number * (ram_luts(width, depth) + width * (-(-depth // _LUT_RAM_WORDS) - 1))
        for (width, depth), number in found.items()
        if not block_rams(target, width, depth)
    )


def tile_banks(config: MachineConfig) -> tuple[Size, int]:
    """Width and depth of a bank of the tile memory's words, and how many banks there are."""
    word = config.bits + 1 + config.unity  # with a flag for zero, and one for unity
    return (word, max(2, config.memory_words // config.vector)), 2 * config.vector


@lru_cache(maxsize=256)
def memories(config: MachineConfig) -> Counter[Size]:
    """How many memories of each width and depth a board's machine has."""
    greeting = Greeting(config, 25_000_000, DEFAULT_LIMIT, "00" * BUILD_BYTES)
    test = bytes([FLAG, *(TEST_BYTES * [0]), FLAG])
    found: Counter[Size] = Counter()
    _collect(CheckedMachine(greeting, 217, [test], [test]), found)
    return found


def _collect(unit: Elaboratable, found: Counter[Size]) -> None:
    """Count memories by elaborating what holds them, without the cost of a whole netlist."""
    unit._MustUse__used = True  # type: ignore[attr-defined]  # what is left out is no mistake
    while hasattr(unit, "_elaboratable_"):  # in a reset or in another clock domain
        unit = unit._elaboratable_
        unit._MustUse__used = True  # type: ignore[attr-defined]
    if isinstance(unit, Memory):
        found[Shape.cast(unit.shape).width, unit.depth] += 1
    elif not isinstance(unit, SystolicArray | ArrayEdge):  # large, and without memories
        made = unit if isinstance(unit, Module) else unit.elaborate(None)  # type: ignore[attr-defined]
        if isinstance(made, Module):
            made._MustUse__used = True  # type: ignore[attr-defined]
            parts = [*made._anon_submodules, *made._named_submodules.values()]  # type: ignore
            for part, _ in parts:
                _collect(part, found)
