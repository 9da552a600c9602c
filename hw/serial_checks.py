"""Microcode: what GEMM and ADD check before they take effect."""

from __future__ import annotations

from typing import Final

CHECKS: Final = """
var dest function flags b_mode terms m_rows lanes extent a_end b_end o_end check_return
add_tiles:
        ld word | and #ADD_UNDEFINED | jnz encoding
        ld #IDENTITY | jmp product
gemm:   ld word | and #GEMM_UNDEFINED | jnz encoding
        ld B_MODE
product:
        st b_mode
        sub #3 | jz encoding
        ld word | and #FLAGS | st flags
        ld word | shr 4 | and #15 | st function
        sub #TABLE_FUNCTION | jc encoding
        ld word | shr 8 | and #15 | st dest
        sub #EXACT | jc exact
        jmp defined
exact:  jnz encoding
        ld function | jnz encoding
defined:
        ld #UNITY | jnz sizes
        ld b_mode | sub #IDENTITY | jnz sizes
        ld B_K0 | and #15 | jz encoding
        ld K1 | sub #1 | jz sizes
        jnc sizes ; K1 = 0 is a size
        ld B_K1 | and #15 | jz encoding

sizes:  ld #0 | st overflow | st p
counts: ld p | out POINTER | ld * | jz size
        ld p | add #1 | st p | sub #COUNTS | jnz counts
        ld #COLUMNS | sub NL | jnc size
        ld K0 | st factor
        ld K1 | st times | call multiply
        ld product | st factor
        ld K2 | st times | call multiply
        ld product | st terms
        ld #COLUMNS | st factor
        ld NT | sub #1 | st times | call multiply
        ld product | add NL | jc size
        ld MX | st factor
        ld MY | st times | call multiply
        ld product | st m_rows
        ld overflow | jnz size
        ld #MOST_TERMS | sub terms | jnc size

; lanes of a tile that an extent has
        ld #COLUMNS | st lanes
        ld NT | sub #1 | jnz extent_of_a
        ld flags | and #SKIP | jnz extent_of_a
        ld NL | st lanes

extent_of_a:
        ld A_BASE | st extent
        ld A_K1 | st factor | ld K1 | st times | call span
        ld A_K2 | st factor | ld K2 | st times | call span
        ld A_N | st factor | ld NT | st times | call span
        ld A_G | st factor | ld G | st times | call span
        ld A_MODE | jnz a_in_slices
        ld A_X | st factor | ld MX | st times | call span
        ld A_Y | st factor | ld MY | st times | call span
        ld #1 | st factor | ld K0 | st times | call span
        jmp a_found
a_in_slices:
        ld #1 | st factor | ld m_rows | st times | call span
        ld A_K0 | st factor | ld K0 | st times | call span
a_found:
        call in_memory
        st a_end

        ld b_mode | sub #IDENTITY | jz extent_of_o
        ld B_BASE | st extent
        ld B_K1 | st factor | ld K1 | st times | call span
        ld B_K2 | st factor | ld K2 | st times | call span
        ld B_N | st factor | ld NT | st times | call span
        ld B_G | st factor | ld G | st times | call span
        ld b_mode | jnz b_in_lanes
        ld #1 | st factor | ld lanes | st times | call span
        ld B_K0 | st factor | ld K0 | st times | call span
        jmp b_found
b_in_lanes:
        ld B_X | st factor | ld lanes | st times | call span
        ld #1 | st factor | ld K0 | st times | call span
b_found:
        call in_memory
        st b_end

extent_of_o:
        ld dest | jnz checked
        ld O_BASE | st extent
        ld O_X | st factor | ld MX | st times | call span
        ld O_Y | st factor | ld MY | st times | call span
        ld O_N | st factor | ld NT | st times | call span
        ld O_G | st factor | ld G | st times | call span
        ld #1 | st factor | ld lanes | st times | call span
        call in_memory
        st o_end

; two extents meet unless one ends before the other begins
        ld a_end | sub O_BASE | jnc a_apart
        ld o_end | sub A_BASE | jc overlap
a_apart:
        ld b_mode | sub #IDENTITY | jz checked
        ld b_end | sub O_BASE | jnc checked
        ld o_end | sub B_BASE | jc overlap
        jmp checked

; extent += factor * (times - 1)
span:   st check_return
        ld times | sub #1 | st times | call multiply
        ld extent | add product | st extent | jnc spanned
        ld #1 | st overflow
spanned:
        ret check_return

; the extent, in A too
in_memory:
        st check_return
        ld overflow | jnz range
        ld #LAST_WORD | sub extent | jnc range
        ld extent | ret check_return
"""
