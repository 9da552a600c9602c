"""What yosys is told of a memory, and which memories a target has."""

from __future__ import annotations

from typing import Final

#: Nobody uses what a read finds in the cycle of a write to its address: block RAM without logic
#: around it that would make that the old word. ``hw.board_tools`` acts on it.
NO_COLLISIONS: Final[dict[str, object]] = {"no_rw_check": 1}
#: Wanted in block RAM, however small: on iCE40 the alternative is a register per bit.
BLOCK: Final[dict[str, object]] = {"ram_style": "block"}
#: Nobody reads a word that was not written before: memory that cannot be given contents at
#: power-up serves too, such as UP5K's SB_SPRAM256KA.
UNINITIALISED: Final = {"no_init": 1} | NO_COLLISIONS
#: Words from which LUT RAM is deep: its parts' multiplexer and the decoder of their write enables
#: take longer than all that the block RAM, which has both inside, is late by.
_DEEP: Final = 33
#: Targets that have no memory whose reads take no cycle.
CLOCKED_READS: Final = ("ice40",)
#: The passes of yosys that do, after the design is read.
PASSES: Final = (
    "proc",
    "memory_collect",
    "setparam -set RD_COLLISION_X_MASK 1'1 t:$mem_v2 a:no_rw_check %i",
    "setparam -set INIT 1'x t:$mem_v2 a:no_init %i",
)
#: And those besides for a device with SB_SPRAM256KA, which are there for nothing else.
LARGE_PASSES: Final = ('setattr -set ram_style "huge" t:$mem_v2 a:no_init %i',)


def bank_attributes(depth: int) -> dict[str, object]:
    """What yosys is told of a bank of so many words, many of which are read and written at once."""
    return NO_COLLISIONS | (BLOCK if depth >= _DEEP else {})
