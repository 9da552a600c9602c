"""What yosys is told of a memory, and which memories a target has."""

from __future__ import annotations

from typing import Final

#: Nobody uses what a read finds in the cycle of a write to its address: block RAM without logic
#: around it that would make that the old word. ``hw.board_tools`` acts on it.
NO_COLLISIONS: Final = {"no_rw_check": 1}
#: Wanted in block RAM, however small: on iCE40 the alternative is a register per bit.
BLOCK: Final = {"ram_style": "block"}
#: Nobody reads a word that was not written before: memory that cannot be given contents at
#: power-up serves too, such as UP5K's SB_SPRAM256KA.
UNINITIALISED: Final = {"no_init": 1} | NO_COLLISIONS
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
